package worker

import (
	"sync/atomic"
	"time"

	"passcode-worker/internal/record"
)

// clock knows how far the NATS server's clock is ahead of this machine's. The
// instants in records are by that clock: a worker that goes on with another
// one's request would else compare the clocks of two machines. The zero clock
// takes them to be the same.
type clock struct{ reading atomic.Pointer[reading] }

// set takes a reading over if it says more than what is known: how far the
// server is ahead, and by how much that may be wrong.
func (c *clock) set(ahead, within time.Duration) {
	next := &reading{ahead: ahead, within: within, at: time.Now()}
	for {
		known := c.reading.Load()
		if known != nil && !next.replaces(*known) || c.reading.CompareAndSwap(known, next) {
			return
		}
	}
}

// ahead is how far the server is ahead, as far as that is known.
func (c *clock) ahead() time.Duration {
	if r := c.reading.Load(); r != nil {
		return r.ahead
	}
	return 0
}

// known reports whether a reading was taken.
func (c *clock) known() bool { return c.reading.Load() != nil }

// reading is how far a clock is ahead of this machine's, by an answer that took
// twice as long as that may be wrong.
type reading struct {
	ahead, within time.Duration
	at            time.Time
}

// drift is by how much two clocks may go apart in each second: more than a
// quartz does, and about as fast as NTP may turn one.
const drift = 500 * time.Microsecond

// replaces tells that a reading is to be used in place of an earlier one. It is
// at least as exact as that one still is, or contradicts it: then a clock was
// set.
func (r reading) replaces(earlier reading) bool {
	still := earlier.within + time.Duration(max(0, r.at.Sub(earlier.at).Seconds())*float64(drift))
	return r.within <= still || (r.ahead-earlier.ahead).Abs() > r.within+still
}

// local is an instant of the server's by this machine's clock. The zero instant
// stays zero.
func (c *clock) local(t time.Time) time.Time { return shift(t, -c.ahead()) }

// remote is an instant of this machine's by the server's clock. The zero instant
// stays zero.
func (c *clock) remote(t time.Time) time.Time {
	return shift(t, c.ahead()).UTC()
}

// read turns a record's instants into this machine's. ReceivedAt stays as it
// is: it identifies the message.
func (c *clock) read(r record.Record) record.Record {
	return shifted(r, -c.ahead())
}

// written turns a record's instants into the server's.
func (c *clock) written(r record.Record) record.Record {
	return shifted(r, c.ahead())
}

func shifted(r record.Record, by time.Duration) record.Record {
	for _, t := range []*time.Time{&r.AttemptedAt, &r.UnknownSince, &r.AbsentSince, &r.NextAt, &r.FinishedAt} {
		*t = shift(*t, by)
	}
	return r
}

func shift(t time.Time, by time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(by)
}
