package worker

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

// TestRecovery: the work goes on soon after the end of an outage, and then as fast
// as the quota allows, whatever has grown meanwhile: the pause after 503s, the time
// between probes, the wait of the requests.
func TestRecovery(t *testing.T) {
	t.Parallel()
	requests := 500
	if testing.Short() { // with the race detector, which makes work of each
		requests = 200
	}
	const (
		lasts = 16 * time.Second // so long that what may double has done so four times
		first = 5500 * time.Millisecond
		rest  = 5 * time.Second
	)
	for _, tc := range []struct {
		outage graphsim.Outage
		token  bool // there is one when the outage begins
	}{
		{graphsim.Outage503, true},
		{graphsim.OutageRefuse, true},
		{graphsim.OutageRefuse, false},
		{graphsim.OutageTokenDown, false},
	} {
		t.Run(fmt.Sprintf("%s, token %t", tc.outage, tc.token), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{}, func(c *Config) {
				// What was never sent takes no place in the quota.
				c.Tenants[0].Rate = pace.Rate{N: requests, W: 12 * time.Second}
				if tc.outage == graphsim.Outage503 {
					c.Tenants[0].Rate.N *= 2
				}
				c.MaxPause, c.Policy.BackoffMin, c.Policy.BackoffMax = time.Hour, 2*time.Second, 5*time.Minute
			})
			r.start()
			if tc.token {
				r.publish(reset("before", graphsim.GoodDevice(0)), nil)
				r.awaitState("before", record.Accepted)
			}
			r.sim.SetOutage(tc.outage)
			for i := 1; i <= requests; i++ {
				r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
			}
			r.await("the hold", r.held)
			<-time.After(lasts)
			over := time.Now()
			r.sim.SetOutage(graphsim.OutageNone)
			r.awaitEmpty()
			var from, to time.Time
			n := 0
			for _, c := range r.sim.Calls() {
				if c.Method == http.MethodPost && c.Executed && c.Time.After(over) {
					if n++; n == 1 {
						from = c.Time
					}
					to = c.Time
				}
			}
			t.Logf("the first after %s, the others within %s", from.Sub(over), to.Sub(from))
			if n != requests || from.Sub(over) > first || to.Sub(from) > rest {
				t.Errorf("%d of %d accepted, the first after %s, the others within %s", n, requests, from.Sub(over), to.Sub(from))
			}
		})
	}
}
