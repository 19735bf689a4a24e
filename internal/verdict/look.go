package verdict

import (
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/record"
)

// Look is what a look at the device came to.
type Look struct {
	Answer
	// Sight is what the list of actions shows, where Kind is 0.
	Sight graph.Sight
	// Expires is when the request's time is over; zero: never. Expiry says so in
	// words, once it is.
	Expires time.Time
	Expiry  string
}

// OfLook decides what a look means. r is the record to go on from: it says that
// the outcome of a call is unknown.
func (p Policy) OfLook(r record.Record, l Look) Verdict {
	switch l.Kind {
	case 0:
		switch l.Sight {
		case graph.SightReset:
			v := Verdict{Do: DoAck, Verification: VerificationExecuted, Record: accepted(r, l.Now)}
			v.Record.Verified = true
			return v
		case graph.SightNone:
			return p.absent(r, l)
		}
		return p.unclear(r, l, max(p.Backoff(l.Row, r.ClientRequestID), p.VerifyAfter))
	case graph.Throttled, graph.Unavailable:
		return lookAgain(r, l.Paused)
	case graph.Unauthorized:
		switch {
		case l.Renewed:
			return Verdict{Do: DoAgain}
		case l.Everybody:
			return lookAgain(r, l.NextProbe)
		}
		return p.notPermitted(r, l, VerificationNotPermitted)
	case graph.Forbidden:
		if l.Everybody {
			return lookAgain(r, l.NextProbe)
		}
		return p.notPermitted(r, l, VerificationNotPermitted)
	case graph.Refused:
		switch {
		case l.Everybody:
			return lookAgain(r, l.NextProbe)
		case l.NotKnown:
			return lookAgain(r, p.notKnown(r, l.Answer))
		case l.Status == 404:
			return p.absent(r, l)
		}
		return p.notPermitted(r, l, VerificationFailed)
	case graph.NotSent, graph.Unknown, graph.TokenRefused, graph.TokenUnavailable:
	}
	if l.Everybody {
		return lookAgain(r, l.NextProbe)
	}
	return p.unclear(r, l, p.Backoff(l.Row, r.ClientRequestID))
}

// absent goes on with a request of which a look has shown no reset, or no device.
func (p Policy) absent(r record.Record, l Look) Verdict {
	v := Verdict{Verification: VerificationNotExecuted, Record: r}
	gone := l.Kind != 0
	if r.Refusal == "" && !p.LookDecides(r, l.Now) {
		// The second look had best be the one that the next attempt follows on.
		if v.Record.AbsentSince.IsZero() {
			v.Record.AbsentSince = l.Now.UTC()
		}
		at := v.Record.AbsentSince.Add(p.lookAgain())
		if next := p.nextTry(r); next.After(at) && !gone && !Expired(l.Expires, next) {
			at = next
		}
		v.nakVerifying(at)
		return v
	}
	switch {
	case r.Refusal != "":
		v.bury(Reason(r.Refusal), r.Detail)
	case gone:
		// There is no device any more that could be asked about, or reset.
		v.bury(ReasonNotFound, "the device is gone, so the outcome of the call can no longer be looked up; "+l.Detail)
	default:
		p.further(&v, l)
	}
	return v
}

// further lets the attempt follow after one that had no effect, once it is due.
func (p Policy) further(v *Verdict, l Look) {
	r := v.Record
	switch at := p.nextTry(r); {
	case Expired(l.Expires, l.Now):
		v.bury(ReasonExpired, ExpiredDetail(l.Expiry, r.Detail))
	case p.exhausted(r) && r.State == record.Verifying && !l.Probe:
		// A probe is made for everybody's sake, so it is not held against this one.
		v.bury(ReasonAttemptsExhausted, r.Detail)
	case r.State == record.Verifying && l.Now.Before(at):
		// The wait is counted from the attempt; the looks have taken some of it.
		v.nakVerifying(at)
	default:
		v.Do, v.Record = DoCall, record.Record{}
	}
}

// unclear has the request looked at again of which a look has told nothing, or
// gives it to a person where its time is over and a reset would have shown.
func (p Policy) unclear(r record.Record, l Look, wait time.Duration) Verdict {
	if Expired(l.Expires, l.Now) && l.Now.After(p.shows(r)) {
		v := Verdict{Verification: VerificationFailed, Record: r}
		v.bury(ReasonOutcomeUnknown, "the call may have reset the device, and its outcome could not be looked up in time: "+l.Detail)
		return v
	}
	return lookAgain(r, l.Now.Add(wait))
}

// notPermitted decides about a request whose outcome may not be read.
func (p Policy) notPermitted(r record.Record, l Look, as Verification) Verdict {
	v := Verdict{Verification: as, Record: r}
	switch {
	case p.OnUnknown != UnknownRetry:
		detail := r.Detail
		if r.State != record.None { // else it says so already, of the message before
			detail = "the call may have reset the device (" + detail + "), and the application may not look up its outcome: " + l.Detail
		}
		v.bury(ReasonOutcomeUnknown, detail)
	case r.Refusal != "":
		v.bury(Reason(r.Refusal), r.Detail)
	default:
		p.further(&v, l)
	}
	return v
}

// ExpiredDetail also says what kept the request waiting.
func ExpiredDetail(expiry, last string) string {
	if last == "" {
		return expiry
	}
	return expiry + "; last: " + last
}

// lookAgain gives the request back until its outcome can be read again.
func lookAgain(r record.Record, at time.Time) Verdict {
	v := Verdict{Verification: VerificationFailed, Record: r}
	v.nakVerifying(at)
	return v
}

// nakVerifying gives the request back until the device is looked at again.
func (v *Verdict) nakVerifying(at time.Time) {
	v.Do, v.Until = DoNak, at
	v.Record.State, v.Record.NextAt = record.Verifying, at.UTC()
}
