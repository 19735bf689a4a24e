package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/worker"
)

const (
	benchTenants  = 100
	perTenant     = 150 // requests of each
	crowd         = 100_000
	neighbourStop = 2 * time.Second // calls that hang are not waited for
)

// neighbour is what is wrong with one tenant of a hundred.
type neighbour struct {
	requests int
	spoil    func(sim *graphsim.Sim, tenantID string)
}

var (
	neighbourThrottled = neighbour{perTenant, func(sim *graphsim.Sim, id string) { sim.SetTenantQuota(id, -1, 0) }}
	neighbourForbidden = neighbour{perTenant, func(sim *graphsim.Sim, id string) { sim.SetTenantOutage(id, graphsim.OutagePermission) }}
	neighbourHanging   = neighbour{perTenant, func(sim *graphsim.Sim, id string) { sim.SetTenantOutage(id, graphsim.OutageSilence) }}
	neighbourCrowded   = neighbour{crowd, func(*graphsim.Sim, string) {}}
)

// neighbourRounds is how many times the tenants run with and without it.
const neighbourRounds = 3

func badNeighbour(n neighbour) func(benchCmd, context.Context) ([]sample, error) {
	return func(_ benchCmd, ctx context.Context) ([]sample, error) {
		var ratios, alone, beside []float64
		for i := range neighbourRounds {
			// They take turns at being the first: what else the machine has to do
			// favours neither.
			order := []*neighbour{nil, &n}
			if i%2 == 1 {
				slices.Reverse(order)
			}
			var with, without float64
			for _, bad := range order {
				rate, err := tenantsRun(ctx, bad)
				if err != nil {
					return nil, err
				}
				if bad == nil {
					without = rate
				} else {
					with = rate
				}
			}
			ratios, alone, beside = append(ratios, with/without), append(alone, without), append(beside, with)
		}
		return []sample{
			{what: "99 tenants alone", unit: "per s", value: median(alone)},
			{what: "the same 99 beside it", unit: "per s", value: median(beside)},
			{what: "beside it to alone", value: median(ratios), goal: atLeast(0.95)},
		}, nil
	}
}

// tenantsRun is how many requests per second are worked off of 99 tenants, with
// a bad hundredth or without one.
func tenantsRun(ctx context.Context, bad *neighbour) (float64, error) {
	var ids []string
	for i := range benchTenants - 1 {
		ids = append(ids, fmt.Sprintf("7e4a17b0-0000-4000-8000-%012x", 0xb000+i))
	}
	w, err := newWorld(0, graphsim.Config{Tenants: ids, NoCallLog: true, QuotaUnknown: true})
	if err != nil {
		return 0, err
	}
	defer w.close()
	good, badName := ids, ""
	if bad != nil {
		badName = tenantName(len(ids))
		ids = append(ids, graphsim.DefaultTenantID)
		bad.spoil(w.sim, graphsim.DefaultTenantID)
	}
	cfg, err := w.serviceConfig(pace.Rate{})
	if err != nil {
		return 0, err
	}
	cfg.DrainTimeout = neighbourStop
	cfg.Tenants = w.tenants(ids)
	stop := w.run(cfg)
	if err := w.allPull(ctx, len(ids)); err != nil {
		return 0, join(err, stop)
	}
	if bad != nil {
		// It is as bad as it can be before anything is measured.
		if err := w.load(ctx, w.names.Subject+"."+badName, 10_000_000, bad.requests); err != nil {
			return 0, join(err, stop)
		}
		if err := pauseFor(ctx, settled); err != nil {
			return 0, join(err, stop)
		}
	}
	began := time.Now()
	for i := range good {
		if err := w.send(w.names.Subject+"."+tenantName(i), i*perTenant, perTenant); err != nil {
			return 0, join(err, stop)
		}
	}
	if err := w.emptiedBut(ctx, w.names.Subject+"."+badName); err != nil {
		return 0, join(err, stop)
	}
	took := time.Since(began)
	return float64(len(good)*perTenant) / took.Seconds(), stop()
}

func tenantName(i int) string { return fmt.Sprintf("t%03d", i) }

// tenants are the worker's tenants, each with its own directory.
func (w *world) tenants(ids []string) []worker.Tenant {
	one := w.config(pace.Rate{}, "", nil).Tenants[0]
	var all []worker.Tenant
	for i, id := range ids {
		t := one
		t.Name, t.Credential.TenantID = tenantName(i), id
		all = append(all, t)
	}
	return all
}

// allPull waits until a worker asks for messages of each tenant.
func (w *world) allPull(ctx context.Context, n int) error {
	for i := range n {
		names := consume.Names{Tenant: tenantName(i)}
		if err := w.pulls(ctx, names.Consumer()); err != nil {
			return err
		}
	}
	return nil
}

// emptiedBut waits until no request is on the stream but on one subject.
func (w *world) emptiedBut(ctx context.Context, subject string) error {
	for {
		s, err := w.js.Stream(ctx, w.names.Stream)
		if err != nil {
			return err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(w.names.Subject+".*"))
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
		if err := pauseFor(ctx, max(2*time.Millisecond, time.Duration(left)*50*time.Microsecond)); err != nil {
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
func (benchCmd) carry(ctx context.Context) ([]sample, error) {
	most := slices.Max(carried())
	var ids []string
	for i := range most {
		ids = append(ids, fmt.Sprintf("7e4a17b0-0000-4000-8000-%012x", 0xb000+i))
	}
	w, err := newWorld(0, graphsim.Config{Tenants: ids, NoCallLog: true})
	if err != nil {
		return nil, err
	}
	defer w.close()
	program := filepath.Join(w.dir, "worker")
	if err := buildWorker(ctx, program); err != nil {
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
	file := filepath.Join(w.dir, "tenants.yaml")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		return c, err
	}
	env, err := w.environment("WORKER_TENANTS_FILE="+file, "AZURE_TENANT_ID=")
	if err != nil {
		return c, err
	}
	began := time.Now()
	pid, end, err := w.launch(env, program, "run")
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
	if err := pauseFor(ctx, carryFor); err != nil {
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
