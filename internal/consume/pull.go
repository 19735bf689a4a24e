package consume

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// puller asks a consumer for as many messages as there are free slots, and hands
// each out as it comes.
//
// The library's iterator is not used: it takes a message that has no data and a
// header "Status" for a word of the server's, so that such a message is never
// handed out and stops the queue each time it comes; a message that answers a
// pull from before a reconnect ages in its buffer; and its end waits ten seconds
// for a server that is away.
type puller struct {
	nc       *nats.Conn
	consumer jetstream.Consumer
	times    times
	on       events
	slots    chan struct{} // one is taken for each message in work

	subject     string // where pulls are sent
	most        int    // messages of one pull
	expiry      time.Duration
	lanes       []*lane
	reconnected chan nats.Status
	wake        chan struct{} // something has changed that may allow another pull

	pinned pinned
	// resting is set while run only waits for some more slots to become free, and
	// looks by itself soon.
	resting atomic.Bool

	mu    sync.Mutex
	pulls int       // so far
	asked time.Time // when the last one was sent for free slots
	seen  time.Time // the last sign of life of the server
	fault error     // of a pull; nil once it was looked at
	over  bool      // nothing more is handed out
	term  *term     // nil while another replica works
	// nameless messages wait until it is known which pin they brought.
	nameless []nameless
}

// events are what a puller tells.
type events struct {
	// credit tells how many further messages it makes sense to take now. Where
	// that is 0, at is when to ask again, zero if only a change tells; changed
	// is closed at the next change. It is called with mu held: it must not wait.
	credit func() (n int, at time.Time, changed <-chan struct{})
	// begin is called when this replica becomes the one that works. What it
	// returns takes the messages, each in a slot that is taken for it, until end
	// is called.
	begin func() (take func(*nats.Msg), end func())
	// alive is called at each sign of life of the server.
	alive func()
	// stray is called with a message that there is no slot for.
	stray func(*nats.Msg)
	// active is told whether this replica is the one that works.
	active func(bool)
}

// term is the time in which this replica is the one that works.
type term struct {
	pin  string // what the server calls it; empty where it pins nobody
	take func(*nats.Msg)
	end  func()
}

// lane is a subscription for one pull at a time: a message does not tell which
// pull it answers, so pulls that are to be told apart need one each.
type lane struct {
	sub    *nats.Subscription
	inbox  string
	closed chan struct{} // closed with sub

	// Guarded by puller.mu.
	reply string // of the present pull
	pin   string // that it names; empty: none
	// unnamed is when the last pull that named none is over at the latest.
	unnamed time.Time
	left    int       // messages that it may still bring; 0: there is no pull
	seen    time.Time // its last sign of life
}

// laneCount is how many pulls can be on their way: while one is answered, the
// slots that become free are asked for by another.
const laneCount = 4

// pullGap is the least time between two pulls that are for a few slots only. A
// pull costs the server about as much as the message that it brings; a slot that
// waits so long for its next message loses little, since a call takes longer.
const pullGap = time.Millisecond

// newPuller begins to listen for messages; run asks for them.
func newPuller(js jetstream.JetStream, consumer jetstream.Consumer, t times, slots chan struct{}, on events) (*puller, error) {
	nc, info := js.Conn(), consumer.CachedInfo()
	p := &puller{
		nc:       nc,
		consumer: consumer,
		times:    t,
		on:       on,
		slots:    slots,
		subject:  topology.API(js.Options(), "CONSUMER.MSG.NEXT."+info.Stream+"."+info.Name),
		most:     cap(slots),
		expiry:   t.expiry,
		wake:     make(chan struct{}, 1),
		seen:     time.Now(),
		pinned:   pinnedOf(js, info.Config),
	}
	// A pull beyond the limits of a consumer is refused whole.
	if limit := info.Config.MaxRequestBatch; limit > 0 {
		p.most = min(p.most, limit)
	}
	if limit := info.Config.MaxRequestExpires; limit > 0 {
		p.expiry = min(p.expiry, limit)
	}
	for range laneCount {
		l := &lane{inbox: nc.NewInbox(), closed: make(chan struct{})}
		sub, err := nc.Subscribe(l.inbox+".*", func(m *nats.Msg) { p.receive(l, m) })
		if err != nil {
			for _, l := range p.lanes {
				_ = l.sub.Unsubscribe() // it fails for the same reason
			}
			return nil, fmt.Errorf("pull: %w", err)
		}
		sub.SetClosedHandler(func(string) { close(l.closed) })
		l.sub, p.lanes = sub, append(p.lanes, l)
	}
	p.reconnected = nc.StatusChanged(nats.CONNECTED)
	if p.pinned.group == "" {
		p.mu.Lock()
		p.beginTerm("")
		p.mu.Unlock()
	}
	return p, nil
}

