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
func (j *job) attempt(intake, work context.Context) (d consume.Disposition, done bool) {
	c, d, ok := j.ready(intake)
	if !ok {
		return d, true
	}
	defer j.hold.end(j.m.Sequence)
	defer c.slot.Release()
	return j.post(intake, work, c)
}

// post is the attempt of a request that is ready for it.
func (j *job) post(intake, work context.Context, c ready) (d consume.Disposition, done bool) {
	before := j.base()
	r := before
	r.State, r.Reason, r.Detail, r.Burying = record.Attempting, "", "", false
	r.Attempts++
	r.AttemptedAt, r.NextAt, r.FinishedAt = time.Now().UTC(), time.Time{}, time.Time{}
	call := j.call(intake, c, r.AttemptedAt)
	r.ClientRequestID, r.GraphRequestID, r.Status, r.Verified = call.ClientRequestID, "", 0, false
	write, cancel := context.WithTimeout(work, writeBefore)
	err := j.put(write, before.State, r)
	cancel()
	if err != nil {
		if errors.Is(err, record.ErrConflict) {
			return d, false
		}
		return j.trouble(err), true
	}

	sent := time.Now()
	answer, err := j.graph.Reset(work, graph.Target{Device: j.req.DeviceID, User: j.req.UserID, App: j.req.AppID}, call)
	if errors.Is(err, graph.ErrHeldBack) {
		return j.notSent(intake, work, before)
	}
	var failure *graph.Error
	if err != nil && !errors.As(err, &failure) {
		failure = &graph.Error{Kind: graph.Unknown, Err: err}
	}
	if j.trace != nil {
		j.trace.Attempt(traced(sent, r.Attempts, call, answer, failure))
	}
	if err == nil {
		c.slot.Accepted()
		return j.accept(work, c.token, answer), true
	}
	return j.failed(work, c, before, sent, failure)
}

// notSent takes back an attempt that was not made after all: something has come
// up between the record and the call.
func (j *job) notSent(intake, work context.Context, before record.Record) (consume.Disposition, bool) {
	until, closed := j.closed(intake)
	err := j.settle(work, func(r *record.Record) {
		takeBack(r, before)
		r.AttemptedAt, r.ClientRequestID, r.Detail = before.AttemptedAt, before.ClientRequestID, before.Detail
		r.Status, r.GraphRequestID = before.Status, before.GraphRequestID
	})
	if err != nil && !errors.Is(err, record.ErrConflict) {
		return j.trouble(err), true
	}
	if closed {
		return j.backAt(until, false), true
	}
	return consume.Disposition{}, false
}

// takeBack makes an attempt one that does not count. If it followed on one of
// unknown outcome, that one is to be looked up again before the next.
func takeBack(r *record.Record, before record.Record) {
	r.State, r.Attempts, r.NextAt = record.Retrying, before.Attempts, time.Time{}
	if before.State == record.Verifying {
		r.State, r.AttemptedAt = record.Verifying, before.AttemptedAt
	}
}

// accept ends the request: Graph has taken the reset.
func (j *job) accept(work context.Context, token graph.Token, answer graph.Answer) consume.Disposition {
	j.metrics.Attempt(metrics.ResultAccepted)
	j.tokens.Accepted()
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
	j.fuse.accepted(j.req.DeviceID, j.req.ID, j.rec.FinishedAt)
	if err == nil {
		j.metrics.Request(metrics.OutcomeAccepted, time.Since(j.published()))
		j.verdict("accepted", j.rec)
	}
	return consume.Ack()
}

