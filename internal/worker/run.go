package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

// Times of the service.
const (
	pollInterval     = 2 * time.Second
	unservedInterval = time.Minute
	// drainReserve is left of the drain time for acks and the end itself, or a
	// quarter where the drain time is short.
	drainReserve = 3 * time.Second
	flushTimeout = 500 * time.Millisecond
)

// errHardStop ends the work that is still under way when the drain time is over.
var errHardStop = errors.New("the time for finishing is over")

// Run is the service. It works until ctx ends, then takes no further request,
// lets the calls in flight finish within the drain time, and returns nil. It
// fails only where it cannot begin.
func Run(ctx context.Context, cfg Config) error {
	log := cfg.Log
	m := metrics.New(cfg.Build)
	tm := m.Tenant(cfg.Names.Tenant)
	tm.SetRate(cfg.Rate.PerSecond(), cfg.Rate.PerSecond())
	tm.SetActive(true)

	acquire, err := cfg.Credential.Acquire()
	if err != nil {
		return err
	}
	client, err := graph.New(graph.Config{
		Endpoint:  cfg.Endpoint,
		UserAgent: "passcode-worker/" + cfg.Build.Version,
		RootCAs:   cfg.RootCAs,
		Observe:   m.GraphRequest,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	var ln net.Listener
	if cfg.HTTPAddr != "" {
		if ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.HTTPAddr); err != nil {
			return fmt.Errorf("WORKER_HTTP_ADDR: %w", err)
		}
	}
	health := newHealth(log.Named("nats"), m)
	nc, err := Connect(cfg.NATS, health.options()...)
	if err != nil {
		if ln != nil {
			_ = ln.Close() // nothing was served on it
		}
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}

	t := &tenant{
		name:    cfg.Names.Tenant,
		host:    host,
		policy:  cfg.Policy,
		clock:   &clock{},
		log:     log.Named("verdict").With(zap.String("tenant", cfg.Names.Tenant)),
		metrics: tm,
		letters: consume.NewLetters(js, cfg.Names),
		graph:   client,
		tokens:  graph.NewTokens(acquire, func(err error) { tm.TokenRequest(tokenResult(err)) }),
		pacer:   pace.New(cfg.Rate, cfg.MaxPause),

		maxPause: cfg.MaxPause,
		hold:     newHold(),
		exists: func(ctx context.Context, stream string, sequence uint64, published time.Time) (bool, error) {
			return consume.Exists(ctx, js, stream, sequence, published)
		},
		busy:    map[string]struct{}{},
		waiting: map[uint64]time.Time{},
	}
	s := &service{tenant: t, js: js, bucket: cfg.Names.Bucket, log: log, bound: errors.New("not bound yet")}
	return s.run(ctx, cfg, ln, metrics.Handler(m, func() metrics.State {
		return metrics.State{NATS: health.state(nc), Tenants: []metrics.TenantState{t.state(s.binding())}}
	}))
}

// service runs what belongs to one tenant.
type service struct {
	tenant *tenant
	js     jetstream.JetStream
	bucket string
	log    *zap.Logger

	mu      sync.Mutex
	bound   error // nil while the queue is bound
	records error // nil while the bucket is there
}

// run works until ctx ends. The order of the end: no more intake, the calls in
// flight, what is left of them cut short, the HTTP server last.
func (s *service) run(ctx context.Context, cfg Config, ln net.Listener, handler http.Handler) error {
	outer := context.WithoutCancel(ctx)
	work, cut := context.WithCancelCause(outer)
	defer cut(nil)
	stopDrain := context.AfterFunc(ctx, func() {
		s.log.Info("stopping: no further request is taken, calls in flight may finish", zap.Duration("within", cfg.DrainTimeout))
		timer := time.AfterFunc(cfg.DrainTimeout-min(drainReserve, cfg.DrainTimeout/4), func() { cut(errHardStop) })
		context.AfterFunc(work, func() { timer.Stop() })
	})
	defer stopDrain()

	queue := consume.New(s.js, consume.Config{
		Names:   cfg.Names,
		Setup:   cfg.Setup,
		Layout:  cfg.Layout,
		Slots:   cfg.Concurrency,
		Prepare: s.openStore,
		Clock:   s.tenant.clock.set,
		Ready:   s.tenant.pacer.Ready,
		Handle: func(work context.Context, m consume.Message) consume.Disposition {
			return s.tenant.handle(ctx, work, m)
		},
		Bound: s.setBound,
		Log:   s.log.Named("consume"),
	})
	var setup func(context.Context) error
	if cfg.Setup {
		setup = func(ctx context.Context) error {
			_, err := consume.Setup(ctx, s.js, cfg.Names, cfg.Layout)
			return err
		}
	}
	serving, stopServing := context.WithCancel(outer)
	defer stopServing()
	var group errgroup.Group
	if ln != nil {
		group.Go(func() error {
			err := metrics.Serve(serving, ln, handler)
			if err != nil {
				s.log.Error("metrics and health are no longer served; the work goes on", zap.Error(err))
			}
			return err
		})
		s.log.Info("serving metrics and health", zap.Stringer("address", ln.Addr()))
	}
	group.Go(func() error {
		s.watch(ctx, queue, setup)
		return nil
	})
	queue.Run(ctx, work)
	stopServing()
	err := group.Wait()
	// What was given back last is still on its way.
	if flushErr := s.js.Conn().FlushTimeout(flushTimeout); flushErr != nil {
		s.log.Warn("NATS could not be told what was given back; it will notice after the ack wait", zap.Error(flushErr))
	}
	s.log.Info("stopped")
	return err
}

// watchRecords notices that the bucket has gone, and makes it anew where that
// is allowed: nothing can be worked on without it.
func (s *service) watchRecords(ctx context.Context, setup func(context.Context) error) {
	err := s.openStore(ctx)
	if errors.Is(err, jetstream.ErrBucketNotFound) && setup != nil {
		s.log.Error("the records are gone and are begun anew: requests that were accepted before are no longer known as such")
		err = setup(ctx)
	}
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return // it could not be asked
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.records == nil {
		s.log.Error("the records are gone, so nothing can be worked on", zap.Error(err))
	}
	s.records = err
}

func (s *service) openStore(ctx context.Context) error {
	store, err := record.Open(ctx, s.js, s.bucket)
	if err != nil {
		return err
	}
	s.tenant.setStore(store)
	return nil
}

func (s *service) setBound(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.log.Info("working on the queue", zap.String("tenant", s.tenant.name))
	case s.bound == nil || err.Error() != s.bound.Error():
		s.log.Error("the queue cannot be worked on; trying again for ever", zap.String("tenant", s.tenant.name), zap.Error(err))
	}
	s.bound = err
}

