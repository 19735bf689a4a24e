package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/devices"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/trace"
	"passcode-worker/internal/verdict"
)

// delivery is one delivery of one request. It is used by one goroutine.
//
// Its functions that carry something out return what becomes of the message, or
// an error: errAgain and [record.ErrConflict] mean that the delivery has to be
// looked at once more, any other that NATS failed.
type delivery struct {
	t       *tenant
	store   *record.Store
	m       consume.Message
	req     request.Request
	key     string
	started time.Time
	trace   *trace.Delivery // nil: none

	// known: rec and rev are what the bucket says. On a first delivery they are
	// guessed to be nothing, which the first write proves.
	known bool
	rec   record.Record
	rev   uint64
	// garbled: the key holds values, but none is a record; rec is empty then.
	garbled bool
	// renewed: a token was rejected in this delivery.
	renewed bool
	// claim is the claim on the device as this delivery has written it; zero: it
	// has not.
	claim devices.Claim
}

// errAgain means that the delivery has to be looked at once more.
var errAgain = errors.New("look at the delivery again")

// Bounds of one delivery.
const (
	// patience is how often a message waits for another one with the same id
	// before it looks whether that one still exists.
	patience = 5
	// maxTurns bounds how often a delivery is looked at, because the record was
	// changed by another, a token replaced, or a look made.
	maxTurns = 6
	// writeBefore bounds the record write before a call. After a call there is
	// no bound but the end of the process: what happened must be written down.
	writeBefore = 30 * time.Second
	// fuseWait is how long a request stays away that a blown fuse has sent back.
	fuseWait = 10 * time.Second
	// troubleWait is the wait after a failure of NATS itself.
	troubleWait = 5 * time.Second
	// turnsWait is the wait of a delivery that has had all its turns.
	turnsWait = time.Second
)

// run works on the request until its message can be given back or acknowledged.
// soft ends when no further call is to be begun, hard when the process must end.
// invalid says why the message is no request; nil: it is one.
func (d *delivery) run(soft, hard context.Context, invalid error) consume.Disposition {
	if d.store == nil {
		return consume.Nak(troubleWait)
	}
	if d.t.tracer != nil {
		d.trace = d.t.tracer.Receive(d.message())
		defer d.trace.End()
	}
	for range maxTurns {
		var becomes consume.Disposition
		var err error
		switch {
		case invalid != nil:
			becomes, err = d.refuse(hard, invalid)
		case soft.Err() != nil:
			return consume.Nak(0)
		default:
			becomes, err = d.turn(soft, hard)
		}
		switch {
		case err == nil:
			return becomes
		case !errors.Is(err, errAgain) && !errors.Is(err, record.ErrConflict):
			return d.trouble(err)
		}
	}
	return d.nak(time.Now().Add(turnsWait), false)
}

// turn takes the next step.
func (d *delivery) turn(soft, hard context.Context) (consume.Disposition, error) {
	// A guess must not claim a device, or count for the fuse: a message whose
	// request was accepted before makes no call.
	if !d.known && (d.m.Delivered > 1 || d.t.cooldown > 0 || d.t.fuse.On()) {
		if err := d.load(hard); err != nil {
			return consume.Disposition{}, err
		}
	}
	now := time.Now()
	plan := verdict.Next(verdict.Delivery{Record: d.rec, Self: d.origin(), Garbled: d.garbled,
		IDGiven: d.req.IDGiven, Expires: d.expires(), Now: now})
	switch plan.Step {
	case verdict.StepAck:
		if d.rec.State == record.Accepted && d.rec.Same(d.origin()) {
			d.follow(hard) // the worker may have ended before it did
		}
		return consume.Ack(), nil
	case verdict.StepDuplicate:
		return d.duplicate(), nil
	case verdict.StepWait:
		return d.nak(plan.Until, true), nil
	case verdict.StepWaitForOther:
		return d.waitForOther(hard, plan.Until)
	case verdict.StepAwaitRepair:
		return d.awaitRepair(hard, plan.Until)
	case verdict.StepGiveUp:
		return d.giveUp(hard, "its time is over")
	case verdict.StepExpire:
		return d.bury(hard, verdict.ReasonExpired, verdict.ExpiredDetail(d.expiry(now), d.base().Detail))
	case verdict.StepBury:
		return d.publishLetter(hard)
	case verdict.StepOrphan:
		if err := d.put(hard, d.rec.State, d.t.policy.Orphaned(d.rec)); err != nil {
			return consume.Disposition{}, err
		}
		return consume.Disposition{}, errAgain
	case verdict.StepLook:
		return d.look(soft, hard)
	case verdict.StepAttempt:
	}
	return d.attempt(soft, hard)
}

