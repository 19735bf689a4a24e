// Package api_test holds the documents in this folder and the code to each other.
package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/request/requesttest"
	"passcode-worker/internal/verdict"
)

const (
	requestSchema = "request.schema.json"
	eventSchema   = "event.schema.json"
	recordSchema  = "record.schema.json"
	outcomeSchema = "outcome.schema.json"
)

// schemas are all of them.
func schemas() []string { return []string{requestSchema, eventSchema, recordSchema, outcomeSchema} }

func TestMain(m *testing.M) {
	// See internal/record.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// compiler knows the schemas of this folder and reads nothing else.
func compiler(t *testing.T) *jsonschema.Compiler {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	c.UseLoader(jsonschema.SchemeURLLoader{})
	for _, name := range schemas() {
		if err := c.AddResource("file:///"+name, read(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func compile(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	s, err := compiler(t).Compile("file:///" + name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}

func read(t *testing.T, name string) any {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, data)
}

func parse(t *testing.T, data []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// at returns what stands at a path of names.
func at(t *testing.T, v any, path ...string) any {
	t.Helper()
	for _, name := range path {
		object, _ := v.(map[string]any)
		next, ok := object[name]
		if !ok {
			t.Fatalf("no %s in %s", name, strings.Join(path, "/"))
		}
		v = next
	}
	return v
}

func TestSchemaExamples(t *testing.T) {
	t.Parallel()
	for _, name := range schemas() {
		schema := compile(t, name)
		examples, _ := at(t, read(t, name), "examples").([]any)
		if len(examples) == 0 {
			t.Errorf("%s has no examples", name)
		}
		for i, example := range examples {
			if err := schema.Validate(example); err != nil {
				t.Errorf("%s, example %d: %v", name, i, err)
			}
			data, err := json.Marshal(example)
			if err != nil {
				t.Fatal(err)
			}
			switch name {
			case requestSchema:
				_, err = request.Decode(request.Source{Data: data})
			case eventSchema:
				_, err = request.Decode(request.Source{Data: data, Header: inBody})
			case recordSchema:
				err = sameAsWritten[record.Record](data)
			case outcomeSchema:
				err = sameAsWritten[outcome.Document](data)
			}
			if err != nil {
				t.Errorf("%s, example %d: %v", name, i, err)
			}
		}
	}
}

var inBody = map[string][]string{"Content-Type": {"application/cloudevents+json"}}

// sameAsWritten checks that a record or an outcome is exactly what the worker would
// write.
func sameAsWritten[T any](data []byte) error {
	var r T
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return err
	}
	again, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var want, got map[string]any
	if err := errors.Join(json.Unmarshal(data, &want), json.Unmarshal(again, &got)); err != nil {
		return err
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("the worker would write %s", again)
	}
	return nil
}

// beyond are the refusals that JSON Schema cannot express, by the end of a payload's name.
var beyond = map[string]string{
	"-twice":                  "a parser of JSON drops all but one of the values of a name",
	"-twice-escaped":          "the same",
	"-twice-null":             "the same",
	"-two-devices":            "the same",
	"-wide-258-bytes":         "lengths are counted in characters",
	"-year-0":                 "a pattern cannot compare times",
	"-zero-time":              "the same",
	"-zero-time-offset":       "the same",
	"-before-year-1":          "the same",
	"-after-year-9999":        "the same",
	"body-mark-too-long":      "the length of a whole document is none of its properties",
	"body-one-too-long":       "the same",
	"-spaces-too-long":        "the same",
	"structured-one-too-long": "the same",
	"-huge":                   "the same",
	"-base64-latin1":          "a validator may read bytes that are no UTF-8",
}

// stricter are the payloads that the decoder accepts and the schemas do not.
var stricter = map[string]string{
	"structured-base64-mark": "a byte order mark inside base64",
}

// TestRequestsAgree checks that decoder and schemas accept and refuse the same bodies.
func TestRequestsAgree(t *testing.T) {
	t.Parallel()
	plain, event := compile(t, requestSchema), compile(t, eventSchema)
	used := map[string]bool{}
	for _, p := range append(requesttest.Accepted(), requesttest.Hostile()...) {
		schema := plain
		if strings.HasPrefix(p.Name, "structured-") {
			schema = event
		}
		if strings.HasPrefix(p.Field, "ce-") && schema == plain || p.Field == "Nats-Msg-Id" || p.Field == "Content-Type" {
			continue // refused for a header, which the schemas are not about
		}
		_, err := request.Decode(request.Source{Data: p.Data, Header: p.Header})
		refused := validate(schema, p.Data)
		if (err == nil) == (refused == nil) {
			continue
		}
		if err == nil && stricter[p.Name] != "" {
			continue
		}
		ending := ""
		for suffix := range beyond {
			if strings.HasSuffix(p.Name, suffix) {
				ending = suffix
			}
		}
		if ending == "" || err == nil {
			t.Errorf("%s: the decoder says %v, the schema %v", p.Name, err, refused)
		}
		used[ending] = true
	}
	for suffix := range beyond {
		if !used[suffix] {
			t.Errorf("no payload needs the exception %s", suffix)
		}
	}
}

// validate reads a body as any JSON parser does that passes over a byte order mark, and validates it.
func validate(schema *jsonschema.Schema, data []byte) error {
	data = request.SkipMark(data)
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// TestRecordFields checks that the schema names each field of a record, and no other.
func TestRecordFields(t *testing.T) {
	t.Parallel()
	schema := read(t, recordSchema)
	checkFields[record.Record](t, schema)
	states := []record.State{record.Attempting, record.Retrying, record.Verifying, record.Accepted, record.Dead}
	checkSame(t, "states", texts(t, at(t, schema, "properties", "state", "enum")), states)
	checkSame(t, "reasons of dead letters", texts(t, at(t, schema, "$defs", "deadReason", "enum")), verdict.Reasons())
	checkSame(t, "reasons to wait", texts(t, at(t, schema, "$defs", "waitReason", "enum")), kinds())
}

// checkFields checks that a schema names each field of a type, and no other, and which
// of them are always there.
func checkFields[T any](t *testing.T, schema any) {
	t.Helper()
	var want, always []string
	for f := range fields[T]() {
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		want = append(want, name)
		if !strings.Contains(rest, "omit") {
			always = append(always, name)
		}
	}
	properties, _ := at(t, schema, "properties").(map[string]any)
	checkSame(t, "fields", slices.Collect(maps.Keys(properties)), want)
	checkSame(t, "fields that are always there", texts(t, at(t, schema, "required")), always)
	for name := range properties {
		if text, _ := at(t, properties, name, "description").(string); text == "" {
			t.Errorf("%s is not described", name)
		}
	}
}

// fields are those of a type.
func fields[T any]() func(yield func(reflect.StructField) bool) {
	t := reflect.TypeFor[T]()
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// kinds are the names of all kinds of failure.
func kinds() (all []string) {
	for k := graph.Kind(1); !strings.HasPrefix(k.String(), "graph.Kind("); k++ {
		all = append(all, k.String())
	}
	return all
}

func texts(t *testing.T, v any) (all []string) {
	t.Helper()
	list, _ := v.([]any)
	for _, e := range list {
		all = append(all, fmt.Sprint(e))
	}
	return all
}

// checkSame compares two lists, whatever their order.
func checkSame[T ~string](t *testing.T, what string, got []string, want []T) {
	t.Helper()
	wanted := make([]string, len(want))
	for i, s := range want {
		wanted[i] = string(s)
	}
	slices.Sort(got)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Errorf("%s: the document has %q, the code %q", what, got, wanted)
	}
}

// TestRecordsAgree checks records as the worker writes them, whole and empty.
func TestRecordsAgree(t *testing.T) {
	t.Parallel()
	schema := compile(t, recordSchema)
	now := time.Now()
	least := record.Record{ID: "x", Tenant: "t", State: record.Retrying, ReceivedAt: now}
	var all []record.Record
	for _, state := range []record.State{record.Attempting, record.Retrying, record.Verifying, record.Accepted, record.Dead} {
		r := least
		r.State = state
		switch state {
		case record.Accepted:
			r.FinishedAt = now
			all = append(all, r)
			r.Followed = true
			all = append(all, r)
		case record.Dead:
			r.FinishedAt = now
			for _, reason := range verdict.Reasons() {
				r.Reason = string(reason)
				all = append(all, r)
			}
		default:
			all = append(all, r)
			for _, reason := range kinds() {
				r.Reason = reason
				all = append(all, r)
			}
		}
	}
	all = append(all, whole(t))
	for _, r := range all {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(schema, data); err != nil {
			t.Errorf("%s: %v", data, err)
		}
	}
}

// whole returns a record with every field set.
func whole(t *testing.T) record.Record {
	t.Helper()
	now := time.Now()
	r := record.Record{
		ID: "INC 1/é", Tenant: "default", ManagedDeviceID: "600d0000-0000-4000-8000-000000000001", State: record.Dead,
		Attempts: 2, HeldAttempts: 1, Burying: true, Panics: 1,
		ReceivedAt: now, AttemptedAt: now.UTC(), UnknownSince: now, AbsentSince: now, Refusal: string(verdict.ReasonConflict),
		NextAt: now.Add(time.Second), FinishedAt: now,
		Stream: "S", Sequence: 1 << 63, Ended: []uint64{1, 1 << 63}, Redrives: 1, Worker: "host-1", ClientRequestID: "c", GraphRequestID: "g", Status: 404,
		Reason: string(verdict.ReasonNotFound), Detail: "d", Verified: true, RequestedBy: "jo", RequestReason: "why",
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	for f := range fields[record.Record]() {
		if f.Name != "Followed" && reflect.ValueOf(r).FieldByIndex(f.Index).IsZero() { // only of an accepted one
			t.Errorf("field %s is not set", f.Name)
		}
	}
	return r
}

// TestRecordSchemaRefuses checks that the schema says something: each of these is no record.
func TestRecordSchemaRefuses(t *testing.T) {
	t.Parallel()
	schema := compile(t, recordSchema)
	for _, change := range []string{
		`"state":"lost"`, `"state":""`, `"reason":"bad luck"`, `"reason":""`, `"reason":"throttled"`, `"state":"accepted"`, `"attempts":-1`, `"attempts":"1"`,
		`"receivedAt":"today"`, `"managedDeviceId":"x"`, `"sequence":1.5`, `"verified":"yes"`, `"traceparent":"x"`, `"id":""`, `"burying":1`, `"followed":true`,
	} {
		checkRefused(t, schema, whole(t), change)
	}
}

// checkRefused checks that a schema refuses a value with a change.
func checkRefused(t *testing.T, schema *jsonschema.Schema, v any, change string) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]json.RawMessage
	// The later of two values holds.
	if err := errors.Join(json.Unmarshal(data, &r), json.Unmarshal([]byte("{"+change+"}"), &r)); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	if validate(schema, data) == nil {
		t.Errorf("%s passes", change)
	}
}
