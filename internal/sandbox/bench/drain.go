package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// drainRounds is how many times the worker and its floor take turns.
const drainRounds = 9

// workerName is the name of the worker's connection to NATS.
const workerName = "passcode-worker"

// clusterShare is the part of the requests of the row drain that the row cluster takes,
// whose servers wait for their disks.
const clusterShare = 2

// drain measures how fast a backlog drains when Graph is instant and grants everything,
// and what that takes of the processor, beside two bare loops: pull, POST, ack; and the
// same with two record writes, an alarm and a confirmed ack. The worker and the second take
// turns, and the median of their ratios counts, so that what else the machine has to do
// favours neither.
func drain(ctx context.Context, w *world) ([]sample, error) {
	n := w.N
	if w.cluster {
		n = max(1, n/clusterShare)
	}
	bare := &turns{name: floorName, start: func() (*process, error) { return w.floor("--bare") }}
	floor := &turns{name: floorName, start: func() (*process, error) { return w.floor("--profile", w.profile(floorName)) }}
	ours := &turns{name: workerName, start: func() (*process, error) {
		return w.start(map[string]string{"WORKER_RATE": noRate, profileVariable: w.profile(workerName)}, w.worker, "run")
	}}
	// The first run of all pays for files and caches.
	for _, t := range []*turns{floor, ours} {
		if err := w.turn(ctx, t, n/10+1); err != nil {
			return nil, err
		}
		*t = turns{name: t.name, start: t.start}
	}
	for range 2 {
		if err := w.turn(ctx, bare, n); err != nil {
			return nil, fmt.Errorf("bare floor: %w", err)
		}
	}
	var rates, processor []float64
	for i := range drainRounds {
		// Both talk to the same server of a cluster: what a message costs depends on how many
		// of the leaders are there, and NATS clients choose a server at random.
		w.env["NATS_URL"] = w.nats[i%len(w.nats)].URL()
		order := []*turns{floor, ours}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, t := range order {
			t.profile = ""
			if i == 0 && w.Profile != "" {
				t.profile = w.profile(t.name)
			}
			if err := w.turn(ctx, t, n); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
		rates = append(rates, ours.last.perSecond()/floor.last.perSecond())
		processor = append(processor, ours.last.own/floor.last.own)
	}
	f, o := floor.all, ours.all
	return []sample{
		{what: "floor: pull, POST, ack", unit: "per s", value: bare.all.perSecond()},
		{what: "floor: and two record writes, alarm, confirmed ack", unit: "per s", value: f.perSecond()},
		{what: "worker", unit: "per s", value: o.perSecond()},
		{what: "worker to floor", value: median(rates), goal: atLeast(0.95)},
		{what: "processor time of the floor's process", unit: "µs each", value: f.each(f.own)},
		{what: "processor time of the worker's process", unit: "µs each", value: o.each(o.own)},
		{what: "worker's to floor's", value: median(processor), goal: atMost(1.15)},
		{what: "processor time of NATS, beside the floor", unit: "µs each", value: f.each(f.nats)},
		{what: "processor time of NATS, beside the worker", unit: "µs each", value: o.each(o.nats)},
		{what: "processor time of Graph, beside the floor", unit: "µs each", value: f.each(f.graph)},
		{what: "processor time of Graph, beside the worker", unit: "µs each", value: o.each(o.graph)},
		{what: "floor: messages to NATS", unit: "each", value: f.share(f.sent)},
		{what: "worker: messages to NATS", unit: "each", value: o.share(o.sent)},
		{what: "worker: of these, record writes", unit: "each", value: o.share(o.records)},
		{what: "worker: of these, alarms", unit: "each", value: o.share(o.alarms)},
		{what: "worker: of these, the ack, pulls and all else", unit: "each", value: o.share(o.sent - o.records - o.alarms)},
	}, nil
}

// turns are several runs of the same program.
type turns struct {
	name      string // of its connection to NATS
	start     func() (*process, error)
	profile   string // the file that the next one writes; empty: none
	last, all spent
}

// spent is what it took to work off n requests, or the state of the counters at an instant.
type spent struct {
	n    int
	took time.Duration
	// Processor time in seconds, of the process itself and of those it talks to; not a
	// number where it is not known.
	own, nats, graph float64
	// Messages that the process sent to NATS, and those of them that were stored.
	sent, records, alarms int
}

func (s *spent) add(more spent, sign int) {
	f := float64(sign)
	s.n, s.took = s.n+sign*more.n, s.took+time.Duration(sign)*more.took
	s.own, s.nats, s.graph = s.own+f*more.own, s.nats+f*more.nats, s.graph+f*more.graph
	s.sent, s.records, s.alarms = s.sent+sign*more.sent, s.records+sign*more.records, s.alarms+sign*more.alarms
}

func (s spent) perSecond() float64 { return float64(s.n) / s.took.Seconds() }

// each is a processor time for one request, in microseconds.
func (s spent) each(seconds float64) float64 { return seconds * 1e6 / float64(s.n) }

// share is a number for one request.
func (s spent) share(of int) float64 { return float64(of) / float64(s.n) }

// counters are what a program has spent so far.
func (w *world) counters(ctx context.Context, t *turns, p *process) (s spent, err error) {
	var servers []int
	for _, server := range w.nats {
		servers = append(servers, server.Pid())
	}
	var errs [6]error
	var c connection
	var records, alarms jetstream.StreamState
	s.own, errs[0] = processorTime(p.Pid())
	s.nats, errs[1] = processorTime(servers...)
	s.graph, errs[2] = processorTime(w.graph.Pid())
	c, errs[3] = w.connection(ctx, t.name)
	records, errs[4] = w.state(ctx, "KV_"+w.names.Bucket)
	alarms, errs[5] = w.state(ctx, w.names.FollowStream)
	s.sent, s.records, s.alarms = c.In, int(records.LastSeq), int(alarms.LastSeq)
	return s, errors.Join(errs[:]...)
}

// turn lets a program work off a backlog. What it takes is counted from its first call on:
// its start is measured by another row.
func (w *world) turn(ctx context.Context, t *turns, n int) error {
	if err := w.fill(ctx, n); err != nil {
		return err
	}
	p, err := t.start()
	if err != nil {
		return err
	}
	if err := w.posted(ctx, 1); err != nil {
		return err
	}
	began := time.Now()
	before, err := w.counters(ctx, t, p)
	if err != nil {
		return err
	}
	if t.profile != "" {
		if err := errors.Join(os.RemoveAll(t.profile), p.Signal(syscall.SIGUSR1)); err != nil {
			return err
		}
	}
	if err := w.emptied(ctx, w.names.Stream); err != nil {
		return err
	}
	took := time.Since(began)
	t.last, err = w.counters(ctx, t, p)
	if err != nil {
		return err
	}
	t.last.add(before, -1)
	t.last.n, t.last.took = n, took
	t.all.add(t.last, 1)
	if t.profile != "" {
		if err := w.endProfile(ctx, p, t.profile); err != nil {
			return err
		}
	}
	if err := p.end(); err != nil {
		return err
	}
	return w.judge(n)
}

// endProfile waits until the process has written what it was told to write.
func (w *world) endProfile(ctx context.Context, p *process, file string) error {
	if err := p.Signal(syscall.SIGUSR2); err != nil {
		return err
	}
	return w.await(ctx, "the profile", func() (time.Duration, error) {
		if _, err := os.Stat(file); err != nil {
			return settled / 10, nil
		}
		return 0, nil
	})
}

// judge fails where not each of n requests led to one reset.
func (w *world) judge(n int) error {
	s, err := w.graph.Status()
	if err != nil {
		return err
	}
	if s.Executed != n || len(s.ResetTwice) > 0 || s.DuringRetry > 0 || s.ViolationCount > 0 {
		return fmt.Errorf("%d resets for %d requests, %d devices twice, %d calls inside a Retry-After, violations %v",
			s.Executed, n, len(s.ResetTwice), s.DuringRetry, s.Violations)
	}
	return nil
}

// profile is where a program's profile goes; empty: nowhere.
func (w *world) profile(name string) string {
	if w.Profile == "" {
		return ""
	}
	return filepath.Join(w.Profile, name+".cpu.pprof")
}
