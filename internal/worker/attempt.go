package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
)

// attempt makes one call: record, call, record. done is false where the
// delivery has to be looked at again, because the record was changed by
// another or a rejected token was replaced.
func (j *job) attempt(intake, work context.Context, p pass) (d consume.Disposition, done bool) {
	c, d, ok := j.ready(intake, p)
	if !ok {
		return d, true
	}
	defer j.hold.end(j.m.Sequence)
	defer c.slot.Release()

	before := j.base()
	r := before
	r.State, r.Reason, r.Detail = record.Attempting, "", ""
	r.Attempts++
	r.AttemptedAt, r.NextAt, r.FinishedAt = time.Now().UTC(), time.Time{}, time.Time{}
	r.ClientRequestID, r.GraphRequestID, r.Status, r.Verified = c.call.ClientRequestID, "", 0, false
	write, cancel := context.WithTimeout(work, writeBefore)
	err := j.put(write, r)
	cancel()
	if err != nil {
		if errors.Is(err, record.ErrConflict) {
			return d, false
		}
		return j.trouble(err), true
	}

	until, closed := j.closed(intake)
	if expired := j.expiry(time.Now()); closed || expired != "" {
		if err := j.uncounted(work, before, until, ""); err != nil {
			return j.trouble(err), true
		}
		if closed {
			return j.backAt(until, false), true
		}
		return d, false
	}
	c.call.Deadline = r.AttemptedAt.Add(j.policy.RequestTimeout)
	sent := time.Now()
	answer, err := j.graph.Reset(work, graph.Target{Device: j.req.DeviceID, User: j.req.UserID, App: j.req.AppID}, c.call)
	c.slot.Done()
	if err == nil {
		return j.accept(work, c.call.Token, answer), true
	}
	var failure *graph.Error
	if !errors.As(err, &failure) {
		failure = &graph.Error{Kind: graph.Unknown, Err: err}
	}
	return j.failed(work, c, before, sent, failure)
}

// accept ends the request: Graph has taken the reset.
func (j *job) accept(work context.Context, token graph.Token, answer graph.Answer) consume.Disposition {
	j.metrics.Attempt(metrics.ResultAccepted)
	j.pacer.Accepted()
	j.ended(j.hold.accepted(token.Generation, time.Now()))
	return j.accepted(work, func(r *record.Record) {
		r.Status, r.GraphRequestID = answer.Status, answer.RequestID
	})
}

// accepted writes down that the reset was taken, and acknowledges.
func (j *job) accepted(work context.Context, change func(*record.Record)) consume.Disposition {
	err := j.settle(work, func(r *record.Record) {
		r.State, r.FinishedAt, r.NextAt = record.Accepted, time.Now().UTC(), time.Time{}
		r.Reason, r.Detail = "", ""
		change(r)
	})
	if err != nil && j.rec.State != record.Accepted {
		// The record still says that an attempt was made. Whoever gets the
		// message next will find out what became of it.
		return j.trouble(err)
	}
	if err == nil {
		j.metrics.Request(metrics.OutcomeAccepted, time.Since(j.m.Published))
		j.verdict("accepted", j.rec)
	}
	return consume.Ack()
}

// failed decides what a failed call means. This is the verdict table.
func (j *job) failed(work context.Context, c ready, before record.Record, sent time.Time, e *graph.Error) (consume.Disposition, bool) {
	switch e.Kind {
	case graph.Throttled:
		j.metrics.Attempt(metrics.ResultThrottled)
		j.ended(j.hold.answered(false))
		return j.again(work, before, j.pause(sent, e), e), true
	case graph.Unavailable:
		j.metrics.Attempt(metrics.ResultUnavailable)
		until := j.pause(sent, e)
		j.outage(e)
		return j.again(work, before, until, e), true
	case graph.NotSent:
		j.metrics.Attempt(metrics.ResultUnavailable)
		times, held := j.outage(e)
		if held.IsZero() {
			held = time.Now().Add(j.policy.backoff(times, c.call.ClientRequestID))
		}
		return j.again(work, before, held, e), true
	case graph.Refused:
		j.metrics.Attempt(metrics.ResultRefused)
		j.ended(j.hold.answered(true))
		return j.refused(work, refusalReason(e.Status), e), true
	case graph.Unauthorized:
		j.metrics.Attempt(metrics.ResultUnauthorized)
		ok, err := j.renew(work, c.call.Token, e)
		if err != nil {
			return j.again(work, before, j.begin(j.m, metrics.CauseCredentials, err, tokenWait(err)), e), true
		}
		if ok {
			if err := j.uncounted(work, before, time.Time{}, e.Error()); err != nil {
				return j.trouble(err), true
			}
			return consume.Disposition{}, false
		}
		if j.hold.ownFault(j.m.Sequence, 0, time.Now()) {
			return j.refused(work, metrics.ReasonUnauthorized, e), true
		}
		return j.again(work, before, j.begin(j.m, metrics.CauseCredentials, e, 0), e), true
	case graph.Forbidden:
		j.metrics.Attempt(metrics.ResultRefused)
		j.ended(j.hold.answered(true))
		if j.hold.ownFault(j.m.Sequence, c.call.Token.Generation, time.Now()) {
			return j.refused(work, metrics.ReasonForbidden, e), true
		}
		if c.call.Token.Has(graph.ResetPermission) == graph.PermissionMissing {
			e.Message = "the token lacks the permission " + graph.ResetPermission +
				": grant it to the application and give admin consent; " + e.Message
		}
		return j.again(work, before, j.begin(j.m, metrics.CausePermission, e, 0), e), true
	}
	j.metrics.Attempt(metrics.ResultUnknown)
	_, held := j.outage(e)
	return j.unknown(work, !held.IsZero() || c.pass.Probe, e), true
}

