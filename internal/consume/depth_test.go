package consume

import (
	"testing"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/topology"
)

func (r *rig) queue() *Queue {
	return New(r.js, Config{Names: spec, Log: zap.NewNop()})
}

// depth is how much the server says to wait.
func depth(r *rig, q *Queue) (Depth, error) {
	info, err := q.Look(r.ctx)
	if err != nil {
		return Depth{}, err
	}
	return DepthOf(info), nil
}

func TestDepth(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	q := r.queue()
	if d, err := depth(r, q); err == nil {
		t.Errorf("a depth without a consumer: %+v", d)
	}
	r.setup(topology.Layout{Memory: true})
	if d, err := depth(r, q); err != nil || d != (Depth{}) {
		t.Errorf("empty: %+v, %v", d, err)
	}
	// Another tenant's requests are not this one's.
	if _, err := r.admin.Publish(r.ctx, "passcode.reset.requests.other", nil); err != nil {
		t.Fatal(err)
	}
	if d, err := depth(r, q); err != nil || d != (Depth{}) {
		t.Errorf("empty for this tenant: %+v, %v", d, err)
	}
	r.publish("a", "b", "c")
	d, err := depth(r, q)
	if err != nil || d.Messages != 3 || d.AckPending != 0 {
		t.Errorf("three wait: %+v, %v", d, err)
	}
	w := r.run(Config{Slots: 2, Handle: h.handle})
	first, second := take(r, h.calls, "a message"), take(r, h.calls, "a message")
	r.await("two in work, and one that waits for a slot", func() bool {
		d, err := depth(r, q)
		if err != nil || d.Messages != 3 || d.Redelivered != 0 {
			t.Fatalf("%+v, %v", d, err)
		}
		return d.AckPending == 3
	})
	first.answer <- Nak(0)
	second.answer <- Nak(0)
	take(r, h.calls, "a message")
	take(r, h.calls, "a message")
	r.await("a redelivery", func() bool {
		d, err := depth(r, q)
		if err != nil || d.Messages != 3 {
			t.Fatalf("%+v, %v", d, err)
		}
		return d.Redelivered > 0
	})
	w.cut()
	w.stop()
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	if d, err := depth(r, q); err == nil {
		t.Errorf("a depth while NATS is away: %+v", d)
	}
}

// TestClock reads the server's clock, which is ours here, however slow the
// answer is; the error is known.
func TestClock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	type reading struct{ ahead, within time.Duration }
	told := make(chan reading, 99)
	w := r.run(Config{Setup: true, Handle: newHandler().handle, Clock: func(ahead, within time.Duration) { told <- reading{ahead, within} }})
	w.awaitBound()
	look := func(least time.Duration) {
		t.Helper()
		got := take(r, told, "the time")
		if got.ahead.Abs() > got.within || got.within < least || got.within > testTime {
			t.Errorf("the server's clock is %s ahead, within %s", got.ahead, got.within)
		}
	}
	look(0)
	if _, err := depth(r, w.q); err != nil {
		t.Fatal(err)
	}
	look(0)
	const slow = 700 * time.Millisecond
	r.proxy.Delay(slow)
	if _, err := depth(r, w.q); err != nil {
		t.Fatal(err)
	}
	look(slow / 2)
}
