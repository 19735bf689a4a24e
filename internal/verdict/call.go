package verdict

import (
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/record"
)

// Do is what becomes of a message.
type Do int

const (
	// DoAck acknowledges the message: its request is accepted.
	DoAck Do = iota + 1
	// DoNak gives the message back until Verdict.Until.
	DoNak
	// DoBury publishes the dead letter, writes that the request is dead, and
	// acknowledges the message.
	DoBury
	// DoAgain looks at the same delivery once more: it may be called at once.
	DoAgain
	// DoCall makes the next attempt at once; only a look leads to it.
	DoCall
)

// Verdict is what becomes of a request after a call, a look or a panic. It is
// carried out in this order: the record, the letter, the message.
type Verdict struct {
	Do    Do
	Until time.Time // of DoNak
	// Record is the record as it is to be written; without a state nothing is.
	Record record.Record
	// Say is what the log says of it; empty: nothing.
	Say string
	// Verification is what the look counts as; empty where there was none, or
	// where it is made again at once.
	Verification Verification
}

// Answer is what a call or a look came to.
type Answer struct {
	// Kind is 0 where Graph did what it was asked.
	Kind      graph.Kind
	Status    int    // HTTP status; 0 without an answer
	RequestID string // Graph's
	Detail    string // the failure in words
	// Now is when it was there.
	Now time.Time
	// Everybody: what failed concerns every request, so that the tenant is held;
	// NextProbe is when the next one may try.
	Everybody bool
	NextProbe time.Time
	// NotKnown: it was refused, and nobody can tell yet whether that is its own
	// affair or everybody's.
	NotKnown bool
	// Row counts how often in a row this request found Graph failing, or that could
	// not be told.
	Row int
	// Paused is the end of the pause that Graph asked for; zero without one.
	Paused time.Time
	// Renewed: the token was rejected and there is another.
	Renewed bool
	// Probe: the tenant was held, and this request tried for everybody's sake.
	Probe bool
}

// OfCall decides what a call means. r is the record that was written for it, and
// before the one that was there before.
func (p Policy) OfCall(before, r record.Record, a Answer) Verdict {
	v := Verdict{Record: r}
	v.Record.Status, v.Record.GraphRequestID = a.Status, a.RequestID
	switch a.Kind {
	case 0:
		v.Do, v.Record = DoAck, accepted(v.Record, a.Now)
	case graph.Throttled, graph.Unavailable:
		v.retry(before, a, a.Paused)
	case graph.NotSent:
		at := a.Now.Add(p.Backoff(a.Row, r.ClientRequestID))
		if a.Everybody {
			at = a.NextProbe
		}
		v.retry(before, a, at)
	case graph.Unauthorized, graph.Forbidden, graph.Refused:
		switch {
		case a.Renewed:
			v.Do, v.Record = DoAgain, takenBack(v.Record, before)
			v.Record.Detail = a.Detail
		case a.Everybody:
			v.retry(before, a, a.NextProbe)
		case a.NotKnown:
			v.retry(before, a, p.notKnown(r, a))
		case !r.UnknownFrom().IsZero():
			// It may be the doing of the call whose outcome was not seen.
			v.Do = DoAgain
			v.Record.State, v.Record.NextAt = record.Verifying, time.Time{}
			v.Record.Refusal, v.Record.Detail = string(refusalOf(a)), a.Detail
		default:
			v.bury(refusalOf(a), a.Detail)
		}
	case graph.Unknown, graph.TokenRefused, graph.TokenUnavailable:
		fallthrough
	default: // whatever it is, it is looked up before anything is repeated
		v.Do, v.Until, v.Say = DoNak, a.Now.Add(p.VerifyAfter), "outcome unknown: it will be looked up"
		v.Record.State, v.Record.NextAt = record.Verifying, v.Until.UTC()
		v.Record.MarkUnknown()
		v.Record.Reason, v.Record.Detail = a.Kind.String(), a.Detail
		if a.Everybody || a.Probe {
			v.Record.HeldAttempts++ // it is not held against the request
		}
	}
	return v
}

