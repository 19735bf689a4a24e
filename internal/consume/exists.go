package consume

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Exists reports whether a message is still on its stream. The instant tells it
// from another one of the same sequence on a stream that was made anew.
func Exists(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64, published time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	m, err := StoredAt(ctx, js, stream, sequence)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	return m != nil && m.Time.Equal(published), err
}
