package main

import (
	"context"
	"os"
	"reflect"

	"go.uber.org/zap"

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
	for _, name := range unknownVariables(variables(reflect.TypeFor[cli]()), os.Environ()) {
		cfg.Log.Warn(unknownVariable(name))
	}
	cfg.Log.Info("starting", zap.String("version", cfg.Build.Version), zap.String("revision", cfg.Build.Revision),
		zap.String("graph", cfg.Endpoint), zap.Int("tenants", len(cfg.Tenants)), zap.Int("concurrency", cfg.Concurrency))
	if len(cfg.Tenants) == 1 {
		t := cfg.Tenants[0]
		cfg.Log.Info("the tenant", zap.String("tenant", t.Name), zap.String("credential", t.Credential.Kind()), zap.Stringer("rate", t.Rate))
	}
	return worker.Run(ctx, cfg)
}

func (c runCmd) config(r *reader) worker.Config {
	cfg := worker.Config{NATS: c.natsOptions.read(r), Names: c.nameOptions.read(r), Build: build()}
	t := worker.Tenant{Name: cfg.Names.Tenant}
	t.Credential, cfg.Endpoint = c.azureOptions.read(r)
	t.Rate = c.policyOptions.read(r, &cfg)
	cfg.Tenants = []worker.Tenant{t}
	c.serviceOptions.read(r, &cfg)
	cfg.Log = c.serviceOptions.logger(r)
	return cfg
}
