package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"passcode-worker/internal/follow"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
)

// The actions about an outcome.
const (
	// Ordered: the worker looks at the device now, and then follows the request as usual.
	Ordered Action = "followed"
	// WouldOrder is what a dry run says instead.
	WouldOrder Action = "would follow"
	// Decided: the outcome is known already, so there is nothing to follow.
	Decided Action = "ended"
)

// Order says which accepted requests are to be followed, and how long.
type Order struct {
	IDs   []string  // request ids; none means any
	Since time.Time // the earliest acceptance; zero means any
	Limit int       // how many at most; 0 means no limit
	// For is how long they are followed from now on, at least.
	For time.Duration
	Dry bool // publish nothing
}

// OrderResult is what became of the order for one request. Its JSON form is what
// worker outcome follow prints.
type OrderResult struct {
	Action Action `json:"action"`
	ID     string `json:"id"`
	// Outcome is what is known so far; empty if nothing is.
	Outcome outcome.Outcome `json:"outcome,omitzero"`
	// Until is when following ends at the latest.
	Until  time.Time `json:"until,omitzero"`
	Detail string    `json:"detail,omitzero"`
}

// LongestOrder is how far away the end of an order may be: outcomes are kept no longer.
const LongestOrder = topology.Retention

// ordersAtATime is how many orders are handled at a time.
const ordersAtATime = 16

// errNoFollowStream says what to do about a missing follow stream.
const errNoFollowStream = finalError("no stream takes alarms: run worker setup if it has not been run, and check that WORKER_FOLLOW_STREAM and WORKER_FOLLOW_SUBJECT are the same as the worker's")

// FollowOutcomes orders looks at the devices of accepted requests whose outcome is not
// known. Before it publishes an alarm it calls leave, which may wait. It calls each with
// the result for each request, one at a time. The first failure of NATS ends it.
func (t *Tools) FollowOutcomes(ctx context.Context, o Order, leave func(context.Context) error, each func(OrderResult)) error {
	records, err := t.ordered(ctx, o, each)
	if err != nil {
		return err
	}
	ahead, err := t.ahead(ctx)
	if err != nil {
		return err
	}
	left := o.Limit
	for chunk := range slices.Chunk(records, ordersAtATime) {
		full, err := t.followSome(ctx, o, chunk, time.Now().Add(ahead), &left, leave, each)
		if err != nil || full {
			return err
		}
	}
	return nil
}

// order is what is to be done for one request.
type order struct {
	result OrderResult
	alarm  outcome.Alarm
	failed error
}

// followSome orders looks for some requests, and calls each in their order. left is how
// many more may be ordered, if there is a limit; full reports whether it is reached.
func (t *Tools) followSome(ctx context.Context, o Order, records []record.Record, now time.Time, left *int, leave func(context.Context) error, each func(OrderResult)) (full bool, err error) {
	orders := make([]order, len(records))
	reading, readingCtx := errgroup.WithContext(ctx)
	for i, r := range records {
		reading.Go(func() (err error) {
			orders[i].result, orders[i].alarm, err = t.orderFor(readingCtx, r, o.For, now)
			return err
		})
	}
	if err := reading.Wait(); err != nil {
		return false, err
	}
	var publishing sync.WaitGroup
	for i := range orders {
		d := &orders[i]
		switch {
		case d.result.Action != Ordered:
			continue
		case o.Limit > 0 && *left == 0:
			orders, full = orders[:i], true
		case o.Dry:
			d.result.Action = WouldOrder
			*left--
		default:
			*left--
			publishing.Go(func() {
				if d.failed = leave(ctx); d.failed == nil {
					d.failed = t.alarm(ctx, d.alarm)
				}
			})
		}
		if full {
			break
		}
	}
	publishing.Wait()
	for _, d := range orders {
		if d.failed != nil {
			err = cmp.Or(err, d.failed)
			continue
		}
		each(d.result)
	}
	return full, err
}

