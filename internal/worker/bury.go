package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
)

// refuse makes a dead letter of a message that is no request. Its record is
// read first: the id may be another request's, whose record it then leaves
// alone. That this message is no request stays true however often it comes, so
// its letter needs no record to be sure of.
func (j *job) refuse(work context.Context, invalid error) consume.Disposition {
	for range maxTurns {
		if err := j.load(work); err != nil {
			return j.trouble(err)
		}
		same := j.rec.Same(j.origin())
		if same && j.rec.State == record.Dead || j.req.IDGiven && j.rec.HasEnded(j.origin()) {
			return consume.Ack()
		}
		again := j.rec.State == record.Dead && j.rec.Reason == string(metrics.ReasonInvalidRequest)
		if !j.garbled && (same || again || j.rec.State == record.None) {
			if d, done := j.bury(work, metrics.ReasonInvalidRequest, invalid.Error()); done {
				return d
			}
			continue
		}
		r := j.begun()
		r.State, r.Reason, r.Detail = record.Dead, string(metrics.ReasonInvalidRequest), invalid.Error()
		if err := j.letters.Publish(work, j.m, letterOf(r, j.req.Key())); err != nil {
			return j.unburied(r, err)
		}
		return j.buried(r)
	}
	return j.backAt(time.Now().Add(otherMin), false)
}

// bury ends a request on the dead-letter stream: the record says for what
// reason it dies, the letter is published and confirmed, the record says dead,
// the message is acknowledged. A step that fails leaves the message in the
// queue, and whoever gets it next goes on from there. A worker that another
// one has overtaken fails at the first step and publishes nothing: then done is
// false, and the delivery has to be looked at again.
func (j *job) bury(work context.Context, reason metrics.Reason, detail string) (d consume.Disposition, done bool) {
	r := j.base()
	if !r.Burying {
		from := r.State
		if from == record.None {
			r.State = record.Retrying
		}
		r.Burying, r.Reason, r.Detail, r.NextAt, r.Refusal = true, string(reason), detail, time.Time{}, ""
		if j.rec.Same(r) {
			r.Panics = j.rec.Panics
		}
		if err := j.put(work, from, r); err != nil {
			if errors.Is(err, record.ErrConflict) {
				return d, false
			}
			return j.trouble(err), true
		}
	}
	r = j.rec
	if err := j.letters.Publish(work, j.m, letterOf(r, j.req.Key())); err != nil {
		return j.unburied(r, err), true
	}
	err := j.update(work, func(r *record.Record) {
		r.State, r.Burying, r.FinishedAt = record.Dead, false, time.Now().UTC()
		r.End()
	})
	if err != nil && !errors.Is(err, record.ErrConflict) {
		return j.trouble(err), true
	}
	// A conflict means that another worker went on with the same letter.
	return j.buried(j.rec), true
}

// waitGarbled gives back a request whose record was overwritten, by something
// that is no record, until it is repaired or the request's time is over. Each
// that waits takes one of the places that the consumer has for unacknowledged
// messages, so no more than half of these wait; further ones end at once.
func (j *job) waitGarbled(work context.Context, until time.Time) (consume.Disposition, bool) {
	waits, first := j.park(j.m.Sequence, until, time.Now())
	if !waits {
		return j.giveUp(work, "too many requests with such records wait")
	}
	if first {
		j.log.Warn("the record was overwritten by something that is no record, so whether the request was done is unknown; it waits until its record is repaired or its time is over",
			zap.String("request_id", j.req.ID), zap.String("device", j.req.DeviceID), zap.String("key", j.key))
	}
	return j.backAt(until, true), true
}

// giveUp ends a request of which nobody can tell any more whether it was done.
func (j *job) giveUp(work context.Context, why string) (consume.Disposition, bool) {
	return j.bury(work, metrics.ReasonOutcomeUnknown,
		"the request's record was overwritten by something that is no record, so whether the device was reset is unknown; "+why)
}

func letterOf(r record.Record, requestID string) consume.Letter {
	return consume.Letter{
		Reason:          r.Reason,
		Detail:          r.Detail,
		Attempts:        r.Attempts,
		Status:          r.Status,
		RequestID:       requestID,
		GraphRequestID:  r.GraphRequestID,
		ClientRequestID: r.ClientRequestID,
		Redrives:        r.Redrives,
	}
}

func (j *job) buried(r record.Record) consume.Disposition {
	j.metrics.DeadLetter(metrics.Reason(r.Reason))
	j.metrics.Request(metrics.OutcomeDead, time.Since(j.published()))
	j.verdict("dead letter", r)
	return consume.Ack()
}

func (j *job) unburied(r record.Record, err error) consume.Disposition {
	j.log.Error("the dead letter could not be published; the request stays in the queue",
		zap.String("request_id", j.req.ID), zap.String("reason", r.Reason), zap.Error(err))
	return j.backAt(time.Now().Add(j.policy.backoff(int(min(j.m.Delivered, 16)), j.key)), true)
}
