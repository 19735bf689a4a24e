package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/record"
)

// world is a server with its records.
type world struct {
	t     *testing.T
	tools *Tools
	js    jetstream.JetStream
	kv    jetstream.KeyValue
}

func newWorld(t *testing.T) *world {
	t.Helper()
	tools, js := rig(t)
	kv, err := js.KeyValue(t.Context(), names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, tools, js, kv}
}

// write writes a record as the worker does.
func (w *world) write(r record.Record) {
	w.t.Helper()
	r.Tenant = names.Tenant
	value, err := json.Marshal(r)
	if err == nil {
		_, err = w.kv.Put(w.t.Context(), record.Key(r.Tenant, r.ID), value)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// revision is the last one of the bucket.
func (w *world) revision() uint64 {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), "KV_"+names.Bucket)
	if err != nil {
		w.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// forge has the server store a PubAck over a record, n times.
func (w *world) forge(id string, n int) {
	w.t.Helper()
	nc, key, before := w.js.Conn(), "$KV."+names.Bucket+"."+record.Key(names.Tenant, id), w.revision()
	for range n {
		if err := nc.PublishRequest("$KV."+names.Bucket+".x.y", key, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	for deadline, tick := time.Now().Add(10*time.Second), time.Tick(time.Millisecond); w.revision() < before+2*uint64(n); <-tick {
		if time.Now().After(deadline) {
			w.t.Fatal("the answers were not stored")
		}
	}
}

// copied has the server store its answer to a reading of a key over it.
func (w *world) copied(id string) {
	w.t.Helper()
	key, before := "$KV."+names.Bucket+"."+record.Key(names.Tenant, id), w.revision()
	if err := w.js.Conn().PublishRequest("$JS.API.DIRECT.GET.KV_"+names.Bucket+"."+key, key, nil); err != nil {
		w.t.Fatal(err)
	}
	for deadline, tick := time.Now().Add(10*time.Second), time.Tick(time.Millisecond); w.revision() == before; <-tick {
		if time.Now().After(deadline) {
			w.t.Fatal("the answer was not stored")
		}
	}
}

// bury makes the letter of a request, which was message 7.
func (w *world) bury(id string) DeadLetter {
	w.t.Helper()
	bury(w.t, w.js, deadletter.Original{Data: fmt.Appendf(nil, `{"id":%q,"managedDeviceId":%q}`, id, device), Stream: names.Stream,
		Sequence: 7, Published: time.Now()}, id)
	var out DeadLetter
	if err := w.tools.Letters(w.t.Context(), Selection{IDs: []string{id}}, func(l DeadLetter) error { out = l; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// TestOverwrittenRecord reads a record below what a publisher has had the server
// store over it, as the worker does.
func TestOverwrittenRecord(t *testing.T) {
	w := newWorld(t)
	w.write(record.Record{ID: "A", State: record.Attempting, Stream: "REQ", Sequence: 8})
	w.copied("A") // a true copy of a state that is over
	w.write(record.Record{ID: "A", State: record.Accepted, Stream: "REQ", Sequence: 8})
	w.forge("A", 3)

	history, err := w.tools.History(t.Context(), "A")
	if err != nil || len(history) != 2 || history[0].Record.State != record.Attempting || history[1].Record.State != record.Accepted {
		t.Errorf("status: %+v, %v", history, err)
	}
	l := w.bury("A")
	if out, err := w.tools.Redrive(t.Context(), l, false, false); err != nil || out.Action != Superseded || out.NewSequence != 8 {
		t.Errorf("redrive: %+v, %v", out, err)
	}
	f, err := w.tools.Follow(t.Context(), "A")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Stop()
	var heard []Change
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	left := f.Await(ctx, []Sent{{ID: "A", Key: "A", Stream: "REQ", Sequence: 9}}, func(c Change) { heard = append(heard, c) }, func(err error) { t.Error(err) })
	if len(left) != 0 || len(heard) != 1 || !heard[0].Before {
		t.Errorf("send --wait: %+v, left %v", heard, left)
	}
}

// TestGarbledRecord has nothing left of a record: each tool says so, and what to
// do, and a request goes on once the key is deleted.
func TestGarbledRecord(t *testing.T) {
	w := newWorld(t)
	w.write(record.Record{ID: "A", State: record.Accepted, Stream: "REQ", Sequence: 7})
	w.forge("A", 16)
	const why, what = "record default.A: it was overwritten by something that is not a record", "nats kv del records default.A"
	if history, err := w.tools.History(t.Context(), "A"); !errors.Is(err, record.ErrGarbled) || !strings.Contains(fmt.Sprint(err), what) || !strings.HasPrefix(err.Error(), why) {
		t.Errorf("status: %+v, %v", history, err)
	}
	l := w.bury("A")
	for _, dry := range []bool{true, false} {
		if out, err := w.tools.Redrive(t.Context(), l, false, dry); err != nil || out.Action != Refused || !strings.HasPrefix(out.Detail, why) || !strings.Contains(out.Detail, what) {
			t.Errorf("redrive: %+v, %v", out, err)
		}
	}
	f, err := w.tools.Follow(t.Context(), "*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Stop()
	var heard []Change
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sent := []Sent{{ID: "A", Key: "A", Stream: "REQ", Sequence: 9}, {ID: "B", Key: "B", Stream: "REQ", Sequence: 10}}
	left := f.Await(ctx, sent, func(c Change) {
		heard = append(heard, c)
		switch {
		case c.Garbled != nil:
			// It is not read again before what follows was heard.
			w.forge("A", 2)
			if err := w.kv.Delete(t.Context(), "default.A"); err != nil {
				t.Error(err)
			}
			w.write(record.Record{ID: "B", State: record.Accepted, Stream: "REQ", Sequence: 10})
		case c.Record.ID == "B":
			w.write(record.Record{ID: "A", State: record.Accepted, Stream: "REQ", Sequence: 9})
			w.forge("A", 1)
		}
	}, func(err error) { t.Error(err) })
	if len(left) != 0 || len(heard) != 3 || heard[0].Garbled == nil || heard[0].Record.ID != "A" || !strings.HasPrefix(heard[0].Garbled.Error(), why) ||
		heard[2].Record.ID != "A" || !heard[2].Final || heard[2].Before {
		t.Errorf("send --wait: %+v, left %v", heard, left)
	}
	if out, err := w.tools.Redrive(t.Context(), l, false, false); err != nil || out.Action != Superseded {
		t.Errorf("redrive of what is repaired: %+v, %v", out, err)
	}
	w.forge("C", 1)
	if out, err := w.tools.Redrive(t.Context(), w.bury("C"), true, false); err != nil || out.Action != Redriven {
		t.Errorf("redrive --force: %+v, %v", out, err)
	}
}

// TestFollowForeign hears what is no record on the subject of one, and passes
// over it.
func TestFollowForeign(t *testing.T) {
	w := newWorld(t)
	f, err := w.tools.Follow(t.Context(), "A")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Stop()
	f.blind = errors.New("it only listens")
	put := func(value string, header nats.Header) {
		t.Helper()
		if _, err := w.js.PublishMsg(t.Context(), &nats.Msg{Subject: "$KV.records.default.A", Data: []byte(value), Header: header}); err != nil {
			t.Fatal(err)
		}
	}
	const accepted = `{"id":"A","tenant":"default","state":"accepted","stream":"REQ","sequence":9}`
	put(accepted, nats.Header{jetstream.SequenceHeader: {"1"}})
	put(accepted, nats.Header{"Nats-Stream": {"x"}})
	put(`{"state":"accepted","stream":"REQ","sequence":9}`, nil)
	put(`{"id":"B","tenant":"default","state":"accepted","stream":"REQ","sequence":9}`, nil)
	put(`{"id":"A","tenant":"default","state":"done","stream":"REQ","sequence":9}`, nil)
	put(`[]`, nil)
	w.write(record.Record{ID: "A", State: record.Retrying, Stream: "REQ", Sequence: 9})
	w.copied("A")
	w.forge("A", 2)
	w.write(record.Record{ID: "A", State: record.Dead, Stream: "REQ", Sequence: 9})
	var heard []record.State
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	left := f.Await(ctx, []Sent{{ID: "A", Key: "A", Stream: "REQ", Sequence: 9}}, func(c Change) { heard = append(heard, c.Record.State) }, nil)
	if len(left) != 0 || fmt.Sprint(heard) != "[retrying dead]" {
		t.Errorf("heard %v, left %v", heard, left)
	}
}
