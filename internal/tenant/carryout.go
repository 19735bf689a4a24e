package tenant

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// A verdict is always carried out in this order: write the record;
// publish and confirm a dead letter and note that in the record,
// or publish the alarm of an accepted request; acknowledge the message
// or give it back. If a step fails, the message stays in the
// queue, and the worker that gets it next continues from the record.

// carryOut does what the verdict on a look or a panic
// says; r is the record that the verdict started from.
func (d *delivery) carryOut(ctx context.Context, r record.Record, v verdict.Verdict) (becomes consume.Disposition, err error) {
	if v.Record.State != record.None {
		v.Record.Followed = v.Do == verdict.DoAck && d.t.following.on()
		if err := d.entry.put(ctx, r.State, v.Record); err != nil {
			return becomes, err
		}
	}
	return d.finish(ctx, v)
}

// finish does the rest of a verdict once its record is written.
func (d *delivery) finish(ctx context.Context, v verdict.Verdict) (becomes consume.Disposition, err error) {
	rec := d.entry.rec
	switch v.Do {
	case verdict.DoAck:
		d.report.done(metrics.OutcomeAccepted, "accepted", rec, d.life.published())
		d.t.following.announce(ctx, rec)
		return consume.Ack(), nil
	case verdict.DoNak:
		if v.Say != "" {
			d.report.say(v.Say, rec)
		}
		return d.nak(v.Until, true), nil
	case verdict.DoBury:
		return d.publishLetter(ctx)
	case verdict.DoAgain, verdict.DoCall:
	}
	return becomes, errAgain
}

// bury ends a request on the dead-letter stream.
func (d *delivery) bury(ctx context.Context, reason verdict.Reason, detail string) (becomes consume.Disposition, err error) {
	r := d.entry.base()
	if err := d.entry.put(ctx, r.State, verdict.Burying(r, reason, detail)); err != nil {
		return becomes, err
	}
	return d.publishLetter(ctx)
}

// publishLetter publishes the dead letter that the record announces. A worker that
// another one has overtaken has failed before, at the record, and publishes none.
func (d *delivery) publishLetter(ctx context.Context) (becomes consume.Disposition, err error) {
	e := &d.entry
	if becomes, ok := d.letter(ctx, e.rec); !ok {
		return becomes, nil
	}
	r := verdict.Dead(e.rec, time.Now())
	switch err := e.put(ctx, e.rec.State, r); {
	case errors.Is(err, record.ErrConflict):
		// Another worker continued with the same letter, and a later message may have
		// claimed the device by now; or a value that is not a record hides this one.
	case err != nil:
		return becomes, err
	case !r.AttemptedAt.IsZero() && r.UnknownFrom().IsZero():
		d.claim.drop(ctx)
	}
	d.report.dead(r, d.life.published())
	return consume.Ack(), nil
}

// letter publishes the dead letter of a request. If it cannot be stored, ok is false,
// and the message is given back.
func (d *delivery) letter(ctx context.Context, r record.Record) (becomes consume.Disposition, ok bool) {
	err := d.t.cfg.Letters.Publish(ctx, deadletter.Original{
		Subject: d.m.Subject, Header: d.m.Header, Data: d.m.Data,
		Stream: d.m.Stream, Sequence: d.m.Sequence, Published: d.m.Published,
	}, letterOf(r, d.req.Key()))
	if err == nil {
		return becomes, true
	}
	d.t.cfg.Log.Error("the dead letter could not be published; the request stays in the queue and is tried again",
		zap.String("request_id", d.req.ID), zap.String("reason", r.Reason), zap.Error(err))
	return d.nak(time.Now().Add(d.t.cfg.Policy.Backoff(int(min(d.m.Delivered, 16)), d.entry.key)), true), false
}

// letterOf is what the dead letter says about a request.
func letterOf(r record.Record, requestID string) deadletter.Letter {
	return deadletter.Letter{
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

// refuse makes a dead letter of a message that is not a request.
// It reads the record first: if the id belongs to another
// request, it leaves that record alone. The message is invalid
// on every delivery, so its letter does not depend on a record.
func (d *delivery) refuse(ctx context.Context, invalid error) (becomes consume.Disposition, err error) {
	e := &d.entry
	if err := e.load(ctx); err != nil {
		return becomes, err
	}
	switch {
	case e.mine() && e.rec.State == record.Dead, d.req.IDGiven && e.rec.HasEnded(e.own):
		return consume.Ack(), nil
	case e.mine() && e.rec.Burying:
		return d.publishLetter(ctx)
	case e.garbled:
	case e.mine(), e.rec.State == record.None:
		return d.bury(ctx, verdict.ReasonInvalidRequest, invalid.Error())
	}
	r := e.own
	r.State, r.Reason, r.Detail = record.Dead, string(verdict.ReasonInvalidRequest), invalid.Error()
	if becomes, ok := d.letter(ctx, r); !ok {
		return becomes, nil
	}
	d.report.dead(r, d.life.published())
	return consume.Ack(), nil
}

// panicked gives back a request whose handling panicked, or makes a dead letter
// of it once that has happened too often.
func (d *delivery) panicked(ctx context.Context, p any, stack []byte) (becomes consume.Disposition) {
	log, e := d.t.cfg.Log, &d.entry
	becomes = consume.Nak(d.t.cfg.Policy.BackoffMax)
	defer func() {
		if again := recover(); again != nil {
			log.Error("the handling of a panic panicked as well", zap.Any("panic", again))
		}
	}()
	d.t.gate.Hold.Done(d.m.Sequence)
	log.Error("the handling of a request panicked", zap.Any("panic", p), zap.ByteString("stack", stack),
		zap.String("request_id", d.req.ID), zap.String("device", d.req.DeviceID))
	if e.store == nil {
		return becomes
	}
	if err := e.load(ctx); err != nil {
		return d.trouble(err)
	}
	if e.garbled || e.rec.State.InProgress() && !e.mine() || e.rec.State == record.Accepted {
		return becomes // another message's business
	}
	r := e.base()
	done, err := d.carryOut(ctx, r, d.t.cfg.Policy.OfPanic(r, time.Now()))
	switch {
	case errors.Is(err, record.ErrConflict):
		return becomes
	case err != nil:
		return d.trouble(err)
	}
	return done
}
