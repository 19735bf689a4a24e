package consume

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// puller asks a consumer for messages, one at a time.
//
// The library's iterator does the same, but it takes a message that has no data
// and a header "Status" for a word of the server's, so that such a message is
// never handed out and stops the queue each time it comes; a message that
// answers a pull from before a reconnect ages in its buffer; and its end waits
// ten seconds for a server that is away.
type puller struct {
	nc       *nats.Conn
	consumer jetstream.Consumer
	times    times
	// alive is called at each sign of life of the server.
	alive func()
	// stray is called with a message that nobody waits for.
	stray func(*nats.Msg)

	subject     string // where pulls are sent
	request     []byte
	inbox       string // each pull has a reply subject of its own below it
	sub         *nats.Subscription
	closed      chan struct{} // closed with sub
	reconnected chan nats.Status
	pulls       int // so far

	// wanted is set while next waits. Whoever takes it back decides what
	// becomes of a message that arrives at that moment, so that none is left
	// lying.
	wanted   atomic.Bool
	messages chan *nats.Msg // room for the wanted one
	answers  chan *nats.Msg // what the server says about pulls
}

// times are those of binding and pulling; tests shorten them.
type times struct {
	// heartbeat is how often the server tells that a pull still waits, so that
	// one that it has forgotten is noticed within twice the time.
	heartbeat time.Duration
	expiry    time.Duration // of a pull
	// patience is how long a connected server may give no sign of life before
	// the queue counts as lost: an election takes some seconds.
	patience time.Duration
	// giveBack bounds the wait for what was on its way when a puller ends.
	giveBack time.Duration
	// pauseMin and pauseMax bound the pauses between two tries to bind.
	pauseMin time.Duration
	pauseMax time.Duration
	api      time.Duration // of one call to the server
	ack      time.Duration // of one ack
}

// usual are the times of the service.
var usual = times{
	heartbeat: 3 * time.Second,
	expiry:    30 * time.Second,
	patience:  10 * time.Second,
	giveBack:  time.Second,
	pauseMin:  250 * time.Millisecond,
	pauseMax:  5 * time.Second,
	api:       apiWait,
	ack:       2 * time.Second,
}

var (
	// errSilent means that pulls are not answered, though the server is there.
	errSilent  = errors.New("the server does not answer a pull: the right to pull may be missing, or the consumer have no leader")
	errDeleted = errors.New("the consumer was deleted")
)

// newPuller begins to listen for messages; the first is asked for by next.
func newPuller(js jetstream.JetStream, consumer jetstream.Consumer, t times, alive func(), stray func(*nats.Msg)) (*puller, error) {
	nc, info := js.Conn(), consumer.CachedInfo()
	p := &puller{
		nc:       nc,
		consumer: consumer,
		times:    t,
		alive:    alive,
		stray:    stray,
		subject:  fmt.Sprintf("%s.CONSUMER.MSG.NEXT.%s.%s", apiPrefix(js.Options()), info.Stream, info.Name),
		request:  fmt.Appendf(nil, `{"batch":1,"expires":%d,"idle_heartbeat":%d}`, t.expiry, t.heartbeat),
		inbox:    nc.NewInbox(),
		closed:   make(chan struct{}),
		messages: make(chan *nats.Msg, 1),
		answers:  make(chan *nats.Msg, 16),
	}
	sub, err := nc.Subscribe(p.inbox+".*", p.receive)
	if err != nil {
		return nil, fmt.Errorf("pull: %w", err)
	}
	sub.SetClosedHandler(func(string) { close(p.closed) })
	p.sub, p.reconnected = sub, nc.StatusChanged(nats.CONNECTED)
	return p, nil
}

func apiPrefix(o jetstream.JetStreamOptions) string {
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API"
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".")
	}
	return strings.TrimSuffix(jetstream.DefaultAPIPrefix, ".")
}

// receive sorts what arrives. Only a message has a subject to reply to: that of
// its ack.
func (p *puller) receive(m *nats.Msg) {
	switch {
	case m.Reply == "":
		select {
		case p.answers <- m:
		default: // nobody pulls, so it is about an earlier pull
		}
	case p.wanted.CompareAndSwap(true, false):
		p.messages <- m
	default:
		// It answers a pull that was given up, because the connection broke or
		// the queue ends. To keep it would be to let it age.
		p.stray(m)
	}
}

