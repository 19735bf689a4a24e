package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/backlog"
	"passcode-worker/internal/consume"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/tenant"
	"passcode-worker/internal/topology"
)

// service works on one tenant's queue.
type service struct {
	fleet   *fleet
	spec    Tenant
	graph   *graph.Client
	metrics *metrics.Tenant
	tenant  *tenant.Tenant
	queue   *consume.Queue
	log     *zap.Logger
	stop    context.CancelFunc // takes no further message
	done    chan struct{}      // closed when it has ended
	// leaving tells that the tenant is no longer listed and its calls in flight
	// are waited for. Only fleet.apply reads and changes it.
	leaving bool

	flow    backlog.Flow
	oldest  time.Time // when the oldest request was stored
	checked bool      // the settings of the consumer were looked at

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
	cfg := f.cfg
	tm := f.metrics.Tenant(spec.Name)
	tm.SetRate(spec.Rate.PerSecond(), spec.Rate.PerSecond())
	log := f.cfg.Log.With(zap.String("tenant", spec.Name))
	s := &service{
		fleet: f, spec: spec, graph: client, metrics: tm, log: log,
		done: make(chan struct{}), bound: errors.New("not bound yet"),
	}
	names := s.names()
	s.tenant = tenant.New(tenant.Config{
		Name: spec.Name, Host: f.host,
		Policy: cfg.Policy, Rate: spec.Rate, Fuse: cfg.Fuse, Cooldown: cfg.Cooldown, MaxPause: cfg.MaxPause,
		Graph:   client,
		Tokens:  graph.NewTokens(acquire, func(err error) { tm.TokenRequest(tokenResult(err)) }),
		Letters: deadletter.New(f.js, names),
		Stores:  f.buckets.stores,
		Exists: func(ctx context.Context, stream string, sequence uint64, published time.Time) (bool, error) {
			return topology.Exists(ctx, f.js, stream, sequence, published)
		},
		Announcer: f.announcer, FollowAuto: cfg.Follow == FollowAuto,
		Metrics: tm, Tracer: cfg.Tracer, Warn: f.warnings.once,
		Log: log.Named("verdict").WithOptions(zap.WithCaller(false)),
	})
	s.queue = consume.New(f.js, consume.Config{
		Names:   names,
		Setup:   cfg.Setup,
		Layout:  cfg.Layout,
		Slots:   cfg.Concurrency,
		Prepare: f.buckets.open,
		Clock:   s.tenant.Clock.Set,
		Credit:  s.tenant.Credit,
		Begin:   s.tenant.TakeOver,
		Active:  s.tenant.SetActive,
		Rests:   f.lookout.rests,
		Handle:  s.tenant.Handle,
		Bound:   s.setBound,
		Log:     log.Named("consume"),
	})
	return s, nil
}

// run works until soft ends, and waits for what is in work then, which hard may cut
// short.
func (s *service) run(soft, hard context.Context) {
	defer s.graph.Close()
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keeping.Go(func() { s.tenant.Keeper.Run(soft) })
	s.queue.Run(soft, hard)
	s.tenant.Leave(context.WithoutCancel(hard)) // also when the work was cut short
}

func (s *service) setBound(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil && s.bound == nil:
	case err == nil:
		s.log.Info("bound to the queue")
	case topology.NoRoom(err): // which is the same for each tenant that comes too late
		s.fleet.warnings.once("tenants cannot be served: the server allows no further consumer on stream "+s.names().Stream+
			"; trying again; /readyz names them", zap.String("tenant", s.spec.Name), zap.Error(err))
	case s.bound == nil || err.Error() != s.bound.Error():
		s.log.Error("the queue cannot be worked on; trying again", zap.Error(err))
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

// see shows how much waits, and logs once what is weaker than promised.
func (s *service) see(ctx context.Context, info *jetstream.ConsumerInfo) {
	s.warnOfWeaknesses(ctx, info.Config)
	s.tenant.Refresh(ctx)
	depth := consume.DepthOf(info)
	// A resting queue has no pinned replica, but may still belong to another one.
	depth.Pinned = depth.Pinned || info.Delivered.Consumer > 0 && !s.fleet.owns(s.spec.Name)
	s.tenant.SeeQueue(depth)
	if depth.Messages == 0 {
		s.oldest = time.Time{}
	} else if at, err := topology.Oldest(ctx, s.fleet.js, s.names()); err == nil {
		s.oldest = s.tenant.Clock.Local(at)
	} else if ctx.Err() == nil { // what was known about it still holds
		s.log.Debug("the oldest request could not be read", zap.Error(err))
	}
	s.metrics.SetQueue(metrics.Queue{
		Messages:    depth.Messages,
		AckPending:  depth.AckPending,
		Redelivered: depth.Redelivered,
		Oldest:      age(s.oldest),
		Drain:       s.tenant.Drain(depth.Messages, s.flow.PerSecond(depth.Messages, time.Now())),
	})
}

// names are the names on NATS, with the tenant's.
func (s *service) names() topology.Names {
	n := s.fleet.cfg.Names
	n.Tenant = s.spec.Name
	return n
}

// warnOfWeaknesses logs once what is weaker than promised: everything
// for the first tenant, and for the others what concerns only them.
func (s *service) warnOfWeaknesses(ctx context.Context, consumer jetstream.ConsumerConfig) {
	if s.checked {
		return
	}
	s.checked = true
	f, names := s.fleet, s.names()
	const weaker = "weaker than promised: "
	if f.checked.Swap(true) {
		for _, w := range topology.ConsumerWeaknesses(consumer, names) {
			f.warnings.once(weaker + w.String())
		}
		return
	}
	keep := topology.Keep(f.cfg.Policy.MaxAge, f.cfg.Cooldown, f.cfg.Fuse.W) // how long records have to last
	for _, w := range topology.Weaknesses(ctx, f.js, names, keep, f.cfg.Follow != FollowOff) {
		f.warnings.once(weaker + w)
	}
	for _, stream := range topology.Rivals(ctx, f.js, names) {
		f.warnings.once(weaker + "stream " + stream + " of another JetStream domain or account takes the same dead letters, " +
			"and perhaps the same requests; a worker there would reset devices a second time; run worker check")
	}
}

// age is how long ago an instant was; 0 for the zero instant.
func age(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Since(t))
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
