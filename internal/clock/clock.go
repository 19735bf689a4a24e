// Package clock converts instants between this machine's clock and that of the NATS
// server. What replicas tell each other is by the server's clock: a worker that goes
// on with another one's request would else compare the clocks of two machines.
package clock

import (
	"sync/atomic"
	"time"
)

// Clock knows how far the server's clock is ahead of this machine's. The zero Clock
// takes them to be the same.
type Clock struct{ reading atomic.Pointer[reading] }

// Set takes a reading over if it says more than what is known: how far the
// server is ahead, and by how much that may be wrong.
func (c *Clock) Set(ahead, within time.Duration) {
	next := &reading{ahead: ahead, within: within, at: time.Now()}
	for {
		known := c.reading.Load()
		if known != nil && !next.replaces(*known) || c.reading.CompareAndSwap(known, next) {
			return
		}
	}
}

// Ahead is how far the server is ahead; 0 as long as that is not known.
func (c *Clock) Ahead() time.Duration {
	if r := c.reading.Load(); r != nil {
		return r.ahead
	}
	return 0
}

// Known reports whether a reading was taken.
func (c *Clock) Known() bool { return c.reading.Load() != nil }

// Local is an instant of the server's by this machine's clock. The zero instant
// stays zero.
func (c *Clock) Local(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(-c.Ahead())
}

// Within is by how much [Clock.Local] and [Clock.Remote] may be wrong now; 0 as long as
// nothing is known.
func (c *Clock) Within() time.Duration {
	if r := c.reading.Load(); r != nil {
		return r.still(time.Now())
	}
	return 0
}

// Remote is an instant of this machine's by the server's clock. The zero instant
// stays zero.
func (c *Clock) Remote(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(c.Ahead()).UTC()
}

// reading is how far a clock is ahead of this machine's, by an answer that took
// twice as long as that may be wrong.
type reading struct {
	ahead, within time.Duration
	at            time.Time
}

// drift is by how much two clocks may go apart in each second: more than a
// quartz does, and about as fast as NTP may turn one.
const drift = 500 * time.Microsecond

// replaces reports whether a reading is to be used in place of an earlier one. It is
// at least as exact as that one still is, or contradicts it: then a clock was
// set.
func (r reading) replaces(earlier reading) bool {
	still := earlier.still(r.at)
	return r.within <= still || (r.ahead-earlier.ahead).Abs() > r.within+still
}

// still is by how much the reading may be wrong at an instant after it.
func (r reading) still(now time.Time) time.Duration {
	return r.within + time.Duration(max(0, now.Sub(r.at).Seconds())*float64(drift))
}
