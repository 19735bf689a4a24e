package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
	"passcode-worker/internal/topology"
)

// arenaConfig is what differs between the commands that need an [arena].
type arenaConfig struct {
	seed    uint64
	workers int
	cluster bool
	program string // the worker's; empty: built
	// follows: the workers are this program, started again, so that they can look at
	// devices faster than in life, and what they told is judged.
	follows bool
	env     map[string]string // more of the workers' environment
}

// arena is where processes are thrown faults at.
type arena struct {
	*sandbox.World
	dir     string
	rand    *rand.Rand
	servers []*natstest.Process
	proxies []*natstest.Proxy // between the workers and each of the servers
	workers []*sandbox.Process
	forger  *nats.Conn
	ended   atomic.Int64 // when a request came to its end last, in nanoseconds

	faults   []fault
	counts   map[string]int             // faults injected
	recovery map[string][]time.Duration // from a fault to the next end of a request

	requests []*scenario.Request

	follows bool
	madeUp  int // alarms that were lost, and published again in the end
}

func newArena(ctx context.Context, c arenaConfig) (*arena, error) {
	dir, err := os.MkdirTemp("", "passcode-chaos-")
	if err != nil {
		return nil, err
	}
	a := &arena{dir: dir, rand: rand.New(rand.NewPCG(c.seed, 1)), counts: map[string]int{}, recovery: map[string][]time.Duration{}, follows: c.follows}
	if err := a.build(ctx, c); err != nil {
		a.close(false)
		return nil, err
	}
	return a, nil
}

func (a *arena) build(ctx context.Context, c arenaConfig) error {
	args, err := a.worker(ctx, c)
	if err != nil {
		return err
	}
	if err := a.serve(c.cluster); err != nil {
		return err
	}
	if err := a.setup(ctx); err != nil {
		return err
	}
	env, err := a.environment(c.env)
	if err != nil {
		return err
	}
	for i := range c.workers {
		w := &sandbox.Process{Args: args, Env: env, Log: filepath.Join(a.dir, fmt.Sprintf("worker%d.log", i))}
		if err := w.Start(); err != nil {
			return err
		}
		a.workers = append(a.workers, w)
	}
	return nil
}

// worker is how a worker is started.
func (a *arena) worker(ctx context.Context, c arenaConfig) ([]string, error) {
	if c.follows {
		this, err := os.Executable()
		return []string{this, "worker"}, err
	}
	program := c.program
	if program == "" {
		program = filepath.Join(a.dir, "worker")
		if err := sandbox.BuildWorker(ctx, program); err != nil {
			return nil, err
		}
	}
	return []string{program, "run"}, nil
}

// serve starts NATS and the simulated Graph, and connects.
func (a *arena) serve(cluster bool) error {
	dir := filepath.Join(a.dir, "nats")
	if cluster {
		all, err := natstest.StartProcesses(dir)
		if err != nil {
			return err
		}
		a.servers = all[:]
	} else {
		one, err := natstest.StartProcess(dir)
		if err != nil {
			return err
		}
		a.servers = []*natstest.Process{one}
	}
	var urls []string
	for _, s := range a.servers {
		urls = append(urls, s.URL())
		p, err := natstest.StartProxy(s.URL())
		if err != nil {
			return err
		}
		a.proxies = append(a.proxies, p)
	}
	var err error
	a.World, err = sandbox.New(sandbox.Options{
		Dir: a.dir, URL: strings.Join(urls, ","), // past the proxies
		Sim:     graphsim.Config{Latency: graphLatency, NoCallLog: true, Tenants: []string{scenario.NeighbourDirectory}},
		Connect: []nats.Option{nats.RetryOnFailedConnect(true), nats.ReconnectWait(50 * time.Millisecond), nats.IgnoreDiscoveredServers()},
	})
	if err != nil {
		return err
	}
	if a.forger, err = scenario.ConnectForger(a.URL); err != nil {
		return err
	}
	_, err = a.NC.Subscribe("passcode.reset.status."+a.Names.Tenant+".>", func(m *nats.Msg) {
		if end := []byte(`"state":"`); strings.Contains(string(m.Data), string(end)+string(record.Accepted)) ||
			strings.Contains(string(m.Data), string(end)+string(record.Dead)) {
			a.ended.Store(time.Now().UnixNano())
		}
	})
	return err
}

// tenants are the names of those that the workers serve.
func (a *arena) tenants() []topology.Names {
	neighbour := a.Names
	neighbour.Tenant = scenario.Neighbour
	return []topology.Names{a.Names, neighbour}
}

