package worker

import (
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/guard"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

// TestStandbyTellsTheTruth looks at a worker before the first request, while
// another one works, and when it has taken over.
func TestStandbyTellsTheTruth(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	stop := r.start()
	says := func(r *rig, want ...string) bool {
		code, state := r.get("/readyz")
		_, page := r.get("/")
		for _, w := range want {
			if !strings.Contains(state+page, w) {
				return false
			}
		}
		return code == 200
	}
	r.await("a worker without a request", func() bool { return says(r, `"active": false`, "<h1>Ready</h1>") })

	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	r.awaitState("INC1", record.Accepted)
	other := r.successor()
	other.start()
	r.await("the worker that works", func() bool { return says(r, `"active": true`, "<h1>Working</h1>") })
	r.await("the standby", func() bool {
		return says(other, `"active": false`, `"activeElsewhere": true`, "Another replica has the queue")
	})

	stop()
	r.publish(reset("INC2", graphsim.GoodDevice(2)), nil)
	r.awaitState("INC2", record.Accepted)
	r.await("the other one to work", func() bool { return says(other, `"active": true`, "<h1>Working</h1>") })
}

// What a standby shows must not hide what the replica that works shows.
func TestStandbyEstimates(t *testing.T) {
	tn := &tenant{pacer: pace.New(pace.Rate{N: 200, W: 20 * time.Second}, 0), hold: hold.New(), fuse: guard.NewFuse(pace.Rate{}),
		metrics: metrics.New(metrics.Build{}).Tenant("a"), waiting: map[uint64]time.Time{}}
	for _, c := range []struct {
		active   bool
		messages int
		measured float64
		want     time.Duration
	}{
		{true, 40, 0, 0}, // all of it goes at once
		{false, 40, 0, 4 * time.Second},
		{false, 40, -3, 4 * time.Second},
		{false, 40, 2, 20 * time.Second}, // the other one was granted less
		{false, 0, 2, 0},
	} {
		tn.active.Store(c.active)
		if got := tn.drainTime(c.messages, c.measured); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}

	// A request that waited here comes back to the replica that works now.
	now := time.Now()
	tn.wait(1, now.Add(time.Second))
	tn.wait(2, now.Add(time.Minute))
	for active, want := range map[bool]int{true: 2, false: 1} {
		tn.active.Store(active)
		if active {
			tn.wait(1, now.Add(time.Second))
		}
		if tn.forget(now.Add(2 * time.Second)); len(tn.waiting) != want {
			t.Errorf("active %t: %d wait, want %d", active, len(tn.waiting), want)
		}
	}
}
