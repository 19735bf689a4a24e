// Package gate is what stands between a tenant's queue and Graph.
package gate

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/guard"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
)

// Config is what a gate is made of.
type Config struct {
	// Rate is the tenant's quota; the zero Rate has no limit.
	Rate pace.Rate
	// Fuse holds the tenant when more distinct devices than that would be reset in
	// the window; zero: off.
	Fuse pace.Rate
	// MaxPause caps what a service asks for; 0 means no cap.
	MaxPause time.Duration
	// Changed is called when something has changed that the next replica must know.
	// It must not wait.
	Changed func()
	Metrics *metrics.Tenant
	Log     *zap.Logger
}

// Gate holds the breaker, the fuse and the pacer
// of a tenant, and knows about an operator's pause. It reports what each of them does in the log, in the metrics
// and to the next replica. Whoever changes one of them
// in a way that others must see uses a method of the Gate.
type Gate struct {
	Hold  *hold.Hold
	Fuse  *guard.Fuse
	Pacer *pace.Pacer

	cfg Config
	// active is set while this replica works on the tenant.
	active atomic.Bool

	mu sync.Mutex
	// paused: an operator has paused the queue, until pausedUntil; zero: until it
	// is resumed.
	paused      bool
	pausedUntil time.Time
}

// New makes a gate that is open, as a standby's.
func New(cfg Config) *Gate {
	return &Gate{Hold: hold.New(), Fuse: guard.NewFuse(cfg.Fuse), Pacer: pace.New(cfg.Rate, cfg.MaxPause), cfg: cfg}
}

// Active reports whether this replica works on the tenant.
func (g *Gate) Active() bool { return g.active.Load() }

// SetActive is told whether this replica works on the tenant.
func (g *Gate) SetActive(active bool) {
	g.active.Store(active)
	g.cfg.Metrics.SetActive(active)
	if !active {
		g.Hold.Reset()
		g.Show()
		g.cfg.Log.Info("standing by: another replica works on the tenant, or may do so")
		return
	}
	g.cfg.Log.Info("working on the tenant")
}

// IsPaused reports whether an operator has paused the queue.
func (g *Gate) IsPaused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.paused
}

// SetPaused is told whether an operator has paused the queue, and until when;
// zero: until it is resumed.
func (g *Gate) SetPaused(paused bool, until time.Time) {
	g.mu.Lock()
	before := g.paused
	g.paused, g.pausedUntil = paused, until
	g.mu.Unlock()
	if before == paused {
		return
	}
	if !paused {
		g.cfg.Log.Info("hold: over", zap.String("cause", string(hold.Paused)))
	} else {
		g.cfg.Log.Warn("hold: an operator has paused the queue", zap.String("cause", string(hold.Paused)), zap.String("until", pauseEnd(until)))
	}
	g.Show()
}

// pauseEnd says until when an operator has paused the queue.
func pauseEnd(until time.Time) string {
	if until.IsZero() {
		return "resumed"
	}
	return until.UTC().Format(time.RFC3339)
}

// Admit reports whether the fuse lets a call for a device pass.
func (g *Gate) Admit(device string, now time.Time) bool {
	ok, blew := g.Fuse.Admit(device, now)
	if blew {
		g.cfg.Log.Error("hold: the fuse has blown because one more device would exceed its limit; worker resume releases it",
			zap.String("cause", string(hold.Fuse)), zap.Int("devices", g.Fuse.Limit().N), zap.Duration("within", g.Fuse.Limit().W))
		g.Show()
	}
	return ok
}

// Release is told when an operator last released the fuse; zero: not known.
func (g *Gate) Release(at time.Time) {
	if g.Fuse.Settle(time.Time{}, at) {
		g.cfg.Log.Info("hold: over", zap.String("cause", string(hold.Fuse)))
		g.Show()
	}
}

// Closed reports whether a message that was let through
// may no longer make its call, and when it should come again.
func (g *Gate) Closed(sequence uint64) (until time.Time, closed bool) {
	if until := g.Pacer.Paused(); !until.IsZero() {
		return until, true
	}
	if open, until := g.Hold.Allows(sequence); !open {
		return until, true
	}
	return time.Time{}, false
}

