package consume

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// shortPin is long enough for a busy machine, and short enough to wait for.
const shortPin = 2 * time.Second

// setupPin makes the streams, and the consumer with a short pin.
func (r *rig) setupPin() {
	r.t.Helper()
	r.setup(topology.Layout{Memory: true})
	if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
		r.t.Fatal(err)
	}
	cfg := topology.Layout{}.Worker(spec)
	cfg.PinnedTTL = shortPin
	if _, err := r.admin.CreateConsumer(r.ctx, spec.Stream, cfg); err != nil {
		r.t.Fatal(err)
	}
}

// replica is a queue on a connection of its own.
type replica struct {
	*running
	h      *handler
	active atomic.Bool
	terms  atomic.Int32
	ended  chan struct{} // one for each term that has ended
	begun  chan bool     // for each term, whether it continues
}

// replica runs a queue through the rig's proxy, or past it.
func (r *rig) replica(direct bool, slots int, credit func() (int, time.Time, <-chan struct{})) *replica {
	r.t.Helper()
	x := &replica{h: newHandler(), ended: make(chan struct{}, 99), begun: make(chan bool, 99)}
	through := r.js
	if direct {
		r.js = newJetStream(r.t, r.connect(r.server.URL(), ""))
	}
	x.running = r.run(Config{
		Slots: slots, Handle: x.h.handle, Credit: credit,
		Active: x.active.Store,
		Begin: func(soft context.Context, continues bool) {
			x.terms.Add(1)
			x.begun <- continues
			context.AfterFunc(soft, func() { x.ended <- struct{}{} })
		},
	})
	r.js = through
	x.awaitBound()
	return x
}

// unpin takes the pin away, as an operator can.
func (r *rig) unpin() {
	r.t.Helper()
	stream, err := r.admin.Stream(r.ctx, spec.Stream)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := stream.UnpinConsumer(r.ctx, spec.Consumer(), group); err != nil {
		r.t.Fatal(err)
	}
}

// pinnedID is whom the server has pinned.
func (r *rig) pinnedID() string {
	for _, g := range r.info().PriorityGroups {
		return g.PinnedClientID
	}
	return ""
}

// TestContinues: a term continues if the server has delivered nothing to another replica
// since the last message of this one, and nothing that was not taken here.
func TestContinues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setupPin()
	x := r.replica(false, 2, nil)
	term := func(x *replica, what string, want bool) {
		t.Helper()
		r.publish(what)
		take(r, x.h.calls, what).answer <- Ack()
		if got := take(r, x.begun, "the term of "+what); got != want {
			t.Errorf("%s: continues %t", what, got)
		}
	}
	// The next message brings another pin, and so a term.
	unpin := func() {
		t.Helper()
		r.awaitEmpty()
		r.unpin()
	}
	term(x, "the first message", false)
	r.publish("in the term")
	take(r, x.h.calls, "in the term").answer <- Ack()
	unpin()
	term(x, "nothing between", true)
	unpin()
	// Somebody else is given a message: another replica, or one that was here before.
	other := r.replica(true, 2, nil)
	r.unpin()
	x.end()
	term(other, "of another", false)
	unpin()
	term(other, "of another again", true)
	for name, c := range map[string]struct {
		last, first place
		want        bool
	}{
		"next":              {place{1, 0, 7}, place{1, 0, 8}, true},
		"first of all":      {place{}, place{1, 0, 1}, false},
		"another's between": {place{1, 0, 7}, place{1, 0, 9}, false},
		"again":             {place{1, 0, 7}, place{1, 0, 7}, false},
		"made anew":         {place{1, 0, 7}, place{2, 0, 8}, false},
		"another server":    {place{1, 0, 7}, place{1, 1, 8}, false},
		"not known":         {place{1, 0, 7}, place{}, false},
	} {
		if got := c.first.follows(c.last); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestOneWorks has two replicas: one gets all messages, the other none; when the
// first is told to stop, the other works at once.
func TestOneWorks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setupPin()
	first := r.replica(false, 2, nil)
	r.publish("1")
	take(r, first.h.calls, "the first message").answer <- Ack()
	second := r.replica(true, 2, nil)
	for _, m := range []string{"2", "3", "4", "5", "6"} {
		r.publish(m)
		take(r, first.h.calls, "a message").answer <- Ack()
	}
	if !first.active.Load() || second.active.Load() || len(second.h.calls) != 0 {
		t.Errorf("active: first %t, second %t, which has %d messages", first.active.Load(), second.active.Load(), len(second.h.calls))
	}
	r.publish("in work")
	c := take(r, first.h.calls, "a message")
	go first.end()
	take(r, first.ended, "the end of the first's term")
	begun := time.Now()
	r.publish("7")
	take(r, second.h.calls, "a message for the second").answer <- Ack()
	if took := time.Since(begun); took > shortPin {
		t.Errorf("the second took over after %s; it was told to wait for the pin to time out", took)
	}
	c.answer <- Ack() // what was in work comes to its end
	r.awaitEmpty()
	r.await("the second to be active alone", func() bool { return second.active.Load() && !first.active.Load() })
}

