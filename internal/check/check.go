// Package check checks every precondition of a working installation and changes
// nothing: NATS and the account's rights there, streams, consumers and buckets,
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

// Status is the state of a precondition.
type Status string

const (
	// OK means that it is as it should be.
	OK Status = "ok"
	// Warning means that it works, but the promises are weaker, or that the check
	// could not tell.
	Warning Status = "warning"
	// Failed means that the worker would not work.
	Failed Status = "failed"
)

// Line is one precondition. Its JSON form is what worker check prints.
type Line struct {
	Status Status `json:"status"`
	// Tenant is empty if the precondition concerns all tenants, or if there is one.
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
	// Connect connects to NATS, with additional options.
	Connect func(...nats.Option) (*nats.Conn, error)
	// JetStream returns the JetStream of the configured domain or API prefix.
	JetStream func(*nats.Conn) (jetstream.JetStream, error)
	// Inbox is the prefix of the subjects on which answers arrive; empty: _INBOX.
	Inbox string
	// Servers names the NATS servers, without passwords.
	Servers string
	// Monitors are the monitoring addresses of the servers; without them, what only
	// monitoring shows is not known.
	Monitors []string
	Tenants  []Tenant
	// Setup reports whether the worker creates what is missing.
	Setup bool
	// Counts reports whether a fuse is on, which needs to read past records.
	Counts bool
	// Cools reports whether devices cool down, which needs a bucket of its own.
	Cools bool
	// Keep is how long records must be kept; see [topology.Keep].
	Keep time.Duration
	// Endpoint is Graph's root without a version; UserAgent names the product.
	Endpoint, UserAgent string
	// Follows reports whether accepted requests are followed; with Auto they are only as
	// long as the token does not lack the right to read devices.
	Follows, Auto bool
	// ActionNames are additional names of a reset in a device's list of actions.
	ActionNames []string
	// RetryUnknown reports whether the worker repeats a call whose outcome it may not
	// look up.
	RetryUnknown bool
}

// Times of the check.
const (
	stepWait = 4 * time.Second
	// skew is how much clocks may differ.
	skew = 2 * time.Second
)

// Run checks everything, and reports each precondition as soon as it is known. It
// checks causes first: a failure may be the reason for those that follow.
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

// Device reports what the worker reads of a device and its actions in Intune, and how it
// interprets each action. Apart from that it reports only the token and the permissions.
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
	tried  map[string]bool // whether a right is there, by the subject it was tried on
	// lacking are the streams and buckets found missing so far.
	lacking map[string]bool
	// found are the streams, each read once, and followed reports whether the consumers
	// of alarms were read: all tenants share them.
	found    map[string]*jetstream.StreamInfo
	followed bool
	// limits are the account's; nil if they have not been read or cannot be.
	// limitsAsked reports whether reading them was tried.
	limits      *jetstream.AccountInfo
	limitsAsked bool
}

// say reports a line, but only once: tenants share many preconditions.
func (c *checker) say(status Status, what, detail, do string) {
	l := Line{Status: status, Tenant: c.tenant, What: what, Detail: detail, Do: do}
	if !c.said[l] {
		c.said[l] = true
		c.report(l)
	}
}

func (c *checker) ok(what, detail string) { c.say(OK, what, detail, "") }

// of makes the lines that follow name the tenant that they are about, if there is
// more than one.
func (c *checker) of(tenant string) {
	if c.tenant = ""; len(c.cfg.Tenants) > 1 {
		c.tenant = tenant
	}
}
