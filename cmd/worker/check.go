package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/check"
	"passcode-worker/internal/natsconn"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
	"passcode-worker/internal/worker"
)

type checkCmd struct {
	runCmd       `embed:""`
	outputOption `embed:""`

	NatsMonitor string `group:"nats" placeholder:"URL" help:"Monitoring addresses of the servers, separated by commas, like http://n1:8222. Only these tell whether a server syncs each write to disk."`
	Device      string `group:"azure" placeholder:"GUID" help:"Check only this device: show how Intune lists it and its actions, and how the worker interprets each action. Never shows a passcode, PIN, location or name."`
}

// Help is shown by worker check --help.
func (checkCmd) Help() string {
	return "Checks everything that worker run needs, with the same options and variables, and changes nothing. " +
		"It prints one line per check. ok: it is as it should be. warning: it works, but the promises are weaker, or the check could not tell. failed: worker run would not work. " +
		"Begin with the first failed line: it may be the cause of those below it. The exit status is 0 if nothing failed."
}

// Run checks every precondition.
func (c checkCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	cfg, _ := c.config(r)
	p := newPrinter(s.out, c.outputOption.read(r))
	monitors := r.addresses("--nats-monitor", c.NatsMonitor)
	r.device("--device", c.Device)
	tenants := checked(cfg)
	if c.Device != "" {
		tenants = oneTenant(r, tenants, cfg.Names.Tenant)
	}
	if err := r.err(); err != nil {
		return err
	}
	for _, name := range unknownVariables(variables(reflect.TypeFor[cli]()), os.Environ()) {
		fmt.Fprintf(s.err, "worker: %s\n", unknownVariable(name))
	}
	for _, n := range r.notes {
		fmt.Fprintf(s.err, "worker: %s\n", n)
	}
	found := map[check.Status]int{}
	report := func(l check.Line) {
		found[l.Status]++
		p.precondition(l)
	}
	for _, d := range r.doubts {
		report(check.Line{Status: check.Warning, What: "configuration", Detail: d.detail, Do: d.do})
	}
	for _, s := range sharing(cfg.Tenants) {
		report(check.Line{Status: check.Warning, What: "tenants", Detail: s, Do: sharingHint})
	}
	config := check.Config{
		Connect:      func(o ...nats.Option) (*nats.Conn, error) { return natsconn.Connect(cfg.NATS, o...) },
		JetStream:    cfg.NATS.JetStream,
		Inbox:        cfg.NATS.InboxPrefix,
		Servers:      hosts(cfg.NATS.URL),
		Monitors:     monitors,
		Tenants:      tenants,
		Counts:       cfg.Fuse.N > 0,
		Cools:        cfg.Cooldown > 0,
		Keep:         topology.Keep(cfg.Policy.MaxAge, cfg.Cooldown, cfg.Fuse.W),
		Setup:        cfg.Setup,
		Endpoint:     cfg.Endpoint,
		UserAgent:    "passcode-worker/" + cfg.Build.Version,
		Follows:      cfg.Follow != worker.FollowOff,
		Auto:         cfg.Follow == worker.FollowAuto,
		ActionNames:  cfg.ActionNames,
		RetryUnknown: cfg.Policy.OnUnknown == verdict.UnknownRetry,
	}
	if c.Device != "" {
		check.Device(ctx, config, strings.ToLower(c.Device), report)
	} else {
		check.Run(ctx, config, report)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if p.failed != nil {
		return p.failed
	}
	if c.Device != "" {
		if found[check.Failed] > 0 {
			return errFailed
		}
		return nil
	}
	if n := found[check.Failed]; n > 0 {
		return fmt.Errorf("%d failed, %d warnings: worker run would not work", n, found[check.Warning])
	}
	fmt.Fprintf(s.err, "worker: nothing failed, %d warnings: worker run would work\n", found[check.Warning])
	return nil
}

// oneTenant returns the tenant of a device. If there are many, the name must say which.
func oneTenant(r *reader, tenants []check.Tenant, name string) []check.Tenant {
	if len(tenants) < 2 {
		return tenants
	}
	i := slices.IndexFunc(tenants, func(t check.Tenant) bool { return t.Names.Tenant == name })
	if i < 0 {
		r.fail("--tenant", "give the tenant of the device: %q is not a tenant in WORKER_TENANTS_FILE", name)
		return nil
	}
	return tenants[i : i+1]
}

// checked returns the tenants in the form that package check takes.
func checked(cfg worker.Config) []check.Tenant {
	var out []check.Tenant
	for _, t := range cfg.Tenants {
		names := cfg.Names
		names.Tenant = t.Name
		out = append(out, check.Tenant{Names: names, Credential: t.Credential})
	}
	return out
}

// precondition writes one line of the check.
func (p *printer) precondition(l check.Line) {
	if p.json {
		p.object(l)
		return
	}
	colours := map[check.Status]string{check.OK: green, check.Warning: yellow, check.Failed: red}
	text := plain(l.What) + ": " + plain(l.Detail)
	if l.Tenant != "" {
		text = plain(l.Tenant) + ": " + text
	}
	if l.Do != "" {
		text = strings.TrimRight(text, ".") + ". To do: " + plain(l.Do)
	}
	p.line("%s%s", p.coloured(colours[l.Status], fmt.Sprintf("%-8s", l.Status)), text)
}

// addresses reads a list of HTTP addresses.
func (r *reader) addresses(name, list string) []string {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || holdsUser(s) {
			r.fail(name, "it is not an address like http://n1:8222, or a list of them separated by commas")
			return nil
		}
		out = append(out, s)
	}
	return out
}
