package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
)

// drain measures how fast a backlog drains when Graph is instant and grants
// everything, beside two bare loops in the same process: pull, POST, ack; and
// the same with two record writes and a confirmed ack. The three run one after
// the other, so that a noisy machine disturbs them alike.
func (c benchCmd) drain(ctx context.Context) ([]sample, error) {
	w, err := newWorld(0, graphsim.Config{NoCallLog: true})
	if err != nil {
		return nil, err
	}
	defer w.close()
	// The first run of all pays for connections and caches.
	if _, err := w.floor(ctx, c.N/10+1, true); err != nil {
		return nil, err
	}
	plain, err := w.floor(ctx, c.N, false)
	if err != nil {
		return nil, fmt.Errorf("bare floor: %w", err)
	}
	var full, ours speed
	if err := c.profiled("floor", func() (err error) {
		full, err = w.floor(ctx, c.N, true)
		return err
	}); err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	if err := c.profiled("worker", func() (err error) {
		ours, err = w.drain(ctx, c.N)
		return err
	}); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return []sample{
		{what: "floor: pull, POST, ack", unit: "per s", value: plain.perSecond},
		{what: "floor: and two record writes, confirmed ack", unit: "per s", value: full.perSecond},
		{what: "worker", unit: "per s", value: ours.perSecond},
		{what: "floor, processor time of everything", unit: "µs each", value: full.cpu},
		{what: "worker, processor time of everything", unit: "µs each", value: ours.cpu},
		{what: "worker to bare floor", value: ours.perSecond / plain.perSecond},
		{what: "worker to floor", value: ours.perSecond / full.perSecond, goal: atLeast(0.9)},
	}, nil
}

// speed is how fast requests are worked off.
type speed struct {
	perSecond float64
	// cpu is the processor time that the whole process spends on each, with the
	// NATS server and the simulator, in microseconds. On a machine that has other
	// things to do it tells more than the rate.
	cpu float64
}

// clocked is a measurement that has begun.
type clocked struct {
	at  time.Time
	cpu time.Duration
}

func clock() clocked { return clocked{time.Now(), cpuTime()} }

// speed is that of n requests since then.
func (c clocked) speed(n int) speed {
	return speed{
		perSecond: float64(n) / time.Since(c.at).Seconds(),
		cpu:       float64((cpuTime() - c.cpu).Microseconds()) / float64(n),
	}
}

// cpuTime is the processor time of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0 // cannot be: the arguments are right
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// drain is how fast the worker works off a backlog, from the first
// call on: its start is measured by another figure.
func (w *world) drain(ctx context.Context, n int) (speed, error) {
	if err := w.fill(ctx, n); err != nil {
		return speed{}, err
	}
	cfg, err := w.serviceConfig(pace.Rate{})
	if err != nil {
		return speed{}, err
	}
	stop := w.run(cfg)
	if err := w.firstPost(ctx); err != nil {
		return speed{}, join(err, stop)
	}
	began := clock()
	if err := w.emptied(ctx); err != nil {
		return speed{}, join(err, stop)
	}
	took := began.speed(n)
	if err := stop(); err != nil {
		return speed{}, err
	}
	if got := w.sim.Status(); got.Executed != n || got.ViolationCount > 0 {
		return speed{}, fmt.Errorf("%d resets for %d requests, %d violations: %v", got.Executed, n, got.ViolationCount, got.Violations)
	}
	return took, nil
}

// firstPost waits for the first call.
func (w *world) firstPost(ctx context.Context) error {
	for w.sim.Status().Posts == 0 {
		if err := pauseFor(ctx, time.Millisecond/2); err != nil {
			return err
		}
	}
	return nil
}

// emptied waits until no request is on the stream. It asks rarely while many
// are, because each question costs the server a little.
func (w *world) emptied(ctx context.Context) error {
	for {
		left, err := w.waiting(ctx)
		if err == nil && left == 0 {
			return nil
		}
		if err := pauseFor(ctx, max(time.Millisecond, time.Duration(left)*50*time.Microsecond)); err != nil {
			return err
		}
	}
}

// profiled writes the profiles of what happens in do, where that is wanted. All
// that runs in the process is in them: the NATS server and the simulator, too.
func (c benchCmd) profiled(name string, do func() error) (err error) {
	if c.Profile == "" {
		return do()
	}
	file := func(kind string) (*os.File, error) {
		return os.Create(filepath.Join(c.Profile, name+"."+kind+".pprof"))
	}
	runtime.SetMutexProfileFraction(100)
	runtime.SetBlockProfileRate(10_000_000) // one in 10 ms of waiting: more would show in the profile of the processor
	defer runtime.SetMutexProfileFraction(0)
	defer runtime.SetBlockProfileRate(0)
	cpu, err := file("cpu")
	if err != nil {
		return err
	}
	defer func() { _ = cpu.Close() }() // StopCPUProfile has written all
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return err
	}
	err = do()
	pprof.StopCPUProfile()
	if err != nil {
		return err
	}
	for _, kind := range []string{"allocs", "mutex", "block"} {
		f, err := file(kind)
		if err != nil {
			return err
		}
		if err := pprof.Lookup(kind).WriteTo(f, 0); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
