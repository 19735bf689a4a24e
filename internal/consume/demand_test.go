package consume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/topology"
)

// TestInterest tells what makes a queue be pulled.
func TestInterest(t *testing.T) {
	t.Parallel()
	const linger = 10 * time.Second
	start := time.Unix(1e9, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	empty := &jetstream.ConsumerInfo{}
	waiting := &jetstream.ConsumerInfo{NumPending: 1}
	unacked := &jetstream.ConsumerInfo{NumAckPending: 1}
	taken := &jetstream.ConsumerInfo{NumPending: 1, PriorityGroups: []jetstream.PriorityGroupState{{Group: group, PinnedClientID: "x"}}}
	paused := &jetstream.ConsumerInfo{NumPending: 1, Paused: true}
	type seen struct {
		at   int
		info *jetstream.ConsumerInfo
	}
	for _, c := range []struct {
		what     string
		disowned bool
		stirred  int // 0: never
		seen     []seen
		now      int
		rests    bool
		want     wish
	}{
		{"nothing is known", false, 0, nil, 100, true, doubted},
		{"nothing is known of another's", true, 0, nil, 100, true, left},
		{"seen to be empty", false, 0, []seen{{1, empty}}, 100, true, rested},
		{"seen to be empty, but must not rest", false, 0, []seen{{1, empty}}, 100, false, pulled},
		{"another's must not rest, and is not pulled", true, 0, []seen{{1, waiting}}, 5, false, left},
		{"a message after it was seen to be empty, for long", false, 2, []seen{{1, empty}}, 100, true, doubted},
		{"a message after it was seen to be empty", false, 2, []seen{{1, empty}}, 11, true, pulled},
		{"seen to be empty by a question from before the message", false, 3, []seen{{2, empty}}, 100, true, doubted},
		{"empty since, a moment ago", false, 2, []seen{{3, empty}}, 11, true, pulled},
		{"empty since, for long", false, 2, []seen{{3, empty}}, 12, true, rested},
		{"something waits", false, 0, []seen{{1, empty}, {20, waiting}}, 29, true, pulled},
		{"something waits for its acknowledgement, or its second try", false, 0, []seen{{1, empty}, {20, unacked}}, 100, true, doubted},
		{"another's wait, and it was seen once", true, 0, []seen{{1, waiting}}, 100, true, left},
		{"another's wait for a moment", true, 0, []seen{{1, waiting}, {10, waiting}}, 100, true, left},
		{"another's wait for long", true, 0, []seen{{1, waiting}, {11, waiting}}, 12, true, pulled},
		{"another's wait for long, and are worked on in between", true, 0, []seen{{1, waiting}, {6, taken}, {12, waiting}}, 13, true, left},
		{"another's wait for long, and it is paused", true, 0, []seen{{1, paused}, {30, paused}}, 31, true, left},
		{"another's waited for long, and are done", true, 0, []seen{{1, waiting}, {11, waiting}, {20, empty}}, 21, true, left},
		{"another's waited for long, and are being done here", true, 0, []seen{{1, waiting}, {11, waiting}, {13, taken}}, 14, true, pulled},
	} {
		var i interest
		i.disowned = c.disowned
		if c.stirred > 0 {
			i.stirred = at(c.stirred)
		}
		for _, s := range c.seen {
			i.saw(s.info, at(s.at))
		}
		if got := i.wish(at(c.now), c.rests, linger); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// TestSeenAgain: what is seen of a queue that rests wakes it only where that changes
// something; a look sees thousands of them.
func TestSeenAgain(t *testing.T) {
	t.Parallel()
	const linger = 10 * time.Second
	start := time.Unix(1e9, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	taken := &jetstream.ConsumerInfo{PriorityGroups: []jetstream.PriorityGroupState{{Group: group, PinnedClientID: "x"}}}
	worked := &jetstream.ConsumerInfo{Delivered: jetstream.SequenceInfo{Consumer: 1}}
	for _, c := range []struct {
		what     string
		disowned bool
		info     *jetstream.ConsumerInfo
		rests    bool
		wakes    bool
	}{
		{"empty as before", false, &jetstream.ConsumerInfo{}, true, false},
		{"another's, as before", true, &jetstream.ConsumerInfo{}, true, false},
		{"another's, in which messages wait", true, &jetstream.ConsumerInfo{NumPending: 1}, true, false},
		{"a message waits", false, &jetstream.ConsumerInfo{NumPending: 1}, true, true},
		{"a message waits for its acknowledgement", false, &jetstream.ConsumerInfo{NumAckPending: 1}, true, true},
		{"another replica works on it", false, taken, true, true},
		{"a message was worked on", false, worked, true, true},
		{"it must not rest", false, &jetstream.ConsumerInfo{}, false, true},
	} {
		d := newDemand()
		d.update(func(d *demand) { d.interest.disowned = c.disowned })
		d.saw(&jetstream.ConsumerInfo{}, at(1), at(1), true, linger)
		<-d.changed
		if pulls, _ := d.rest(at(2), true, linger); pulls {
			t.Errorf("%s: it is pulled", c.what)
		}
		d.saw(c.info, at(3), at(3), c.rests, linger)
		if woken := len(d.changed) > 0; woken != c.wakes {
			t.Errorf("%s: woken %t", c.what, woken)
		}
	}
}

// rester runs a queue that may rest, wakes it by the server's words, and looks at the
// consumer now and then.
func (r *rig) rester(direct bool, h *handler, terms *atomic.Int32, active *atomic.Bool) *running {
	r.t.Helper()
	through := r.js
	if direct {
		r.js = newJetStream(r.t, r.connect(r.server.URL(), ""))
	}
	w := r.run(Config{
		Handle: h.handle, Active: active.Store, Begin: func(context.Context, bool) { terms.Add(1) },
		Rests: func() bool { return true },
	})
	sub, err := r.js.Conn().Subscribe(spec.Wakes(), func(*nats.Msg) { w.q.Wake() })
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = sub.Unsubscribe() }) // the connection is closed next
	r.js = through
	w.awaitBound()
	return w
}

// look tells a queue what the server says of its consumer.
func (w *running) look() {
	w.r.t.Helper()
	asked := time.Now()
	w.q.Saw(w.r.info(), asked)
}

// awaitRest looks until no pull waits at the server.
func (w *running) awaitRest() {
	w.r.t.Helper()
	w.r.await("the queue to rest", func() bool { w.look(); return w.r.info().NumWaiting == 0 })
}

// TestRests works, rests with nothing at the server, and works again when it is woken.
// Meanwhile it still counts as the one that works.
func TestRests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	var terms atomic.Int32
	var active atomic.Bool
	h := newHandler()
	w := r.rester(false, h, &terms, &active)
	for n := range 3 {
		r.publish(fmt.Sprint(n))
		take(r, h.calls, "a message").answer <- Ack()
		r.awaitEmpty()
		w.awaitRest()
		r.await("nobody to be pinned", func() bool { return r.pinnedID() == "" })
		if !active.Load() {
			t.Error("it is not active while it rests")
		}
		if got := terms.Load(); got != int32(n+1) {
			t.Errorf("%d terms after %d messages", got, n+1)
		}
	}
	// A message that waits for its second try keeps it awake.
	r.publish("again")
	take(r, h.calls, "a message").answer <- Nak(3 * r.times.linger)
	r.await("the message to be given back", func() bool { return r.info().NumAckPending == 1 })
	deadline := time.Now().Add(2 * r.times.linger)
	r.await("the second try to be near", func() bool { w.look(); return time.Now().After(deadline) })
	if r.info().NumWaiting == 0 {
		t.Error("it rests while a message waits for its second try")
	}
	take(r, h.calls, "the second try").answer <- Ack()
	r.awaitEmpty()
	w.awaitRest()
	w.stop()
	if active.Load() {
		t.Error("it is active after its end")
	}
}

// TestMessagesAtTheEdgeOfRest publishes at all instants of falling asleep and of waking.
// None waits for more than the way to the queue and back.
func TestMessagesAtTheEdgeOfRest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	// The server tells of a message before its consumer counts it, some milliseconds on a busy
	// machine. A queue that does not linger for longer would take itself for empty.
	r.times.linger, r.times.expiry, r.times.heartbeat = 100*time.Millisecond, 40*time.Millisecond, 20*time.Millisecond
	var terms atomic.Int32
	var active atomic.Bool
	h := newHandler()
	w := r.rester(false, h, &terms, &active)
	for n := range 80 {
		r.awaitEmpty()
		// The pull that waits ends, and with it the queue's interest.
		edge := time.Now().Add(rand.N(200 * time.Millisecond))
		for looked := false; !looked || time.Now().Before(edge); looked = true {
			w.look()
		}
		r.publish(fmt.Sprint(n))
		begun := time.Now()
		take(r, h.calls, "a message").answer <- Ack()
		if took := time.Since(begun); took > atOnce {
			t.Fatalf("message %d was taken after %s", n, took)
		}
	}
	r.awaitEmpty()
	if terms.Load() < 10 {
		t.Errorf("it rested %d times only: the test has tried nothing", terms.Load())
	}
}

