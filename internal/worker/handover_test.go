package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/handover"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// handedOn is what the replicas have written down.
func (r *rig) handedOn() handover.Snapshot {
	s, err := handover.Open(context.Background(), r.js, r.names.StateBucket())
	if err != nil {
		return handover.Snapshot{}
	}
	w, _, err := s.Snapshot(context.Background(), "default")
	if err != nil {
		r.t.Fatal(err)
	}
	return w
}

// successor is a worker on a page of its own; the one before may still run.
func (r *rig) successor() *rig {
	next := *r
	next.addr = lowAddr(r.t)
	next.cfg.HTTPAddr = next.addr
	return &next
}

// finish stops a worker that was not waited for to be ready.
func finish(t *testing.T, stop func(), done <-chan error) {
	t.Helper()
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestPauseIsHandedOn restarts a worker inside an announced pause.
func TestPauseIsHandedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	stop := r.start()
	r.publish(reset("INC1", graphsim.FaultDevice(429, 1, 3, 1)), nil) // a date two seconds ahead
	r.await("the pause to be handed on", func() bool { return !r.handedOn().PausedUntil.IsZero() })
	stop()
	r.publish(reset("INC2", graphsim.GoodDevice(2)), nil)
	again := r.successor()
	again.start()
	again.awaitState("INC2", record.Accepted)
	again.awaitState("INC1", record.Accepted)
	if n := r.sim.Status().DuringRetry; n != 0 {
		t.Errorf("%d calls inside the pause", n)
	}
}

// TestPauseOfTheLastCallIsHandedOn stops a worker while the call is in flight to
// which the pause is announced.
func TestPauseOfTheLastCallIsHandedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 500 * time.Millisecond}, nil)
	stop := r.start()
	r.publish(reset("INC1", graphsim.FaultDevice(429, 1, 3, 1)), nil)
	r.await("the call", func() bool { return r.sim.Status().Posts == 1 })
	stop()
	if until := r.handedOn().PausedUntil; until.IsZero() {
		t.Errorf("handed on: %+v", r.handedOn())
	}
}

// TestPauseIsReadFromTheRecords has no state to read: the worker was killed
// before it could write it, which a missing bucket stands for.
func TestPauseIsReadFromTheRecords(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	stop := r.start()
	r.publish(reset("INC1", graphsim.FaultDevice(429, 1, 3, 1)), nil)
	r.awaitState("INC1", record.Retrying)
	stop()
	if err := r.js.DeleteKeyValue(context.Background(), r.names.StateBucket()); err != nil {
		t.Fatal(err)
	}
	r.publish(reset("INC2", graphsim.GoodDevice(2)), nil)
	again := r.successor()
	again.start()
	again.awaitState("INC2", record.Accepted)
	if again.metric(`paused_until_timestamp_seconds{tenant="default"}`) == 0 {
		t.Error("the pause is not shown")
	}
	if n := r.sim.Status().DuringRetry; n != 0 {
		t.Errorf("%d calls inside the pause", n)
	}
}

// TestWindowIsHandedOn restarts a worker that has used its window up.
func TestWindowIsHandedOn(t *testing.T) {
	t.Parallel()
	const window = 4 * time.Second
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Tenants[0].Rate = pace.Rate{N: 5, W: window} })
	stop := r.start()
	for i := range 5 {
		r.publish(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
	}
	r.await("five resets", func() bool { return r.sim.Status().Executed == 5 })
	stop()
	for i := range 3 {
		r.publish(reset(fmt.Sprint("NEXT", i), graphsim.GoodDevice(9+i)), nil)
	}
	again := r.successor()
	again.start()
	r.awaitEmpty()
	calls := r.sim.Calls()
	for i, c := range calls {
		if i >= 5 && c.Time.Sub(calls[i-5].Time) < window {
			t.Errorf("call %d came %s after the fifth before it", i, c.Time.Sub(calls[i-5].Time))
		}
	}
}

