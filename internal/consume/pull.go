package consume

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// puller asks a consumer for as many messages as there is room for in hand, one pull
// at a time, and hands each message out as it comes.
//
// The library's iterator is not used: it takes a message that has no data and a
// header "Status" for a word of the server's, so that such a message is never
// handed out and stops the queue each time it comes; a message that answers a
// pull from before a reconnect ages in its buffer; and its end waits ten seconds
// for a server that is away.
type puller struct {
	js    jetstream.JetStream
	info  *jetstream.ConsumerInfo // of the consumer when the queue was bound to it
	times times
	on    callbacks
	hand  chan struct{} // one is taken for each message that is handed out
	inbox *inbox
	wake  chan struct{} // something has changed that may allow another pull

	mu   sync.Mutex
	over bool // nothing more is handed out
	// late tells that a message has brought a pin after that.
	late   bool
	pull   pull
	tenure tenure
	health health
}

// callbacks are what a puller calls.
type callbacks struct {
	// credit tells how many further messages it makes sense to take now. Where
	// that is not above 0, at is when to ask again, zero if only a change tells; changed
	// is closed at the next change. It is called with mu held: it must not wait.
	credit func() (n int, at time.Time, changed <-chan struct{})
	// begin is called when this replica becomes the one that works, with the message that
	// has told so; nil: none has. What it returns takes the messages, for each of which
	// there is room in hand, until end is called.
	begin func(first *nats.Msg) (take func(*nats.Msg), end func())
	// active is told whether this replica is the one that works.
	active func(bool)
	// wish says what is to be done with the queue; that is asked now and then, and when
	// wishes brings something.
	wish   func(now time.Time) wish
	wishes <-chan struct{}
	// alive is called at each sign of life of the server.
	alive func()
	// stray is called with a message that is not to be worked on.
	stray func(*nats.Msg)
	// lookUp looks the consumer up.
	lookUp func(context.Context) (*jetstream.ConsumerInfo, error)
}

// pull is the request for messages that waits at the server. A message does not
// tell which pull it answers, so it counts as one of this, even if it answers an
// earlier one that was given up.
type pull struct {
	number int       // of all pulls so far
	reply  string    // where the server's words about it go
	pin    string    // that it names; empty: none
	left   int       // messages that it may still bring; 0: there is no pull
	seen   time.Time // when it was sent, or its last sign of life
	owed   time.Time // since when the server has a message for it; zero: it has said so of none
}

// lost reports whether the pull is not at the server any more, or a message of
// it was lost on the way.
func (p pull) lost(now time.Time, heartbeat time.Duration) bool {
	return p.left > 0 && (now.Sub(p.seen) > 2*heartbeat || !p.owed.IsZero() && now.Sub(p.owed) >= owedMost)
}

// owedMost is how long after the server has said that a message waits a pull may
// take to bring it.
const owedMost = time.Second

// newPuller begins to listen for messages; run asks for them.
func newPuller(js jetstream.JetStream, info *jetstream.ConsumerInfo, t times, hand chan struct{}, on callbacks) (*puller, error) {
	p := &puller{
		js:     js,
		info:   info,
		times:  t,
		on:     on,
		hand:   hand,
		wake:   make(chan struct{}, 1),
		tenure: newTenure(info.Config, on.begin, on.active),
		health: health{alive: on.alive, seen: time.Now()},
	}
	if limit := info.Config.MaxRequestExpires; limit > 0 {
		p.times.expiry = min(p.times.expiry, limit)
	}
	if p.tenure.group == "" {
		p.tenure.start("", nil, time.Now())
	}
	var err error
	if p.inbox, err = listen(js.Conn(), p.receive); err != nil {
		p.tenure.end()
		return nil, fmt.Errorf("pull: %w", err)
	}
	return p, nil
}

// receive sorts what arrives. Only a message has a subject to reply to: that of
// its ack.
func (p *puller) receive(m *nats.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case m.Reply == "" && p.over:
		return
	case m.Reply == "":
		p.answered(m, now)
		p.look()
		return
	case p.over:
		pin := topology.LastHeader(m.Header, headerPin)
		p.late = p.late || pin != "" && pin != p.tenure.lost
		p.on.stray(m)
		return
	}
	p.health.lives(now)
	p.pull.left, p.pull.seen, p.pull.owed = max(0, p.pull.left-1), now, time.Time{}
	if p.pull.left == 0 {
		p.look()
	}
	pin := topology.LastHeader(m.Header, headerPin)
	switch p.tenure.sort(pin, p.pull.pin, now) {
	case unknown:
		p.tenure.nameless = append(p.tenure.nameless, nameless{m, now})
		p.health.suspect(now)
		p.look()
		return
	case begins:
		p.tenure.start(pin, m, now)
		p.pull.pin = pin
	case late:
		p.on.stray(m)
		return
	case ofTerm:
	}
	select {
	case p.hand <- struct{}{}:
		p.tenure.take(m)
	default:
		// It answers a pull that was given up. To keep it would be to let it age.
		p.on.stray(m)
	}
}

