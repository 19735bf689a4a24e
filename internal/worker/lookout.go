package worker

import (
	"context"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/topology"
)

const (
	// listWait bounds the reading of all consumers of the stream, and startWait that
	// before the first tenant is served.
	listWait  = 15 * time.Second
	startWait = 2 * time.Second
	// mostMissed is how many looks in a row may find requests without a wake-up
	// before no queue rests any more: then wake-ups do not reach this process. A
	// single wake-up may be lost with a connection, or come a moment after the look.
	mostMissed = 3
	// mostFailed is how many looks in a row may fail before queues no longer rest, and
	// before each replica takes what it gets. One that fails must not wake thousands of queues:
	// it fails when the server is slow.
	mostFailed = 3
	// seeAtOnce is for how many tenants the server is asked at a time.
	seeAtOnce = 8
	// A look at thousands of tenants takes the server and this process a tenth of a second of
	// a processor. So it pauses for lookRest between two pages of the list, and each time it has
	// seen seeInRow tenants: what is at work meanwhile does not wait for all of it.
	lookRest = 20 * time.Millisecond
	seeInRow = 256
)

// lookout listens for new requests, and reads the state of all
// queues in one list now and then. With these two, an empty
// queue needs nothing of its own at the server, and costs nothing.
type lookout struct {
	fleet *fleet
	// heard means that the server's wake-ups reach this process, and listed that looks
	// see all queues: one of the last mostFailed did.
	heard, listed atomic.Bool
	// missed counts the looks since the last wake-up
	// that found a message without a wake-up.
	missed atomic.Int32

	burst time.Time // when many queues were seen at work last; zero: they were not

	mu      sync.Mutex
	subject string             // on which wake-ups are listened for; empty: on none
	sub     *nats.Subscription // to it
	// denied tells that the server refused the subscription, on the connection that had
	// been made anew so many times.
	denied     bool
	reconnects uint64
	sight      sight
	failed     int // looks in a row that could not read the list
}

// sight is what the last look has seen.
type sight struct {
	list  map[string]*jetstream.ConsumerInfo // nil: it could not be read
	asked time.Time                          // when the server was asked for it
	// ahead is how far the server's clock is ahead, and within by how much that may be
	// wrong; within is 0 where the server did not say.
	ahead, within time.Duration
}

// rests reports whether an empty queue may rest: a new
// request wakes it, and if that wake-up is lost, a look does.
func (l *lookout) rests() bool {
	return l.heard.Load() && l.listed.Load() && l.missed.Load() < mostMissed
}

// run looks until ctx ends, and at once after a reconnect,
// because wake-ups may have been lost meanwhile.
func (l *lookout) run(ctx context.Context) {
	nc := l.fleet.js.Conn()
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	defer l.listen("")
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-connected:
		case <-ticker.C:
		}
		ticker.Reset(l.fleet.poll())
		l.look(ctx, listWait, lookRest)
		if l.unread() {
			ticker.Reset(pollInterval) // a wake-up may have been lost
		}
		l.see(ctx)
	}
}

// look reads the list of the stream's consumers, and keeps the subscription to wake-ups up to date.
// It pauses between pages for rest.
func (l *lookout) look(ctx context.Context, within, rest time.Duration) {
	f := l.fleet
	if !f.js.Conn().IsConnected() {
		l.mu.Lock()
		l.sight.within = 0 // nobody must take what it told of the clock for new
		l.mu.Unlock()
		return // what is there is seen once it is
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var now sight
	now.asked = time.Now()
	streamCtx, cancelStream := context.WithTimeout(ctx, startWait) // the list does without it
	defer cancelStream()
	stream, err := f.js.Stream(streamCtx, f.cfg.Names.Stream)
	// A stream that does not answer sends what it sent before; if not, looks miss wake-ups.
	wakes := l.heard.Load()
	if err == nil {
		info := stream.CachedInfo()
		wakes = topology.Wakes(info.Config, f.cfg.Names)
		// When the server looked at its clock is known to half the time of the call.
		if !info.TimeStamp.IsZero() {
			now.within = time.Since(now.asked) / 2
			now.ahead = info.TimeStamp.Sub(now.asked.Add(now.within).Round(0))
		}
	}
	l.heard.Store(wakes && l.listen(f.wakeSubject()))
	now.asked = time.Now()
	now.list, err = topology.Consumers(ctx, f.js, f.cfg.Names.Stream, rest)
	if err != nil && ctx.Err() == nil {
		f.cfg.Log.Debug("the consumers of the stream could not be listed", zap.Error(err))
	}
	l.mu.Lock()
	if l.failed++; err == nil {
		l.failed = 0
	}
	listed := err == nil || l.listed.Load() && l.failed < mostFailed
	changed := l.listed.Swap(listed) != listed
	l.sight = now
	l.mu.Unlock()
	if changed {
		f.divide()
	}
}

// unread reports whether the last look could not read the list, but one shortly before could.
func (l *lookout) unread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sight.list == nil && l.listed.Load()
}

