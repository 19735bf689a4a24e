package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
)

// Outcome reads what became of a request on its device; if there is no document, the
// Outcome in it is empty.
func (t *Tools) Outcome(ctx context.Context, id string) (outcome.Document, error) {
	d, _, err := t.readOutcome(ctx, t.insist, request.EscapeID(id))
	return d, err
}

// OutcomeOf reads what became of an accepted request on its device. A document about
// an earlier accepted call counts as none.
func (t *Tools) OutcomeOf(ctx context.Context, r record.Record) (outcome.Document, error) {
	d, err := t.Outcome(ctx, r.ID)
	if !concerns(d, r) {
		d = outcome.Document{}
	}
	return d, err
}

// concerns reports whether a document is about the call that was accepted for a
// request, or about a later one.
func concerns(d outcome.Document, r record.Record) bool {
	return d.Outcome != "" && (d.ClientRequestID == r.ClientRequestID || d.AcceptedAt.After(r.FinishedAt))
}

// readOutcome reads a document and its revision; how is t.call or t.insist.
func (t *Tools) readOutcome(ctx context.Context, how func(context.Context, func(context.Context) error) error, key string) (d outcome.Document, revision uint64, err error) {
	key = record.Key(t.names.Tenant, key)
	err = how(ctx, func(ctx context.Context) error {
		store, err := t.outcomeStore(ctx)
		if err == nil {
			d, revision, _, err = store.Read(ctx, key)
		}
		return err
	})
	if err != nil {
		return outcome.Document{}, 0, fmt.Errorf("outcome %s: %w", key, t.unfollowed(err))
	}
	return d, revision, nil
}

// outcomeStore is the bucket of the outcomes.
func (t *Tools) outcomeStore(ctx context.Context) (*outcome.Store, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.outcomes == nil {
		store, err := outcome.Open(ctx, t.js, t.names.OutcomeBucket())
		if err != nil {
			return nil, err
		}
		t.outcomes = store
	}
	return t.outcomes, nil
}

// ErrNoOutcomes means that there is no bucket of outcomes, so that nothing is followed.
var ErrNoOutcomes = errors.New("it was not found, so accepted requests are not followed; worker setup creates it")

// unfollowed turns an error that says that the bucket is missing into [ErrNoOutcomes].
func (t *Tools) unfollowed(err error) error {
	if errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("key-value bucket %s: %w", t.names.OutcomeBucket(), ErrNoOutcomes)
	}
	return err
}

// OutcomeSelection says which outcomes are meant. The zero OutcomeSelection means all
// of the tenant's.
type OutcomeSelection struct {
	IDs     []string // request ids; none means any
	Outcome string   // empty means any
	Device  string   // in lower case; empty means any
	// Since is the earliest acceptance; zero means any.
	Since time.Time
	// Open selects only those that are not final.
	Open bool
	// Limit is how many at most; 0 means no limit.
	Limit int
}

func (s OutcomeSelection) takes(d outcome.Document) bool {
	return (len(s.IDs) == 0 || slices.Contains(s.IDs, d.ID)) &&
		(s.Outcome == "" || s.Outcome == string(d.Outcome)) &&
		(s.Device == "" || strings.EqualFold(s.Device, d.ManagedDeviceID)) &&
		(s.Since.IsZero() || !d.AcceptedAt.Before(s.Since)) &&
		(!s.Open || !d.Outcome.Final())
}

// Outcomes reads the selected outcomes of the tenant, the oldest acceptance first. It
// skips values that are not documents.
func (t *Tools) Outcomes(ctx context.Context, sel OutcomeSelection) ([]outcome.Document, error) {
	found := map[string]outcome.Document{}
	bucket := t.names.OutcomeBucket()
	err := t.changes(ctx, bucket, sel.Since, func() { clear(found) }, func(key string, header nats.Header, data []byte) {
		d, ok := outcome.Decode(key, header, data)
		switch {
		case ok && sel.takes(d):
			found[key] = d
		case ok, removed(header):
			delete(found, key)
		}
	})
	if err != nil {
		return nil, t.unfollowed(err)
	}
	out := slices.SortedFunc(maps.Values(found), outcome.Document.SortKey)
	if sel.Limit > 0 {
		out = out[:min(len(out), sel.Limit)]
	}
	return out, nil
}

// removed reports whether the headers of a change say that the key was removed.
func removed(h nats.Header) bool {
	op := h.Get("KV-Operation")
	return op == "DEL" || op == "PURGE" || h.Get(jetstream.MarkerReasonHeader) != ""
}

const (
	// earlier is how long before the given instant the reading of changes begins: the
	// instant may be by another clock.
	earlier = 5 * time.Minute
	// changesBatch is how many changes are asked for at a time.
	changesBatch = 500
)

