package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var names = topology.Names{Tenant: "default", Stream: "REQ", Subject: "req", DeadStream: "DEAD", DeadSubject: "dead", Bucket: "rec",
	FollowStream: "ALARMS", FollowSubject: "alarms"}

func publisher(t *testing.T) (*Publisher, context.Context) {
	t.Helper()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	forger, err := ConnectForger(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(forger.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	if _, err := topology.Setup(ctx, js, names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	return &Publisher{JS: js, Forger: forger, Names: names}, ctx
}

func (p *Publisher) await(t *testing.T, stream, subject string, n uint64) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s, err := p.JS.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(subject))
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Subjects[subject] == n {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%d messages on %s, want %d", info.State.Subjects[subject], subject, n)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestForgedReplies: each forged request is stored once, whatever its reply, and
// its PubAck goes where the reply says.
func TestForgedReplies(t *testing.T) {
	t.Parallel()
	p, ctx := publisher(t)
	kv, err := p.JS.KeyValue(ctx, names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(ctx, "default.ended", `{"id":"ended","tenant":"default","state":"accepted"}`); err != nil {
		t.Fatal(err)
	}
	publish := func(r *Request) {
		t.Helper()
		r.Copies = 1
		if err := p.Publish(ctx, r, "m-"+r.ID); err != nil {
			t.Fatalf("%s: %v", r.ID, err)
		}
		if len(r.Sequences) != 1 {
			t.Fatalf("%s: sequences %v", r.ID, r.Sequences)
		}
	}
	publish(&Request{Kind: plain, ID: "ended", Data: "e"})
	stored := uint64(1)
	for _, c := range []struct{ id, reply, stream, subject string }{
		{"record", "$KV.{records}.{tenant}.{id}", "KV_rec", "$KV.rec.default.record"},
		{"past", "$KV.{records}.{tenant}.{ended}", "KV_rec", "$KV.rec.default.ended"},
		{"order", "$KV.{records}-state.{tenant}.operator", "KV_rec-state", "$KV.rec-state.default.operator"},
		{"outcome", "$KV.{records}-outcomes.{tenant}.{id}", "KV_rec-outcomes", "$KV.rec-outcomes.default.outcome"},
		{"alarm", "{alarms}.0.{tenant}", "ALARMS", "alarms.0.default"},
		{"alarms", "$JS.API.STREAM.PURGE.{alarm stream}", "ALARMS", "alarms.0.default"},
		{"dead", deadReply, "DEAD", "dead.default"},
		{"neighbour", neighbourReply, "REQ", "req." + Neighbour},
		{"purge", "$JS.API.STREAM.PURGE.{stream}", "", ""},
		{"ack", "$JS.ACK.{stream}.{consumer}.1.1.1.1.0", "", ""},
	} {
		publish(&Request{Kind: "forged", ID: c.id, Data: c.id, Reply: c.reply})
		stored++
		if c.id == "past" { // the record of the ended one was there before
			p.await(t, c.stream, c.subject, 2)
		} else if c.stream != "" {
			p.await(t, c.stream, c.subject, 1)
		}
		p.await(t, "REQ", "req.default", stored)
	}
	if again := p.ended(ctx); again != "nobody" {
		t.Errorf("%s was taken twice", again)
	}
}

// TestRead: a PubAck over a record hides nothing, and one among the dead letters is
// told apart from these.
func TestRead(t *testing.T) {
	t.Parallel()
	p, ctx := publisher(t)
	sim, err := graphsim.Start(graphsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sim.Close() }()
	kv, err := p.JS.KeyValue(ctx, names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, kvp := range [][2]string{
		{"default.a", `{"id":"a","tenant":"default","state":"attempting"}`},
		{"default.a", `{"id":"a","tenant":"default","state":"accepted","detail":"SimPass-1"}`},
		{"default.a", `{"stream":"REQ","seq":1}`},
		{"default.b", `{"stream":"REQ","seq":2}`},
		{"other.c", `{"id":"c","tenant":"other","state":"accepted"}`},
	} {
		if _, err := kv.PutString(ctx, kvp[0], kvp[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []*nats.Msg{
		{Subject: names.Dead(), Data: []byte("body"), Header: nats.Header{
			deadletter.HeaderSequence: {"7"}, deadletter.HeaderRequestID: {"d"}, deadletter.HeaderReason: {"expired"},
		}},
		{Subject: names.Dead(), Data: []byte(`{"stream":"REQ","seq":3}`)},
	} {
		if _, err := p.JS.PublishMsg(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	outcomes, err := p.JS.KeyValue(ctx, names.OutcomeBucket())
	if err != nil {
		t.Fatal(err)
	}
	for _, kvp := range [][2]string{
		{"default.a", document("a", outcome.Pending)}, {"default.a", document("a", outcome.Done)}, {"default.a", `{"stream":"REQ","seq":4}`},
		{"default.b", document("b", outcome.Failed)}, {"default.b", document("b", outcome.Done)}, {"default.x", document("b", outcome.Done)},
	} {
		if _, err := outcomes.PutString(ctx, kvp[0], kvp[1]); err != nil {
			t.Fatal(err)
		}
	}
	l, stored, err := Read(ctx, p.JS, names, sim)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := l.Outcomes["a"], l.Outcomes["b"]; len(l.Outcomes) != 2 || a.Finals != 1 || a.Last.Outcome != outcome.Done || b.Finals != 2 || b.Last.Outcome != outcome.Done {
		t.Errorf("%+v", l.Outcomes)
	}
	if len(l.Records) != 1 || l.Records["a"].State != record.Accepted || l.Strays != 1 || l.Stream != "REQ" {
		t.Errorf("%+v", l)
	}
	if len(l.Letters) != 1 || l.Letters[0].Sequence != 7 || l.Letters[0].ID != "d" || l.Letters[0].Reason != "expired" || string(l.Letters[0].Data) != "body" {
		t.Errorf("%+v", l.Letters)
	}
	for _, text := range []string{"SimPass-1", "body", "other", `"outcome":"failed"`} {
		if !strings.Contains(stored, text) {
			t.Errorf("%q is missing of what is stored", text)
		}
	}
	if err := p.JS.DeleteStream(ctx, kvStream(names.OutcomeBucket())); err != nil {
		t.Fatal(err)
	}
	if l, _, err = Read(ctx, p.JS, names, sim); err != nil || l.Outcomes != nil {
		t.Errorf("where nobody follows: %v, %v", l.Outcomes, err)
	}
}

// document is an outcome as it is stored.
func document(id string, o outcome.Outcome) string {
	return fmt.Sprintf(`{"id":%q,"tenant":"default","outcome":%q,"final":%t,"acceptedAt":"2026-11-27T10:00:00Z"}`, id, o, o.Final())
}
