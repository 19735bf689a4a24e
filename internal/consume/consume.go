// Package consume delivers the messages of one tenant's queue to a function
// and carries out what it decides: acknowledge, or give back with a delay. It
// also publishes dead letters and makes the streams.
package consume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
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

// Disposition is what becomes of a message. The zero Disposition gives it back
// at once.
type Disposition struct {
	ack   bool
	delay time.Duration
}

// Ack acknowledges the message for good. The server's confirmation is waited for.
func Ack() Disposition { return Disposition{ack: true} }

// Back gives the message back, to be delivered again after the delay; 0 means
// at once. It holds nothing while it waits.
func Back(delay time.Duration) Disposition { return Disposition{delay: max(0, delay)} }

// Config of a [Queue].
type Config struct {
	Names Names
	// Setup creates what is missing before binding to it.
	Setup  bool
	Layout Layout
	// Slots is how many messages are worked on at a time, and so how many are
	// ever in this process.
	Slots int
	// Prepare is called after the setup and before the first message, each time
	// the queue is bound; nil does nothing.
	Prepare func(context.Context) error
	// Ready waits until it makes sense to take another message.
	Ready func(context.Context) error
	// Handle works on one message. Its context ends when the process must.
	Handle func(context.Context, Message) Disposition
	// Bound is told when the queue is bound to its consumer (nil), and why it
	// is not.
	Bound func(error)
	Log   *zap.Logger
}

// Queue takes messages from one tenant's consumer.
type Queue struct {
	cfg Config
	js  jetstream.JetStream
	log *zap.Logger
}

// New makes a queue; [Queue.Run] works on it.
func New(js jetstream.JetStream, cfg Config) *Queue {
	return &Queue{cfg: cfg, js: js, log: cfg.Log}
}

// Times of binding and pulling.
const (
	rebindMin = 250 * time.Millisecond
	rebindMax = 5 * time.Second
	apiWait   = 5 * time.Second
	// A pull is answered with a heartbeat this often, so that a server that
	// has forgotten it is noticed within twice the time.
	pullHeartbeat = 3 * time.Second
	pullExpiry    = 30 * time.Second
	ackTries      = 3
)

// Run takes messages until intake ends, then waits for those in work, which
// work may cut short. A queue that cannot be bound is tried again for ever.
func (q *Queue) Run(intake, work context.Context) {
	slots := make(chan struct{}, q.cfg.Slots)
	var inWork sync.WaitGroup
	defer inWork.Wait()
	pause := rebindMin
	for intake.Err() == nil {
		consumer, err := q.bind(intake)
		if err == nil {
			q.cfg.Bound(nil)
			pause = rebindMin
			err = q.pull(intake, work, consumer, slots, &inWork)
		}
		if intake.Err() != nil {
			return
		}
		q.cfg.Bound(err)
		select {
		case <-intake.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, rebindMax)
	}
}

func (q *Queue) bind(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*apiWait)
	defer cancel()
	if q.cfg.Setup {
		done, err := Setup(ctx, q.js, q.cfg.Names, q.cfg.Layout)
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
	consumer, err := q.js.Consumer(ctx, n.Stream, n.Consumer())
	if err != nil {
		return nil, fmt.Errorf("bind to consumer %s of stream %s: %w", n.Consumer(), n.Stream, err)
	}
	if q.cfg.Prepare != nil {
		if err := q.cfg.Prepare(ctx); err != nil {
			return nil, err
		}
	}
	return consumer, nil
}

