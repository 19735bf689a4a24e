package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

const (
	asyncapiFile = "asyncapi.yaml"
	asyncapiURL  = "file:///" + asyncapiFile
)

// document reads the AsyncAPI document as JSON would be read.
func document(t *testing.T) any {
	t.Helper()
	data, err := os.ReadFile(asyncapiFile)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	return parse(t, data)
}

// messages are those of the document, by name.
func messages(t *testing.T, doc any) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	named, _ := at(t, doc, "components", "messages").(map[string]any)
	for name, m := range named {
		all[name], _ = m.(map[string]any)
	}
	return all
}

// part compiles the schema of a message's headers or payload; nil means that it has none.
func part(t *testing.T, doc any, message, which string) *jsonschema.Schema {
	t.Helper()
	pointer := "/components/messages/" + message + "/" + which
	m := messages(t, doc)[message]
	if m == nil {
		t.Fatalf("no message %s", message)
	}
	value, ok := m[which].(map[string]any)
	if !ok {
		return nil
	}
	if format, ok := value["schemaFormat"]; ok {
		if format != "application/schema+json;version=draft-2020-12" {
			t.Errorf("%s has the format %v", pointer, format)
		}
		pointer += "/schema"
	}
	c := compiler(t)
	// AsyncAPI's own schemas are of this draft, and a little more.
	c.DefaultDraft(jsonschema.Draft7)
	if err := c.AddResource(asyncapiURL, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(asyncapiURL + "#" + pointer)
	if err != nil {
		t.Fatalf("%s: %v", pointer, err)
	}
	return s
}

// references calls f for each $ref in the document.
func references(v any, f func(ref string)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			references(e, f)
		}
	case map[string]any:
		for name, e := range v {
			if ref, ok := e.(string); ok && name == "$ref" {
				f(ref)
			}
			references(e, f)
		}
	}
}