// look makes run look again.
func (p *puller) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// next is what run does after it has asked.
type next struct {
	at      time.Time       // when to ask again at the latest; zero: only at a change
	changed <-chan struct{} // closed when the credit changes; nil: it is enough
	look    bool            // look the consumer up
}

// by brings forward when to ask again. The zero time does not.
func (n *next) by(at time.Time) {
	if !at.IsZero() && (n.at.IsZero() || at.Before(n.at)) {
		n.at = at
	}
}

// run asks for messages until the queue is to be left, ctx ends, or the consumer is lost.
// It also ends where there is nothing to do; not while a pull waits at the server,
// though: a message may be on its way that comes to nobody otherwise, until its ack wait
// is over.
func (p *puller) run(ctx context.Context) (wish, error) {
	nc := p.js.Conn()
	reconnected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(reconnected)
	tick := time.NewTicker(min(p.times.heartbeat, p.tenure.every()) / 2)
	defer tick.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	// The consumer is looked up beside the pulls: while it has no leader, nobody
	// answers.
	var looking sync.WaitGroup
	defer looking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found, busy := make(chan sight, 1), false
	for ctx.Err() == nil {
		wish := p.on.wish(time.Now())
		if wish == left || wish == rested && p.silent() {
			return wish, nil
		}
		next, err := p.ask(time.Now(), wish)
		if err != nil {
			return left, fmt.Errorf("pull: %w", err)
		}
		if next.look && !busy {
			busy = true
			looking.Go(func() {
				info, err := p.on.lookUp(ctx)
				found <- sight{info, err}
			})
		}
		if !next.at.IsZero() {
			again.Reset(time.Until(next.at))
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-p.on.wishes:
		case <-next.changed:
		case <-again.C:
		case <-tick.C:
		case s := <-found:
			busy = false
			if err := p.judge(s, time.Now()); err != nil {
				return left, fmt.Errorf("pull: %w", err)
			}
		case <-reconnected:
			p.mu.Lock()
			// The server may be another, which knows nothing of the pull.
			p.pull.left = 0
			p.health.restart(time.Now())
			p.mu.Unlock()
		}
	}
	return left, nil
}

// silent reports whether no pull waits at the server, and no message of one is undecided.
func (p *puller) silent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pull.left == 0 && len(p.tenure.nameless) == 0
}

// ask renews the pin and sends a pull for as many as there is room for, where either
// is due, and pulls are wished for. It fails where the consumer is lost.
func (p *puller) ask(now time.Time, wish wish) (n next, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.js.Conn().Status() {
	case nats.CLOSED:
		return n, nats.ErrConnectionClosed
	case nats.CONNECTED:
	default:
		p.health.seen = now // the silence is not the consumer's
	}
	if p.pull.lost(now, p.times.heartbeat) {
		p.fail(errSilent, now)
		p.health.suspect(now)
	}
	if err := p.health.lost(p.pull.left > 0, now, p.times.patience); err != nil {
		return n, err
	}
	if wish != rested && p.pull.left == 0 && len(p.tenure.nameless) == 0 && !p.health.next.After(now) {
		p.fill(now, &n)
	}
	if due := p.tenure.due(p.pull); !due.IsZero() && !due.After(now) {
		p.tenure.renewed = now
		p.request(p.inbox.subject(p.tenure.renewal()), fmt.Sprintf(`"batch":1,"max_bytes":1,"expires":%d`, p.tenure.every()), now)
	}
	if wish == doubted {
		p.health.suspect(now)
	}
	n.look = !p.health.doubt.IsZero() && !p.health.doubt.After(now)
	for _, at := range []time.Time{p.health.next, p.health.doubt, p.tenure.due(p.pull), p.pull.owed.Add(owedMost)} {
		if at.After(now) {
			n.by(at)
		}
	}
	return n, nil
}