// Observe tells the hold what a message has found out, and reports what follows from that.
func (g *Gate) Observe(sequence uint64, s hold.Signal) hold.Standing {
	if g.cfg.MaxPause > 0 && s.Wait > g.cfg.MaxPause {
		g.cfg.Log.Warn("a longer wait than WORKER_MAX_PAUSE was requested; the wait is shortened to that", zap.Duration("asked", s.Wait), zap.Duration("capped", g.cfg.MaxPause))
		s.Wait = g.cfg.MaxPause
	}
	st := g.Hold.Observe(sequence, s, time.Now())
	if st.Ended != "" {
		g.cfg.Log.Info("hold: over", zap.String("cause", string(st.Ended)))
	}
	if st.Tripped {
		now := g.Hold.State()
		fields := []zap.Field{zap.String("cause", string(now.Cause)), zap.String("error", s.Detail), zap.Time("next_probe", now.NextProbe)}
		switch {
		case st.Before == "":
			g.cfg.Log.Warn("hold: a fault affects every request, so the queue stands still; one request at a time is tried as a probe", fields...)
		case st.Before == now.Cause:
			g.cfg.Log.Info("hold: continues", append(fields, zap.Duration("held", time.Since(now.Since)))...)
		default:
			g.cfg.Log.Warn("hold: the cause has changed", fields...)
		}
	}
	if st.Ended != "" || st.Tripped {
		g.Show()
	}
	return st
}

// Throttled notes a failure that asks for a pause, and returns
// the end of the pause; zero if there is none. slot is the
// slot of a reset; nil for a reading, which has another quota.
func (g *Gate) Throttled(slot *pace.Slot, sent time.Time, e *graph.Error) time.Time {
	if e.RetryAfter == 0 && e.Kind != graph.Throttled && e.Kind != graph.Unavailable {
		return time.Time{}
	}
	throttled := g.Pacer.Throttled
	switch {
	case e.Kind == graph.Unavailable:
		throttled = g.Pacer.Unavailable
	case slot != nil && e.Kind == graph.Throttled:
		throttled = slot.Throttled
	}
	until, added, capped := throttled(sent, e.RetryAfter)
	g.cfg.Metrics.SetPausedUntil(until)
	g.cfg.Metrics.AddPause(added)
	g.cfg.Changed()
	if capped {
		g.cfg.Log.Warn("Graph asked for a longer pause than WORKER_MAX_PAUSE; the pause is shortened to that",
			zap.Duration("asked", e.RetryAfter), zap.Time("until", until))
	} else if added > 0 {
		g.cfg.Log.Info("pause", zap.Int("status", e.Status), zap.Duration("retry_after", e.RetryAfter), zap.Time("until", until))
	}
	return until
}

// RestorePause takes over a pause that Graph announced to another replica, and
// shows what pauses the tenant; a zero instant means that there is no such pause.
func (g *Gate) RestorePause(until time.Time) {
	g.Pacer.Restore(0, until)
	if until := g.Pacer.Paused(); !until.IsZero() {
		g.cfg.Metrics.SetPausedUntil(until)
	}
}

// Causes are the causes for which the queue stands still.
func (g *Gate) Causes() []metrics.Hold {
	causes := []metrics.Hold{}
	active := g.active.Load() // a standby does not know
	if h := g.Hold.State(); active && h.Cause != "" {
		causes = append(causes, metrics.Hold{Cause: h.Cause, Since: h.Since, Detail: h.Detail, NextProbe: h.NextProbe})
	}
	if at := g.Fuse.Blown(); active && !at.IsZero() {
		causes = append(causes, metrics.Hold{Cause: hold.Fuse, Since: at, Detail: fmt.Sprintf(
			"WORKER_FUSE allows %s, and one more device would exceed it, so the fuse has blown. worker resume releases it", g.Fuse.Limit())})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused {
		causes = append(causes, metrics.Hold{Cause: hold.Paused, Detail: "paused until " + pauseEnd(g.pausedUntil)})
	}
	return causes
}

// Show shows what holds the tenant, and lets the next replica know.
func (g *Gate) Show() {
	held := map[hold.Cause]bool{}
	for _, h := range g.Causes() {
		held[h.Cause] = true
	}
	for _, c := range hold.Causes() {
		g.cfg.Metrics.SetHold(c, held[c])
	}
	g.cfg.Changed()
}
