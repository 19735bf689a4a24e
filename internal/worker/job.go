package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/trace"
)

// job is one delivery of one request. It is used by one goroutine.
type job struct {
	*tenant
	store   *record.Store
	m       consume.Message
	req     request.Request
	key     string
	started time.Time
	trace   *trace.Delivery // nil: none

	// known tells that rec and rev are what the bucket says; on a first
	// delivery they are guessed to be nothing, which the first write proves.
	known bool
	rec   record.Record
	rev   uint64
	// garbled tells that the key holds values of which none is a record; rec is
	// empty then.
	garbled bool
	// renewed tells that a token was rejected and replaced in this delivery.
	renewed bool
}

// Bounds of one delivery.
const (
	// patience is how often a message waits for another one with the same id
	// before it looks whether that one still exists.
	patience = 5
	// maxTurns bounds how often a delivery starts over because the record was
	// changed by another, or the token replaced.
	maxTurns = 6
	// writeBefore bounds the record write before a call. After a call there is
	// no bound but the end of the process: what happened must be written down.
	writeBefore = 30 * time.Second
	// fuseWait is how long a request stays away that a blown fuse has sent back.
	fuseWait = 10 * time.Second
	// troubleWait is the wait after a failure of NATS itself.
	troubleWait = 5 * time.Second
)

// run works on the request until its message can be given back or acknowledged.
func (j *job) run(intake, work context.Context, invalid error) consume.Disposition {
	if j.store == nil {
		return consume.Back(troubleWait)
	}
	if j.tracer != nil {
		j.trace = j.tracer.Receive(j.message())
		defer j.trace.End()
	}
	if invalid != nil {
		return j.refuse(work, invalid)
	}
	for range maxTurns {
		if intake.Err() != nil {
			return consume.Back(0)
		}
		if !j.known && j.m.Delivered > 1 {
			if err := j.load(work); err != nil {
				return j.trouble(err)
			}
		}
		now := time.Now()
		expired := j.expired(now)
		p := planFor(facts{rec: j.rec, self: j.origin(), garbled: j.garbled, idGiven: j.req.IDGiven,
			expired: expired, expires: j.expires()}, j.policy, now)
		cooling := j.fuse.cooling(j.req.DeviceID, j.req.ID, now)
		if !j.known && (p.step == stepExpire || p.step == stepAttempt && !cooling.IsZero()) {
			// A dead letter is published before its record: it must be certain
			// that the request was not accepted by an earlier message.
			if err := j.load(work); err != nil {
				return j.trouble(err)
			}
			continue
		}
		switch p.step {
		case stepAck:
			return consume.Ack()
		case stepDuplicate:
			j.metrics.Request(metrics.OutcomeDuplicate, time.Since(j.published()))
			j.verdict("duplicate: the request was accepted before", j.rec)
			return consume.Ack()
		case stepWait:
			if !j.rec.Same(j.origin()) && j.m.Delivered > patience {
				adopted, err := j.adopt(work)
				if err != nil {
					return j.trouble(err)
				}
				if adopted {
					continue
				}
			}
			return j.backAt(p.until, j.rec.Same(j.origin()))
		case stepGarbled:
			if d, done := j.waitGarbled(work, p.until); done {
				return d
			}
		case stepGiveUp:
			if d, done := j.giveUp(work, "its time is over"); done {
				return d
			}
		case stepExpire:
			if d, done := j.bury(work, metrics.ReasonExpired, j.expiredDetail(now)); done {
				return d
			}
		case stepBury:
			if d, done := j.bury(work, metrics.Reason(j.rec.Reason), j.rec.Detail); done {
				return d
			}
		case stepOrphan:
			at := j.policy.verifyAt(j.rec.AttemptedAt)
			if err := j.update(work, func(r *record.Record) {
				r.State, r.NextAt = record.Verifying, at
				r.MarkUnknown()
				r.Detail = "the worker that made the call is gone, so its outcome is unknown"
			}); err != nil && !errors.Is(err, record.ErrConflict) {
				return j.trouble(err)
			}
		case stepVerify:
			if d, done := j.verify(intake, work); done {
				return d
			}
		case stepAttempt:
			if !cooling.IsZero() {
				if d, done := j.bury(work, metrics.ReasonCooldown, j.coolingDetail(now.Sub(cooling))); done {
					return d
				}
				continue
			}
			if until, blown := j.fused(now); blown {
				return j.backAt(until, false)
			}
			if d, done := j.attempt(intake, work); done {
				return d
			}
		}
	}
	return j.backAt(time.Now().Add(otherMin), false)
}