// changes calls each with the changes of the tenant's keys in a bucket, in order, since
// an instant or, if that is zero, with all that are kept. It calls anew whenever it
// begins, at first and after a failure. The consumer that reads them has one filter, so
// that an account can be given this right for one tenant alone; the server removes the
// consumer by itself.
func (t *Tools) changes(ctx context.Context, bucket string, since time.Time, anew func(), each func(key string, header nats.Header, data []byte)) error {
	for tries := 1; ; tries++ {
		anew()
		name := "outcome-" + uuid.NewString()
		err := t.rights.do(ctx, func(ctx context.Context) error { return t.readChanges(ctx, name, bucket, since, each) })
		if missing := (*MissingRight)(nil); errors.As(err, &missing) {
			err = &MissingRight{Verb: missing.Verb, Subject: strings.Replace(missing.Subject, name, "*", 1)}
		}
		if err == nil || isFinal(err) || tries == scanTries || ctx.Err() != nil {
			if err != nil {
				return fmt.Errorf("read bucket %s: %w", bucket, err)
			}
			return nil
		}
		if err := t.pause(ctx, time.Duration(tries)*pauseMin); err != nil {
			return fmt.Errorf("read bucket %s: %w", bucket, err)
		}
	}
}

func (t *Tools) readChanges(ctx context.Context, name, bucket string, since time.Time, each func(key string, header nats.Header, data []byte)) error {
	prefix := "$KV." + bucket + "."
	cfg := jetstream.ConsumerConfig{
		Name:              name,
		Description:       "what worker outcome reads",
		FilterSubject:     prefix + t.names.Tenant + ".*",
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: historyInactive,
	}
	if !since.IsZero() {
		from := since.Add(-earlier)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
	}
	making, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	consumer, err := record.ReadingConsumer(making, t.js, "KV_"+bucket, cfg)
	if err != nil {
		return err
	}
	for left := int(consumer.CachedInfo().NumPending); left > 0; {
		got, err := changesOf(ctx, consumer, min(left, changesBatch), func(m jetstream.Msg) { each(strings.TrimPrefix(m.Subject(), prefix), m.Headers(), m.Data()) })
		if err != nil {
			return err
		}
		if left -= got; got == 0 {
			return errors.New("a part of the answer was lost")
		}
	}
	return nil
}

// changesOf reads the next changes. Each batch has a time limit of its own, since there
// may be any number of them.
func changesOf(ctx context.Context, consumer jetstream.Consumer, n int, each func(jetstream.Msg)) (got int, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	batch, err := consumer.Fetch(n, jetstream.FetchContext(ctx))
	if err != nil {
		return 0, err
	}
	for m := range batch.Messages() {
		got++
		each(m)
	}
	return got, batch.Error()
}

// Following counts a tenant's accepted requests that have not ended on their devices.
// Its JSON form is a part of what worker status prints.
type Following struct {
	Open int `json:"open"`
	// These count them by age; each leaves out those of the one before.
	Under2m  int `json:"under2m"`
	Under15m int `json:"under15m"`
	Under8h  int `json:"under8h"`
	Older    int `json:"older"`
	// Oldest are the oldest of them, the oldest first.
	Oldest []OpenOutcome `json:"oldest"`
}

// OpenOutcome is one request that is followed.
type OpenOutcome struct {
	ID         string           `json:"id"`
	AcceptedAt time.Time        `json:"acceptedAt"`
	Age        float64          `json:"ageSeconds"`
	Outcome    outcome.Outcome  `json:"outcome"`
	NextStep   outcome.NextStep `json:"nextStep"`
	LastSyncAt *time.Time       `json:"lastSyncAt,omitempty"`
}

// mostOldest is how many of the oldest requests are named.
const mostOldest = 10

// following reads the requests that are followed and were accepted no longer ago than
// window; older ones have ended. nil: there is no bucket of outcomes.
func (t *Tools) following(ctx context.Context, window time.Duration, now time.Time) (*Following, error) {
	open, err := t.Outcomes(ctx, OutcomeSelection{Open: true, Since: now.Add(-window)})
	if errors.Is(err, ErrNoOutcomes) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := &Following{Open: len(open), Oldest: []OpenOutcome{}}
	for i, d := range open {
		age := max(0, now.Sub(d.AcceptedAt))
		switch {
		case age < 2*time.Minute:
			out.Under2m++
		case age < 15*time.Minute:
			out.Under15m++
		case age < 8*time.Hour:
			out.Under8h++
		default:
			out.Older++
		}
		if i >= mostOldest {
			continue
		}
		o := OpenOutcome{ID: d.ID, AcceptedAt: d.AcceptedAt, Age: age.Seconds(), Outcome: d.Outcome, NextStep: d.NextStep}
		if !d.LastSyncAt.IsZero() {
			o.LastSyncAt = &d.LastSyncAt
		}
		out.Oldest = append(out.Oldest, o)
	}
	return out, nil
}

// window is how long ago a request may have been accepted that is still followed.
func window(followFor time.Duration) time.Duration {
	return cmp.Or(followFor, outcome.DefaultFor) + time.Hour
}
