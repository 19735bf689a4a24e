package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/follow"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/guard"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/topology"
)

// service works on one tenant's queue.
type service struct {
	fleet  *fleet
	spec   Tenant
	names  topology.Names
	tenant *tenant
	queue  *consume.Queue
	log    *zap.Logger
	stop   context.CancelFunc // ends its intake
	done   chan struct{}      // closed when it has ended
	// leaving tells that the tenant is no longer listed and its calls in flight
	// are waited for. Only fleet.apply reads and changes it.
	leaving bool

	mu    sync.Mutex
	bound error // nil while the queue is bound
}

func newService(f *fleet, spec Tenant) (*service, error) {
	acquire, err := spec.Credential.Acquire()
	if err != nil {
		return nil, err
	}
	client, err := spec.client(f.cfg, f.metrics.GraphRequest, f.unknownAction)
	if err != nil {
		return nil, err
	}
	names := f.cfg.Names
	names.Tenant = spec.Name
	tm := f.metrics.Tenant(spec.Name)
	tm.SetRate(spec.Rate.PerSecond(), spec.Rate.PerSecond())
	log := f.log.With(zap.String("tenant", spec.Name))
	t := &tenant{
		name:    spec.Name,
		host:    f.host,
		policy:  f.cfg.Policy,
		clock:   &clock{},
		log:     log.Named("verdict").WithOptions(zap.WithCaller(false)),
		metrics: tm,
		tracer:  f.cfg.Tracer,
		stores:  f.buckets.stores,
		letters: deadletter.New(f.js, names),
		graph:   client,
		tokens:  graph.NewTokens(acquire, func(err error) { tm.TokenRequest(tokenResult(err)) }),
		pacer:   pace.New(spec.Rate, f.cfg.MaxPause),

		maxPause: f.cfg.MaxPause,
		hold:     hold.New(),
		cooldown: f.cfg.Cooldown,
		fuse:     guard.NewFuse(f.cfg.Fuse),
		news:     make(chan struct{}, 1),
		exists: func(ctx context.Context, stream string, sequence uint64, published time.Time) (bool, error) {
			return topology.Exists(ctx, f.js, stream, sequence, published)
		},
		busy:     map[string]struct{}{},
		underWay: map[string]struct{}{},
		waiting:  map[uint64]time.Time{},
		parked:   map[uint64]time.Time{},
	}
	t.queued.Store(-1)
	t.following.mode, t.following.announcer, t.following.once = f.cfg.Follow, f.announcer, f.once
	t.following.looks = &follow.Tenant{
		Name: spec.Name, Graph: client, Tokens: t.tokens, Ahead: t.clock.ahead, Known: t.clock.known,
		Paused: t.pacer.Paused, Probed: t.probed,
		Reads: follow.NewReads(f.cfg.MaxPause),
	}
	s := &service{
		fleet: f, spec: spec, names: names, tenant: t, log: log,
		done: make(chan struct{}), bound: errors.New("not bound yet"),
	}
	s.queue = consume.New(f.js, consume.Config{
		Names:   names,
		Setup:   f.cfg.Setup,
		Layout:  f.cfg.Layout,
		Slots:   f.cfg.Concurrency,
		Prepare: f.buckets.open,
		Clock:   t.clock.set,
		Credit:  t.credit,
		Begin:   t.takeOver,
		Active:  t.setActive,
		Handle:  t.handle,
		Bound:   s.setBound,
		Log:     log.Named("consume"),
	})
	return s, nil
}

// run works until intake ends, and waits for what is in work then.
func (s *service) run(intake, work context.Context) {
	defer s.tenant.graph.Close()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { s.watch(intake) })
	watching.Go(func() { s.tenant.handOn(intake) })
	s.queue.Run(intake, work)
	s.tenant.leave(context.WithoutCancel(work)) // also when the work was cut short
}

func (s *service) setBound(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.log.Info("bound to the queue")
	case topology.NoRoom(err): // which is the same for each tenant that comes too late
		s.fleet.once("tenants cannot be served: the server takes no further consumer on stream "+s.names.Stream+
			"; trying again for ever; /readyz names them", zap.String("tenant", s.spec.Name), zap.Error(err))
	case s.bound == nil || err.Error() != s.bound.Error():
		s.log.Error("the queue cannot be worked on; trying again for ever", zap.Error(err))
	}
	s.bound = err
}