// fused tells whether the fuse lets a reset begin, and else when the request
// should come again.
func (j *job) fused(now time.Time) (until time.Time, blown bool) {
	ok, news := j.fuse.admit(j.req.DeviceID, now)
	if news {
		j.log.Error("hold: the fuse has blown: one more device would be too many; worker resume releases it",
			zap.String("cause", string(metrics.CauseFuse)), zap.Int("devices", j.fuse.limit.N), zap.Duration("within", j.fuse.limit.W))
		j.showHold()
	}
	return now.Add(fuseWait), !ok
}

// published is when the stream stored the message, by this machine's clock.
func (j *job) published() time.Time { return j.clock.local(j.m.Published) }

// origin is what the record of this very message says of where it came from.
func (j *job) origin() record.Record {
	return record.Record{Stream: j.m.Stream, Sequence: j.m.Sequence, ReceivedAt: j.m.Published.UTC()}
}

// begun is the record of this request as it is before its first attempt.
func (j *job) begun() record.Record {
	r := j.origin()
	r.ID, r.Tenant, r.ManagedDeviceID = j.req.ID, j.name, j.req.DeviceID
	r.Worker = j.host
	r.RequestedBy, r.RequestReason, r.Traceparent = j.req.RequestedBy, j.req.Reason, j.req.Traceparent
	return r
}

// base is the record to go on from: the present one, or a new one where that
// is about an earlier message. Of an id that has died the new one keeps what the
// next look has to know, which messages have ended, and counts that it is
// taken up again.
func (j *job) base() record.Record {
	if j.rec.State != record.None && j.rec.Same(j.origin()) {
		return j.rec
	}
	r := j.begun()
	if j.rec.State == record.Dead && j.req.IDGiven {
		r.Ended, r.Redrives = j.rec.Ended, j.rec.Redrives+1
		if r.UnknownSince = j.rec.UnknownFrom(); !r.UnknownSince.IsZero() {
			r.AttemptedAt, r.ClientRequestID = j.rec.AttemptedAt, j.rec.ClientRequestID
			r.AbsentSince = j.rec.AbsentSince
			r.Status, r.GraphRequestID = j.rec.Status, j.rec.GraphRequestID
		}
	}
	if j.garbled {
		r.UnknownSince = j.published() // it may have been called at any time since
	}
	return r
}

func (j *job) load(ctx context.Context) error {
	r, rev, err := j.store.Get(ctx, j.key)
	if j.garbled = errors.Is(err, record.ErrGarbled); err != nil && !j.garbled {
		return err
	}
	j.rec, j.rev, j.known = j.clock.read(r), rev, true
	return nil
}

// put writes the record as the next revision. from is the state it comes from:
// none, where it begins anew over the record of an earlier message.
func (j *job) put(ctx context.Context, from record.State, r record.Record) error {
	if !from.CanBecome(r.State) {
		return fmt.Errorf("a record cannot go from %q to %q", from, r.State)
	}
	r.Worker = j.host
	rev, err := j.store.Put(ctx, j.key, j.clock.written(r), j.rev)
	if errors.Is(err, record.ErrConflict) {
		j.known = false
		j.rec, j.rev = record.Record{}, 0
		if loadErr := j.load(ctx); loadErr != nil {
			return loadErr
		}
		return record.ErrConflict
	}
	if err != nil {
		return err
	}
	j.rec, j.rev, j.known, j.garbled = r, rev, true, false
	return nil
}