// TestHoldIsHandedOn restarts a worker again and again while Graph fails: each
// begins in the hold, so that no request loses attempts.
func TestHoldIsHandedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	stop := r.start()
	r.sim.SetOutage(graphsim.Outage500)
	const n = 30
	for i := range n {
		r.publish(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
	}
	r.await("the hold to be handed on", func() bool { h := r.handedOn().Hold; return h != nil && h.Cause == "graph_unavailable" })
	counted := func() (sum int) {
		for i := range n {
			rec := r.record(fmt.Sprint("INC", i))
			sum += rec.Attempts - rec.HeldAttempts
		}
		return sum
	}
	before := counted()
	for range 4 {
		stop()
		next := r.successor()
		posts := r.sim.Status().Posts
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- Run(ctx, next.cfg) }()
		stop = func() { finish(t, cancel, done) }
		r.await("a probe", func() bool {
			s := r.sim.Status()
			return s.Posts > posts || s.Gets > 0 && strings.Contains(r.log.String(), "goes on")
		})
	}
	if after := counted(); after > before {
		t.Errorf("%d attempts were used up by restarts", after-before)
	}
	r.sim.SetOutage(graphsim.OutageNone)
	r.awaitEmpty()
	stop()
	for i := range n {
		if rec := r.record(fmt.Sprint("INC", i)); rec.State != record.Accepted {
			t.Errorf("%+v", rec)
		}
	}
	if h := r.handedOn().Hold; h != nil {
		t.Errorf("still handed on: %+v", h)
	}
}

// TestHandedOnWithReplyLost loses the reply to the write of a hold that is over
// before the write is tried again: the hold must not stay written down.
func TestHandedOnWithReplyLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	proxy, err := natstest.StartProxy(r.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	r.cfg.NATS.URL = proxy.URL()
	lost := proxy.SwallowNext(1, natstest.PubAck("KV_"+r.names.StateBucket()))
	r.start()
	r.sim.SetOutage(graphsim.OutagePermission)
	for i := range 3 {
		r.publish(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
	}
	select {
	case <-lost:
	case <-time.After(testTime):
		t.Fatal("the hold was never written")
	}
	if h := r.handedOn().Hold; h == nil {
		t.Fatal("the write whose reply was lost has had no effect")
	}
	r.sim.SetOutage(graphsim.OutageNone)
	r.awaitEmpty()
	r.await("the hold to be taken back", func() bool { return r.handedOn().Hold == nil })
}

// TestFuse holds the tenant when one device too many would be reset, over
// restarts, until it is released; then it counts anew.
func TestFuse(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Fuse = pace.Rate{N: 3, W: time.Hour} })
	stop := r.start()
	publish := func(id string, device int) { r.publish(reset(id, graphsim.GoodDevice(device)), nil) }
	for i := range 3 {
		publish(fmt.Sprint("INC", i), i)
	}
	r.await("three resets", func() bool { return r.sim.Status().Executed == 3 })
	publish("SAME", 0) // no further device
	r.awaitState("SAME", record.Accepted)
	publish("INC3", 3)
	publish("INC4", 4)
	const blown = `hold{cause="fuse",tenant="default"}`
	r.await("the fuse to blow", func() bool { return r.metric(blown) == 1 })
	r.await("that to be handed on", func() bool { return !r.handedOn().FuseBlownAt.IsZero() })
	if code, body := r.get("/readyz"); code != 503 || !strings.Contains(body, "worker resume") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	stop()
	again := r.successor()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, again.cfg) }()
	defer finish(t, cancel, done)
	again.await("the fuse to be blown still", func() bool { return again.metric(blown) == 1 })
	if n := r.sim.Status().Executed; n != 4 || r.waiting() != 2 {
		t.Errorf("%d resets, %d requests wait", n, r.waiting())
	}
	s, err := handover.Open(context.Background(), r.js, r.names.StateBucket())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Release(context.Background(), "default"); err != nil {
		t.Fatal(err)
	}
	r.awaitEmpty()
	again.await("the hold to end", func() bool { return again.metric(blown) == 0 })
	publish("INC5", 5)
	r.awaitState("INC5", record.Accepted)
	publish("INC6", 6)
	again.await("the fuse to blow again", func() bool { return again.metric(blown) == 1 })
	r.await("the seventh reset", func() bool { return r.sim.Status().Executed >= 7 && r.waiting() == 1 })
	if n := r.sim.Status().Executed; n != 7 {
		t.Errorf("%d resets, want 7", n)
	}
}

// answer has the server store its PubAck under a key of the state bucket, n times,
// which is open to whoever may publish anything.
func (r *rig) answer(key string, n int) {
	r.t.Helper()
	last := func() uint64 {
		s, err := r.js.Stream(context.Background(), "KV_"+r.names.StateBucket())
		if err != nil {
			r.t.Fatal(err)
		}
		return s.CachedInfo().State.LastSeq
	}
	subject, before := "$KV."+r.names.StateBucket()+".", last()
	for range n {
		if err := r.nc.PublishMsg(&nats.Msg{Subject: subject + "none.x", Reply: subject + key}); err != nil {
			r.t.Fatal(err)
		}
	}
	r.await("the answers to be stored", func() bool { return last() >= before+uint64(2*n) })
}

