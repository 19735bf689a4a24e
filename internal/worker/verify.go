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

// lookLasts is how old a look may be that allows a further attempt.
const lookLasts = 5 * time.Second

// verify reads from Graph what became of the last call. done is false where
// the delivery has to be looked at again: it may be attempted once more now.
//
// A further attempt always follows at once on the look that allowed it, so
// that as little time as possible is left for a late effect of the last call.
func (j *job) verify(intake, work context.Context) (d consume.Disposition, done bool) {
	// A look itself needs no slot: Graph's limit for reading is another, ten
	// times as high. The attempt that may follow needs one.
	mayCall := j.rec.Refusal == "" && j.policy.lookDecides(j.rec, time.Now()) && !j.expired(time.Now())
	c, d, ok := j.ready(intake, mayCall)
	if !ok {
		return d, true
	}
	defer j.hold.end(j.m.Sequence)
	defer c.release()
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
		look = graph.ResetSince(actions.List, j.rec.UnknownFrom().Add(actions.Ahead-clockGrace))
	}
	if j.trace != nil {
		j.trace.Verify(traced(sent, j.rec.Attempts, call, actions.Answer, e))
	}
	if err != nil {
		return j.unread(intake, work, c, sent, e)
	}
	switch look.Sight {
	case graph.SightReset:
		j.metrics.Verification(metrics.VerificationExecuted)
		j.ended(j.hold.accepted(0, time.Now()))
		return j.accepted(work, func(r *record.Record) { r.Verified = true }), true
	case graph.SightNone:
		j.metrics.Verification(metrics.VerificationNotExecuted)
		j.hold.read(j.m.Sequence)
		return j.notExecuted(intake, work, c, nil)
	}
	j.metrics.Verification(metrics.VerificationFailed)
	j.hold.read(j.m.Sequence)
	wait := max(j.policy.backoff(1, j.rec.ClientRequestID), j.policy.VerifyAfter)
	return j.unclear(work, time.Now().Add(wait), look.Doubt)
}

// notExecuted goes on with a request of which a look has found no reset. gone is
// the answer where that was because the device is no longer there. That it
// could be read is no sign that an outage is over: the next call will tell.
func (j *job) notExecuted(intake, work context.Context, c ready, gone *graph.Error) (consume.Disposition, bool) {
	now := time.Now()
	if j.rec.Refusal != "" {
		return j.bury(work, metrics.Reason(j.rec.Refusal), j.rec.Detail)
	}
	if !j.policy.lookDecides(j.rec, now) {
		// The second look had best be the one that the next attempt follows on.
		since := j.rec.AbsentSince
		if since.IsZero() {
			since = now
		}
		at := since.Add(j.policy.lookAgain())
		if next := j.policy.nextTry(j.rec); next.After(at) && gone == nil && !j.expired(next) {
			at = next
		}
		return j.lookAgain(work, at, func(r *record.Record) { r.AbsentSince = since.UTC() }), true
	}
	switch {
	case gone != nil:
		// There is no device any more that could be asked about, or reset.
		return j.bury(work, metrics.ReasonNotFound, "the device is gone, and so is what became of the call; "+gone.Error())
	case j.expired(now):
		return j.bury(work, metrics.ReasonExpired, j.expiredDetail(now))
	}
	return j.further(intake, work, c, now)
}

// further makes the attempt after one that had no effect, once it is due.
func (j *job) further(intake, work context.Context, c ready, looked time.Time) (consume.Disposition, bool) {
	// A probe is made for everybody's sake, so it is not held against this one.
	if j.policy.exhausted(j.rec) && j.rec.State == record.Verifying && !c.pass.Probe {
		return j.bury(work, metrics.ReasonAttemptsExhausted, j.rec.Detail)
	}
	// The wait is counted from the attempt; looking it up has taken some of it.
	if at := j.policy.nextTry(j.rec); j.rec.State == record.Verifying && looked.Before(at) {
		return j.lookAgain(work, at, nil), true
	}
	if c.slot == nil { // that this look would decide was not foreseen
		slot, d, ok := j.slot(intake)
		if !ok {
			return d, true
		}
		defer slot.Release()
		c.slot = slot
	}
	c.looked = looked
	return j.post(intake, work, c)
}

