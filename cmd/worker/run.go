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
		zap.String("tenant", cfg.Names.Tenant), zap.String("graph", cfg.Endpoint), zap.String("credential", cfg.Credential.Kind()),
		zap.Stringer("rate", cfg.Rate), zap.Int("concurrency", cfg.Concurrency))
	stopTracing := startTracing(ctx, &cfg)
	defer stopTracing()
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
