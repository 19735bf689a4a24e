package worker

import (
	"strings"
	"testing"

	"passcode-worker/internal/graph/graphsim"
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
