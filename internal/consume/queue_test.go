package consume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// TestSlots looks at the server while handlers block: it never has more messages
// out than there are slots and half as many, beside those whose ack is on its way.
func TestSlots(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 3} {
		t.Run(fmt.Sprint(slots), func(t *testing.T) {
			r, h := newRig(t), newHandler()
			r.setup(topology.Layout{Memory: true})
			const n = 12
			for i := range n {
				r.publish(fmt.Sprint(i))
			}
			w, hand := r.run(Config{Slots: slots, Handle: h.handle}), slots+slots/2
			seen := map[string]bool{}
			r.await("all slots taken", func() bool { return r.info().NumAckPending == hand })
			for range 20 {
				if i := r.info(); i.NumAckPending != hand || i.NumWaiting != 0 {
					t.Fatalf("%d messages out and %d pulls wait, with %d slots taken", i.NumAckPending, i.NumWaiting, slots)
				}
			}
			for range n {
				if i := r.info(); i.NumAckPending > hand+1 { // one ack at a time here
					t.Fatalf("%d messages out with %d slots", i.NumAckPending, slots)
				}
				c := take(r, h.calls, "a message")
				seen[string(c.Data)] = true
				if c.Stream != spec.Stream || c.Subject != spec.Filter() || c.Delivered != 1 || c.Sequence == 0 || time.Since(c.Published) > testTime {
					t.Errorf("%+v", c.Message)
				}
				c.answer <- Ack()
			}
			r.awaitEmpty()
			w.stop()
			if h.peak() != slots || len(seen) != n {
				t.Errorf("%d in work at a time, want %d; %d messages, want %d", h.peak(), slots, len(seen), n)
			}
			if i := r.info(); i.NumRedelivered != 0 || i.NumAckPending != 0 {
				t.Errorf("redelivered %d, pending %d", i.NumRedelivered, i.NumAckPending)
			}
		})
	}
}

// TestWaitsForSlot has messages wait for a slot: there are not more than the credit
// allows, nobody asks for more all the time, the server delivers none of them again
// meanwhile, and they are given back as soon as nothing further is to be begun.
func TestWaitsForSlot(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	const (
		ackWait = 600 * time.Millisecond
		slots   = 4
		credit  = 1
	)
	r.setupAckWait(topology.Layout{Memory: true}, ackWait)
	for i := range 2 * slots {
		r.publish(fmt.Sprint(i))
	}
	var asked atomic.Int64
	w := r.run(Config{Slots: slots, Handle: h.handle, Credit: func() (int, time.Time, <-chan struct{}) {
		asked.Add(1)
		return credit, time.Now(), nil // as the pacer answers
	}})
	var calls []call
	for range slots {
		calls = append(calls, take(r, h.calls, "a message"))
	}
	r.await("one to wait", func() bool { return r.info().NumAckPending == slots+credit })
	for begun := time.Now(); time.Since(begun) < 3*ackWait; {
		if i := r.info(); i.NumAckPending != slots+credit || i.NumRedelivered != 0 {
			t.Fatalf("%d messages out, %d of them again", i.NumAckPending, i.NumRedelivered)
		}
	}
	if n := asked.Load(); n > 1000 {
		t.Errorf("the credit was asked for %d times", n)
	}
	w.end()
	left := map[string]bool{}
	for range slots {
		left[r.next()] = true // while the others are still in work
	}
	for _, c := range calls {
		delete(left, string(c.Data))
	}
	if len(left) != slots {
		t.Errorf("given back, or never taken: %v", left)
	}
	none(r, h.calls, "what waited was handled")
	for _, c := range calls {
		c.answer <- Ack()
	}
	r.receive(w.done, "the end of Run")
}

// TestTwoWorkers shares one consumer.
func TestTwoWorkers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	const n = 200
	for i := range n {
		r.publish(fmt.Sprint(i))
	}
	var mu sync.Mutex
	times := map[string]int{}
	for range 2 {
		r.run(Config{Setup: true, Handle: func(_, _ context.Context, m Message) Disposition {
			mu.Lock()
			defer mu.Unlock()
			times[string(m.Data)]++
			return Ack()
		}})
	}
	r.awaitEmpty()
	mu.Lock()
	defer mu.Unlock()
	for m, k := range times {
		if k != 1 {
			t.Errorf("message %s was handled %d times", m, k)
		}
	}
	if len(times) != n {
		t.Errorf("%d messages handled, want %d", len(times), n)
	}
}

