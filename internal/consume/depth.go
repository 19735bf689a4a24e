package consume

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// Depth is how much waits in a tenant's queue.
type Depth struct {
	Messages    int // all, also those that were delivered and are not acknowledged
	AckPending  int // delivered, not acknowledged
	Redelivered int
	// Paused tells that an operator has paused the consumer, PausedUntil until
	// when; zero: until it is resumed.
	Paused      bool
	PausedUntil time.Time
	// Pinned tells that the server has chosen a replica, which need not be this
	// one. It does so with the first request, and forgets one that falls silent.
	Pinned bool
}

// Look asks the server for what it knows of the consumer.
func (q *Queue) Look(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	info, err := q.consumer(ctx)
	if err != nil {
		return nil, fmt.Errorf("consumer %s: %w", q.cfg.Names.Consumer(), err)
	}
	return info, nil
}

// DepthOf is how much waits in the queue of a consumer.
func DepthOf(info *jetstream.ConsumerInfo) Depth {
	d := Depth{
		Messages:    int(info.NumPending) + info.NumAckPending,
		AckPending:  info.NumAckPending,
		Redelivered: info.NumRedelivered,
		Pinned:      topology.Pinned(info) != "",
	}
	if d.Paused = info.Paused; d.Paused && !topology.PauseEnd(info).IsZero() {
		d.PausedUntil = time.Now().Add(info.PauseRemaining)
		if until := info.Config.PauseUntil; until != nil {
			d.PausedUntil = *until // does not move from one reading to the next
		}
	}
	return d
}
