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

// Devices hears what becomes of accepted requests on their devices, as [Follower]
// hears what becomes of requests.
type Devices struct {
	t   *Tools
	sub *nats.Subscription
	// blind is why documents cannot be read, so that only what is published while it
	// listens is known.
	blind error
}

// FollowDevices begins to listen for the outcome of one request, by its key, or of all
// with the key "*". Begin before the request is sent. Its error is [ErrNoOutcomes]
// where nothing is followed.
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

// DeviceChange is news of a request that is accepted.
type DeviceChange struct {
	Record record.Record
	// Document is the newest; its Outcome is empty where there is none yet.
	Document outcome.Document
	// NotFollowed: nobody looks at the device.
	NotFollowed bool
}

// Ended reports whether nothing more will come of it.
func (c DeviceChange) Ended() bool { return c.NotFollowed || c.Document.Outcome.Final() }

// watched is one accepted request that is waited for.
type watched struct {
	record   record.Record
	document outcome.Document
	revision uint64
	// asked tells that it is known whether there is a document.
	asked bool
}

// Await calls each with all news of the accepted requests until no further one comes
// and all have come to their end on the device, or ctx ends. blind is told, once, why
// documents cannot be read. What is returned are those that have not ended, with what
// was known last.
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

// pollAll reads a part of the documents, by chance, so that each has its turn.
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

// hear passes on what is published, until it is stopped.
func (d *Devices) hear(ctx context.Context) (heard <-chan *nats.Msg, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	c, done := make(chan *nats.Msg), make(chan struct{})
	prefix := len(d.t.names.Outcome(""))
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			m, err := d.sub.NextMsgWithContext(ctx)
			if err != nil || len(m.Subject) <= prefix {
				_ = d.t.pause(ctx, pauseMin) // the connection is gone for a while; the loop looks whether ctx has ended
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