func (s *service) binding() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound != nil {
		return s.bound
	}
	return s.fleet.buckets.err()
}

// keep is how long records have to last.
func (s *service) keep() time.Duration {
	cfg := s.fleet.cfg
	return topology.Keep(cfg.Policy.MaxAge, cfg.Cooldown, cfg.Fuse.W)
}

// watch shows how much waits, and says once what is weaker than promised.
func (s *service) watch(ctx context.Context) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	checked := false
	var flow flow
	var oldest time.Time // when the oldest request was stored
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s.binding() != nil {
			continue
		}
		if !checked {
			checked = true
			follows := s.fleet.cfg.Follow != FollowOff && !s.fleet.followChecked.Swap(true) // all tenants share that
			for _, w := range topology.Weaknesses(ctx, s.fleet.js, s.names, s.keep(), follows) {
				s.fleet.once("weaker than promised: " + w)
			}
			for _, stream := range topology.Rivals(ctx, s.fleet.js, s.names) {
				s.fleet.once("weaker than promised: stream " + stream + " of another JetStream domain or account takes the same dead letters, " +
					"and perhaps the same requests; a worker there would reset devices a second time; see worker check")
			}
		}
		ticker.Reset(s.fleet.poll())
		s.tenant.look(ctx)
		depth, err := s.queue.Depth(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Debug("the queue's depth could not be read", zap.Error(err))
			}
			continue
		}
		s.tenant.queued.Store(int64(depth.Messages))
		s.tenant.setPaused(depth.Paused, depth.PausedUntil)
		s.tenant.elsewhere.Store(depth.Pinned && !s.tenant.active.Load())
		if depth.Messages == 0 {
			oldest = time.Time{}
		} else if at, err := topology.Oldest(ctx, s.fleet.js, s.names); err == nil {
			oldest = s.tenant.clock.local(at)
		} else if ctx.Err() == nil { // what was known of it still holds
			s.log.Debug("the oldest request could not be read", zap.Error(err))
		}
		s.tenant.metrics.SetQueue(metrics.Queue{
			Messages:    depth.Messages,
			AckPending:  depth.AckPending,
			Redelivered: depth.Redelivered,
			Oldest:      age(oldest),
			Drain:       s.tenant.drainTime(depth.Messages, flow.perSecond(depth.Messages, time.Now())),
		})
	}
}

// age is how long ago an instant was; 0 for the zero instant.
func age(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Since(t))
}

// flow measures how fast a queue shrinks.
type flow struct {
	at       time.Time
	messages int
	rate     float64 // smoothed, messages per second; below 0 while it grows
}

func (f *flow) perSecond(messages int, now time.Time) float64 {
	if !f.at.IsZero() && now.After(f.at) {
		rate := float64(f.messages-messages) / now.Sub(f.at).Seconds()
		f.rate += (rate - f.rate) / 4
	}
	f.at, f.messages = now, messages
	return f.rate
}

// drainTime estimates how long it takes to empty the queue, at the rate that is
// granted or, where there is no limit, at the measured one; below 0 means that
// no end is in sight. A standby does not know what the other replica has sent
// and was granted: it goes by what it sees, or by the configured rate.
func (t *tenant) drainTime(messages int, measured float64) time.Duration {
	if messages == 0 {
		return 0
	}
	if len(t.holds()) > 0 {
		return -1
	}
	rate, backlog := measured, float64(messages)
	limit := t.pacer.Limit()
	if !t.active.Load() {
		if measured > 0 {
			limit = measured
		}
		if limit > 0 {
			return time.Duration(backlog / limit * float64(time.Second))
		}
	}
	if limit > 0 {
		// What is left of the window goes at once.
		now, _, _ := t.pacer.Available()
		rate, backlog = limit, max(0, backlog-float64(now))
	} else if measured <= 0 {
		return -1
	}
	left := time.Duration(backlog / rate * float64(time.Second))
	if until := t.pacer.Paused(); !until.IsZero() {
		left += time.Until(until)
	}
	return left
}

func tokenResult(err error) metrics.TokenResult {
	if err == nil {
		return metrics.TokenOK
	}
	if e := (*graph.Error)(nil); errors.As(err, &e) && e.Kind == graph.TokenRefused {
		return metrics.TokenRefused
	}
	return metrics.TokenUnavailable
}