func TestNakAtOnce(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.run(Config{Setup: true, Slots: 1, Handle: h.handle}).awaitBound()
	r.publish("a")
	begun := time.Now()
	for i, d := range []Disposition{Nak(0), {}, Nak(-time.Hour), Ack()} {
		c := take(r, h.calls, "the message")
		if c.Delivered != uint64(i+1) {
			t.Errorf("delivery %d is the message's %d.", i+1, c.Delivered)
		}
		c.answer <- d
	}
	r.awaitEmpty()
	if took := time.Since(begun); took > atOnce {
		t.Errorf("it took %s", took)
	}
}

func TestNakDelayed(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.run(Config{Setup: true, Slots: 1, Handle: h.handle}).awaitBound()
	const delay = 700 * time.Millisecond
	r.publish("waits", "next")
	c := take(r, h.calls, "the first message")
	begun := time.Now()
	c.answer <- Nak(delay)
	// The only slot is free meanwhile.
	c = take(r, h.calls, "the second message")
	if took := time.Since(begun); string(c.Data) != "next" || took > delay {
		t.Errorf("%q after %s", c.Data, took)
	}
	c.answer <- Ack()
	c = take(r, h.calls, "the first message again")
	if took := time.Since(begun); string(c.Data) != "waits" || c.Delivered != 2 || took < delay || took > delay+atOnce {
		t.Errorf("%q, delivery %d, after %s, want it after %s", c.Data, c.Delivered, took, delay)
	}
	c.answer <- Ack()
	r.awaitEmpty()
}

func TestHeartbeats(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	const ackWait = 600 * time.Millisecond
	r.setupAckWait(topology.Layout{Memory: true}, ackWait)
	w := r.run(Config{Setup: true, Handle: h.handle})
	r.publish("a")
	c := take(r, h.calls, "the message")
	select {
	case again := <-h.calls:
		t.Errorf("delivered again: %+v", again.Message)
	case <-time.After(3 * ackWait):
	}
	c.answer <- Ack()
	r.awaitEmpty()
	w.stop()
	if got := w.warnings(); len(got) != 0 {
		t.Error(got)
	}
}

// TestOutlivesAckWait keeps the heartbeats from the server: another slot gets
// the message, and both verdicts are taken.
func TestOutlivesAckWait(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.setupAckWait(topology.Layout{Memory: true}, 300*time.Millisecond)
	w := r.run(Config{Setup: true, Slots: 2, Handle: h.handle})
	r.publish("a")
	first := take(r, h.calls, "the message")
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	r.await("the end of the ack wait", func() bool { return r.info().NumRedelivered > 0 || time.Since(first.Published) > time.Second })
	r.proxy.Heal()
	second := take(r, h.calls, "the message again")
	if second.Delivered < 2 || second.Sequence != first.Sequence {
		t.Errorf("%+v", second.Message)
	}
	second.answer <- Ack()
	r.awaitEmpty()
	first.answer <- Ack()
	w.stop()
	if got := w.warnings(); len(got) != 0 {
		t.Error(got)
	}
}

// TestAckConfirmed loses confirmations of an ack: it is repeated.
func TestAckConfirmed(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Handle: h.handle})
	w.awaitBound()
	r.publish("a")
	lost := r.proxy.SwallowNext(1, natstest.AckConfirmation)
	c := take(r, h.calls, "the message")
	c.answer <- Ack()
	r.receive(lost, "the loss of the confirmation")
	w.stop() // waits for the next
	none(r, h.calls, "delivered again")
	if got := w.warnings(); len(got) != 0 || r.left(spec.Stream) != 0 {
		t.Error(got, r.left(spec.Stream))
	}
}

// TestAckAcrossReconnect ends the connection before the ack: it is sent on the
// next one, and the message does not come again.
func TestAckAcrossReconnect(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Handle: h.handle})
	w.awaitBound()
	r.publish("a")
	c := take(r, h.calls, "the message")
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	c.answer <- Ack()
	none(r, w.done, "Run ended")
	r.proxy.Heal()
	r.awaitEmpty()
	w.stop()
	none(r, h.calls, "delivered again")
	if got := w.warnings(); len(got) != 0 {
		t.Error(got)
	}
}

