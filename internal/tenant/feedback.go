package tenant

import (
	"context"
	"slices"
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/verdict"
)

// clockGrace is what an action may seem to have begun before its attempt: the
// Date header, which tells the clocks' difference, is cut to whole seconds.
const clockGrace = 2 * time.Second

// feedback tells pacer, hold and session what an answer of Graph
// means for all requests, so that others stop at once. It also
// gathers the facts that the verdict on its own request depends on.
type feedback struct {
	d    *delivery
	l    *leave
	sent time.Time
	e    *graph.Error   // nil: the call succeeded
	a    verdict.Answer // what was found out
}

// observe notes what every answer tells.
func (d *delivery) observe(l *leave, sent time.Time, answer graph.Answer, e *graph.Error) *feedback {
	f := &feedback{d: d, l: l, sent: sent, e: e,
		a: verdict.Answer{Now: time.Now(), Status: answer.Status, RequestID: answer.RequestID, Probe: l.pass.Probe, Row: 1}}
	if e != nil {
		f.a.Kind, f.a.Status, f.a.RequestID, f.a.Detail = e.Kind, e.Status, e.RequestID, e.Error()
	}
	return f
}

func kindOf(e *graph.Error) graph.Kind {
	if e == nil {
		return 0
	}
	return e.Kind
}

// ofCall gathers the facts of a call.
func (f *feedback) ofCall(soft, hard context.Context) verdict.Answer {
	d, l, e := f.d, f.l, f.e
	switch f.a.Kind {
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
		f.a.Paused = d.t.gate.Throttled(l.slot, f.sent, e)
	}
	switch f.a.Kind {
	case 0:
		d.t.cfg.Tokens.Accepted()
		f.signal(hold.Signal{Kind: hold.Accepted, Token: l.token.Generation})
	case graph.Throttled:
		f.signal(hold.Signal{Kind: hold.Answered})
	case graph.Refused:
		f.turned(soft, hard, hold.Turned)
		if explainable(f.a) && d.entry.rec.UnknownFrom().IsZero() { // else it is looked at once more in any case
			if what := explain(hard, d.t, d.req.DeviceID, l.token); what != "" {
				f.a.Detail = what + "; " + f.a.Detail
			}
		}
	case graph.Forbidden:
		if l.token.Has(graph.ResetPermission) == graph.PermissionMissing {
			e.Message = "the token lacks the permission " + graph.ResetPermission +
				": grant it to the application and give admin consent; " + e.Message
			f.a.Detail = e.Error()
		}
		f.signal(hold.Signal{Kind: hold.Forbidden, Token: l.token.Generation, Detail: f.a.Detail})
	case graph.Unauthorized:
		f.unauthorized(hard, true)
	case graph.Unavailable, graph.NotSent, graph.Unknown, graph.TokenRefused, graph.TokenUnavailable:
		f.failing()
	}
	return f.a
}

// explainable reports whether a refusal is about to become a dead letter that the kind
// of device may explain.
func explainable(a verdict.Answer) bool {
	return !a.Everybody && !a.NotKnown && slices.Contains([]int{400, 405, 409, 422}, a.Status)
}

// ofLook gathers the facts of a look.
func (f *feedback) ofLook(soft, hard context.Context, actions graph.Actions) verdict.Look {
	d, l := f.d, f.l
	seen := verdict.Look{Expires: d.life.end(), Expiry: d.life.why(f.a.Now)}
	if f.e != nil {
		f.a.Paused = d.t.gate.Throttled(nil, f.sent, f.e)
	}
	expired := verdict.Expired(seen.Expires, f.a.Now)
	switch f.a.Kind {
	case 0:
		finding := graph.ResetSince(actions.List, d.entry.base().UnknownFrom().Add(actions.Ahead-clockGrace))
		seen.Sight, f.a.Detail = finding.Sight, finding.Doubt
		if seen.Sight == graph.SightReset {
			f.signal(hold.Signal{Kind: hold.Found})
		}
	case graph.Throttled:
	case graph.Refused:
		f.turned(soft, hard, hold.LookTurned)
	case graph.Unauthorized:
		f.unauthorized(hard, !expired)
	case graph.Forbidden:
		// If the token says that it may read, or may not even reset, the
		// refusal concerns more than this reading, unless others get through.
		everybody := l.pass.Cause == hold.Permission || l.token.MayRead() != ""
		if everybody && !expired {
			f.signal(hold.Signal{Kind: hold.LookForbidden, Token: l.token.Generation, Detail: f.a.Detail})
		}
	case graph.Unavailable, graph.NotSent, graph.Unknown, graph.TokenRefused, graph.TokenUnavailable:
		f.failing()
	}
	seen.Answer = f.a
	return seen
}

// signal tells the hold what was found out.
func (f *feedback) signal(s hold.Signal) {
	st := f.d.t.gate.Observe(f.l.sequence, s)
	f.a.Everybody, f.a.NextProbe, f.a.Row = st.Everybody, st.Back, max(st.Row, f.a.Row)
}

// failing notes a sign that Graph is down.
func (f *feedback) failing() {
	if !f.e.Benign {
		f.signal(hold.Signal{Kind: hold.Failing, Detail: f.a.Detail, Wait: f.e.RetryAfter})
	}
}

// turned tells the hold that Graph refused a call or a look with
// a 4xx other than 401, 403 and 429, once it is known what that means.
func (f *feedback) turned(soft, hard context.Context, kind hold.Kind) {
	t := f.d.t
	serves := t.lists.serves(soft, hard, f.l.sequence, f.l.token)
	f.signal(hold.Signal{Kind: kind, Serves: serves, Detail: f.a.Detail})
	if f.a.NotKnown = serves == hold.NotKnown; f.a.NotKnown {
		f.a.Paused = later(f.a.Paused, later(t.gate.Pacer.Paused(), t.Looks.Reads.Paused()))
	}
}

// unauthorized replaces a rejected token, once per delivery. If that is impossible
// or did not help, the fault may concern every request; unless ask is false, the
// worker finds that out. A token that replaced the rejected one before the call was
// sent does not count: whatever made the first one invalid may have made both invalid.
func (f *feedback) unauthorized(hard context.Context, ask bool) {
	d := f.d
	var err error
	if !d.renewed {
		var token graph.Token
		token, err = d.t.cfg.Tokens.Renew(hard, f.l.token, f.e.Claims)
		f.a.Renewed = err == nil
		d.renewed = err != nil || token.After(f.sent)
	}
	switch {
	case f.a.Renewed:
	case err != nil:
		f.a.Everybody, f.a.NextProbe = true, noToken(d.t.gate, f.l.sequence, err)
	case ask:
		f.signal(hold.Signal{Kind: hold.Unauthorized, Detail: f.a.Detail})
	}
}
