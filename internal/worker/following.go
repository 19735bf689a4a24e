package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/follow"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/state"
)

// newFollower makes what looks at devices for all tenants; nil: nobody does.
func newFollower(f *fleet) *follow.Follower {
	cfg := f.cfg
	if cfg.Follow == FollowOff {
		return nil
	}
	return follow.New(follow.Config{
		JS: f.js, Names: cfg.Names, Setup: cfg.Setup, Layout: cfg.Layout,
		Policy:  outcome.Policy{Plan: cfg.FollowPlan, VerifyAfter: cfg.Policy.VerifyAfter},
		Auto:    cfg.Follow == FollowAuto,
		Records: func() *record.Store { return f.buckets.stores().records },
		State:   func() *state.Store { return f.buckets.stores().state },
		Tenant: func(name string) *follow.Tenant {
			if s := f.get(name); s != nil {
				return s.tenant.following.looks
			}
			return nil
		},
		Observe: follow.Observer{
			Look: f.metrics.Look,
			Outcome: func(d outcome.Document) {
				f.metrics.DeviceOutcome(d.Outcome, d.DecidedAt.Sub(d.AcceptedAt))
				if s := f.get(d.Tenant); s != nil {
					s.tenant.metrics.DeviceOutcome(d.Outcome)
				}
			},
			Lost: func(tenant string) {
				if s := f.get(tenant); s != nil {
					s.tenant.metrics.NotFollowed()
				}
			},
			Stray: f.metrics.StrayAlarm,
			Depth: func(d follow.Depth) {
				f.metrics.SetFollow(metrics.FollowDepth{Open: d.Open, Oldest: d.Oldest, Lag: d.Lag})
			},
		},
		Warn: f.once,
		Log:  f.log.Named("follow").WithOptions(zap.WithCaller(false)),
	})
}

// newAnnouncer makes what publishes the first alarms; nil: nobody is followed.
func newAnnouncer(f *fleet) *follow.Announcer {
	cfg := f.cfg
	if cfg.Follow == FollowOff {
		return nil
	}
	return follow.NewAnnouncer(f.js, cfg.Names.FollowStream, cfg.Names.FollowSubject, cfg.FollowPlan, func(tenant string, err error) {
		if s := f.get(tenant); s != nil {
			s.tenant.metrics.NotFollowed()
		}
		f.once("an accepted request is not followed, because its alarm could not be stored; the request itself is done. Further ones are counted in "+
			"passcode_reset_follow_lost_total; worker outcome follow --since makes up for them", zap.Error(err))
	})
}

// following is what of a tenant is followed.
type following struct {
	mode      Follow
	announcer *follow.Announcer // nil: nobody is followed
	looks     *follow.Tenant
	once      func(warning string, fields ...zap.Field)
	// generation is that of the token that was read last, and lacks whether it lacks the
	// right to look at devices.
	generation atomic.Int64
	lacks      atomic.Bool
}

// saw is told of the token that is used now.
func (g *following) saw(token graph.Token) {
	if g.mode != FollowAuto || g.generation.Swap(int64(token.Generation)+1) == int64(token.Generation)+1 {
		return
	}
	lacks := token.LacksRead()
	g.lacks.Store(lacks)
	if lacks {
		g.once("accepted requests are not followed, so that nobody learns what their devices did: grant the application " +
			graph.ReadPermissions()[0] + ", or set WORKER_FOLLOW to off")
	}
}

// on reports whether what is accepted now is followed.
func (g *following) on() bool { return g.announcer != nil && !g.lacks.Load() }

// follow publishes the alarm of an accepted request. The same one counts once.
func (d *delivery) follow(ctx context.Context) {
	if d.rec.Followed && d.t.following.announcer != nil {
		d.t.following.announcer.Announce(ctx, outcome.Of(d.t.clock.written(d.rec)))
	}
}

const (
	// explainWait bounds the look that explains a refusal.
	explainWait = 3 * time.Second
	// explainTurn bounds the wait for its turn.
	explainTurn = time.Second
)

// explain says what kind of device it is that Graph has refused to reset, where that
// explains the refusal; empty where it does not, or nobody may look.
func (d *delivery) explain(ctx context.Context, token graph.Token) string {
	reads := d.t.following.looks.Reads
	if token.LacksRead() || !reads.Paused().IsZero() {
		return ""
	}
	turn, cancel := context.WithTimeout(ctx, explainTurn)
	defer cancel()
	slot, err := reads.Reserve(turn)
	if err != nil {
		return ""
	}
	defer slot.Release()
	sent := time.Now()
	dev, err := d.t.graph.Device(ctx, d.req.DeviceID, d.t.following.looks.Call(token, explainWait))
	if errors.Is(err, graph.ErrHeldBack) {
		return ""
	}
	d.t.following.looks.Account(ctx, d.t.stores().state, slot, sent, graph.FailureOf(err))
	if err != nil {
		return "" // the refusal stands as it is
	}
	return outcome.Explain(dev.OS, dev.Enrollment, dev.Management)
}
