package worker

import (
	"context"
	"errors"
	"time"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
)

// clockGrace is what an action may seem to have begun before its attempt: the
// Date header, which tells the clocks' difference, is cut to whole seconds.
const clockGrace = 2 * time.Second

// readPermissions are those under which a device can be read.
var readPermissions = [...]string{
	"DeviceManagementManagedDevices.Read.All",
	"DeviceManagementManagedDevices.ReadWrite.All",
}

// verify reads from Graph what became of the last call. done is false where
// the delivery has to be looked at again: it may be attempted once more now.
//
// A further attempt always follows at once on the reading that allowed it, so
// that as little time as possible is left for a late effect of the last call.
func (j *job) verify(intake, work context.Context, expired bool) (d consume.Disposition, done bool) {
	c, d, ok := j.ready(intake, pass{})
	if !ok {
		return d, true
	}
	defer j.hold.end(j.m.Sequence)
	defer c.slot.Release()
	if until, closed := j.closed(intake); closed {
		return j.backAt(until, true), true
	}
	sent := time.Now()
	c.call.Deadline = sent.Add(j.policy.RequestTimeout)
	actions, err := j.graph.Actions(work, j.rec.ManagedDeviceID, c.call)
	c.slot.Done()
	if err == nil {
		if executed(actions, j.rec.AttemptedAt) {
			j.metrics.Verification(metrics.VerificationExecuted)
			j.ended(j.hold.accepted(0, time.Now()))
			return j.accepted(work, func(r *record.Record) { r.Verified = true }), true
		}
		j.metrics.Verification(metrics.VerificationNotExecuted)
		return j.notExecuted(intake, work, c.pass, expired)
	}
	var e *graph.Error
	if !errors.As(err, &e) {
		e = &graph.Error{Kind: graph.Unknown, Err: err}
	}
	return j.unread(intake, work, c, sent, expired, e)
}

// executed tells whether a reset began at or after the attempt.
func executed(a graph.Actions, attempted time.Time) bool {
	since := attempted.Add(a.Ahead - clockGrace)
	for _, reset := range a.Resets {
		if !reset.Started.Before(since) {
			return true
		}
	}
	return false
}

// notExecuted goes on with a request whose last call had no effect. That it
// could be read is no sign that an outage is over: the next call will tell.
func (j *job) notExecuted(intake, work context.Context, p pass, expired bool) (consume.Disposition, bool) {
	if expired {
		return j.bury(work, metrics.ReasonExpired, j.expiredDetail(time.Now())), true
	}
	if j.policy.exhausted(j.rec) && j.rec.State == record.Verifying {
		return j.bury(work, metrics.ReasonAttemptsExhausted, j.rec.Detail), true
	}
	// The wait is counted from the attempt; looking it up has taken some of it.
	at := j.rec.AttemptedAt.Add(j.policy.backoff(j.rec.Attempts-j.rec.HeldAttempts, j.rec.ClientRequestID))
	if j.rec.State == record.Verifying && time.Now().Before(at) {
		return j.verifyLater(work, at), true
	}
	return j.attempt(intake, work, p)
}

// unread goes on with a request whose outcome could not be read.
func (j *job) unread(intake, work context.Context, c ready, sent time.Time, expired bool, e *graph.Error) (consume.Disposition, bool) {
	switch e.Kind {
	case graph.Throttled, graph.Unavailable:
		j.metrics.Verification(metrics.VerificationFailed)
		until := j.pause(sent, e)
		if e.Kind == graph.Unavailable {
			j.outage(e)
		}
		return j.verifyLater(work, until), true
	case graph.Unauthorized:
		ok, err := j.renew(work, c.call.Token, e)
		if ok {
			return consume.Disposition{}, false
		}
		if err == nil {
			err = e
		}
		j.metrics.Verification(metrics.VerificationFailed)
		return j.verifyLater(work, j.begin(j.m, metrics.CauseCredentials, err, tokenWait(err))), true
	case graph.Forbidden:
		if c.pass.Cause == metrics.CausePermission || mayRead(c.call.Token) {
			// What is refused is not just this reading.
			j.metrics.Verification(metrics.VerificationFailed)
			return j.verifyLater(work, j.begin(j.m, metrics.CausePermission, e, 0)), true
		}
		j.metrics.Verification(metrics.VerificationNotPermitted)
		return j.notPermitted(intake, work, c.pass, expired)
	case graph.Refused:
		if e.Status == 404 {
			// The device is gone. If there is anything to be said about it, a
			// further attempt says it.
			j.metrics.Verification(metrics.VerificationNotExecuted)
			return j.notExecuted(intake, work, c.pass, expired)
		}
		j.metrics.Verification(metrics.VerificationFailed)
		return j.notPermitted(intake, work, c.pass, expired)
	}
	j.metrics.Verification(metrics.VerificationFailed)
	times, held := j.outage(e)
	if held.IsZero() && expired {
		return j.bury(work, metrics.ReasonOutcomeUnknown,
			"the call may have reset the device, and its outcome could not be read in time: "+e.Error()), true
	}
	if held.IsZero() {
		held = time.Now().Add(j.policy.backoff(times, c.call.ClientRequestID))
	}
	return j.verifyLater(work, held), true
}

func mayRead(t graph.Token) bool {
	for _, p := range readPermissions {
		if t.Has(p) == graph.PermissionGranted {
			return true
		}
	}
	return false
}

// notPermitted decides about a request whose outcome cannot be read.
func (j *job) notPermitted(intake, work context.Context, p pass, expired bool) (consume.Disposition, bool) {
	if j.policy.OnUnknown == UnknownRetry {
		return j.notExecuted(intake, work, p, expired)
	}
	return j.bury(work, metrics.ReasonOutcomeUnknown,
		"the call may have reset the device, and the application may not read the outcome; last: "+j.rec.Detail), true
}

// verifyLater gives the request back until its outcome can be read again.
func (j *job) verifyLater(work context.Context, at time.Time) consume.Disposition {
	if j.rec.State == record.Verifying {
		err := j.update(work, func(r *record.Record) { r.NextAt = at.UTC() })
		if err != nil && !errors.Is(err, record.ErrConflict) {
			return j.trouble(err)
		}
	}
	return j.backAt(at, true)
}
