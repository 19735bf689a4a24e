package outcome

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/bucket"
)

// Read reads a document, its revision and when that was stored; if there is none, all
// of them are zero. It is for callers that change nothing: the answer may come from a
// replica that lags behind. Unlike [Store.Get] it needs only the right to read the key,
// as long as nobody has stored anything else over the document.
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

// Told reads a change of a document, and its revision, from the message that the server
// publishes about it. ok is false if the stored value is not a document.
func Told(key string, m *nats.Msg) (d Document, revision uint64, ok bool) {
	v, ok := bucket.Told(m)
	if !ok {
		return Document{}, 0, false
	}
	d, ok = decodeRevision(key, v)
	return d, v.Sequence, ok
}

// ErrorCode formats an error code of Intune's: signed, and in hex.
func ErrorCode(code int32) string {
	if code == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", code, hex(code))
}
