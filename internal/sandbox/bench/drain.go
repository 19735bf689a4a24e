package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/sandbox"
)

// drainRounds is how many times the worker and its floor take turns.
const drainRounds = 6

// drain measures how fast a backlog drains when Graph is instant and grants
// everything, beside two bare loops in the same process: pull, POST, ack; and
// the same with two record writes, an alarm and a confirmed ack. The worker and the second
// take turns, and the median of their ratios counts, so that what else the
// machine has to do favours neither.
func (c Options) drain(ctx context.Context) ([]sample, error) {
	w, err := newWorld(graphsim.Config{NoCallLog: true})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	// The first run of all pays for connections and caches.
	if _, err := w.floor(ctx, c.N/10+1, true); err != nil {
		return nil, err
	}
	if _, err := w.drain(ctx, c.N/10+1); err != nil {
		return nil, err
	}
	bare, err := w.floor(ctx, c.N, false)
	if err != nil {
		return nil, fmt.Errorf("bare floor: %w", err)
	}
	floor := &turns{name: "floor", run: func() (spent, error) { return w.floor(ctx, c.N, true) }}
	ours := &turns{name: "worker", run: func() (spent, error) { return w.drain(ctx, c.N) }}
	var ratios []float64
	for i := range drainRounds {
		order := []*turns{floor, ours}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, t := range order {
			if err := c.turn(t); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
		ratios = append(ratios, ours.last.perSecond()/floor.last.perSecond())
	}
	return []sample{
		{what: "floor: pull, POST, ack", unit: "per s", value: bare.perSecond()},
		{what: "floor: and two record writes, alarm, confirmed ack", unit: "per s", value: floor.all.perSecond()},
		{what: "worker", unit: "per s", value: ours.all.perSecond()},
		{what: "floor, processor time of everything", unit: "µs each", value: floor.all.cpuEach()},
		{what: "worker, processor time of everything", unit: "µs each", value: ours.all.cpuEach()},
		{what: "worker to bare floor", value: ours.all.perSecond() / bare.perSecond()},
		{what: "worker to floor", value: median(ratios), goal: atLeast(0.9)},
	}, nil
}

// turns are several runs of the same.
type turns struct {
	name      string
	run       func() (spent, error)
	last, all spent
}

// turn is one more run. The first writes its profiles, where they are wanted.
func (c Options) turn(t *turns) error {
	run := func() (err error) {
		t.last, err = t.run()
		return err
	}
	if t.all.n == 0 {
		inner := run
		run = func() error { return c.profiled(t.name, inner) }
	}
	if err := run(); err != nil {
		return err
	}
	t.all.add(t.last)
	return nil
}

// spent is what it took to work off n requests.
type spent struct {
	n    int
	took time.Duration
	// cpu is the processor time that the whole process spent, with the NATS
	// server and the simulator. On a machine that has other things to do it tells
	// more than the rate.
	cpu time.Duration
}

func (s *spent) add(more spent) {
	s.n, s.took, s.cpu = s.n+more.n, s.took+more.took, s.cpu+more.cpu
}

func (s spent) perSecond() float64 { return float64(s.n) / s.took.Seconds() }

// cpuEach is the processor time for one request, in microseconds.
func (s spent) cpuEach() float64 { return float64(s.cpu.Microseconds()) / float64(s.n) }

// clocked is a measurement that has begun.
type clocked struct {
	at  time.Time
	cpu time.Duration
}

func clock() clocked { return clocked{time.Now(), cpuTime()} }

// spent is what was spent on n requests since then.
func (c clocked) spent(n int) spent { return spent{n, time.Since(c.at), cpuTime() - c.cpu} }

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
func (w *world) drain(ctx context.Context, n int) (spent, error) {
	if err := w.fill(ctx, n); err != nil {
		return spent{}, err
	}
	cfg, err := w.ServiceConfig(pace.Rate{})
	if err != nil {
		return spent{}, err
	}
	stop := w.Run(cfg)
	if err := w.firstPost(ctx); err != nil {
		return spent{}, join(err, stop)
	}
	began := clock()
	if err := w.emptied(ctx); err != nil {
		return spent{}, join(err, stop)
	}
	took := began.spent(n)
	if err := stop(); err != nil {
		return spent{}, err
	}
	if got := w.Sim.Status(); got.Executed != n || got.ViolationCount > 0 {
		return spent{}, fmt.Errorf("%d resets for %d requests, %d violations: %v", got.Executed, n, got.ViolationCount, got.Violations)
	}
	return took, nil
}

// firstPost waits for the first call.
func (w *world) firstPost(ctx context.Context) error {
	for w.Sim.Status().Posts == 0 {
		if err := sandbox.Pause(ctx, time.Millisecond/2); err != nil {
			return err
		}
	}
	return nil
}

// emptied waits until no request is on the stream. It asks rarely while many
// are, because each question costs the server a little.
func (w *world) emptied(ctx context.Context) error {
	for {
		left, err := w.Waiting(ctx)
		if err == nil && left == 0 {
			return nil
		}
		if err := sandbox.Pause(ctx, max(time.Millisecond, time.Duration(left)*50*time.Microsecond)); err != nil {
			return err
		}
	}
}

// profiled writes the profiles of what happens in do, where that is wanted. All
// that runs in the process is in them: the NATS server and the simulator, too.
func (c Options) profiled(name string, do func() error) (err error) {
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
