package worker

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/follow"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/share"
	"passcode-worker/internal/topology"
)

const (
	// pollInterval is how often the worker looks at the queues, and pollEach
	// the least time per tenant: with thousands of tenants it looks less often.
	pollInterval = 2 * time.Second
	pollEach     = 5 * time.Millisecond
	// unservedInterval is how often the worker looks for tenants that no worker serves.
	unservedInterval = time.Minute
	// unservedAgain is how long after it was seen first such a tenant is named: longer than
	// a takeover or a restart of its worker takes.
	unservedAgain = 15 * time.Second
)

// fleet is the tenants that the process serves, and what they share.
type fleet struct {
	cfg     Config
	js      jetstream.JetStream
	metrics *metrics.Metrics
	host    string // this worker's name in the records
	buckets *buckets
	// announcer publishes the first alarms of accepted requests; nil if following is off.
	announcer *follow.Announcer
	warnings  *warnings
	lookout   *lookout
	replica   *share.Replica
	// checked is set once the settings of what all tenants share were looked at.
	checked atomic.Bool

	// sharing is held while queues are told whether they belong
	// to this replica, so that the latest answer is also told last.
	sharing sync.Mutex

	// left brings run the services that have ended because their tenants are no
	// longer listed.
	left chan *service

	mu sync.Mutex
	// served is guarded by mu; only run changes it.
	served map[string]*service
	// listed are the tenants as they were listed last; guarded by mu.
	listed []Tenant
}

func newFleet(cfg Config, js jetstream.JetStream, m *metrics.Metrics) *fleet {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	f := &fleet{cfg: cfg, js: js, metrics: m, host: host,
		left: make(chan *service), served: map[string]*service{}, warnings: &warnings{log: cfg.Log, said: map[string]struct{}{}}}
	f.buckets = newBuckets(f)
	f.announcer = newAnnouncer(f)
	f.lookout = &lookout{fleet: f}
	f.replica = share.New(js.Conn(), cfg.Names.Replicas(namesOf(cfg.Tenants)), f.divide)
	return f
}

// run serves the tenants until ctx ends, and waits for what is in work then,
// which hard may cut short.
func (f *fleet) run(ctx, hard context.Context) {
	var others sync.WaitGroup
	others.Go(func() {
		if err := f.replica.Run(ctx); err != nil {
			f.cfg.Log.Error("this replica cannot see the others, so it works as if it were alone", zap.Error(err))
		}
	})
	f.apply(ctx, hard, f.cfg.Tenants)
	others.Go(func() { f.lookout.run(ctx) })
	others.Go(func() { f.buckets.watch(ctx) })
	others.Go(func() { f.watchUnserved(ctx) })
	others.Go(func() { limitGarbage(ctx) })
	if follower := newFollower(f); follower != nil {
		others.Go(func() { follower.Run(ctx, hard) })
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case tenants := <-f.cfg.Changes:
			f.apply(ctx, hard, tenants)
		case s := <-f.left:
			f.remove(s)
		}
	}
	others.Wait()
	for _, s := range f.all() {
		<-s.done
	}
	if f.announcer != nil {
		f.announcer.Wait()
	}
}

// apply serves these tenants from now on: it starts new
// tenants, stops missing ones, and restarts changed ones.
func (f *fleet) apply(ctx, hard context.Context, tenants []Tenant) {
	listed := map[string]bool{}
	f.mu.Lock()
	f.listed = tenants
	f.mu.Unlock()
	f.replica.Serve(f.cfg.Names.Replicas(namesOf(tenants)), namesOf(tenants))
	f.lookout.look(ctx, startWait, 0)
	f.buckets.find(ctx)
	for _, t := range tenants {
		listed[t.Name] = true
		before := f.get(t.Name)
		switch {
		case before == nil:
		case before.leaving:
			f.cfg.Log.Info("the tenant is back in WORKER_TENANTS_FILE; it is restarted once its calls in flight have ended", zap.String("tenant", t.Name))
		case before.spec == t:
			continue
		default:
			f.cfg.Log.Info("the tenant has changed; it is restarted", zap.String("tenant", t.Name))
			before.stop()
		}
		f.begin(ctx, hard, t, before)
	}
	for _, s := range f.all() {
		if !listed[s.spec.Name] && !s.leaving {
			f.cfg.Log.Info("the tenant is no longer served", zap.String("tenant", s.spec.Name))
			s.leaving = true
			s.stop()
			f.await(ctx, s)
		}
	}
}