// ordered reads the accepted requests that are meant: the oldest first or, if they are
// named, in the order given. It calls each for those that are named but not accepted.
func (t *Tools) ordered(ctx context.Context, o Order, each func(OrderResult)) ([]record.Record, error) {
	if len(o.IDs) == 0 {
		return t.accepted(ctx, o.Since)
	}
	var out []record.Record
	seen := map[string]bool{}
	for _, id := range o.IDs {
		key := request.EscapeID(id)
		if seen[key] {
			continue
		}
		seen[key] = true
		r, _, err := t.read(ctx, t.insist, key)
		refused := func(detail string) { each(OrderResult{Action: Refused, ID: id, Detail: detail}) }
		switch {
		case errors.Is(err, record.ErrGarbled):
			refused(err.Error())
		case err != nil:
			return nil, err
		case r.State == record.None:
			refused(ErrUnknown.Error())
		case r.State != record.Accepted:
			refused(fmt.Sprintf("it is not accepted but %s, so there is nothing to follow", r.State))
		case r.FinishedAt.Before(o.Since):
			refused("it was accepted before the given time")
		default:
			out = append(out, r)
		}
	}
	return out, nil
}

// accepted reads the tenant's requests that were accepted since an instant, the oldest first.
func (t *Tools) accepted(ctx context.Context, since time.Time) ([]record.Record, error) {
	found := map[string]record.Record{}
	err := t.changes(ctx, t.names.Bucket, since, func() { clear(found) }, func(key string, header nats.Header, data []byte) {
		r, ok := record.Decode(key, header, data)
		switch {
		case ok && r.State == record.Accepted && !r.FinishedAt.Before(since):
			found[key] = r
		case ok, removed(header):
			delete(found, key)
		}
	})
	return slices.SortedFunc(maps.Values(found), func(a, b record.Record) int { return a.FinishedAt.Compare(b.FinishedAt) }), err
}

// ahead is how far the clock of the NATS server is ahead of this machine's. All instants
// of a request are by the server's clock.
func (t *Tools) ahead(ctx context.Context) (ahead time.Duration, err error) {
	stream := "KV_" + t.names.OutcomeBucket()
	err = t.insist(ctx, func(ctx context.Context) error {
		s, err := t.js.Stream(ctx, stream)
		if err == nil && !s.CachedInfo().TimeStamp.IsZero() {
			ahead = time.Until(s.CachedInfo().TimeStamp)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream, t.unfollowed(err))
	}
	return ahead, nil
}

// orderFor returns the alarm that makes a worker follow a request, or says why there is
// none.
func (t *Tools) orderFor(ctx context.Context, r record.Record, atLeast time.Duration, now time.Time) (out OrderResult, a outcome.Alarm, err error) {
	d, err := t.OutcomeOf(ctx, r)
	if err != nil {
		return out, a, err
	}
	out = OrderResult{Action: Ordered, ID: r.ID, Outcome: d.Outcome}
	switch {
	case d.Outcome != "" && d.ClientRequestID != r.ClientRequestID:
		out.Action, out.Detail = Decided, "its outcome is of a later call"
		return out, a, nil
	case d.Outcome.Final() && !d.Outcome.ByTime():
		out.Action = Decided
		return out, a, nil
	}
	a = orderAlarm(r, atLeast, now)
	value, err := outcome.MarshalAlarm(a)
	if err == nil {
		_, err = outcome.ParseAlarm(a.Tokens(), value, now)
	}
	if err != nil { // the worker would drop such an alarm
		out.Action, out.Detail = Refused, fmt.Sprintf("no alarm can be made from its record: %v", err)
		return out, a, nil
	}
	out.Until = a.Until
	return out, a, nil
}

// orderAlarm is an alarm for a look now, which the looks of the plan follow. It has a
// message id of its own, so that the server does not drop it as a copy of the plan's.
func orderAlarm(r record.Record, atLeast time.Duration, now time.Time) outcome.Alarm {
	a := outcome.Of(r)
	a.Order = uuid.NewString()
	a.Until = a.AcceptedAt.Add(outcome.DefaultFor)
	if end := now.UTC().Add(min(atLeast, LongestOrder)); end.After(a.Until) {
		a.Until = end
	}
	next := outcome.Plan{For: outcome.DefaultFor}.Next(a, now)
	a.Number, a.Step, a.DueAt = max(0, next.Number-1), 0, now.UTC()
	return a
}

// alarm stores an alarm. If the reply is lost, it publishes again under the same message id.
func (t *Tools) alarm(ctx context.Context, a outcome.Alarm) error {
	err := t.insist(ctx, func(ctx context.Context) error {
		return follow.Publish(ctx, t.js, t.names.FollowSubject, t.names.FollowStream, a)
	})
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		return errNoFollowStream
	}
	return err
}
