package consume

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// A consumer with a pinned priority group serves the pulls of one replica only,
// until that has sent no pull for a while or is unpinned. The others' pulls wait
// at the server. The pin is told with each message and has to be named in each
// further pull. It is lost when the consumer's leader changes. Source: NATS
// ADR-42, and nats-server, server/consumer.go.

// headerPin names the pin. A publisher may have written the same: the server's
// is the last.
const headerPin = "Nats-Pin-Id"

const (
	// renewMin is often enough for any consumer.
	renewMin = 100 * time.Millisecond
	// quiet is how long after a pull's last sign of life the pin is renewed out of
	// turn, once: a new leader knows nothing of the pull and need not say so, but
	// says that the pin is void.
	quiet = 200 * time.Millisecond
)

// tenure is whether this replica is the one that works: its term. Guarded by
// puller.mu.
type tenure struct {
	group  string        // whose pulls the consumer pins; empty: it pins nobody
	ttl    time.Duration // without a pull, until another replica is pinned
	begin  func(first *nats.Msg) (take func(*nats.Msg), end func())
	active func(bool)

	take    func(*nats.Msg) // works on a message; nil while another replica works
	stop    func()          // ends the term
	pin     string          // what the server calls the term; empty: it pins nobody
	lost    string          // the pin of the last term: none is given twice
	renewed time.Time       // when the pin was renewed out of pulls
	// unnamed is when the last pull that named no pin is over at the latest, even
	// if it was given up.
	unnamed time.Time
	// nameless messages wait until it is known which pin they brought.
	nameless []nameless
}

// nameless is a message that may have brought a pin, but whose headers cannot be
// read: the server stores whatever a publisher sends as headers, and the library
// gives out none of them then. Each time the pin is free, such a message would
// come first again, and nobody would ever be known to be pinned.
type nameless struct {
	msg  *nats.Msg
	came time.Time
}

func newTenure(cfg jetstream.ConsumerConfig, begin func(*nats.Msg) (func(*nats.Msg), func()), active func(bool)) tenure {
	t := tenure{begin: begin, active: active}
	if cfg.PriorityPolicy == jetstream.PriorityPolicyPinned && len(cfg.PriorityGroups) > 0 {
		t.group, t.ttl = cfg.PriorityGroups[0], cfg.PinnedTTL
	}
	return t
}

// start makes this replica the one that works, as a message has told; first is nil
// where something else has.
func (t *tenure) start(pin string, first *nats.Msg, now time.Time) {
	t.end()
	t.pin, t.renewed = pin, now // the server counts from the delivery
	t.take, t.stop = t.begin(first)
	t.active(true)
}

// end ends the term, if there is one: another replica works, or may.
func (t *tenure) end() {
	if t.take != nil {
		t.rest()
		t.active(false)
	}
}

// rest ends the term, if there is one, without another replica at work.
func (t *tenure) rest() {
	if t.take != nil {
		t.stop()
		t.lost, t.pin, t.take, t.stop = t.pin, "", nil, nil
	}
}

// every is how often the pin is renewed.
func (t *tenure) every() time.Duration {
	if t.group == "" {
		return time.Hour
	}
	return max(t.ttl/3, renewMin)
}

// due is when the pin is to be renewed; zero: there is none.
func (t *tenure) due(p pull) time.Time {
	at := t.renewed.Add(t.every())
	switch {
	case t.pin == "":
		return time.Time{}
	case p.left > 0 && t.renewed.Before(p.seen) && p.seen.Add(quiet).Before(at):
		return p.seen.Add(quiet)
	}
	return at
}

// names is the part of a pull that says who asks.
func (t *tenure) names() string {
	switch {
	case t.group == "":
		return ""
	case t.pin == "":
		return fmt.Sprintf(`,"group":%q`, t.group)
	}
	return fmt.Sprintf(`,"group":%q,"id":%q`, t.group, t.pin)
}

// renewal is the end of the subject for the answer to a renewal of the pin.
func (t *tenure) renewal() string { return "pin-" + t.pin }

// asked notes that a pull was sent, which is over by then.
func (t *tenure) asked(over time.Time) {
	if t.pin == "" {
		t.unnamed = over
	}
}

// whose says in which term a message came.
type whose int

const (
	ofTerm  whose = iota // in the present one
	begins               // in one that begins with it: this replica is pinned now
	unknown              // in one whose pin has to be asked for
	late                 // in one that is over
)

// sort says in which term a message came that has a pin in its headers, or none,
// while the present pull names the other.
//
// The server serves a pull that names a pin only while that pin holds, so only a
// pull that names none can bring a new one. That may be one that was given up.
func (t *tenure) sort(pin, asked string, now time.Time) whose {
	pinning := now.Before(t.unnamed)
	switch {
	case t.group == "":
		return ofTerm
	// A pull that names the pin does not need to read it.
	case t.take != nil && (pin == t.pin || pin == "" && asked == t.pin):
		return ofTerm
	case t.take == nil && pin == "" && pinning:
		return unknown
	case pin == "" || pin == t.lost || !pinning:
		return late
	}
	return begins
}

// settle finds out which pin came with nameless messages, and gives them back:
// they come again to a pull that names it. It is given what the server says of
// the consumer, nil if it says nothing, and reports whether that was enough. Call
// with mu held.
//
// The server chooses whom it pins when it delivers a message. So it is this
// replica if nothing was delivered after the last of them.
func (p *puller) settle(info *jetstream.ConsumerInfo, now time.Time) bool {
	waiting := p.tenure.nameless
	if len(waiting) == 0 {
		return true
	}
	last := waiting[len(waiting)-1]
	if meta, err := last.msg.Metadata(); err == nil && info != nil && p.tenure.take == nil && !p.over {
		switch delivered := info.Delivered.Consumer; {
		case delivered > meta.Sequence.Consumer && now.Sub(last.came) < p.times.heartbeat:
			return false // one more is on its way
		case delivered == meta.Sequence.Consumer:
			for _, g := range info.PriorityGroups {
				if g.Group == p.tenure.group && g.PinnedClientID != "" {
					p.tenure.start(g.PinnedClientID, nil, now)
					p.pull.pin = g.PinnedClientID
				}
			}
		}
	}
	for _, n := range waiting {
		p.on.stray(n.msg)
	}
	p.tenure.nameless = nil
	return true
}

// handOver lets the server pin another replica now, rather than once it has
// noticed that this one is gone. Where the right for it is missing, it will
// notice.
func handOver(ctx context.Context, js jetstream.JetStream, info *jetstream.ConsumerInfo, group string, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	subject := topology.API(js.Options(), "CONSUMER.UNPIN."+info.Stream+"."+info.Name)
	// The answer is ignored: nothing could be done about a refusal.
	_, _ = js.Conn().RequestWithContext(ctx, subject, fmt.Appendf(nil, `{"group":%q}`, group))
}
