package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
)

// longOutage is the variable that plays the outage of [TestOutageOverRestarts]
// with as many restarts as there are minutes in an hour.
const longOutage = "PASSCODE_TEST_LONG"

// TestOutageOverRestarts has a thousand requests waiting while Graph is down, and
// a worker that is killed or stopped, and started again, all the while. An hour
// and its minutes are compressed: a restart follows on the other as soon as the
// new worker has tried a request in vain, and 12 of them are enough, or 60 where
// PASSCODE_TEST_LONG is set. The hold's own times over an hour are those of
// TestForAnHour in internal/hold.
func TestOutageOverRestarts(t *testing.T) {
	t.Parallel()
	restarts, requests := 12, 1000
	if os.Getenv(longOutage) != "" {
		restarts = 60
	}
	for _, outage := range []graphsim.Outage{graphsim.Outage503, graphsim.Outage500} {
		t.Run(outage.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, graphsim.Config{})
			w.setUpShort()
			w.sim.SetOutage(outage)
			for i := range requests {
				w.publish(body(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
			}
			expired := body("EXPIRED", graphsim.GoodDevice(requests), `"notAfter":"`+time.Now().Add(2*time.Second).UTC().Format(time.RFC3339)+`"`)
			w.publish(expired, nil)
			env := w.shortEnv("WORKER_MAX_ATTEMPTS", "4", "WORKER_CONCURRENCY", "32")
			p := launch(t, env, "run")
			for i := range restarts {
				tried := len(w.sim.Calls())
				await(t, "a call in vain", func() bool { return len(w.sim.Calls()) > tried })
				await(t, "the hold", func() bool { return p.metrics()[`hold{cause="graph_unavailable",tenant="default"}`] == 1 })
				if i%2 == 0 {
					p.signal(syscall.SIGKILL)
					<-p.done
				} else {
					p.signal(syscall.SIGTERM)
					p.wait()
				}
				p = launch(t, env, "run")
			}
			for _, m := range w.messages(names.DeadStream) {
				if id := m.Header.Get(deadletter.HeaderRequestID); id != "EXPIRED" {
					t.Errorf("%s is dead: %v", id, m.Header)
				}
			}
			w.sim.SetOutage(graphsim.OutageNone)
			over := time.Now()
			w.awaitEmpty()
			t.Logf("%d restarts, %d calls; all was done %s after the end", restarts, len(w.sim.Calls()), time.Since(over))
			if took := time.Since(over); took > time.Minute {
				t.Errorf("all was done only %s after the end", took)
			}
			p.stop()
			used := 0
			for i := range requests {
				r := w.record(fmt.Sprint("INC", i))
				if r.State != record.Accepted || w.sim.Resets(graphsim.GoodDevice(i)) != 1 {
					t.Errorf("%d resets, record %+v", w.sim.Resets(graphsim.GoodDevice(i)), r)
				}
				used = max(used, r.Attempts-r.HeldAttempts)
			}
			if r := w.record("EXPIRED"); r.State != record.Dead || r.Reason != "expired" {
				t.Errorf("record %+v", r)
			}
			// One is the attempt that was accepted. Those that told that Graph was
			// down, before it was known, may have been one of each.
			if used > 2 {
				t.Errorf("%d attempts were used up", used)
			}
		})
	}
}
