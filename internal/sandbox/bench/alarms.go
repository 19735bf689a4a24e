package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/sandbox"
)

// alarmCount is how many requests are followed in the row alarms, none of them due.
const alarmCount = 100_000

// alarms measures what 100,000 alarms that are not due cost: the memory of the worker's
// process and of the one that holds the server, and what a new request waits for its call
// meanwhile, beside the same without them.
func (Options) alarms(ctx context.Context) ([]sample, error) {
	w, err := newWorld(graphsim.Config{})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	program := filepath.Join(w.Dir, "worker")
	if err := sandbox.BuildWorker(ctx, program); err != nil {
		return nil, err
	}
	_, floor, without, err := w.following(ctx, program, 0)
	if err != nil {
		return nil, err
	}
	p50, p99, with, err := w.following(ctx, program, alarmCount)
	if err != nil {
		return nil, err
	}
	// Those of the trickle are not due yet either.
	if looks := w.Sim.Status().Gets; looks > 0 {
		return nil, fmt.Errorf("%d looks at devices that were not due", looks)
	}
	return []sample{
		{what: "floor: p99, publish to POST, none followed", unit: "ms", value: floor},
		{what: "floor: worker, none followed", unit: "MiB", value: without},
		{what: fmt.Sprintf("worker, %d followed", alarmCount), unit: "MiB", value: with, goal: atMost(64)},
		{what: "p50, publish to POST", unit: "ms", value: p50},
		{what: "p99, publish to POST", unit: "ms", value: p99, goal: atMost(15)},
	}, nil
}

// following lets requests trickle through a worker that follows n others, none of which is
// due, and tells how long they waited and the most memory of the worker's process.
func (w *world) following(ctx context.Context, program string, n int) (p50, p99, mib float64, err error) {
	if err := w.fill(ctx, 0); err != nil {
		return 0, 0, 0, err
	}
	if err := w.setAlarms(ctx, n); err != nil {
		return 0, 0, 0, err
	}
	pid, end, err := w.launch(map[string]string{"WORKER_RATE": "0"}, program, "run")
	if err != nil {
		return 0, 0, 0, err
	}
	p50, p99, err = w.trickle(ctx)
	mib, memoryErr := peakMemory(pid)
	return p50, p99, mib, errors.Join(err, memoryErr, end())
}

// setAlarms puts the alarms of n requests on the follow stream, which have been off for an
// hour and are due within the next half.
func (w *world) setAlarms(ctx context.Context, n int) error {
	plan := outcome.Plan{For: outcome.DefaultFor}
	now := time.Now().UTC()
	for i := range n {
		accepted := now.Add(-time.Hour - time.Minute + time.Duration(i)*time.Millisecond/10)
		a := plan.Next(outcome.Alarm{
			Tenant: w.Names.Tenant, ID: fmt.Sprint("off", i), Device: graphsim.GoodDevice(1_000_000 + i), ClientRequestID: uuid.NewString(),
			AttemptedAt: accepted.Add(-time.Second), AcceptedAt: accepted,
		}, now)
		value, err := outcome.MarshalAlarm(a)
		if err != nil {
			return err
		}
		m := &nats.Msg{Subject: w.Names.FollowSubject + "." + a.Tokens(), Data: value}
		if _, err := w.JS.PublishMsgAsync(m, jetstream.WithMsgID(a.MessageID())); err != nil {
			return err
		}
	}
	select {
	case <-w.JS.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
