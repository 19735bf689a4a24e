package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// arenaConfig is what differs between the commands that need an [arena].
type arenaConfig struct {
	seed    uint64
	workers int
	cluster bool
	program string            // the worker's; empty: built
	env     map[string]string // more of the workers' environment
}

// arena is where processes are thrown faults at.
type arena struct {
	dir     string
	rand    *rand.Rand
	names   topology.Names
	sim     *graphsim.Sim
	servers []*natstest.Process
	proxies []*natstest.Proxy // between the workers and each of the servers
	workers []*process
	nc      *nats.Conn // past the proxies
	js      jetstream.JetStream
	ended   atomic.Int64 // when a request came to its end last, in nanoseconds

	faults   []fault1
	counts   map[string]int             // faults injected
	recovery map[string][]time.Duration // from a fault to the next end of a request

	requests []*chaosRequest
}

func newArena(ctx context.Context, c arenaConfig) (*arena, error) {
	dir, err := os.MkdirTemp("", "passcode-chaos-")
	if err != nil {
		return nil, err
	}
	a := &arena{dir: dir, rand: rand.New(rand.NewPCG(c.seed, 1)), names: sandboxNames(),
		counts: map[string]int{}, recovery: map[string][]time.Duration{}}
	if err := a.build(ctx, c); err != nil {
		a.close(false)
		return nil, err
	}
	return a, nil
}

func (a *arena) build(ctx context.Context, c arenaConfig) error {
	program := c.program
	if program == "" {
		program = filepath.Join(a.dir, "worker")
		if err := buildWorker(ctx, program); err != nil {
			return err
		}
	}
	var err error
	if a.sim, err = graphsim.Start(graphsim.Config{Latency: chaosLatency, NoCallLog: true}); err != nil {
		return err
	}
	ca := filepath.Join(a.dir, "ca.pem")
	if err := os.WriteFile(ca, a.sim.CAPEM(), 0o600); err != nil {
		return err
	}
	if err := a.serve(c.cluster); err != nil {
		return err
	}
	if err := a.setup(ctx); err != nil {
		return err
	}
	env := a.environment(ca)
	for name, value := range c.env {
		env = append(env, name+"="+value)
	}
	for i := range c.workers {
		w := newProcess(filepath.Join(a.dir, fmt.Sprintf("worker%d.log", i)), env, program, "run")
		if err := w.start(); err != nil {
			return err
		}
		a.workers = append(a.workers, w)
	}
	return nil
}

// serve starts NATS, and connects.
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
	a.nc, err = nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(50*time.Millisecond), nats.IgnoreDiscoveredServers())
	if err != nil {
		return err
	}
	if a.js, err = jetstream.New(a.nc); err != nil {
		return err
	}
	_, err = a.nc.Subscribe("passcode.reset.status.>", func(m *nats.Msg) {
		if end := []byte(`"state":"`); strings.Contains(string(m.Data), string(end)+string(record.Accepted)) ||
			strings.Contains(string(m.Data), string(end)+string(record.Dead)) {
			a.ended.Store(time.Now().UnixNano())
		}
	})
	return err
}

// setup makes the streams, with an ack wait and a pin that fit the short times.
func (a *arena) setup(ctx context.Context) error {
	for {
		_, err := topology.Setup(ctx, a.js, a.names, topology.Layout{})
		if err == nil {
			err = a.setupConsumer(ctx)
		}
		if err == nil {
			return nil
		}
		if pauseErr := pauseFor(ctx, 100*time.Millisecond); pauseErr != nil {
			return errors.Join(err, pauseErr)
		}
	}
}

// setupConsumer makes the consumer anew.
func (a *arena) setupConsumer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := a.js.DeleteConsumer(ctx, a.names.Stream, a.names.Consumer())
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return err
	}
	cfg := topology.Layout{}.Worker(a.names)
	cfg.AckWait, cfg.PinnedTTL = chaosAckWait, chaosPin
	_, err = a.js.CreateOrUpdateConsumer(ctx, a.names.Stream, cfg)
	return err
}

func (a *arena) environment(ca string) []string {
	var urls []string
	for _, p := range a.proxies {
		urls = append(urls, p.URL())
	}
	return []string{
		"NATS_URL=" + strings.Join(urls, ","),
		"AZURE_TENANT_ID=" + graphsim.DefaultTenantID, "AZURE_CLIENT_ID=" + graphsim.DefaultClientID,
		"AZURE_CLIENT_SECRET=" + graphsim.DefaultClientSecret,
		"AZURE_AUTHORITY_HOST=" + a.sim.URL(), "GRAPH_ENDPOINT=" + a.sim.URL(), "SSL_CERT_FILE=" + ca,
		"WORKER_RATE=0", "WORKER_REQUEST_TIMEOUT=1s", "WORKER_VERIFY_AFTER=1s", "WORKER_BACKOFF_MIN=50ms", "WORKER_BACKOFF_MAX=1s",
		"WORKER_MAX_ATTEMPTS=100", "WORKER_MAX_PAUSE=2s", "WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_DRAIN_TIMEOUT=5s",
	}
}

// calm ends every fault.
func (a *arena) calm(ctx context.Context) {
	a.sim.SetOutage(graphsim.OutageNone)
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
		p.resume()
		if err := p.revive(); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
	}
	_ = pauseFor(ctx, 200*time.Millisecond)
}

func (a *arena) close(keep bool) {
	for _, p := range a.workers {
		p.resume()
		p.kill()
	}
	if a.nc != nil {
		a.nc.Close()
	}
	a.network((*natstest.Proxy).Close)
	for _, s := range a.servers {
		s.Kill()
	}
	if a.sim != nil {
		_ = a.sim.Close() // the process ends with it
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
		if pauseFor(ctx, 5*time.Millisecond) != nil {
			return 0, false
		}
	}
	return most, true
}
