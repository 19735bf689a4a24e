package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/sandbox"
)

// startWaiting is how many requests wait when a worker is started.
const startWaiting = 100

// start measures the time from the start of a worker process to its first call,
// beside that of a process that does no more than to connect, to pull, to write
// one record, to fetch a token and to call.
func (Options) start(ctx context.Context) ([]sample, error) {
	w, err := newWorld(graphsim.Config{NoCallLog: true})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	program := filepath.Join(w.Dir, "worker")
	if err := sandbox.BuildWorker(ctx, program); err != nil {
		return nil, err
	}
	this, err := os.Executable()
	if err != nil {
		return nil, err
	}
	floor, err := w.startTime(ctx, this, "floor")
	if err != nil {
		return nil, err
	}
	ours, err := w.startTime(ctx, program, "run")
	if err != nil {
		return nil, err
	}
	return []sample{
		{what: "floor: a bare process", unit: "ms", value: floor},
		{what: "start to the first POST", unit: "ms", value: ours, goal: atMost(500)},
	}, nil
}

func (w *world) startTime(ctx context.Context, args ...string) (float64, error) {
	if err := w.fill(ctx, startWaiting); err != nil {
		return 0, err
	}
	began := time.Now()
	_, end, err := w.launch(nil, args...)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = w.firstPost(ctx)
	took := time.Since(began)
	return float64(took) / float64(time.Millisecond), errors.Join(err, end())
}

// Floor is the floor of the row start, as a process of its own: it makes one call.
func Floor(ctx context.Context, natsURL, graphURL string) error {
	nc, err := nats.Connect(natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	w := &world{&sandbox.World{JS: js, Names: sandbox.Names()}}
	f, err := w.floorLoopAt(ctx, graphURL, nil, true)
	if err != nil {
		return err
	}
	it, err := w.messages(ctx)
	if err != nil {
		return err
	}
	defer it.Stop()
	if err := f.run(ctx, it, 1); err != nil && ctx.Err() == nil {
		return err
	}
	return nil // it may be told to stop as soon as the call has arrived
}

// memoryFor is how long a worker works on the backlog before its memory is read.
const memoryFor = 20 * time.Second

// memory measures the most memory that a worker process ever had resident, in
// 20 s of draining a long queue as fast as it can, beside the same of a worker
// whose queue is empty.
func (c Options) memory(ctx context.Context) ([]sample, error) {
	w, err := newWorld(graphsim.Config{NoCallLog: true})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	program := filepath.Join(w.Dir, "worker")
	if err := sandbox.BuildWorker(ctx, program); err != nil {
		return nil, err
	}
	if err := w.fill(ctx, 0); err != nil {
		return nil, err
	}
	empty, err := w.residentAfter(ctx, 3*time.Second, program, "run")
	if err != nil {
		return nil, err
	}
	if err := w.fill(ctx, c.Waiting); err != nil {
		return nil, err
	}
	request, _, err := w.stored(ctx, w.Names.Stream)
	if err != nil {
		return nil, err
	}
	full, err := w.residentAfter(ctx, memoryFor, program, "run")
	if err != nil {
		return nil, err
	}
	left, err := w.Waiting(ctx)
	if err != nil {
		return nil, err
	}
	revision, revisions, err := w.stored(ctx, "KV_"+w.Names.Bucket)
	if err != nil {
		return nil, err
	}
	return []sample{
		{what: "floor: an empty queue", unit: "MiB", value: empty},
		{what: fmt.Sprintf("%d waiting", c.Waiting), unit: "MiB", value: full, goal: atMost(64)},
		{what: "still waiting then", value: float64(left)},
		{what: "stored for a request that waits", unit: "B", value: request},
		{what: "stored for the records of one done", unit: "B", value: revision * revisions / float64(c.Waiting-int(left))},
	}, nil
}

// stored is how many bytes a message takes on a stream, and how many there are.
func (w *world) stored(ctx context.Context, stream string) (each, messages float64, err error) {
	s, err := w.JS.Stream(ctx, stream)
	if err != nil {
		return 0, 0, err
	}
	state := s.CachedInfo().State
	return float64(state.Bytes) / float64(state.Msgs), float64(state.Msgs), nil
}

// residentAfter is the most memory, in MiB, that a worker had resident.
func (w *world) residentAfter(ctx context.Context, d time.Duration, args ...string) (float64, error) {
	pid, end, err := w.launch(map[string]string{"WORKER_RATE": "0"}, args...)
	if err != nil {
		return 0, err
	}
	err = sandbox.Pause(ctx, d)
	mib, readErr := peakMemory(pid)
	return mib, errors.Join(err, readErr, end())
}

// peakMemory reads the most that a process had resident. The kernel's account
// after the end of a process is of no use: it begins with that of the parent.
func peakMemory(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("this row needs Linux: %w", err)
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
			return float64(kib) / 1024, err
		}
	}
	return 0, errors.New("/proc tells no VmHWM")
}

// processorTime is the processor time that a process has taken so far.
func processorTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("this row needs Linux: %w", err)
	}
	// The name of the program, in brackets, may hold spaces. Of what follows, the
	// 12th and 13th are ticks of the user's and the system's: 100 a second.
	_, rest, _ := bytes.Cut(text, []byte(") "))
	fields := bytes.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("/proc tells no processor time")
	}
	user, userErr := strconv.Atoi(string(fields[11]))
	system, systemErr := strconv.Atoi(string(fields[12]))
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(userErr, systemErr)
}
