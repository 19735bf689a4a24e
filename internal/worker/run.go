package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natsconn"
)

// Times of the end.
const (
	// drainReserve is the part of the drain time that is left for
	// acks and for the end itself; a quarter if the drain time is short.
	drainReserve = 3 * time.Second
	flushTimeout = 500 * time.Millisecond
)

// errHardStop ends the work that is still under way when the drain time is over.
var errHardStop = errors.New("the time limit for finishing is over")

// Run is the service. It works until ctx ends, then takes no further request,
// lets the calls in flight finish within the drain time,
// and returns nil. It fails only if it cannot start.
func Run(ctx context.Context, cfg Config) error {
	for _, t := range cfg.Tenants {
		if err := t.check(cfg); err != nil {
			return fmt.Errorf("tenant %s: %w", t.Name, err)
		}
	}
	log, m := cfg.Log, metrics.New(cfg.Build)
	var ln net.Listener
	if cfg.HTTPAddr != "" {
		var err error
		if ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.HTTPAddr); err != nil {
			return fmt.Errorf("WORKER_HTTP_ADDR: %w", err)
		}
	}
	health := newHealth(cfg.NATS, log.Named("nats"), m)
	nc, err := natsconn.Connect(cfg.NATS, health.options()...)
	if err != nil {
		if ln != nil {
			_ = ln.Close() // nothing was served on it
		}
		return err
	}
	defer nc.Close()
	js, err := cfg.NATS.JetStream(nc)
	if err != nil {
		return err
	}
	reserve := newReserve(len(cfg.Tenants))
	defer runtime.KeepAlive(reserve)
	f := newFleet(cfg, js, m)
	err = f.serve(ctx, ln, metrics.Handler(m, func() metrics.State {
		return metrics.State{NATS: health.state(nc), Tenants: f.states()}
	}))
	// The last messages that were given back are still on their way.
	if flushErr := nc.FlushTimeout(flushTimeout); flushErr != nil {
		log.Warn("NATS could not be told which messages were given back; it delivers them again after the ack wait", zap.Error(flushErr))
	}
	log.Info("stopped")
	return err
}

func (t Tenant) check(cfg Config) error {
	c, err := t.client(cfg, nil, nil)
	if err != nil {
		return err
	}
	c.Close()
	_, err = t.Credential.Acquire()
	return err
}

// client makes the tenant's own client of Graph, so that a tenant whose connections
// are retired or filled with hanging calls takes none from another.
func (t Tenant) client(cfg Config, observe func(method string, status int, took time.Duration), unknownAction func(name string)) (*graph.Client, error) {
	return graph.New(graph.Config{
		Endpoint:  cfg.Endpoint,
		UserAgent: "passcode-worker/" + cfg.Build.Version,
		RootCAs:   cfg.RootCAs,
		Observe:   observe,

		ActionNames:   cfg.ActionNames,
		UnknownAction: unknownAction,
	})
}

// serve works until ctx ends. The order of the end: no more intake, the calls in
// flight, what is left of them cut short, the HTTP server last.
func (f *fleet) serve(ctx context.Context, ln net.Listener, handler http.Handler) error {
	outer := context.WithoutCancel(ctx)
	hard, cut := context.WithCancelCause(outer)
	defer cut(nil)
	drain := f.cfg.DrainTimeout
	stopDrain := context.AfterFunc(ctx, func() {
		f.cfg.Log.Info("stopping: no further requests are taken, and calls in flight may finish", zap.Duration("within", drain))
		timer := time.AfterFunc(drain-min(drainReserve, drain/4), func() { cut(errHardStop) })
		context.AfterFunc(hard, func() { timer.Stop() })
	})
	defer stopDrain()

	serving, stopServing := context.WithCancel(outer)
	defer stopServing()
	var group errgroup.Group
	if ln != nil {
		group.Go(func() error {
			err := metrics.Serve(serving, ln, handler)
			if err != nil {
				f.cfg.Log.Error("the server for metrics and health has failed; the work goes on without it", zap.Error(err))
			}
			return err
		})
		f.cfg.Log.Info("serving metrics and health", zap.Stringer("address", ln.Addr()))
	}
	f.run(ctx, hard)
	stopServing()
	return group.Wait()
}