// unread goes on with a request whose outcome could not be read.
func (j *job) unread(intake, work context.Context, c ready, sent time.Time, e *graph.Error) (consume.Disposition, bool) {
	pause := j.pause(nil, sent, e)
	expired := j.expired(time.Now())
	switch e.Kind {
	case graph.Throttled, graph.Unavailable:
		j.metrics.Verification(metrics.VerificationFailed)
		if e.Kind == graph.Unavailable {
			j.outage(e)
		}
		return j.lookAgain(work, pause, nil), true
	case graph.Unauthorized:
		ok, err := j.renew(work, c.token, e)
		if ok {
			return consume.Disposition{}, false
		}
		if err == nil && (expired || j.hold.ownFault(j.m.Sequence, 0, time.Now())) {
			j.metrics.Verification(metrics.VerificationNotPermitted)
			return j.notPermitted(intake, work, c, e)
		}
		if err == nil {
			err = e
		}
		j.metrics.Verification(metrics.VerificationFailed)
		return j.lookAgain(work, j.begin(j.m, metrics.CauseCredentials, err, tokenWait(err)), nil), true
	case graph.Forbidden:
		// A token that says that it may read, or one that may not even reset,
		// is refused for more than this reading, unless others get through.
		everybody := c.pass.Cause == metrics.CausePermission || mayRead(c.token)
		if everybody && !expired && !j.hold.ownFault(j.m.Sequence, c.token.Generation, time.Now()) {
			j.metrics.Verification(metrics.VerificationFailed)
			return j.lookAgain(work, j.begin(j.m, metrics.CausePermission, e, 0), nil), true
		}
		j.metrics.Verification(metrics.VerificationNotPermitted)
		return j.notPermitted(intake, work, c, e)
	case graph.Refused:
		if e.Status == 404 {
			j.metrics.Verification(metrics.VerificationNotExecuted)
			j.hold.read(j.m.Sequence)
			return j.notExecuted(intake, work, c, e)
		}
		j.metrics.Verification(metrics.VerificationFailed)
		return j.notPermitted(intake, work, c, e)
	}
	j.metrics.Verification(metrics.VerificationFailed)
	times, held := j.outage(e)
	if !held.IsZero() {
		return j.lookAgain(work, held, nil), true
	}
	return j.unclear(work, time.Now().Add(j.policy.backoff(times, j.rec.ClientRequestID)), e.Error())
}

// unclear has the request looked at again that a look has said nothing about, or
// gives it to a person where its time is over and a reset would have shown.
func (j *job) unclear(work context.Context, next time.Time, why string) (consume.Disposition, bool) {
	now := time.Now()
	if j.expired(now) && now.After(j.policy.shows(j.rec)) {
		return j.bury(work, metrics.ReasonOutcomeUnknown,
			"the call may have reset the device, and its outcome could not be read in time: "+why)
	}
	return j.lookAgain(work, next, nil), true
}

func mayRead(t graph.Token) bool {
	for _, p := range readPermissions {
		if t.Has(p) == graph.PermissionGranted {
			return true
		}
	}
	return false
}

// notPermitted decides about a request whose outcome may not be read.
func (j *job) notPermitted(intake, work context.Context, c ready, e *graph.Error) (consume.Disposition, bool) {
	if j.policy.OnUnknown != UnknownRetry {
		detail := j.rec.Detail
		if j.rec.State != record.Dead {
			detail = "the call may have reset the device (" + detail + "), and the outcome may not be read: " + e.Error()
		}
		return j.bury(work, metrics.ReasonOutcomeUnknown, detail)
	}
	now := time.Now()
	switch {
	case j.rec.Refusal != "":
		return j.bury(work, metrics.Reason(j.rec.Refusal), j.rec.Detail)
	case j.expired(now):
		return j.bury(work, metrics.ReasonExpired, j.expiredDetail(now))
	}
	return j.further(intake, work, c, now)
}

// lookAgain gives the request back until its outcome can be read again. change
// notes what this look has shown; nil: nothing.
func (j *job) lookAgain(work context.Context, at time.Time, change func(*record.Record)) consume.Disposition {
	before := j.base()
	r := before
	if r.State != record.Verifying {
		r.State, r.Detail = record.Verifying, j.rec.Detail
	}
	r.NextAt = at.UTC()
	if change != nil {
		change(&r)
	}
	if err := j.put(work, before.State, r); err != nil && !errors.Is(err, record.ErrConflict) {
		return j.trouble(err)
	}
	return j.backAt(at, true)
}
