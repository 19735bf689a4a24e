package worker

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
)

// TestRevokedWhileTwoAreHeld: a token is replaced for one device's sake while requests
// that hold it wait for the end of a pause, and then both are revoked. The one that is
// there when the first is rejected is no answer to that, so no request may die of the
// second.
func TestRevokedWhileTwoAreHeld(t *testing.T) {
	t.Parallel()
	const waiting = 4
	odd, throttled := graphsim.FaultDevice(401, 0, 0, 1), graphsim.GoodDevice(99)
	r, release := newRig(t, graphsim.Config{}, nil), make(chan struct{})
	r.cfg.Policy.RequestTimeout = 20 * time.Second
	var refused atomic.Bool
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, odd) && held(q, release) {
			return true
		}
		if !strings.Contains(q.URL.Path, throttled) || refused.Swap(true) {
			return false
		}
		w.Header().Set("Retry-After", "5") // time for the test to publish what waits for its end
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	r.start()
	r.publish(reset("before", graphsim.GoodDevice(0)), nil)
	r.awaitState("before", record.Accepted)
	inFlight := func(n float64) bool { return r.metric(`in_flight{tenant="default"}`) == n }
	r.publish(reset("odd", odd), nil)
	r.await("the odd one's call", func() bool { return r.record("odd").State == record.Attempting })
	r.publish(reset("pause", throttled), nil)
	r.await("a pause", func() bool { return refused.Load() && inFlight(1) })
	for i := range waiting {
		r.publish(reset(fmt.Sprint("w", i), graphsim.GoodDevice(i+1)), nil)
	}
	r.await("requests that wait", func() bool { return inFlight(1 + waiting) })
	close(release)
	r.await("another token", func() bool { return len(r.sim.TokenCalls()) == 2 })
	r.sim.RevokeTokensWithChallenge()
	for i := range waiting {
		r.awaitState(fmt.Sprint("w", i), record.Accepted)
	}
}
