package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/handover"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
)

// Queue is the state of a tenant's queue. Its JSON form is what worker status
// prints; durations are in seconds.
type Queue struct {
	Tenant string `json:"tenant"`
	// Waiting counts the requests that no worker has taken yet, InFlight those that
	// were delivered and not acknowledged: they are being worked on, or wait for
	// their next try.
	Waiting  int `json:"waiting"`
	InFlight int `json:"inFlight"`
	// Redelivered counts those of InFlight that were delivered more than once.
	Redelivered int `json:"redelivered"`
	// Oldest is the age of the oldest request; 0 in an empty queue.
	Oldest float64 `json:"oldestSeconds"`
	// Rate is the rate that applies: the configured one or, if it is less, the one
	// that Graph was found to grant. "0": no limit.
	Rate       string `json:"rate"`
	Configured string `json:"rateConfigured"`
	// Drain estimates the time until the queue is empty; below 0: no estimate.
	Drain float64 `json:"drainSeconds"`
	// Paused reports whether an operator has paused the tenant, and PausedUntil until
	// when; absent: until it is resumed.
	Paused      bool       `json:"paused"`
	PausedUntil *time.Time `json:"pausedUntil,omitempty"`
	// ThrottledUntil is the end of a pause that Graph has asked for.
	ThrottledUntil *time.Time `json:"throttledUntil,omitempty"`
	// Hold is why the queue stands still, as the worker stored it last; absent: it
	// does not.
	Hold *handover.Hold `json:"hold,omitempty"`
	// FuseBlownAt is when the fuse blew, if nobody has released it since.
	FuseBlownAt *time.Time `json:"fuseBlownAt,omitempty"`
	// Worker is the host name of the replica that stored this state last.
	Worker string `json:"worker,omitempty"`
	// Pullers counts the pulls of workers that wait for a request right now.
	Pullers int `json:"pullers"`
	// Dead counts the tenant's dead letters.
	Dead int `json:"dead"`
	// Unserved names tenants with requests on the stream, but without a consumer.
	Unserved []string `json:"unserved"`
	// Following counts the accepted requests that are followed; absent: there is no
	// bucket of outcomes, or it could not be read.
	Following *Following `json:"following,omitempty"`
	// Unread says what could not be read, and why.
	Unread []string `json:"unread,omitempty"`

	unread []Part
}

// Part is a part of [Queue] that needs a right of its own.
type Part string

// The parts that may be unknown.
const (
	PartOldest   Part = "the oldest request"
	PartDead     Part = "dead letters"
	PartUnserved Part = "tenants that no worker serves"
	PartState    Part = "hold, fuse and learned rate"
	PartOutcomes Part = "what the devices of accepted requests do"
)

// Knows reports whether a part could be read. If it could not, its fields are as if
// nothing were wrong, and mean nothing.
func (q Queue) Knows(p Part) bool { return !slices.Contains(q.unread, p) }

// Queue reads the state of the tenant's queue. It fails if the consumer cannot be
// read; Queue.Unread names other parts that cannot. followFor is how long the workers
// follow a request; 0 means the default.
func (t *Tools) Queue(ctx context.Context, rate pace.Rate, followFor time.Duration) (Queue, error) {
	out := Queue{Tenant: t.names.Tenant, Configured: rate.String(), Rate: rate.String(), Unserved: []string{}}
	var info *jetstream.ConsumerInfo
	err := t.insist(ctx, func(ctx context.Context) error {
		c, err := t.js.Consumer(ctx, t.names.Stream, t.names.Consumer())
		if err == nil {
			info = c.CachedInfo()
		}
		return err
	})
	if err != nil {
		return out, fmt.Errorf("consumer %s of stream %s: %w", t.names.Consumer(), t.names.Stream, err)
	}
	out.Waiting, out.InFlight, out.Redelivered = int(info.NumPending), info.NumAckPending, info.NumRedelivered
	out.Pullers = info.NumWaiting
	if out.Paused = info.Paused; out.Paused {
		if until := topology.PauseEnd(info); !until.IsZero() {
			out.PausedUntil = &until
		}
	}
	note := func(what Part, err error) {
		if err != nil {
			out.unread = append(out.unread, what)
			out.Unread = append(out.Unread, fmt.Sprintf("%s: %v", what, err))
		}
	}
	note(PartOldest, t.call(ctx, func(ctx context.Context) error {
		oldest, err := topology.Oldest(ctx, t.js, t.names)
		if !oldest.IsZero() {
			out.Oldest = max(0, serverTime(info).Sub(oldest).Seconds())
		}
		return err
	}))
	note(PartDead, t.call(ctx, func(ctx context.Context) error {
		s, err := t.js.Stream(ctx, t.names.DeadStream)
		if err != nil {
			return err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(t.names.Dead()))
		if err != nil {
			return err
		}
		out.Dead = int(info.State.Subjects[t.names.Dead()])
		return nil
	}))
	note(PartUnserved, t.call(ctx, func(ctx context.Context) error {
		unserved, err := topology.Unserved(ctx, t.js, t.names)
		out.Unserved = append(out.Unserved, unserved...)
		return err
	}))
	now := serverTime(info)
	note(PartState, t.call(ctx, func(ctx context.Context) error { return t.handedOn(ctx, &out, &rate, now) }))
	if out.Drain = drain(out, rate, now); !out.Knows(PartState) && out.Drain > 0 {
		out.Drain = -1 // the tenant may be held
	}
	note(PartOutcomes, func() (err error) {
		out.Following, err = t.following(ctx, window(followFor), now)
		return err
	}())
	return out, nil
}