// TestAckForgotten has a server that confirms no ack of what it delivered before
// the connection broke, as one does that was killed. The slot is needed for what
// it delivers now.
func TestAckForgotten(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Slots: 1, Handle: h.handle})
	w.awaitBound()
	r.publish("a")
	c := take(r, h.calls, "the message")
	r.proxy.Cut()
	r.receive(r.down, "the end of the connection")
	r.receive(r.up, "a new connection")
	r.proxy.SwallowNext(1000, natstest.AckConfirmation)
	begun := time.Now()
	c.answer <- Ack()
	r.publish("b")
	next := take(r, h.calls, "the next message")
	if took := time.Since(begun); took > ackPatience/2 {
		t.Errorf("the slot was free only after %s", took)
	}
	r.proxy.Heal()
	next.answer <- Ack()
	r.awaitEmpty()
	w.stop()
}

// TestAckNotConfirmed ends the work while NATS is away: nobody waits for it,
// and the log says so.
func TestAckNotConfirmed(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Handle: h.handle})
	w.awaitBound()
	r.publish("a")
	c := take(r, h.calls, "the message")
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	c.answer <- Ack()
	w.end()
	none(r, w.done, "Run ended before the ack")
	w.cut()
	r.receive(w.done, "the end of Run")
	if got := w.warnings(); len(got) != 1 || !strings.Contains(got[0], "not confirmed") {
		t.Error(got)
	}
}

func TestIntakeEndsWhileIdle(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*rig){
		"connected":         func(*rig) {},
		"NATS away":         func(r *rig) { r.proxy.Away(); r.receive(r.down, "the end of the connection") },
		"NATS not heard":    func(r *rig) { r.proxy.Swallow() },
		"connection closed": func(r *rig) { r.nc.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			w := r.run(Config{Setup: true, Handle: newHandler().handle})
			w.awaitBound()
			r.await("a pull", func() bool { return r.info().NumWaiting == 1 })
			fault(r)
			if took := w.stop(); took > 5*time.Second {
				t.Errorf("Run took %s to end", took)
			}
		})
	}
}

func TestIntakeEndsBeforeBinding(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.proxy.Swallow()
	r.times.api = time.Hour
	w := r.run(Config{Setup: true, Handle: newHandler().handle})
	if took := w.stop(); took > 5*time.Second {
		t.Errorf("Run took %s to end", took)
	}
}

// TestIntakeEndsWithMessageUnderWay ends the intake when the server has sent a
// message that has not arrived yet: it is given back, not left for the ack wait.
func TestIntakeEndsWithMessageUnderWay(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Handle: h.handle})
	w.awaitBound()
	r.await("a pull", func() bool { return r.info().NumWaiting == 1 })
	r.proxy.Delay(100 * time.Millisecond)
	r.publish("a")
	r.await("the delivery", func() bool { return r.info().NumAckPending == 1 })
	w.stop()
	if got := r.next(); got != "a" || len(h.calls) != 0 {
		t.Errorf("%q; %d handled", got, len(h.calls))
	}
}

// next takes a message as another worker would. It must be there at once: the
// ack wait is 30 s.
func (r *rig) next() string {
	r.t.Helper()
	c, err := r.admin.Consumer(r.ctx, spec.Stream, spec.Consumer())
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(atOnce), jetstream.FetchPriorityGroup(group))
	if err != nil {
		r.t.Fatalf("a message was not given back: %v", err)
	}
	if err := m.DoubleAck(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	r.unpin() // each call is another replica's
	return string(m.Data())
}

// TestIntakeEndsWhileBusy lets what is in work come to its end.
func TestIntakeEndsWhileBusy(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Slots: 2, Handle: h.handle})
	w.awaitBound()
	r.publish("a", "b", "c")
	first, second := take(r, h.calls, "a message"), take(r, h.calls, "a message")
	w.end()
	none(r, w.done, "Run did not wait for its handlers")
	first.answer <- Ack()
	none(r, h.calls, "a message was taken after the end of intake")
	none(r, w.done, "Run did not wait for its handlers")
	second.answer <- Nak(0)
	r.receive(w.done, "the end of Run")
	if left := r.left(spec.Stream); left != 2 {
		t.Errorf("%d messages left, want 2", left)
	}
	if got := []string{r.next(), r.next()}; !slices.Contains(got, "c") || !slices.Contains(got, string(second.Data)) {
		t.Errorf("given back: %q", got)
	}
}

