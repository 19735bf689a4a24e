package tenant

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/verdict"
)

// delivery is one delivery of one request. It is used by one goroutine. It has a method for each step that [verdict.Next]
// may return, in the order of a request's
// life, so that the file reads from top to bottom.
//
// Methods that carry something out return what to do with the message,
// or an error: errAgain and [record.ErrConflict] mean that the
// delivery must be decided again, any other error that NATS failed.
type delivery struct {
	t       *Tenant
	m       consume.Message
	req     request.Request
	started time.Time

	entry  entry
	life   lifetime
	claim  deviceClaim
	report report
	// renewed: a token was rejected in this delivery.
	renewed bool
}

// errAgain means that the delivery must be decided again.
var errAgain = errors.New("look at the delivery again")

// Bounds of one delivery.
const (
	// patience is how often a message waits for another one with
	// the same id before it checks whether that one still exists.
	patience = 5
	// maxTurns bounds how often one delivery is decided anew, because another
	// worker changed the record, a token was replaced, or a look was made.
	maxTurns = 6
	// writeBefore bounds the record write before a call. After a call there is
	// no bound but the end of the process: what happened must be written down.
	writeBefore = 30 * time.Second
	// troubleWait is the wait after a failure of NATS itself.
	troubleWait = 5 * time.Second
	// turnsWait is the wait of a delivery that has had all its turns.
	turnsWait = time.Second
)

// of says which request is delivered.
func (d *delivery) of(req request.Request) {
	cfg := &d.t.cfg
	d.req = req
	own := record.Record{
		Stream: d.m.Stream, Sequence: d.m.Sequence, ReceivedAt: d.m.Published.UTC(),
		ID: req.ID, Tenant: cfg.Name, ManagedDeviceID: req.DeviceID, Worker: cfg.Host,
		RequestedBy: req.RequestedBy, RequestReason: req.Reason, Traceparent: req.Traceparent,
	}
	d.entry = entry{store: cfg.Stores().Records, clock: d.t.Clock, key: record.Key(cfg.Name, req.Key()), own: own, idGiven: req.IDGiven}
	d.life = lifetime{clock: d.t.Clock, stored: d.m.Published, notAfter: req.NotAfter, maxAge: cfg.Policy.MaxAge}
	d.claim = deviceClaim{cfg: cfg, entry: &d.entry}
	d.report = report{cfg: cfg, own: &d.entry.own, started: d.started}
}

