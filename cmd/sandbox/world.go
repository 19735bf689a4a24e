package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/worker"
)

// world is everything around the worker.
type world struct {
	dir     string // holds the streams and the worker's log
	logPath string
	nats    *natstest.Server
	sim     *graphsim.Sim
	nc      *nats.Conn
	js      jetstream.JetStream
	names   consume.Names
}

func newWorld(natsPort int, sim graphsim.Config) (*world, error) {
	dir, err := os.MkdirTemp("", "passcode-sandbox-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, logPath: filepath.Join(dir, "worker.log"), names: consume.Names{
		Tenant: "default", Stream: "PASSCODE_RESETS", Subject: "passcode.reset.requests",
		DeadStream: "PASSCODE_RESETS_DEAD", DeadSubject: "passcode.reset.dead", Bucket: "passcode-resets",
	}}
	w.nats, err = natstest.StartWith(server.Options{ServerName: "sandbox", StoreDir: filepath.Join(dir, "nats"), Port: natsPort})
	if err != nil {
		w.close()
		return nil, err
	}
	if w.sim, err = graphsim.Start(sim); err != nil {
		w.close()
		return nil, err
	}
	if w.nc, err = nats.Connect(w.nats.URL(), nats.MaxReconnects(-1)); err != nil {
		w.close()
		return nil, err
	}
	if w.js, err = jetstream.New(w.nc); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *world) close() {
	if w.nc != nil {
		w.nc.Close()
	}
	if w.sim != nil {
		_ = w.sim.Close() // the process ends with it
	}
	if w.nats != nil {
		w.nats.Stop()
	}
	_ = os.RemoveAll(w.dir) // a temporary folder
}

// config is a worker's configuration in this world, with times that fit into a
// short day.
func (w *world) config(rate pace.Rate, httpAddr string, log *zap.Logger) worker.Config {
	return worker.Config{
		NATS:  worker.NATS{URL: w.nats.URL()},
		Names: w.names,
		Setup: true,
		Credential: graph.Credential{
			Authority: w.sim.URL(), TenantID: graphsim.DefaultTenantID, ClientID: graphsim.DefaultClientID,
			Scope: graph.Clouds()["global"].Scope, Secret: graphsim.DefaultClientSecret, RootCAs: w.sim.CAs(),
		},
		Endpoint:    w.sim.URL(),
		RootCAs:     w.sim.CAs(),
		Concurrency: 32,
		Rate:        rate,
		MaxPause:    3 * time.Second,
		Policy: worker.Policy{
			RequestTimeout: 3 * time.Second,
			MaxAttempts:    3,
			BackoffMin:     200 * time.Millisecond,
			BackoffMax:     2 * time.Second,
			MaxAge:         time.Hour,
			VerifyAfter:    time.Second,
			OnUnknown:      worker.UnknownDeadLetter,
		},
		HTTPAddr:     httpAddr,
		DrainTimeout: 10 * time.Second,
		Build:        metrics.Build{Version: "sandbox", Revision: "unknown", GoVersion: "go"},
		Log:          log,
	}
}

// fileLog is a log like the worker's own, in a file.
func (w *world) fileLog() (*zap.Logger, error) {
	cfg := zap.NewProductionConfig()
	cfg.Sampling = nil
	cfg.OutputPaths = []string{w.logPath}
	cfg.DisableStacktrace = true
	return cfg.Build()
}

// run starts the worker; stop ends it and tells what it said.
func (w *world) run(cfg worker.Config) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, cfg) }()
	return func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(2 * cfg.DrainTimeout):
			return errors.New("the worker did not stop")
		}
	}
}

// waiting is how many requests are on the stream.
func (w *world) waiting(ctx context.Context) (uint64, error) {
	s, err := w.js.Stream(ctx, w.names.Stream)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", w.names.Stream, err)
	}
	return s.CachedInfo().State.Msgs, nil
}
