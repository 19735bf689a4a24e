package follow

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/handover"
	"passcode-worker/internal/hold"
)

// standing is what is known about a tenant apart from its requests. No call to NATS is
// made while it is locked.
type standing struct {
	mu       sync.Mutex
	servedAt time.Time // when Graph last answered for the tenant, by this machine's clock
	renewed  time.Time // when a look last asked for another token
	asked    time.Time // when the other replicas' state was last read
	worker   handover.Snapshot
}

const (
	// readEach is how old the other replicas' state may be, and othersWait how long a look
	// waits for it before it uses what was known earlier.
	readEach   = time.Second
	othersWait = time.Second
	// servedFor is how long an answer proves that Graph serves the tenant.
	servedFor = 10 * time.Minute
	// renewEach is the least time between two tokens that looks ask for.
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

// mayLook reports whether looks at devices of the tenant are allowed now, and how many at
// a time. A hold stops looks as long as waiting requests probe it. If none waits, one look
// at a time is allowed; otherwise the hold would stop looks for ever.
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

// stops reports whether a hold stops looks, too. An operator's pause and the fuse stop only
// resets.
func stops(c hold.Cause) bool {
	return c == hold.Credentials || c == hold.Permission || c == hold.Refused || c == hold.GraphUnavailable
}

// others is what the active replica of the tenant has handed on. It also takes over the
// pause that Graph has asked of any replica's looks.
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
