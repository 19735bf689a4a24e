package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

const syncHint = "set sync_interval: always in the jetstream block of each server; otherwise a power failure can lose stored requests"

func (c *checker) nats(ctx context.Context) {
	c.of("")
	nc, err := c.cfg.Connect(nats.RetryOnFailedConnect(false), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {
		// Errors are read as LastError, right after the call that causes them.
	}))
	if err != nil {
		do := "check that NATS_URL is right, that the server is running, and that this machine can reach it"
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) {
			do = "correct NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, NATS_TOKEN, or NATS_JWT and NATS_SEED"
		}
		c.say(Failed, "NATS", fmt.Sprintf("no connection to %s: %v", c.cfg.Servers, err), do)
		return
	}
	c.nc = nc
	rtt, err := nc.RTT()
	if err != nil {
		c.say(Failed, "NATS", fmt.Sprintf("connected to %s, but it does not answer: %v", nc.ConnectedAddr(), err), "look at the server")
		return
	}
	c.ok("NATS", fmt.Sprintf("%s, server %s, round trip %s", nc.ConnectedAddr(), nc.ConnectedServerName(), rtt.Round(10*time.Microsecond)))
	if w := topology.ServerWeakness(nc.ConnectedServerVersion()); w != "" {
		c.say(Warning, "server version", w, "update the servers, to 2.14 or later")
	} else {
		c.ok("server version", nc.ConnectedServerVersion())
	}
	if len(c.cfg.Monitors) == 0 {
		c.say(Warning, "sync to disk", "a client cannot see whether the servers sync each request to disk at once", syncHint+"; --nats-monitor http://HOST:8222 checks it")
	}
	js, err := c.cfg.JetStream(nc)
	if err != nil {
		c.say(Failed, "JetStream", err.Error(), "")
		return
	}
	if !c.inbox(ctx, nc) {
		return
	}
	var clock time.Time
	var asked time.Time
	for _, t := range c.cfg.Tenants {
		c.of(t.Names.Tenant)
		q := &queue{checker: c, nc: nc, js: js, names: t.Names}
		q.check(ctx)
		if !q.clock.IsZero() {
			clock, asked = q.clock, q.asked
		}
	}
	c.of("")
	if len(c.cfg.Tenants) > 0 {
		c.unserved(ctx, js)
		c.rivals(ctx, nc, js)
	}
	if !clock.IsZero() {
		c.clock("clock of NATS", clock.Sub(asked))
	}
}

// clock judges how far a clock is ahead of this machine's.
func (c *checker) clock(what string, ahead time.Duration) {
	detail := fmt.Sprintf("%s ahead of this machine's", ahead.Round(10*time.Millisecond))
	if ahead < 0 {
		detail = fmt.Sprintf("%s behind this machine's", (-ahead).Round(10*time.Millisecond))
	}
	if ahead.Abs() > skew {
		c.say(Warning, what, detail, "synchronize the clocks of this machine and of all NATS servers with NTP: they must agree within 2s")
		return
	}
	c.ok(what, detail)
}

// inbox checks whether answers can be received: without them nothing else can be
// checked.
func (c *checker) inbox(ctx context.Context, nc *nats.Conn) bool {
	what := "right to subscribe to " + cmp.Or(c.cfg.Inbox, "_INBOX") + ".>"
	if err := listens(ctx, nc, nc.NewInbox()); err != nil {
		c.say(Failed, what, err.Error(), "grant it, or set NATS_INBOX_PREFIX to a prefix that the account may subscribe to: without it no reply arrives, so nothing else was checked")
		return false
	}
	c.ok(what, "granted")
	return true
}

// listens fails if the account may not subscribe to a subject.
func listens(ctx context.Context, nc *nats.Conn, subject string) error {
	before := nc.LastError()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection ends anyway
	if err := flush(ctx, nc); err != nil {
		return err
	}
	if after := nc.LastError(); !same(before, after) {
		return after
	}
	return nil
}

func flush(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	return nc.FlushWithContext(ctx)
}

// same reports whether two errors are one and the same occurrence.
func same(a, b error) bool { return a == b } //nolint:errorlint // the occurrence is meant, not the kind

// allowed publishes a message and reports whether that was allowed: a server
// answers in order, so a refusal comes before the answer to the ping that
// follows it.
func allowed(ctx context.Context, nc *nats.Conn, m *nats.Msg) (bool, error) {
	before := nc.LastError()
	m.Reply = nc.NewInbox() // nobody listens there
	if err := nc.PublishMsg(m); err != nil {
		return false, err
	}
	if err := flush(ctx, nc); err != nil {
		return false, err
	}
	after := nc.LastError()
	return same(before, after) || !errors.Is(after, nats.ErrPermissionViolation), nil
}