// TestWakeUpLost has the look find what the wake-up did not tell.
func TestWakeUpLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	h := newHandler()
	w := r.run(Config{Handle: h.handle, Rests: func() bool { return true }})
	w.awaitBound()
	r.await("the first pull", func() bool { return r.info().NumWaiting == 1 })
	w.awaitRest()
	r.publish("1")
	none(r, h.calls, "a queue that nobody has woken takes a message")
	w.look()
	take(r, h.calls, "the message").answer <- Ack()
	r.awaitEmpty()
}

// TestStartsAtRest binds to what is seen to be there and empty without a call to the
// server, and finds out by the first pull that the consumer has gone since.
func TestStartsAtRest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	h := newHandler()
	asked, info := time.Now(), r.info()
	w := &running{r: r, bound: make(chan error, 999), done: make(chan struct{})}
	w.q = New(r.js, Config{
		Names: spec, Setup: true, Layout: topology.Layout{Memory: true}, Slots: 1, Handle: h.handle, Rests: func() bool { return true },
		Bound: func(err error) { w.bound <- err }, Log: zap.NewNop(),
	})
	w.q.times = r.times
	w.q.Saw(info, asked)
	before := r.nc.Stats().OutMsgs
	soft, end := context.WithCancel(r.ctx)
	w.end = end
	go func() {
		defer close(w.done)
		w.q.Run(soft, r.ctx)
	}()
	w.awaitBound()
	if n := r.nc.Stats().OutMsgs - before; n != 0 {
		t.Errorf("%d calls to the server", n)
	}
	if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
		t.Fatal(err)
	}
	r.publish("1")
	w.q.Wake()
	take(r, h.calls, "the message").answer <- Ack()
	r.awaitEmpty()
	w.stop()
}