// receive sorts what arrives. Only a message has a subject to reply to: that of
// its ack.
func (p *puller) receive(l *lane, m *nats.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Reply == "" {
		defer p.look()
		p.answered(l, m)
		return
	}
	p.lives(l)
	l.left = max(0, l.left-1)
	if out, idle := p.out(); idle != nil && 2*out <= cap(p.slots) {
		defer p.look() // else there is nothing more to ask for yet
	}
	switch {
	case p.over:
		p.on.stray(m)
		return
	case p.isNameless(l, m):
		p.nameless = append(p.nameless, nameless{l, m, p.seen})
		p.look()
		return
	case !p.inTerm(l, m):
		p.on.stray(m)
		return
	}
	select {
	case p.slots <- struct{}{}:
		p.term.take(m)
	default:
		// It answers a pull that was given up, because the connection broke. To
		// keep it would be to let it age.
		p.on.stray(m)
	}
}

// lives notes a sign of life. Call with mu held.
func (p *puller) lives(l *lane) {
	p.seen = time.Now()
	l.seen = p.seen
	p.on.alive()
}

// freed is told that a slot has become free.
func (p *puller) freed() {
	if !p.resting.Load() || 4*(cap(p.slots)-len(p.slots)) >= cap(p.slots) {
		p.look()
	}
}

// look makes run look again.
func (p *puller) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run asks for messages until ctx ends (nil) or the consumer is lost.
func (p *puller) run(ctx context.Context) error {
	tick := time.NewTicker(min(p.times.heartbeat, p.pinned.renew()) / 2)
	defer tick.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	for ctx.Err() == nil {
		p.name(ctx)
		wait, changed, err := p.ask()
		if err != nil {
			if err = p.lost(ctx, err); err != nil && ctx.Err() == nil {
				return err
			}
			wait, changed = p.times.pauseMin, nil
		}
		if wait > 0 {
			again.Reset(wait)
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-changed:
		case <-again.C:
		case <-tick.C:
		case <-p.reconnected:
			p.forget()
		}
	}
	return nil
}

// forget gives up the pulls under way: the server that they were sent to may
// have forgotten them.
func (p *puller) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = time.Now()
	for _, l := range p.lanes {
		l.left = 0
	}
}

