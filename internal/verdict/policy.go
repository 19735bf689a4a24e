// Package verdict decides what becomes of a request. It is pure: facts in,
// verdict out. The worker gathers the facts, asks, and carries out. The tables
// that people read are in docs/verdicts.md, and a test holds one to the other.
package verdict

import (
	"hash/fnv"
	"math"
	"time"

	"passcode-worker/internal/record"
)

// OnUnknown says what becomes of a request whose outcome cannot be found out,
// because the application may not read devices.
type OnUnknown string

const (
	// UnknownDeadLetter gives it to a person: no device is reset twice.
	UnknownDeadLetter OnUnknown = "dead-letter"
	// UnknownRetry repeats the call: a device may be reset twice.
	UnknownRetry OnUnknown = "retry"
)

// Policy is what the verdicts depend on besides the facts. Zero durations and
// counts are not replaced by defaults.
type Policy struct {
	RequestTimeout         time.Duration // of one call
	MaxAttempts            int
	BackoffMin, BackoffMax time.Duration
	// MaxAge is how old a request may be to be worked on; 0 means any age.
	MaxAge time.Duration
	// VerifyAfter is how long after the end of a call the device is looked at.
	VerifyAfter time.Duration
	OnUnknown   OnUnknown
}

// DefaultPolicy is the policy of a worker that is told nothing else.
func DefaultPolicy() Policy {
	return Policy{
		RequestTimeout: 30 * time.Second,
		MaxAttempts:    8,
		BackoffMin:     2 * time.Second,
		BackoffMax:     5 * time.Minute,
		MaxAge:         24 * time.Hour,
		VerifyAfter:    30 * time.Second,
		OnUnknown:      UnknownDeadLetter,
	}
}

// Backoff is the wait before the n-th repetition: exponential, with full
// jitter between the least and the greatest. The jitter comes from the seed,
// so that the same wait is found again after a restart.
func (p Policy) Backoff(n int, seed string) time.Duration {
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

// VerifyAt is when the device may be looked at after a call whose worker is gone:
// that worker may have sent it until the request's time-out was over, and Graph
// may have been at work on it for a while after.
func (p Policy) VerifyAt(attempted time.Time) time.Time {
	return attempted.Add(p.RequestTimeout + p.VerifyAfter)
}

// lookAgain is the least time between two looks that agree that there was no
// reset: people have seen actions that were taken and did not show at once.
func (p Policy) lookAgain() time.Duration { return 2 * p.VerifyAfter }

// LookDecides reports whether a look that shows no reset decides if it is made
// now: an earlier one has shown none, long enough ago.
func (p Policy) LookDecides(r record.Record, now time.Time) bool {
	return !r.AbsentSince.IsZero() && !now.Before(r.AbsentSince.Add(p.lookAgain()))
}

// nextTry is when the attempt after the last one is due.
func (p Policy) nextTry(r record.Record) time.Time {
	return r.AttemptedAt.Add(p.Backoff(r.Attempts-r.HeldAttempts, r.ClientRequestID))
}

// shows is when a reset by the last attempt has shown at the latest, by all that
// is known of Intune. Until then an answer that tells nothing is no end.
func (p Policy) shows(r record.Record) time.Time {
	return r.AttemptedAt.Add(p.RequestTimeout + 3*p.VerifyAfter)
}

// exhausted reports whether a request has had all its attempts. Those made while
// the tenant was held do not count.
func (p Policy) exhausted(r record.Record) bool {
	return r.Attempts-r.HeldAttempts >= p.MaxAttempts
}
