package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/topology"
)

// sampled is the distance of the tenants that have a request when a worker is started.
const sampled = 20

// tenants measures what a worker process costs that serves many tenants, whose consumers
// are there: the time from its start until it takes a request of each; what worker and
// server need with nothing to do, when each tenant has had work; and how fast it is then.
// Where the tenants are spread over several streams, it measures one worker for each stream,
// all together.
func tenants(ctx context.Context, w *world) ([]sample, error) {
	// One tenant of 20 has a request, so that the time tells of the start, and not of the
	// work on all of them.
	for i := 0; i < w.tenants; i += sampled {
		if err := w.send(w.tenant(i).Filter(), i, 1); err != nil {
			return nil, err
		}
	}
	if err := w.stored(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	workers, err := w.workAll()
	if err != nil {
		return nil, err
	}
	if err := w.posted(ctx, w.sampled()); err != nil {
		return nil, err
	}
	started := time.Since(began)
	if _, err := w.round(ctx, 1, 1); err != nil {
		return nil, err
	}
	idle, err := w.nothingToDo(ctx, workers)
	if err != nil {
		return nil, err
	}
	p50, p99, err := w.alone(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range workers {
		forgetPeak(p.Pid())
	}
	took, err := w.round(ctx, 2, 2)
	if err != nil {
		return nil, err
	}
	busy, err := memoryOfAll(workers, peakResident)
	if err != nil {
		return nil, err
	}
	worker := "worker"
	if len(workers) > 1 {
		worker = "all workers"
	}
	if err := w.judge(w.sampled() + 3*w.tenants + w.trickles()*(trickleCount+1)); err != nil {
		return nil, err
	}
	out := []sample{
		{what: "tenants", value: float64(w.tenants)},
		{what: "start until a request of each would be taken", unit: "s", value: started.Seconds(), goal: atMost(5)},
		{what: "nothing to do: " + worker + ", resident", unit: "MiB", value: idle.resident, goal: atMost(200)},
		{what: "nothing to do: " + worker + ", resident, for each tenant", unit: "KiB", value: idle.resident * 1024 / float64(w.tenants)},
		{what: "nothing to do: " + worker + ", goroutines", value: idle.goroutines},
		{what: "nothing to do: " + worker + ", subscriptions", value: idle.subscriptions},
		{what: "nothing to do: each server, resident", unit: "MiB", value: idle.server},
		{what: "nothing to do: " + worker + ", of one processor", unit: "%", value: idle.worker},
		{what: "nothing to do: " + worker + " and servers, of one processor", unit: "%", value: idle.both, goal: atMost(6)},
		{what: "nothing to do: one scrape, the longest of three", unit: "s", value: idle.scrape, goal: atMost(0.5)},
		{what: "nothing to do: one scrape", unit: "MiB", value: idle.scraped},
		{what: "one request alone: p50, publish to POST", unit: "ms", value: p50},
		{what: "one request alone: p99, publish to POST", unit: "ms", value: p99, goal: atMost(15)},
		{what: "two requests each at once: all done", unit: "s", value: took.Seconds(), goal: atMost(10)},
		{what: "two requests each at once: " + worker + ", resident at most", unit: "MiB", value: busy, goal: atMost(400)},
	}
	if w.cluster || w.spread > 0 {
		for i := range out {
			out[i].goal = nil // nobody says how many tenants a cluster has to carry, or several streams
		}
	}
	for _, p := range workers {
		if err := p.end(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// trickles is how many trickles are measured, of which the median counts: whatever else the
// machine does in the few seconds of one would decide alone. There are no more than have
// tenants of their own.
func (w *world) trickles() int {
	if w.brief {
		return 1
	}
	return max(1, min(3, w.tenants/(trickleCount+1)))
}

// alone is a trickle of requests that find their tenant at rest, without a connection to
// Graph. The devices of each have been looked at before the next.
func (w *world) alone(ctx context.Context) (p50, p99 float64, err error) {
	order := rand.Perm(w.tenants)
	tenant := func(number int) topology.Names { return w.tenant(order[number%w.tenants]) }
	var all50, all99 []float64
	for i := range w.trickles() {
		p50, p99, err := w.trickleOf(ctx, i*(trickleCount+1), tenant)
		if err != nil {
			return 0, 0, err
		}
		all50, all99 = append(all50, p50), append(all99, p99)
		if err := w.emptied(ctx, w.alarms()...); err != nil {
			return 0, 0, err
		}
	}
	return median(all50), median(all99), nil
}

// sampled is how many tenants have a request when the workers are started.
func (w *world) sampled() int { return (w.tenants + sampled - 1) / sampled }

// round has each tenant work off n requests; number tells rounds apart.
func (w *world) round(ctx context.Context, number, n int) (took time.Duration, err error) {
	began := time.Now()
	for i := range w.tenants {
		if err := w.send(w.tenant(i).Filter(), (number*w.tenants+i)*10, n); err != nil {
			return 0, err
		}
	}
	// What is not stored yet would look like what is done.
	if err = w.stored(ctx); err == nil {
		err = w.emptied(ctx, w.requests()...)
	}
	return time.Since(began), err
}

// idleCost is what workers cost that have nothing to do.
type idleCost struct {
	resident, server, worker, both, scrape, scraped float64
	goroutines, subscriptions                       float64
}

// How long nothing happens before it is measured what that costs: what the worker holds on
// to for a while has to go. And how long it is measured.
const (
	quietBefore = 30 * time.Second
	quietFor    = 20 * time.Second
)

func (w *world) nothingToDo(ctx context.Context, workers []*process) (c idleCost, err error) {
	// The devices have been looked at.
	if err := w.emptied(ctx, w.alarms()...); err != nil {
		return c, err
	}
	length := quietFor
	if w.brief {
		length /= 2
	}
	if err := sandbox.Pause(ctx, quietBefore); err != nil {
		return c, err
	}
	var own, both []int
	for _, p := range workers {
		own = append(own, p.Pid())
	}
	for _, s := range w.nats {
		both = append(both, s.Pid())
	}
	both = append(both, own...)
	before, errBefore := processorTime(own...)
	bothBefore, errBoth := processorTime(both...)
	if err := errors.Join(errBefore, errBoth, sandbox.Pause(ctx, length)); err != nil {
		return c, err
	}
	after, errAfter := processorTime(own...)
	bothAfter, errBoth := processorTime(both...)
	c.worker, c.both = 100*(after-before)/length.Seconds(), 100*(bothAfter-bothBefore)/length.Seconds()
	var errWorker, errServer error
	c.resident, errWorker = memoryOfAll(workers, resident)
	c.server, errServer = memoryOf(w.nats[0].Pid(), resident)
	if err := errors.Join(errAfter, errBoth, errWorker, errServer); err != nil {
		return c, err
	}
	nats, err := w.connection(ctx, workerName)
	if err != nil {
		return c, err
	}
	c.subscriptions = float64(nats.Subscriptions)
	for i := range 3 * len(workers) {
		began := time.Now()
		text, err := get(ctx, workers[i%len(workers)].http+"/metrics")
		if err != nil {
			return c, err
		}
		c.scrape, c.scraped = max(c.scrape, time.Since(began).Seconds()), max(c.scraped, float64(len(text))/(1<<20))
		if i < len(workers) {
			c.goroutines += sum(text, "go_goroutines ")
		}
	}
	return c, nil
}

// replicas measures how two processes share many tenants, and how long those of one that
// is killed wait for the other.
func replicas(ctx context.Context, w *world) ([]sample, error) {
	var both [2]*process
	for i := range both {
		p, err := w.idle(ctx, noRate)
		if err != nil {
			return nil, err
		}
		both[i] = p
	}
	// Each tenant has work, a few times over, so that the replicas can come to terms.
	const rounds = 3
	var before, after [2]float64
	for number := range rounds {
		if err := errors.Join(w.accepted(ctx, both, &before), sandbox.Pause(ctx, 5*time.Second)); err != nil {
			return nil, err
		}
		if _, err := w.round(ctx, number, 1); err != nil {
			return nil, err
		}
	}
	if err := w.accepted(ctx, both, &after); err != nil {
		return nil, err
	}
	first, second := after[0]-before[0], after[1]-before[1]
	half := float64(w.tenants) / 2
	if first+second != 2*half {
		return nil, fmt.Errorf("%g and %g requests were accepted of %d", first, second, w.tenants)
	}
	both[0].kill()
	killed := time.Now()
	again, err := w.servedAgain(ctx, rounds)
	if err != nil {
		return nil, err
	}
	if err := w.judge((rounds + 1) * w.tenants); err != nil {
		return nil, err
	}
	return []sample{
		{what: "tenants with work, of the first", value: first},
		{what: "tenants with work, of the second", value: second},
		{what: "difference from half", unit: "%", value: 100 * math.Abs(first-half) / half, goal: atMost(20)},
		{what: "the first killed: until every tenant is served", unit: "s", value: again.Sub(killed).Seconds(), goal: atMost(10)},
	}, both[1].end()
}

// accepted is how many requests each process has had accepted.
func (w *world) accepted(ctx context.Context, both [2]*process, n *[2]float64) error {
	for i, p := range both {
		text, err := get(ctx, p.http+"/metrics")
		if err != nil {
			return err
		}
		n[i] = sum(text, `passcode_reset_attempts_total{result="accepted"`)
	}
	return nil
}

// servedAgain publishes a request of each tenant, and returns when the last of them was called.
func (w *world) servedAgain(ctx context.Context, number int) (last time.Time, err error) {
	began := time.Now()
	if _, err := w.round(ctx, number, 1); err != nil {
		return last, err
	}
	calls, err := w.graph.Posts(began)
	if err != nil {
		return last, err
	}
	served := map[string]bool{}
	for _, c := range calls {
		served[c.Device] = true
		last = c.Time
	}
	for i := range w.tenants {
		if !served[graphsim.GoodDevice((number*w.tenants+i)*10)] {
			return last, fmt.Errorf("the tenant %s was not served", tenantName(i))
		}
	}
	return last, nil
}
