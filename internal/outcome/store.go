package outcome

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/bucket"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
)

// ErrConflict means that the document is no longer at the revision that was given.
var ErrConflict = bucket.ErrConflict

// Store is the bucket of outcomes. Each write is also published as an event.
type Store struct {
	// Stream is the name of the bucket's stream, Subject the prefix of a key's subject.
	Stream, Subject string

	bucket *bucket.Bucket
}

// Open binds to an existing bucket.
func Open(ctx context.Context, js jetstream.JetStream, name string) (*Store, error) {
	b, err := bucket.Open(ctx, js, name)
	if err != nil {
		return nil, err
	}
	return &Store{b.Stream, b.Subject, b}, nil
}

// Get reads a document and the last revision of its key. The document is empty if
// there is none, or if others have stored something else under the key. The revision
// is always that of the last value, so that it can be overwritten.
func (s *Store) Get(ctx context.Context, key string) (Document, uint64, error) {
	newest, last, err := s.bucket.Newest(ctx, key, formed(key))
	if err != nil {
		return Document{}, 0, fmt.Errorf("read outcome %s: %w", key, err)
	}
	d, _ := decodeRevision(key, newest)
	return d, last.Sequence, nil
}

// Put writes a document if nobody has changed it since the revision (0: if there is
// none), else it fails with [ErrConflict]. If the reply is lost, it reads back whether
// the write took effect.
func (s *Store) Put(ctx context.Context, d Document, revision uint64) error {
	key := keyOf(d.Tenant, d.ID)
	value, err := json.Marshal(d)
	if err == nil {
		_, err = s.bucket.Set(ctx, key, value, revision, formed(key))
	}
	if err != nil {
		return fmt.Errorf("write outcome %s: %w", key, err)
	}
	return nil
}

func keyOf(tenant, id string) string { return record.Key(tenant, request.EscapeID(id)) }

func decodeRevision(key string, v bucket.Revision) (Document, bool) {
	if v.Sequence == 0 || v.Deleted() || v.Answer() {
		return Document{}, false
	}
	return decode(key, v.Value, keyOf)
}

func formed(key string) func(bucket.Revision) bool {
	return func(v bucket.Revision) bool {
		_, ok := decodeRevision(key, v)
		return ok || v.Deleted()
	}
}

// Decode reads a value of a key, with its headers, from the history of the bucket. It
// reports whether the value is a document.
func Decode(key string, header nats.Header, value []byte) (Document, bool) {
	return decodeRevision(key, bucket.Revision{Sequence: 1, Header: header, Value: value})
}

// IsMissing reports whether an error says that there is no such bucket.
func IsMissing(err error) bool { return errors.Is(err, jetstream.ErrBucketNotFound) }
