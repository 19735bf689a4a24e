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
type clock struct{ ahead atomic.Int64 }

// set notes how far the server is ahead.
func (c *clock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// local is an instant of the server's by this machine's clock. The zero instant
// stays zero.
func (c *clock) local(t time.Time) time.Time { return shift(t, -time.Duration(c.ahead.Load())) }

// remote is an instant of this machine's by the server's clock. The zero instant
// stays zero.
func (c *clock) remote(t time.Time) time.Time {
	return shift(t, time.Duration(c.ahead.Load())).UTC()
}

// read turns a record's instants into this machine's. ReceivedAt stays as it
// is: it identifies the message.
func (c *clock) read(r record.Record) record.Record {
	return shifted(r, -time.Duration(c.ahead.Load()))
}

// written turns a record's instants into the server's.
func (c *clock) written(r record.Record) record.Record {
	return shifted(r, time.Duration(c.ahead.Load()))
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
