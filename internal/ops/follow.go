package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// Follower hears what becomes of requests. It is used by one goroutine.
type Follower struct {
	t   *Tools
	sub *nats.Subscription
	// blind is why records cannot be read, so that only what is published while
	// the follower listens is known.
	blind error
}

// pollEvery is how often the records are read beside listening: what is
// published while the connection is away is not heard.
const pollEvery = 2 * time.Second

// pollMost is how many records are read at a time. Which of them is by chance,
// so that each has its turn.
const pollMost = 500

// Follow begins to listen for the record of one request, by its key, or of all
// with the key "*". Begin before the request is sent.
func (t *Tools) Follow(ctx context.Context, key string) (*Follower, error) {
	f := &Follower{t: t}
	err := t.call(ctx, func(ctx context.Context) (err error) {
		before := t.nc.LastError()
		if f.sub, err = t.nc.SubscribeSync(t.names.Status(key)); err != nil {
			return err
		}
		if err := f.sub.SetPendingLimits(-1, -1); err != nil {
			return err
		}
		if err := t.nc.FlushWithContext(ctx); err != nil {
			return err
		}
		// A refusal comes before the answer to that.
		if after := t.nc.LastError(); after != before { //nolint:errorlint // the occurrence is meant, not the kind
			if missing, _ := missingRight(after, t.rights.inbox()); missing != nil {
				return missing
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", t.names.Status(key), err)
	}
	return f, nil
}

// Stop ends the listening.
func (f *Follower) Stop() { _ = f.sub.Unsubscribe() } // the connection may be gone

// Change is a new state of a request's record.
type Change struct {
	Record record.Record
	// Final tells that this is the end of the request that was sent.
	Final bool
	// Before tells that the request was accepted by an earlier message, so that
	// this one is a duplicate.
	Before bool
}

// followed is one request that is waited for.
type followed struct {
	sent     Sent
	revision uint64 // the newest that was seen
}

// Await calls each with every change of the requests' records until all have
// come to their end, or ctx ends. blind is told, once, why records cannot be
// read: then only changes that are published meanwhile are seen. What is
// returned are the requests that have not ended.
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
			revision, _ := strconv.ParseUint(topology.LastHeader(m.Header, jetstream.SequenceHeader), 10, 64) // 0 is older than any
			take(waiting, m.Subject[prefix:], m.Data, revision, each)
		case err != nil && wait.Err() == nil:
			// Not the end of the wait: the connection is gone for a while.
			_ = f.t.pause(ctx, pauseMin) // the loop looks whether ctx has ended
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
	for key := range waiting {
		if left--; left < 0 {
			return
		}
		entry, err := f.t.entry(ctx, f.t.call, key)
		var missing *MissingRight
		switch {
		case errors.As(err, &missing):
			f.blind = err
			return
		case err != nil:
			return // it will be tried again
		case entry != nil:
			take(waiting, key, entry.Value(), entry.Revision(), each)
		}
	}
}

// take notes a record, and forgets the request where that is its end.
func take(waiting map[string]*followed, key string, value []byte, revision uint64, each func(Change)) {
	w := waiting[key]
	var r record.Record
	if w == nil || revision <= w.revision || json.Unmarshal(value, &r) != nil {
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

// entry is a record's present entry; nil: there is none. how is t.call or
// t.insist.
func (t *Tools) entry(ctx context.Context, how func(context.Context, func(context.Context) error) error, key string) (jetstream.KeyValueEntry, error) {
	var entry jetstream.KeyValueEntry
	err := how(ctx, func(ctx context.Context) error {
		kv, err := t.bucket(ctx)
		if err != nil {
			return err
		}
		entry, err = kv.Get(ctx, record.Key(t.names.Tenant, key))
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			entry = nil
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", record.Key(t.names.Tenant, key), err)
	}
	return entry, nil
}

// bucket is that of the records.
func (t *Tools) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.records == nil {
		kv, err := t.js.KeyValue(ctx, t.names.Bucket)
		if err != nil {
			return nil, err
		}
		t.records = kv
	}
	return t.records, nil
}

// record is a request's present record; without one it has no state.
func (t *Tools) record(ctx context.Context, key string) (record.Record, error) {
	var r record.Record
	entry, err := t.entry(ctx, t.insist, key)
	if err != nil || entry == nil {
		return r, err
	}
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		return r, fmt.Errorf("record %s is not of the form it should be: %w", entry.Key(), err)
	}
	return r, nil
}
