package worker

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/verdict"
)

// TestEvents publishes CloudEvents in both modes: one event is one request in
// whichever mode it comes, and the same id of another source is another.
func TestEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	data := func(device string) string { return fmt.Sprintf(`{"managedDeviceId":%q,"requestedBy":"jo"}`, device) }
	inHeaders := func(source, device string) {
		r.publish(data(device), nats.Header{
			"ce-specversion": {"1.0"}, "CE-Id": {"INC%201"}, "Ce-Source": {source}, "ce-type": {"reset"}, "ce-traceparent": {trace},
		})
	}
	inBody := func(source, device string) {
		r.publish(fmt.Sprintf(`{"specversion":"1.0","id":"INC 1","source":%q,"type":"reset","traceparent":%q,"data":%s}`, source, trace, data(device)),
			nats.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}})
	}
	inBase64 := func(source, device string) {
		ev := event.New()
		ev.SetID("INC 1")
		ev.SetSource(source)
		ev.SetType("reset")
		ev.SetExtension("traceparent", trace)
		if err := ev.SetData(event.ApplicationJSON, []byte(data(device))); err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		r.publish(string(body), nats.Header{"Content-Type": {event.ApplicationCloudEventsJSON}})
	}
	sources := []string{"/a", "/b"}
	for i, source := range sources {
		for range 2 {
			inBase64(source, graphsim.GoodDevice(i))
			inHeaders(source, graphsim.GoodDevice(i))
			inBody(source, graphsim.GoodDevice(i))
		}
	}
	for i, source := range sources {
		id := source + " INC 1"
		rec := r.awaitState(request.EscapeID(id), record.Accepted)
		if rec.ID != id || rec.RequestedBy != "jo" || rec.Traceparent != trace {
			t.Errorf("record %+v", rec)
		}
		r.awaitEmpty()
		if n := r.sim.Resets(graphsim.GoodDevice(i)); n != 1 {
			t.Errorf("the device of %s was reset %d times", source, n)
		}
	}
}

// TestBrokenBodies publishes bodies that a ticket's text has broken: record and
// letter are found under the ticket's number, unless another message has the
// record, and no broken event passes for a request with the event's id.
func TestBrokenBodies(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	dev := graphsim.GoodDevice(1)
	r.publish(reset("INC2", dev), nil)
	r.awaitState("INC2", record.Accepted)

	torn := func(id string) string {
		return strings.TrimSuffix(reset(id, dev), "}") + `,"reason":"forgot it` + "\n" + `called twice"}`
	}
	letters := map[string]string{}
	publish := func(body, key string, header nats.Header) {
		letters[strconv.FormatUint(r.publish(body, header), 10)] = key
	}
	publish(torn("INC1"), "INC1", nil)
	r.awaitState("INC1", record.Dead)
	publish(torn("INC1"), "INC1", nats.Header{"Nats-Msg-Id": {"other"}})
	publish(torn("INC2"), "INC2", nil)
	publish(`{"reason":"a`+"\t"+`b","id":"INC9"}`, "INC3", nats.Header{"Nats-Msg-Id": {"INC3"}})
	publish(`{"specversion":"1.0","id":"INC4","data":`+torn("INC5"), "INC5", nil)
	publish(`{"specversion":"1.0","id":"INC4","source":"/a","data":"`+"\n"+`"}`, "=2Fa=20INC4", nil)
	publish(`{"specversion":"1.0","id":"INC4","data":"`+"\n"+`"}`, "PASSCODE_RESETS-8", nil)
	r.awaitEmpty()

	for sequence, letter := range r.letters() {
		key := letters[sequence]
		h := letter.Header
		if h.Get(deadletter.HeaderReason) != string(verdict.ReasonInvalidRequest) || h.Get(deadletter.HeaderRequestID) != key ||
			!strings.HasPrefix(h.Get(deadletter.HeaderDetail), "body: not valid JSON: ") {
			t.Errorf("letter of %s: %v, want %s", sequence, h, key)
		}
		delete(letters, sequence)
		if key == "INC2" {
			continue
		}
		if rec := r.record(key); rec.State != record.Dead || rec.Detail != h.Get(deadletter.HeaderDetail) && key != "INC1" {
			t.Errorf("record of %s: %+v", key, rec)
		}
	}
	if len(letters) > 0 {
		t.Errorf("no letters of %v", letters)
	}
	if rec := r.record("INC1"); rec.ID != "INC1" || rec.Sequence != 2 || !strings.Contains(rec.Detail, "a line feed in a string") || !strings.Contains(rec.Detail, ", at byte offset ") {
		t.Errorf("record %+v", rec)
	}
	if rec := r.record("INC2"); rec.State != record.Accepted || rec.Sequence != 1 {
		t.Errorf("record %+v", rec)
	}
	for _, key := range []string{"INC4", "INC9", "other"} {
		if rec := r.record(key); rec.State != record.None {
			t.Errorf("record %+v", rec)
		}
	}

	// A ticket that is written right the next time is served.
	again := graphsim.GoodDevice(2)
	r.publish(reset("INC1", again), nil)
	r.awaitState("INC1", record.Accepted)
	r.awaitEmpty()
	if n, m := r.sim.Resets(dev), r.sim.Resets(again); n != 1 || m != 1 {
		t.Errorf("%d and %d resets", n, m)
	}
}

// TestPubAckOverARecord has a publisher name a record's key as the subject of
// the reply, which no right prevents: the answer lies where the record was, and
// must neither let an accepted request be made once more nor keep its message.
func TestPubAckOverARecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	device := graphsim.GoodDevice(1)
	r.publish(reset("INC1", device), nil)
	r.awaitState("INC1", record.Accepted)
	err := r.nc.PublishMsg(&nats.Msg{Subject: r.names.Filter(), Reply: "$KV." + r.names.Bucket + ".default.INC1", Data: []byte(reset("INC2", graphsim.GoodDevice(2)))})
	if err != nil {
		t.Fatal(err)
	}
	r.awaitState("INC2", record.Accepted)
	if rec := r.record("INC1"); rec.State != record.None {
		t.Fatalf("the record is %+v", rec)
	}
	r.publish(reset("INC1", device), nil)
	r.awaitEmpty()
	if n := r.sim.Resets(device); n != 1 {
		t.Errorf("%d resets", n)
	}
}
