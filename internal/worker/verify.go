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
	// The slot is for the attempt that may follow: Graph's limit for reading is
	// another, ten times as high.
	c, d, ok := j.ready(intake)
	if !ok {
		return d, true
	}
	defer j.hold.end(j.m.Sequence)
	defer c.slot.Release()
	sent := time.Now()
	call := j.call(intake, c, sent)
	call.May = func() bool {
		_, closed := j.closed(intake)
		return !closed
	}
	actions, err := j.graph.Actions(work, j.rec.ManagedDeviceID, call)
	if errors.Is(err, graph.ErrHeldBack) {
		until, _ := j.closed(intake)
		return j.backAt(until, true), true
	}
	var e *graph.Error
	if err != nil && !errors.As(err, &e) {
		e = &graph.Error{Kind: graph.Unknown, Err: err}
	}
	look := graph.Finding{}
	if err == nil {
		j.hold.read(j.m.Sequence)
		look = graph.ResetSince(actions.List, j.rec.AttemptedAt.Add(actions.Ahead-clockGrace))
		if look.Sight == graph.SightDoubt {
			e = &graph.Error{Kind: graph.Unknown, Status: actions.Status, RequestID: actions.RequestID, Benign: true, Err: errors.New(look.Doubt)}
		}
	}
	if j.trace != nil {
		j.trace.Verify(traced(sent, j.rec.Attempts, call, actions.Answer, e))
	}
	switch look.Sight {
	case graph.SightReset:
		j.metrics.Verification(metrics.VerificationExecuted)
		j.ended(j.hold.accepted(0, time.Now()))
		return j.accepted(work, func(r *record.Record) { r.Verified = true }), true
	case graph.SightNone:
		j.metrics.Verification(metrics.VerificationNotExecuted)
		return j.notExecuted(intake, work, c, expired)
	}
	return j.unread(intake, work, c, sent, expired, e)
}

// notExecuted goes on with a request whose last call had no effect. That it
// could be read is no sign that an outage is over: the next call will tell.
func (j *job) notExecuted(intake, work context.Context, c ready, expired bool) (consume.Disposition, bool) {
	if expired {
		return j.bury(work, metrics.ReasonExpired, j.expiredDetail(time.Now()))
	}
	// A probe is made for everybody's sake, so it is not held against this one.
	if j.policy.exhausted(j.rec) && j.rec.State == record.Verifying && !c.pass.Probe {
		return j.bury(work, metrics.ReasonAttemptsExhausted, j.rec.Detail)
	}
	// The wait is counted from the attempt; looking it up has taken some of it.
	at := j.rec.AttemptedAt.Add(j.policy.backoff(j.rec.Attempts-j.rec.HeldAttempts, j.rec.ClientRequestID))
	if j.rec.State == record.Verifying && time.Now().Before(at) {
		return j.verifyLater(work, at), true
	}
	return j.post(intake, work, c)
}

// unread goes on with a request whose outcome could not be read.
func (j *job) unread(intake, work context.Context, c ready, sent time.Time, expired bool, e *graph.Error) (consume.Disposition, bool) {
	pause := j.pause(nil, sent, e)
	switch e.Kind {
	case graph.Throttled, graph.Unavailable:
		j.metrics.Verification(metrics.VerificationFailed)
		if e.Kind == graph.Unavailable {
			j.outage(e)
		}
		return j.verifyLater(work, pause), true
	case graph.Unauthorized:
		ok, err := j.renew(work, c.token, e)
		if ok {
			return consume.Disposition{}, false
		}
		if err == nil && (expired || j.hold.ownFault(j.m.Sequence, 0, time.Now())) {
			j.metrics.Verification(metrics.VerificationNotPermitted)
			return j.notPermitted(intake, work, c, expired, e)
		}
		if err == nil {
			err = e
		}
		j.metrics.Verification(metrics.VerificationFailed)
		return j.verifyLater(work, j.begin(j.m, metrics.CauseCredentials, err, tokenWait(err))), true
	case graph.Forbidden:
		// A token that says that it may read, or one that may not even reset,
		// is refused for more than this reading, unless others get through.
		everybody := c.pass.Cause == metrics.CausePermission || mayRead(c.token)
		if everybody && !expired && !j.hold.ownFault(j.m.Sequence, c.token.Generation, time.Now()) {
			j.metrics.Verification(metrics.VerificationFailed)
			return j.verifyLater(work, j.begin(j.m, metrics.CausePermission, e, 0)), true
		}
		j.metrics.Verification(metrics.VerificationNotPermitted)
		return j.notPermitted(intake, work, c, expired, e)
	case graph.Refused:
		j.metrics.Verification(metrics.VerificationFailed)
		if e.Status == 404 {
			// There is no device any more that could be asked about, or reset.
			return j.bury(work, metrics.ReasonNotFound, "the device is gone, and so is what became of the call; "+e.Error())
		}
		return j.notPermitted(intake, work, c, expired, e)
	}
	j.metrics.Verification(metrics.VerificationFailed)
	times, held := j.outage(e)
	refused := e.Benign && e.Kind == graph.NotSent // it can be asked again at once
	if held.IsZero() && expired && !refused {
		return j.bury(work, metrics.ReasonOutcomeUnknown,
			"the call may have reset the device, and its outcome could not be read in time: "+e.Error())
	}
	if held.IsZero() {
		wait := j.policy.backoff(times, j.rec.ClientRequestID)
		if e.Benign && !refused {
			wait = max(wait, j.policy.VerifyAfter) // a doubt that Graph has to clear up
		}
		held = time.Now().Add(wait)
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
func (j *job) notPermitted(intake, work context.Context, c ready, expired bool, e *graph.Error) (consume.Disposition, bool) {
	if j.policy.OnUnknown == UnknownRetry {
		return j.notExecuted(intake, work, c, expired)
	}
	detail := j.rec.Detail
	if j.rec.State != record.Dead {
		detail = "the call may have reset the device (" + detail + "), and the outcome may not be read: " + e.Error()
	}
	return j.bury(work, metrics.ReasonOutcomeUnknown, detail)
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
