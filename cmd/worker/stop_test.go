package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// TestStop ends a worker in the middle of its work, and lets a second one
// finish the rest.
func TestStop(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]os.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": os.Interrupt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, graphsim.Config{Latency: 400 * time.Millisecond})
			w.setUp()
			const requests, slots = 100, 8
			for i := range requests {
				w.publish(body(fmt.Sprintf("INC%d", i), graphsim.GoodDevice(i)), nil)
			}
			// One that is waiting for its verification, and one in the middle of it.
			w.publish(body("LOST", graphsim.FaultDevice(602, 1, 1, 1)), nil)
			env := w.env("WORKER_CONCURRENCY", fmt.Sprint(slots), "WORKER_REQUEST_TIMEOUT", "20s", "WORKER_DRAIN_TIMEOUT", "60s")
			p := launch(t, env, "run")
			await(t, "calls in flight", func() bool { return w.sim.Status().Posts >= 2*slots })
			began := time.Now()
			p.signal(signal)
			if code := p.wait(); code != exitDone {
				t.Errorf("status %d", code)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("the end took %s with calls of 0.4 s in flight", took)
			}
			for _, message := range []string{"stopping: no further requests are taken, and calls in flight may finish", "stopped"} {
				if p.line(message) == nil {
					t.Errorf("the log does not say %q", message)
				}
			}
			accepted := 0
			for id, r := range w.records() {
				if r.State == record.Accepted {
					accepted++
				} else if r.State.InProgress() && r.State != record.Verifying && r.Attempts > 0 {
					t.Errorf("%s was left behind: %+v", id, r)
				}
			}
			s := w.sim.Status()
			if s.Posts >= requests || accepted != s.Executed {
				t.Errorf("%d calls, %d resets, %d records of accepted requests", s.Posts, s.Executed, accepted)
			}

			second := launch(t, env, "run")
			began = time.Now()
			w.awaitEmpty()
			if took := time.Since(began); took > 25*time.Second { // the ack wait is 30 s
				t.Errorf("the rest took %s: it was not given back at once", took)
			}
			second.stop()
			for i := range requests {
				if n := w.sim.Resets(graphsim.GoodDevice(i)); n != 1 {
					t.Errorf("device %d was reset %d times", i, n)
				}
			}
			w.checkSim()
		})
	}
}

// TestSecondSignal ends a worker at once, with calls whose outcome it does not
// know yet; the next one finds it out.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	for name, signals := range map[string][2]os.Signal{
		"SIGTERM twice": {syscall.SIGTERM, syscall.SIGTERM}, "SIGINT, SIGTERM": {os.Interrupt, syscall.SIGTERM},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, graphsim.Config{})
			w.setUp()
			// What a worker that is gone had taken comes back after this.
			cfg := topology.Layout{}.Worker(names)
			cfg.AckWait = 2 * time.Second
			if _, err := w.js.UpdateConsumer(w.ctx, names.Stream, cfg); err != nil {
				t.Fatal(err)
			}
			done, notDone := graphsim.FaultDevice(603, 1, 0, 1), graphsim.FaultDevice(604, 1, 0, 2)
			w.publish(body("DONE", done), nil)
			w.publish(body("NOTDONE", notDone), nil)
			env := w.env("WORKER_REQUEST_TIMEOUT", "10s", "WORKER_DRAIN_TIMEOUT", "1m")
			p := launch(t, env, "run")
			await(t, "calls in flight", func() bool { return w.sim.Status().Posts == 2 })
			p.signal(signals[0])
			p.awaitLine("stopping: no further requests are taken, and calls in flight may finish")
			began := time.Now()
			p.signal(signals[1])
			if code := p.wait(); code != exitKilled {
				t.Errorf("status %d", code)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("the end took %s", took)
			}
			if !strings.HasSuffix(p.err.String(), "worker: second signal: stopping at once\n") {
				t.Error("the last line does not tell why it ended")
			}

			second := launch(t, env, "run")
			w.awaitEmpty()
			for id, device := range map[string]string{"DONE": done, "NOTDONE": notDone} {
				if r := w.record(id); r.State != record.Accepted || r.Verified != (device == done) || w.sim.Resets(device) != 1 {
					t.Errorf("%d resets, record %+v", w.sim.Resets(device), r)
				}
			}
			second.stop()
			w.checkSim()
		})
	}
}

// TestDrainTimeIsKept stops a worker whose calls take longer than it may.
func TestDrainTimeIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	w.publish(body("SILENT", graphsim.FaultDevice(603, 1, 0, 1)), nil)
	p := launch(t, w.env("WORKER_REQUEST_TIMEOUT", "30s", "WORKER_DRAIN_TIMEOUT", "10s"), "run")
	await(t, "the call", func() bool { return w.sim.Status().Posts == 1 })
	began := time.Now()
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitDone {
		t.Errorf("status %d", code)
	}
	if took := time.Since(began); took < 5*time.Second || took > 10*time.Second {
		t.Errorf("the end took %s of 10 s", took)
	}
	if r := w.record("SILENT"); !r.State.InProgress() || r.Attempts != 1 {
		t.Errorf("record: %+v", r)
	}
}
