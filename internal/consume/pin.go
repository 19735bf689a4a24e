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
// further pull. Source: NATS ADR-42, and nats-server, server/consumer.go.

// headerPin names the pin. A publisher may have written the same: the server's
// is the last.
const headerPin = "Nats-Pin-Id"

// pinned is how a consumer pins; the zero pinned is one that does not.
type pinned struct {
	js    jetstream.JetStream
	group string
	ttl   time.Duration // without a pull, until another replica is pinned
	last  time.Time     // when the last pull with the pin was sent; guarded by puller.mu
	over  string        // the last pin that was lost: none is given twice; guarded by puller.mu
}

func pinnedOf(js jetstream.JetStream, cfg jetstream.ConsumerConfig) pinned {
	if cfg.PriorityPolicy != jetstream.PriorityPolicyPinned || len(cfg.PriorityGroups) == 0 {
		return pinned{}
	}
	return pinned{js: js, group: cfg.PriorityGroups[0], ttl: cfg.PinnedTTL}
}

// renewMin is often enough for any consumer.
const renewMin = 100 * time.Millisecond

// renew is how often the pin is renewed.
func (p pinned) renew() time.Duration {
	if p.group == "" {
		return time.Hour
	}
	return max(p.ttl/3, renewMin)
}

// pin is the part of a pull that says who asks. Call with mu held.
func (p *puller) pin(now time.Time) string {
	switch {
	case p.pinned.group == "":
		return ""
	case p.term == nil:
		return fmt.Sprintf(`,"group":%q`, p.pinned.group)
	}
	p.pinned.last = now
	return fmt.Sprintf(`,"group":%q,"id":%q`, p.pinned.group, p.term.pin)
}

// renewal is where the answer to the renewal of a pin goes.
func (p *puller) renewal(pin string) string { return p.lanes[0].inbox + "." + "pin-" + pin }

// renewPin keeps the pin while nothing is asked for: every slot is taken, or
// calls have to wait. It asks for a message of one byte. There is none, so that
// the server brings nothing, but notes that the pinned replica is there. Call
// with mu held.
func (p *puller) renewPin(now time.Time) error {
	if p.pinned.group == "" || p.term == nil || now.Sub(p.pinned.last) < p.pinned.renew() {
		return nil
	}
	request := fmt.Appendf(nil, `{"batch":1,"max_bytes":1,"expires":%d%s}`, p.pinned.renew(), p.pin(now))
	return p.nc.PublishRequest(p.subject, p.renewal(p.term.pin), request)
}

// inTerm begins a term if the message is the first that this replica gets as the
// pinned one. It is false for a message of a term that is over. Call with mu held.
//
// The server serves a pull that names a pin only while that pin holds, so only a
// pull that names none can bring a new one. That may be one that was given up.
func (p *puller) inTerm(l *lane, m *nats.Msg) bool {
	if p.pinned.group == "" {
		return true
	}
	pin := topology.LastHeader(m.Header, headerPin)
	switch {
	case p.term != nil && (pin == p.term.pin || pin == "" && l.pin == p.term.pin):
		return true // a pull that names the pin does not need to read it
	case pin == "" || pin == p.pinned.over || !l.mayPin(time.Now()):
		return false // it comes late, or names nothing
	}
	p.newTerm(l, pin)
	return true
}

// mayPin tells that a pull of the lane may be waiting that names no pin. Call
// with mu held.
func (l *lane) mayPin(now time.Time) bool { return now.Before(l.unnamed) }

// newTerm begins a term with the pin that the server has given to the pull of a
// lane. Call with mu held.
func (p *puller) newTerm(l *lane, pin string) {
	p.endTerm(l) // the lane's pull has the new pin
	l.pin = pin
	p.beginTerm(pin)
	p.pinned.last = time.Now() // the server counts from the delivery
}

// nameless is a message that may have brought a pin, but whose headers cannot be
// read: the server stores whatever a publisher sends as headers, and the library
// gives out none of them then. Each time the pin is free, such a message would
// come first again, and nobody would ever be known to be pinned.
type nameless struct {
	lane *lane
	msg  *nats.Msg
	came time.Time
}

// isNameless tells that the pin is to be asked for. Call with mu held.
func (p *puller) isNameless(l *lane, m *nats.Msg) bool {
	return p.pinned.group != "" && p.term == nil && l.mayPin(time.Now()) && topology.LastHeader(m.Header, headerPin) == ""
}

// name asks which pin came with nameless messages, and gives them back: they
// come again to a pull that names it.
//
// The server chooses whom it pins when it delivers a message. So it is this
// replica if nothing was delivered after the last of them.
func (p *puller) name(ctx context.Context) {
	p.mu.Lock()
	asked := len(p.nameless) > 0
	p.mu.Unlock()
	if !asked {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, p.times.api)
	defer cancel()
	created := p.consumer.CachedInfo().Created // Info replaces it
	info, err := p.consumer.Info(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.nameless[len(p.nameless)-1]
	meta, metaErr := last.msg.Metadata()
	switch {
	case err == nil && !info.Created.Equal(created):
		p.fault = errDeleted // and made anew
	case err != nil || metaErr != nil || p.term != nil || p.over:
	case info.Delivered.Consumer > meta.Sequence.Consumer && time.Since(last.came) < p.times.heartbeat:
		return // one more is on its way
	case info.Delivered.Consumer == meta.Sequence.Consumer:
		for _, g := range info.PriorityGroups {
			if g.Group == p.pinned.group && g.PinnedClientID != "" {
				p.newTerm(last.lane, g.PinnedClientID)
			}
		}
	}
	for _, n := range p.nameless {
		p.on.stray(n.msg)
	}
	p.nameless = nil
	p.look()
}

// beginTerm makes this replica the one that works. Call with mu held.
func (p *puller) beginTerm(pin string) {
	take, end := p.on.begin()
	p.term = &term{pin: pin, take: take, end: end}
	p.on.active(true)
	p.look() // the lanes are free for further pulls
}

// endTerm ends it: another replica works, or may. The pulls under way, except one,
// are void, because they name the old pin. Call with mu held.
func (p *puller) endTerm(except *lane) {
	for _, l := range p.lanes {
		if l != except {
			l.left = 0
		}
	}
	if p.term == nil {
		return
	}
	p.term.end()
	p.pinned.over = p.term.pin
	p.term = nil
	p.on.active(false)
}

// handOver lets the server pin another replica now, rather than once it has
// noticed that this one is gone. Where the right for it is missing, it will
// notice.
func (p pinned) handOver(ctx context.Context, info *jetstream.ConsumerInfo, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	subject := topology.API(p.js.Options(), "CONSUMER.UNPIN."+info.Stream+"."+info.Name)
	// The answer is not looked at: what could be done about a refusal?
	_, _ = p.js.Conn().RequestWithContext(ctx, subject, fmt.Appendf(nil, `{"group":%q}`, p.group))
}
