package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/handover"
)

// Pause keeps every worker from taking a request of the tenant until an instant by
// the clock of the NATS server, or [topology.Forever]. Requests that are being worked
// on are finished.
func (t *Tools) Pause(ctx context.Context, until time.Time) error {
	err := t.insist(ctx, func(ctx context.Context) error {
		r, err := t.js.PauseConsumer(ctx, t.names.Stream, t.names.Consumer(), until)
		if err == nil && !r.Paused {
			return finalError("the server did not pause it: check whether the end, " + until.Format(time.RFC3339) + ", is already past by the server's clock")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("pause consumer %s: %w", t.names.Consumer(), err)
	}
	return nil
}

// Now is the time by the clock of the NATS server.
func (t *Tools) Now(ctx context.Context) (time.Time, error) {
	var now time.Time
	err := t.insist(ctx, func(ctx context.Context) error {
		c, err := t.js.Consumer(ctx, t.names.Stream, t.names.Consumer())
		if err == nil {
			now = serverTime(c.CachedInfo())
		}
		return err
	})
	if err != nil {
		return now, fmt.Errorf("consumer %s of stream %s: %w", t.names.Consumer(), t.names.Stream, err)
	}
	return now, nil
}

// Resume ends a pause.
func (t *Tools) Resume(ctx context.Context) error {
	err := t.insist(ctx, func(ctx context.Context) error {
		_, err := t.js.ResumeConsumer(ctx, t.names.Stream, t.names.Consumer())
		return err
	})
	if err != nil {
		return fmt.Errorf("resume consumer %s: %w", t.names.Consumer(), err)
	}
	return nil
}

// Release lets a tenant whose fuse has blown go on. It reports whether the fuse had
// blown, as far as the workers have stored it; the release is stored in any case.
func (t *Tools) Release(ctx context.Context) (blown bool, err error) {
	err = t.insist(ctx, func(ctx context.Context) error {
		store, err := handover.Open(ctx, t.js, t.names.StateBucket())
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			return finalError("bucket " + t.names.StateBucket() + " does not exist, so no worker would learn of the release: run worker setup, then worker resume")
		}
		if err != nil {
			return err
		}
		w, _, err := store.Snapshot(ctx, t.names.Tenant)
		if err != nil {
			return err
		}
		released, err := store.ReleasedAt(ctx, t.names.Tenant)
		if err != nil {
			return err
		}
		// A second try after a lost reply finds the release of the first.
		blown = blown || w.FuseBlownAt.After(released)
		return store.Release(ctx, t.names.Tenant)
	})
	if err != nil {
		return blown, fmt.Errorf("release the fuse: %w", err)
	}
	return blown, nil
}
