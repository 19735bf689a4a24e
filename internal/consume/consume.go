// Package consume delivers the messages of one tenant's queue to a function
// and carries out what it decides: acknowledge, or give back with a delay.
package consume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/topology"
)

// Message is one delivery of a request.
type Message struct {
	Subject  string
	Header   nats.Header
	Data     []byte
	Stream   string
	Sequence uint64 // in the stream
	// Delivered counts deliveries, from 1. Waiting raises it too.
	Delivered uint64
	// Published is when the stream stored the message.
	Published time.Time
}

// Disposition says what to do with a message.
// The zero Disposition gives it back at once.
type Disposition struct {
	ack   bool
	delay time.Duration
}

// Ack acknowledges the message for good. The server's confirmation is waited for.
func Ack() Disposition { return Disposition{ack: true} }

// Nak gives the message back, to be delivered again after the delay; 0 means
// at once. It holds nothing while it waits.
func Nak(delay time.Duration) Disposition { return Disposition{delay: max(0, delay)} }

// Config of a [Queue].
type Config struct {
	Names topology.Names
	// Setup creates what is missing before binding to it.
	Setup  bool
	Layout topology.Layout
	// Slots is how many messages are worked on at a time. Half as many may wait for a
	// slot in this process; there is no further one, but for those whose ack is not yet
	// confirmed.
	Slots int
	// Prepare is called after the setup and before the first message, each time
	// the queue is bound; nil does nothing.
	Prepare func(context.Context) error
	// Credit tells how many further messages it makes sense to take now. Where
	// that is 0, at is when to ask again, zero if only a change tells; changed
	// is closed at the next change. It must not wait. nil: as many as there are slots.
	Credit func() (n int, at time.Time, changed <-chan struct{})
	// Begin is called when this replica becomes the one that works on the queue,
	// and before it handles a message; nil does nothing. soft ends when it is that
	// no longer. continues: the server has delivered nothing to another replica since
	// the last message that this one was given, whether or not it handled that.
	Begin func(soft context.Context, continues bool)
	// Active is told whether this replica is the one that works on the queue; nil is
	// not told. While the queue rests, it is the one that would.
	Active func(bool)
	// Rests reports whether the queue may rest while nothing is in it: somebody calls
	// [Queue.Wake] and [Queue.Saw] then. nil: it is pulled all the time.
	Rests func() bool
	// Handle works on one message. soft ends when nothing further is to be begun,
	// because the process is to end or another replica works now; hard ends when
	// the process must.
	Handle func(soft, hard context.Context, m Message) Disposition
	// Clock, if not nil, is told how far the server's clock is ahead of ours, and
	// by how much that may be wrong, each time the consumer is looked up.
	Clock func(ahead, within time.Duration)
	// Bound is told when the queue is bound to its consumer (nil), and why it
	// is not.
	Bound func(error)
	Log   *zap.Logger
}

// Queue takes messages from one tenant's consumer.
type Queue struct {
	cfg   Config
	js    jetstream.JetStream
	log   *zap.Logger
	times times
	// created is when the consumer was made that is there, by the last look at it.
	created atomic.Int64
	// last is the message that was handed out last.
	last       atomic.Pointer[place]
	heartbeats *heartbeats
	hand       chan struct{} // one is taken for each message that is handled, or waits for that
	slots      chan struct{} // one is taken for each message that is handled
	inWork     sync.WaitGroup
	demand     *demand
	active     bool // what Active was told last
	bound      bool // whether Bound was told nil last
}

// place is where a delivery stands among all that the server has made of a consumer,
// to whichever replica. The zero place is none.
type place struct {
	created int64 // when the consumer was made that delivered it
	// reconnects is how often the connection had been made anew when it came: a server that
	// was killed may have forgotten its last deliveries, and number the next ones the same.
	reconnects uint64
	number     uint64 // 0: it is not known
}

// place is that of a message that has just come; m may be nil.
func (q *Queue) place(m *nats.Msg, created int64) place {
	p := place{created: created, reconnects: q.reconnects()}
	if m == nil {
		return p
	}
	if meta, err := m.Metadata(); err == nil {
		p.number = meta.Sequence.Consumer
	}
	return p
}

// follows reports whether nothing was delivered in between.
func (p place) follows(last place) bool {
	return last.number > 0 && p == place{last.created, last.reconnects, last.number + 1}
}