// setup makes the streams, with an ack wait and a pin that fit the short times.
func (a *arena) setup(ctx context.Context) error {
	for {
		_, err := topology.Setup(ctx, a.JS, a.Names, topology.Layout{})
		if err == nil {
			err = errors.Join(a.setupConsumers(ctx), a.setupFollowing(ctx))
		}
		if err == nil {
			return nil
		}
		if pauseErr := sandbox.Pause(ctx, 100*time.Millisecond); pauseErr != nil {
			return errors.Join(err, pauseErr)
		}
	}
}

// setupFollowing makes the consumers of the alarms anew, and shortens what has to fit
// the short times.
func (a *arena) setupFollowing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := a.JS.Stream(ctx, a.Names.FollowStream)
	if err != nil {
		return err
	}
	stream := s.CachedInfo().Config
	stream.Duplicates = duplicates
	if _, err := a.JS.UpdateStream(ctx, stream); err != nil {
		return err
	}
	for step := range topology.FollowSteps {
		cfg := topology.Layout{}.FollowStep(a.Names, step)
		err := a.JS.DeleteConsumer(ctx, a.Names.FollowStream, cfg.Durable)
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return err
		}
		cfg.AckWait = ackWait
		if _, err := a.JS.CreateOrUpdateConsumer(ctx, a.Names.FollowStream, cfg); err != nil {
			return err
		}
	}
	return nil
}

// setupConsumers makes the consumers anew.
func (a *arena) setupConsumers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, names := range a.tenants() {
		err := a.JS.DeleteConsumer(ctx, names.Stream, names.Consumer())
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return err
		}
		cfg := topology.Layout{}.Worker(names)
		cfg.AckWait, cfg.PinnedTTL = ackWait, pin
		if _, err := a.JS.CreateOrUpdateConsumer(ctx, names.Stream, cfg); err != nil {
			return err
		}
	}
	return nil
}

func (a *arena) environment(more map[string]string) (map[string]string, error) {
	var urls []string
	for _, p := range a.proxies {
		urls = append(urls, p.URL())
	}
	list := fmt.Sprintf("- {name: %s, tenantId: %s}\n- {name: %s, tenantId: %s}\n",
		a.Names.Tenant, graphsim.DefaultTenantID, scenario.Neighbour, scenario.NeighbourDirectory)
	tenants := filepath.Join(a.dir, "tenants.yaml")
	if err := os.WriteFile(tenants, []byte(list), 0o600); err != nil {
		return nil, err
	}
	env := a.Environment()
	maps.Copy(env, map[string]string{
		"NATS_URL": strings.Join(urls, ","), "AZURE_TENANT_ID": "", "WORKER_TENANTS_FILE": tenants,
		"WORKER_RATE": "0", "WORKER_REQUEST_TIMEOUT": requestTimeout.String(), "WORKER_VERIFY_AFTER": verifyAfter.String(),
		"WORKER_BACKOFF_MIN": backoffMin.String(), "WORKER_BACKOFF_MAX": backoffMax.String(), "WORKER_MAX_ATTEMPTS": strconv.Itoa(maxAttempts),
		"WORKER_MAX_PAUSE": maxPause.String(), "WORKER_DRAIN_TIMEOUT": drainTimeout.String(),
	})
	maps.Copy(env, more)
	return sandbox.Inherit(env), nil
}

// calm ends every fault.
func (a *arena) calm(ctx context.Context) {
	a.Sim.SetOutage(graphsim.OutageNone)
	scenario.ShowPlainly(a.Sim, a.requests)
	a.network((*natstest.Proxy).Heal)
	for _, s := range a.servers {
		if s.Running() {
			continue
		}
		if err := s.Start(); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
	}
	for _, p := range a.workers {
		p.Resume()
		if err := p.Revive(); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
	}
	_ = sandbox.Pause(ctx, 200*time.Millisecond)
}

func (a *arena) close(keep bool) {
	for _, p := range a.workers {
		p.Resume()
		p.Kill()
	}
	if a.forger != nil {
		a.forger.Close()
	}
	if a.World != nil {
		a.World.Close()
	}
	a.network((*natstest.Proxy).Close)
	for _, s := range a.servers {
		s.Kill()
	}
	if !keep {
		_ = os.RemoveAll(a.dir) // a temporary folder
	}
}

// network does something to the way between the workers and each server.
func (a *arena) network(do func(*natstest.Proxy)) {
	for _, p := range a.proxies {
		do(p)
	}
}

// nextEnd waits, for a while, until a request comes to its end, and returns how
// long that took since an instant.
func (a *arena) nextEnd(ctx context.Context, since time.Time) (took time.Duration, ok bool) {
	const most = 30 * time.Second
	for time.Since(since) < most {
		if at := a.ended.Load(); at > since.UnixNano() {
			return time.Duration(at - since.UnixNano()), true
		}
		if sandbox.Pause(ctx, 5*time.Millisecond) != nil {
			return 0, false
		}
	}
	return most, true
}
