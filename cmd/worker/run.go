package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/worker"
)

type runCmd struct {
	natsOptions    `embed:""`
	azureOptions   `embed:""`
	nameOptions    `embed:""`
	policyOptions  `embed:""`
	serviceOptions `embed:""`
}

// Help is shown by worker run --help.
func (runCmd) Help() string {
	return "Each flag has an environment variable, shown as ($NAME). A flag wins over its variable."
}

// Run is the service.
func (c runCmd) Run(ctx context.Context) error {
	r := &reader{}
	cfg := c.config(r)
	if err := r.err(); err != nil {
		return err
	}
	defer func() { _ = cfg.Log.Sync() }() // standard error cannot always be synced
	for _, name := range unknownVariables(variables(reflect.TypeFor[runCmd]()), os.Environ()) {
		cfg.Log.Warn("this environment variable is not known and has no effect; see worker run --help", zap.String("variable", name))
	}
	cfg.Log.Info("starting", zap.String("version", cfg.Build.Version), zap.String("revision", cfg.Build.Revision),
		zap.String("tenant", cfg.Names.Tenant), zap.String("graph", cfg.Endpoint), zap.String("credential", cfg.Credential.Kind()),
		zap.Stringer("rate", cfg.Rate), zap.Int("concurrency", cfg.Concurrency))
	return worker.Run(ctx, cfg)
}

func (c runCmd) config(r *reader) worker.Config {
	cfg := worker.Config{NATS: c.natsOptions.read(r), Names: c.nameOptions.read(r), Build: build()}
	cfg.Credential, cfg.Endpoint = c.azureOptions.read(r)
	c.policyOptions.read(r, &cfg)
	c.serviceOptions.read(r, &cfg)
	cfg.Log = c.serviceOptions.logger(r)
	return cfg
}

// variables lists the environment variables of a command.
func variables(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type.Kind() == reflect.Struct {
			out = append(out, variables(f.Type)...)
		}
		if env := f.Tag.Get("env"); env != "" {
			out = append(out, env)
		}
	}
	return out
}

type setupCmd struct {
	natsOptions `embed:""`
	nameOptions `embed:""`

	Replicas  string `default:"0" placeholder:"N" help:"Replicas of streams and bucket: 1, 3 or 5. 0: three in a cluster, else one."`
	Storage   string `default:"file" placeholder:"KIND" help:"file or memory. Memory is for trials: a restart of the server loses all."`
	Retention string `default:"2160h" placeholder:"TIME" help:"How long dead letters and records are kept. Default: 2160h, 90 days."`
	MaxBytes  string `default:"0" placeholder:"N" help:"Size limit of the request stream in bytes; when it is full the publisher is told. 0: none."`
	Update    bool   `help:"Change what exists to these settings."`
}

const setupTimeout = 30 * time.Second

// Run creates what is missing.
func (c setupCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	natsCfg, names := c.natsOptions.read(r), c.nameOptions.read(r)
	layout := consume.Layout{
		Replicas:  r.number("--replicas", c.Replicas, 0, 5),
		Memory:    r.oneOf("--storage", c.Storage, "file", "memory") == "memory",
		Retention: r.duration("--retention", c.Retention, time.Second),
		MaxBytes:  int64(r.number("--max-bytes", c.MaxBytes, 0, 1<<62)),
		Update:    c.Update,
	}
	if err := r.err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	refused := make(chan error, 1)
	nc, err := worker.Connect(natsCfg, nats.RetryOnFailedConnect(false),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case refused <- err:
			default:
			}
		}))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	done, err := consume.Setup(ctx, js, names, layout)
	for _, d := range done {
		fmt.Fprintf(s.out, "%-8s %s\n", d.Action, d.What)
	}
	if err != nil {
		select {
		case reason := <-refused:
			return fmt.Errorf("%w (%w)", err, reason)
		default:
			return err
		}
	}
	return nil
}