// New makes a queue; [Queue.Run] works on it.
func New(js jetstream.JetStream, cfg Config) *Queue {
	if cfg.Credit == nil {
		cfg.Credit = func() (int, time.Time, <-chan struct{}) { return cfg.Slots, time.Time{}, nil }
	}
	if cfg.Begin == nil {
		cfg.Begin = func(context.Context, bool) {}
	}
	if cfg.Active == nil {
		cfg.Active = func(bool) {}
	}
	if cfg.Rests == nil {
		cfg.Rests = func() bool { return false }
	}
	q := &Queue{
		cfg: cfg, js: js, log: cfg.Log, times: usual,
		heartbeats: newHeartbeats(js.Conn()), demand: newDemand(),
		// A freed slot finds the next message here. To ask for it only then takes three servers
		// several milliseconds, and a slot would be empty for a quarter of its time.
		hand: make(chan struct{}, cfg.Slots+cfg.Slots/2), slots: make(chan struct{}, cfg.Slots),
	}
	q.last.Store(&place{})
	return q
}

// Wake says that a message was stored for the queue, or may have been.
func (q *Queue) Wake() {
	q.demand.stir(time.Now())
}

// Own says whether this replica is the one of several that is to take the messages. It
// is, until it is told. One that is not takes them all the same when they are seen to
// wait for long, and nobody takes them.
func (q *Queue) Own(owned bool) {
	q.demand.update(func(d *demand) { d.interest.own(owned) })
}

// Resting reports whether the queue is not pulled.
func (q *Queue) Resting() bool { return q.demand.isResting() }

// Saw takes what the server said of the consumer when it was asked at an instant, for
// example in a list of all; nil: the list does not name it, and it is looked up. It
// reports whether a message waits while the queue rests: nobody has called [Queue.Wake].
func (q *Queue) Saw(info *jetstream.ConsumerInfo, asked time.Time) (missed bool) {
	if info == nil || topology.Unusable(info.Config, q.cfg.Names) != nil {
		q.demand.update(func(d *demand) { d.info, d.interest.stirred = nil, time.Now() })
		return false
	}
	return q.demand.saw(info, asked, time.Now(), q.cfg.Rests(), q.times.linger)
}

// Times of calls to the server.
const (
	apiWait = 5 * time.Second
	// An ack is repeated until the server confirms it, for ackPatience. That is
	// less than what is left of the ack wait since the last heartbeat.
	ackPatience = 15 * time.Second
	ackPauseMin = 50 * time.Millisecond
	ackPauseMax = time.Second
)

// Run takes messages until soft ends, then waits for those in work, which hard
// may cut short. A queue that cannot be bound is tried again for ever.
func (q *Queue) Run(soft, hard context.Context) {
	defer q.inWork.Wait()
	defer func() { q.setActive(false) }()
	pause := q.times.pauseMin
	var last error
	for q.awaitDemand(soft) {
		info, err := q.bind(soft)
		if err == nil {
			bound := sync.OnceFunc(func() {
				q.setBound(nil)
				pause = q.times.pauseMin
			})
			if !errors.Is(last, errSilent) {
				bound()
			}
			err = q.pull(soft, hard, info, bound)
		}
		if soft.Err() != nil {
			return
		}
		if last = err; err == nil {
			continue // there is nothing to do, or it is another replica's to do
		}
		q.demand.update(func(d *demand) { d.info = nil })
		q.setBound(topology.Unheard(q.js.Options(), err))
		select {
		case <-soft.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, q.times.pauseMax)
	}
}

// awaitDemand waits until the queue is to be pulled, and reports whether it is: false
// when soft has ended.
func (q *Queue) awaitDemand(soft context.Context) bool {
	for soft.Err() == nil {
		pulls, v := q.demand.rest(time.Now(), q.cfg.Rests(), q.times.linger)
		if pulls {
			return true
		}
		if v.elsewhere || v.here {
			q.setActive(v.here)
		}
		if v.known {
			q.setBound(nil)
		}
		select {
		case <-soft.Done():
		case <-q.demand.changed:
		}
	}
	return false
}

// setBound tells that the queue is bound, once, or why it is not. Only Run and what it
// calls do that, one at a time.
func (q *Queue) setBound(err error) {
	if err != nil || !q.bound {
		q.bound = err == nil
		q.cfg.Bound(err)
	}
}

