package tenant

import (
	"fmt"
	"time"

	"passcode-worker/internal/clock"
	"passcode-worker/internal/verdict"
)

// lifetime is how long a request may still be done. Its results are by this
// machine's clock.
type lifetime struct {
	clock *clock.Clock
	// stored is when the stream stored the message, and notAfter what the publisher
	// asks for, by the server's clock: the publisher means the time of day, and not
	// this machine's. notAfter is zero where nothing is asked for.
	stored, notAfter time.Time
	maxAge           time.Duration // 0: any
}

// published is when the stream stored the message.
func (l lifetime) published() time.Time { return l.clock.Local(l.stored) }

// end is when the request's time is over; zero: never.
func (l lifetime) end() time.Time {
	at := l.clock.Local(l.notAfter)
	if l.maxAge > 0 {
		if old := l.published().Add(l.maxAge); at.IsZero() || old.Before(at) {
			at = old
		}
	}
	return at
}

// over reports whether the request's time is over.
func (l lifetime) over(now time.Time) bool { return verdict.Expired(l.end(), now) }

// why says why the request is too old.
func (l lifetime) why(now time.Time) string {
	if !l.notAfter.IsZero() && now.After(l.clock.Local(l.notAfter)) {
		return "notAfter " + l.notAfter.Format(time.RFC3339) + " is over"
	}
	return fmt.Sprintf("published %s ago, more than %s", now.Sub(l.published()).Round(time.Second), l.maxAge)
}
