package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/record"
)

// Follower follows what becomes of requests. It is used by one goroutine.
type Follower struct {
	t   *Tools
	sub *nats.Subscription
	// blind is why records cannot be read, so that only those that are published
	// meanwhile are known; nil: they can be read.
	blind error
}

// pollEvery is how often records are read in addition to listening, which misses
// what is published while the connection is away.
const pollEvery = 2 * time.Second

// pollMost is how many records are read at a time. Map order picks them at random,
// so that each has its turn.
const pollMost = 500

// Follow begins to listen for the record of one request, by its key, or of all
// with the key "*". Call it before the request is sent.
func (t *Tools) Follow(ctx context.Context, key string) (*Follower, error) {
	sub, err := t.listen(ctx, t.names.Status(key))
	if err != nil {
		return nil, err
	}
	return &Follower{t: t, sub: sub}, nil
}

// listen subscribes to a subject, and fails if that is not allowed.
func (t *Tools) listen(ctx context.Context, subject string) (sub *nats.Subscription, err error) {
	err = t.call(ctx, func(ctx context.Context) (err error) {
		before := t.nc.LastError()
		if sub, err = t.nc.SubscribeSync(subject); err != nil {
			return err
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return err
		}
		if err := t.nc.FlushWithContext(ctx); err != nil {
			return err
		}
		// The server answers in order: a refusal comes before the answer to the flush.
		if after := t.nc.LastError(); after != before { //nolint:errorlint // the occurrence is meant, not the kind
			if missing, _ := missingRight(after, t.rights.inbox()); missing != nil {
				return missing
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", subject, err)
	}
	return sub, nil
}

// Stop ends the listening.
func (f *Follower) Stop() { _ = f.sub.Unsubscribe() } // the connection may be gone

// Change is a new state of a request's record.
type Change struct {
	Record record.Record
	// Final reports whether this is the end of the request that was sent.
	Final bool
	// Before reports whether the request was accepted by an earlier message, so that
	// this one is a duplicate.
	Before bool
	// Garbled says that the record can no longer be read, and what to do about it.
	// Record then holds only the id. nil: the record can be read.
	Garbled error
}

// followed is one request whose end is awaited.
type followed struct {
	sent     Sent
	revision uint64 // the newest that was seen
	garbled  bool   // it is garbled, and this was reported
}

// Await calls each with every change of the requests' records until all have
// ended, or ctx ends. If records cannot be read, it calls blind once with the
// reason; it then sees only changes that are published meanwhile. It returns the
// requests that have not ended.
func (f *Follower) Await(ctx context.Context, sent []Sent, each func(Change), blind func(error)) []Sent {
	waiting := map[string]*followed{}
	for _, s := range sent {
		waiting[s.Key] = &followed{sent: s}
	}
	prefix := len(f.t.names.Status(""))
	polled := time.Time{}
	for len(waiting) > 0 && ctx.Err() == nil {
		if time.Since(polled) >= pollEvery && f.blind == nil {
			f.poll(ctx, waiting, each)
			if f.blind != nil {
				blind(f.blind)
			}
			polled = time.Now()
			continue
		}
		wait, cancel := context.WithTimeout(ctx, pollEvery)
		m, err := f.sub.NextMsgWithContext(wait)
		cancel()
		switch {
		case err == nil && len(m.Subject) > prefix:
			key := m.Subject[prefix:]
			if r, revision, ok := record.Told(record.Key(f.t.names.Tenant, key), m); ok {
				take(waiting, key, r, revision, each)
			}
		case err != nil && wait.Err() == nil:
			// Not the end of the wait: the connection is gone for a while.
			_ = f.t.pause(ctx, pauseMin) // the loop checks ctx
		}
	}
	var left []Sent
	for _, s := range sent {
		if waiting[s.Key] != nil {
			left = append(left, s)
			delete(waiting, s.Key)
		}
	}
	return left
}

func (f *Follower) poll(ctx context.Context, waiting map[string]*followed, each func(Change)) {
	left := pollMost
	for key, w := range waiting {
		if left--; left < 0 {
			return
		}
		r, revision, err := f.t.read(ctx, f.t.call, key)
		var missing *MissingRight
		switch {
		case errors.As(err, &missing):
			f.blind = err
			return
		case errors.Is(err, record.ErrGarbled):
			if !w.garbled {
				each(Change{Record: record.Record{ID: w.sent.ID}, Garbled: err})
			}
			w.garbled = true
		case err != nil:
			return // it will be tried again
		case revision != 0:
			take(waiting, key, r, revision, each)
		}
	}
}

// take notes a change of a record, and forgets the request if that is its end.
func take(waiting map[string]*followed, key string, r record.Record, revision uint64, each func(Change)) {
	w := waiting[key]
	if w == nil || revision <= w.revision {
		return
	}
	w.revision = revision
	own := r.Stream == w.sent.Stream && r.Sequence == w.sent.Sequence
	c := Change{Record: r}
	switch {
	case r.State == record.Accepted:
		c.Final, c.Before = true, !own
	case r.State == record.Dead && own:
		c.Final = true
	case !own && !r.State.InProgress():
		return // the end of an earlier message for the same id
	}
	if c.Final {
		delete(waiting, key)
	}
	each(c)
}

// read reads a request's record as the worker does, and the last revision of its
// key. If there is none, the record has no state and the revision is 0. how is
// t.call or t.insist. If it is no longer known whether there was a record, the
// error is [record.ErrGarbled] and says what to do.
func (t *Tools) read(ctx context.Context, how func(context.Context, func(context.Context) error) error, key string) (r record.Record, revision uint64, err error) {
	key = record.Key(t.names.Tenant, key)
	err = how(ctx, func(ctx context.Context) error {
		store, err := t.store(ctx)
		if err != nil {
			return fmt.Errorf("record %s: %w", key, err)
		}
		r, revision, err = store.Get(ctx, key)
		return err
	})
	switch {
	case errors.Is(err, record.ErrGarbled):
		return record.Record{}, 0, t.garbled(key)
	case err != nil:
		var missing *MissingRight
		if errors.As(err, &missing) {
			err = fmt.Errorf("record %s: %w", key, err)
		}
		return record.Record{}, 0, err
	}
	return r, revision, nil
}

// garbled says what to do about a record that cannot be read.
func (t *Tools) garbled(key string) error {
	return &garbledError{bucket: t.names.Bucket, key: key}
}

// garbledError is a [record.ErrGarbled] in words for an operator.
type garbledError struct{ bucket, key string }

func (e *garbledError) Error() string {
	return "record " + e.key + ": it was overwritten by something that is not a record, so it is " +
		"unknown whether the device was reset: look at the device in Intune; if it was not reset, nats kv del " + e.bucket + " " + e.key + " lets a waiting request be done; " +
		"otherwise leave it: the request becomes a dead letter " + reasonUnknown + " when its time is over"
}

func (e *garbledError) Is(target error) bool { return target == record.ErrGarbled }

// store is the bucket of the records.
func (t *Tools) store(ctx context.Context) (*record.Store, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.records == nil {
		store, err := record.Open(ctx, t.js, t.names.Bucket)
		if err != nil {
			return nil, err
		}
		t.records = store
	}
	return t.records, nil
}
