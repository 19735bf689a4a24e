package tenant

import (
	"context"
	"errors"
	"time"

	"passcode-worker/internal/gate"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/pace"
)

// lookLasts is the greatest age of a look that allows a further attempt.
const lookLasts = 5 * time.Second

// leave is what a call needs: permission of the hold, a token
// and, unless it can only be a look, a slot of the pacer.
type leave struct {
	t        *Tenant
	sequence uint64
	pass     hold.Pass
	token    graph.Token
	slot     *pace.Slot // nil for a look that decides nothing
	// looked is when Graph answered the look that
	// allows this attempt; zero if it needs none.
	looked time.Time
}

// askLeave gets everything that a call for a message needs. If ok is false, the
// message should come again at until, or at once if that is zero; otherwise the caller
// must call end when the call is over. mayCall means that an attempt may follow.
func askLeave(soft, hard context.Context, t *Tenant, sequence uint64, mayCall bool) (l *leave, until time.Time, ok bool) {
	l = &leave{t: t, sequence: sequence}
	if l.pass, until = t.gate.Hold.Admit(sequence, time.Now()); !until.IsZero() {
		return nil, until, false
	}
	until, ok = l.complete(soft, hard, mayCall)
	if !ok {
		l.end()
		return nil, until, false
	}
	return l, time.Time{}, true
}

// complete gets what is needed besides the permission of the hold.
func (l *leave) complete(soft, hard context.Context, mayCall bool) (until time.Time, ok bool) {
	t, p := l.t, l.pass
	token, err := t.cfg.Tokens.Get(soft)
	if err == nil && p.Probe && p.Cause == hold.Permission {
		// A permission granted meanwhile is only in a token issued meanwhile.
		token, err = t.cfg.Tokens.Renew(soft, token, "")
	}
	switch {
	case soft.Err() != nil:
		return time.Time{}, false
	case err != nil: // without a token nothing can be called
		return noToken(t.gate, l.sequence, err), false
	}
	l.token = token
	t.following.saw(token)
	if p.Cause == hold.Refused {
		// The list is the probe, because it has no effect. If Graph answers it, the hold is over.
		serves := t.lists.serves(soft, hard, l.sequence, token)
		if open, until := t.gate.Hold.Allows(l.sequence); serves == hold.NotKnown || serves == hold.Unserved || !open {
			return later(until, t.gate.Pacer.Paused()), false
		}
		l.pass = hold.Pass{}
	}
	if mayCall {
		return l.reserve(soft)
	}
	return time.Time{}, true
}

// reserve takes a slot in the quota of calls. If ok is false, there
// is none before until; if until is zero, no call may begin any more.
func (l *leave) reserve(soft context.Context) (until time.Time, ok bool) {
	slot, err := l.t.gate.Pacer.Reserve(soft)
	if wait := (*pace.Wait)(nil); errors.As(err, &wait) {
		return wait.Until, false
	}
	l.slot = slot
	return time.Time{}, err == nil
}

// allows reports whether the look that allows the attempt is recent enough.
func (l *leave) allows(now time.Time) bool {
	return l.looked.IsZero() || now.Sub(l.looked) <= lookLasts
}

// closed is the last check before a call: it reports whether the call
// may not be sent after all, and when the request should come again.
func (l *leave) closed(soft context.Context) (until time.Time, closed bool) {
	if soft.Err() != nil {
		return time.Time{}, true
	}
	return l.t.gate.Closed(l.sequence)
}

// end gives back what is left of the leave.
func (l *leave) end() {
	if l.slot != nil {
		l.slot.Release()
	}
	l.t.gate.Hold.Done(l.sequence)
}

// noToken says when a request that got no token may come again.
func noToken(g *gate.Gate, sequence uint64, err error) time.Time {
	s := hold.Signal{Kind: hold.NoToken, Detail: err.Error()}
	if e := (*graph.Error)(nil); errors.As(err, &e) {
		if s.Wait = e.RetryAfter; e.Benign {
			return time.Now().Add(s.Wait)
		}
		if e.Kind == graph.TokenUnavailable {
			s.Kind = hold.TokenAway
		}
	}
	return g.Observe(sequence, s).Back
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
