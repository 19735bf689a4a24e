package consume

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// heartbeats tells the server of each message that is worked on for long, so
// that it is not delivered to another meanwhile. Most are done before their first
// heartbeat: one timer looks after all of them.
type heartbeats struct {
	nc *nats.Conn

	mu sync.Mutex
	// inWork holds the messages; true where the timer has seen one before.
	inWork map[*nats.Msg]bool
	timer  *time.Timer // nil while there are none
	every  time.Duration
}

func newHeartbeats(nc *nats.Conn) *heartbeats {
	return &heartbeats{nc: nc, inWork: map[*nats.Msg]bool{}}
}

// add begins to tell the server of a message at least every so often.
func (b *heartbeats) add(m *nats.Msg, often time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inWork[m] = false
	switch every := often / 2; {
	case b.timer == nil:
		b.every = every
		b.timer = time.AfterFunc(every, b.beat)
	case every < b.every: // the consumer was made anew, or changed
		b.every = every
		b.timer.Reset(every)
	}
}

// remove ends it. Nothing is said of the message any more when it returns.
func (b *heartbeats) remove(m *nats.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.inWork, m)
}

func (b *heartbeats) beat() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.inWork) == 0 {
		b.timer = nil
		return
	}
	for m, seen := range b.inWork {
		if seen {
			// A lost heartbeat does no harm: the record
			// keeps a second worker from repeating the call.
			_ = b.nc.Publish(m.Reply, []byte(sayInProgress))
		}
		b.inWork[m] = true
	}
	b.timer.Reset(b.every)
}
