package worker

import (
	"go.uber.org/zap"

	"passcode-worker/internal/follow"
	"passcode-worker/internal/handover"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
)

// newFollower makes the follower for all tenants; nil if following is off.
func newFollower(f *fleet) *follow.Follower {
	cfg := f.cfg
	if cfg.Follow == FollowOff {
		return nil
	}
	return follow.New(follow.Config{
		JS: f.js, Names: cfg.Names, Setup: cfg.Setup, Layout: cfg.Layout,
		Policy:  outcome.Policy{Plan: cfg.FollowPlan, VerifyAfter: cfg.Policy.VerifyAfter},
		Auto:    cfg.Follow == FollowAuto,
		Records: func() *record.Store { return f.buckets.stores().Records },
		State:   func() *handover.Store { return f.buckets.stores().Handover },
		Tenant: func(name string) *follow.Tenant {
			if s := f.get(name); s != nil {
				return s.tenant.Looks
			}
			return nil
		},
		Observe: follow.Observer{
			Look: f.metrics.Look,
			Outcome: func(d outcome.Document) {
				f.metrics.DeviceOutcome(d.Outcome, d.DecidedAt.Sub(d.AcceptedAt))
				if s := f.get(d.Tenant); s != nil {
					s.metrics.DeviceOutcome(d.Outcome)
				}
			},
			Lost: func(tenant string) {
				if s := f.get(tenant); s != nil {
					s.metrics.NotFollowed()
				}
			},
			Stray: f.metrics.StrayAlarm,
			Depth: func(d follow.Depth) {
				f.metrics.SetFollow(metrics.FollowDepth{Open: d.Open, Oldest: d.Oldest, Lag: d.Lag})
			},
		},
		Warn: f.warnings.once,
		Log:  f.cfg.Log.Named("follow").WithOptions(zap.WithCaller(false)),
	})
}

// newAnnouncer makes the publisher of first alarms; nil if following is off.
func newAnnouncer(f *fleet) *follow.Announcer {
	cfg := f.cfg
	if cfg.Follow == FollowOff {
		return nil
	}
	return follow.NewAnnouncer(f.js, cfg.Names.FollowStream, cfg.Names.FollowSubject, cfg.FollowPlan, func(tenant string, err error) {
		if s := f.get(tenant); s != nil {
			s.metrics.NotFollowed()
		}
		f.warnings.once("an accepted request is not followed, because its alarm could not be stored; the request itself is done. Further "+
			"cases are only counted, in passcode_reset_follow_lost_total; worker outcome follow --since closes the gap", zap.Error(err))
	})
}
