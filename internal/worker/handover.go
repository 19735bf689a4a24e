package worker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/hold"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/state"
)

// Times of handing on from one replica to the next, or to itself after a restart.
const (
	// takeOverWait bounds the reading of what was before. What cannot be read in
	// time is found out again by the next calls.
	takeOverWait = 3 * time.Second
	handOnWait   = 5 * time.Second
	handOnPause  = time.Second
	// servedNews is by how much later it must be that Graph served the tenant for
	// that to be written down again. It moves on with every acceptance.
	servedNews = time.Minute
	// leaveWait bounds what is left to do once all calls have ended.
	leaveWait = 500 * time.Millisecond
)

// takeOver learns what the replica before this one was told and has sent, before
// the first request is worked on. intake ends when this replica is no longer
// the one that works.
func (t *tenant) takeOver(intake context.Context) {
	defer t.learned(intake)
	for intake.Err() == nil {
		err := t.recallInTime(intake)
		if err == nil || intake.Err() != nil {
			return
		}
		if !t.fuse.On() {
			t.log.Warn("what was before could not be read: pauses, holds and the window of calls begin anew", zap.Error(err))
			return
		}
		// A fuse that forgets is none.
		t.log.Error("what was before could not be read, which the fuse needs; trying again", zap.Error(err))
		select {
		case <-intake.Done():
		case <-time.After(handOnPause):
		}
	}
}

// recallInTime bounds the reading of what can be found out again by calls. What the
// fuse counts cannot: that takes as long as it takes.
func (t *tenant) recallInTime(ctx context.Context) error {
	if !t.fuse.On() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, takeOverWait)
		defer cancel()
	}
	return t.recall(ctx)
}

// learned lets this replica hand on, for as long as its term lasts.
func (t *tenant) learned(intake context.Context) {
	t.handing.Lock()
	if over := intake.Done(); intake.Err() == nil {
		t.term.Store(&over)
	}
	t.handing.Unlock()
	t.showHold()
}

// handsOn reports whether it is this replica's to hand on.
func (t *tenant) handsOn() bool {
	term := t.term.Load()
	if term == nil {
		return false
	}
	select {
	case <-*term:
		return false
	default:
		return true
	}
}

func (t *tenant) recall(ctx context.Context) error {
	t.handing.Lock()
	defer t.handing.Unlock()
	found, now := t.stores(), time.Now()
	if found.state != nil {
		if err := t.recallState(ctx, found.state, now); err != nil {
			return err
		}
	}
	since := now.Add(-max(t.pacer.Window(), t.fuse.Horizon()))
	calls := newCalls(since.Add(-t.policy.RequestTimeout))
	err := found.records.Since(ctx, t.name, t.clock.remote(since), func(r record.Record, stored time.Time) {
		r, stored = t.clock.read(r), t.clock.local(stored)
		calls.saw(r, stored)
		if r.ClientRequestID != "" && r.AttemptedAt.After(since) {
			t.fuse.Began(r.ManagedDeviceID, r.AttemptedAt, now)
		}
		if r.State == record.Retrying && (r.Status == 429 || r.Status == 503) && r.NextAt.After(now) {
			// The pause may not have been handed on: its worker was killed.
			t.pacer.Restore(0, r.NextAt)
		}
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.pacer.Rebuild(calls.but(t.underWay))
	t.mu.Unlock()
	if until := t.pacer.Paused(); !until.IsZero() {
		t.metrics.SetPausedUntil(until)
	}
	return nil
}

// calls gathers from the changes of records which calls count against the quota,
// and since when.
type calls struct {
	since time.Time // calls that began before are of no account
	known map[string]*sentCall
}

type sentCall struct {
	pace.Call
	answered bool
}

func newCalls(since time.Time) *calls { return &calls{since, map[string]*sentCall{}} }

// saw takes a change of a record. The first change after the one that announced a
// call is its answer; further ones are about something else.
func (c *calls) saw(r record.Record, stored time.Time) {
	if r.ClientRequestID == "" || r.AttemptedAt.Before(c.since) {
		return
	}
	call, known := c.known[r.ClientRequestID]
	switch {
	case !known:
		c.known[r.ClientRequestID] = &sentCall{pace.Call{At: stored, Granted: true}, r.State != record.Attempting}
	case !call.answered && r.State != record.Attempting:
		call.At, call.answered = stored, true
		call.Granted = r.Status != 429 && r.Status != 503
	}
}

// but are the calls without those that this process itself waits for.
func (c *calls) but(underWay map[string]struct{}) []pace.Call {
	var all []pace.Call
	for id, call := range c.known {
		if _, ours := underWay[id]; !ours {
			all = append(all, call.Call)
		}
	}
	return all
}

func (t *tenant) recallState(ctx context.Context, known *state.Store, now time.Time) error {
	w, _, err := known.Worker(ctx, t.name)
	if err != nil {
		return err
	}
	o, err := known.Operator(ctx, t.name)
	if err != nil {
		return err
	}
	t.pacer.Restore(w.Granted, t.clock.local(w.PausedUntil))
	t.hold.Reset() // of an earlier term
	t.hold.RestoreServed(t.clock.local(w.ServedAt))
	if w.Hold != nil && t.hold.Restore(hold.Cause(w.Hold.Cause), w.Hold.Detail, t.clock.local(w.Hold.Since), now) {
		t.log.Info("hold: it was begun before this worker took over, and goes on", zap.String("cause", w.Hold.Cause))
	}
	t.fuse.Settle(t.clock.local(w.FuseBlownAt), t.clock.local(o.ReleasedAt))
	t.handedOn, t.handedOnAt = w, 0 // another's, or not even the last value
	return nil
}

// changed makes what is to be handed on be looked at.
func (t *tenant) changed() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// handOn writes down what the next replica has to know, each time it changes,
// until ctx ends.
func (t *tenant) handOn(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.news:
		}
		if t.write(ctx) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(handOnPause):
			t.changed()
		}
	}
}

