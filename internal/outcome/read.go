package outcome

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/bucket"
)

// Read reads a document as those do who change nothing, its revision, and when that
// was stored; where there is none all of it is zero. Unlike [Store.Get] it needs no
// more than the right to read the key, as long as nobody has stored anything else over
// the document; the answer may come from a replica that lags behind.
func (s *Store) Read(ctx context.Context, key string) (d Document, revision uint64, stored time.Time, err error) {
	v, err := s.bucket.Get(ctx, key)
	if err == nil && v.Sequence != 0 && !formed(key)(v) {
		v, _, err = s.bucket.Newest(ctx, key, formed(key))
	}
	if err != nil {
		return Document{}, 0, time.Time{}, fmt.Errorf("read outcome %s: %w", key, err)
	}
	d, ok := decodeRevision(key, v)
	if !ok {
		return Document{}, 0, time.Time{}, nil
	}
	return d, v.Sequence, v.Time, nil
}

// Told reads a change of a document as the server publishes it to those who listen,
// and the change's revision. ok is false where what was stored is no document.
func Told(key string, m *nats.Msg) (d Document, revision uint64, ok bool) {
	v, ok := bucket.Told(m)
	if !ok {
		return Document{}, 0, false
	}
	d, ok = decodeRevision(key, v)
	return d, v.Sequence, ok
}

// ErrorCode is an error code of Intune's as people look it up: signed, and in hex.
func ErrorCode(code int32) string {
	if code == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", code, hex(code))
}
