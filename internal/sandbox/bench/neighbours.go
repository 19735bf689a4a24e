package bench

import (
	"context"
	"errors"
	"fmt"
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
	badRequests    = 10_000_000 // the number of the bad one's first

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
	// sides is after how many steps the two workers change sides. If it is more than one,
	// calls of the bad one hang when its turn is over: the workers are then killed before they
	// change, and it is well until it has had a request, and so has a token. After
	// half a minute the first hanging calls end, and the tenant is held.
	sides int
	works bool // the bad one gets its requests done
	spoil func(g *sandbox.Graph, tenantID string) error
}

var (
	neighbourThrottled = neighbour{requests: few, each: shortTurn, sides: 1, spoil: (*sandbox.Graph).GrantNothing}
	neighbourForbidden = neighbour{requests: few, each: shortTurn, sides: 1, spoil: outage(graphsim.OutagePermission)}
	neighbourHanging   = neighbour{requests: few, each: shortTurn, sides: fewestSteps / 4, spoil: outage(graphsim.OutageSilence)}
	neighbourCrowded   = neighbour{requests: crowd, each: longTurn, sides: 1, works: true, spoil: outage(graphsim.OutageNone)}
)

func outage(o graphsim.Outage) func(*sandbox.Graph, string) error {
	return func(g *sandbox.Graph, id string) error { return g.SetOutage(id, o) }
}

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
		most := neighbourSteps
		if w.brief {
			most = quickSteps
		}
		var r ratios
		for step := 0; step < most && (step%(2*bad.sides) > 0 || !r.clear(step)); step++ {
			if step == 0 || bad.sides > 1 && step%bad.sides == 0 {
				for _, n := range both {
					if err := n.begin(ctx); err != nil {
						return nil, err
					}
				}
			}
			var rates [2]float64 // of the worker without the bad tenant, and of the one with it
			for i := range rates {
				with := (step + i) % 2 // so that of four turns the first and the last are without it
				n := both[(with+step/bad.sides)%2]
				if rates[with], err = n.turn(ctx, with == 1); err != nil {
					return nil, err
				}
			}
			r.add(rates[0], rates[1])
		}
		done := 0.
		for _, n := range both {
			if err := n.unharmed(ctx); err != nil {
				return nil, err
			}
			done += float64(n.done)
		}
		if bad.works != (done > 0) {
			return nil, fmt.Errorf("the hundredth tenant had %g requests done", done)
		}
		good := float64(len(r.logs) * (neighbourCount - 1) * bad.each)
		ratio, deviation := r.mean()
		return []sample{
			{what: "99 tenants alone", unit: "per s", value: median(r.alone)},
			{what: "the same 99 beside it", unit: "per s", value: median(r.beside)},
			{what: "beside it to alone", value: ratio, goal: atLeast(keeps)},
			{what: "beside it to alone: standard deviation of that", unit: "%", value: 100 * deviation},
			{what: "of all that is done beside it, its own", unit: "%", value: 100 * done / (done + good)},
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
	// In pairs of steps the difference between the two workers is gone; or, where they change
	// sides later, in the mean of all.
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
	w      *world
	bad    neighbour
	worker *process
	turns  int
	sent   int // requests of the bad one
	done   int // of these, in turns
	owed   int // resets
}

// begin starts the worker, in place of the one that there was. The first turn of all pays for
// connections, tokens and caches, and waits for what the one before has left.
func (n *neighbours) begin(ctx context.Context) error {
	if n.worker != nil {
		n.worker.kill()
	}
	id, subject := directory(neighbourCount-1), n.w.tenant(neighbourCount-1).Filter()
	spoil := func() error { return errors.Join(n.pause(ctx, true), n.bad.spoil(n.w.graph, id)) }
	well := n.bad.sides > 1
	if err := n.clear(ctx, subject); err != nil {
		return err
	}
	if well {
		if err := errors.Join(n.pause(ctx, false), n.w.graph.SetOutage(id, graphsim.OutageNone)); err != nil {
			return err
		}
	} else if err := spoil(); err != nil {
		return err
	}
	var err error
	if n.worker, err = n.w.idle(ctx, noRate); err != nil {
		return err
	}
	if well {
		n.sent++
		if err := n.w.load(ctx, subject, badRequests+n.sent-1, 1); err != nil {
			return err
		}
		n.owed++
		if err := errors.Join(n.w.emptied(ctx, n.w.names.Stream), spoil()); err != nil {
			return err
		}
	}
	_, err = n.turn(ctx, false)
	return err
}