// write hands on, if there is something new, and reports whether nothing is left
// to do.
func (t *tenant) write(ctx context.Context) (done bool) {
	known := t.stores().state
	if known == nil {
		return true // nowhere to write
	}
	ctx, cancel := context.WithTimeout(ctx, handOnWait)
	defer cancel()
	t.handing.Lock()
	defer t.handing.Unlock()
	w := t.standing()
	// Asked after that was put together: with the term, the hold is forgotten.
	if !t.handsOn() || !t.unsettled && same(w, t.handedOn) {
		return true
	}
	revision, err := known.SetWorker(ctx, t.name, w)
	// It may be stored although it failed, and then no longer be true.
	if t.unsettled = err != nil; t.unsettled {
		t.log.Debug("what the next worker has to know could not be written; trying again", zap.Error(err))
		return false
	}
	t.handedOn, t.handedOnAt = w, revision
	return true
}

// leave hands on the pause that was announced to a call that was in flight when
// this replica's term ended.
func (t *tenant) leave(ctx context.Context) {
	known := t.stores().state
	until := t.pacer.Paused()
	if known == nil || until.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	if err := known.Pause(ctx, t.name, t.clock.remote(until)); err != nil {
		t.log.Warn("the pause could not be handed on; the next worker may learn of it by a call", zap.Error(err))
	}
}

// handOnAnew writes down again what is known: what was written is lost.
func (t *tenant) handOnAnew() {
	t.handing.Lock()
	t.handedOn = state.Worker{}
	t.handing.Unlock()
	t.changed()
}

// standing is what the next replica has to know now.
func (t *tenant) standing() state.Worker {
	w := state.Worker{
		PausedUntil: t.clock.remote(t.pacer.Paused()),
		Granted:     t.pacer.Granted(),
		FuseBlownAt: t.clock.remote(t.fuse.Blown()),
		ServedAt:    t.clock.remote(t.hold.ServedAt()),
		Worker:      t.host,
	}
	if h := t.hold.State(); h.Cause != "" {
		w.Hold = &state.Hold{Cause: string(h.Cause), Since: t.clock.remote(h.Since), Detail: h.Detail}
	}
	return w
}

// same reports whether there is nothing new. What is said of a hold changes with
// each probe, and so does its instant with the clocks; neither is news.
func same(a, b state.Worker) bool {
	if (a.Hold == nil) != (b.Hold == nil) || a.Hold != nil && a.Hold.Cause != b.Hold.Cause {
		return false
	}
	near := func(a, b time.Time, tolerance time.Duration) bool {
		return a.IsZero() == b.IsZero() && a.Sub(b).Abs() < tolerance
	}
	return a.Granted == b.Granted && near(a.PausedUntil, b.PausedUntil, time.Second) && near(a.FuseBlownAt, b.FuseBlownAt, time.Second) &&
		near(a.ServedAt, b.ServedAt, servedNews)
}

// look asks whether an operator has released the fuse and whether what was handed
// on is still there, and hands on what has changed by itself.
func (t *tenant) look(ctx context.Context) {
	t.forget(time.Now())
	limit := t.pacer.Limit()
	t.metrics.SetRate(limit, t.pacer.Rate().PerSecond())
	t.changed()
	known := t.stores().state
	if known == nil || !t.fuse.On() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOnWait)
	defer cancel()
	t.keep(ctx, known)
	// Also while it has not blown: a release begins the count anew, and does so
	// whether or not this replica has to be restarted first.
	o, err := known.Operator(ctx, t.name)
	if err != nil {
		t.log.Debug("whether the fuse was released could not be read; trying again", zap.Error(err))
		return
	}
	if t.fuse.Settle(time.Time{}, t.clock.local(o.ReleasedAt)) {
		t.log.Info("hold: over", zap.String("cause", string(hold.Fuse)))
		t.showHold()
	}
}

// keep makes this replica hand on once more where the last value that is written
// down is not its own. Anybody's value may be written over it, and so many that
// nothing is left of the one that says that the fuse has blown.
func (t *tenant) keep(ctx context.Context, known *state.Store) {
	t.handing.Lock()
	defer t.handing.Unlock()
	if !t.handsOn() {
		return
	}
	w, revision, err := known.Worker(ctx, t.name)
	if err != nil {
		t.log.Debug("what is handed on could not be read; trying again", zap.Error(err))
		return
	}
	if revision == t.handedOnAt {
		return
	}
	// It may be the pause that the replica before this one was told late.
	t.pacer.Restore(0, t.clock.local(w.PausedUntil))
	if until := t.pacer.Paused(); !until.IsZero() {
		t.metrics.SetPausedUntil(until)
	}
	t.unsettled = true
	t.changed()
}
