package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/record"
	"passcode-worker/internal/state"
)

// buckets are the key-value buckets, which all tenants share.
type buckets struct {
	fleet *fleet

	mu      sync.Mutex
	records *record.Store // nil until it was found
	state   *state.Store  // nil until it was found; the work goes on without it
	missing error         // nil while the records are there
}

func newBuckets(f *fleet) *buckets { return &buckets{fleet: f} }

// open looks the buckets up. It fails where the records are not there.
func (b *buckets) open(ctx context.Context) error {
	n := b.fleet.cfg.Names
	records, err := record.Open(ctx, b.fleet.js, n.Bucket)
	if err != nil {
		return err
	}
	known, stateErr := state.Open(ctx, b.fleet.js, n.StateBucket())
	if errors.Is(stateErr, jetstream.ErrBucketNotFound) {
		b.fleet.once("weaker than promised: bucket " + n.StateBucket() +
			" is missing, so that a restart forgets pauses, holds and what was learned of the quota; worker setup makes it")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = records
	if stateErr == nil {
		b.state = known
	}
	return nil
}

// stores are the buckets as they were found last; nil where they were not.
func (b *buckets) stores() (*record.Store, *state.Store) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.records, b.state
}

// err is nil while the records are there.
func (b *buckets) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.missing
}

// watch notices that the records have gone, and makes their bucket anew where
// that is allowed: nothing can be worked on without it.
func (b *buckets) watch(ctx context.Context) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.look(ctx)
		}
	}
}

func (b *buckets) look(ctx context.Context) {
	if records, _ := b.stores(); records == nil {
		return // no queue was bound yet, which tells more
	}
	log := b.fleet.log
	err := b.open(ctx)
	if errors.Is(err, jetstream.ErrBucketNotFound) && b.fleet.cfg.Setup {
		log.Error("the records are gone and are begun anew: requests that were accepted before are no longer known as such")
		if _, err = consume.SetupShared(ctx, b.fleet.js, b.fleet.cfg.Names, b.fleet.cfg.Layout); err == nil {
			err = b.open(ctx)
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return // it could not be asked
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && b.missing == nil {
		log.Error("the records are gone, so nothing can be worked on", zap.Error(err))
	}
	b.missing = err
}