// notKnown is when a request comes back of whose refusal nobody can tell yet whose
// affair it is.
func (p Policy) notKnown(r record.Record, a Answer) time.Time {
	if at := a.Now.Add(p.Backoff(a.Row, r.ClientRequestID)); at.After(a.Paused) {
		return at
	}
	return a.Paused
}

// Vetoed is the record after an attempt that was not made after all: something
// came up between the record and the call.
func Vetoed(before, r record.Record) record.Record {
	r = takenBack(r, before)
	r.AttemptedAt, r.ClientRequestID, r.Detail = before.AttemptedAt, before.ClientRequestID, before.Detail
	r.Status, r.GraphRequestID = before.Status, before.GraphRequestID
	return r
}

// Attempt is the record of an attempt that begins now.
func Attempt(before record.Record, clientRequestID string, now time.Time) record.Record {
	r := before
	r.State, r.Reason, r.Detail, r.Burying = record.Attempting, "", "", false
	r.Attempts++
	r.AttemptedAt, r.NextAt, r.FinishedAt = now.UTC(), time.Time{}, time.Time{}
	r.UnknownSince, r.AbsentSince, r.Refusal = before.UnknownFrom(), time.Time{}, ""
	r.ClientRequestID, r.GraphRequestID, r.Status, r.Verified = clientRequestID, "", 0, false
	return r
}

// retry gives the request back after a call that does not count.
func (v *Verdict) retry(before record.Record, a Answer, at time.Time) {
	v.Do, v.Until, v.Say, v.Record = DoNak, at, "retry: "+a.Kind.String(), takenBack(v.Record, before)
	v.Record.NextAt = at.UTC()
	v.Record.Reason, v.Record.Detail = a.Kind.String(), a.Detail
}

// bury begins a dead letter. It is written before the letter, so that no other
// end can come between.
func (v *Verdict) bury(reason Reason, detail string) {
	v.Do, v.Record = DoBury, Burying(v.Record, reason, detail)
}

// Burying is a record whose dead letter is to be published.
func Burying(r record.Record, reason Reason, detail string) record.Record {
	if r.State == record.None {
		r.State = record.Retrying
	}
	r.UnknownSince = r.UnknownFrom()
	r.Burying, r.Reason, r.Detail = true, string(reason), detail
	r.NextAt, r.Refusal = time.Time{}, ""
	return r
}

// Dead is the record of a request whose dead letter is published.
func Dead(r record.Record, now time.Time) record.Record {
	r.State, r.Burying, r.FinishedAt = record.Dead, false, now.UTC()
	r.End()
	return r
}

// takenBack makes an attempt one that does not count. If it followed on one of
// unknown outcome, that one is to be looked up again before the next.
func takenBack(r, before record.Record) record.Record {
	r.State, r.Attempts, r.NextAt = record.Retrying, before.Attempts, time.Time{}
	if !before.UnknownFrom().IsZero() {
		r.State, r.AttemptedAt = record.Verifying, before.AttemptedAt
		r.UnknownSince, r.AbsentSince = before.UnknownFrom(), before.AbsentSince
	}
	return r
}

func accepted(r record.Record, now time.Time) record.Record {
	r.State, r.FinishedAt, r.NextAt = record.Accepted, now.UTC(), time.Time{}
	r.Reason, r.Detail, r.Refusal, r.Burying = "", "", "", false
	return r
}

// ResultOf is what an attempt counts as; 0 is one that Graph has taken.
func ResultOf(k graph.Kind) Result {
	switch k {
	case 0:
		return ResultAccepted
	case graph.Throttled:
		return ResultThrottled
	case graph.Unavailable, graph.NotSent:
		return ResultUnavailable
	case graph.Refused, graph.Forbidden:
		return ResultRefused
	case graph.Unauthorized:
		return ResultUnauthorized
	case graph.Unknown, graph.TokenRefused, graph.TokenUnavailable:
	}
	return ResultUnknown
}

// refusalOf names the dead letter of a refusal.
func refusalOf(a Answer) Reason {
	switch {
	case a.Kind == graph.Unauthorized:
		return ReasonUnauthorized
	case a.Kind == graph.Forbidden:
		return ReasonForbidden
	case a.Status == 404:
		return ReasonNotFound
	case a.Status == 409:
		return ReasonConflict
	}
	return ReasonRejected
}
