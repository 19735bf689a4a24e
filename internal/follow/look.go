package follow

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/handover"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

// turns is how often an alarm is tried if another replica has changed the document
// meanwhile.
const turns = 3

// ring handles an alarm that is due: look, document, next alarm, acknowledgement. If a
// step fails, the alarm stays in its queue, and the worker that gets it next looks again.
func (f *Follower) ring(ctx, hard context.Context, m jetstream.Msg, a outcome.Alarm, store *outcome.Store) {
	t := f.cfg.Tenant(a.Tenant)
	if t == nil {
		back(m, againWait) // the tenant is about to be restarted
		return
	}
	defer func() {
		// A panic must not stop the resets; the alarm comes again after the ack wait.
		if p := recover(); p != nil {
			f.cfg.Log.Error("the look at a device panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()), zap.String("key", a.Key()))
		}
	}()
	var look *outcome.Look // made once, for all turns
	for range turns {
		err := f.turn(ctx, hard, m, t, a, store, &look)
		switch {
		case err == nil:
			return
		case !errors.Is(err, outcome.ErrConflict):
			if ctx.Err() == nil {
				f.cfg.Log.Debug("an alarm could not be handled; it will be delivered again", zap.String("key", a.Key()), zap.Error(err))
			}
			back(m, againWait)
			return
		}
	}
	back(m, againWait)
}

func (f *Follower) turn(ctx, hard context.Context, m jetstream.Msg, t *Tenant, a outcome.Alarm, store *outcome.Store, look **outcome.Look) error {
	c, revision, err := f.gather(ctx, t, a, store)
	if err != nil {
		return err
	}
	switch f.cfg.Policy.OfAlarm(c) {
	case outcome.DoDrop:
		return m.Ack()
	case outcome.DoLose:
		f.cfg.Observe.Lost(a.Tenant)
		f.cfg.Log.Warn("an accepted request is no longer followed, because it has no record", zap.String("key", a.Key()))
		return m.Ack()
	case outcome.DoPutBack:
		return f.next(hard, m, f.cfg.Policy.PutBack(c.Alarm, c.Now))
	case outcome.DoLook:
	}
	if *look == nil {
		l := f.lookIfOpen(ctx, t, c.Record.ManagedDeviceID)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		*look, c.Now = &l, t.now()
	}
	return f.carryOut(hard, m, store, c, revision, **look)
}

// gather reads what the decisions depend on.
func (f *Follower) gather(ctx context.Context, t *Tenant, a outcome.Alarm, store *outcome.Store) (c outcome.Case, revision uint64, err error) {
	c = outcome.Case{Alarm: a, Now: t.now()}
	records := f.cfg.Records()
	if records == nil {
		return c, 0, errors.New("the bucket of records does not exist")
	}
	c.Record, _, err = records.Get(ctx, a.Key())
	if err != nil && !errors.Is(err, record.ErrGarbled) { // a garbled record counts as none
		return c, 0, err
	}
	c.Document, revision, err = store.Get(ctx, a.Key())
	return c.Settled(), revision, err
}

// carryOut does what follows from a look: the document, then the next alarm, then the
// acknowledgement. If a step fails, the worker that gets the alarm next repeats it. ctx is
// the hard one, so that the result is stored even if the process has been told to stop.
func (f *Follower) carryOut(ctx context.Context, m jetstream.Msg, store *outcome.Store, c outcome.Case, revision uint64, l outcome.Look) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	d := f.cfg.Policy.OfLook(c, l)
	if d.Write {
		if err := f.putDocument(ctx, store, d.Document, revision); err != nil {
			return err
		}
	}
	f.observe(l, d)
	if d.Alarm != nil {
		return f.next(ctx, m, *d.Alarm)
	}
	return m.Ack()
}

func (f *Follower) observe(l outcome.Look, d outcome.Decision) {
	switch {
	case l.Failed: // counted already, by its cause
	case l.Missing:
		f.cfg.Observe.Look(outcome.ResultNotFound)
	case d.Document.Final:
		f.cfg.Observe.Look(outcome.ResultFinal)
	case d.Doubt != "":
		f.cfg.Observe.Look(outcome.ResultDoubt)
	default:
		f.cfg.Observe.Look(outcome.ResultPending)
	}
}

// next stores the next alarm, and only then acknowledges this one.
func (f *Follower) next(ctx context.Context, m jetstream.Msg, a outcome.Alarm) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	if err := Publish(ctx, f.cfg.JS, f.cfg.Names.FollowSubject, f.cfg.Names.FollowStream, a); err != nil {
		return err
	}
	return m.Ack()
}

// lookIfOpen looks at the device, unless no look is allowed now.
func (f *Follower) lookIfOpen(ctx context.Context, t *Tenant, device string) outcome.Look {
	failed := outcome.Look{Failed: true}
	places, open := f.mayLook(ctx, t)
	if !open || !t.lane.enter(places) {
		return failed
	}
	defer t.lane.leave()
	slot, err := t.Reads.Reserve(ctx)
	if err != nil {
		return failed // the quota is used up; the alarm is put back
	}
	defer slot.Release()
	token, err := t.Tokens.Get(ctx)
	switch {
	case err != nil:
		return f.failed(outcome.ResultFailed)
	case f.cfg.Auto && token.LacksRead():
		return f.failed(outcome.ResultNotPermitted)
	}
	l, result := f.look(ctx, t, device, token, slot)
	if l.Failed && result != "" {
		f.cfg.Observe.Look(result)
	}
	return l
}