// TestReferences checks that each reference leads somewhere, and that nothing is left over.
func TestReferences(t *testing.T) {
	t.Parallel()
	doc := document(t)
	used := map[string]bool{}
	references(doc, func(ref string) {
		used[ref] = true
		if pointer, ok := strings.CutPrefix(ref, "#/"); ok {
			at(t, doc, strings.Split(pointer, "/")...)
		} else if _, err := os.Stat(ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	})
	unused := func(path ...string) {
		things, _ := at(t, doc, path...).(map[string]any)
		if len(things) == 0 {
			t.Errorf("no %s", strings.Join(path, "/"))
		}
		for name := range things {
			if ref := "#/" + strings.Join(path, "/") + "/" + name; !used[ref] {
				t.Errorf("%s is not used", ref)
			}
		}
	}
	unused("channels")
	unused("components", "messages")
	unused("components", "parameters")
	unused("components", "schemas")
	channels, _ := at(t, doc, "channels").(map[string]any)
	for name, channel := range channels {
		unused("channels", name, "messages")
		address, _ := at(t, channel, "address").(string)
		parameters, _ := channel.(map[string]any)["parameters"].(map[string]any)
		for parameter := range parameters {
			if !strings.Contains(address, "{"+parameter+"}") {
				t.Errorf("the address of %s has no %s", name, parameter)
			}
		}
		if strings.Count(address, "{") != len(parameters) {
			t.Errorf("%s: not every parameter of %s is described", name, address)
		}
	}
	for _, name := range schemas() {
		if !used["./"+name] {
			t.Errorf("%s is not used", name)
		}
	}
}

// TestMessageExamples checks each example, and that decoder or record read the same in it.
func TestMessageExamples(t *testing.T) {
	t.Parallel()
	doc := document(t)
	for name, m := range messages(t, doc) {
		payload, headers := part(t, doc, name, "payload"), part(t, doc, name, "headers")
		if payload == nil {
			t.Errorf("%s has no payload", name)
			continue
		}
		examples, _ := m["examples"].([]any)
		if len(examples) == 0 {
			t.Errorf("%s has no examples", name)
		}
		for i, e := range examples {
			example, _ := e.(map[string]any)
			if err := payload.Validate(example["payload"]); err != nil {
				t.Errorf("%s, example %d: %v", name, i, err)
			}
			if given, ok := example["headers"]; ok || headers != nil {
				if err := headers.Validate(given); err != nil {
					t.Errorf("%s, example %d: %v", name, i, err)
				}
			}
			data, err := json.Marshal(example["payload"])
			if err != nil {
				t.Fatal(err)
			}
			switch name {
			case "request", "binaryEvent", "structuredEvent":
				r, err := request.Decode(request.Source{Data: data, Header: header(example)})
				if err != nil || !r.IDGiven {
					t.Errorf("%s, example %d: %+v, %v", name, i, r, err)
				}
				continue
			case "change", "record":
				err = sameAsWritten[record.Record](data)
			case "outcomeChange", "outcome":
				err = sameAsWritten[outcome.Document](data)
			}
			if err != nil {
				t.Errorf("%s, example %d: %v", name, i, err)
			}
		}
	}
}

func header(example map[string]any) map[string][]string {
	h := map[string][]string{}
	given, _ := example["headers"].(map[string]any)
	for name, value := range given {
		h[name] = []string{fmt.Sprint(value)}
	}
	return h
}

// TestLetterHeaders checks that the document names each header of a dead letter, and each reason.
func TestLetterHeaders(t *testing.T) {
	t.Parallel()
	schema := at(t, document(t), "components", "schemas", "deadLetterHeaders")
	properties, _ := at(t, schema, "properties").(map[string]any)
	always := []string{
		jetstream.MsgIDHeader, jetstream.ExpectedStreamHeader,
		deadletter.HeaderReason, deadletter.HeaderDetail, deadletter.HeaderAttempts, deadletter.HeaderStatus, deadletter.HeaderRequestID,
		deadletter.HeaderGraphRequestID, deadletter.HeaderClientRequestID, deadletter.HeaderSubject, deadletter.HeaderStream,
		deadletter.HeaderSequence, deadletter.HeaderTime, deadletter.HeaderRedrives,
	}
	checkSame(t, "headers that are always there", texts(t, at(t, schema, "required")), always)
	checkSame(t, "headers", slices.Collect(maps.Keys(properties)), append(always, deadletter.HeaderTruncated, deadletter.HeaderDropped))
	checkSame(t, "reasons", texts(t, at(t, properties, deadletter.HeaderReason, "enum")), verdict.Reasons())
}

// TestOnTheWire checks what a real server answers and passes on.
func TestOnTheWire(t *testing.T) {
	t.Parallel()
	doc := document(t)
	names := topology.DefaultNames()
	nc, js := connect(t, names)
	// subject is where the document says that something is published.
	subject := func(channel, key string) string {
		address, _ := at(t, doc, "channels", channel, "address").(string)
		return strings.NewReplacer("{tenant}", names.Tenant, "{key}", key).Replace(address)
	}

	body := `{"managedDeviceId":"600d0000-0000-4000-8000-000000000001"}`
	for range 2 { // the second one is a duplicate
		msg := &nats.Msg{Subject: subject("requests", ""), Data: []byte(body), Header: nats.Header{jetstream.MsgIDHeader: {"INC1"}}}
		ack, err := nc.RequestMsgWithContext(t.Context(), msg)
		if err != nil {
			t.Fatal(err)
		}
		checkMessage(t, doc, "pubAck", ack)
	}

	letters, err := nc.SubscribeSync(subject("deadLetters", ""))
	if err != nil {
		t.Fatal(err)
	}
	changes, err := nc.SubscribeSync(subject("status", "INC=2F1"))
	if err != nil {
		t.Fatal(err)
	}
	m := deadletter.Original{Subject: names.Filter(), Stream: names.Stream, Sequence: 1, Data: []byte("reset it"), Published: time.Now()}
	letter := deadletter.Letter{Reason: string(verdict.ReasonInvalidRequest), Detail: "body: x", RequestID: request.EscapeID("INC/1")}
	if err := deadletter.New(js, names).Publish(t.Context(), m, letter); err != nil {
		t.Fatal(err)
	}
	checkMessage(t, doc, "deadLetter", next(t, letters))

	store, err := record.Open(t.Context(), js, names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	r := record.Record{ID: "INC/1", Tenant: names.Tenant, State: record.Attempting, ReceivedAt: time.Now()}
	revision, err := store.Put(t.Context(), record.Key(names.Tenant, request.EscapeID(r.ID)), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	change := next(t, changes)
	checkMessage(t, doc, "change", change)
	if got, want := change.Header.Get("Nats-Subject"), subject("records", "INC=2F1"); got != want {
		t.Errorf("the record lies on %s, the document says %s", got, want)
	}
	if got := change.Header.Get("Nats-Sequence"); got != fmt.Sprint(revision) {
		t.Errorf("Nats-Sequence is %s, the revision %d", got, revision)
	}

	outcomes, err := nc.SubscribeSync(subject("outcomes", "INC=2F1"))
	if err != nil {
		t.Fatal(err)
	}
	documents, err := outcome.Open(t.Context(), js, names.OutcomeBucket())
	if err != nil {
		t.Fatal(err)
	}
	d := wholeOutcome(t)
	d.ID = "INC/1"
	if err := documents.Put(t.Context(), d, 0); err != nil {
		t.Fatal(err)
	}
	told := next(t, outcomes)
	checkMessage(t, doc, "outcomeChange", told)
	if got, want := told.Header.Get("Nats-Subject"), subject("outcomeKeys", "INC=2F1"); got != want {
		t.Errorf("the outcome lies on %s, the document says %s", got, want)
	}
}

func connect(t *testing.T, names topology.Names) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	server, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Setup(t.Context(), js, names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func next(t *testing.T, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	msg, err := sub.NextMsg(30 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// checkMessage validates a message as it came from the server.
func checkMessage(t *testing.T, doc any, name string, msg *nats.Msg) {
	t.Helper()
	if headers := part(t, doc, name, "headers"); headers != nil {
		given := map[string]any{}
		for n := range msg.Header {
			given[n] = msg.Header.Get(n)
		}
		if err := headers.Validate(given); err != nil {
			t.Errorf("%s: headers %v: %v", name, given, err)
		}
	}
	var payload any = string(msg.Data)
	if json.Valid(msg.Data) {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(msg.Data))
		if err != nil {
			t.Fatal(err)
		}
		payload = v
	}
	if err := part(t, doc, name, "payload").Validate(payload); err != nil {
		t.Errorf("%s: %s: %v", name, msg.Data, err)
	}
}
