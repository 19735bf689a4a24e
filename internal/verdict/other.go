package verdict

import (
	"time"

	"passcode-worker/internal/record"
)

// Orphaned is the record of a call whose worker is gone: its outcome is unknown.
func (p Policy) Orphaned(r record.Record) record.Record {
	r.State, r.NextAt = record.Verifying, p.VerifyAt(r.AttemptedAt)
	r.MarkUnknown()
	r.Detail = "the worker that made the call is gone, so the outcome is unknown"
	return r
}

// Adopted is the record of a request in progress that another message takes over,
// because its own was removed. o says where the other message comes from, and which
// device it is for.
func (p Policy) Adopted(r, o record.Record) record.Record {
	r.Ended = endedOn(o.Stream, r)
	r.Stream, r.Sequence, r.ReceivedAt = o.Stream, o.Sequence, o.ReceivedAt
	r.ManagedDeviceID, r.Burying = o.ManagedDeviceID, false
	if r.State == record.Attempting {
		r = p.Orphaned(r)
	}
	return r
}

// TakenUp is the record of a new message of an id. Of one that has died it keeps
// what the next look has to know, which messages have ended, and counts that it
// is taken up again.
func TakenUp(r, before record.Record) record.Record {
	if before.State != record.Dead {
		return r
	}
	before.End() // an earlier version did not note it
	r.Ended, r.Redrives = endedOn(r.Stream, before), before.Redrives+1
	if r.UnknownSince = before.UnknownFrom(); !r.UnknownSince.IsZero() {
		r.AttemptedAt, r.ClientRequestID, r.AbsentSince = before.AttemptedAt, before.ClientRequestID, before.AbsentSince
		r.Status, r.GraphRequestID, r.Detail = before.Status, before.GraphRequestID, before.Detail
	}
	return r
}

// endedOn is which messages of a record have ended on a stream. Where the tenant has
// moved to another one, that has numbers of its own, which may be those of messages that
// ended before.
func endedOn(stream string, r record.Record) []uint64 {
	if r.Stream != stream {
		return nil
	}
	return r.Ended
}

// OfPanic decides what becomes of a request whose handling panicked.
func (p Policy) OfPanic(r record.Record, now time.Time) Verdict {
	v := Verdict{Record: r}
	v.Record.Panics++
	if r.State == record.Attempting {
		v.Record.MarkUnknown() // the call may have been sent
	}
	if v.Record.Panics >= p.MaxAttempts {
		v.bury(ReasonUndeliverable, "the handling of the request panicked too often; the log holds the stacks")
		return v
	}
	v.Do, v.Until = DoNak, now.Add(p.Backoff(v.Record.Panics, r.ClientRequestID))
	switch {
	case r.State == record.Attempting:
		v.Record.State, v.Until = record.Verifying, p.VerifyAt(r.AttemptedAt)
	case r.State == record.None && !v.Record.UnknownFrom().IsZero():
		v.Record.State = record.Verifying
	case r.State == record.None:
		v.Record.State = record.Retrying
	}
	v.Record.NextAt, v.Record.Detail = v.Until.UTC(), "the handling of the request panicked"
	return v
}
