// Package state keeps what the replicas that work on a tenant hand on to each
// other, and to themselves after a restart: an announced pause, a hold, the rate
// that was learned, a blown fuse. It lies in a key-value bucket of its own, so
// that the bucket of records holds nothing but records.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Worker is what the replica that works on a tenant hands on. The zero Worker
// is a tenant of which nothing is known. All instants are by the clock of the
// NATS server.
type Worker struct {
	// PausedUntil is the end of the last pause that Graph asked for; absent
	// without one.
	PausedUntil time.Time `json:"pausedUntil,omitzero"`
	// Granted is how many calls per window the server was found to grant; 0
	// means that the configured rate holds.
	Granted int `json:"granted,omitzero"`
	// Hold is absent while nothing is held.
	Hold *Hold `json:"hold,omitzero"`
	// FuseBlownAt is when the fuse blew last; absent if it never did. Only an
	// operator's release after that instant lets the tenant go on.
	FuseBlownAt time.Time `json:"fuseBlownAt,omitzero"`
	// Worker is the host name of the replica that wrote this.
	Worker string `json:"worker"`
}

// Hold is why a tenant's queue stands still.
type Hold struct {
	Cause  string    `json:"cause"`
	Since  time.Time `json:"since"`
	Detail string    `json:"detail,omitzero"`
}

// Operator is what an operator has told the workers of a tenant.
type Operator struct {
	// ReleasedAt is when a blown fuse was released last, by the clock of the
	// NATS server; zero if it never was.
	ReleasedAt time.Time
}

// Store is the bucket.
type Store struct{ kv jetstream.KeyValue }

// Open binds to an existing bucket.
func Open(ctx context.Context, js jetstream.JetStream, bucket string) (*Store, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", bucket, err)
	}
	return &Store{kv}, nil
}

func workerKey(tenant string) string   { return tenant + ".worker" }
func operatorKey(tenant string) string { return tenant + ".operator" }

// Worker reads what was handed on for a tenant.
func (s *Store) Worker(ctx context.Context, tenant string) (Worker, error) {
	var w Worker
	entry, err := s.kv.Get(ctx, workerKey(tenant))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return w, nil
	}
	if err != nil {
		return w, fmt.Errorf("state of tenant %s: %w", tenant, err)
	}
	if err := json.Unmarshal(entry.Value(), &w); err != nil {
		return Worker{}, fmt.Errorf("state of tenant %s, revision %d, is not of the form it should be: %w", tenant, entry.Revision(), err)
	}
	return w, nil
}

// SetWorker hands on. The last one to write wins: only the replica that works
// on the tenant writes, and what it does not know is found out again by a call.
func (s *Store) SetWorker(ctx context.Context, tenant string, w Worker) error {
	value, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("state of tenant %s: %w", tenant, err)
	}
	if _, err := s.kv.Put(ctx, workerKey(tenant), value); err != nil {
		return fmt.Errorf("write the state of tenant %s: %w", tenant, err)
	}
	return nil
}

// Pause hands on a pause that was announced to a replica after its term: what
// others have written meanwhile stays.
func (s *Store) Pause(ctx context.Context, tenant string, until time.Time) error {
	for {
		var w Worker
		revision := uint64(0)
		entry, err := s.kv.Get(ctx, workerKey(tenant))
		switch {
		case err == nil:
			revision = entry.Revision()
			if err := json.Unmarshal(entry.Value(), &w); err != nil {
				return fmt.Errorf("state of tenant %s, revision %d, is not of the form it should be: %w", tenant, revision, err)
			}
		case !errors.Is(err, jetstream.ErrKeyNotFound):
			return fmt.Errorf("state of tenant %s: %w", tenant, err)
		}
		if !until.After(w.PausedUntil) {
			return nil
		}
		w.PausedUntil = until
		value, err := json.Marshal(w)
		if err != nil {
			return fmt.Errorf("state of tenant %s: %w", tenant, err)
		}
		if _, err = s.kv.Update(ctx, workerKey(tenant), value, revision); err == nil {
			return nil
		}
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) && !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("write the state of tenant %s: %w", tenant, err)
		}
		// Another has written it. The context ends this, should it go on for ever.
	}
}

// Operator reads what an operator has told last.
func (s *Store) Operator(ctx context.Context, tenant string) (Operator, error) {
	entry, err := s.kv.Get(ctx, operatorKey(tenant))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Operator{}, nil
	}
	if err != nil {
		return Operator{}, fmt.Errorf("release of tenant %s: %w", tenant, err)
	}
	return Operator{ReleasedAt: entry.Created()}, nil
}

// Release lets a tenant go on whose fuse has blown before now.
func (s *Store) Release(ctx context.Context, tenant string) error {
	// The instant that counts is the server's, when it stores this.
	if _, err := s.kv.Put(ctx, operatorKey(tenant), []byte(`{"release":true}`)); err != nil {
		return fmt.Errorf("release tenant %s: %w", tenant, err)
	}
	return nil
}
