package follow

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/outcome"
)

// Publish stores an alarm. The server drops a copy of one that it has stored already.
func Publish(ctx context.Context, js jetstream.JetStream, subject, stream string, a outcome.Alarm) error {
	value, err := outcome.MarshalAlarm(a)
	if err == nil {
		_, err = js.PublishMsg(ctx, &nats.Msg{Subject: subject + "." + a.Tokens(), Data: value},
			jetstream.WithMsgID(a.MessageID()), jetstream.WithExpectStream(stream), jetstream.WithRetryAttempts(0))
	}
	if err != nil {
		return fmt.Errorf("publish the alarm of %s: %w", a.Key(), err)
	}
	return nil
}

const (
	// firstTry and secondTry bound how long a request waits for its alarm.
	firstTry, secondTry = 400 * time.Millisecond, 600 * time.Millisecond
	// troubleFor is how long no further request waits after one has waited in vain.
	troubleFor = 30 * time.Second
	// lateTry bounds a publish that no request waits for, and lateMost how many of
	// these run at a time.
	lateTry  = 10 * time.Second
	lateMost = 1000
)

// Announcer publishes the first alarms of accepted requests. A request waits for its
// alarm for a second at most, and not at all while NATS does not take alarms.
type Announcer struct {
	js              jetstream.JetStream
	stream, subject string
	plan            outcome.Plan
	// lost is called for each request whose alarm could not be stored.
	lost func(tenant string, err error)

	mu      sync.Mutex
	trouble time.Time // until when no request waits
	late    int       // late publishes under way
	all     sync.WaitGroup
}

// NewAnnouncer makes an announcer. It calls lost, from many goroutines, for each
// request that will not be followed because its alarm could not be stored.
func NewAnnouncer(js jetstream.JetStream, stream, subject string, plan outcome.Plan, lost func(tenant string, err error)) *Announcer {
	return &Announcer{js: js, stream: stream, subject: subject, plan: plan, lost: lost}
}

// Announce publishes the first alarm of an accepted request. ctx ends with the process.
// If the alarm cannot be stored in time, Announce returns and publishing goes on without it.
func (n *Announcer) Announce(ctx context.Context, a outcome.Alarm) {
	a = n.plan.First(a)
	if !n.inTrouble() {
		for _, wait := range []time.Duration{firstTry, secondTry} {
			if n.publish(ctx, a, wait) == nil {
				return
			}
		}
		n.mu.Lock()
		n.trouble = time.Now().Add(troubleFor)
		n.mu.Unlock()
	}
	n.publishLate(ctx, a)
}

func (n *Announcer) inTrouble() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Now().Before(n.trouble)
}

func (n *Announcer) publish(ctx context.Context, a outcome.Alarm, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return Publish(ctx, n.js, n.subject, n.stream, a)
}

// publishLate publishes an alarm that no request waits for.
func (n *Announcer) publishLate(ctx context.Context, a outcome.Alarm) {
	n.mu.Lock()
	full := n.late >= lateMost
	if !full {
		n.late++
		n.all.Add(1)
	}
	n.mu.Unlock()
	if full {
		n.lost(a.Tenant, context.DeadlineExceeded)
		return
	}
	go func() {
		defer n.all.Done()
		begun := time.Now()
		err := n.publish(ctx, a, lateTry)
		n.mu.Lock()
		n.late--
		if err == nil && time.Since(begun) < firstTry { // fast enough for requests to wait again
			n.trouble = time.Time{}
		}
		n.mu.Unlock()
		if err != nil {
			n.lost(a.Tenant, err)
		}
	}()
}

// Wait waits for the publishes that no request waits for.
func (n *Announcer) Wait() { n.all.Wait() }
