package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/natsconn"
	"passcode-worker/internal/ops"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/topology"
)

type outputOption struct {
	Output string `short:"o" default:"text" placeholder:"FORMAT" help:"text, or json (one object per line)."`
}

func (o outputOption) read(r *reader) (asJSON bool) {
	return r.oneOf("--output", o.Output, "text", "json") == "json"
}

// errFailed ends, with status 1, a command that has already said why.
var errFailed = errors.New("failed")

// toolOptions are the options of every command that works on a tenant's queue.
type toolOptions struct {
	natsOptions  `embed:""`
	nameOptions  `embed:""`
	outputOption `embed:""`
}

// tool is a command at work.
type tool struct {
	*ops.Tools
	*printer
	s      streams
	tenant string
	// writing keeps the output of goroutines apart.
	writing sync.Mutex
}

// run reads the options, connects, and calls work. r may already hold problems of the
// command's own options.
func (o toolOptions) run(ctx context.Context, s streams, r *reader, work func(context.Context, *tool) error) error {
	natsCfg, names := o.natsOptions.read(r), o.nameOptions.read(r)
	oneOfMany(r, names.Tenant)
	asJSON := o.outputOption.read(r)
	if len(r.problems) > 0 {
		return &usageError{problems: r.problems, about: "wrong usage: "}
	}
	for _, name := range unknownVariables(variables(reflect.TypeFor[cli]()), os.Environ()) {
		fmt.Fprintf(s.err, "worker: %s\n", unknownVariable(name))
	}
	rights := ops.Rights{Inbox: natsCfg.InboxPrefix}
	nc, err := natsconn.Connect(natsCfg, nats.RetryOnFailedConnect(false), rights.Option())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", hosts(natsCfg.URL), err)
	}
	defer nc.Close()
	js, err := natsCfg.JetStream(nc)
	if err != nil {
		return err
	}
	t := &tool{Tools: ops.New(js, names, &rights), printer: newPrinter(s.out, asJSON), s: s, tenant: names.Tenant}
	if err := work(ctx, t); err != nil {
		return topology.Unheard(js.Options(), err)
	}
	return t.failed
}

// oneOfMany refuses the default tenant if the environment names a file of tenants that
// does not list it: what is sent to it would wait for ever.
func oneOfMany(r *reader, tenant string) {
	file := tenantsOption{TenantsFile: os.Getenv("WORKER_TENANTS_FILE")}
	if tenant != defaultTenant || file.TenantsFile == "" {
		return
	}
	unread := &reader{} // somebody who works on one tenant may not be able to read the file
	if listed := file.names(unread); len(unread.problems) == 0 && !slices.Contains(listed, tenant) {
		r.fail("--tenant", "it is missing: give one of the tenants in %s; %q is not one of them", file.TenantsFile, tenant)
	}
}

// ownRate is the rate of a tenant in the file of tenants. ok is false if the environment
// names no such file, if it cannot be read, or if it gives the tenant no rate.
func ownRate(tenant string) (rate pace.Rate, ok bool) {
	path := os.Getenv("WORKER_TENANTS_FILE")
	if path == "" {
		return pace.Rate{}, false
	}
	data, err := readTenantsFile(path)
	if err != nil {
		return pace.Rate{}, false // somebody who works on one tenant may not be able to read it
	}
	list, err := parseTenants(data)
	if err != nil {
		return pace.Rate{}, false
	}
	for _, e := range list {
		if e.Name == tenant && e.Rate != "" {
			rate, err := pace.ParseRate(e.Rate)
			return rate, err == nil
		}
	}
	return pace.Rate{}, false
}

const defaultTenant = "default" // the same as in the options

// tell writes a message for people to standard error.
func (t *tool) tell(format string, args ...any) {
	fmt.Fprintf(t.s.err, "worker: "+format+"\n", args...)
}

// progress reports how far a long job is, every few seconds.
type progress struct {
	t    *tool
	last time.Time
}

const progressEvery = 2 * time.Second

func (t *tool) progress() *progress { return &progress{t, time.Now()} }

func (p *progress) tell(format string, args ...any) {
	if now := time.Now(); now.Sub(p.last) >= progressEvery {
		p.last = now
		p.t.tell(format, args...)
	}
}

// since reads an instant: RFC 3339, or how long ago.
func (r *reader) since(name, s string) time.Time {
	if s == "" {
		return time.Time{}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return time.Now().Add(-d)
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		r.fail(name, "%q is neither a duration like 90m or 24h nor a time like 2026-01-31T15:04:05Z", s)
	}
	return at
}