func TestWorkIsCut(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Handle: h.handle})
	w.awaitBound()
	r.publish("a")
	c := take(r, h.calls, "the message")
	w.end()
	w.cut()
	r.receive(w.done, "the end of Run")
	if c.ctx.Err() == nil {
		t.Error("the handler was not told")
	}
}

// TestCredit takes no message before it makes sense, no more than that, and ends
// while it waits. With one slot, the next is asked for when the credit is used.
func TestCredit(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	var mu sync.Mutex
	credit, changed := 0, make(chan struct{})
	grant := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		credit = n
		close(changed)
		changed = make(chan struct{})
	}
	w := r.run(Config{Setup: true, Slots: 1, Handle: func(soft, hard context.Context, m Message) Disposition {
		mu.Lock()
		credit--
		mu.Unlock()
		return h.handle(soft, hard, m)
	}, Credit: func() (int, time.Time, <-chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		return credit, time.Time{}, changed
	}})
	w.awaitBound()
	r.publish("a", "b", "c", "d")
	none(r, h.calls, "a message was taken")
	if i := r.info(); i.NumAckPending != 0 || i.NumWaiting != 0 {
		t.Errorf("%d messages out, %d pulls wait", i.NumAckPending, i.NumWaiting)
	}
	for _, n := range []int{1, 2} {
		grant(n)
		for range n {
			take(r, h.calls, "a message").answer <- Ack()
		}
		none(r, h.calls, "one message too many was taken")
	}
	if took := w.stop(); took > 5*time.Second {
		t.Errorf("Run took %s to end", took)
	}
}

// TestCreditAtAnInstant looks again when that has come.
func TestCreditAtAnInstant(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	at := time.Now().Add(700 * time.Millisecond)
	r.run(Config{Setup: true, Handle: h.handle, Credit: func() (int, time.Time, <-chan struct{}) {
		if time.Now().Before(at) {
			return 0, at, nil
		}
		return 1, time.Time{}, nil
	}})
	r.publish("a")
	take(r, h.calls, "the message").answer <- Ack()
	if early := time.Until(at); early > 0 {
		t.Errorf("taken %s early", early)
	}
	r.awaitEmpty()
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	broken, calls := errors.New("broken"), 0
	w := r.run(Config{Setup: true, Handle: h.handle, Prepare: func(ctx context.Context) error {
		if _, err := r.js.KeyValue(ctx, spec.Bucket); err != nil {
			t.Errorf("called before the setup: %v", err)
		}
		if calls++; calls < 3 {
			return broken
		}
		return nil
	}})
	for range 2 {
		if err := take(r, w.bound, "a try"); !errors.Is(err, broken) {
			t.Errorf("Bound(%v)", err)
		}
	}
	if err := take(r, w.bound, "being bound"); err != nil {
		t.Errorf("Bound(%v)", err)
	}
	r.publish("a")
	take(r, h.calls, "the message").answer <- Ack()
}

// TestStatusHeader publishes messages that look like words of the server's.
func TestStatusHeader(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.setup(topology.Layout{Memory: true})
	var want []string
	for _, status := range []string{"100", "400", "404", "408", "409", "412", "423", "503", "x", ""} {
		m := &nats.Msg{Subject: spec.Filter(), Header: nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}}}
		if _, err := r.admin.PublishMsg(r.ctx, m); err != nil {
			t.Fatal(err)
		}
		want = append(want, status)
	}
	w := r.run(Config{Slots: 1, Handle: h.handle})
	begun := time.Now()
	var got []string
	for range want {
		c := take(r, h.calls, "a message")
		got = append(got, c.Header.Get("Status"))
		c.answer <- Ack()
	}
	r.awaitEmpty()
	if took := time.Since(begun); !slices.Equal(got, want) || took > atOnce {
		t.Errorf("handled %q in %s, want %q", got, took, want)
	}
	w.stop()
	for len(w.bound) > 0 {
		if err := <-w.bound; err != nil {
			t.Errorf("Bound(%v)", err)
		}
	}
}