// update changes the present record.
func (j *job) update(ctx context.Context, change func(*record.Record)) error {
	r := j.rec
	change(&r)
	return j.put(ctx, j.rec.State, r)
}

// settle writes down what became of the attempt that this job has made. Should
// another worker have touched the record meanwhile, what was seen here still
// counts as long as the record is about the same attempt.
func (j *job) settle(ctx context.Context, change func(*record.Record)) error {
	made := j.rec
	for {
		err := j.update(ctx, change)
		if !errors.Is(err, record.ErrConflict) {
			return err
		}
		switch {
		case j.rec.State == record.None:
			// The record was lost with its bucket; what is known is not.
			r := made
			change(&r)
			if err := j.put(ctx, record.None, r); !errors.Is(err, record.ErrConflict) {
				return err
			}
		case j.rec.ClientRequestID != made.ClientRequestID || !j.rec.State.InProgress() || j.rec.Burying:
			return record.ErrConflict
		}
	}
}

// adopt takes over the record of a request in progress whose own message is no
// longer on the stream, because somebody removed it: nobody else would ever
// bring that request to its end. It tells whether it did.
func (j *job) adopt(ctx context.Context) (bool, error) {
	there, err := j.exists(ctx, j.rec.Stream, j.rec.Sequence, j.rec.ReceivedAt)
	if there || err != nil {
		return false, err
	}
	if !j.req.IDGiven {
		// Not even the request is the same: it had the sequence on an earlier
		// stream of this name.
		j.rec = record.Record{}
		return true, nil
	}
	err = j.update(ctx, func(r *record.Record) {
		o := j.origin()
		r.Stream, r.Sequence, r.ReceivedAt = o.Stream, o.Sequence, o.ReceivedAt
		r.Burying = false
		if r.State == record.Attempting {
			r.State, r.NextAt = record.Verifying, j.policy.verifyAt(r.AttemptedAt)
			r.MarkUnknown()
		}
	})
	if errors.Is(err, record.ErrConflict) {
		return true, nil // it has moved on by itself: look again
	}
	return err == nil, err
}

// expires is when the request's time is over, by this machine's clock; zero:
// never.
func (j *job) expires() (at time.Time) {
	if !j.req.NotAfter.IsZero() {
		at = j.clock.local(j.req.NotAfter) // the publisher means the time of day, not this machine's clock
	}
	if j.policy.MaxAge > 0 {
		if old := j.published().Add(j.policy.MaxAge); at.IsZero() || old.Before(at) {
			at = old
		}
	}
	return at
}

// expired reports whether the request's time is over.
func (j *job) expired(now time.Time) bool {
	at := j.expires()
	return !at.IsZero() && now.After(at)
}

// expiry says why the request is too old.
func (j *job) expiry(now time.Time) string {
	if !j.req.NotAfter.IsZero() && now.After(j.clock.local(j.req.NotAfter)) {
		return "notAfter " + j.req.NotAfter.Format(time.RFC3339) + " is over"
	}
	return fmt.Sprintf("published %s ago, more than %s", now.Sub(j.published()).Round(time.Second), j.policy.MaxAge)
}

// expiredDetail also tells what kept the request waiting.
func (j *job) expiredDetail(now time.Time) string {
	detail := j.expiry(now)
	if j.rec.Same(j.origin()) && j.rec.Detail != "" {
		detail += "; last: " + j.rec.Detail
	}
	return detail
}

func (j *job) coolingDetail(ago time.Duration) string {
	return fmt.Sprintf("another request has reset the device %s ago, less than %s", ago.Round(time.Second), j.fuse.cooldown)
}