// next waits for a message. It fails when ctx ends or the consumer is lost.
func (p *puller) next(ctx context.Context) (*nats.Msg, error) {
	p.wanted.Store(true)
	seen := time.Now() // the last sign of life
	for ctx.Err() == nil {
		m, err := p.ask(ctx, &seen)
		switch {
		case m != nil:
			return m, nil
		case err == nil || ctx.Err() != nil:
			continue
		}
		if err := p.lost(ctx, err, &seen); err != nil && ctx.Err() == nil {
			return p.giveUp(err)
		}
		select {
		case <-ctx.Done():
		case <-p.reconnected:
		case <-time.After(p.times.pauseMin):
		}
	}
	return p.giveUp(ctx.Err())
}

// giveUp ends the wait for a message with an error, unless one has just come.
func (p *puller) giveUp(err error) (*nats.Msg, error) {
	if !p.wanted.CompareAndSwap(true, false) {
		return <-p.messages, nil
	}
	return nil, err
}

// ask sends one pull and waits for a message. Without one and without an error
// the pull is over, and another may be sent.
func (p *puller) ask(ctx context.Context, seen *time.Time) (*nats.Msg, error) {
	for {
		// What has come until now is not about the pull to be sent.
		select {
		case m := <-p.messages:
			return m, nil
		case <-p.answers:
			continue
		case <-p.reconnected:
			continue
		default:
		}
		break
	}
	p.pulls++
	reply := p.inbox + "." + strconv.Itoa(p.pulls)
	if err := p.nc.PublishRequest(p.subject, reply, p.request); err != nil {
		return nil, err
	}
	silence := time.NewTimer(2 * p.times.heartbeat)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case m := <-p.messages:
			p.alive()
			return m, nil
		case <-p.reconnected:
			// The server that it was sent to may have forgotten it.
			*seen = time.Now()
			return nil, nil
		case <-silence.C:
			return nil, errSilent
		case m := <-p.answers:
			if m.Subject != reply {
				continue
			}
			silence.Reset(2 * p.times.heartbeat)
			switch status := m.Header.Get("Status"); status {
			case "100": // heartbeat
				*seen = time.Now()
				p.alive()
			case "404", "408": // the pull has expired
				*seen = time.Now()
				p.alive()
				return nil, nil
			default:
				return nil, answerError(status, m.Header.Get("Description"))
			}
		}
	}
}

func answerError(status, description string) error {
	switch {
	case status == "503":
		return nats.ErrNoResponders
	case status == "409" && description == "Consumer Deleted":
		return errDeleted
	}
	return fmt.Errorf("the server answered %s %s", status, headerText(description, maxDetail))
}

// lost decides whether a failed pull means that the consumer is gone. nil: pull
// again.
func (p *puller) lost(ctx context.Context, err error, seen *time.Time) error {
	switch {
	case errors.Is(err, errDeleted) || p.nc.IsClosed():
		return fmt.Errorf("pull: %w", err)
	case !p.nc.IsConnected():
		*seen = time.Now()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.times.api)
	defer cancel()
	created := p.consumer.CachedInfo().Created // Info replaces it
	info, infoErr := p.consumer.Info(ctx)
	switch {
	case errors.Is(infoErr, jetstream.ErrConsumerNotFound) || errors.Is(infoErr, jetstream.ErrStreamNotFound):
		return fmt.Errorf("pull: %w", infoErr)
	case infoErr == nil && !info.Created.Equal(created):
		return fmt.Errorf("pull: %w", errDeleted) // and made anew
	case time.Since(*seen) < p.times.patience:
		return nil
	}
	return fmt.Errorf("pull: %w", err)
}

// stop ends the pulls. What the server had sent already is given back at once.
func (p *puller) stop() {
	p.nc.RemoveStatusListener(p.reconnected)
	if p.nc.IsConnected() && p.sub.Drain() == nil {
		timeout := time.NewTimer(p.times.giveBack)
		defer timeout.Stop()
		select {
		case <-p.closed:
			return
		case <-timeout.C:
		}
	}
	// On a connection that is gone nothing arrives any more. The error would be
	// that it was closed for good.
	_ = p.sub.Unsubscribe()
}