// TestTakeover cuts the working replica off: the other works once the pin has
// timed out, and goes on to when the first one is back.
func TestTakeover(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setupPin()
	first := r.replica(false, 2, nil)
	r.publish("1")
	take(r, first.h.calls, "the first message").answer <- Ack()
	second := r.replica(true, 2, nil)
	r.publish("in work")
	c := take(r, first.h.calls, "a message")
	r.proxy.Swallow()
	// It hears nothing, so it cannot know whether it is still the one.
	take(r, first.ended, "the end of the first's term")
	r.await("the pin to time out", func() bool { return r.pinnedID() == "" })
	r.publish("2")
	take(r, second.h.calls, "a message for the second").answer <- Ack()
	if !second.active.Load() {
		t.Error("the second works, but does not say so")
	}
	r.proxy.Heal()
	r.await("the first to be inactive", func() bool { return !first.active.Load() })
	c.answer <- Ack()
	r.awaitEmpty()
	r.publish("3")
	take(r, second.h.calls, "a message for the second").answer <- Ack()
	if len(first.h.calls) != 0 {
		t.Error("the first got a message")
	}
}

// TestPinIsKept while every slot is taken, and while there is no credit: a
// replica that waits is not one that is gone.
func TestPinIsKept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ waiting bool }{"nothing waits": {false}, "messages wait": {true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.setupPin()
			var closed atomic.Bool
			first := r.replica(false, 1, func() (int, time.Time, <-chan struct{}) {
				if closed.Load() {
					return 0, time.Time{}, nil
				}
				return 1, time.Time{}, nil
			})
			r.publish("1")
			m := take(r, first.h.calls, "a message")
			r.replica(true, 1, nil)
			pin := r.pinnedID()
			hold := func(what string) {
				t.Helper()
				if c.waiting {
					r.publish("waits")
				}
				for begun := time.Now(); time.Since(begun) < 3*shortPin; {
					none(r, first.ended, "the term ended though "+what)
				}
				if now := r.pinnedID(); now != pin || pin == "" {
					t.Errorf("%s: pinned %q, then %q", what, pin, now)
				}
			}
			hold("every slot was taken")
			closed.Store(true)
			m.answer <- Ack()
			hold("there was no credit")
			if n := first.terms.Load(); n != 1 {
				t.Errorf("%d terms", n)
			}
			if i := r.info(); i.NumRedelivered != 0 {
				t.Errorf("%d redelivered: keeping the pin must not cost a delivery", i.NumRedelivered)
			}
		})
	}
}

