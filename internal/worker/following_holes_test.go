package worker

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"passcode-worker/internal/follow"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// order publishes an alarm of an accepted request, changed by somebody else.
func (r *rig) order(id string, change func(*outcome.Alarm)) {
	r.t.Helper()
	a := outcome.Of(r.record(id))
	a.Order, a.DueAt = "order", time.Now().UTC()
	change(&a)
	if err := follow.Publish(r.t.Context(), r.js, r.names.FollowSubject, r.names.FollowStream, a); err != nil {
		r.t.Fatal(err)
	}
}

// TestAlarmIsOnlyACopy: what an alarm says of the request is a copy that may be off, by a
// clock that was read anew or by somebody's will. The record counts, so no clock ends by it
// and no end comes early.
func TestAlarmIsOnlyACopy(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, func(c *Config) { c.FollowPlan.For = 8 * time.Second })
	r.start()
	device := func(n int) string { return graphsim.StoryDevice(graphsim.StoryDone, 4, 0, n) }
	for i, id := range []string{"earlier", "until", "longer"} {
		d := device(i)
		if id == "longer" {
			d = graphsim.StoryDevice(graphsim.StoryDone, 12, 0, i)
		}
		r.publish(reset(id, d), nil)
		r.awaitState(id, record.Accepted)
	}
	r.order("earlier", func(a *outcome.Alarm) {
		a.AcceptedAt, a.AttemptedAt = a.AcceptedAt.Add(-1000*time.Hour), a.AttemptedAt.Add(-1000*time.Hour)
	})
	r.order("until", func(a *outcome.Alarm) { a.Until = time.Now().Add(-time.Hour) })
	// An order for a request that is still followed makes its time longer.
	r.order("longer", func(a *outcome.Alarm) { a.Until = time.Now().Add(time.Hour) })
	for _, id := range []string{"earlier", "until", "longer"} {
		if d := r.awaitFinal(id); d.Outcome != outcome.Done && id != "longer" {
			t.Errorf("%s: %+v", id, d)
		}
	}
	r.awaitOutcome("longer", outcome.Done)
}

// TestAlarmByAnotherClock: the alarm's copy of the acceptance is a little earlier than the
// record's, and the only clock there is.
func TestAlarmByAnotherClock(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	r.start()
	r.publish(reset("a", graphsim.StoryDevice(graphsim.StoryDone, 4, 0, 1)), nil)
	r.awaitState("a", record.Accepted)
	s, err := r.js.Stream(t.Context(), r.names.FollowStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.order("a", func(a *outcome.Alarm) {
		a.AcceptedAt, a.AttemptedAt = a.AcceptedAt.Add(-time.Microsecond), a.AttemptedAt.Add(-time.Microsecond)
	})
	r.awaitOutcome("a", outcome.Done)
}

// TestFollowConsumerIsMadeAnew: a consumer that is gone stops no other step, fills no log,
// and is made again where that is allowed.
func TestFollowConsumerIsMadeAnew(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	r.start()
	r.publish(reset("a", graphsim.GoodDevice(1)), nil)
	r.awaitOutcome("a", outcome.Done)
	if err := r.js.DeleteConsumer(t.Context(), r.names.FollowStream, topology.FollowConsumer(3)); err != nil {
		t.Fatal(err)
	}
	r.publish(reset("b", graphsim.StoryDevice(graphsim.StoryDone, 6, 0, 1)), nil)
	r.awaitOutcome("b", outcome.Done)
	if _, err := r.js.Consumer(t.Context(), r.names.FollowStream, topology.FollowConsumer(3)); err != nil {
		t.Error(err)
	}
	if n := strings.Count(r.log.String(), "are not followed at present"); n > 1 {
		t.Errorf("it was said %d times", n)
	}
}

// TestFollowWithoutStateBucket: the bucket in which replicas hand things on does not answer.
// Looks go by what was known before, and nothing piles up.
func TestFollowWithoutStateBucket(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	p, err := natstest.StartProxy(r.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	r.cfg.NATS.URL = p.URL()
	r.start()
	r.publish(reset("first", graphsim.GoodDevice(900)), nil)
	r.awaitOutcome("first", outcome.Done)
	r.await("what is handed on", func() bool { return !r.handedOn().ServedAt.IsZero() })
	p.SwallowNext(1<<30, func(m natstest.Message) bool { return bytes.Contains(m.Data, []byte("$KV.passcode-resets-state.")) })
	const n = 40
	begun := time.Now()
	for i := range n {
		r.publish(reset(fmt.Sprint("a", i), graphsim.GoodDevice(i)), nil)
	}
	for i := range n {
		r.awaitOutcome(fmt.Sprint("a", i), outcome.Done)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("%d looks took %s", n, took)
	}
}

// TestFollowStreamIsSlow: PubAcks of the follow stream do not come in time. No more
// requests wait for theirs than are under way when that begins, and all are followed.
func TestFollowStreamIsSlow(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, func(c *Config) { c.Concurrency = 8 })
	p, err := natstest.StartProxy(r.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	r.cfg.NATS.URL = p.URL()
	r.start()
	// The first PubAcks of alarms are lost, those of the second try, too.
	lost := p.SwallowNext(16, natstest.PubAck(r.names.FollowStream))
	const n = 60
	begun := time.Now()
	for i := range n {
		r.publish(reset(fmt.Sprint("a", i), graphsim.GoodDevice(i)), nil)
	}
	r.awaitEmpty()
	if took := time.Since(begun); took > 12*time.Second {
		t.Errorf("%d requests took %s", n, took)
	}
	<-lost
	for i := range n {
		r.awaitOutcome(fmt.Sprint("a", i), outcome.Done)
	}
	if got := r.metric(`follow_lost_total{tenant="default"}`); got != 0 {
		t.Errorf("%v requests that are followed are counted as lost", got)
	}
}

// TestFollowPausedInAHold: an operator pauses the queue while the tenant is held, so that
// nobody probes the hold. Looks go on.
func TestFollowPausedInAHold(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	r.start()
	r.publish(reset("a", graphsim.StoryDevice(graphsim.StoryDone, 3, 0, 1)), nil)
	r.awaitState("a", record.Accepted)
	r.sim.SetOutage(graphsim.Outage503)
	for i := range 8 {
		r.publish(reset(fmt.Sprint("held", i), graphsim.GoodDevice(7+i)), nil)
	}
	r.await("a hold that is handed on", func() bool { return r.handedOn().Hold != nil })
	if _, err := r.js.PauseConsumer(t.Context(), r.names.Stream, r.names.Consumer(), topology.Forever()); err != nil {
		t.Fatal(err)
	}
	r.sim.SetOutage(graphsim.OutageNone)
	r.awaitOutcome("a", outcome.Done)
}

// told429 makes Graph answer the first look at a device with a Retry-After, and counts
// which later GETs come within it.
func (r *rig) told429(wait time.Duration) (begun func() bool, inside func() int) {
	var mu sync.Mutex
	var until time.Time
	early := 0
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodGet {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case until.IsZero() && strings.Contains(q.URL.RawQuery, "operatingSystem"):
			until = time.Now().Add(wait)
			w.Header().Set("Retry-After", fmt.Sprint(int(wait.Seconds())))
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		case time.Now().Before(until):
			early++
		}
		return false
	})
	return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return !until.IsZero()
		}, func() int {
			mu.Lock()
			defer mu.Unlock()
			return early
		}
}

