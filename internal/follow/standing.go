package follow

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/handover"
	"passcode-worker/internal/hold"
)

// standing is what is known of a tenant besides its requests. Nobody waits for NATS while
// it is locked.
type standing struct {
	mu       sync.Mutex
	servedAt time.Time // when Graph last answered for the tenant, by this machine's clock
	renewed  time.Time // when a look last asked for another token
	asked    time.Time // when the others' word was asked for last
	worker   handover.Snapshot
}

const (
	// readEach is how old the others' word may be, and othersWait how long a look waits
	// for it; then it goes by what was known before.
	readEach   = time.Second
	othersWait = time.Second
	// servedFor is how long it counts that Graph has served the tenant.
	servedFor = 10 * time.Minute
	// renewEach is how often looks ask for another token.
	renewEach = time.Minute
)

func (t *Tenant) served(at time.Time) {
	t.standing.mu.Lock()
	defer t.standing.mu.Unlock()
	if at.After(t.standing.servedAt) {
		t.standing.servedAt = at
	}
}

func (t *Tenant) isServed(now time.Time) bool {
	t.standing.mu.Lock()
	defer t.standing.mu.Unlock()
	return now.Sub(t.standing.servedAt) < servedFor
}

func (t *Tenant) mayRenew(now time.Time) bool {
	t.standing.mu.Lock()
	defer t.standing.mu.Unlock()
	if now.Sub(t.standing.renewed) < renewEach {
		return false
	}
	t.standing.renewed = now
	return true
}

// mayLook reports whether a device of the tenant may be looked at now, and how many at a
// time. A hold stops looks as long as somebody probes it, which takes a request; where
// none waits, one look at a time goes, or a hold that nobody ends would stop them for
// ever.
func (f *Follower) mayLook(ctx context.Context, t *Tenant) (places int, open bool) {
	w := f.others(ctx, t)
	now := time.Now()
	if !t.Paused().IsZero() || !t.Reads.Paused().IsZero() || w.PausedUntil.Add(-t.Ahead()).After(now) {
		return 0, false
	}
	if w.Hold == nil || !stops(hold.Cause(w.Hold.Cause)) {
		return lanes, true
	}
	return 1, !t.Probed()
}

// stops reports whether a hold stops looks, too. An operator's pause and the fuse stop
// resets only.
func stops(c hold.Cause) bool {
	return c == hold.Credentials || c == hold.Permission || c == hold.Refused || c == hold.GraphUnavailable
}

// others is what the replica that works on the tenant has handed on, and what any of
// them was told about looks.
func (f *Follower) others(ctx context.Context, t *Tenant) handover.Snapshot {
	s, store := &t.standing, f.cfg.State()
	s.mu.Lock()
	known, fresh := s.worker, time.Since(s.asked) < readEach
	if store != nil && !fresh {
		s.asked = time.Now()
	}
	s.mu.Unlock()
	if store == nil || fresh {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, othersWait)
	defer cancel()
	w, _, err := store.Snapshot(ctx, t.Name)
	reads, readsErr := store.Reads(ctx, t.Name)
	if err != nil || readsErr != nil {
		f.cfg.Log.Debug("the state that other replicas have handed on could not be read", zap.String("tenant", t.Name), zap.Error(err), zap.NamedError("reads", readsErr))
		return known
	}
	if reads = reads.Add(-t.Ahead()); reads.After(time.Now()) {
		t.Reads.Restore(0, reads)
	}
	if !w.ServedAt.IsZero() {
		t.served(w.ServedAt.Add(-t.Ahead()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worker = w
	return w
}