// waitForOther waits for another message of the same id, unless that one is gone.
func (d *delivery) waitForOther(hard context.Context, until time.Time) (consume.Disposition, error) {
	if d.m.Delivered > patience {
		if adopted, err := d.adopt(hard); err != nil {
			return consume.Disposition{}, err
		} else if adopted {
			return consume.Disposition{}, errAgain
		}
	}
	return d.nak(until, false), nil
}

// adopt takes over the record of a request in progress whose own message is no
// longer on the stream, because somebody removed it: nobody else would ever
// bring that request to its end. It reports whether it did.
func (d *delivery) adopt(ctx context.Context) (bool, error) {
	there, err := d.t.exists(ctx, d.rec.Stream, d.rec.Sequence, d.rec.ReceivedAt)
	if there || err != nil {
		return false, err
	}
	if !d.req.IDGiven {
		// Not even the request is the same: it had the sequence on an earlier
		// stream of this name.
		d.rec = record.Record{}
		return true, nil
	}
	return true, d.put(ctx, d.rec.State, d.t.policy.Adopted(d.rec, d.begun()))
}

// awaitRepair gives back a request whose record was overwritten, by something
// that is no record, until it is repaired or the request's time is over. Each
// that waits takes one of the places that the consumer has for unacknowledged
// messages, so no more than half of these wait; further ones end at once.
func (d *delivery) awaitRepair(hard context.Context, until time.Time) (consume.Disposition, error) {
	waits, first := d.t.park(d.m.Sequence, until, time.Now())
	if !waits {
		return d.giveUp(hard, "too many requests with such records wait")
	}
	if first {
		d.t.log.Warn("the record was overwritten by something that is no record, so whether the request was done is unknown; "+
			"the request waits until its record is repaired or its time is over",
			zap.String("request_id", d.req.ID), zap.String("device", d.req.DeviceID), zap.String("key", d.key))
	}
	return d.nak(until, true), nil
}

// giveUp ends a request of which nobody can tell any more whether it was done.
func (d *delivery) giveUp(hard context.Context, why string) (consume.Disposition, error) {
	return d.bury(hard, verdict.ReasonOutcomeUnknown,
		"the request's record was overwritten by something that is no record, so whether the device was reset is unknown; "+why)
}

// published is when the stream stored the message, by this machine's clock.
func (d *delivery) published() time.Time { return d.t.clock.local(d.m.Published) }

// expires is when the request's time is over, by this machine's clock; zero:
// never.
func (d *delivery) expires() (at time.Time) {
	if !d.req.NotAfter.IsZero() {
		// The publisher means the time of day, and not this machine's clock.
		at = d.t.clock.local(d.req.NotAfter)
	}
	if d.t.policy.MaxAge > 0 {
		if old := d.published().Add(d.t.policy.MaxAge); at.IsZero() || old.Before(at) {
			at = old
		}
	}
	return at
}

// expired reports whether the request's time is over.
func (d *delivery) expired(now time.Time) bool { return verdict.Expired(d.expires(), now) }

// expiry says why the request is too old.
func (d *delivery) expiry(now time.Time) string {
	if !d.req.NotAfter.IsZero() && now.After(d.t.clock.local(d.req.NotAfter)) {
		return "notAfter " + d.req.NotAfter.Format(time.RFC3339) + " is over"
	}
	return fmt.Sprintf("published %s ago, more than %s", now.Sub(d.published()).Round(time.Second), d.t.policy.MaxAge)
}

// nak gives the message back until an instant. retrying: it will be tried again
// then, rather than waits for its first turn.
func (d *delivery) nak(at time.Time, retrying bool) consume.Disposition {
	if retrying {
		d.t.wait(d.m.Sequence, at)
	}
	return consume.Nak(time.Until(at))
}

// trouble gives the message back after a failure of NATS.
func (d *delivery) trouble(err error) consume.Disposition {
	d.t.log.Error("the request was given back: its record could not be read or written",
		zap.String("request_id", d.req.ID), zap.String("device", d.req.DeviceID), zap.Error(err))
	return consume.Nak(troubleWait)
}
