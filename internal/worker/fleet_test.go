package worker

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
)

// TestTenantComesBackWhileItLeaves lists a tenant again, unchanged, while the
// calls of its former service are waited for. Its series begin anew, and are
// all there.
func TestTenantComesBackWhileItLeaves(t *testing.T) {
	t.Parallel()
	changes := make(chan []Tenant)
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Changes = changes })
	all := r.cfg.Tenants
	r.start()
	r.publish(reset("HANGS", graphsim.FaultDevice(604, 1, 0, 1)), nil)
	r.await("a call in flight", func() bool { return r.metric(`in_flight{tenant="default"}`) == 1 })
	for range 2 {
		changes <- nil
	}
	changes <- all
	r.publish(reset("INC1", graphsim.GoodDevice(2)), nil)
	r.awaitState("INC1", record.Accepted)
	r.awaitState("HANGS", record.Accepted)
	r.await("the counter", func() bool { return r.metric(`requests_total{outcome="accepted",tenant="default"}`) == 2 })

	changes <- nil
	r.await("the series to go", func() bool { _, body := r.get("/metrics"); return !strings.Contains(body, `tenant="default"`) })
	changes <- all
	r.publish(reset("INC2", graphsim.GoodDevice(3)), nil)
	r.awaitState("INC2", record.Accepted)
	r.await("the counter to begin anew", func() bool { return r.metric(`requests_total{outcome="accepted",tenant="default"}`) == 1 })
}

// TestTenantComesBackAsItsServiceEnds lists a tenant again at about the moment
// at which its former service is forgotten: what the new one counts is shown.
func TestTenantComesBackAsItsServiceEnds(t *testing.T) {
	t.Parallel()
	changes := make(chan []Tenant)
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Changes = changes })
	f := newFleet(r.cfg, r.js, metrics.New(metrics.Build{}))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.run(ctx, ctx) })
	defer running.Wait()
	defer cancel()
	name := r.cfg.Tenants[0].Name
	for i := range 4000 {
		changes <- r.cfg.Tenants
		changes <- nil
		for range i % 200 {
			runtime.Gosched()
		}
		changes <- r.cfg.Tenants
		changes <- r.cfg.Tenants // the one before is done with
		if s := f.get(name); s == nil || s.metrics != f.metrics.Tenant(name) {
			t.Fatalf("after %d times the tenant's series are no longer those of its service", i)
		}
	}
}
