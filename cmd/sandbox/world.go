package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
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
	names   topology.Names
}

func newWorld(natsPort int, sim graphsim.Config) (*world, error) {
	dir, err := os.MkdirTemp("", "passcode-sandbox-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, logPath: filepath.Join(dir, "worker.log"), names: sandboxNames()}
	w.nats, err = natstest.StartWith(serverOptions(filepath.Join(dir, "nats"), natsPort))
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

// sandboxNames are the default names.
func sandboxNames() topology.Names { return topology.DefaultNames() }

func serverOptions(dir string, port int) server.Options {
	return server.Options{ServerName: "sandbox", StoreDir: dir, Port: port}
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
		Tenants: []worker.Tenant{{Name: w.names.Tenant, Rate: rate, Credential: graph.Credential{
			Authority: w.sim.URL(), TenantID: graphsim.DefaultTenantID, ClientID: graphsim.DefaultClientID,
			Scope: graph.Clouds()["global"].Scope, Secret: graphsim.DefaultClientSecret, RootCAs: w.sim.CAs(),
		}}},
		Endpoint:    w.sim.URL(),
		RootCAs:     w.sim.CAs(),
		Concurrency: 32,
		MaxPause:    3 * time.Second,
		Policy: verdict.Policy{
			RequestTimeout: 3 * time.Second,
			MaxAttempts:    3,
			BackoffMin:     200 * time.Millisecond,
			BackoffMax:     2 * time.Second,
			MaxAge:         time.Hour,
			VerifyAfter:    time.Second,
			OnUnknown:      verdict.UnknownDeadLetter,
		},
		HTTPAddr:     httpAddr,
		DrainTimeout: 10 * time.Second,
		Build:        metrics.Build{Version: "sandbox", Revision: "unknown", GoVersion: "go"},
		Log:          log,
	}
}

// serviceConfig is a worker's configuration with the times of the service, a log
// like the service's, and metrics that are served.
func (w *world) serviceConfig(rate pace.Rate) (worker.Config, error) {
	log, err := w.fileLog()
	if err != nil {
		return worker.Config{}, err
	}
	cfg := w.config(rate, "127.0.0.1:0", log)
	cfg.MaxPause = time.Hour
	cfg.Policy = verdict.DefaultPolicy()
	cfg.DrainTimeout = 25 * time.Second
	return cfg, nil
}

// fileLog is a log like the worker's own, in a file.
func (w *world) fileLog() (*zap.Logger, error) {
	cfg := zap.NewProductionConfig()
	cfg.Sampling = nil
	cfg.OutputPaths = []string{w.logPath}
	cfg.DisableStacktrace = true
	cfg.EncoderConfig.TimeKey = "time"
	cfg.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
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

// setup makes the streams, the bucket and the consumer.
func (w *world) setup(ctx context.Context) error {
	_, err := topology.Setup(ctx, w.js, w.names, topology.Layout{})
	return err
}

// deadLetters are the dead letters by the sequence of the request.
func deadLetters(ctx context.Context, js jetstream.JetStream, names topology.Names) (map[uint64]*jetstream.RawStreamMsg, error) {
	s, err := js.Stream(ctx, names.DeadStream)
	if err != nil {
		return nil, err
	}
	out := map[uint64]*jetstream.RawStreamMsg{}
	state := s.CachedInfo().State
	for seq := state.FirstSeq; state.Msgs > 0 && seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil {
			return nil, err
		}
		of, err := strconv.ParseUint(m.Header.Get(deadletter.HeaderSequence), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("dead letter %d: %w", seq, err)
		}
		if out[of] != nil {
			return nil, fmt.Errorf("request %d has two dead letters", of)
		}
		out[of] = m
	}
	return out, nil
}

// readRecord reads the record of an id.
func readRecord(ctx context.Context, kv jetstream.KeyValue, tenant, id string, r *record.Record) error {
	entry, err := kv.Get(ctx, record.Key(tenant, request.EscapeID(id)))
	if err != nil {
		return err
	}
	return json.Unmarshal(entry.Value(), r)
}
