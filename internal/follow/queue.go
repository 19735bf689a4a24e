package follow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/outcome"
	"passcode-worker/internal/topology"
)

const (
	// ahead is how many alarms of a step are fetched ahead. Each is read as soon as it
	// arrives, and sent back if it is not due.
	ahead = 32
	// pullExpiry is how long a pull waits on the server.
	pullExpiry = 30 * time.Second
)

// This compiles only if setup makes a queue for each step of the plan.
var _ [topology.FollowSteps]struct{} = [outcome.Steps]struct{}{}

// work takes alarms until ctx ends, or the stream or the bucket is gone.
func (f *Follower) work(ctx, hard context.Context, store *outcome.Store) {
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	for step := range topology.FollowSteps {
		all.Go(func() { f.step(ctx, hard, step, store) })
	}
	all.Go(func() {
		defer stop()
		f.watch(ctx)
	})
	all.Wait()
}

// step takes the alarms of a step until ctx ends. It creates the step's consumer if that is
// missing and Setup is set; the other steps go on meanwhile.
func (f *Follower) step(ctx, hard context.Context, step int, store *outcome.Store) {
	for ctx.Err() == nil {
		err := f.take(ctx, hard, step, store)
		if ctx.Err() != nil {
			return
		}
		if f.cfg.Setup && errors.Is(err, jetstream.ErrConsumerNotFound) {
			_, err = topology.SetupFollow(ctx, f.cfg.JS, f.cfg.Names, f.cfg.Layout)
		}
		if err != nil {
			f.cannot(fmt.Errorf("consumer %s: %w", topology.FollowConsumer(step), err))
		}
		pause(ctx, stepWait)
	}
}

// take takes the alarms of a step until ctx ends, or the consumer is gone.
func (f *Follower) take(ctx, hard context.Context, step int, store *outcome.Store) error {
	bind, cancel := context.WithTimeout(ctx, bindWait)
	defer cancel()
	consumer, err := f.cfg.JS.Consumer(bind, f.cfg.Names.FollowStream, topology.FollowConsumer(step))
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(ahead), jetstream.PullExpiry(pullExpiry))
	if err != nil {
		return err
	}
	stopped := context.AfterFunc(ctx, messages.Stop)
	defer stopped()
	defer messages.Stop()
	var under sync.WaitGroup
	defer under.Wait()
	for {
		m, err := messages.Next()
		switch {
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			continue // the library pulls again
		case err != nil:
			return err
		}
		alarm, due, ok := f.read(m)
		if !ok {
			continue
		}
		if due > 0 {
			back(m, due)
			continue
		}
		under.Go(func() { f.ring(ctx, hard, m, alarm, store) })
	}
}

// read reads an alarm and returns how long it is until it is due. It drops a message that
// is not an alarm, or whose tenant is not served, by acknowledging it.
func (f *Follower) read(m jetstream.Msg) (a outcome.Alarm, due time.Duration, ok bool) {
	meta, err := m.Metadata()
	if err != nil {
		return a, 0, false // it is not a message of the stream, so it needs no answer
	}
	tokens := strings.TrimPrefix(m.Subject(), f.cfg.Names.FollowSubject+".")
	a, err = outcome.ParseAlarm(tokens, m.Data(), meta.Timestamp)
	if err != nil {
		f.cfg.Observe.Stray()
		f.cfg.Warn("a message on the follow stream is not an alarm and is dropped; further ones are only counted",
			zap.Uint64("sequence", meta.Sequence.Stream), zap.Error(err))
		_ = m.Ack() // if this is lost, the message comes again
		return a, 0, false
	}
	t := f.cfg.Tenant(a.Tenant)
	if t == nil {
		f.cfg.Observe.Stray()
		f.cfg.Warn(fmt.Sprintf("an accepted request belongs to tenant %q, which this worker does not serve, so it is not followed; workers with different "+
			"tenants in one NATS account each need a follow stream of their own: WORKER_FOLLOW_STREAM, WORKER_FOLLOW_SUBJECT", a.Tenant))
		_ = m.Ack() // if this is lost, the alarm comes again
		return a, 0, false
	}
	if !t.Known() {
		return a, bindWait, true
	}
	return a, f.cfg.Policy.Due(a, meta.Timestamp).Sub(t.now()), true
}

// back sends an alarm back for a while. If that is lost, the alarm comes again after the
// ack wait.
func back(m jetstream.Msg, wait time.Duration) { _ = m.NakWithDelay(max(0, wait)) }

// watch reports how much is open, until ctx ends or the stream or the bucket is gone.
func (f *Follower) watch(ctx context.Context) {
	ticker := time.NewTicker(depthEach)
	defer ticker.Stop()
	for ctx.Err() == nil {
		d, err := f.depth(ctx)
		switch {
		case err == nil:
			f.cfg.Observe.Depth(d)
		case errors.Is(err, jetstream.ErrStreamNotFound), outcome.IsMissing(err):
			return
		case ctx.Err() == nil:
			f.cfg.Log.Debug("the number of followed requests could not be read", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func (f *Follower) depth(ctx context.Context) (d Depth, err error) {
	ctx, cancel := context.WithTimeout(ctx, depthEach)
	defer cancel()
	_, alarms, err := f.open(ctx)
	if err != nil {
		return d, err
	}
	d.Open = int(alarms.CachedInfo().State.Msgs)
	for step := range topology.FollowSteps {
		subject := outcome.Alarm{Step: step, Tenant: "*"}.Tokens()
		head, err := topology.StoredNext(ctx, f.cfg.JS, f.cfg.Names.FollowStream, f.cfg.Names.FollowSubject+"."+subject, 0)
		if err != nil {
			return d, err
		}
		if head == nil {
			continue
		}
		tokens := strings.TrimPrefix(head.Subject, f.cfg.Names.FollowSubject+".")
		a, err := outcome.ParseAlarm(tokens, head.Data, head.Time)
		t := f.cfg.Tenant(a.Tenant)
		if err != nil || t == nil {
			continue
		}
		now := t.now()
		d.Oldest = max(d.Oldest, now.Sub(a.AcceptedAt))
		d.Lag = max(d.Lag, f.cfg.Policy.Late(a, now))
	}
	return d, nil
}
