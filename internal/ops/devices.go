package ops

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
)

// Devices follows what becomes of accepted requests on their devices, as [Follower]
// follows what becomes of requests. It is used by one goroutine.
type Devices struct {
	t   *Tools
	sub *nats.Subscription
	// blind is why documents cannot be read, so that only those that are published
	// meanwhile are known; nil: they can be read.
	blind error
}

// FollowDevices begins to listen for the outcome of one request, by its key, or of all
// with the key "*". Call it before the request is sent. Its error is [ErrNoOutcomes] if
// nothing is followed.
func (t *Tools) FollowDevices(ctx context.Context, key string) (*Devices, error) {
	d := &Devices{t: t}
	err := t.insist(ctx, func(ctx context.Context) error {
		_, err := t.outcomeStore(ctx)
		return err
	})
	switch missing := (*MissingRight)(nil); {
	case errors.As(err, &missing):
		d.blind = err
	case err != nil:
		return nil, t.unfollowed(err)
	}
	if d.sub, err = t.listen(ctx, t.names.Outcome(key)); err != nil {
		return nil, err
	}
	return d, nil
}

// Stop ends the listening.
func (d *Devices) Stop() { _ = d.sub.Unsubscribe() } // the connection may be gone

// DeviceChange is a change of the outcome of an accepted request.
type DeviceChange struct {
	Record record.Record
	// Document is the newest; its Outcome is empty if there is none yet.
	Document outcome.Document
	// NotFollowed reports that no worker looks at the device.
	NotFollowed bool
}

// Ended reports whether there will be no further change.
func (c DeviceChange) Ended() bool { return c.NotFollowed || c.Document.Outcome.Final() }

// watched is one accepted request whose outcome is awaited.
type watched struct {
	record   record.Record
	document outcome.Document
	revision uint64
	// asked reports whether it is known if there is a document.
	asked bool
}

// Await calls each with every change of the accepted requests until accepted is closed
// and all have ended on the device, or ctx ends. If documents cannot be read, it calls
// blind once with the reason. It returns the requests that have not ended, with what was
// known last.
func (d *Devices) Await(ctx context.Context, accepted <-chan record.Record, each func(DeviceChange), blind func(error)) []DeviceChange {
	heard, stop := d.hear(ctx)
	defer stop()
	if d.blind != nil {
		blind(d.blind)
	}
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	waiting := map[string]*watched{}
	take := func(key string, doc outcome.Document, revision uint64) {
		w := waiting[key]
		if w == nil || revision != 0 && revision <= w.revision || revision == 0 && w.asked {
			return
		}
		first := !w.asked
		if concerns(doc, w.record) {
			w.document, w.revision = doc, revision
		} else if w.asked {
			return
		}
		w.asked = true
		c := DeviceChange{Record: w.record, Document: w.document, NotFollowed: first && w.document.Outcome == "" && !w.record.Followed}
		if c.Ended() {
			delete(waiting, key)
		}
		each(c)
	}
	poll := func(key string) {
		doc, revision, err := outcome.Document{}, uint64(0), d.blind
		if err == nil {
			doc, revision, err = d.t.readOutcome(ctx, d.t.call, key)
		}
		if missing := (*MissingRight)(nil); d.blind == nil && errors.As(err, &missing) {
			d.blind = err
			blind(err)
		}
		if err == nil || d.blind != nil {
			take(key, doc, revision)
		}
	}
	for ctx.Err() == nil && (accepted != nil || len(waiting) > 0) {
		select {
		case <-ctx.Done():
		case r, more := <-accepted:
			if !more {
				accepted = nil
				continue
			}
			key := request.EscapeID(r.ID)
			waiting[key] = &watched{record: r}
			poll(key)
		case m := <-heard:
			key := m.Subject[len(d.t.names.Outcome("")):]
			if doc, revision, ok := outcome.Told(record.Key(d.t.names.Tenant, key), m); ok {
				take(key, doc, revision)
			}
		case <-ticker.C:
			if d.blind == nil {
				d.pollAll(ctx, waiting, poll)
			}
		}
	}
	var left []DeviceChange
	for _, w := range waiting {
		left = append(left, DeviceChange{Record: w.record, Document: w.document})
	}
	return left
}

// pollAll reads some of the documents. Map order picks them at random, so that each has
// its turn.
func (d *Devices) pollAll(ctx context.Context, waiting map[string]*watched, poll func(key string)) {
	var keys []string
	for key := range waiting {
		if keys = append(keys, key); len(keys) == pollMost {
			break
		}
	}
	for _, key := range keys {
		if ctx.Err() == nil {
			poll(key)
		}
	}
}

// hear passes on what is published, until stop is called.
func (d *Devices) hear(ctx context.Context) (heard <-chan *nats.Msg, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	c, done := make(chan *nats.Msg), make(chan struct{})
	prefix := len(d.t.names.Outcome(""))
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			m, err := d.sub.NextMsgWithContext(ctx)
			if err != nil || len(m.Subject) <= prefix {
				_ = d.t.pause(ctx, pauseMin) // the connection is gone for a while; the loop checks ctx
				continue
			}
			select {
			case c <- m:
			case <-ctx.Done():
			}
		}
	}()
	return c, func() { cancel(); <-done }
}