// fill sends a pull for as many as there is room for. Call with mu held.
func (p *puller) fill(now time.Time, n *next) {
	free := cap(p.hand) - len(p.hand)
	// Only now: what has left its room has used its credit before.
	credit, at, changed := p.on.credit()
	if credit < free {
		n.changed = changed
	}
	if credit <= 0 {
		n.by(at)
	}
	want := min(free, credit)
	if want <= 0 {
		return
	}
	// A pull beyond the limits of a consumer is refused whole.
	if limit := p.info.Config.MaxRequestBatch; limit > 0 {
		want = min(want, limit)
	}
	if p.health.tries == 0 {
		p.health.seen = now // nothing was asked for, so that no answer was owed
	}
	number := p.pull.number + 1
	p.pull = pull{number: number, reply: p.inbox.subject(strconv.Itoa(number)), pin: p.tenure.pin, left: want, seen: now}
	p.tenure.asked(now.Add(p.times.expiry + p.times.heartbeat))
	p.request(p.pull.reply, fmt.Sprintf(`"batch":%d,"expires":%d,"idle_heartbeat":%d`, want, p.times.expiry, p.times.heartbeat), now)
}

// request sends a pull. Call with mu held.
func (p *puller) request(reply, fields string, now time.Time) {
	subject := topology.API(p.js.Options(), "CONSUMER.MSG.NEXT."+p.info.Stream+"."+p.info.Name)
	if err := p.js.Conn().PublishRequest(subject, reply, []byte("{"+fields+p.tenure.names()+"}")); err != nil {
		p.fail(err, now)
	}
}

// fail gives the pull up; another follows soon. Call with mu held.
func (p *puller) fail(err error, now time.Time) {
	p.pull.left = 0
	p.health.fail(err, now)
}

// stop ends the pulls. What the server had sent already is given back at once, and
// another replica may work; where the queue only rests, this one still counts as the one
// that does. ctx bounds handing over.
func (p *puller) stop(ctx context.Context, rests bool) {
	nc := p.js.Conn()
	p.mu.Lock()
	p.over = true
	pin := p.tenure.pin
	if rests {
		p.tenure.rest()
	}
	p.tenure.end()
	p.settle(nil, time.Now())
	p.mu.Unlock()
	// First the pin: without it the server sends nothing more to a pull that names it.
	if pin != "" && nc.IsConnected() {
		handOver(ctx, p.js, p.info, p.tenure.group, p.times.giveBack)
	}
	p.inbox.close(nc.IsConnected(), p.times.giveBack)
	p.mu.Lock()
	late := p.late
	p.mu.Unlock()
	if late && nc.IsConnected() {
		handOver(ctx, p.js, p.info, p.tenure.group, p.times.giveBack)
	}
}

// inbox is where the answers to pulls arrive.
type inbox struct {
	prefix string
	sub    *nats.Subscription
	closed chan struct{} // closed with sub
}

func listen(nc *nats.Conn, receive nats.MsgHandler) (*inbox, error) {
	in := &inbox{prefix: nc.NewInbox() + ".", closed: make(chan struct{})}
	var err error
	if in.sub, err = nc.Subscribe(in.prefix+"*", receive); err != nil {
		return nil, err
	}
	in.sub.SetClosedHandler(func(string) { close(in.closed) })
	return in, nil
}

func (in *inbox) subject(last string) string { return in.prefix + last }

// close ends the subscription. On a connection that is there it waits for what
// is on its way, though not for longer than given.
func (in *inbox) close(connected bool, within time.Duration) {
	if connected && in.sub.Drain() == nil {
		select {
		case <-in.closed:
			return
		case <-time.After(within):
		}
	}
	// On a connection that is gone nothing arrives any more. The error would be
	// that it was closed for good.
	_ = in.sub.Unsubscribe()
}

// sight is what looking the consumer up has shown.
type sight struct {
	info *jetstream.ConsumerInfo
	err  error
}

// judge fails where the consumer is not the one that the queue was bound to.
func (p *puller) judge(s sight, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case errors.Is(s.err, jetstream.ErrConsumerNotFound) || errors.Is(s.err, jetstream.ErrStreamNotFound):
		return s.err
	case s.err == nil && !s.info.Created.Equal(p.info.Created):
		return errDeleted // and made anew
	}
	p.health.doubt = time.Time{}
	if !p.settle(s.info, now) || s.err != nil {
		p.health.doubt = now.Add(lookPause)
	}
	return nil
}
