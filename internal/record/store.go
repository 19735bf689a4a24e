package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrConflict means that the record is no longer at the revision that was
// given: somebody else has written it, and it must be read again.
var ErrConflict = errors.New("the record was changed by another")

// writeTimeout bounds the wait for the reply to one write. A reply later than
// that is looked for by reading.
const writeTimeout = 5 * time.Second

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

// Get reads a record and its revision. Where there is none, the revision is 0.
// The answer may come from a replica that lags behind: decide by [Store.Put].
func (s *Store) Get(ctx context.Context, key string) (Record, uint64, error) {
	entry, err := s.entry(ctx, key)
	if err != nil || entry == nil {
		return Record{}, 0, err
	}
	var r Record
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		return Record{}, 0, fmt.Errorf("record %s, revision %d, is not of the form it should be: %w", key, entry.Revision(), err)
	}
	return r, entry.Revision(), nil
}

// entry is nil where there is no record.
func (s *Store) entry(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	entry, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record %s: %w", key, err)
	}
	return entry, nil
}

// Put writes a record if its revision is still the given one (0: if there is
// none), and returns the new revision. It fails with [ErrConflict] where it is
// not.
//
// A write whose reply is lost may have been stored all the same. Put reads back
// who wrote the record, and writes again where nobody did; it goes on until it
// knows, or the context ends. Only then is the outcome of a write unknown.
func (s *Store) Put(ctx context.Context, key string, r Record, revision uint64) (uint64, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("write record %s: %w", key, err)
	}
	inDoubt := false
	pause := 20 * time.Millisecond
	for {
		written, err := s.write(ctx, key, value, revision)
		if err == nil {
			return written, nil
		}
		conflict := isConflict(err)
		if conflict && !inDoubt {
			return 0, ErrConflict
		}
		if conflict || ctx.Err() == nil {
			// Somebody has written. It was this very write if the value is
			// ours to the byte: an attempt's client request id is in no other.
			entry, readErr := s.entry(ctx, key)
			switch {
			case readErr != nil:
				err = readErr
			case entry != nil && entry.Revision() != revision && bytes.Equal(entry.Value(), value):
				return entry.Revision(), nil
			case conflict && entry != nil && entry.Revision() != revision:
				return 0, ErrConflict
			}
		}
		inDoubt = true
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("write record %s: %w", key, err)
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
}

func (s *Store) write(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if revision == 0 {
		return s.kv.Create(ctx, key, value)
	}
	return s.kv.Update(ctx, key, value, revision)
}

func isConflict(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}