// clear removes the requests of the bad one.
func (n *neighbours) clear(ctx context.Context, subject string) error {
	s, err := n.w.js.Stream(ctx, n.w.names.Stream)
	if err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject(subject))
}

// unharmed fails where not each request of the good ones led to one reset, and each that the
// bad one got done.
func (n *neighbours) unharmed(ctx context.Context) error {
	tenant := n.w.tenant(neighbourCount - 1)
	if n.bad.works {
		err := n.w.await(ctx, "the end of the bad tenant's calls", func() (time.Duration, error) {
			c, err := n.w.js.Consumer(ctx, tenant.Stream, tenant.Consumer())
			if err != nil {
				return 0, err
			}
			return pauseFor(uint64(c.CachedInfo().NumAckPending)), nil
		})
		if err != nil {
			return err
		}
		waiting, err := n.waiting(ctx, tenant.Filter())
		if err != nil {
			return err
		}
		n.owed += n.sent - waiting
	}
	status, err := n.w.graph.Status()
	if err != nil {
		return err
	}
	if status.Executed != n.owed || len(status.ResetTwice) > 0 {
		return fmt.Errorf("%d resets for %d requests, %d devices twice", status.Executed, n.owed, len(status.ResetTwice))
	}
	s, err := n.w.js.Stream(ctx, n.w.names.DeadStream)
	if err != nil {
		return err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(n.w.names.DeadSubject+".>"))
	if err != nil {
		return err
	}
	for subject, letters := range info.State.Subjects {
		if subject != tenant.Dead() {
			return fmt.Errorf("%d dead letters on %s, of a good tenant", letters, subject)
		}
	}
	return nil
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
	waiting, err := n.waiting(ctx, subject)
	if err != nil {
		return err
	}
	missing := n.bad.requests - waiting
	if missing < n.bad.requests/4 {
		return nil
	}
	n.sent += missing
	return n.w.load(ctx, subject, badRequests+n.sent-missing, missing)
}

// waiting is how many requests of one tenant are on the stream.
func (n *neighbours) waiting(ctx context.Context, subject string) (int, error) {
	s, err := n.w.js.Stream(ctx, n.w.names.Stream)
	if err != nil {
		return 0, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, err
	}
	return int(info.State.Subjects[subject]), nil
}

// turn has each good tenant work off some requests, with the bad one or without, and
// returns how many they do in a second.
func (n *neighbours) turn(ctx context.Context, with bool) (rate float64, err error) {
	bad := n.w.tenant(neighbourCount - 1).Filter()
	if with {
		if err := errors.Join(n.pause(ctx, false), n.refill(ctx, bad)); err != nil {
			return 0, err
		}
		if n.bad.sides > 1 {
			if err := n.hangs(ctx); err != nil {
				return 0, err
			}
		}
	}
	// It has begun to be bad before anything is measured.
	if err := sandbox.Pause(ctx, settled); err != nil {
		return 0, err
	}
	before, err := n.waiting(ctx, bad)
	if err != nil {
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
	n.owed += good * each
	if with {
		after, err := n.waiting(ctx, bad)
		if err != nil {
			return 0, err
		}
		n.done += before - after
		if err := n.pause(ctx, true); err != nil {
			return 0, err
		}
	}
	// Else the worker would look at this turn's devices during the next ones, and the later
	// turns would be slower than the first, whoever is beside.
	return rate, n.w.empty(ctx, n.w.names.FollowStream)
}

// hangs waits until a call of the bad one is under way, which then hangs.
func (n *neighbours) hangs(ctx context.Context) error {
	series := fmt.Sprintf(`passcode_reset_in_flight{tenant=%q}`, tenantName(neighbourCount-1))
	return n.w.await(ctx, "a call that hangs", func() (time.Duration, error) {
		text, err := get(ctx, n.worker.http+"/metrics")
		if err != nil || sum(text, series) > 0 {
			return 0, err
		}
		return settled / 10, nil
	})
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
