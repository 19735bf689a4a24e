// Package sandbox is the world around the worker, for the command sandbox and for
// tests: a real NATS server, a simulated Microsoft Entra and Graph, and the worker
// between them, in this process or in processes of its own.
package sandbox

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natsconn"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
	"passcode-worker/internal/worker"
)

// ErrBroken means that the sandbox worked, and what it was to show is not so.
var ErrBroken = errors.New("a promise was broken")

// Options say what a world is made of.
type Options struct {
	Sim graphsim.Config
	// NATS has a server started in this process; nil: none. Its name and its folder
	// are set where they are empty.
	NATS *server.Options
	// URL is where to connect where no server is started: comma-separated
	// addresses; empty: nowhere.
	URL string
	// Connect are further options of the connection.
	Connect []nats.Option
	// Dir is a folder for streams and logs, which stays; empty: a temporary one,
	// which goes with the world.
	Dir string
}

// World is everything around the worker.
type World struct {
	Dir   string           // holds the streams, the worker's log and the file CA
	NATS  *natstest.Server // nil where it is not in this process
	URL   string           // of NATS
	Sim   *graphsim.Sim
	CA    string // file with the authority of the simulated Graph's certificate
	NC    *nats.Conn
	JS    jetstream.JetStream
	Names topology.Names

	temporary bool
}

// New makes a world. Close it.
func New(o Options) (*World, error) {
	w := &World{Dir: o.Dir, URL: o.URL, Names: Names()}
	if err := w.build(o); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *World) build(o Options) (err error) {
	if w.Dir == "" {
		if w.Dir, err = os.MkdirTemp("", "passcode-sandbox-"); err != nil {
			return err
		}
		w.temporary = true
	}
	if w.Sim, err = graphsim.Start(o.Sim); err != nil {
		return err
	}
	w.CA = filepath.Join(w.Dir, "ca.pem")
	if err := os.WriteFile(w.CA, w.Sim.CAPEM(), 0o644); err != nil { // no secret: the workers of others read it
		return err
	}
	if o.NATS != nil {
		opts := *o.NATS
		if opts.ServerName == "" {
			opts.ServerName = "sandbox"
		}
		if opts.StoreDir == "" {
			opts.StoreDir = filepath.Join(w.Dir, "nats")
		}
		if w.NATS, err = natstest.StartWith(opts); err != nil {
			return err
		}
		w.URL = w.NATS.URL()
	}
	if w.URL == "" {
		return nil
	}
	if w.NC, err = nats.Connect(w.URL, append([]nats.Option{nats.MaxReconnects(-1)}, o.Connect...)...); err != nil {
		return err
	}
	w.JS, err = jetstream.New(w.NC)
	return err
}

// Names are the default names.
func Names() topology.Names { return topology.DefaultNames() }

// Close ends everything that New has started.
func (w *World) Close() {
	if w.NC != nil {
		w.NC.Close()
	}
	if w.Sim != nil {
		_ = w.Sim.Close() // nobody calls it any more
	}
	if w.NATS != nil {
		w.NATS.Stop()
	}
	if w.temporary {
		_ = os.RemoveAll(w.Dir) // a temporary folder
	}
}

// Place is where a worker finds everything.
type Place struct {
	NATS  string // URL
	Graph string // root of Graph and of Entra
	// CAs are trusted for TLS to Graph; nil: the system's.
	CAs   *x509.CertPool
	Names topology.Names
}

// Place is that of this world.
func (w *World) Place() Place {
	return Place{NATS: w.URL, Graph: w.Sim.URL(), CAs: w.Sim.CAs(), Names: w.Names}
}