// TestNoGetInAPauseOfGets: neither a look that explains a refusal nor the list of devices
// goes while Graph has asked looks to wait.
func TestNoGetInAPauseOfGets(t *testing.T) {
	t.Parallel()
	t.Run("explained", func(t *testing.T) {
		t.Parallel()
		r := followRig(t, graphsim.Config{}, nil)
		_, inside := r.told429(4 * time.Second)
		r.start()
		for i := range 6 {
			device := graphsim.StoryDevice(graphsim.StoryDone, 1, graphsim.StoryVariant(graphsim.Windows, graphsim.Company, ""), i)
			r.publish(reset(fmt.Sprint("w", i), device), nil)
			r.awaitState(fmt.Sprint("w", i), record.Dead)
		}
		if n := inside(); n > 0 {
			t.Errorf("%d GETs in the pause", n)
		}
	})
	t.Run("list", func(t *testing.T) {
		t.Parallel()
		r := followRig(t, graphsim.Config{}, nil)
		begun, inside := r.told429(4 * time.Second)
		r.start()
		r.publish(reset("a", graphsim.GoodDevice(1)), nil)
		// Before the answer is there, the list may go.
		r.await("the worker to know of the pause", func() bool { return begun() && strings.Contains(r.log.String(), "a look at a device failed") })
		for i := range 30 {
			r.publish(reset(fmt.Sprint("r", i), graphsim.FaultDevice(404, 0, 0, i+1)), nil)
		}
		for i := range 30 {
			r.awaitState(fmt.Sprint("r", i), record.Dead)
		}
		if n := inside(); n > 0 {
			t.Errorf("%d GETs in the pause", n)
		}
	})
}

// TestFollowEndsInTime: NATS is silent when the worker is told to stop while it looks at
// devices. It ends within its drain time.
func TestFollowEndsInTime(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, func(c *Config) { c.DrainTimeout = 8 * time.Second })
	p, err := natstest.StartProxy(r.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	r.cfg.NATS.URL = p.URL()
	var looking atomic.Int32
	release := make(chan struct{})
	r.front(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodGet {
			looking.Add(1)
			held(q, release)
		}
		return false
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, r.cfg) }()
	for i := range 5 {
		r.publish(reset(fmt.Sprint("a", i), graphsim.GoodDevice(i)), nil)
	}
	r.awaitEmpty()
	r.await("looks", func() bool { return looking.Load() > 0 })
	p.Swallow()
	close(release)
	begun := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 9*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestFollowLag: looks that come late show, also where they were put back.
func TestFollowLag(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{ReadQuota: 1, Window: 5 * time.Second, RetryAfter: graphsim.Seconds}, nil)
	r.start()
	for i := range 20 {
		r.publish(reset(fmt.Sprint("a", i), graphsim.GoodDevice(i)), nil)
	}
	r.awaitEmpty()
	r.await("a lag", func() bool { return r.metric("follow_lag_seconds") > 0 })
}
