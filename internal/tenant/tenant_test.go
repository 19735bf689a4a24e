package tenant

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"passcode-worker/internal/backlog"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
)

// The tests that drive a tenant as a whole are those of package worker.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTenant is a tenant that nothing is connected to.
func newTenant(cfg Config) *Tenant {
	cfg.Metrics, cfg.Log = metrics.New(metrics.Build{}).Tenant("a"), zap.NewNop()
	return New(cfg)
}

// What a standby shows must not hide what the replica that works shows.
func TestStandbyEstimates(t *testing.T) {
	waiting := 0
	tn := newTenant(Config{Rate: pace.Rate{N: 200, W: 20 * time.Second}})
	tn.backlog = backlog.New(func(n int) { waiting = n })
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
		tn.gate.SetActive(c.active)
		if got := tn.Drain(c.messages, c.measured); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}

	// A request that waited here comes back to the replica that works now.
	synctest.Test(t, func(t *testing.T) {
		for active, want := range map[bool]int{true: 2, false: 1} {
			tn.SetActive(active)
			tn.backlog.Wait(1, time.Now().Add(time.Second))
			tn.backlog.Wait(2, time.Now().Add(time.Minute))
			time.Sleep(2 * time.Second) // fake time
			if tn.Refresh(t.Context()); waiting != want {
				t.Errorf("active %t: %d wait, want %d", active, waiting, want)
			}
		}
	})
}
