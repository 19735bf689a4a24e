package consume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// gapMost is how long pulling may pause when the leader of the consumer changes
// or the pin is taken away.
const gapMost = 500 * time.Millisecond

// flow notes when messages come.
type flow struct {
	mu   sync.Mutex
	came []time.Time
}

func (f *flow) note() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.came = append(f.came, time.Now())
}

func (f *flow) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.came)
}

// more waits until so many more messages have come.
func (f *flow) more(r *rig, n int) {
	r.t.Helper()
	n += f.count()
	r.await("the work", func() bool { return f.count() >= n })
}

// gap is the longest time without a message between two instants.
func (f *flow) gap(from, to time.Time) (longest time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := from
	for _, at := range append(slices.Clone(f.came), to) {
		if at.After(from) && !at.After(to) {
			longest, last = max(longest, at.Sub(last)), at
		}
	}
	return longest
}

// newClusterRig is a rig on three servers, at its usual times.
func newClusterRig(t *testing.T) *rig {
	t.Helper()
	c, err := natstest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	r := newRigAt(t, c.URL(), "")
	r.js = newJetStream(t, r.connect(c.URL(), ""))
	r.times = usual
	return r
}

// stepDown has the leader of the consumer hand over to another server.
func (r *rig) stepDown() {
	r.t.Helper()
	subject := "$JS.API.CONSUMER.LEADER.STEPDOWN." + spec.Stream + "." + spec.Consumer()
	m, err := r.admin.Conn().Request(subject, nil, testTime)
	if err != nil {
		r.t.Fatal(err)
	}
	var answer struct {
		Success bool `json:"success"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil || !answer.Success {
		r.t.Fatalf("the leader does not step down: %s, %v", m.Data, err)
	}
}

// fill publishes so many messages.
func (r *rig) fill(n int) {
	r.t.Helper()
	for i := range n {
		if _, err := r.admin.PublishAsync(spec.Filter(), fmt.Append(nil, i)); err != nil {
			r.t.Fatal(err)
		}
		if i%200 == 0 || i == n-1 {
			take(r, r.admin.PublishAsyncComplete(), "the messages to be stored")
		}
	}
}

// steady works on messages that take a while.
func (f *flow) steady(context.Context, context.Context, Message) Disposition {
	f.note()
	<-time.After(20 * time.Millisecond)
	return Ack()
}

// TestLeaderChanges has work waiting while the consumer gets one leader after
// another: each goes on at once.
func TestLeaderChanges(t *testing.T) {
	t.Parallel()
	r := newClusterRig(t)
	r.setup(topology.Layout{Replicas: 3})
	const changes = 12
	r.fill(4000)
	var f flow
	w := r.run(Config{Slots: 8, Handle: f.steady})
	w.awaitBound()
	f.more(r, 100)
	var gaps []time.Duration
	for range changes {
		from := time.Now()
		r.stepDown()
		f.more(r, 150)
		gaps = append(gaps, f.gap(from, time.Now()).Round(time.Millisecond))
	}
	t.Logf("gaps %v", gaps)
	if longest := slices.Max(gaps); longest > gapMost {
		t.Errorf("pulling paused for %s", longest)
	}
	if len(w.bound) != 0 {
		t.Errorf("Bound(%v)", <-w.bound)
	}
}

// TestUnpinnedAtWork takes the pin away again and again while work waits: the
// only replica goes on at once.
func TestUnpinnedAtWork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.times = usual
	r.setup(topology.Layout{Memory: true})
	r.fill(4000)
	var f flow
	var terms atomic.Int32
	w := r.run(Config{Slots: 8, Handle: f.steady, Begin: func(context.Context, bool) { terms.Add(1) }})
	w.awaitBound()
	var gaps []time.Duration
	for i := range int32(5) {
		r.await("the work of a term", func() bool { return terms.Load() == i+1 })
		f.more(r, 50)
		from := time.Now()
		r.unpin()
		f.more(r, 50)
		gaps = append(gaps, f.gap(from, time.Now()).Round(time.Millisecond))
	}
	t.Logf("gaps %v", gaps)
	if longest := slices.Max(gaps); longest > gapMost {
		t.Errorf("pulling paused for %s", longest)
	}
}

// TestDeliveryLost loses one message of a pull of several: the pull counts as
// under way, but the server has done with it.
func TestDeliveryLost(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.times = usual
	w := r.run(Config{Setup: true, Slots: 2, Handle: h.handle})
	w.awaitBound()
	r.publish("pins", "and one more") // the pull brings a third
	take(r, h.calls, "a message").answer <- Ack()
	take(r, h.calls, "a message").answer <- Ack()
	lost := r.proxy.SwallowNext(1, func(m natstest.Message) bool { return string(m.Data) == "lost" })
	r.publish("lost")
	r.receive(lost, "the loss")
	begun := time.Now()
	r.publish("next")
	if c := take(r, h.calls, "the next message"); string(c.Data) != "next" {
		t.Errorf("%q", c.Data)
	} else {
		c.answer <- Ack()
	}
	if took := time.Since(begun); took > usual.heartbeat+owedMost {
		t.Errorf("pulling paused for %s", took)
	}
}

// TestMadeAnewUnseen has the stream made anew while the worker cannot hear of it:
// it finds out by itself, so that no old verdict is taken for a new message.
func TestMadeAnewUnseen(t *testing.T) {
	t.Parallel()
	for name, deaf := range map[string]func(*rig){
		"not heard":     func(r *rig) { r.proxy.Swallow() },
		"not connected": func(r *rig) { r.proxy.Away(); r.receive(r.down, "the end of the connection") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, h := newRig(t), newHandler()
			r.times.patience = testTime // it is not what finds out
			r.setup(topology.Layout{Memory: true})
			w := r.run(Config{Slots: 2, Handle: h.handle})
			w.awaitBound()
			r.publish("old")
			old := take(r, h.calls, "the message")
			deaf(r)
			if err := r.admin.DeleteStream(r.ctx, spec.Stream); err != nil {
				t.Fatal(err)
			}
			r.setup(topology.Layout{Memory: true})
			r.publish("new")
			for begun := time.Now(); time.Since(begun) < 3*r.times.heartbeat; {
				none(r, w.done, "Run ended")
			}
			r.proxy.Heal()
			if err := w.awaitLost(); !errors.Is(err, errDeleted) {
				t.Errorf("Bound(%v)", err)
			}
			w.awaitBound()
			c := take(r, h.calls, "the new message")
			for string(c.Data) != "new" { // one that the old consumer brought
				c = take(r, h.calls, "the new message")
			}
			old.answer <- Ack()
			r.await("the old verdict", func() bool { return len(w.warnings()) > 0 })
			if left := r.left(spec.Stream); left != 1 {
				t.Errorf("%d messages left, want 1", left)
			}
		})
	}
}

// TestNobodyLeads deletes the consumer while nothing waits at the server that
// could tell: the next pull is answered by nobody, and the consumer looked up.
func TestNobodyLeads(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.times.patience = testTime
	r.setup(topology.Layout{Memory: true})
	changed := make(chan struct{})
	var open atomic.Bool
	w := r.run(Config{Handle: newHandler().handle, Credit: func() (int, time.Time, <-chan struct{}) {
		if open.Load() {
			return 4, time.Time{}, nil
		}
		return 0, time.Time{}, changed
	}})
	w.awaitBound()
	if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
		t.Fatal(err)
	}
	open.Store(true)
	close(changed)
	if err := w.awaitLost(); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("Bound(%v)", err)
	}
	r.setup(topology.Layout{Memory: true})
	w.awaitBound()
}