// TestPinLostInWork takes the pin away while a message is in work: no further
// work is to be begun, and the ack of what was done counts.
func TestPinLostInWork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setupPin()
	first := r.replica(false, 1, nil)
	r.publish("1")
	m := take(r, first.h.calls, "a message")
	r.unpin()
	second := r.replica(true, 1, nil)
	r.publish("2")
	take(r, second.h.calls, "a message for the second").answer <- Ack()
	take(r, first.ended, "the end of the first's term")
	m.answer <- Ack()
	r.awaitEmpty()
}

// TestWithoutGroup works on a consumer that pins nobody: each replica works.
func TestWithoutGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
		t.Fatal(err)
	}
	cfg := topology.Layout{}.Worker(spec)
	cfg.PriorityPolicy, cfg.PriorityGroups, cfg.PinnedTTL = jetstream.PriorityPolicyNone, nil, 0
	if _, err := r.admin.CreateConsumer(r.ctx, spec.Stream, cfg); err != nil {
		t.Fatal(err)
	}
	first, second := r.replica(false, 1, nil), r.replica(true, 1, nil)
	r.publish("1", "2")
	a, b := take(r, first.h.calls, "a message"), take(r, second.h.calls, "a message")
	if !first.active.Load() || !second.active.Load() || first.terms.Load() != 1 {
		t.Errorf("active: %t, %t", first.active.Load(), second.active.Load())
	}
	a.answer <- Ack()
	b.answer <- Ack()
	r.awaitEmpty()
}

// TestLatePin gives a replica messages of terms that are over: none begins a term.
func TestLatePin(t *testing.T) {
	t.Parallel()
	begun := []string{}
	now := time.Now()
	n := newTenure(topology.Layout{}.Worker(spec), func(*nats.Msg) (func(*nats.Msg), func()) {
		return func(*nats.Msg) {}, func() {}
	}, func(bool) {})
	deliver := func(pin, asked string, want whose) {
		t.Helper()
		got := n.sort(pin, asked, now)
		if got != want {
			t.Errorf("a message with the pin %q to a pull that names %q: %d, want %d", pin, asked, got, want)
		}
		if got == begins {
			n.start(pin, nil, now)
			begun = append(begun, pin)
		}
	}
	deliver("none", "", late) // nobody has asked
	n.asked(now.Add(testTime))
	deliver("", "", unknown)
	deliver("one", "", begins)
	deliver("one", "one", ofTerm)
	deliver("", "one", ofTerm) // unreadable, but the pull names the pin
	deliver("", "", late)
	n.end() // another replica works
	n.asked(now.Add(testTime))
	deliver("one", "", late)
	deliver("one", "one", late)
	deliver("three", "", begins)
	deliver("one", "", late)
	deliver("three", "three", ofTerm)
	// The pull that was sent after the first term may still wait, though another
	// of the term was sent since: once the pin is lost, the server can choose it.
	deliver("four", "three", begins)
	now = now.Add(2 * testTime)
	deliver("five", "four", late) // the server pins with a pull that names nobody
	if got := strings.Join(begun, " "); got != "one three four" {
		t.Errorf("terms: %s", got)
	}
}

// TestPinIsKeptInDoubt has the working replica look the consumer up in vain: it
// goes on to pull and to renew its pin, so that the standby is not pinned.
func TestPinIsKeptInDoubt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setupPin()
	r.times.api, r.times.patience = testTime, testTime
	first := r.replica(false, 2, nil)
	r.publish("1")
	take(r, first.h.calls, "the first message").answer <- Ack()
	second := r.replica(true, 2, nil)
	r.proxy.SwallowNext(1<<30, func(m natstest.Message) bool {
		return strings.Contains(string(m.Header), "Heartbeat") || strings.Contains(string(m.Data), "consumer_info_response")
	})
	for begun := time.Now(); time.Since(begun) < 3*shortPin; {
		none(r, first.ended, "the term ended though the replica was there")
	}
	r.publish("2")
	select {
	case c := <-first.h.calls:
		c.answer <- Ack()
	case <-second.h.calls:
		t.Error("the standby was pinned")
	case <-r.ctx.Done():
		t.Error("nobody works")
	}
}
