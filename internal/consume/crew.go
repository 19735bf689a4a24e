package consume

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// crew is the goroutines that work on messages. Each stays for a while when it
// has nothing to do: a new one for each message would have to grow its stack
// each time, which costs as much as a record.
type crew struct {
	group *sync.WaitGroup // of all that is in work
	work  func(*nats.Msg)
	msgs  chan *nats.Msg // without room: a message goes to one who waits for it
	end   <-chan struct{}
}

// crewIdle is how long one stays without a message. Hundreds of tenants that had
// a burst each must not keep their goroutines.
const crewIdle = time.Second

// take works on a message. It does not wait.
func (c *crew) take(m *nats.Msg) {
	select {
	case c.msgs <- m:
	default:
		c.group.Go(func() { c.run(m) })
	}
}

func (c *crew) run(m *nats.Msg) {
	idle := time.NewTimer(crewIdle)
	defer idle.Stop()
	for {
		c.work(m)
		idle.Reset(crewIdle)
		select {
		case m = <-c.msgs:
		case <-idle.C:
			return
		case <-c.end:
			return
		}
	}
}
