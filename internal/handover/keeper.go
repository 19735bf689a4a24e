package handover

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// writeWait bounds one write.
	writeWait = 5 * time.Second
	// Again is the wait before a failed step is tried again.
	Again = time.Second
	// leaveWait bounds the rest of the work once all calls have ended.
	leaveWait = 500 * time.Millisecond
	// servedNews is how much later Graph must have served the tenant
	// before that instant is written again: it moves with every acceptance.
	servedNews = time.Minute
)

// Keeper writes down what the active replica of a tenant knows,
// each time it changes, as long as the replica's term lasts.
type Keeper struct {
	tenant string
	// store is the bucket; nil while it is not found: then nothing is handed on.
	store func() *Store
	// now returns what the next replica must know.
	now func() Snapshot
	log *zap.Logger

	changed chan struct{}
	// term is closed when the term ends; nil: none has begun yet.
	term atomic.Pointer[<-chan struct{}]

	mu sync.Mutex
	// written is the stored state; nil if it is not known
	// or not this replica's, so that it must be written again.
	written *Snapshot
	// revision is the revision of this replica's last write in this term; 0: none.
	revision uint64
}

// NewKeeper makes a keeper of a tenant. now is called with the keeper locked, and
// must not call it.
func NewKeeper(tenant string, store func() *Store, now func() Snapshot, log *zap.Logger) *Keeper {
	return &Keeper{tenant: tenant, store: store, now: now, log: log, changed: make(chan struct{}, 1), written: &Snapshot{}}
}

// Recall reads what the previous replica has handed on; nil if there is no bucket.
func (k *Keeper) Recall(ctx context.Context) (*Snapshot, error) {
	store := k.store()
	if store == nil {
		return nil, nil
	}
	k.mu.Lock() // for a write of the last term
	defer k.mu.Unlock()
	s, _, err := store.Snapshot(ctx, k.tenant)
	if err != nil {
		return nil, err
	}
	k.written, k.revision = &s, 0 // another's, or not even the last value
	return &s, nil
}

// Released reads when an operator released the fuse last; zero: never, or there is no
// bucket.
func (k *Keeper) Released(ctx context.Context) (time.Time, error) {
	store := k.store()
	if store == nil {
		return time.Time{}, nil
	}
	return store.ReleasedAt(ctx, k.tenant)
}

// Begin lets this replica hand on until term ends. The previous
// state must have been read before, as far as possible.
func (k *Keeper) Begin(term context.Context) {
	if over := term.Done(); term.Err() == nil {
		k.term.Store(&over)
	}
}

// InTerm reports whether this replica may hand on now.
func (k *Keeper) InTerm() bool {
	term := k.term.Load()
	if term == nil {
		return false
	}
	select {
	case <-*term:
		return false
	default:
		return true
	}
}

// Changed tells the keeper that there may be something new.
func (k *Keeper) Changed() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Lost tells the keeper that the stored state is lost.
func (k *Keeper) Lost() {
	k.mu.Lock()
	k.written = &Snapshot{}
	k.mu.Unlock()
	k.Changed()
}

// Run hands on until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.changed:
		}
		if k.write(ctx) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(Again):
			k.Changed()
		}
	}
}

// write hands on what is new, and
// reports whether nothing is left to do.
func (k *Keeper) write(ctx context.Context) (done bool) {
	store := k.store()
	if store == nil {
		return true // nowhere to write
	}
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.now()
	// Asked after the state was put together, because the hold is forgotten with the term.
	switch {
	case !k.InTerm():
		return k.late(ctx, store, s.PausedUntil)
	case k.written != nil && same(s, *k.written):
		return true
	}
	revision, err := store.SetSnapshot(ctx, k.tenant, s)
	if err != nil {
		k.written = nil // it may be stored nevertheless, and be out of date by then
		k.log.Debug("the state for the next worker could not be written; trying again", zap.Error(err))
		return false
	}
	k.written, k.revision = &s, revision
	return true
}

// late hands on a pause that Graph announced after the term to a call
// in flight, and reports whether nothing is left to do. Call with mu held.
func (k *Keeper) late(ctx context.Context, store *Store, pausedUntil time.Time) (done bool) {
	if pausedUntil.IsZero() || k.written != nil && !pausedUntil.After(k.written.PausedUntil) {
		return true
	}
	if err := store.Pause(ctx, k.tenant, pausedUntil); err != nil {
		k.log.Debug("a pause that came late could not be handed on; trying again", zap.Error(err))
		return false
	}
	k.written = &Snapshot{PausedUntil: pausedUntil} // for the next term it is read anew
	return true
}

// Check makes this replica hand on once more where the last value that is written
// down is not its own. Anybody's value may be written over it, and so many that
// nothing is left of the one that says that the fuse has blown. late is given such a
// value, which may hold the pause that the replica before this one was told late; it
// is called with the keeper locked.
func (k *Keeper) Check(ctx context.Context, late func(Snapshot)) {
	store := k.store()
	if store == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.InTerm() {
		return
	}
	s, revision, err := store.Snapshot(ctx, k.tenant)
	if err != nil {
		k.log.Debug("the state that replicas hand on could not be read; trying again", zap.Error(err))
		return
	}
	if revision != k.revision {
		late(s)
		k.written = nil
		k.Changed()
	}
}

// Leave hands on a pause that Graph announced to a call that was still in flight
// when this replica's term ended; a zero instant means that there is none.
func (k *Keeper) Leave(ctx context.Context, pausedUntil time.Time) {
	store := k.store()
	if store == nil || pausedUntil.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	if err := store.Pause(ctx, k.tenant, pausedUntil); err != nil {
		k.log.Warn("the pause could not be handed on; the next worker may learn of it only by making a call", zap.Error(err))
	}
}

// same reports whether there is nothing new. The detail of a hold changes
// with each probe, and its instant with the clocks; neither is news.
func same(a, b Snapshot) bool {
	if (a.Hold == nil) != (b.Hold == nil) || a.Hold != nil && a.Hold.Cause != b.Hold.Cause {
		return false
	}
	near := func(a, b time.Time, tolerance time.Duration) bool {
		return a.IsZero() == b.IsZero() && a.Sub(b).Abs() < tolerance
	}
	return a.Granted == b.Granted && near(a.PausedUntil, b.PausedUntil, time.Second) && near(a.FuseBlownAt, b.FuseBlownAt, time.Second) &&
		near(a.ServedAt, b.ServedAt, servedNews)
}