// Config is a worker's configuration there, with times that fit into a short day.
func (p Place) Config(rate pace.Rate, httpAddr string, log *zap.Logger) worker.Config {
	return worker.Config{
		NATS:        natsconn.Config{URL: p.NATS},
		Names:       p.Names,
		Setup:       true,
		Tenants:     []worker.Tenant{p.Tenant(p.Names.Tenant, graphsim.DefaultTenantID, rate)},
		Endpoint:    p.Graph,
		RootCAs:     p.CAs,
		Concurrency: 32,
		MaxPause:    3 * time.Second,
		Policy: verdict.Policy{
			RequestTimeout: 3 * time.Second,
			MaxAttempts:    3,
			BackoffMin:     200 * time.Millisecond,
			BackoffMax:     2 * time.Second,
			MaxAge:         time.Hour,
			VerifyAfter:    2 * time.Second, // two looks must see what a device shows only after 5 s
			OnUnknown:      verdict.UnknownDeadLetter,
		},
		HTTPAddr:     httpAddr,
		DrainTimeout: 10 * time.Second,
		Build:        metrics.Build{Version: "sandbox", Revision: "unknown", GoVersion: "go"},
		Log:          log,
	}
}

// Tenant is one of the worker's tenants, with a directory of the simulated Entra.
func (p Place) Tenant(name, directory string, rate pace.Rate) worker.Tenant {
	return worker.Tenant{Name: name, Rate: rate, Credential: graph.Credential{
		Authority: p.Graph, TenantID: directory, ClientID: graphsim.DefaultClientID,
		Scope: graph.Clouds()["global"].Scope, Secret: graphsim.DefaultClientSecret, RootCAs: p.CAs,
	}}
}

// Config is [Place.Config] in this world.
func (w *World) Config(rate pace.Rate, httpAddr string, log *zap.Logger) worker.Config {
	return w.Place().Config(rate, httpAddr, log)
}

// Tenant is [Place.Tenant] in this world.
func (w *World) Tenant(name, directory string, rate pace.Rate) worker.Tenant {
	return w.Place().Tenant(name, directory, rate)
}

// LogFile is the worker's log.
func (w *World) LogFile() string { return filepath.Join(w.Dir, "worker.log") }

// FileLog is a log like the worker's own, in LogFile.
func (w *World) FileLog(level zapcore.Level) (*zap.Logger, error) { return Log(level, w.LogFile()) }

// Log is a log like the worker's own; path is a file, or stderr.
func Log(level zapcore.Level, path string) (*zap.Logger, error) {
	cfg := zap.NewProductionConfig()
	cfg.Level = zap.NewAtomicLevelAt(level)
	cfg.Sampling = nil
	cfg.OutputPaths = []string{path}
	cfg.DisableStacktrace = true
	cfg.EncoderConfig.TimeKey = "time"
	cfg.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return cfg.Build()
}

// Environment is what a worker process needs in this world.
func (w *World) Environment() map[string]string { return Environment(w.URL, w.Sim.URL(), w.CA) }

// Environment is what a worker process needs to find NATS, and the simulated Graph
// and Entra with the default names; ca is a file with the authority of their certificate.
func Environment(nats, graph, ca string) map[string]string {
	return map[string]string{
		"SSL_CERT_FILE":        ca,
		"NATS_URL":             nats,
		"AZURE_TENANT_ID":      graphsim.DefaultTenantID,
		"AZURE_CLIENT_ID":      graphsim.DefaultClientID,
		"AZURE_CLIENT_SECRET":  graphsim.DefaultClientSecret,
		"AZURE_AUTHORITY_HOST": graph,
		"GRAPH_ENDPOINT":       graph,
		"WORKER_HTTP_ADDR":     "127.0.0.1:0",
	}
}

// Run starts the worker in this process; stop ends it and returns its error.
func (w *World) Run(cfg worker.Config) (stop func() error) {
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

// Waiting is how many requests are on the stream.
func (w *World) Waiting(ctx context.Context) (uint64, error) {
	return w.messages(ctx, w.Names.Stream)
}

// Alarms is how many requests are followed: how many alarms wait.
func (w *World) Alarms(ctx context.Context) (uint64, error) {
	return w.messages(ctx, w.Names.FollowStream)
}

func (w *World) messages(ctx context.Context, stream string) (uint64, error) {
	s, err := w.JS.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	return s.CachedInfo().State.Msgs, nil
}

// SetUp makes the streams, the bucket and the consumer.
func (w *World) SetUp(ctx context.Context) error {
	_, err := topology.Setup(ctx, w.JS, w.Names, topology.Layout{})
	return err
}

// Pause waits for a time, or until the context ends.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