// TestFuseStaysBlown whatever a publisher has stored in the state bucket, while
// the worker runs and while it does not.
func TestFuseStaysBlown(t *testing.T) {
	t.Parallel()
	const window = 10 * time.Second
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Fuse = pace.Rate{N: 2, W: window} })
	stop := r.start()
	for i := range 4 {
		r.publish(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
	}
	const blown = `hold{cause="fuse",tenant="default"}`
	r.await("the fuse to blow", func() bool { return r.metric(blown) == 1 })
	kv, err := r.js.KeyValue(context.Background(), r.names.StateBucket())
	if err != nil {
		t.Fatal(err)
	}
	// lies reports whether the very last value says that the fuse has blown.
	lies := func() bool {
		e, err := kv.Get(context.Background(), "default.worker")
		return err == nil && strings.Contains(string(e.Value()), "fuseBlownAt")
	}
	r.await("that to be handed on", lies)
	r.answer("default.operator", 20)
	r.answer("default.worker", 20)
	r.await("that to be handed on again", lies)
	if _, err := kv.Put(context.Background(), "default.worker", []byte(`{"worker":"forged"}`)); err != nil {
		t.Fatal(err)
	}
	r.await("that to be handed on in place of a forged state", lies)
	if err := kv.Purge(context.Background(), "default.worker"); err != nil {
		t.Fatal(err)
	}
	r.await("that to be handed on after a purge", lies)
	check := func(r *rig) {
		t.Helper()
		if n := r.sim.Status().Executed; n != 2 || r.metric(blown) != 1 {
			t.Errorf("%d resets, want 2; hold: %g", n, r.metric(blown))
		}
	}
	check(r)
	// From here on it would not blow again: the records say nothing of it.
	r.await("the window to pass", func() bool { return time.Since(r.handedOn().FuseBlownAt) > window })
	stop()
	r.answer("default.worker", 5) // it lies below them
	run := func(f func(*rig)) {
		again := r.successor()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- Run(ctx, again.cfg) }()
		defer finish(t, cancel, done)
		again.await("the fuse to be blown still", func() bool { return again.metric(blown) == 1 })
		again.await("that to be handed on anew", lies)
		check(again)
		f(again)
	}
	run(func(*rig) {})
	r.answer("default.worker", 20) // nothing is left of it
	r.answer("default.operator", 20)
	run(func(again *rig) {
		s, err := handover.Open(context.Background(), r.js, r.names.StateBucket())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Release(context.Background(), "default"); err != nil {
			t.Fatal(err)
		}
		r.answer("default.operator", 5)
		r.awaitEmpty()
		again.await("the hold to end", func() bool { return again.metric(blown) == 0 })
	})
}

// TestFuseCountsOverRestarts counts what a worker before has begun.
func TestFuseCountsOverRestarts(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Fuse = pace.Rate{N: 3, W: time.Hour} })
	stop := r.start()
	for i := range 2 {
		r.publish(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
	}
	r.awaitEmpty()
	stop()
	again := r.successor()
	again.start()
	for i := range 2 {
		r.publish(reset(fmt.Sprint("NEXT", i), graphsim.GoodDevice(5+i)), nil)
	}
	again.await("the fuse to blow", func() bool { return again.metric(`hold{cause="fuse",tenant="default"}`) == 1 })
	r.await("the third reset", func() bool { return r.sim.Status().Executed >= 3 && r.waiting() == 1 })
	if n := r.sim.Status().Executed; n != 3 {
		t.Errorf("%d resets, want 3", n)
	}
}

// TestCooldown refuses another request for a device that was just reset, also
// by a worker before, but not the same request once more.
func TestCooldown(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Cooldown = time.Hour })
	stop := r.start()
	device := graphsim.GoodDevice(1)
	r.publish(reset("INC1", device), nil)
	r.awaitState("INC1", record.Accepted)
	r.publish(reset("INC2", device), nil)
	if rec := r.awaitState("INC2", record.Dead); rec.Reason != "cooldown" || rec.Attempts != 0 || !strings.Contains(rec.Detail, "another request") {
		t.Errorf("%+v", rec)
	}
	r.publish(reset("INC1", device), nil)
	r.awaitEmpty()
	stop()
	again := r.successor()
	again.start()
	r.publish(reset("INC3", device), nil)
	if rec := r.awaitState("INC3", record.Dead); rec.Reason != "cooldown" {
		t.Errorf("after a restart: %+v", rec)
	}
	if rec := r.record("INC1"); rec.State != record.Accepted || r.sim.Resets(device) != 1 || len(r.letters()) != 2 {
		t.Errorf("%+v, %d resets, %d letters", rec, r.sim.Resets(device), len(r.letters()))
	}
}

