// Package check tries every precondition of a working installation and changes
// nothing: NATS and the account's rights there, streams, consumer and buckets,
// the token, the permissions in it, Graph.
package check

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/topology"
)

// Status is how a precondition stands.
type Status string

const (
	// OK means that it is as it should be.
	OK Status = "ok"
	// Warning means that it works, but weaker than promised, or could not be
	// found out.
	Warning Status = "warning"
	// Failed means that the worker would not work.
	Failed Status = "failed"
)

// Line is one precondition. Its JSON form is what worker check prints.
type Line struct {
	Status Status `json:"status"`
	// Tenant is empty where the precondition is everybody's.
	Tenant string `json:"tenant,omitzero"`
	What   string `json:"what"`
	// Detail is what was found.
	Detail string `json:"detail"`
	// Do is what to do about it; empty for OK.
	Do string `json:"do,omitzero"`
}

// Tenant is one tenant that the worker would serve.
type Tenant struct {
	Names      topology.Names
	Credential graph.Credential
}

// Config says what the worker would be started with.
type Config struct {
	// Connect connects to NATS once, with some options more.
	Connect func(...nats.Option) (*nats.Conn, error)
	// JetStream is the one that is meant.
	JetStream func(*nats.Conn) (jetstream.JetStream, error)
	// Inbox begins the subjects on which answers arrive; empty: _INBOX.
	Inbox string
	// Servers names the NATS servers, without passwords.
	Servers string
	// Monitors are the addresses of the servers' monitoring; none: what only
	// these tell is not known.
	Monitors []string
	Tenants  []Tenant
	// Setup tells that the worker creates what is missing.
	Setup bool
	// Counts: a fuse is on, which reads the records of a while ago.
	Counts bool
	// Cools: devices cool down, which takes a bucket of its own.
	Cools bool
	// Keep is how long records have to last; [topology.Keep] tells.
	Keep time.Duration
	// Endpoint is Graph's root without a version; UserAgent names the product.
	Endpoint, UserAgent string
	// Follows tells that accepted requests are followed; with Auto only as long as the
	// token does not lack the right to read devices.
	Follows, Auto bool
	// ActionNames are further names of a reset in a device's list of actions.
	ActionNames []string
	// RetryUnknown tells that the worker repeats a call whose outcome it may not
	// look up.
	RetryUnknown bool
}

// Times of the check.
const (
	stepWait = 4 * time.Second
	// skew is by how much clocks may differ.
	skew = 2 * time.Second
)

// Run tries everything, in an order that leads to the first cause, and reports
// each precondition as it is known.
func Run(ctx context.Context, cfg Config, report func(Line)) {
	c := &checker{cfg: cfg, report: report, said: map[Line]bool{}, tried: map[string]bool{}, lacking: map[string]bool{},
		found: map[string]*jetstream.StreamInfo{}}
	c.nats(ctx)
	if c.nc != nil {
		defer c.nc.Close()
	}
	c.monitors(ctx)
	c.graph(ctx)
}

// Device tells how Intune shows a device and its actions, as far as the worker takes
// notice of it, and how the worker takes each of these. It reports no more than that,
// the token and the permissions.
func Device(ctx context.Context, cfg Config, device string, report func(Line)) {
	c := &checker{cfg: cfg, report: report, said: map[Line]bool{}}
	c.device(ctx, device)
}

// checker is one run.
type checker struct {
	cfg    Config
	report func(Line)
	nc     *nats.Conn // nil: there is none
	tenant string
	said   map[Line]bool
	tried  map[string]bool // rights by the subject they were tried on
	// lacking are the streams and buckets found missing so far.
	lacking map[string]bool
	// found are the streams, each read once, and followed tells that the consumers of
	// alarms were: all tenants share them.
	found    map[string]*jetstream.StreamInfo
	followed bool
	// limits are the account's; nil before they were asked for, or where they may
	// not be. limitsAsked tells which.
	limits      *jetstream.AccountInfo
	limitsAsked bool
}

// say reports a line, once: tenants share much.
func (c *checker) say(status Status, what, detail, do string) {
	l := Line{Status: status, Tenant: c.tenant, What: what, Detail: detail, Do: do}
	if !c.said[l] {
		c.said[l] = true
		c.report(l)
	}
}

func (c *checker) ok(what, detail string) { c.say(OK, what, detail, "") }

// of makes the lines that follow say which tenant they are about, where there
// is more than one.
func (c *checker) of(tenant string) {
	if c.tenant = ""; len(c.cfg.Tenants) > 1 {
		c.tenant = tenant
	}
}
