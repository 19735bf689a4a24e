package consume

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"passcode-worker/internal/natstest"
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

// cluster is a rig on three servers.
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
	}
	take(r, r.admin.PublishAsyncComplete(), "the messages to be stored")
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
	r.setup(Layout{Replicas: 3})
	const changes, between = 12, 700 * time.Millisecond
	r.fill(8000)
	var f flow
	w := r.run(Config{Slots: 8, Handle: f.steady})
	w.awaitBound()
	r.await("the work", func() bool { return f.count() > 100 })
	var gaps []time.Duration
	for range changes {
		from := time.Now()
		r.stepDown()
		for {
			n := f.count()
			<-time.After(between)
			if f.count() > n {
				break
			}
		}
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