// handedOn adds what the replicas hand on to each other.
func (t *Tools) handedOn(ctx context.Context, out *Queue, rate *pace.Rate, now time.Time) error {
	store, err := handover.Open(ctx, t.js, t.names.StateBucket())
	if err != nil {
		return err
	}
	w, _, err := store.Snapshot(ctx, t.names.Tenant)
	if err != nil {
		return err
	}
	released, err := store.ReleasedAt(ctx, t.names.Tenant)
	if err != nil {
		return err
	}
	out.Worker, out.Hold = w.Worker, w.Hold
	if w.FuseBlownAt.After(released) {
		out.FuseBlownAt = &w.FuseBlownAt
	}
	if w.PausedUntil.After(now) {
		out.ThrottledUntil = &w.PausedUntil
	}
	if w.Granted > 0 && (rate.N == 0 || w.Granted < rate.N) {
		rate.N = w.Granted
		if rate.W == 0 {
			rate.W = learnedWindow
		}
		out.Rate = rate.String()
	}
	return nil
}

// learnedWindow is the window of a learned rate if none is configured.
const learnedWindow = 20 * time.Second

// drain estimates how long it takes to empty the queue, in seconds; below 0: no
// estimate.
func drain(q Queue, rate pace.Rate, now time.Time) float64 {
	backlog := float64(q.Waiting + q.InFlight)
	switch {
	case backlog == 0:
		return 0
	case q.Hold != nil || q.FuseBlownAt != nil || q.Paused || rate.N == 0:
		return -1
	}
	// The first window's worth goes at once.
	left := max(0, backlog-float64(rate.N)) / rate.PerSecond()
	if q.ThrottledUntil != nil {
		left += q.ThrottledUntil.Sub(now).Seconds()
	}
	return left
}

func serverTime(info *jetstream.ConsumerInfo) time.Time {
	if info.TimeStamp.IsZero() {
		return time.Now()
	}
	return info.TimeStamp
}

// Entry is one state in the history of a request.
type Entry struct {
	// Time is when it was written, by the clock of the NATS server.
	Time   time.Time
	Record record.Record
}

// ErrUnknown means that a request has no record.
var ErrUnknown = errors.New("there is no record: the request has not been started, never arrived, or ended longer ago than records are kept")

// History reads the states of a request that are kept, the oldest first; there is at
// least one, else the error is [ErrUnknown]. It skips values that are not records; if
// there is nothing else, the error is [record.ErrGarbled] and says what to do. The
// consumer that reads them has one filter, so that an account can be given this right
// for one tenant alone; the server removes the consumer by itself.
func (t *Tools) History(ctx context.Context, id string) ([]Entry, error) {
	key := record.Key(t.names.Tenant, request.EscapeID(id))
	var name string
	var out []Entry
	err := t.insist(ctx, func(ctx context.Context) (err error) {
		// A new consumer each time: one does not deliver again what was lost on the way.
		name = "status-" + uuid.NewString()
		out, err = t.history(ctx, name, key)
		return err
	})
	var missing *MissingRight
	switch {
	case errors.As(err, &missing):
		return nil, &MissingRight{Verb: missing.Verb, Subject: strings.Replace(missing.Subject, name, "*", 1)}
	case errors.Is(err, record.ErrGarbled):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("record %s: %w", key, err)
	case len(out) == 0:
		return nil, ErrUnknown
	}
	return out, nil
}

// historyInactive is how long the server keeps a consumer that only reads.
const historyInactive = 10 * time.Second

func (t *Tools) history(ctx context.Context, name, key string) ([]Entry, error) {
	consumer, err := record.ReadingConsumer(ctx, t.js, "KV_"+t.names.Bucket, jetstream.ConsumerConfig{
		Name:              name,
		Description:       "what worker status reads",
		FilterSubject:     "$KV." + t.names.Bucket + "." + key,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: historyInactive,
	})
	if err != nil {
		return nil, err
	}
	var out []Entry
	foreign := false
	left := int(consumer.CachedInfo().NumPending)
	if left == 0 {
		return nil, nil
	}
	batch, err := consumer.Fetch(left, jetstream.FetchContext(ctx))
	if err != nil {
		return nil, err
	}
	for m := range batch.Messages() {
		left--
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		switch r, ok := record.Decode(key, m.Headers(), m.Data()); {
		case ok:
			out = append(out, Entry{meta.Timestamp.UTC(), r})
		case len(m.Data()) == 0:
			foreign = false // the key was removed
		default:
			foreign = true
		}
	}
	if err := batch.Error(); err != nil {
		return nil, err
	}
	switch {
	case left > 0:
		return nil, errors.New("a part of the answer was lost")
	case len(out) == 0 && foreign:
		return nil, t.garbled(key)
	}
	return out, nil
}