// setActive tells whether this replica is the one that works, where that has changed.
// Only Run and what it calls do that, one at a time.
func (q *Queue) setActive(active bool) {
	if q.active != active {
		q.active = active
		q.cfg.Active(active)
	}
}

func (q *Queue) bind(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	q.demand.mu.Lock()
	known := q.demand.info
	q.demand.mu.Unlock()
	if known != nil {
		q.created.Store(known.Created.UnixNano())
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*q.times.api)
	defer cancel()
	if q.cfg.Setup {
		done, err := topology.SetupQueue(ctx, q.js, q.cfg.Names, q.cfg.Layout)
		for _, d := range done {
			if d.Action != "exists" {
				q.log.Info("set up", zap.String("what", d.What), zap.String("action", d.Action))
			}
		}
		if err != nil {
			return nil, fmt.Errorf("set up: %w", err)
		}
	}
	n := q.cfg.Names
	info, err := q.consumer(ctx)
	if err == nil {
		if w := topology.Unusable(info.Config, n); w != nil {
			err = fmt.Errorf("it %s; %s", w.Text, w.Do)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bind to consumer %s of stream %s: %w", n.Consumer(), n.Stream, err)
	}
	q.created.Store(info.Created.UnixNano())
	if q.cfg.Prepare != nil {
		if err := q.cfg.Prepare(ctx); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// consumer looks the consumer up, and takes the time while it is there.
func (q *Queue) consumer(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	asked := time.Now()
	consumer, err := q.js.Consumer(ctx, q.cfg.Names.Stream, q.cfg.Names.Consumer())
	if err != nil {
		return nil, err
	}
	// When the server looked at its clock is known to half the time of the call.
	within := time.Since(asked) / 2
	info := consumer.CachedInfo()
	if ts := info.TimeStamp; q.cfg.Clock != nil && !ts.IsZero() {
		q.cfg.Clock(ts.Sub(asked.Add(within).Round(0)), within)
	}
	return info, nil
}

// waiting is how many messages in hand have no slot.
func (q *Queue) waiting() int { return max(0, len(q.hand)-cap(q.slots)) }

// pull hands out messages until soft ends (nil) or the consumer is lost.
func (q *Queue) pull(soft, hard context.Context, info *jetstream.ConsumerInfo, alive func()) error {
	created := info.Created.UnixNano()
	var p *puller
	done := func() {
		<-q.hand
		p.look()
	}
	p, err := newPuller(q.js, info, q.times, q.hand, callbacks{
		credit: func() (int, time.Time, <-chan struct{}) {
			n, at, changed := q.cfg.Credit()
			if n > 0 { // what waits may use it up: until one of these is done, or it changes
				n, at = n-q.waiting(), time.Time{}
			}
			return n, at, changed
		},
		begin: func(first *nats.Msg) (func(*nats.Msg), func()) {
			term, end := context.WithCancel(soft)
			begun := make(chan struct{})
			continues := q.place(first, created).follows(*q.last.Load())
			q.inWork.Go(func() {
				defer close(begun)
				q.cfg.Begin(term, continues)
			})
			return func(m *nats.Msg) {
				q.demand.stir(time.Now())
				d := delivery{place: q.place(m, created), msg: m, beat: info.Config.AckWait / 3, done: done}
				last := d.place // alone, or the message would be kept
				q.last.Store(&last)
				q.inWork.Go(func() {
					<-begun
					q.work(term, hard, d)
				})
			}, end
		},
		active: q.setActive,
		alive:  alive,
		wish:   func(now time.Time) wish { return q.demand.wish(now, q.cfg.Rests(), q.times.linger) },
		wishes: q.demand.changed,
		stray:  func(m *nats.Msg) { q.nak(m, 0) },
		lookUp: func(ctx context.Context) (*jetstream.ConsumerInfo, error) {
			ctx, cancel := context.WithTimeout(ctx, q.times.api)
			defer cancel()
			asked := time.Now()
			info, err := q.consumer(ctx)
			if err == nil {
				q.created.Store(info.Created.UnixNano())
				q.Saw(info, asked)
			}
			return info, err
		},
	})
	if err != nil {
		return err
	}
	end, err := p.run(soft)
	p.stop(hard, end == rested)
	return err
}

// delivery is a message in work.
type delivery struct {
	place
	msg  *nats.Msg
	beat time.Duration
	// done is called when the handler is done with it. The ack then needs no place in
	// hand: while its confirmation is on the way, the next message may be. The server's
	// limit of pending acks bounds how many there are of these.
	done func()
}

// work waits for a slot, runs the handler, and carries out the verdict. It keeps the
// message from being delivered to another meanwhile.
func (q *Queue) work(soft, hard context.Context, d delivery) {
	meta, err := d.msg.Metadata()
	if err != nil {
		// Not a delivery of a consumer: there is nothing to acknowledge.
		d.done()
		q.log.Error("a message without JetStream metadata was ignored", zap.Error(err))
		return
	}
	q.heartbeats.add(d.msg, d.beat)
	if !q.awaitSlot(soft) {
		q.heartbeats.remove(d.msg)
		d.done()
		if !q.outdated(d) {
			q.nak(d.msg, 0)
		}
		return
	}
	verdict := q.cfg.Handle(soft, hard, Message{
		Subject:   d.msg.Subject,
		Header:    d.msg.Header,
		Data:      d.msg.Data,
		Stream:    meta.Stream,
		Sequence:  meta.Sequence.Stream,
		Delivered: meta.NumDelivered,
		Published: meta.Timestamp,
	})
	<-q.slots
	q.heartbeats.remove(d.msg)
	d.done()
	defer func() { q.demand.stir(time.Now()) }()
	switch {
	case q.outdated(d):
		q.log.Warn("the consumer was recreated while a message was being handled; if the message still exists, it will be delivered again",
			zap.Uint64("sequence", meta.Sequence.Stream))
	case verdict.ack:
		q.ack(hard, d, meta.Sequence.Stream)
	default:
		q.nak(d.msg, verdict.delay)
	}
}

// awaitSlot takes a slot, unless soft ends first.
func (q *Queue) awaitSlot(soft context.Context) bool {
	select {
	case <-soft.Done():
		return false
	case q.slots <- struct{}{}:
	}
	if soft.Err() != nil { // both at a time
		<-q.slots
		return false
	}
	return true
}

// outdated tells that the consumer, and perhaps the stream, was made anew since
// the delivery. Sequences then begin anew, and the server does not ask whose
// they are: an ack could take away another message.
func (q *Queue) outdated(d delivery) bool { return d.created != q.created.Load() }

// What is said to the server about a message, on the subject of its ack.
const (
	sayAck        = "+ACK"
	sayNak        = "-NAK"
	sayInProgress = "+WPI"
)

func (q *Queue) nak(msg *nats.Msg, delay time.Duration) {
	say := sayNak
	if delay > 0 {
		say = fmt.Sprintf(`%s {"delay": %d}`, sayNak, delay)
	}
	// A lost nak does no harm: the message comes back after the ack wait.
	if err := q.js.Conn().Publish(msg.Reply, []byte(say)); err != nil {
		q.log.Debug("a message could not be given back; it will be delivered again after the ack wait", zap.Error(err))
	}
}

// reconnects is how often the connection was made anew.
func (q *Queue) reconnects() uint64 { return q.js.Conn().Stats().Reconnects }

// ack waits for the server's confirmation. A message whose ack is lost comes
// back and is acknowledged by its record.
//
// A server that was killed may have forgotten its last deliveries. It confirms no
// ack of them, but delivers those messages again, for which a slot must be free.
// So after a reconnect one try has to do.
func (q *Queue) ack(ctx context.Context, d delivery, sequence uint64) {
	began, pause := time.Now(), ackPauseMin
	for !q.outdated(d) {
		anew := q.reconnects() != d.reconnects
		try, cancelTry := context.WithTimeout(ctx, q.times.ack)
		_, err := q.js.Conn().RequestWithContext(try, d.msg.Reply, []byte(sayAck))
		cancelTry()
		if err == nil {
			return
		}
		again := time.NewTimer(pause)
		if time.Since(began) < ackPatience && !(anew && errors.Is(err, context.DeadlineExceeded)) {
			select {
			case <-ctx.Done():
			case <-again.C:
				pause = min(2*pause, ackPauseMax)
				continue
			}
		}
		again.Stop()
		q.log.Warn("an ack was not confirmed; the message will be delivered again and acknowledged then",
			zap.Uint64("sequence", sequence), zap.Error(err))
		return
	}
}