// watch shows how much waits, and says once what is weaker than promised.
func (s *service) watch(ctx context.Context, queue *consume.Queue, setup func(context.Context) error) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	checked := false
	var unservedAt time.Time
	named := map[string]bool{}
	var flow flow
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.tenant.metrics.SetRate(s.tenant.pacer.Limit(), s.tenant.pacer.Rate().PerSecond())
		s.watchRecords(ctx, setup)
		if s.binding() != nil {
			continue
		}
		if !checked {
			checked = true
			for _, w := range queue.Weaknesses(ctx) {
				s.log.Warn("weaker than promised: " + w)
			}
		}
		if time.Since(unservedAt) > unservedInterval {
			unservedAt = time.Now()
			// Best effort: the right to read this is not needed for the work.
			tenants, _ := queue.Unserved(ctx)
			for _, name := range tenants {
				if !named[name] {
					named[name] = true
					s.log.Warn("requests wait for a tenant that nobody serves", zap.String("tenant", name))
				}
			}
		}
		s.tenant.forget(time.Now())
		depth, err := queue.Depth(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Debug("the queue's depth could not be read", zap.Error(err))
			}
			continue
		}
		s.tenant.metrics.SetQueue(metrics.Queue{
			Messages:    depth.Messages,
			AckPending:  depth.AckPending,
			Redelivered: depth.Redelivered,
			Oldest:      depth.Oldest,
			Drain:       s.tenant.drainTime(depth.Messages, flow.perSecond(depth.Messages, time.Now())),
		})
	}
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

// drainTime estimates how long it takes to empty the queue, at the configured
// rate or, where there is none, at the measured one; below 0 means that no end
// is in sight.
func (t *tenant) drainTime(messages int, measured float64) time.Duration {
	if messages == 0 {
		return 0
	}
	if cause, _, _, _ := t.hold.state(); cause != "" {
		return -1
	}
	rate, backlog := measured, float64(messages)
	if r := t.pacer.Rate(); r.N > 0 {
		// The first window's worth goes at once.
		rate, backlog = r.PerSecond(), max(0, backlog-float64(r.N))
	} else if measured <= 0 {
		return -1
	}
	left := time.Duration(backlog / rate * float64(time.Second))
	if until := t.pacer.Paused(); !until.IsZero() {
		left += time.Until(until)
	}
	return left
}

func (s *service) binding() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bound != nil {
		return s.bound
	}
	return s.records
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
