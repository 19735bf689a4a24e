package worker

import (
	"strings"
	"testing"

	"passcode-worker/internal/graph/graphsim"
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
