package tenant

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/clock"
	"passcode-worker/internal/follow"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
)

// following says which accepted requests are followed, and publishes their first alarms.
type following struct {
	announcer *follow.Announcer // nil: nobody is followed
	auto      bool              // not with a token that lacks the right
	clock     *clock.Clock
	warn      func(warning string, fields ...zap.Field)
	// generation is that of the token that was read last, and lacks whether it lacks the
	// right to look at devices.
	generation atomic.Int64
	lacks      atomic.Bool
}

// saw is told of the token that is used now.
func (g *following) saw(token graph.Token) {
	if !g.auto || g.generation.Swap(int64(token.Generation)) == int64(token.Generation) {
		return
	}
	lacks := token.LacksRead()
	g.lacks.Store(lacks)
	if lacks {
		g.warn("accepted requests are not followed, so it stays unknown what their devices did: grant the application " +
			graph.ReadPermissions()[0] + ", or set WORKER_FOLLOW to off")
	}
}

// on reports whether what is accepted now is followed.
func (g *following) on() bool { return g.announcer != nil && !g.lacks.Load() }

// announce publishes the alarm of an accepted request. The same one counts once.
func (g *following) announce(ctx context.Context, r record.Record) {
	if r.Followed && g.announcer != nil {
		g.announcer.Announce(ctx, outcome.Of(r.Shifted(g.clock.Ahead())))
	}
}

const (
	// explainWait bounds the look that explains a refusal.
	explainWait = 3 * time.Second
	// explainTurn bounds the wait for its turn.
	explainTurn = time.Second
)

// explain says what kind of device Graph has refused to reset, if that explains
// the refusal. It is empty if that explains nothing, or if no look is permitted.
func explain(ctx context.Context, t *Tenant, device string, token graph.Token) string {
	looks := t.Looks
	if token.LacksRead() || !looks.Reads.Paused().IsZero() {
		return ""
	}
	turn, cancel := context.WithTimeout(ctx, explainTurn)
	defer cancel()
	slot, err := looks.Reads.Reserve(turn)
	if err != nil {
		return ""
	}
	defer slot.Release()
	sent := time.Now()
	dev, err := t.cfg.Graph.Device(ctx, device, looks.Call(token, explainWait))
	if errors.Is(err, graph.ErrHeldBack) {
		return ""
	}
	looks.Account(ctx, t.cfg.Stores().Handover, slot, sent, graph.FailureOf(err))
	if err != nil {
		return "" // the refusal stands as it is
	}
	return outcome.Explain(dev.OS, dev.Enrollment, dev.Management)
}
