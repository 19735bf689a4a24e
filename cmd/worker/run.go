package main

import (
	"context"
	"os"
	"reflect"

	"go.uber.org/zap"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/worker"
)

type runCmd struct {
	natsOptions    `embed:""`
	azureOptions   `embed:""`
	tenantsOption  `embed:""`
	nameOptions    `embed:""`
	policyOptions  `embed:""`
	serviceOptions `embed:""`
}

// Help is shown by worker run --help.
func (runCmd) Help() string {
	return "Each flag has an environment variable, shown as ($NAME). A flag wins over its variable."
}

// Run runs the service.
func (c runCmd) Run(ctx context.Context) error {
	r := &reader{}
	cfg, file := c.config(r)
	if err := r.err(); err != nil {
		return err
	}
	defer func() { _ = cfg.Log.Sync() }() // standard error cannot always be synced
	for _, name := range unknownVariables(variables(reflect.TypeFor[cli]()), os.Environ()) {
		cfg.Log.Warn(unknownVariable(name))
	}
	r.tell(cfg.Log)
	started := []zap.Field{
		zap.String("version", cfg.Build.Version), zap.String("revision", cfg.Build.Revision),
		zap.String("graph", cfg.Endpoint), zap.Int("concurrency", cfg.Concurrency), zap.Int("tenants", len(cfg.Tenants)),
	}
	if c.TenantsFile == "" {
		t := cfg.Tenants[0]
		started = append(started, zap.String("tenant", t.Name), zap.String("credential", t.Credential.Kind()), zap.Stringer("rate", t.Rate))
	}
	cfg.Log.Info("starting", started...)
	warnOfSharing(cfg.Log, cfg.Tenants)
	if c.TenantsFile != "" {
		cfg.Changes = c.watchTenants(ctx, file.data, file.rate, cfg.Log)
	}
	stopTracing := startTracing(ctx, &cfg)
	defer stopTracing()
	return worker.Run(ctx, cfg)
}

// tenantsFile is the file of tenants as it was read, and the rate of a tenant that has
// none of its own.
type tenantsFile struct {
	data []byte
	rate pace.Rate
}

func (c runCmd) config(r *reader) (worker.Config, tenantsFile) {
	cfg := worker.Config{NATS: c.natsOptions.read(r), Names: c.nameOptions.read(r), Build: build()}
	cfg.Endpoint = c.endpoint(r)
	r.problems = append(r.problems, graph.CheckProxies()...)
	file := tenantsFile{rate: c.policyOptions.read(r, &cfg)}
	if c.TenantsFile == "" {
		cfg.Tenants = []worker.Tenant{{Name: cfg.Names.Tenant, Credential: c.credential(r), Rate: file.rate}}
	} else {
		cfg.Tenants, file.data = c.readTenants(r, file.rate)
		if c.AzureTenantID != "" {
			// Kubernetes workload identity sets it to the cluster's own directory.
			r.notes = append(r.notes, "AZURE_TENANT_ID is ignored: WORKER_TENANTS_FILE names the directory of each tenant")
		}
	}
	c.serviceOptions.read(r, &cfg)
	cfg.Layout.Tenants = len(cfg.Tenants)
	cfg.Log = c.serviceOptions.logger(r)
	return cfg, file
}