// TestCooldownOfTwoAtOnce has two requests for one device in the same moment.
func TestCooldownOfTwoAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 200 * time.Millisecond}, func(c *Config) { c.Cooldown = time.Hour })
	device := graphsim.GoodDevice(1)
	if _, err := topology.Setup(context.Background(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		r.publish(reset(fmt.Sprint("INC", i), device), nil)
	}
	r.start()
	r.awaitEmpty()
	if n := r.sim.Resets(device); n != 1 || len(r.letters()) != 7 {
		t.Errorf("%d resets, %d letters", n, len(r.letters()))
	}
}

// TestPausedByAnOperator shows it, and stays ready.
func TestPausedByAnOperator(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	const paused = `hold{cause="paused",tenant="default"}`
	ctx := context.Background()
	if _, err := r.js.PauseConsumer(ctx, r.names.Stream, r.names.Consumer(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.await("the pause to be seen", func() bool { return r.metric(paused) == 1 })
	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	if code, body := r.get("/readyz"); code != 200 || !strings.Contains(body, `"paused"`) || !strings.Contains(body, "paused until 2") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	// As worker pause does without an end.
	if _, err := r.js.PauseConsumer(ctx, r.names.Stream, r.names.Consumer(), topology.Forever()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/readyz", "/"} {
		r.await(path+" to tell that it has no end", func() bool {
			_, body := r.get(path)
			return strings.Contains(body, "paused until resumed")
		})
	}
	if _, err := r.js.ResumeConsumer(ctx, r.names.Stream, r.names.Consumer()); err != nil {
		t.Fatal(err)
	}
	r.awaitState("INC1", record.Accepted)
	r.await("the end to be seen", func() bool { return r.metric(paused) == 0 })
}

// TestFuseCountsAnewAfterResume releases a fuse that has not blown: the count
// begins anew, as it does where the fuse has blown.
func TestFuseCountsAnewAfterResume(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Fuse = pace.Rate{N: 2, W: time.Hour} })
	r.start()
	for i := range 2 {
		r.publish(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
	}
	r.awaitEmpty()
	// As worker pause and worker resume do. Once the pause is seen, so is what was
	// written before it.
	ctx := context.Background()
	r.release()
	if _, err := r.js.PauseConsumer(ctx, r.names.Stream, r.names.Consumer(), topology.Forever()); err != nil {
		t.Fatal(err)
	}
	r.await("the pause to be seen", func() bool { return r.metric(`hold{cause="paused",tenant="default"}`) == 1 })
	if _, err := r.js.ResumeConsumer(ctx, r.names.Stream, r.names.Consumer()); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		r.publish(reset(fmt.Sprint("NEXT", i), graphsim.GoodDevice(5+i)), nil)
	}
	r.awaitEmpty()
	r.publish(reset("LAST", graphsim.GoodDevice(9)), nil)
	r.await("the fuse to blow", func() bool { return r.metric(`hold{cause="fuse",tenant="default"}`) == 1 })
	if n := r.sim.Status().Executed; n != 4 {
		t.Errorf("%d resets, want 4", n)
	}
}

// release does what worker resume does to a fuse.
func (r *rig) release() {
	r.t.Helper()
	s, err := handover.Open(context.Background(), r.js, r.names.StateBucket())
	if err == nil {
		err = s.Release(context.Background(), "default")
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestFuseOutlivesItsBucket removes the bucket of the state while the fuse is
// blown: it is made again, says so again, and the fuse can be released.
func TestFuseOutlivesItsBucket(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Fuse = pace.Rate{N: 1, W: time.Hour} })
	r.start()
	for i := range 2 {
		r.publish(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
	}
	r.await("the fuse to be handed on", func() bool { return !r.handedOn().FuseBlownAt.IsZero() })
	if err := r.js.DeleteKeyValue(context.Background(), r.names.StateBucket()); err != nil {
		t.Fatal(err)
	}
	r.await("the fuse to be handed on again", func() bool { return !r.handedOn().FuseBlownAt.IsZero() })
	r.release()
	r.awaitEmpty()
}
