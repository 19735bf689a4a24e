package bench

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/sandbox"
)

const (
	neighbourCount = 100
	perTenant      = 50  // requests of each in a turn
	few            = 150 // requests of a bad one that gets none done
	crowd          = 100_000
)

// neighbour is what is wrong with one tenant of a hundred.
type neighbour struct {
	requests int
	spoil    func(g *sandbox.Graph, tenantID string) error
}

var (
	neighbourThrottled = neighbour{few, (*sandbox.Graph).GrantNothing}
	neighbourForbidden = neighbour{few, func(g *sandbox.Graph, id string) error { return g.SetOutage(id, graphsim.OutagePermission) }}
	neighbourHanging   = neighbour{few, func(g *sandbox.Graph, id string) error { return g.SetOutage(id, graphsim.OutageSilence) }}
	neighbourCrowded   = neighbour{crowd, func(*sandbox.Graph, string) error { return nil }}
)

// neighbourTurns is how many times the tenants of each worker work without the
// bad one, and as many with it.
const neighbourTurns = 4

// badNeighbour measures what 99 tenants get done alone, and beside one more. Of
// two workers, each with a NATS and a Graph of its own, one begins without it and
// the other with it, and at half-time they change. They take turns of a second.
// So neither what differs between the two nor what else the machine has to do
// favours a side.
func badNeighbour(bad neighbour) func(context.Context, *world) ([]sample, error) {
	return func(ctx context.Context, w *world) ([]sample, error) {
		other, err := w.twin(ctx)
		if err != nil {
			return nil, err
		}
		both := [2]*neighbours{{w: w, bad: bad}, {w: other, bad: bad}}
		for _, n := range both {
			if err := n.begin(ctx); err != nil {
				return nil, err
			}
		}
		// The first turn of all pays for connections, tokens and caches.
		var alone, beside [2][]float64
		for i := range 2*neighbourTurns + 1 {
			for j, n := range both {
				with := i > 0 && (i > neighbourTurns) == (j == 0)
				rate, err := n.turn(ctx, with)
				switch {
				case err != nil:
					return nil, err
				case with:
					beside[j] = append(beside[j], rate)
				case i > 0:
					alone[j] = append(alone[j], rate)
				}
			}
		}
		// Medians, so that a turn in which the machine did something else does not count.
		ratio := median(beside[0]) / median(alone[0]) * median(beside[1]) / median(alone[1])
		return []sample{
			{what: "99 tenants alone", unit: "per s", value: median(slices.Concat(alone[:]...))},
			{what: "the same 99 beside it", unit: "per s", value: median(slices.Concat(beside[:]...))},
			{what: "beside it to alone", value: math.Sqrt(ratio), goal: atLeast(0.95)},
		}, nil
	}
}

// neighbours are the tenants of one worker: the good ones, and the last, bad one, which
// does nothing but in its turns.
type neighbours struct {
	w     *world
	bad   neighbour
	turns int
	ready bool // the bad one has its requests
}

func (n *neighbours) begin(ctx context.Context) error {
	if err := errors.Join(n.bad.spoil(n.w.graph, directory(neighbourCount-1)), n.pause(ctx, true)); err != nil {
		return err
	}
	_, err := n.w.idle(ctx, noRate)
	return err
}

// pause keeps the bad one from doing anything, or lets it.
func (n *neighbours) pause(ctx context.Context, paused bool) error {
	until := time.Time{}
	if paused {
		until = time.Now().Add(time.Hour)
	}
	_, err := n.w.js.PauseConsumer(ctx, n.w.names.Stream, n.w.tenant(neighbourCount-1).Consumer(), until)
	return err
}

// turn has each good tenant work off some requests, with the bad one or without, and
// returns how many they do in a second.
func (n *neighbours) turn(ctx context.Context, with bool) (rate float64, err error) {
	bad := n.w.tenant(neighbourCount - 1).Filter()
	if with && !n.ready {
		if err := n.w.load(ctx, bad, 10_000_000, n.bad.requests); err != nil {
			return 0, err
		}
		n.ready = true
	}
	if with {
		if err := n.pause(ctx, false); err != nil {
			return 0, err
		}
	}
	// It is as bad as it can be before anything is measured.
	if err := sandbox.Pause(ctx, settled); err != nil {
		return 0, err
	}
	const good = neighbourCount - 1
	began := time.Now()
	for i := range good {
		if err := n.w.send(n.w.tenant(i).Filter(), (n.turns*good+i)*perTenant, perTenant); err != nil {
			return 0, err
		}
	}
	if err := n.w.stored(ctx); err != nil { // what is not would look like what is done
		return 0, err
	}
	if err := n.w.emptiedBut(ctx, bad); err != nil {
		return 0, err
	}
	rate = good * perTenant / time.Since(began).Seconds()
	n.turns++
	if with {
		err = n.pause(ctx, true)
	}
	return rate, err
}

// emptiedBut waits until no request is on the stream but on one subject.
func (w *world) emptiedBut(ctx context.Context, subject string) error {
	return w.await(ctx, "the end of the good tenants' requests", func() (time.Duration, error) {
		s, err := w.js.Stream(ctx, w.names.Stream)
		if err != nil {
			return 0, err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
		if err != nil {
			return 0, err
		}
		return pauseFor(info.State.Msgs - info.State.Subjects[subject]), nil
	})
}