func tokenWait(err error) time.Duration {
	if e := (*graph.Error)(nil); errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// refusalReason names the dead letter of a 4xx.
func refusalReason(status int) metrics.Reason {
	switch status {
	case 404:
		return metrics.ReasonNotFound
	case 409:
		return metrics.ReasonConflict
	}
	return metrics.ReasonRejected
}

// outage notes a sign that Graph is down. It returns how often in a row this
// request saw one, and, where the tenant is held for it, when the next probe
// may go.
func (j *job) outage(e *graph.Error) (times int, held time.Time) {
	times, isOutage := j.hold.outageSign(j.m.Sequence)
	if isOutage {
		held = j.begin(j.m, metrics.CauseGraphUnavailable, e, e.RetryAfter)
	}
	return times, held
}

// uncounted writes down that the last call does not count: it was not sent, or
// refused for no fault of the request's.
func (j *job) uncounted(work context.Context, before record.Record, until time.Time, detail string) error {
	err := j.settle(work, func(r *record.Record) {
		r.State, r.Attempts, r.AttemptedAt = record.Retrying, before.Attempts, before.AttemptedAt
		r.NextAt, r.Detail = time.Time{}, detail
		if !until.IsZero() {
			r.NextAt = until.UTC()
		}
	})
	if errors.Is(err, record.ErrConflict) {
		return nil // another worker has gone on with it
	}
	return err
}

// again gives the request back after a refusal that does not count.
func (j *job) again(work context.Context, before record.Record, until time.Time, e *graph.Error) consume.Disposition {
	err := j.settle(work, func(r *record.Record) {
		r.State, r.Attempts, r.NextAt = record.Retrying, before.Attempts, until.UTC()
		r.Status, r.GraphRequestID, r.Reason, r.Detail = e.Status, e.RequestID, e.Kind.String(), e.Error()
	})
	if err != nil && !errors.Is(err, record.ErrConflict) {
		return j.trouble(err)
	}
	j.verdict("retry: "+e.Kind.String(), j.rec)
	return j.backAt(until, true)
}

// unknown gives the request back until it can be found out what the call did.
// held tells that the tenant is held, so that the attempt is not held against
// the request.
func (j *job) unknown(work context.Context, held bool, e *graph.Error) consume.Disposition {
	until := time.Now().Add(j.policy.VerifyAfter)
	err := j.settle(work, func(r *record.Record) {
		r.State, r.NextAt = record.Verifying, until.UTC()
		r.Status, r.GraphRequestID, r.Reason, r.Detail = e.Status, e.RequestID, e.Kind.String(), e.Error()
		if held {
			r.HeldAttempts++
		}
	})
	if err != nil && !errors.Is(err, record.ErrConflict) {
		return j.trouble(err)
	}
	j.verdict("outcome unknown: it will be looked up", j.rec)
	return j.backAt(until, true)
}

// refused makes a dead letter of a request that Graph will never take.
func (j *job) refused(work context.Context, reason metrics.Reason, e *graph.Error) consume.Disposition {
	j.rec.Status, j.rec.GraphRequestID = e.Status, e.RequestID
	return j.bury(work, reason, e.Error())
}

// panicked gives back a request whose handling panicked, or makes a dead letter
// of it once that has happened too often.
func (j *job) panicked(work context.Context, p any, stack []byte) (d consume.Disposition) {
	d = consume.Back(j.policy.BackoffMax)
	defer func() {
		if again := recover(); again != nil {
			j.log.Error("handling a panic panicked", zap.Any("panic", again))
		}
	}()
	j.hold.end(j.m.Sequence)
	j.log.Error("panic while a request was handled", zap.Any("panic", p), zap.ByteString("stack", stack),
		zap.String("request_id", j.req.ID), zap.String("device", j.req.DeviceID))
	if err := j.load(work); err != nil {
		return j.trouble(err)
	}
	if j.rec.State != record.None && !j.rec.Same(j.origin()) {
		return d
	}
	r := j.base()
	r.Panics++
	if r.Panics >= j.policy.MaxAttempts {
		j.rec.Panics = r.Panics
		return j.bury(work, metrics.ReasonUndeliverable, "handling the request panicked too often; the log holds the stacks")
	}
	at := time.Now().Add(j.policy.backoff(r.Panics, r.ClientRequestID))
	switch r.State {
	case record.Attempting:
		// The call may have been sent.
		r.State, at = record.Verifying, j.policy.verifyAt(r.AttemptedAt)
	case record.None:
		r.State = record.Retrying
	}
	r.NextAt, r.Detail = at.UTC(), "handling the request panicked"
	if err := j.put(work, r); err != nil && !errors.Is(err, record.ErrConflict) {
		return j.trouble(err)
	}
	return j.backAt(at, true)
}
