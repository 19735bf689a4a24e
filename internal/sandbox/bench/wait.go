package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/sandbox"
)

// messages is how many a stream has.
func (w *world) messages(ctx context.Context, stream string) (uint64, error) {
	state, err := w.state(ctx, stream)
	return state.Msgs, err
}

func (w *world) state(ctx context.Context, stream string) (jetstream.StreamState, error) {
	s, err := w.js.Stream(ctx, stream)
	if err != nil {
		return jetstream.StreamState{}, err
	}
	return s.CachedInfo().State, nil
}

// emptied waits until no message is on some streams, to which nothing more is sent. It asks
// rarely while many are, because each question costs the server a little.
func (w *world) emptied(ctx context.Context, streams ...string) error {
	for _, stream := range streams {
		err := w.await(ctx, "the end of what is on "+stream, func() (time.Duration, error) {
			left, err := w.messages(ctx, stream)
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				return settled, nil // the server has too much to do to answer
			}
			return pauseFor(left), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pauseFor is when to ask again where so many messages are left.
func pauseFor(left uint64) time.Duration {
	if left == 0 {
		return 0
	}
	return min(time.Second, max(time.Millisecond, time.Duration(left)*50*time.Microsecond))
}

// posted waits until n calls have been made.
func (w *world) posted(ctx context.Context, n int) error {
	return w.await(ctx, fmt.Sprintf("%d calls", n), func() (time.Duration, error) {
		s, err := w.graph.Status()
		if s.Posts >= n {
			return 0, err
		}
		return time.Millisecond / 2, err
	})
}

// patience is how long anything is waited for.
const patience = 10 * time.Minute

// await asks until something is so: look returns when to ask again, or 0.
func (w *world) await(ctx context.Context, what string, look func() (again time.Duration, err error)) error {
	for began := time.Now(); ; {
		again, err := look()
		if err != nil || again == 0 {
			return err
		}
		if err := w.alive(); err != nil {
			return err
		}
		if time.Since(began) > patience {
			return fmt.Errorf("waited in vain for %s", what)
		}
		if err := sandbox.Pause(ctx, again); err != nil {
			return err
		}
	}
}

// percentile of some values.
func percentile(values []float64, p int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

// each does something for the numbers below n, some at a time.
func each(n int, do func(i int) error) error {
	errs := make(chan error, slots)
	for s := range slots {
		go func() {
			for i := s; i < n; i += slots {
				if err := do(i); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var all []error
	for range slots {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}
