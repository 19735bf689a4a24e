package follow

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/hold"
	"passcode-worker/internal/state"
)

// standing is what is known of a tenant besides its requests.
type standing struct {
	mu       sync.Mutex
	servedAt time.Time // when Graph last answered for the tenant, by this machine's clock
	read     time.Time // when the others' word was read last
	worker   state.Worker
}

const (
	// readEach is how old the others' word may be.
	readEach = time.Second
	// servedFor is how long it counts that Graph has served the tenant.
	servedFor = 10 * time.Minute
)

func (t *Tenant) served(at time.Time) {
	t.standing.mu.Lock()
	defer t.standing.mu.Unlock()
	t.standing.servedAt = at
}

func (t *Tenant) isServed(now time.Time) bool {
	t.standing.mu.Lock()
	defer t.standing.mu.Unlock()
	return now.Sub(t.standing.servedAt) < servedFor
}

// open reports whether a device of the tenant may be looked at now, and how many at a
// time. A hold stops looks as long as somebody probes it, which takes a request; where
// none waits, one look at a time goes, or a hold that nobody ends would stop them for
// ever.
func (f *Follower) open(ctx context.Context, t *Tenant) (places int, open bool) {
	w := f.others(ctx, t)
	now := time.Now()
	if !t.Paused().IsZero() || !t.Reads.Paused().IsZero() || w.PausedUntil.Add(-t.Ahead()).After(now) {
		return 0, false
	}
	if w.Hold == nil || !stops(hold.Cause(w.Hold.Cause)) {
		return lanes, true
	}
	return 1, !t.Waiting()
}

// stops reports whether a hold stops looks, too. An operator's pause and the fuse stop
// resets only.
func stops(c hold.Cause) bool {
	return c == hold.Credentials || c == hold.Permission || c == hold.Refused || c == hold.GraphUnavailable
}

// others is what the replica that works on the tenant has handed on, and what any of
// them was told about looks.
func (f *Follower) others(ctx context.Context, t *Tenant) state.Worker {
	s := &t.standing
	s.mu.Lock()
	defer s.mu.Unlock()
	store := f.cfg.State()
	if store == nil || time.Since(s.read) < readEach {
		return s.worker
	}
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	w, _, err := store.Worker(ctx, t.Name)
	reads, readsErr := store.Reads(ctx, t.Name)
	if err != nil || readsErr != nil {
		f.cfg.Log.Debug("what other replicas have handed on could not be read", zap.String("tenant", t.Name), zap.Error(err), zap.NamedError("reads", readsErr))
		return s.worker
	}
	if reads = reads.Add(-t.Ahead()); reads.After(time.Now()) {
		t.Reads.Restore(0, reads)
	}
	if at := w.ServedAt.Add(-t.Ahead()); !w.ServedAt.IsZero() && at.After(s.servedAt) {
		s.servedAt = at
	}
	s.worker, s.read = w, time.Now()
	return w
}

// handOn tells the other replicas until when Graph wants no looks.
func (f *Follower) handOn(ctx context.Context, t *Tenant, until time.Time) {
	store := f.cfg.State()
	if store == nil || until.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWait)
	defer cancel()
	if err := store.SetReads(ctx, t.Name, until.Add(t.Ahead())); err != nil {
		f.cfg.Log.Debug("a pause of the looks could not be handed on", zap.String("tenant", t.Name), zap.Error(err))
	}
}
