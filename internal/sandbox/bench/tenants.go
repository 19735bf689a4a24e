package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/worker"
)

const (
	tenantCount   = 100
	perTenant     = 50  // requests of each in a turn
	few           = 150 // requests of a bad one that gets none done
	crowd         = 100_000
	neighbourStop = 2 * time.Second // calls that hang are not waited for
)

// neighbour is what is wrong with one tenant of a hundred.
type neighbour struct {
	requests int
	spoil    func(sim *graphsim.Sim, tenantID string)
}

var (
	neighbourThrottled = neighbour{few, func(sim *graphsim.Sim, id string) { sim.SetTenantQuota(id, -1, 0) }}
	neighbourForbidden = neighbour{few, func(sim *graphsim.Sim, id string) { sim.SetTenantOutage(id, graphsim.OutagePermission) }}
	neighbourHanging   = neighbour{few, func(sim *graphsim.Sim, id string) { sim.SetTenantOutage(id, graphsim.OutageSilence) }}
	neighbourCrowded   = neighbour{crowd, func(*graphsim.Sim, string) {}}
)

// neighbourTurns is how many times the tenants of each worker work without the
// bad one, and as many with it.
const neighbourTurns = 4

// badNeighbour measures what 99 tenants get done alone, and beside one more. Of
// two workers, each with a NATS and a Graph of its own, one begins without it and
// the other with it, and at half-time they change. They take turns of a second.
// So neither what differs between the two nor what else the machine has to do
// favours a side.
func badNeighbour(bad neighbour) func(Options, context.Context) ([]sample, error) {
	return func(_ Options, ctx context.Context) ([]sample, error) {
		var both [2]*neighbours
		for i := range both {
			n, err := newNeighbours(ctx, bad)
			if err != nil {
				return nil, err
			}
			defer n.close()
			both[i] = n
		}
		// The first turn of all pays for connections and caches.
		var alone, beside, warm [2]spent
		for i := range 2*neighbourTurns + 1 {
			for j, n := range both {
				into := &alone[j]
				with := (i > neighbourTurns) == (j == 0)
				switch {
				case i == 0:
					with, into = false, &warm[j]
				case with:
					into = &beside[j]
				}
				if err := n.turn(ctx, with, into); err != nil {
					return nil, err
				}
			}
		}
		ratio := 1.0
		for j, n := range both {
			ratio *= beside[j].perSecond() / alone[j].perSecond()
			if err := n.stop(); err != nil {
				return nil, err
			}
		}
		return []sample{
			{what: "99 tenants alone", unit: "per s", value: (alone[0].perSecond() + alone[1].perSecond()) / 2},
			{what: "the same 99 beside it", unit: "per s", value: (beside[0].perSecond() + beside[1].perSecond()) / 2},
			{what: "beside it to alone", value: math.Sqrt(ratio), goal: atLeast(0.95)},
		}, nil
	}
}

// neighbours are the tenants of one worker: the good ones, and the bad one, which
// does nothing but in its turns.
type neighbours struct {
	w     *world
	stop  func() error // the worker; once
	good  int
	bad   neighbour
	turns int
	ready bool // the bad one has its requests
}

func newNeighbours(ctx context.Context, bad neighbour) (*neighbours, error) {
	var ids []string
	for i := range tenantCount - 1 {
		ids = append(ids, fmt.Sprintf("7e4a17b0-0000-4000-8000-%012x", 0xb000+i))
	}
	w, err := newWorld(graphsim.Config{Tenants: ids, NoCallLog: true, QuotaUnknown: true})
	if err != nil {
		return nil, err
	}
	n := &neighbours{w: w, good: len(ids), bad: bad}
	ids = append(ids, graphsim.DefaultTenantID)
	bad.spoil(w.Sim, graphsim.DefaultTenantID)
	cfg, err := w.ServiceConfig(pace.Rate{})
	if err != nil {
		w.Close()
		return nil, err
	}
	cfg.DrainTimeout = neighbourStop
	cfg.Tenants = w.tenants(ids)
	n.stop = sync.OnceValue(w.Run(cfg))
	if err := errors.Join(w.allPull(ctx, len(ids)), n.pause(ctx, true)); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *neighbours) close() {
	_ = n.stop() // where it matters it was asked before
	n.w.Close()
}

// subject of the bad one.
func (n *neighbours) subject() string { return n.w.Names.Subject + "." + tenantName(n.good) }

// pause keeps the bad one from doing anything, or lets it.
func (n *neighbours) pause(ctx context.Context, paused bool) error {
	until := time.Time{}
	if paused {
		until = time.Now().Add(time.Hour)
	}
	_, err := n.w.JS.PauseConsumer(ctx, n.w.Names.Stream, topology.Names{Tenant: tenantName(n.good)}.Consumer(), until)
	return err
}

