package bench

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/sandbox"
)

const (
	neighbourCount = 100
	few            = 150 // requests of a bad one that gets none done
	crowd          = 20_000

	// shortTurn is how many requests each good tenant has in a turn, and longTurn where the
	// bad one gets work done. While the last of a turn end, it has the processors almost to
	// itself; a longer turn measures less of that and more of what it takes from the others.
	shortTurn = 50
	longTurn  = 150
)

// neighbour is what is wrong with one tenant of a hundred.
type neighbour struct {
	requests int // of the bad one
	each     int // of each good one in a turn
	spoil    func(g *sandbox.Graph, tenantID string) error
}

var (
	neighbourThrottled = neighbour{few, shortTurn, (*sandbox.Graph).GrantNothing}
	neighbourForbidden = neighbour{few, shortTurn, func(g *sandbox.Graph, id string) error { return g.SetOutage(id, graphsim.OutagePermission) }}
	neighbourHanging   = neighbour{few, shortTurn, func(g *sandbox.Graph, id string) error { return g.SetOutage(id, graphsim.OutageSilence) }}
	neighbourCrowded   = neighbour{crowd, longTurn, func(*sandbox.Graph, string) error { return nil }}
)

const (
	// neighbourSteps is how many steps there are at most, in each of which both workers
	// have a turn, and fewestSteps how many at least. A quick bench makes quickSteps.
	neighbourSteps = 60
	fewestSteps    = 20
	quickSteps     = 12
	// keeps is which part of their rate the good tenants must keep.
	keeps = 0.95
)

// badNeighbour measures what 99 tenants get done alone, and beside one more. Of two
// workers, each with a NATS and a Graph of its own, one works with the bad tenant and
// the other without it; in the next step they change. So neither what differs between the
// two nor what else the machine has to do favours a side. Single turns differ by a
// tenth and more, so there are as many as it takes to say on which side of the goal the
// ratio is.
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
			// The first turn of all pays for connections, tokens and caches.
			if _, err := n.turn(ctx, false); err != nil {
				return nil, err
			}
		}
		most := neighbourSteps
		if w.brief {
			most = quickSteps
		}
		var r ratios
		for step := 0; step < most && !r.clear(step); step++ {
			var rates [2]float64 // of the worker without the bad tenant, and of the one with it
			for i := range rates {
				with := (step + i) % 2 // so that of four turns the first and the last are without it
				if rates[with], err = both[i].turn(ctx, with == 1); err != nil {
					return nil, err
				}
			}
			r.add(rates[0], rates[1])
		}
		ratio, deviation := r.mean()
		return []sample{
			{what: "99 tenants alone", unit: "per s", value: median(r.alone)},
			{what: "the same 99 beside it", unit: "per s", value: median(r.beside)},
			{what: "beside it to alone", value: ratio, goal: atLeast(keeps)},
			{what: "beside it to alone: standard deviation of that", unit: "%", value: 100 * deviation},
		}, nil
	}
}

// ratios are the rates of steps, alone and beside a bad tenant.
type ratios struct{ alone, beside, logs []float64 }

func (r *ratios) add(alone, beside float64) {
	r.alone, r.beside, r.logs = append(r.alone, alone), append(r.beside, beside), append(r.logs, math.Log(beside/alone))
}

// mean is the geometric mean of the ratios of an even number of steps, and its standard
// deviation, as a part of it.
func (r *ratios) mean() (ratio, deviation float64) {
	// In pairs of steps the difference between the two workers is gone.
	n := float64(len(r.logs) / 2)
	sum, squares := 0.0, 0.0
	for i := 1; i < len(r.logs); i += 2 {
		sum += (r.logs[i-1] + r.logs[i]) / 2
	}
	for i := 1; i < len(r.logs); i += 2 {
		d := (r.logs[i-1]+r.logs[i])/2 - sum/n
		squares += d * d
	}
	return math.Exp(sum / n), math.Sqrt(squares / (n - 1) / n)
}

// clear reports whether so many steps are enough: each worker has been on each side as
// often, and the mean is three standard deviations from the goal: it is asked many times.
func (r *ratios) clear(steps int) bool {
	if steps < fewestSteps || steps%2 == 1 {
		return false
	}
	ratio, deviation := r.mean()
	return math.Abs(math.Log(ratio/keeps)) > 3*deviation
}

// neighbours are the tenants of one worker: the good ones, and the last, bad one, which
// does nothing but in its turns.
type neighbours struct {
	w     *world
	bad   neighbour
	turns int
	sent  int // requests of the bad one
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

// refill sees to it that the bad one has its requests, of which it may get some done.
func (n *neighbours) refill(ctx context.Context, subject string) error {
	s, err := n.w.js.Stream(ctx, n.w.names.Stream)
	if err != nil {
		return err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return err
	}
	missing := n.bad.requests - int(info.State.Subjects[subject])
	if missing < n.bad.requests/4 {
		return nil
	}
	n.sent += missing
	return n.w.load(ctx, subject, 10_000_000+n.sent-missing, missing)
}

// turn has each good tenant work off some requests, with the bad one or without, and
// returns how many they do in a second.
func (n *neighbours) turn(ctx context.Context, with bool) (rate float64, err error) {
	bad := n.w.tenant(neighbourCount - 1).Filter()
	if with {
		if err := errors.Join(n.refill(ctx, bad), n.pause(ctx, false)); err != nil {
			return 0, err
		}
	}
	// It has begun to be bad before anything is measured.
	if err := sandbox.Pause(ctx, settled); err != nil {
		return 0, err
	}
	const good = neighbourCount - 1
	each := n.bad.each
	began := time.Now()
	for i := range good {
		if err := n.w.send(n.w.tenant(i).Filter(), (n.turns*good+i)*each, each); err != nil {
			return 0, err
		}
	}
	if err := n.w.stored(ctx); err != nil { // what is not would look like what is done
		return 0, err
	}
	if err := n.w.emptiedBut(ctx, bad); err != nil {
		return 0, err
	}
	rate = float64(good*each) / time.Since(began).Seconds()
	n.turns++
	if with {
		if err := n.pause(ctx, true); err != nil {
			return 0, err
		}
	}
	// Else the worker would look at this turn's devices during the next ones, and the later
	// turns would be slower than the first, whoever is beside.
	return rate, n.w.empty(ctx, n.w.names.FollowStream)
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