func (f *Follower) failed(r outcome.Result) outcome.Look {
	f.cfg.Observe.Look(r)
	return outcome.Look{Failed: true}
}

// look looks at the device. result is that of a failed look; it is empty if no call was
// sent, or if the look succeeded.
func (f *Follower) look(ctx context.Context, t *Tenant, device string, token graph.Token, slot *pace.Slot) (l outcome.Look, result outcome.Result) {
	sent := time.Now()
	dev, err := t.Graph.Device(ctx, device, t.Call(token, lookTime))
	if errors.Is(err, graph.ErrHeldBack) {
		return outcome.Look{Failed: true}, ""
	}
	e := graph.FailureOf(err)
	t.Account(ctx, f.cfg.State(), slot, sent, e)
	t.lane.answered(e == nil || e.Status != 0)
	if e != nil {
		f.cfg.Log.Debug("a look at a device failed", zap.String("tenant", t.Name), zap.String("device", device), zap.Error(e))
	}
	switch {
	case e == nil:
		t.served(time.Now())
		return outcome.Look{Device: dev, Ahead: dev.Ahead - t.Ahead()}, ""
	case e.Kind == graph.Refused && e.Status == 404 && f.serves(ctx, t, token):
		return outcome.Look{Missing: true}, ""
	}
	switch e.Kind {
	case graph.Throttled:
		result = outcome.ResultThrottled
	case graph.Forbidden:
		result = outcome.ResultNotPermitted
	case graph.Unauthorized:
		result = outcome.ResultNotPermitted
		// Resets replace a token as often as necessary; looks are not urgent.
		if t.mayRenew(time.Now()) {
			if _, err := t.Tokens.Renew(ctx, token, e.Claims); err != nil && ctx.Err() == nil {
				f.cfg.Log.Debug("a rejected token could not be replaced", zap.String("tenant", t.Name), zap.Error(err))
			}
		}
	case graph.Refused, graph.Unavailable, graph.NotSent, graph.Unknown, graph.TokenRefused, graph.TokenUnavailable:
		result = outcome.ResultFailed
	}
	return outcome.Look{Failed: true}, result
}

// Call makes the call of a look, which is sent only if no pause has begun meanwhile.
func (t *Tenant) Call(token graph.Token, timeout time.Duration) graph.Call {
	return graph.Call{
		Token: token, ClientRequestID: uuid.NewString(), Deadline: time.Now().Add(timeout),
		May: func() bool { return t.Paused().IsZero() && t.Reads.Paused().IsZero() },
	}
}

// Account tells the pacer the result of a look, and the other replicas what pause Graph
// has asked for. store may be nil; e is nil if the look succeeded.
func (t *Tenant) Account(ctx context.Context, store *handover.Store, slot *pace.Slot, sent time.Time, e *graph.Error) {
	var until time.Time
	switch {
	case e == nil || e.Kind == graph.Refused || e.Kind == graph.Forbidden:
		slot.Accepted()
	case e.Kind == graph.Throttled:
		until, _, _ = slot.Throttled(sent, e.RetryAfter)
	case e.RetryAfter > 0:
		slot.Done()
		until, _, _ = t.Reads.Throttled(sent, e.RetryAfter)
	default:
		slot.Done()
	}
	if store == nil || until.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, othersWait)
	defer cancel()
	// Best effort: a replica that misses this learns it from its own next look.
	_ = store.SetReads(ctx, t.Name, until.Add(t.Ahead()))
}

// serves reports whether Graph serves the tenant, and asks for the list of its devices if
// that is not known. Without it, a Graph that refuses everything would look like a device
// that is gone.
func (f *Follower) serves(ctx context.Context, t *Tenant, token graph.Token) bool {
	if t.isServed(time.Now()) {
		return true
	}
	slot, err := t.Reads.Reserve(ctx)
	if err != nil {
		return false
	}
	defer slot.Release()
	sent := time.Now()
	_, err = t.Graph.List(ctx, t.Call(token, lookTime))
	if errors.Is(err, graph.ErrHeldBack) {
		return false
	}
	e := graph.FailureOf(err)
	t.Account(ctx, f.cfg.State(), slot, sent, e)
	if e == nil {
		t.served(time.Now())
	}
	return e == nil
}

// putDocument stores the document. If it is final, it is also observed and logged: the
// write that makes it final happens only once.
func (f *Follower) putDocument(ctx context.Context, store *outcome.Store, d outcome.Document, revision uint64) error {
	if err := store.Put(ctx, d, revision); err != nil {
		return err
	}
	if d.Final {
		f.cfg.Observe.Outcome(d)
		f.cfg.Log.Info("outcome: "+string(d.Outcome), zap.String("tenant", d.Tenant), zap.String("request_id", d.ID), zap.String("device", d.ManagedDeviceID),
			zap.String("next_step", string(d.NextStep)), zap.String("error_code", d.ErrorCodeHex), zap.String("reason", string(d.Reason)),
			zap.String("client_request_id", d.ClientRequestID), zap.Duration("duration", d.DecidedAt.Sub(d.AcceptedAt)))
	}
	return nil
}