// run works on the request until its message can be given back or acknowledged.
// soft ends when no further call may begin, hard when the process must end.
// invalid says why the message is not a request; nil if it is one.
func (d *delivery) run(soft, hard context.Context, invalid error) consume.Disposition {
	if d.entry.store == nil {
		return consume.Nak(troubleWait)
	}
	d.report.begin(int(d.m.Delivered))
	defer d.report.end()
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
func (d *delivery) turn(soft, hard context.Context) (becomes consume.Disposition, err error) {
	e := &d.entry
	// A guess must neither claim a device nor count for the fuse:
	// a message whose request was accepted before makes no call.
	if !e.known && (d.m.Delivered > 1 || d.t.cfg.Cooldown > 0 || d.t.gate.Fuse.On()) {
		if err := e.load(hard); err != nil {
			return becomes, err
		}
	}
	now := time.Now()
	plan := verdict.Next(verdict.Delivery{Record: e.rec, Self: e.own, Garbled: e.garbled,
		IDGiven: d.req.IDGiven, Expires: d.life.end(), Now: now})
	switch plan.Step {
	case verdict.StepAck:
		if e.rec.State == record.Accepted && e.mine() {
			d.t.following.announce(hard, e.rec) // the worker may have ended before it did
		}
		return consume.Ack(), nil
	case verdict.StepDuplicate:
		d.report.done(metrics.OutcomeDuplicate, "duplicate: the request was accepted before", e.rec, d.life.published())
		return consume.Ack(), nil
	case verdict.StepWait:
		return d.nak(plan.Until, true), nil
	case verdict.StepWaitForOther:
		return d.waitForOther(hard, plan.Until)
	case verdict.StepAwaitRepair:
		return d.awaitRepair(hard, plan.Until)
	case verdict.StepGiveUp:
		return d.giveUp(hard, "its time is over")
	case verdict.StepExpire:
		return d.bury(hard, verdict.ReasonExpired, verdict.ExpiredDetail(d.life.why(now), e.base().Detail))
	case verdict.StepBury:
		return d.publishLetter(hard)
	case verdict.StepOrphan:
		if err := e.put(hard, e.rec.State, d.t.cfg.Policy.Orphaned(e.rec)); err != nil {
			return becomes, err
		}
		return becomes, errAgain
	case verdict.StepLook:
		return d.look(soft, hard)
	case verdict.StepAttempt:
	}
	return d.attempt(soft, hard)
}

// waitForOther waits for another message of the same id. If somebody removed that one from the stream,
// no other message would ever finish the request,
// so this delivery takes its record over.
func (d *delivery) waitForOther(hard context.Context, until time.Time) (becomes consume.Disposition, err error) {
	if d.m.Delivered <= patience {
		return d.nak(until, false), nil
	}
	e := &d.entry
	there, err := d.t.cfg.Exists(hard, e.rec.Stream, e.rec.Sequence, e.rec.ReceivedAt)
	switch {
	case err != nil:
		return becomes, err
	case there:
		return d.nak(until, false), nil
	case !d.req.IDGiven:
		// It is not even the same request: it had this
		// sequence in an earlier stream of the same name.
		e.rec = record.Record{}
	default:
		if err := e.put(hard, e.rec.State, d.t.cfg.Policy.Adopted(e.rec, e.own)); err != nil {
			return becomes, err
		}
	}
	return becomes, errAgain
}

// awaitRepair gives back a request whose record was overwritten by something that
// is not a record, until the record is repaired or the request's time is over.
// Each waiting request occupies one of the consumer's places for unacknowledged
// messages, so at most half of the places may wait; further requests end at once.
func (d *delivery) awaitRepair(hard context.Context, until time.Time) (consume.Disposition, error) {
	waits, first := d.t.backlog.Park(d.m.Sequence, until, time.Now())
	if !waits {
		return d.giveUp(hard, "too many requests with overwritten records are waiting")
	}
	if first {
		d.t.cfg.Log.Warn("the record was overwritten by something that is not a record, so it is unknown whether the device was reset; "+
			"the request waits until its record is repaired or its time is over",
			zap.String("request_id", d.req.ID), zap.String("device", d.req.DeviceID), zap.String("key", d.entry.key))
	}
	return d.nak(until, true), nil
}

// giveUp ends a request when it can no longer be known whether it was done.
func (d *delivery) giveUp(hard context.Context, why string) (consume.Disposition, error) {
	return d.bury(hard, verdict.ReasonOutcomeUnknown,
		"the request's record was overwritten by something that is not a record, so it is unknown whether the device was reset; "+why)
}

// attempt makes one call, with a record before it and one after.
func (d *delivery) attempt(soft, hard context.Context) (consume.Disposition, error) {
	l, until, ok := askLeave(soft, hard, d.t, d.m.Sequence, true)
	if !ok {
		return d.nak(until, false), nil
	}
	defer l.end()
	return d.call(soft, hard, l)
}

// look reads the result of the last call from Graph. If
// an attempt follows, it follows at once, to leave as little
// time as possible for a late effect of the last call.
func (d *delivery) look(soft, hard context.Context) (becomes consume.Disposition, err error) {
	r, policy := d.entry.base(), d.t.cfg.Policy
	// A look itself needs no slot: Graph has a separate limit for
	// reading, ten times as high. The attempt that may follow needs one.
	now := time.Now()
	l, until, ok := askLeave(soft, hard, d.t, d.m.Sequence, r.Refusal == "" && policy.LookDecides(r, now) && !d.life.over(now))
	if !ok {
		return d.nak(until, false), nil
	}
	defer l.end()
	reads := d.t.Looks.Reads
	sent := time.Now()
	call := graph.Call{
		Token:           l.token,
		ClientRequestID: uuid.NewString(),
		Deadline:        sent.Add(policy.RequestTimeout),
		May: func() bool {
			_, closed := l.closed(soft)
			return !closed && reads.Paused().IsZero()
		},
	}
	actions, err := d.t.cfg.Graph.Actions(hard, r.ManagedDeviceID, call)
	if errors.Is(err, graph.ErrHeldBack) {
		until, _ := l.closed(soft)
		return d.nak(later(until, reads.Paused()), true), nil
	}
	failure := graph.FailureOf(err)
	d.report.look(sent, r.Attempts, call, actions.Answer, failure)
	seen := d.observe(l, sent, actions.Answer, failure).ofLook(soft, hard, actions)
	v := policy.OfLook(r, seen)
	if v.Verification != "" {
		d.t.cfg.Metrics.Verification(v.Verification)
	}
	if v.Do != verdict.DoCall {
		return d.carryOut(hard, r, v)
	}
	if l.slot == nil { // that this look would decide was not foreseen
		if until, ok := l.reserve(soft); !ok {
			return d.nak(until, false), nil
		}
	}
	l.looked = seen.Now
	return d.call(soft, hard, l)
}

// call makes the attempt of a request that has leave for it.
func (d *delivery) call(soft, hard context.Context, l *leave) (becomes consume.Disposition, err error) {
	// The deadline counts from before the claim on the device: if the process
	// is stopped after writing the claim, the claim must still outlast the call.
	e := &d.entry
	before, now := e.base(), time.Now()
	write, cancel := context.WithTimeout(hard, writeBefore)
	defer cancel()
	if becomes, ok, err := d.guard(write, now); !ok {
		return becomes, err
	}
	call := graph.Call{
		Token:           l.token,
		ClientRequestID: uuid.NewString(),
		Deadline:        now.Add(d.t.cfg.Policy.RequestTimeout),
		May: func() bool {
			_, closed := l.closed(soft)
			now := time.Now()
			return !closed && !d.life.over(now) && l.allows(now)
		},
	}
	if err := e.put(write, before.State, verdict.Attempt(before, call.ClientRequestID, now)); err != nil {
		return becomes, err
	}
	defer d.t.claims.call(call.ClientRequestID)()
	sent := time.Now()
	answer, err := d.t.cfg.Graph.Reset(hard, graph.Target{Device: d.req.DeviceID, User: d.req.UserID, App: d.req.AppID}, call)
	if errors.Is(err, graph.ErrHeldBack) {
		until, closed := l.closed(soft)
		if err := e.settle(hard, func(r record.Record) record.Record { return verdict.Vetoed(before, r) }); err != nil {
			return becomes, err
		}
		if closed {
			return d.nak(until, false), nil
		}
		return becomes, errAgain
	}
	failure := graph.FailureOf(err)
	d.report.attempt(sent, e.rec.Attempts, call, answer, failure)
	a := d.observe(l, sent, answer, failure).ofCall(soft, hard)
	var v verdict.Verdict
	err = e.settle(hard, func(r record.Record) record.Record {
		if v = d.t.cfg.Policy.OfCall(before, r, a); v.Do == verdict.DoAck {
			// Another message may have adopted the record.
			v.Record.Stream, v.Record.Sequence, v.Record.ReceivedAt = e.own.Stream, e.own.Sequence, e.own.ReceivedAt
			v.Record.Followed = d.t.following.on()
		}
		return v.Record
	})
	if err != nil {
		// The record still says that an attempt was made. The
		// worker that gets the message next looks up its outcome.
		return becomes, err
	}
	return d.finish(hard, v)
}

// guard lets a call that is about to be made through, unless another request
// has the device or the fuse blows. If ok is false, becomes says what
// to do with the message, or err says that the delivery must be decided again.
func (d *delivery) guard(ctx context.Context, now time.Time) (becomes consume.Disposition, ok bool, err error) {
	step, at, err := d.claim.take(ctx, now)
	if step == verdict.DeviceFree || step == verdict.DeviceCools {
		d.t.backlog.Unpark(d.m.Sequence)
	}
	switch {
	case err != nil:
		return becomes, false, err
	case step == verdict.DeviceCools:
		becomes, err = d.bury(ctx, verdict.ReasonCooldown, fmt.Sprintf("another request reset the device %s ago, less than %s",
			now.Sub(at).Round(time.Second), d.t.cfg.Cooldown))
		return becomes, false, err
	case step == verdict.DeviceWait:
		// Waiting requests must not take all places from others.
		if waits, _ := d.t.backlog.Park(d.m.Sequence, at, now); !waits {
			becomes, err = d.bury(ctx, verdict.ReasonCooldown, "too many requests are waiting for devices that other requests may be resetting")
			return becomes, false, err
		}
		return d.nak(at, false), false, nil
	}
	if !d.t.gate.Admit(d.req.DeviceID, now) {
		if d.entry.base().UnknownFrom().IsZero() { // else an earlier call may have reset it
			d.claim.drop(ctx)
		}
		return d.nak(now.Add(fuseWait), false), false, nil
	}
	return becomes, true, nil
}

// nak gives the message back until an instant. retrying means that the
// request will be tried again then, not that it waits for its first turn.
func (d *delivery) nak(at time.Time, retrying bool) consume.Disposition {
	if retrying {
		d.t.backlog.Wait(d.m.Sequence, at)
	}
	return consume.Nak(time.Until(at))
}

// trouble gives the message back after a failure of NATS.
func (d *delivery) trouble(err error) consume.Disposition {
	d.t.cfg.Log.Error("the record could not be read or written; the request goes back to the queue",
		zap.String("request_id", d.req.ID), zap.String("device", d.req.DeviceID), zap.Error(err))
	return consume.Nak(troubleWait)
}