// turn has each good tenant work off some requests, with the bad one or without.
func (n *neighbours) turn(ctx context.Context, with bool, into *spent) error {
	if with && !n.ready {
		if err := n.w.load(ctx, n.subject(), 10_000_000, n.bad.requests); err != nil {
			return err
		}
		n.ready = true
	}
	if with {
		if err := n.pause(ctx, false); err != nil {
			return err
		}
	}
	// It is as bad as it can be before anything is measured.
	if err := sandbox.Pause(ctx, settled); err != nil {
		return err
	}
	runtime.GC() // what was before is not for this turn to clear away
	began := clock()
	for i := range n.good {
		if err := n.w.send(n.w.Names.Subject+"."+tenantName(i), (n.turns*n.good+i)*perTenant, perTenant); err != nil {
			return err
		}
	}
	if err := n.w.emptiedBut(ctx, n.subject()); err != nil {
		return err
	}
	into.add(began.spent(n.good * perTenant))
	n.turns++
	if with {
		return n.pause(ctx, true)
	}
	return nil
}

func tenantName(i int) string { return fmt.Sprintf("t%03d", i) }

// tenants are the worker's tenants, each with its own directory.
func (w *world) tenants(ids []string) []worker.Tenant {
	var all []worker.Tenant
	for i, id := range ids {
		all = append(all, w.Tenant(tenantName(i), id, pace.Rate{}))
	}
	return all
}

// allPull waits until a worker asks for messages of each tenant.
func (w *world) allPull(ctx context.Context, n int) error {
	for i := range n {
		names := topology.Names{Tenant: tenantName(i)}
		if err := w.pulls(ctx, names.Consumer()); err != nil {
			return err
		}
	}
	return nil
}

// emptiedBut waits until no request is on the stream but on one subject.
func (w *world) emptiedBut(ctx context.Context, subject string) error {
	for {
		s, err := w.JS.Stream(ctx, w.Names.Stream)
		if err != nil {
			return err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(w.Names.Subject+".*"))
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		left := uint64(0)
		for name, n := range info.State.Subjects {
			if name != subject {
				left += n
			}
		}
		if left == 0 {
			return nil
		}
		if err := sandbox.Pause(ctx, max(2*time.Millisecond, time.Duration(left)*50*time.Microsecond)); err != nil {
			return err
		}
	}
}

// carried are the numbers of tenants of the row carry.
func carried() []int { return []int{1, 100, 300} }

// carryFor is how long a worker process is watched that has nothing to do.
const carryFor = 10 * time.Second

// carry measures what a worker process costs that serves many tenants without a
// request: what it holds resident, how much of one processor it takes, and the
// time from its start until it asks for requests of each.
func (Options) carry(ctx context.Context) ([]sample, error) {
	most := slices.Max(carried())
	var ids []string
	for i := range most {
		ids = append(ids, fmt.Sprintf("7e4a17b0-0000-4000-8000-%012x", 0xb000+i))
	}
	w, err := newWorld(graphsim.Config{Tenants: ids, NoCallLog: true})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	program := filepath.Join(w.Dir, "worker")
	if err := sandbox.BuildWorker(ctx, program); err != nil {
		return nil, err
	}
	var out []sample
	for _, n := range carried() {
		if err := w.fill(ctx, 0); err != nil {
			return nil, err
		}
		c, err := w.carry(ctx, program, ids[:n])
		if err != nil {
			return nil, fmt.Errorf("%d tenants: %w", n, err)
		}
		out = append(out,
			sample{what: fmt.Sprintf("%d tenants, resident", n), unit: "MiB", value: c.resident},
			sample{what: fmt.Sprintf("%d tenants, of one processor", n), unit: "%", value: c.processor},
			sample{what: fmt.Sprintf("%d tenants, start until all are served", n), unit: "s", value: c.served.Seconds()})
	}
	return out, nil
}

type carriage struct {
	resident, processor float64
	served              time.Duration
}

func (w *world) carry(ctx context.Context, program string, ids []string) (c carriage, err error) {
	list := []byte{}
	for i, id := range ids {
		list = fmt.Appendf(list, "- name: %s\n  tenantId: %s\n", tenantName(i), id)
	}
	file := filepath.Join(w.Dir, "tenants.yaml")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		return c, err
	}
	began := time.Now()
	pid, end, err := w.launch(map[string]string{"WORKER_TENANTS_FILE": file, "AZURE_TENANT_ID": ""}, program, "run")
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := w.allPull(ctx, len(ids)); err != nil {
		return c, err
	}
	c.served = time.Since(began)
	before, err := processorTime(pid)
	if err != nil {
		return c, err
	}
	if err := sandbox.Pause(ctx, carryFor); err != nil {
		return c, err
	}
	after, err := processorTime(pid)
	if err != nil {
		return c, err
	}
	c.processor = 100 * (after - before).Seconds() / carryFor.Seconds()
	c.resident, err = peakMemory(pid)
	return c, err
}