// pull hands out messages until intake ends (nil) or the consumer is lost.
//
// A slot is taken before a message is asked for, and one message is asked for
// at a time: the server's ack wait begins when it sends a message, so a
// message in a buffer would age there.
func (q *Queue) pull(intake, work context.Context, consumer jetstream.Consumer, slots chan struct{}, inWork *sync.WaitGroup) error {
	it, err := consumer.Messages(jetstream.PullMaxMessages(1),
		jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	defer it.Stop()
	// Drain ends a blocked Next, and hands out what is already here.
	stop := context.AfterFunc(intake, it.Drain)
	defer stop()
	beat := consumer.CachedInfo().Config.AckWait / 3
	for {
		select {
		case slots <- struct{}{}:
		case <-intake.Done():
			return q.giveBack(it)
		}
		if q.cfg.Ready(intake) != nil {
			<-slots
			return q.giveBack(it)
		}
		msg, err := it.Next()
		if err != nil {
			<-slots
			if intake.Err() != nil {
				return nil
			}
			if err := q.lost(intake, consumer, err); err != nil {
				return err
			}
			continue
		}
		if intake.Err() != nil {
			<-slots
			q.nak(msg, 0)
			return q.giveBack(it)
		}
		inWork.Go(func() {
			defer func() { <-slots }()
			q.work(work, msg, beat)
		})
	}
}

// giveBack returns at once what the server had sent already when intake ended.
func (q *Queue) giveBack(it jetstream.MessagesContext) error {
	it.Drain()
	for {
		msg, err := it.Next()
		if err != nil {
			return nil
		}
		q.nak(msg, 0)
	}
}

// lost decides whether a failed pull means that the consumer is gone. nil: go
// on pulling.
func (q *Queue) lost(ctx context.Context, consumer jetstream.Consumer, err error) error {
	if !errors.Is(err, jetstream.ErrNoHeartbeat) {
		return fmt.Errorf("pull: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	_, infoErr := consumer.Info(ctx)
	if errors.Is(infoErr, jetstream.ErrConsumerNotFound) || errors.Is(infoErr, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("pull: %w", infoErr)
	}
	return nil
}

// work runs the handler, keeps the message from being delivered to another
// meanwhile, and carries out the verdict.
func (q *Queue) work(ctx context.Context, msg jetstream.Msg, beat time.Duration) {
	meta, err := msg.Metadata()
	if err != nil {
		// Not a delivery of a consumer: there is nothing to acknowledge.
		q.log.Error("a message without JetStream metadata was left alone", zap.Error(err))
		return
	}
	stopBeats := q.keepAlive(msg, beat)
	d := q.cfg.Handle(ctx, Message{
		Subject:   msg.Subject(),
		Header:    msg.Headers(),
		Data:      msg.Data(),
		Stream:    meta.Stream,
		Sequence:  meta.Sequence.Stream,
		Delivered: meta.NumDelivered,
		Published: meta.Timestamp,
	})
	stopBeats()
	if !d.ack {
		q.nak(msg, d.delay)
		return
	}
	q.ack(ctx, msg, meta.Sequence.Stream)
}

// keepAlive tells the server every interval that the message is worked on,
// until the function it returns is called.
func (q *Queue) keepAlive(msg jetstream.Msg, interval time.Duration) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	timer := time.AfterFunc(interval, func() {
		defer close(ended)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			// A lost heartbeat is no harm: the record keeps a second worker
			// from repeating the call.
			_ = msg.InProgress()
			select {
			case <-ticker.C:
			case <-end:
				return
			}
		}
	})
	return func() {
		close(end)
		if !timer.Stop() {
			<-ended
		}
	}
}

func (q *Queue) nak(msg jetstream.Msg, delay time.Duration) {
	// A lost nak is no harm: the message comes back after the ack wait.
	if err := msg.NakWithDelay(delay); err != nil {
		q.log.Debug("a message could not be given back; it returns after the ack wait", zap.Error(err))
	}
}

// ack waits for the server's confirmation. A message whose ack is lost comes
// back and is acknowledged by its record.
func (q *Queue) ack(ctx context.Context, msg jetstream.Msg, sequence uint64) {
	var err error
	for range ackTries {
		try, cancel := context.WithTimeout(ctx, apiWait)
		err = msg.DoubleAck(try)
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(err, nats.ErrNoResponders) {
			break
		}
	}
	if err != nil {
		q.log.Warn("an ack was not confirmed; the message will be delivered again and acknowledged then",
			zap.Uint64("sequence", sequence), zap.Error(err))
	}
}