// mostNamed is how many tenants a line names.
const mostNamed = 20

// unserved names tenants whose requests no worker takes.
func (c *checker) unserved(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	const what = "tenants with requests but no worker"
	tenants, err := topology.Unserved(ctx, js, c.cfg.Tenants[0].Names)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound): // reported already
	case err != nil && len(tenants) == 0:
		c.say(Warning, what, fmt.Sprintf("could not be checked: %v", err), "see the lines above")
	case len(tenants) > 0:
		detail := fmt.Sprintf("%q", tenants[:min(len(tenants), mostNamed)])
		if more := len(tenants) - mostNamed; more > 0 {
			detail += fmt.Sprintf(", and %d more", more)
		}
		if err != nil {
			detail += fmt.Sprintf("; further ones could not be looked for: %v", err)
		}
		c.say(Warning, what, detail, "start a worker that serves each, or remove their requests")
	default:
		c.ok(what, "none")
	}
}

// rivalsWait is how long streams of other domains may take to answer.
const rivalsWait = time.Second

// rivals looks for a second installation: streams of another domain or account that
// store the same requests or dead letters. Each installation keeps records of its own.
func (c *checker) rivals(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) {
	n := c.cfg.Tenants[0].Names
	for _, t := range []struct{ what, subject, own, do string }{
		{"streams that take requests", n.Filter(), n.Stream,
			"if a worker serves each of them, every request is done twice. If the streams have the same name, an acknowledgement for one also reaches the other, " +
				"so a request can be lost. Remove the subject from one of them"},
		{"streams that take dead letters", n.Dead(), n.DeadStream, "decide which of the two installations should have it, and remove the subject from the other"},
	} {
		found, err := topology.Takers(ctx, nc, t.subject, rivalsWait, 0)
		others, absent := topology.Others(found, t.own), c.absent(ctx, js, t.own)
		if absent {
			others = found
		}
		switch {
		case errors.Is(err, topology.ErrNotAllowed):
			// A worker need not have the right to publish requests.
			if nc.ConnectedDomain() != "" {
				c.say(Warning, t.what, "this account may not publish on "+t.subject+", so the check cannot tell whether another JetStream domain also stores them",
					"run worker check as a user who may publish there")
			}
		case err != nil:
			c.say(Warning, t.what, fmt.Sprintf("could not be checked: %v", err), "see the lines above")
		case len(others) > 0 && absent:
			c.say(Failed, t.what, fmt.Sprintf("%s is already stored by %s, so stream %s cannot be created here", t.subject, strings.Join(c.placed(ctx, nc, js, others), ", "), t.own),
				"set NATS_JS_DOMAIN to the right JetStream domain, or remove the subject from that stream")
		case len(others) > 0:
			c.say(Warning, t.what, fmt.Sprintf("%s is stored by %s as well as by stream %s%s", t.subject, strings.Join(c.placed(ctx, nc, js, others), ", "), t.own, domain(js.Options().Domain)),
				t.do+"; NATS_JS_DOMAIN chooses the domain")
		default:
			c.ok(t.what, "only "+t.own)
		}
	}
}

// absent reports whether a stream certainly does not exist.
func (c *checker) absent(ctx context.Context, js jetstream.JetStream, name string) bool {
	if !c.tried[topology.API(js.Options(), "STREAM.INFO."+name)] {
		return false // the account may not ask for it
	}
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	_, err := js.Stream(ctx, name)
	return errors.Is(err, jetstream.ErrStreamNotFound)
}

// placed names streams and, as far as it can be found out, their domain. That is only
// the domain of the connected server: there is no list of domains to ask.
func (c *checker) placed(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, streams []string) []string {
	near := nc.ConnectedDomain()
	var out []string
	for _, s := range streams {
		where := " of another domain or account"
		if near != "" && js.Options().Domain != "" && near != js.Options().Domain {
			if other, err := jetstream.NewWithDomain(nc, near); err == nil {
				ctx, cancel := context.WithTimeout(ctx, rivalsWait)
				if _, err := other.Stream(ctx, s); err == nil {
					where = domain(near)
				}
				cancel()
			}
		}
		out = append(out, "stream "+s+where)
	}
	return out
}

// domain is the end of a phrase that names a domain; empty for none.
func domain(name string) string {
	if name == "" {
		return ""
	}
	return " of the domain " + name
}