// TestOwners hands a queue from one replica to another and back. What is sent to the
// one that leaves while it does may have to wait for the ack wait.
func TestOwners(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setupAckWait(topology.Layout{Memory: true}, 2*time.Second)
	var firstActive, secondActive atomic.Bool
	var terms atomic.Int32
	h1, h2 := newHandler(), newHandler()
	first := r.rester(false, h1, &terms, &firstActive)
	r.publish("1")
	take(r, h1.calls, "a message").answer <- Ack()
	second := r.rester(true, h2, &terms, &secondActive)
	second.q.Own(false)
	r.await("one pull", func() bool { return r.info().NumWaiting == 1 })
	r.publish("2")
	c := take(r, h1.calls, "a message")
	// until publishes until a handler has had a message that the other has not.
	until := func(wanted, other *handler) {
		t.Helper()
		for {
			r.publish("next")
			select {
			case m := <-other.calls: // it was on its way
				m.answer <- Ack()
			case m := <-wanted.calls:
				m.answer <- Ack()
				return
			case <-r.ctx.Done():
				t.Fatal("the queue is not handed over")
			}
		}
	}
	first.q.Own(false)
	second.q.Own(true)
	until(h2, h1)
	c.answer <- Ack() // what was in work comes to its end
	r.awaitEmpty()
	r.await("the second to be active alone", func() bool { return secondActive.Load() && !firstActive.Load() })
	first.q.Own(true)
	second.q.Own(false)
	until(h1, h2)
	r.awaitEmpty()
}

// TestOrphans has a replica take what waits for one that does not work.
func TestOrphans(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	h := newHandler()
	w := r.run(Config{Handle: h.handle, Rests: func() bool { return true }})
	w.q.Own(false)
	r.await("no pull", func() bool { return r.info().NumWaiting == 0 })
	r.publish("1")
	info, now := r.info(), time.Now()
	r.await("the consumer to know of it", func() bool {
		info = r.info()
		return info.NumPending == 1
	})
	w.q.Saw(info, now)
	none(r, h.calls, "another's message is taken at once")
	w.q.Saw(info, now.Add(orphanAfter))
	take(r, h.calls, "the message").answer <- Ack()
	r.awaitEmpty()
	w.awaitRest()
}
