package bench

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/sandbox"
)

// What Graph grants in these rows, and how long it takes.
const (
	granted      = 200
	grantedIn    = 20 * time.Second
	graphLatency = 150 * time.Millisecond
	backlog      = 1000
)

// The rates that the worker is told.
const (
	quotaRate = "200/20s"
	highRate  = "2000/20s"
)

// granting is a Graph with the quota.
func granting(told graphsim.RetryAfterStyle) place {
	return place{sim: graphsim.Config{Quota: granted, Window: grantedIn, RetryAfter: told, CountThrottled: true, Latency: graphLatency}}
}

// secretive is a Graph whose quota the worker does not know.
func secretive(told graphsim.RetryAfterStyle) place {
	p := granting(told)
	p.sim.QuotaUnknown = true
	return p
}

// quotaCase is a worker under a quota.
type quotaCase struct {
	rate string
	// Of the ideal time, and of the calls.
	ideal, refused *goal
}

var (
	quotaKnown  = quotaCase{quotaRate, atLeast(0.97), atMost(0.5)}
	quotaTold   = quotaCase{highRate, atLeast(0.95).each(), atMost(5).each()}
	quotaUntold = quotaCase{highRate, atLeast(0.93).each(), atMost(8).each()}
)

// burstTime is the least time in which a worker sends n calls: each slot one
// after the other.
func burstTime(n int) time.Duration {
	return time.Duration(math.Ceil(float64(n)/slots)) * graphLatency
}

// idealDrain is how long a backlog takes where every window is used to the full:
// the last calls begin after so many windows, and are a burst.
func idealDrain(n int) time.Duration {
	windows := (n - 1) / granted
	return time.Duration(windows)*grantedIn + burstTime(n-windows*granted)
}

// quota measures how long a backlog takes under a quota.
func quota(q quotaCase) func(context.Context, *world) ([]sample, error) {
	return func(ctx context.Context, w *world) ([]sample, error) {
		p, err := w.idle(ctx, q.rate)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := w.load(ctx, w.names.Filter(), 0, backlog); err != nil {
			return nil, err
		}
		if err := w.emptied(ctx, w.names.Stream); err != nil {
			return nil, err
		}
		took := time.Since(began)
		if err := p.end(); err != nil {
			return nil, err
		}
		if err := w.judge(backlog); err != nil {
			return nil, err
		}
		s, err := w.graph.Status()
		if err != nil {
			return nil, err
		}
		ideal := idealDrain(backlog)
		return []sample{
			{what: "ideal", unit: "s", value: ideal.Seconds()},
			{what: "worker", unit: "s", value: took.Seconds()},
			{what: "ideal to worker", value: ideal.Seconds() / took.Seconds(), goal: q.ideal},
			{what: "calls answered 429", unit: "%", value: 100 * float64(s.Throttled) / float64(s.Posts), goal: q.refused},
		}, nil
	}
}

// settled is how long a worker is left alone before something is asked of it.
const settled = 500 * time.Millisecond

// idle starts a worker that waits for requests.
func (w *world) idle(ctx context.Context, rate string) (*process, error) {
	p, err := w.work(rate)
	if err != nil {
		return nil, err
	}
	err = w.await(ctx, "the worker to be ready", func() (time.Duration, error) {
		if _, err := get(ctx, p.http+"/readyz"); err != nil {
			return settled / 100, nil
		}
		return 0, nil
	})
	if err == nil {
		err = sandbox.Pause(ctx, settled)
	}
	return p, err
}

// burst measures how long a burst takes that is as large as the quota.
func burst(ctx context.Context, w *world) ([]sample, error) {
	p, err := w.idle(ctx, quotaRate)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := w.load(ctx, w.names.Filter(), 0, granted); err != nil {
		return nil, err
	}
	if err := w.emptied(ctx, w.names.Stream); err != nil {
		return nil, err
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	calls, err := w.graph.Posts(began)
	if err != nil {
		return nil, err
	}
	if len(calls) != granted {
		return nil, fmt.Errorf("%d calls for %d requests", len(calls), granted)
	}
	return []sample{
		{what: "floor: each slot one call after the other", unit: "s", value: (burstTime(granted) - graphLatency).Seconds()},
		{what: "publish of the first to the last POST", unit: "s", value: calls[len(calls)-1].Time.Sub(began).Seconds(), goal: atMost(1.2)},
	}, nil
}

// outageCase is how long Graph is away, and what waits then.
type outageCase struct {
	away    time.Duration
	waiting int
}

var (
	longOutage  = outageCase{time.Minute, backlog}
	shortOutage = outageCase{20 * time.Second, 2 * granted}
)

// recovery measures what happens when Graph is back after an outage with requests waiting,
// of two forms side by side: answers of 503, and refused connections.
func recovery(ctx context.Context, w *world) ([]sample, error) {
	refusing, err := w.twin(ctx)
	if err != nil {
		return nil, err
	}
	type result struct {
		samples []sample
		err     error
	}
	other := make(chan result, 1)
	go func() {
		samples, err := refusing.recovery(ctx, "after refused connections", graphsim.OutageRefuse)
		other <- result{samples, err}
	}()
	samples, err := w.recovery(ctx, "after 503s", graphsim.Outage503)
	r := <-other
	if err == nil {
		err = r.err
	}
	return append(samples, r.samples...), err
}

func (w *world) recovery(ctx context.Context, form string, o graphsim.Outage) ([]sample, error) {
	c := longOutage
	if w.brief {
		c = shortOutage
	}
	p, err := w.idle(ctx, quotaRate)
	if err != nil {
		return nil, err
	}
	// A worker at work, as in life: it has a token and a connection.
	if err := w.load(ctx, w.names.Filter(), c.waiting, 1); err != nil {
		return nil, err
	}
	if err := w.emptied(ctx, w.names.Stream); err != nil {
		return nil, err
	}
	if err := w.graph.SetOutage("", o); err != nil {
		return nil, err
	}
	if err := w.load(ctx, w.names.Filter(), 0, c.waiting); err != nil {
		return nil, err
	}
	if err := sandbox.Pause(ctx, c.away); err != nil {
		return nil, err
	}
	if err := w.graph.SetOutage("", graphsim.OutageNone); err != nil {
		return nil, err
	}
	back := time.Now()
	if err := w.emptied(ctx, w.names.Stream); err != nil {
		return nil, err
	}
	emptied := time.Now()
	if err := p.end(); err != nil {
		return nil, err
	}
	if err := w.judge(c.waiting + 1); err != nil {
		return nil, err
	}
	calls, err := w.graph.Posts(back)
	if err != nil {
		return nil, err
	}
	// The calls that tried whether Graph is back have used up places of the quota, which
	// come free one by one: the last few requests say nothing of the pace.
	var done []time.Time
	for _, call := range calls {
		if call.Executed {
			done = append(done, call.Time)
		}
	}
	slices.SortFunc(done, time.Time.Compare)
	if nearly := c.waiting * 99 / 100; len(done) >= nearly {
		return []sample{
			{what: form + ", until the first is accepted", unit: "s", value: done[0].Sub(back).Seconds(), goal: atMost(5.5)},
			{what: form + ", from then on, until 99 % are done, ideal to worker", value: idealDrain(nearly).Seconds() / done[nearly-1].Sub(done[0]).Seconds(), goal: atLeast(0.9)},
			{what: form + ", from then on, until all are done", unit: "s", value: emptied.Sub(done[0]).Seconds()},
		}, nil
	}
	return nil, fmt.Errorf("%d of %d calls were executed when Graph was back", len(done), c.waiting)
}