// begin serves a tenant once its previous service, if any, has ended.
func (f *fleet) begin(ctx, hard context.Context, t Tenant, before *service) {
	s, err := newService(f, t)
	if err != nil {
		// The list was checked when it was read.
		f.cfg.Log.Error("the tenant cannot be served", zap.String("tenant", t.Name), zap.Error(err))
		return
	}
	soft, stop := context.WithCancel(ctx)
	s.stop = stop
	f.lookout.tell(s)
	f.mu.Lock()
	f.served[t.Name] = s
	f.mu.Unlock()
	f.share(s) // from now on it is told of changes
	go func() {
		defer close(s.done)
		defer stop()
		if before != nil {
			<-before.done
		}
		s.run(soft, hard)
	}()
}

// await tells run when the work of a leaving service has ended, unless the process
// ends before.
func (f *fleet) await(ctx context.Context, s *service) {
	go func() {
		select {
		case <-s.done:
		case <-ctx.Done():
			return
		}
		select {
		case f.left <- s:
		case <-ctx.Done():
		}
	}()
}

// remove takes a tenant off the list, and its series, unless another service has
// taken its place. It must not meet [fleet.begin], which hands these series to
// the new one; so both are run's.
func (f *fleet) remove(s *service) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.served[s.spec.Name] == s {
		delete(f.served, s.spec.Name)
		f.metrics.Remove(s.spec.Name)
	}
}

func (f *fleet) get(name string) *service {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.served[name]
}

// all are the services, by name.
func (f *fleet) all() []*service {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*service
	for _, name := range slices.Sorted(maps.Keys(f.served)) {
		all = append(all, f.served[name])
	}
	return all
}

// owns reports whether this replica should work on a tenant.
// Only the list shows whether another replica neglects its
// tenants; without the list, each replica takes what it gets.
func (f *fleet) owns(tenant string) bool { return !f.lookout.listed.Load() || f.replica.Owns(tenant) }

// divide tells each queue again whether it belongs to this replica.
func (f *fleet) divide() {
	for _, s := range f.all() {
		f.share(s)
	}
}

// share tells a queue whether it belongs to this replica.
func (f *fleet) share(s *service) {
	f.sharing.Lock()
	defer f.sharing.Unlock()
	s.queue.Own(f.owns(s.spec.Name))
}

// wakeSubject is where wake-ups for the tenants are heard.
func (f *fleet) wakeSubject() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listed) == 1 {
		n := f.cfg.Names
		n.Tenant = f.listed[0].Name
		return n.Wake() // may be all that the worker may listen to
	}
	return f.cfg.Names.Wakes()
}

// namesOf are the names of some tenants.
func namesOf(tenants []Tenant) (names []string) {
	for _, t := range tenants {
		names = append(names, t.Name)
	}
	return names
}

// states are the tenants' parts of /readyz.
func (f *fleet) states() []metrics.TenantState {
	states := []metrics.TenantState{}
	for _, s := range f.all() {
		states = append(states, s.tenant.State(s.binding()))
	}
	return states
}

// poll is how long to wait between two readings of one queue's depth.
func (f *fleet) poll() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(pollInterval, time.Duration(len(f.served))*pollEach)
}

// unknownAction reports, by its name, an action that may be a reset.
func (f *fleet) unknownAction(name string) {
	f.metrics.UnknownActionName()
	f.warnings.once(fmt.Sprintf("a device lists an action %q that has the type of a reset but an unknown name; the outcomes "+
		"of calls to such devices stay in doubt; if it is a reset, add the name to WORKER_ACTION_NAMES", name))
}

// watchUnserved names the tenants whose requests no worker takes.
func (f *fleet) watchUnserved(ctx context.Context) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	seen := map[string]bool{} // at the last look; true: named
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !slices.ContainsFunc(f.all(), func(s *service) bool { return s.binding() == nil }) {
			continue // nothing can be read yet
		}
		// Best effort: the right to read this is not needed for the work.
		tenants, err := topology.Unserved(ctx, f.js, f.cfg.Names)
		now, next := map[string]bool{}, unservedInterval
		if err != nil {
			now = maps.Clone(seen) // not all that were seen can be seen now
		}
		for _, name := range tenants {
			named, before := seen[name]
			switch {
			case f.get(name) != nil: // what this process serves is not neglected
				continue
			case !before:
				next = unservedAgain
			case !named:
				f.cfg.Log.Warn("requests wait for a tenant that no worker serves", zap.String("tenant", name))
			}
			now[name] = before
		}
		seen = now
		ticker.Reset(next)
	}
}

// mostSaid bounds the warnings that are remembered. Further ones are not given.
const mostSaid = 1000

// warnings are given once each in the life of the process.
type warnings struct {
	log *zap.Logger

	mu   sync.Mutex
	said map[string]struct{}
}

// once gives a warning, unless it was given before.
func (w *warnings) once(warning string, fields ...zap.Field) {
	w.mu.Lock()
	_, again := w.said[warning]
	again = again || len(w.said) >= mostSaid
	if !again {
		w.said[warning] = struct{}{}
	}
	w.mu.Unlock()
	if !again {
		w.log.Warn(warning, fields...)
	}
}