// failed decides what a failed call means. This is the verdict table.
func (j *job) failed(work context.Context, c ready, before record.Record, sent time.Time, e *graph.Error) (consume.Disposition, bool) {
	switch e.Kind {
	case graph.Refused, graph.Forbidden:
		c.slot.Accepted() // Graph's quota has let it in
	case graph.Throttled:
		// The pause tells the pacer.
	default:
		c.slot.Done()
	}
	pause := j.pause(c.slot, sent, e)
	switch e.Kind {
	case graph.Throttled:
		j.metrics.Attempt(metrics.ResultThrottled)
		j.ended(j.hold.answered(false))
		return j.again(work, before, pause, e), true
	case graph.Unavailable:
		j.metrics.Attempt(metrics.ResultUnavailable)
		j.outage(e)
		return j.again(work, before, pause, e), true
	case graph.NotSent:
		j.metrics.Attempt(metrics.ResultUnavailable)
		times, held := j.outage(e)
		if held.IsZero() {
			held = time.Now().Add(j.policy.backoff(times, j.rec.ClientRequestID))
		}
		return j.again(work, before, held, e), true
	case graph.Refused:
		j.metrics.Attempt(metrics.ResultRefused)
		j.ended(j.hold.answered(true))
		return j.refused(work, refusalReason(e.Status), e)
	case graph.Unauthorized:
		j.metrics.Attempt(metrics.ResultUnauthorized)
		ok, err := j.renew(work, c.token, e)
		if err != nil {
			return j.again(work, before, j.begin(j.m, metrics.CauseCredentials, err, tokenWait(err)), e), true
		}
		if ok {
			return j.atOnce(work, before, e)
		}
		if j.hold.ownFault(j.m.Sequence, 0, time.Now()) {
			return j.refused(work, metrics.ReasonUnauthorized, e)
		}
		return j.again(work, before, j.begin(j.m, metrics.CauseCredentials, e, 0), e), true
	case graph.Forbidden:
		j.metrics.Attempt(metrics.ResultRefused)
		j.ended(j.hold.answered(true))
		if j.hold.ownFault(j.m.Sequence, c.token.Generation, time.Now()) {
			return j.refused(work, metrics.ReasonForbidden, e)
		}
		if c.token.Has(graph.ResetPermission) == graph.PermissionMissing {
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
// may go. A failure that is no such sign counts as the first.
func (j *job) outage(e *graph.Error) (times int, held time.Time) {
	if e.Benign {
		return 1, time.Time{}
	}
	times, isOutage := j.hold.outageSign(j.m.Sequence, e.Kind != graph.NotSent)
	if isOutage {
		held = j.begin(j.m, metrics.CauseGraphUnavailable, e, e.RetryAfter)
	}
	return times, held
}

// atOnce makes another attempt follow in the same delivery.
func (j *job) atOnce(work context.Context, before record.Record, e *graph.Error) (consume.Disposition, bool) {
	err := j.settle(work, func(r *record.Record) {
		takeBack(r, before)
		r.Status, r.GraphRequestID, r.Detail = e.Status, e.RequestID, e.Error()
	})
	if err != nil && !errors.Is(err, record.ErrConflict) {
		return j.trouble(err), true
	}
	return consume.Disposition{}, false
}

// again gives the request back after a refusal that does not count.
func (j *job) again(work context.Context, before record.Record, until time.Time, e *graph.Error) consume.Disposition {
	err := j.settle(work, func(r *record.Record) {
		takeBack(r, before)
		r.NextAt = until.UTC()
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
func (j *job) refused(work context.Context, reason metrics.Reason, e *graph.Error) (consume.Disposition, bool) {
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
	if j.store == nil {
		return d
	}
	if err := j.load(work); err != nil {
		return j.trouble(err)
	}
	if j.rec.State.InProgress() && !j.rec.Same(j.origin()) || j.rec.State == record.Accepted {
		return d // another message's business
	}
	r := j.base()
	from := r.State
	r.Panics++
	if r.Panics >= j.policy.MaxAttempts {
		j.rec.Panics = r.Panics
		if d, done := j.bury(work, metrics.ReasonUndeliverable, "handling the request panicked too often; the log holds the stacks"); done {
			return d
		}
		return d
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
	if err := j.put(work, from, r); err != nil && !errors.Is(err, record.ErrConflict) {
		return j.trouble(err)
	}
	return j.backAt(at, true)
}
