package worker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/verdict"
)

const (
	// clockGrace is what an action may seem to have begun before its attempt: the
	// Date header, which tells the clocks' difference, is cut to whole seconds.
	clockGrace = 2 * time.Second
	// lookLasts is how old a look may be that allows a further attempt.
	lookLasts = 5 * time.Second
)

// leave is what a call needs: leave of the hold, a token and, unless it can only
// be a look, a slot of the pacer.
type leave struct {
	pass  hold.Pass
	token graph.Token
	slot  *pace.Slot // nil for a look that decides nothing
	// looked is when the look was answered that allows this attempt; zero where
	// it needs none.
	looked time.Time
}

// allows reports whether the look that allows the attempt is recent enough.
func (l leave) allows(now time.Time) bool {
	return l.looked.IsZero() || now.Sub(l.looked) <= lookLasts
}

// leave brings together what a call needs. If ok is false, becomes is what
// becomes of the message; else end has to be called when the call is over.
func (d *delivery) leave(soft, hard context.Context, mayCall bool) (l leave, becomes consume.Disposition, ok bool) {
	p, until := d.t.hold.Admit(d.m.Sequence, time.Now())
	if !until.IsZero() {
		return l, d.nak(until, false), false
	}
	l.pass = p
	token, err := d.t.tokens.Get(soft)
	if err == nil && p.Probe && p.Cause == hold.Permission {
		// A permission granted since is only in a token issued since.
		token, err = d.t.tokens.Renew(soft, token, "")
	}
	switch {
	case soft.Err() != nil:
		d.end(l)
		return l, consume.Nak(0), false
	case err != nil: // without a token nothing can be called
		back := d.noToken(err)
		d.end(l)
		return l, d.nak(back, false), false
	}
	l.token = token
	d.t.following.saw(token)
	if p.Cause == hold.Refused {
		// The list is the probe, since it has no effect. Served, the hold is over.
		serves := d.serves(soft, hard, token)
		if open, until := d.t.hold.Allows(d.m.Sequence); serves == hold.NotKnown || !open {
			d.end(l)
			return l, d.nak(later(until, d.t.pacer.Paused()), false), false
		}
		l.pass = hold.Pass{}
	}
	if mayCall {
		if l.slot, becomes, ok = d.slot(soft); !ok {
			d.end(l)
			return l, becomes, false
		}
	}
	return l, becomes, true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// end gives back what is left of the leave.
func (d *delivery) end(l leave) {
	if l.slot != nil {
		l.slot.Release()
	}
	d.t.hold.Done(d.m.Sequence)
}

// slot is a place in the quota of calls. If there is none, becomes is what becomes
// of the message.
func (d *delivery) slot(soft context.Context) (s *pace.Slot, becomes consume.Disposition, ok bool) {
	s, err := d.t.pacer.Reserve(soft)
	if wait := (*pace.Wait)(nil); errors.As(err, &wait) {
		return nil, d.nak(wait.Until, false), false
	}
	return s, consume.Nak(0), err == nil
}

// closed reports, as the last thing before a call, whether it may not be sent
// after all, and when the request should come again.
func (d *delivery) closed(soft context.Context) (until time.Time, closed bool) {
	if soft.Err() != nil {
		return time.Time{}, true
	}
	if until := d.t.pacer.Paused(); !until.IsZero() {
		return until, true
	}
	if open, until := d.t.hold.Allows(d.m.Sequence); !open {
		return until, true
	}
	return time.Time{}, false
}

// attempt makes one call, with a record before it and one after.
func (d *delivery) attempt(soft, hard context.Context) (consume.Disposition, error) {
	l, becomes, ok := d.leave(soft, hard, true)
	if !ok {
		return becomes, nil
	}
	defer d.end(l)
	return d.call(soft, hard, l)
}

// call is the attempt of a request that has leave for it.
func (d *delivery) call(soft, hard context.Context, l leave) (becomes consume.Disposition, err error) {
	// The deadline counts from before the device is claimed: a claim that was written
	// and forgotten, by a process that was stopped, must have outlasted the call.
	before, now := d.base(), time.Now()
	write, cancel := context.WithTimeout(hard, writeBefore)
	defer cancel()
	if becomes, ok, err := d.guard(write, now); !ok {
		return becomes, err
	}
	call := graph.Call{
		Token:           l.token,
		ClientRequestID: uuid.NewString(),
		Deadline:        now.Add(d.t.policy.RequestTimeout),
		May: func() bool {
			_, closed := d.closed(soft)
			now := time.Now()
			return !closed && !d.expired(now) && l.allows(now)
		},
	}
	if err := d.put(write, before.State, verdict.Attempt(before, call.ClientRequestID, now)); err != nil {
		return becomes, err
	}
	defer d.t.called(call.ClientRequestID)()
	sent := time.Now()
	answer, err := d.t.graph.Reset(hard, graph.Target{Device: d.req.DeviceID, User: d.req.UserID, App: d.req.AppID}, call)
	if errors.Is(err, graph.ErrHeldBack) {
		until, closed := d.closed(soft)
		if err := d.vetoed(hard, before); err != nil {
			return becomes, err
		}
		if closed {
			return d.nak(until, false), nil
		}
		return becomes, errAgain
	}
	failure := graph.FailureOf(err)
	if d.trace != nil {
		d.trace.Attempt(traced(sent, d.rec.Attempts, call, answer, failure))
	}
	d.t.metrics.Attempt(verdict.ResultOf(kindOf(failure)))
	a := d.observeCall(soft, hard, l, sent, answer, failure)
	return d.carryOut(hard, before, a)
}

// observeCall tells the pacer and the hold what a call came to, so that others
// stop at once, and gathers what its verdict depends on.
func (d *delivery) observeCall(soft, hard context.Context, l leave, sent time.Time, answer graph.Answer, e *graph.Error) verdict.Answer {
	a := answered(l, answer, e)
	switch a.Kind {
	case 0, graph.Refused, graph.Forbidden:
		l.slot.Accepted() // Graph's quota has let it in
	case graph.Throttled:
		// The pause tells the pacer.
	case graph.NotSent:
		l.slot.Release()
	case graph.Unavailable, graph.Unknown, graph.Unauthorized, graph.TokenRefused, graph.TokenUnavailable:
		l.slot.Done()
	}
	if e != nil {
		a.Paused = d.t.pause(l.slot, sent, e)
	}
	switch a.Kind {
	case 0:
		d.t.tokens.Accepted()
		d.signal(&a, hold.Signal{Kind: hold.Accepted, Token: l.token.Generation})
	case graph.Throttled:
		d.signal(&a, hold.Signal{Kind: hold.Answered})
	case graph.Refused:
		d.turned(soft, hard, &a, l, hold.Turned)
		if explainable(a) && d.rec.UnknownFrom().IsZero() { // else it is looked at once more in any case
			if what := d.explain(hard, l.token); what != "" {
				a.Detail = what + "; " + a.Detail
			}
		}
	case graph.Forbidden:
		if l.token.Has(graph.ResetPermission) == graph.PermissionMissing {
			e.Message = "the token lacks the permission " + graph.ResetPermission +
				": grant it to the application and give admin consent; " + e.Message
			a.Detail = e.Error()
		}
		d.signal(&a, hold.Signal{Kind: hold.Forbidden, Token: l.token.Generation, Detail: a.Detail})
	case graph.Unauthorized:
		d.unauthorized(hard, &a, l, sent, e, true)
	case graph.Unavailable, graph.NotSent, graph.Unknown, graph.TokenRefused, graph.TokenUnavailable:
		d.failing(&a, e)
	}
	return a
}

// explainable reports whether a refusal is about to become a dead letter that the kind
// of device may explain.
func explainable(a verdict.Answer) bool {
	return !a.Everybody && !a.NotKnown && slices.Contains([]int{400, 405, 409, 422}, a.Status)
}

// look reads from Graph what became of the last call. The attempt that may follow
// does so at once, so that as little time as possible is left for a late effect
// of the last call.
func (d *delivery) look(soft, hard context.Context) (becomes consume.Disposition, err error) {
	r := d.base()
	// A look itself needs no slot: Graph's limit for reading is another, ten
	// times as high. The attempt that may follow needs one.
	now := time.Now()
	l, becomes, ok := d.leave(soft, hard, r.Refusal == "" && d.t.policy.LookDecides(r, now) && !d.expired(now))
	if !ok {
		return becomes, nil
	}
	defer func() { d.end(l) }()
	sent := time.Now()
	call := graph.Call{
		Token:           l.token,
		ClientRequestID: uuid.NewString(),
		Deadline:        sent.Add(d.t.policy.RequestTimeout),
		May: func() bool {
			_, closed := d.closed(soft)
			return !closed && d.t.following.looks.Reads.Paused().IsZero()
		},
	}
	actions, err := d.t.graph.Actions(hard, r.ManagedDeviceID, call)
	if errors.Is(err, graph.ErrHeldBack) {
		until, _ := d.closed(soft)
		return d.nak(later(until, d.t.following.looks.Reads.Paused()), true), nil
	}
	failure := graph.FailureOf(err)
	if d.trace != nil {
		d.trace.Verify(traced(sent, r.Attempts, call, actions.Answer, failure))
	}
	seen := d.observeLook(soft, hard, l, sent, actions, failure)
	v := d.t.policy.OfLook(r, seen)
	if v.Verification != "" {
		d.t.metrics.Verification(v.Verification)
	}
	if v.Do != verdict.DoCall {
		return d.carryOutLook(hard, r, v)
	}
	if l.slot == nil { // that this look would decide was not foreseen
		if l.slot, becomes, ok = d.slot(soft); !ok {
			return becomes, nil
		}
	}
	l.looked = seen.Now
	return d.call(soft, hard, l)
}

// observeLook tells the pacer and the hold what a look came to, and gathers what
// its verdict depends on.
func (d *delivery) observeLook(soft, hard context.Context, l leave, sent time.Time, actions graph.Actions, e *graph.Error) verdict.Look {
	a := answered(l, actions.Answer, e)
	seen := verdict.Look{Expires: d.expires(), Expiry: d.expiry(a.Now)}
	if e != nil {
		a.Paused = d.t.pause(nil, sent, e)
	}
	expired := verdict.Expired(seen.Expires, a.Now)
	switch a.Kind {
	case 0:
		finding := graph.ResetSince(actions.List, d.base().UnknownFrom().Add(actions.Ahead-clockGrace))
		seen.Sight, a.Detail = finding.Sight, finding.Doubt
		if seen.Sight == graph.SightReset {
			d.signal(&a, hold.Signal{Kind: hold.Found})
		}
	case graph.Throttled:
	case graph.Refused:
		d.turned(soft, hard, &a, l, hold.LookTurned)
	case graph.Unauthorized:
		d.unauthorized(hard, &a, l, sent, e, !expired)
	case graph.Forbidden:
		// A token that says that it may read, or one that may not even reset,
		// is refused for more than this reading, unless others get through.
		everybody := l.pass.Cause == hold.Permission || l.token.MayRead() != ""
		if everybody && !expired {
			d.signal(&a, hold.Signal{Kind: hold.LookForbidden, Token: l.token.Generation, Detail: a.Detail})
		}
	case graph.Unavailable, graph.NotSent, graph.Unknown, graph.TokenRefused, graph.TokenUnavailable:
		d.failing(&a, e)
	}
	seen.Answer = a
	return seen
}

// answered is what is known of every answer.
func answered(l leave, answer graph.Answer, e *graph.Error) verdict.Answer {
	a := verdict.Answer{Now: time.Now(), Status: answer.Status, RequestID: answer.RequestID, Probe: l.pass.Probe, Row: 1}
	if e != nil {
		a.Kind, a.Status, a.RequestID, a.Detail = e.Kind, e.Status, e.RequestID, e.Error()
	}
	return a
}

// unauthorized replaces a rejected token, once per delivery. Where that cannot be,
// or did not help, everybody may be concerned, which is asked unless ask is false.
// A token that took the place of the rejected one before the call was sent does not
// count: what made the one worthless may have done so to both.
func (d *delivery) unauthorized(hard context.Context, a *verdict.Answer, l leave, sent time.Time, e *graph.Error, ask bool) {
	var err error
	if !d.renewed {
		var token graph.Token
		token, err = d.t.tokens.Renew(hard, l.token, e.Claims)
		a.Renewed = err == nil
		d.renewed = err != nil || token.After(sent)
	}
	switch {
	case a.Renewed:
	case err != nil:
		a.Everybody, a.NextProbe = true, d.noToken(err)
	case ask:
		d.signal(a, hold.Signal{Kind: hold.Unauthorized, Detail: a.Detail})
	}
}

// noToken says when a request may come again that could get no token.
func (d *delivery) noToken(err error) time.Time {
	s := hold.Signal{Kind: hold.NoToken, Detail: err.Error()}
	if e := (*graph.Error)(nil); errors.As(err, &e) {
		if s.Wait = e.RetryAfter; e.Benign {
			return time.Now().Add(s.Wait)
		}
		if e.Kind == graph.TokenUnavailable {
			s.Kind = hold.TokenAway
		}
	}
	return d.t.observe(d.m.Sequence, s).Back
}

// failing notes a sign that Graph is down.
func (d *delivery) failing(a *verdict.Answer, e *graph.Error) {
	if !e.Benign {
		d.signal(a, hold.Signal{Kind: hold.Failing, Detail: a.Detail, Wait: e.RetryAfter})
	}
}

// signal tells the hold what was found out.
func (d *delivery) signal(a *verdict.Answer, s hold.Signal) {
	st := d.t.observe(d.m.Sequence, s)
	a.Everybody, a.NextProbe, a.Row = st.Everybody, st.Back, max(st.Row, a.Row)
}

func kindOf(e *graph.Error) graph.Kind {
	if e == nil {
		return 0
	}
	return e.Kind
}
