package worker

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
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