// ready brings together what a call needs: leave of the hold, a token and, unless
// it can only be a look, a slot of the pacer. If it fails, d is what becomes of
// the message.
func (j *job) ready(intake context.Context, mayCall bool) (c ready, d consume.Disposition, ok bool) {
	p, until := j.hold.admit(j.m.Sequence, time.Now())
	if !until.IsZero() {
		return c, j.backAt(until, false), false
	}
	c.pass = p
	token, err := j.tokens.Get(intake)
	if err == nil && p.Probe && p.Cause == metrics.CausePermission {
		// A permission granted since is only in a token issued since.
		token, err = j.tokens.Renew(intake, token, "")
	}
	if intake.Err() != nil {
		j.hold.end(j.m.Sequence)
		return c, consume.Back(0), false
	}
	if err != nil {
		return c, j.tokenFailed(err), false
	}
	c.token = token
	if mayCall {
		if c.slot, d, ok = j.slot(intake); !ok {
			j.hold.end(j.m.Sequence)
			return c, d, false
		}
	}
	return c, d, true
}

// slot is a place in the quota of calls. If there is none, d is what becomes of
// the message.
func (j *job) slot(intake context.Context) (s *pace.Slot, d consume.Disposition, ok bool) {
	s, err := j.pacer.Reserve(intake)
	if wait := (*pace.Wait)(nil); errors.As(err, &wait) {
		return nil, j.backAt(wait.Until, false), false
	}
	return s, consume.Back(0), err == nil
}

type ready struct {
	pass  pass
	slot  *pace.Slot // nil for a look that decides nothing
	token graph.Token
	// looked is when the look was answered that allows this attempt; zero where
	// it needs none.
	looked time.Time
}

// allows reports whether the look that allows the attempt is recent enough.
func (c ready) allows(now time.Time) bool {
	return c.looked.IsZero() || now.Sub(c.looked) <= lookLasts
}

func (c ready) release() {
	if c.slot != nil {
		c.slot.Release()
	}
}

// call is one call that begins now.
func (j *job) call(intake context.Context, c ready, began time.Time) graph.Call {
	return graph.Call{
		Token:           c.token,
		ClientRequestID: uuid.NewString(),
		Deadline:        began.Add(j.policy.RequestTimeout),
		May: func() bool {
			_, closed := j.closed(intake)
			now := time.Now()
			return !closed && !j.expired(now) && c.allows(now)
		},
	}
}

// closed tells, as the last thing before a call, whether it may not be sent
// after all, and when the request should come again.
func (j *job) closed(intake context.Context) (until time.Time, closed bool) {
	if intake.Err() != nil {
		return time.Time{}, true
	}
	if until := j.pacer.Paused(); !until.IsZero() {
		return until, true
	}
	if open, until := j.hold.open(j.m.Sequence); !open {
		return until, true
	}
	return time.Time{}, false
}

// tokenFailed begins a hold: without a token nothing can be called.
func (j *job) tokenFailed(err error) consume.Disposition {
	var wait time.Duration
	if e := (*graph.Error)(nil); errors.As(err, &e) {
		wait = e.RetryAfter
	}
	return j.backAt(j.begin(j.m, metrics.CauseCredentials, err, wait), false)
}

// renew replaces a rejected token, once per delivery. ok tells that there is
// another to try with.
func (j *job) renew(work context.Context, token graph.Token, e *graph.Error) (ok bool, err error) {
	if j.renewed {
		return false, nil
	}
	j.renewed = true
	_, err = j.tokens.Renew(work, token, e.Claims)
	return err == nil, err
}

// backAt gives the message back until an instant. retrying tells that it will
// be tried again then, rather than waits for its first turn.
func (j *job) backAt(at time.Time, retrying bool) consume.Disposition {
	if retrying {
		j.wait(j.m.Sequence, at)
	}
	return consume.Back(time.Until(at))
}

// trouble gives the message back after a failure of NATS.
func (j *job) trouble(err error) consume.Disposition {
	j.log.Error("the request was given back: its record could not be read or written",
		zap.String("request_id", j.req.ID), zap.String("device", j.req.DeviceID), zap.Error(err))
	return consume.Back(troubleWait)
}
