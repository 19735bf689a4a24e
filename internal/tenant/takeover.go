package tenant

import (
	"context"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/clock"
	"passcode-worker/internal/gate"
	"passcode-worker/internal/handover"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

// takeOverWait bounds the reading of the previous state.
// The next calls discover again what cannot be read in time.
const takeOverWait = 3 * time.Second

// TakeOver reads what the previous replica was told and
// has sent, before this replica works on its first request.
// term ends when this replica is no longer the active one.
//
// continues: no other replica was given a request since this one's last. Then this one
// has begun all calls since, and knows them, so that the records need not be read: with
// thousands of tenants, that is most of what a term costs that begins with a request.
// A replica that lost its term without knowing it yet may have begun some more; they cost a
// few 429s at most.
func (t *Tenant) TakeOver(term context.Context, continues bool) {
	knows := continues && t.knows.Load()
	t.knows.Store(false)
	defer func() {
		t.Keeper.Begin(term)
		t.gate.Show()
	}()
	for term.Err() == nil {
		err := t.recall(term, knows)
		if err == nil {
			t.knows.Store(term.Err() == nil)
			return
		}
		if term.Err() != nil {
			return
		}
		if !t.gate.Fuse.On() {
			t.cfg.Log.Warn("the state of the previous worker could not be read; pauses, holds and the window of calls start afresh", zap.Error(err))
			return
		}
		// A fuse must not forget.
		t.cfg.Log.Error("the state of the previous worker could not be read, and the fuse needs it; trying again", zap.Error(err))
		select {
		case <-term.Done():
		case <-time.After(handover.Again):
		}
	}
}

// Leave hands on a pause that Graph announced to a call
// that was still in flight when this replica's term ended.
func (t *Tenant) Leave(ctx context.Context) {
	t.Keeper.Leave(ctx, t.Clock.Remote(t.gate.Pacer.Paused()))
}

// snapshot is what the next replica has to know now.
func snapshot(g *gate.Gate, c *clock.Clock, host string) handover.Snapshot {
	s := handover.Snapshot{
		PausedUntil: c.Remote(g.Pacer.Paused()),
		Granted:     g.Pacer.Granted(),
		FuseBlownAt: c.Remote(g.Fuse.Blown()),
		ServedAt:    c.Remote(g.Hold.ServedAt()),
		Worker:      host,
	}
	if h := g.Hold.State(); h.Cause != "" {
		s.Hold = &handover.Hold{Cause: string(h.Cause), Since: c.Remote(h.Since), Detail: h.Detail}
	}
	return s
}

// recall reads the previous state. Calls cannot discover again
// what the fuse counts, so that reading has no time limit.
func (t *Tenant) recall(ctx context.Context, knows bool) error {
	if !t.gate.Fuse.On() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, takeOverWait)
		defer cancel()
	}
	now := time.Now()
	s, err := t.Keeper.Recall(ctx)
	if err != nil {
		return err
	}
	released, err := t.released(ctx)
	if err != nil {
		return err
	}
	if s != nil {
		if restore(*s, t.gate, t.Clock, released, now) {
			t.cfg.Log.Info("hold: it began before this worker took over, and goes on", zap.String("cause", s.Hold.Cause))
		}
	}
	if knows && !t.gate.Fuse.On() { // which must not forget, whatever the server has forgotten
		t.gate.RestorePause(time.Time{})
		return nil
	}
	return t.rebuild(ctx, now)
}

// released is when an operator released the fuse last; zero: never, or it is off.
func (t *Tenant) released(ctx context.Context) (time.Time, error) {
	if !t.gate.Fuse.On() {
		return time.Time{}, nil
	}
	return t.Keeper.Released(ctx)
}

// restore takes over what another replica has handed on, and when an
// operator last released the fuse. It reports whether a hold continues.
func restore(s handover.Snapshot, g *gate.Gate, c *clock.Clock, released, now time.Time) (held bool) {
	g.Pacer.Restore(s.Granted, c.Local(s.PausedUntil))
	g.Hold.Reset() // of an earlier term
	g.Hold.RestoreServed(c.Local(s.ServedAt))
	g.Fuse.Settle(c.Local(s.FuseBlownAt), c.Local(released))
	return s.Hold != nil && g.Hold.Restore(hold.Cause(s.Hold.Cause), s.Hold.Detail, c.Local(s.Hold.Since), now)
}

// rebuild reads from the records which calls were
// made, for the windows of the pacer and the fuse.
func (t *Tenant) rebuild(ctx context.Context, now time.Time) error {
	g := t.gate
	// A call that counts for too short a time would let another one through too early.
	within := t.Clock.Within()
	since := now.Add(-max(g.Pacer.Window(), g.Fuse.Horizon()) - within)
	calls := newCalls(since.Add(-t.cfg.Policy.RequestTimeout))
	err := t.cfg.Stores().Records.Since(ctx, t.cfg.Name, t.Clock.Remote(since), func(r record.Record, stored time.Time) {
		r, stored = r.Shifted(-t.Clock.Ahead()), t.Clock.Local(stored).Add(within)
		calls.saw(r, stored)
		if r.ClientRequestID != "" && r.AttemptedAt.After(since) {
			g.Fuse.Began(r.ManagedDeviceID, r.AttemptedAt, now)
		}
		if r.State == record.Retrying && (r.Status == 429 || r.Status == 503) && r.NextAt.After(now) {
			// The pause may not have been handed on: its worker was killed.
			g.Pacer.Restore(0, r.NextAt)
		}
	})
	if err != nil {
		return err
	}
	t.claims.withCalls(func(ours map[string]struct{}) { g.Pacer.Rebuild(calls.but(ours)) })
	g.RestorePause(time.Time{})
	return nil
}

// calls gathers from the changes of the records
// which calls count against the quota, and since when.
type calls struct {
	since time.Time // calls that began earlier do not count
	known map[string]*sentCall
}

type sentCall struct {
	pace.Call
	answered bool
}

func newCalls(since time.Time) *calls { return &calls{since, map[string]*sentCall{}} }

// saw takes a change of a record. The first change after the announcement
// of a call is its answer; further changes are about something else.
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

// but returns the calls without those that this process itself waits for.
func (c *calls) but(underWay map[string]struct{}) []pace.Call {
	var all []pace.Call
	for id, call := range c.known {
		if _, ours := underWay[id]; !ours {
			all = append(all, call.Call)
		}
	}
	return all
}