// listen listens for wake-ups on a subject instead of the previous
// one; empty: on none. It reports whether the server allows it.
func (l *lookout) listen(subject string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	nc := l.fleet.js.Conn()
	if l.subject == subject {
		return l.sub != nil && !l.refused(nc)
	}
	if l.sub != nil {
		_ = l.sub.Unsubscribe() // fails on a closed connection only
	}
	l.subject, l.sub, l.denied = subject, nil, false
	if subject == "" {
		return false
	}
	sub, err := nc.Subscribe(subject, func(m *nats.Msg) {
		l.missed.Store(0)
		if tenant, ok := l.fleet.cfg.Names.Woken(m.Subject); ok {
			if s := l.fleet.get(tenant); s != nil {
				s.queue.Wake()
			}
		}
	})
	if err != nil {
		return false
	}
	l.sub = sub
	// The server says that it refuses before it answers.
	return nc.FlushTimeout(startWait) == nil && !l.refused(nc)
}

// refused reports whether the server has refused the subscription. Only the last that it
// refused can be asked for, so that is kept as long as the connection lasts. Call with mu
// held.
func (l *lookout) refused(nc *nats.Conn) bool {
	err, reconnects := nc.LastError(), nc.Stats().Reconnects
	l.denied = l.denied && l.reconnects == reconnects || err != nil && strings.Contains(err.Error(), l.subject)
	l.reconnects = reconnects
	return l.denied
}

// tell tells a tenant what the last look has seen of its queue, and returns
// that; nil: nothing. missed means that a message waits there without a wake-up.
func (l *lookout) tell(s *service) (info *jetstream.ConsumerInfo, missed bool) {
	l.mu.Lock()
	seen := l.sight
	l.mu.Unlock()
	if seen.within > 0 {
		s.tenant.Clock.Set(seen.ahead, seen.within)
	}
	info = seen.list[s.names().Consumer()]
	// A queue that was seen is bound without asking again. So the queue is not told
	// before the bucket of records exists, without which no request can be worked on.
	if seen.list != nil && l.fleet.buckets.stores().Records != nil {
		missed = s.queue.Saw(info, seen.asked)
	}
	return info, missed
}

// see tells the queues what the look has seen of them, and shows
// it. If the list may not be read, each queue is looked at separately; if it could not be
// read this once, the next look shows what this one did not.
func (l *lookout) see(ctx context.Context) {
	if l.unread() {
		return
	}
	var missed atomic.Bool
	for services := range slices.Chunk(l.fleet.all(), seeInRow) {
		var next atomic.Int64
		var seeing sync.WaitGroup
		for range seeAtOnce {
			seeing.Go(func() {
				for i := next.Add(1); i <= int64(len(services)); i = next.Add(1) {
					if l.seeOne(ctx, services[i-1]) {
						missed.Store(true)
					}
				}
			})
		}
		seeing.Wait()
		if len(services) == seeInRow {
			select {
			case <-ctx.Done():
			case <-time.After(lookRest):
			}
		}
	}
	if missed.Load() && l.missed.Add(1) == mostMissed {
		l.fleet.warnings.once("the request stream sends wake-ups and the worker may subscribe to them, but they do not arrive; the worker polls "+
			"empty queues instead, which costs more. If the stream belongs to another account, import its wake subject", zap.String("subject", l.fleet.wakeSubject()))
		l.fleet.divide() // each queue then decides again
	}
	l.giveBack()
}

// seeOne is see for one tenant. It reports whether a message waits there without a wake-up.
func (l *lookout) seeOne(ctx context.Context, s *service) (missed bool) {
	info, missed := l.tell(s)
	if s.binding() != nil {
		return missed
	}
	if info == nil {
		var err error
		if info, err = s.queue.Look(ctx); err != nil {
			s.log.Debug("the depth of the queue could not be read", zap.Error(err))
			return missed
		}
	}
	s.see(ctx, info)
	return missed
}

const (
	// manyAwake is how many queues at work make a burst.
	manyAwake = 100
	// afterBurst is how long after it memory is given back: its last connections are
	// closed by then.
	afterBurst = time.Minute
)

// giveBack returns the memory of a burst to the system, at each look for
// a while afterwards: the runtime would otherwise keep most of it for minutes.
func (l *lookout) giveBack() {
	awake := 0
	for _, s := range l.fleet.all() {
		if !s.queue.Resting() {
			awake++
		}
	}
	switch {
	case awake >= manyAwake:
		l.burst = time.Now()
	case !l.burst.IsZero() && time.Since(l.burst) < afterBurst:
		debug.FreeOSMemory()
	}
}
