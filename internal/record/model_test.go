package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"passcode-worker/internal/natstest"
)

// modelStates are those that a record can have.
var modelStates = []State{Attempting, Accepted, Retrying, Verifying, Dead}

// writer is one of two workers: a store behind a proxy of its own, and what it
// knows of the record.
type writer struct {
	store *Store
	proxy *natstest.Proxy
	rec   Record
	rev   uint64
}

// model is what the record must be.
type model struct {
	t       *testing.T
	ctx     context.Context
	admin   jetstream.KeyValue
	writers [2]*writer
	key     string
	stream  string
	calls   int

	rec    Record
	rev    uint64
	states []State // all that it had
}

// TestModel lets two workers read and write a record at random, at once or one
// after the other, while replies are lost and connections are cut. Each write
// that is said to have been made is the next state, each that is refused has
// left no trace, and nothing else is ever in the bucket.
func TestModel(t *testing.T) {
	t.Parallel()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	m := newModel(t, s.URL())
	keys := 0
	rapid.Check(t, func(rt *rapid.T) {
		keys++
		m.begin(fmt.Sprint("default.", keys))
		rt.Repeat(map[string]func(*rapid.T){
			"read":  func(rt *rapid.T) { m.read(rt, m.pick(rt)) },
			"write": func(rt *rapid.T) { m.write(rt, m.pick(rt)) },
			"both":  m.both,
			"":      m.check,
		})
	})
}

func newModel(t *testing.T, url string) *model {
	t.Helper()
	ctx := t.Context()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	m := &model{t: t, ctx: ctx, stream: "KV_model"}
	if m.admin, err = newJetStream(t, nc).CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "model", History: 16}); err != nil {
		t.Fatal(err)
	}
	for i := range m.writers {
		proxy, err := natstest.StartProxy(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		through, err := nats.Connect(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.ReconnectWait(5*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(through.Close)
		store, err := Open(ctx, newJetStream(t, through), "model")
		if err != nil {
			t.Fatal(err)
		}
		store.bucket.ReplyTimeout = 50 * time.Millisecond
		m.writers[i] = &writer{store: store, proxy: proxy}
	}
	return m
}

func (m *model) begin(key string) {
	m.key, m.rec, m.rev, m.states = key, Record{}, 0, nil
	for _, w := range m.writers {
		w.rec, w.rev = Record{}, 0
	}
}

func (m *model) pick(rt *rapid.T) *writer {
	return m.writers[rapid.IntRange(0, 1).Draw(rt, "worker")]
}

func (m *model) read(rt *rapid.T, w *writer) {
	for { // a connection that was cut is made anew
		rec, rev, err := w.store.Get(m.ctx, m.key)
		if err != nil {
			continue
		}
		if !reflect.DeepEqual(rec, m.rec) || rev != m.rev {
			rt.Fatalf("read %+v, %d; want %+v, %d", rec, rev, m.rec, m.rev)
		}
		w.rec, w.rev = rec, rev
		return
	}
}

// next is a change that a worker may make of what it knows.
func (m *model) next(rt *rapid.T, w *writer) Record {
	var may []State
	for _, s := range modelStates {
		if w.rec.State.CanBecome(s) {
			may = append(may, s)
		}
	}
	if len(may) == 0 {
		rt.Skip("it has come to its end")
	}
	m.calls++
	r := sample(fmt.Sprint(m.calls))
	r.ID = strings.TrimPrefix(m.key, "default.")
	r.State = rapid.SampledFrom(may).Draw(rt, "state")
	return r
}

// fault makes the network misbehave in the next write.
func (m *model) fault(rt *rapid.T, w *writer) {
	switch rapid.IntRange(0, 5).Draw(rt, "fault") {
	case 0:
		w.proxy.SwallowNext(1, natstest.PubAck(m.stream))
	case 1:
		w.proxy.SwallowNext(2, natstest.PubAck(m.stream))
	case 2:
		w.proxy.Cut()
	}
}

func (m *model) write(rt *rapid.T, w *writer) {
	r := m.next(rt, w)
	m.fault(rt, w)
	rev, err := w.store.Put(m.ctx, m.key, r, w.rev)
	m.took(rt, w, r, rev, err)
	w.proxy.Heal()
}

// took compares the outcome of a write with the model's.
func (m *model) took(rt *rapid.T, w *writer, r Record, rev uint64, err error) {
	switch {
	case w.rev != m.rev && !errors.Is(err, ErrConflict):
		rt.Fatalf("a write of revision %d over %d: %v", w.rev, m.rev, err)
	case w.rev != m.rev:
		return
	case err != nil || rev <= m.rev:
		rt.Fatalf("a write of revision %d: %d, %v", w.rev, rev, err)
	}
	m.rec, m.rev, w.rec, w.rev = r, rev, r, rev
	m.states = append(m.states, r.State)
}

// both lets the two write at once, from the same revision: one of them wins.
func (m *model) both(rt *rapid.T) {
	var records [2]Record
	for i, w := range m.writers {
		m.read(rt, w)
		records[i] = m.next(rt, w)
		m.fault(rt, w)
	}
	var revs [2]uint64
	var errs [2]error
	var at sync.WaitGroup
	for i, w := range m.writers {
		at.Go(func() { revs[i], errs[i] = w.store.Put(m.ctx, m.key, records[i], w.rev) })
	}
	at.Wait()
	winner := 0
	if errs[0] != nil {
		winner = 1
	}
	if errs[winner] != nil || !errors.Is(errs[1-winner], ErrConflict) {
		rt.Fatalf("of two writes at once: %v, %v", errs[0], errs[1])
	}
	m.took(rt, m.writers[winner], records[winner], revs[winner], nil)
	for _, w := range m.writers {
		w.proxy.Heal()
	}
}

// check reads everything that the record ever was.
func (m *model) check(rt *rapid.T) {
	if m.rev == 0 {
		return
	}
	history, err := m.admin.History(m.ctx, m.key)
	if err != nil {
		rt.Fatal(err)
	}
	kept := m.states[max(0, len(m.states)-16):]
	if len(history) != len(kept) {
		rt.Fatalf("%d revisions, want %d", len(history), len(kept))
	}
	for i, e := range history {
		var r Record
		if err := json.Unmarshal(e.Value(), &r); err != nil || r.State != kept[i] {
			rt.Fatalf("revision %d of %v is %+v (%v)", i, kept, r, err)
		}
		if i > 0 && !kept[i-1].CanBecome(r.State) {
			rt.Fatalf("%v: from %q to %q", kept, kept[i-1], r.State)
		}
	}
}
