package tenant

import (
	"errors"
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

// gate is what stands between a tenant's queue and Graph: the hold, the fuse, the
// pacer, and an operator's pause. It says in the log, in the metrics and to the other
// replicas what it does.
type gate struct {
	hold     *hold.Hold
	fuse     *guard.Fuse
	pacer    *pace.Pacer
	maxPause time.Duration
	metrics  *metrics.Tenant
	log      *zap.Logger
	// changed is called when something has changed that the next replica has to know.
	changed func()
	// active is set while this replica is the one that works on the tenant.
	active atomic.Bool

	mu sync.Mutex
	// paused: an operator has paused the queue, until pausedUntil; zero: until it
	// is resumed.
	paused      bool
	pausedUntil time.Time
}

func newGate(cfg Config, changed func()) *gate {
	return &gate{hold: hold.New(), fuse: guard.NewFuse(cfg.Fuse), pacer: pace.New(cfg.Rate, cfg.MaxPause), maxPause: cfg.MaxPause,
		metrics: cfg.Metrics, log: cfg.Log, changed: changed}
}

func (g *gate) setActive(active bool) {
	g.active.Store(active)
	g.metrics.SetActive(active)
	if !active {
		g.hold.Reset()
		g.show()
		g.log.Info("standing by: another replica works on the tenant, or may")
		return
	}
	g.log.Info("working on the tenant")
}

// isPaused reports whether an operator has paused the queue.
func (g *gate) isPaused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.paused
}

// setPaused is told whether an operator has paused the queue, and until when;
// zero: until it is resumed.
func (g *gate) setPaused(paused bool, until time.Time) {
	g.mu.Lock()
	before := g.paused
	g.paused, g.pausedUntil = paused, until
	g.mu.Unlock()
	if before == paused {
		return
	}
	if !paused {
		g.log.Info("hold: over", zap.String("cause", string(hold.Paused)))
	} else {
		g.log.Warn("hold: an operator has paused the queue", zap.String("cause", string(hold.Paused)), zap.String("until", pauseEnd(until)))
	}
	g.show()
}

// pauseEnd says until when an operator has paused the queue.
func pauseEnd(until time.Time) string {
	if until.IsZero() {
		return "resumed"
	}
	return until.UTC().Format(time.RFC3339)
}

// admit reports whether the fuse lets a call for a device go.
func (g *gate) admit(device string, now time.Time) bool {
	ok, blew := g.fuse.Admit(device, now)
	if blew {
		g.log.Error("hold: the fuse has blown: one more device would be too many; worker resume releases it",
			zap.String("cause", string(hold.Fuse)), zap.Int("devices", g.fuse.Limit().N), zap.Duration("within", g.fuse.Limit().W))
		g.show()
	}
	return ok
}

// release is told when an operator released the fuse last; zero: that is not known.
func (g *gate) release(at time.Time) {
	if g.fuse.Settle(time.Time{}, at) {
		g.log.Info("hold: over", zap.String("cause", string(hold.Fuse)))
		g.show()
	}
}

// closed reports whether a message that was let through may not make its call after
// all, and when it should come again.
func (g *gate) closed(sequence uint64) (until time.Time, closed bool) {
	if until := g.pacer.Paused(); !until.IsZero() {
		return until, true
	}
	if open, until := g.hold.Allows(sequence); !open {
		return until, true
	}
	return time.Time{}, false
}

// observe tells the hold what a message has found out, and others what follows.
func (g *gate) observe(sequence uint64, s hold.Signal) hold.Standing {
	if g.maxPause > 0 && s.Wait > g.maxPause {
		g.log.Warn("a longer wait was asked for than is allowed; it was capped", zap.Duration("asked", s.Wait), zap.Duration("capped", g.maxPause))
		s.Wait = g.maxPause
	}
	st := g.hold.Observe(sequence, s, time.Now())
	if st.Ended != "" {
		g.log.Info("hold: over", zap.String("cause", string(st.Ended)))
	}
	if st.Tripped {
		now := g.hold.State()
		fields := []zap.Field{zap.String("cause", string(now.Cause)), zap.String("error", s.Detail), zap.Time("next_probe", now.NextProbe)}
		switch {
		case st.Before == "":
			g.log.Warn("hold: what is wrong concerns every request, so the queue stands still; one request at a time tries again", fields...)
		case st.Before == now.Cause:
			g.log.Info("hold: still", append(fields, zap.Duration("held", time.Since(now.Since)))...)
		default:
			g.log.Warn("hold: the cause has changed", fields...)
		}
	}
	if st.Ended != "" || st.Tripped {
		g.show()
	}
	return st
}

// noToken says when a request may come again that could get no token.
func (g *gate) noToken(sequence uint64, err error) time.Time {
	var wait time.Duration
	if e := (*graph.Error)(nil); errors.As(err, &e) {
		if wait = e.RetryAfter; e.Benign {
			return time.Now().Add(wait)
		}
	}
	return g.observe(sequence, hold.Signal{Kind: hold.NoToken, Detail: err.Error(), Wait: wait}).Back
}

// throttled takes note of a failure that asks for a pause, and returns the end of
// the pause; zero where there is none. slot is that of a reset; nil for a reading,
// whose quota is another.
func (g *gate) throttled(slot *pace.Slot, sent time.Time, e *graph.Error) time.Time {
	if e.RetryAfter == 0 && e.Kind != graph.Throttled && e.Kind != graph.Unavailable {
		return time.Time{}
	}
	throttled := g.pacer.Throttled
	if slot != nil && e.Kind == graph.Throttled {
		throttled = slot.Throttled
	}
	until, added, capped := throttled(sent, e.RetryAfter)
	g.metrics.SetPausedUntil(until)
	g.metrics.AddPause(added)
	g.changed()
	if capped {
		g.log.Warn("Graph asked for a longer pause than is allowed; it was capped",
			zap.Duration("asked", e.RetryAfter), zap.Time("until", until))
	} else if added > 0 {
		g.log.Info("pause", zap.Int("status", e.Status), zap.Duration("retry_after", e.RetryAfter), zap.Time("until", until))
	}
	return until
}

// restorePause takes over a pause that was announced to another replica.
func (g *gate) restorePause(until time.Time) {
	g.pacer.Restore(0, until)
	g.showPause()
}

func (g *gate) showPause() {
	if until := g.pacer.Paused(); !until.IsZero() {
		g.metrics.SetPausedUntil(until)
	}
}

// causes are those for which the queue stands still.
func (g *gate) causes() []metrics.Hold {
	causes := []metrics.Hold{}
	active := g.active.Load() // a standby does not know
	if h := g.hold.State(); active && h.Cause != "" {
		causes = append(causes, metrics.Hold{Cause: h.Cause, Since: h.Since, Detail: h.Detail, NextProbe: h.NextProbe})
	}
	if at := g.fuse.Blown(); active && !at.IsZero() {
		causes = append(causes, metrics.Hold{Cause: hold.Fuse, Since: at, Detail: fmt.Sprintf(
			"WORKER_FUSE allows %s: one more device would have been too many. worker resume releases it", g.fuse.Limit())})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused {
		causes = append(causes, metrics.Hold{Cause: hold.Paused, Detail: "paused until " + pauseEnd(g.pausedUntil)})
	}
	return causes
}

// show shows what holds the tenant, and lets the next replica know.
func (g *gate) show() {
	held := map[hold.Cause]bool{}
	for _, h := range g.causes() {
		held[h.Cause] = true
	}
	for _, c := range hold.Causes() {
		g.metrics.SetHold(c, held[c])
	}
	g.changed()
}