// ask sends a pull for the slots that are free, if there is something to ask
// for. It tells when to look again at the latest, apart from a wake; 0: only at
// one. It fails where an earlier pull has.
func (p *puller) ask() (wait time.Duration, changed <-chan struct{}, err error) {
	p.resting.Store(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if err := p.check(now); err != nil {
		return 0, nil, err
	}
	if err := p.renewPin(now); err != nil {
		return 0, nil, err
	}
	out, idle := p.out()
	free := cap(p.slots) - len(p.slots)
	// Only now: what freed a slot has used its credit before.
	credit, at, change := p.on.credit()
	if credit < free {
		changed = change
		if credit == 0 && !at.IsZero() {
			wait = max(at.Sub(now), 1)
		}
	}
	want := min(free, credit, p.most) - out
	if len(p.nameless) > 0 {
		want = 0 // what they have brought is not known
	}
	// While half of what could be had is asked for already, more is not: each
	// pull that waits costs the server heartbeats.
	if want <= 0 || idle == nil || 2*out > cap(p.slots) {
		return wait, changed, nil
	}
	// Where messages end one by one, one pull is to be for some of them.
	if gap := p.asked.Add(pullGap).Sub(now); gap > 0 && 4*want < cap(p.slots) {
		p.resting.Store(true)
		return gap, changed, nil
	}
	p.asked = now
	return wait, changed, p.send(idle, want, now)
}

// out is how many messages are asked for, and a lane without a pull; nil where
// each has one. Call with mu held.
func (p *puller) out() (n int, idle *lane) {
	for _, l := range p.lanes {
		n += l.left
		if l.left == 0 {
			idle = l
		}
	}
	return n, idle
}

// check looks for pulls that are silent, and for faults. Call with mu held.
func (p *puller) check(now time.Time) error {
	for _, l := range p.lanes {
		if l.left > 0 && now.Sub(l.seen) > 2*p.times.heartbeat {
			l.left = 0
			p.fault = errSilent
		}
	}
	err := p.fault
	p.fault = nil
	return err
}

// send asks for n messages. Call with mu held.
func (p *puller) send(l *lane, n int, now time.Time) error {
	p.pulls++
	l.reply = l.inbox + "." + strconv.Itoa(p.pulls)
	request := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"idle_heartbeat":%d%s}`, n, p.expiry, p.times.heartbeat, p.pin(now))
	if err := p.nc.PublishRequest(p.subject, l.reply, request); err != nil {
		return err
	}
	l.left, l.seen, l.pin = n, now, ""
	if p.term != nil {
		l.pin = p.term.pin
	} else {
		l.unnamed = now.Add(p.expiry + p.times.heartbeat)
	}
	return nil
}

// lost decides whether a failed pull means that the consumer is gone. nil: pull
// again.
func (p *puller) lost(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errDeleted) || p.nc.IsClosed():
		return fmt.Errorf("pull: %w", err)
	case !p.nc.IsConnected():
		p.forget()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.times.api)
	defer cancel()
	created := p.consumer.CachedInfo().Created // Info replaces it
	info, infoErr := p.consumer.Info(ctx)
	p.mu.Lock()
	silence := time.Since(p.seen)
	p.mu.Unlock()
	switch {
	case errors.Is(infoErr, jetstream.ErrConsumerNotFound) || errors.Is(infoErr, jetstream.ErrStreamNotFound):
		return fmt.Errorf("pull: %w", infoErr)
	case infoErr == nil && !info.Created.Equal(created):
		return fmt.Errorf("pull: %w", errDeleted) // and made anew
	case silence < p.times.patience:
		return nil
	}
	return fmt.Errorf("pull: %w", err)
}

// stop ends the pulls. What the server had sent already is given back at once,
// and another replica may work. ctx is that of the work, not of the intake.
func (p *puller) stop(ctx context.Context) {
	p.mu.Lock()
	p.over = true
	held := p.term
	p.endTerm(nil)
	for _, n := range p.nameless {
		p.on.stray(n.msg)
	}
	p.nameless = nil
	p.mu.Unlock()
	p.nc.RemoveStatusListener(p.reconnected)
	timeout := time.NewTimer(p.times.giveBack)
	defer timeout.Stop()
	draining := p.nc.IsConnected()
	for _, l := range p.lanes {
		draining = draining && l.sub.Drain() == nil
	}
	for _, l := range p.lanes {
		if draining {
			select {
			case <-l.closed:
				continue
			case <-timeout.C:
				draining = false
			}
		}
		// On a connection that is gone nothing arrives any more. The error would
		// be that it was closed for good.
		_ = l.sub.Unsubscribe()
	}
	if held != nil && held.pin != "" && p.nc.IsConnected() {
		p.pinned.handOver(ctx, p.consumer.CachedInfo(), p.times.giveBack)
	}
}
