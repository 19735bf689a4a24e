package worker

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"time"

	"passcode-worker/internal/record"
)

// step is what is to be done next about a delivered message.
type step int

const (
	// stepAttempt calls Graph.
	stepAttempt step = iota + 1
	// stepVerify reads what became of the last call.
	stepVerify
	// stepOrphan notes that the outcome of a call whose worker is gone is unknown.
	stepOrphan
	// stepWait gives the message back until plan.until.
	stepWait
	// stepAck acknowledges: the message has come to its end before.
	stepAck
	// stepDuplicate acknowledges: the request was accepted by another message.
	stepDuplicate
	// stepExpire makes a dead letter without a call.
	stepExpire
	// stepBury goes on with a dead letter that was begun.
	stepBury
	// stepGarbled waits while none of what the record's key holds is a record.
	stepGarbled
	// stepGiveUp ends such a request: its time is over, and whether it was done
	// before cannot be told.
	stepGiveUp
)

// facts are all that a plan depends on.
type facts struct {
	// rec is the record of the request, and self what the record of this message
	// says of its origin.
	rec, self record.Record
	// garbled: the record's key holds values, but none is a record.
	garbled bool
	// idGiven: the publisher named the request itself.
	idGiven bool
	// expired: the request's time is over. expires is when; zero: never.
	expired bool
	expires time.Time
}

type plan struct {
	step  step
	until time.Time // of stepWait
}

// How long a message waits for another one with the same id.
const (
	otherMin = time.Second
	otherMax = 30 * time.Second
)

// garbledWait is how often a record is read again of which nothing can be read.
const garbledWait = time.Minute

// otherBusy is how long a message stays away whose request, or device, is at work
// under another message: about otherMin. Copies that were published together come
// together; they are spread, or all but one would have to be sent away each time.
func otherBusy() time.Duration { return otherMin/2 + rand.N(otherMin) }

// planFor decides, from the record of the request and from this delivery, what
// comes next.
func planFor(f facts, p Policy, now time.Time) plan {
	r, same := f.rec, f.rec.Same(f.self)
	switch {
	case f.garbled && f.expired:
		return plan{step: stepGiveUp}
	case f.garbled:
		at := now.Add(garbledWait)
		if !f.expires.IsZero() && f.expires.Before(at) {
			at = f.expires
		}
		return plan{stepGarbled, at}
	case !same && !f.idGiven && !r.State.InProgress():
		// The id is <stream>-<sequence> and the stream was made anew: this is
		// another request under an old name.
		r, same = record.Record{}, true
	case r.HasEnded(f.self):
		return plan{step: stepAck}
	}
	expired := f.expired
	switch r.State {
	case record.Accepted:
		if same {
			return plan{step: stepAck}
		}
		return plan{step: stepDuplicate}
	case record.Dead:
		switch {
		case same:
			return plan{step: stepAck}
		case !r.UnknownFrom().IsZero():
			// It may have been reset; find out before anything else.
			return plan{step: stepVerify}
		}
		return fresh(expired)
	case record.None:
		return fresh(expired)
	}
	if !same {
		return plan{stepWait, now.Add(min(max(r.NextAt.Sub(now)+otherMin/2, otherMin), otherMax))}
	}
	switch {
	case r.Burying:
		return plan{step: stepBury}
	case r.State == record.Attempting:
		return plan{step: stepOrphan}
	case r.State == record.Verifying || !r.UnknownFrom().IsZero():
		if now.Before(r.NextAt) {
			return plan{stepWait, r.NextAt}
		}
		return plan{step: stepVerify}
	case expired:
		return plan{step: stepExpire}
	case now.Before(r.NextAt):
		return plan{stepWait, r.NextAt}
	}
	return plan{step: stepAttempt}
}

func fresh(expired bool) plan {
	if expired {
		return plan{step: stepExpire}
	}
	return plan{step: stepAttempt}
}

// verifyAt is when the outcome of a call whose worker is gone may be read: that
// worker may have sent it until the request's time-out was over, and Graph may
// have been at work on it for a while after.
func (p Policy) verifyAt(attempted time.Time) time.Time {
	return attempted.Add(p.RequestTimeout + p.VerifyAfter)
}

// backoff is the wait before the n-th repetition: exponential, with full
// jitter between the least and the greatest. The jitter comes from the seed,
// so that the same wait is found again after a restart.
func (p Policy) backoff(n int, seed string) time.Duration {
	top := float64(p.BackoffMin) * math.Pow(2, float64(min(max(n, 1), 60)))
	top = min(top, float64(p.BackoffMax))
	h := fnv.New64a()
	_, _ = h.Write([]byte(seed)) // a hash takes every write
	_, _ = h.Write([]byte{byte(n), byte(n >> 8)})
	// FNV's high bits vary little between similar short seeds.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	jitter := float64(x>>11) / (1 << 53)
	return p.BackoffMin + time.Duration(jitter*max(0, top-float64(p.BackoffMin)))
}

// lookAgain is the least time between two looks that agree that there was no
// reset: people have seen actions that were taken and did not show at once.
func (p Policy) lookAgain() time.Duration { return 2 * p.VerifyAfter }

// lookDecides reports whether a look that finds no reset now decides: an earlier
// one has found none, long enough ago.
func (p Policy) lookDecides(r record.Record, now time.Time) bool {
	return !r.AbsentSince.IsZero() && !now.Before(r.AbsentSince.Add(p.lookAgain()))
}

// nextTry is when the attempt after the last one is due.
func (p Policy) nextTry(r record.Record) time.Time {
	return r.AttemptedAt.Add(p.backoff(r.Attempts-r.HeldAttempts, r.ClientRequestID))
}

// shows is when a reset by the last attempt has shown at the latest, by all that
// is known of Intune. Until then an answer that tells nothing is no end.
func (p Policy) shows(r record.Record) time.Time {
	return r.AttemptedAt.Add(p.RequestTimeout + 3*p.VerifyAfter)
}

// exhausted tells whether a request has had all its attempts. Those made while
// the tenant was held do not count.
func (p Policy) exhausted(r record.Record) bool {
	return r.Attempts-r.HeldAttempts >= p.MaxAttempts
}
