package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/devices"
	"passcode-worker/internal/handover"
	"passcode-worker/internal/record"
	"passcode-worker/internal/tenant"
	"passcode-worker/internal/topology"
)

// buckets are the key-value buckets, which all tenants share.
type buckets struct {
	fleet *fleet

	mu      sync.Mutex
	found   tenant.Stores
	missing error // nil while the records are there
	// lost means that the state that replicas hand on is missing,
	// and must be written again once its bucket is back.
	lost bool
}

func newBuckets(f *fleet) *buckets { return &buckets{fleet: f} }

// open looks the buckets up. It fails where the bucket of records does not exist.
func (b *buckets) open(ctx context.Context) error {
	n := b.fleet.cfg.Names
	records, err := record.Open(ctx, b.fleet.js, n.Bucket)
	if err != nil {
		return err
	}
	handed, handedErr := b.openHandover(ctx)
	cooling, err := b.openDevices(ctx)
	b.mu.Lock()
	b.found.Records, b.found.Devices = records, cooling
	back := false
	switch {
	case handedErr == nil:
		b.found.Handover, back, b.lost = handed, b.lost, false
	case errors.Is(handedErr, jetstream.ErrBucketNotFound):
		b.found.Handover, b.lost = nil, true
	}
	b.mu.Unlock()
	if back {
		for _, s := range b.fleet.all() {
			s.tenant.Keeper.Lost()
		}
	}
	return err
}

// find looks the buckets up before the first queue is bound, so that
// empty queues need not be bound. The queues report what is missing.
func (b *buckets) find(ctx context.Context) {
	if b.stores().Records != nil || !b.fleet.js.Conn().IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	if err := b.open(ctx); err != nil {
		b.fleet.cfg.Log.Debug("the buckets do not exist yet", zap.Error(err))
	}
}

// openDevices looks up the bucket of devices that cool down, where they do, and
// makes it where it is missing and that is allowed.
func (b *buckets) openDevices(ctx context.Context) (*devices.Store, error) {
	cfg := b.fleet.cfg
	if cfg.Cooldown == 0 {
		return nil, nil
	}
	least := cfg.Cooldown + cfg.Policy.RequestTimeout
	found, err := devices.Open(ctx, b.fleet.js, cfg.Names.DeviceBucket(), least)
	if errors.Is(err, jetstream.ErrBucketNotFound) && cfg.Setup {
		if _, err = topology.SetupShared(ctx, b.fleet.js, cfg.Names, cfg.Layout); err == nil {
			found, err = devices.Open(ctx, b.fleet.js, cfg.Names.DeviceBucket(), least)
		}
	}
	return found, err
}

// openHandover looks up the bucket of what replicas hand on, and makes it where it
// is missing and that is allowed: without it no fuse can be released.
func (b *buckets) openHandover(ctx context.Context) (*handover.Store, error) {
	cfg := b.fleet.cfg
	name := cfg.Names.StateBucket()
	found, err := handover.Open(ctx, b.fleet.js, name)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return found, err
	}
	if cfg.Setup {
		if _, setupErr := topology.SetupShared(ctx, b.fleet.js, cfg.Names, cfg.Layout); setupErr == nil {
			b.fleet.cfg.Log.Warn("bucket " + name + " was missing and has been created")
			b.mu.Lock()
			b.lost = true
			b.mu.Unlock()
			return handover.Open(ctx, b.fleet.js, name)
		}
	}
	b.fleet.warnings.once("weaker than promised: bucket " + name + " is missing, so a restart forgets pauses, holds and the learned quota, " +
		"and only a restart releases a fuse; worker setup creates the bucket")
	return nil, err
}

// stores are the buckets as they were found last.
func (b *buckets) stores() tenant.Stores {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.found
}

// err is nil while the records are there.
func (b *buckets) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.missing
}

// watch notices that the bucket of records is gone, and creates
// it again if that is allowed: no request can be worked on without it.
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
	if b.stores().Records == nil {
		return // no queue was bound yet, which tells more
	}
	log := b.fleet.cfg.Log
	err := b.open(ctx)
	if errors.Is(err, jetstream.ErrBucketNotFound) && b.fleet.cfg.Setup {
		log.Error("the bucket of records is gone and is created again; the worker no longer knows which requests were accepted before")
		if _, err = topology.SetupShared(ctx, b.fleet.js, b.fleet.cfg.Names, b.fleet.cfg.Layout); err == nil {
			err = b.open(ctx)
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		return // it could not be asked
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && b.missing == nil {
		log.Error("the bucket of records is gone, so no request can be worked on", zap.Error(err))
	}
	b.missing = err
}
