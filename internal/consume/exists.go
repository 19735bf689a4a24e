package consume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Exists tells whether a message is still on its stream. The instant tells it
// from another one of the same sequence on a stream that was made anew.
func Exists(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64, published time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stream %s: %w", stream, err)
	}
	m, err := s.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("message %d of stream %s: %w", sequence, stream, err)
	}
	return m.Time.Equal(published), nil
}
