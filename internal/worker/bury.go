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

// buryInvalid makes a dead letter of a message that is no request. Its record
// is read first: the id may be that of a good request, which keeps its record.
func (j *job) buryInvalid(work context.Context, invalid error) consume.Disposition {
	if err := j.load(work); err != nil {
		return j.trouble(err)
	}
	if j.rec.Same(j.origin()) && j.rec.State == record.Dead {
		return consume.Ack()
	}
	return j.bury(work, metrics.ReasonInvalidRequest, invalid.Error())
}

// bury ends a request on the dead-letter stream, in this order: the letter is
// published and confirmed, the record says dead, the message is acknowledged.
// A step that fails leaves the message in the queue; done again, each step
// finds what is there already.
func (j *job) bury(work context.Context, reason metrics.Reason, detail string) consume.Disposition {
	own := j.rec.State == record.None || j.rec.State == record.Dead || j.rec.Same(j.origin()) || !j.req.IDGiven
	r := j.base()
	r.State, r.Reason, r.Detail = record.Dead, string(reason), detail
	if reason == metrics.ReasonOutcomeUnknown {
		// What is unknown is the outcome of this attempt, even if an earlier
		// message made it; without it nobody could find out later.
		r.AttemptedAt, r.ClientRequestID = j.rec.AttemptedAt, j.rec.ClientRequestID
		r.Status, r.GraphRequestID = j.rec.Status, j.rec.GraphRequestID
	}
	r.FinishedAt, r.NextAt = time.Now().UTC(), time.Time{}
	err := j.letters.Publish(work, j.m, consume.Letter{
		Reason:          r.Reason,
		Detail:          r.Detail,
		Attempts:        r.Attempts,
		Status:          r.Status,
		RequestID:       j.req.Key(),
		GraphRequestID:  r.GraphRequestID,
		ClientRequestID: r.ClientRequestID,
	})
	if err != nil {
		j.log.Error("the dead letter could not be published; the request stays in the queue",
			zap.String("request_id", j.req.ID), zap.String("reason", r.Reason), zap.Error(err))
		return j.backAt(time.Now().Add(j.policy.backoff(int(min(j.m.Delivered, 16)), j.key)), true)
	}
	for own {
		err = j.put(work, r)
		if err != nil && !errors.Is(err, record.ErrConflict) {
			return j.trouble(err)
		}
		// Another worker may have noted something about the same attempt: the
		// letter is out, so this is the end of it all the same.
		own = err != nil && j.rec.Same(r) && j.rec.State.InProgress() && j.rec.ClientRequestID == r.ClientRequestID
	}
	j.metrics.DeadLetter(reason)
	j.metrics.Request(metrics.OutcomeDead, time.Since(j.m.Published))
	j.verdict("dead letter", r)
	return consume.Ack()
}
