package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// A verdict is carried out in one order: the record says what becomes of the
// request; a dead letter is published and confirmed, and the record says so, or the
// alarm of an accepted request is; the message is acknowledged or given back. A step that fails leaves the message in
// the queue, and whoever gets it next goes on from the record.

// carryOut writes down what became of the attempt that this delivery has made,
// and does what the verdict says. Should another worker have touched the record
// meanwhile, what was seen here still counts as long as the record is about the
// same attempt: then it is decided once more, on the record as it is now.
func (d *delivery) carryOut(ctx context.Context, before record.Record, a verdict.Answer) (consume.Disposition, error) {
	var v verdict.Verdict
	err := d.settle(ctx, func(r record.Record) record.Record {
		if v = d.t.policy.OfCall(before, r, a); v.Do == verdict.DoAck {
			o := d.origin() // another message may have adopted the record
			v.Record.Stream, v.Record.Sequence, v.Record.ReceivedAt = o.Stream, o.Sequence, o.ReceivedAt
			v.Record.Followed = d.t.following.on()
		}
		return v.Record
	})
	if err != nil {
		// The record still says that an attempt was made. Whoever gets the
		// message next will find out what became of it.
		return consume.Disposition{}, err
	}
	return d.finish(ctx, v)
}

// vetoed takes an attempt back that was not made after all.
func (d *delivery) vetoed(ctx context.Context, before record.Record) error {
	return d.settle(ctx, func(r record.Record) record.Record { return verdict.Vetoed(before, r) })
}

// carryOutLook does what the verdict on a look or a panic says; r is the record
// that it went on from.
func (d *delivery) carryOutLook(ctx context.Context, r record.Record, v verdict.Verdict) (becomes consume.Disposition, err error) {
	if v.Record.State != record.None {
		v.Record.Followed = v.Do == verdict.DoAck && d.t.following.on()
		if err := d.put(ctx, r.State, v.Record); err != nil {
			return becomes, err
		}
	}
	return d.finish(ctx, v)
}

