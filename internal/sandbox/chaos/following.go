package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"passcode-worker/internal/follow"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
	"passcode-worker/internal/worker"
)

// Worker is a worker like that of the service, but for its short times, and that it
// looks at devices faster than in life.
func Worker(ctx context.Context, natsURL, graph string) error {
	log, err := sandbox.Log(zap.DebugLevel, "stderr")
	if err != nil {
		return err
	}
	place := sandbox.Place{NATS: natsURL, Graph: graph, Names: sandbox.Names()}
	cfg := place.Config(pace.Rate{}, "127.0.0.1:0", log)
	cfg.Tenants = append(cfg.Tenants, place.Tenant(scenario.Neighbour, scenario.NeighbourDirectory, pace.Rate{}))
	cfg.MaxPause, cfg.DrainTimeout = maxPause, drainTimeout
	p := &cfg.Policy
	p.RequestTimeout, p.VerifyAfter, p.BackoffMin, p.BackoffMax, p.MaxAttempts = requestTimeout, verifyAfter, backoffMin, backoffMax, maxAttempts
	cfg.Follow, cfg.FollowPlan = worker.FollowOn, outcome.Plan{For: followFor, Faster: faster}
	return worker.Run(ctx, cfg)
}

// settleFollowing waits until nothing is followed any more. Requests whose alarm was
// lost are followed again then, as an operator has them with worker outcome follow
// --since, until each has its end.
func (a *arena) settleFollowing(ctx context.Context) error {
	for {
		if err := a.settle(ctx, a.Alarms); err != nil {
			return err
		}
		ledger, _, err := scenario.Read(ctx, a.JS, a.Names, a.Sim)
		if err != nil {
			return err
		}
		pending := ledger.Pending()
		if len(pending) == 0 {
			return nil
		}
		for _, r := range pending {
			if err := follow.Publish(ctx, a.JS, a.Names.FollowSubject, a.Names.FollowStream, order(r, time.Now())); err != nil {
				return fmt.Errorf("follow again: %w", err)
			}
			a.madeUp++
		}
	}
}

// order is the alarm of an operator's order: a look now, and those of the plan after it.
func order(r record.Record, now time.Time) outcome.Alarm {
	a := outcome.Of(r)
	a.Order, a.Until = uuid.NewString(), now.UTC().Add(orderFor)
	next := outcome.Plan{For: followFor, Faster: faster}.Next(a, now)
	a.Number, a.Step, a.DueAt = max(0, next.Number-1), 0, now.UTC()
	return a
}
