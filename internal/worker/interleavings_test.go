package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/tenant"
	"passcode-worker/internal/verdict"
)

// visit is one delivery of the request to one of two workers.
type visit struct {
	worker int
	after  time.Duration // since the visit before began
	gone   time.Duration // the worker's process ends so long after the visit began; 0: it lives
}

// behaviour is what Graph does to the request's first call.
type behaviour struct {
	name                 string
	code, times, variant int
	want                 record.State
	reason               verdict.Reason
	resets               int
}

var behaviours = []behaviour{
	{"good", 0, 0, 0, record.Accepted, "", 1},
	{"executed, then 500", 500, 1, 1, record.Accepted, "", 1},
	{"500", 500, 1, 0, record.Accepted, "", 1},
	{"reply lost", 602, 1, 1, record.Accepted, "", 1},
	{"executed, then silence", 603, 1, 0, record.Accepted, "", 1},
	{"silence", 604, 1, 0, record.Accepted, "", 1},
	{"429", 429, 1, 2, record.Accepted, "", 1},
	{"404", 404, 0, 0, record.Dead, verdict.ReasonNotFound, 0},
	{"409 once", 409, 1, 0, "", "", 0}, // dead, or accepted where the refusal was not written down in time
}

// TestInterleavings delivers a request to two workers at random moments, lets
// their processes end at random points, and lets Graph misbehave. Whatever
// happens, the model is this: one end, at most one reset, and the end that
// Graph's behaviour asks for.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 5 * time.Millisecond}, func(c *Config) {
		c.Policy = verdict.Policy{RequestTimeout: 120 * time.Millisecond, MaxAttempts: 50, BackoffMin: time.Millisecond,
			BackoffMax: 10 * time.Millisecond, MaxAge: time.Hour, VerifyAfter: 30 * time.Millisecond, OnUnknown: verdict.UnknownDeadLetter}
	})
	tries := 0
	rapid.Check(t, func(rt *rapid.T) {
		tries++
		b := rapid.SampledFrom(behaviours).Draw(rt, "behaviour")
		visits := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) visit {
			v := visit{worker: rapid.IntRange(0, 1).Draw(rt, "worker"),
				after: time.Duration(rapid.IntRange(0, 60).Draw(rt, "after")) * time.Millisecond}
			if rapid.Bool().Draw(rt, "dies") {
				v.gone = time.Duration(rapid.IntRange(1, 40).Draw(rt, "gone")) * time.Millisecond
			}
			return v
		}), 1, 6).Draw(rt, "visits")
		interleave(t, rt, r, tries, b, visits)
	})
}

func interleave(t *testing.T, rt *rapid.T, r *rig, n int, b behaviour, visits []visit) {
	workers := []*tenant.Tenant{bare(t, r), bare(t, r)}
	device := graphsim.GoodDevice(n)
	if b.code != 0 {
		device = graphsim.FaultDevice(b.code, b.times, b.variant, n)
	}
	id := fmt.Sprint("M", n)
	r.publish(reset(id, device), nil)
	m, msg := next(t, r)
	defer func() { _ = msg.Ack() }() // the stream is shared by all tries
	var under sync.WaitGroup
	for _, v := range visits {
		<-time.After(v.after)
		work, cancel := context.WithCancel(context.Background())
		if v.gone > 0 {
			time.AfterFunc(v.gone, cancel)
		}
		delivery := m
		m.Delivered++
		under.Go(func() {
			defer cancel()
			workers[v.worker].Handle(work, work, delivery)
		})
	}
	under.Wait()
	for i := 0; workers[0].Handle(t.Context(), t.Context(), m) != consume.Ack(); i++ {
		if i > 2000 {
			rt.Fatalf("%s: it never ends: %+v", b.name, r.record(id))
		}
		m.Delivered++
		<-time.After(3 * time.Millisecond)
	}
	rec, resets := r.record(id), r.sim.Resets(device)
	r.legal(rt, id)
	letters := 0
	for seq, letter := range r.letters() {
		if seq == strconv.FormatUint(m.Sequence, 10) && letter != nil {
			letters++
		}
	}
	switch {
	case resets > 1:
		rt.Fatalf("%s: reset %d times: %+v", b.name, resets, rec)
	case rec.State == record.Accepted && (letters > 0 || resets != 1), rec.State == record.Dead && letters != 1,
		rec.State != record.Accepted && rec.State != record.Dead:
		rt.Fatalf("%s: %d letters, %d resets: %+v", b.name, letters, resets, rec)
	case b.want != "" && (rec.State != b.want || resets != b.resets || verdict.Reason(rec.Reason) != b.reason):
		rt.Fatalf("%s: %d resets: %+v", b.name, resets, rec)
	}
}

// legal checks each change of a record against the state machine.
func (r *rig) legal(rt *rapid.T, id string) {
	kv, err := r.js.KeyValue(context.Background(), r.names.Bucket)
	if err != nil {
		rt.Fatal(err)
	}
	history, err := kv.History(context.Background(), "default."+id)
	if err != nil {
		rt.Fatal(err)
	}
	var before record.State
	for i, e := range history {
		var rec record.Record
		if err := json.Unmarshal(e.Value(), &rec); err != nil {
			rt.Fatal(err)
		}
		// The first that is kept may not be the first that was.
		if (i > 0 || len(history) < 16) && !before.CanBecome(rec.State) {
			rt.Fatalf("%s: from %q to %q, revision %d of %d", id, before, rec.State, i+1, len(history))
		}
		before = rec.State
	}
}