// finish does what is left of a verdict once its record is written.
func (d *delivery) finish(ctx context.Context, v verdict.Verdict) (becomes consume.Disposition, err error) {
	switch v.Do {
	case verdict.DoAck:
		d.t.metrics.Request(metrics.OutcomeAccepted, time.Since(d.published()))
		d.report("accepted", d.rec)
		d.follow(ctx)
		return consume.Ack(), nil
	case verdict.DoNak:
		if v.Say != "" {
			d.report(v.Say, d.rec)
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
	r := d.base()
	if err := d.put(ctx, r.State, verdict.Burying(r, reason, detail)); err != nil {
		return becomes, err
	}
	return d.publishLetter(ctx)
}

// publishLetter publishes the dead letter that the record announces. A worker that
// another one has overtaken has failed before, at the record, and publishes none.
func (d *delivery) publishLetter(ctx context.Context) (becomes consume.Disposition, err error) {
	if err := d.t.letters.Publish(ctx, originalOf(d.m), letterOf(d.rec, d.req.Key())); err != nil {
		return d.unburied(d.rec, err), nil
	}
	r := verdict.Dead(d.rec, time.Now())
	switch err := d.put(ctx, d.rec.State, r); {
	case errors.Is(err, record.ErrConflict):
		// Another worker went on with the same letter, and the device may be
		// claimed for a later message by now; or what is no record hides this one.
	case err != nil:
		return becomes, err
	case !r.AttemptedAt.IsZero() && r.UnknownFrom().IsZero():
		d.dropDevice(ctx)
	}
	return d.buried(r), nil
}

// refuse makes a dead letter of a message that is no request. Its record is
// read first: the id may be another request's, whose record it then leaves
// alone. That this message is no request stays true however often it comes, so
// its letter needs no record to be sure of.
func (d *delivery) refuse(ctx context.Context, invalid error) (becomes consume.Disposition, err error) {
	if err := d.load(ctx); err != nil {
		return becomes, err
	}
	same := d.rec.Same(d.origin())
	switch {
	case same && d.rec.State == record.Dead, d.req.IDGiven && d.rec.HasEnded(d.origin()):
		return consume.Ack(), nil
	case same && d.rec.Burying:
		return d.publishLetter(ctx)
	case d.garbled:
	case same, d.rec.State == record.None:
		return d.bury(ctx, verdict.ReasonInvalidRequest, invalid.Error())
	}
	r := d.begun()
	r.State, r.Reason, r.Detail = record.Dead, string(verdict.ReasonInvalidRequest), invalid.Error()
	if err := d.t.letters.Publish(ctx, originalOf(d.m), letterOf(r, d.req.Key())); err != nil {
		return d.unburied(r, err), nil
	}
	return d.buried(r), nil
}

// panicked gives back a request whose handling panicked, or makes a dead letter
// of it once that has happened too often.
func (d *delivery) panicked(ctx context.Context, p any, stack []byte) (becomes consume.Disposition) {
	becomes = consume.Nak(d.t.policy.BackoffMax)
	defer func() {
		if again := recover(); again != nil {
			d.t.log.Error("handling a panic panicked", zap.Any("panic", again))
		}
	}()
	d.t.hold.Done(d.m.Sequence)
	d.t.log.Error("panic while a request was handled", zap.Any("panic", p), zap.ByteString("stack", stack),
		zap.String("request_id", d.req.ID), zap.String("device", d.req.DeviceID))
	if d.store == nil {
		return becomes
	}
	if err := d.load(ctx); err != nil {
		return d.trouble(err)
	}
	if d.garbled || d.rec.State.InProgress() && !d.rec.Same(d.origin()) || d.rec.State == record.Accepted {
		return becomes // another message's business
	}
	r := d.base()
	done, err := d.carryOutLook(ctx, r, d.t.policy.OfPanic(r, time.Now()))
	switch {
	case errors.Is(err, record.ErrConflict):
		return becomes
	case err != nil:
		return d.trouble(err)
	}
	return done
}

// origin is what the record of this very message says of where it came from.
func (d *delivery) origin() record.Record {
	return record.Record{Stream: d.m.Stream, Sequence: d.m.Sequence, ReceivedAt: d.m.Published.UTC()}
}

// begun is the record of this request as it is before its first attempt.
func (d *delivery) begun() record.Record {
	r := d.origin()
	r.ID, r.Tenant, r.ManagedDeviceID = d.req.ID, d.t.name, d.req.DeviceID
	r.Worker = d.t.host
	r.RequestedBy, r.RequestReason, r.Traceparent = d.req.RequestedBy, d.req.Reason, d.req.Traceparent
	return r
}

// base is the record to go on from: the present one, or a new one where that
// is about an earlier message.
func (d *delivery) base() record.Record {
	switch {
	case d.garbled:
		r := d.begun()
		r.UnknownSince = d.published() // it may have been called at any time since
		return r
	case d.rec.State != record.None && d.rec.Same(d.origin()):
		return d.rec
	case d.req.IDGiven:
		return verdict.TakenUp(d.begun(), d.rec)
	}
	return d.begun()
}

func (d *delivery) load(ctx context.Context) error {
	r, rev, err := d.store.Get(ctx, d.key)
	if d.garbled = errors.Is(err, record.ErrGarbled); err != nil && !d.garbled {
		return err
	}
	d.rec, d.rev, d.known = d.t.clock.read(r), rev, true
	return nil
}

// put writes the record as the next revision. from is the state it comes from:
// none, where it begins anew over the record of an earlier message. After
// [record.ErrConflict] the record is what the bucket says now.
func (d *delivery) put(ctx context.Context, from record.State, r record.Record) error {
	if !from.CanBecome(r.State) {
		return fmt.Errorf("a record cannot go from %q to %q", from, r.State)
	}
	r.Worker = d.t.host
	rev, err := d.store.Put(ctx, d.key, d.t.clock.written(r), d.rev)
	if errors.Is(err, record.ErrConflict) {
		d.known = false
		d.rec, d.rev = record.Record{}, 0
		if loadErr := d.load(ctx); loadErr != nil {
			return loadErr
		}
		return record.ErrConflict
	}
	if err != nil {
		return err
	}
	d.rec, d.rev, d.known, d.garbled = r, rev, true, false
	return nil
}

// settle writes down what became of the attempt that this delivery has made, as
// long as the record is about that attempt.
func (d *delivery) settle(ctx context.Context, change func(record.Record) record.Record) error {
	made := d.rec
	for {
		err := d.put(ctx, d.rec.State, change(d.rec))
		if !errors.Is(err, record.ErrConflict) {
			return err
		}
		switch {
		case d.rec.State == record.None:
			// The record was lost with its bucket; what is known is not.
			if err := d.put(ctx, record.None, change(made)); !errors.Is(err, record.ErrConflict) {
				return err
			}
		case d.rec.ClientRequestID != made.ClientRequestID || !d.rec.State.InProgress() || d.rec.Burying:
			return record.ErrConflict
		}
	}
}
