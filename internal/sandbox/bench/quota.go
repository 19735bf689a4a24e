package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/sandbox"
)

// What Graph grants in these rows, and how long it takes.
const (
	granted      = 200
	grantedIn    = 20 * time.Second
	graphLatency = 150 * time.Millisecond
	backlog      = 1000
)

// quotaCase is a worker under a quota.
type quotaCase struct {
	rate pace.Rate // what the worker is told
	told graphsim.RetryAfterStyle
	// Of the ideal time, and of the calls.
	least, refused float64
}

var (
	quotaRate = pace.Rate{N: granted, W: grantedIn}
	highRate  = pace.Rate{N: 10 * granted, W: grantedIn}

	quotaKnown  = quotaCase{rate: quotaRate, told: graphsim.Decimal, least: 0.97, refused: 0.5}
	quotaTold   = quotaCase{rate: highRate, told: graphsim.Decimal, least: 0.95, refused: 5}
	quotaUntold = quotaCase{rate: highRate, told: graphsim.None, least: 0.93, refused: 8}
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

// quotaRow measures how long a backlog takes under a quota.
func quotaRow(q quotaCase) func(Options, context.Context) ([]sample, error) {
	return func(_ Options, ctx context.Context) ([]sample, error) {
		w, stop, err := idle(ctx, q.rate, graphsim.Config{Quota: granted, Window: grantedIn, RetryAfter: q.told,
			CountThrottled: true, QuotaUnknown: q.rate != quotaRate, Latency: graphLatency})
		if err != nil {
			return nil, err
		}
		defer w.Close()
		began := time.Now()
		if err := w.load(ctx, w.Names.Filter(), 0, backlog); err != nil {
			return nil, join(err, stop)
		}
		if err := w.emptied(ctx); err != nil {
			return nil, join(err, stop)
		}
		took := time.Since(began)
		if err := stop(); err != nil {
			return nil, err
		}
		s := w.Sim.Status()
		if s.Executed != backlog || len(s.ResetTwice) > 0 || s.DuringRetry > 0 || s.ViolationCount > 0 {
			return nil, fmt.Errorf("%d resets for %d requests, %d devices twice, %d calls inside a Retry-After, violations %v",
				s.Executed, backlog, len(s.ResetTwice), s.DuringRetry, s.Violations)
		}
		ideal := idealDrain(backlog)
		return []sample{
			{what: "ideal", unit: "s", value: ideal.Seconds()},
			{what: "worker", unit: "s", value: took.Seconds()},
			{what: "ideal to worker", value: ideal.Seconds() / took.Seconds(), goal: atLeast(q.least)},
			{what: "calls answered 429", unit: "%", value: 100 * float64(s.Throttled) / float64(s.Posts), goal: atMost(q.refused)},
		}, nil
	}
}

// idle is a world with a worker that waits for requests.
func idle(ctx context.Context, rate pace.Rate, sim graphsim.Config) (*world, func() error, error) {
	w, err := newWorld(sim)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := w.ServiceConfig(rate)
	if err == nil {
		err = w.SetUp(ctx)
	}
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	stop := w.Run(cfg)
	if err := w.pulls(ctx, w.Names.Consumer()); err != nil {
		err = join(err, stop)
		w.Close()
		return nil, nil, err
	}
	return w, stop, nil
}

// posts are the calls but for the looks at devices.
func (w *world) posts() []graphsim.Call {
	return slices.DeleteFunc(w.Sim.Calls(), func(c graphsim.Call) bool { return c.Method != http.MethodPost })
}

// join ends the worker after an error.
func join(err error, stop func() error) error { return errors.Join(err, stop()) }

// pulls waits until a worker asks a consumer for messages.
func (w *world) pulls(ctx context.Context, consumer string) error {
	for {
		c, err := w.JS.Consumer(ctx, w.Names.Stream, consumer)
		if err == nil && c.CachedInfo().NumWaiting > 0 {
			return nil
		}
		if err := sandbox.Pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// settled is how long a worker is left alone before something is asked of it.
const settled = 300 * time.Millisecond

// burst measures how long a burst takes that is as large as the quota.
func (Options) burst(ctx context.Context) ([]sample, error) {
	w, stop, err := idle(ctx, quotaRate, graphsim.Config{Quota: granted, Window: grantedIn, RetryAfter: graphsim.Decimal, Latency: graphLatency})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if err := sandbox.Pause(ctx, settled); err != nil {
		return nil, join(err, stop)
	}
	began := time.Now()
	if err := w.load(ctx, w.Names.Filter(), 0, granted); err != nil {
		return nil, join(err, stop)
	}
	if err := w.emptied(ctx); err != nil {
		return nil, join(err, stop)
	}
	if err := stop(); err != nil {
		return nil, err
	}
	calls := w.posts()
	if len(calls) != granted {
		return nil, fmt.Errorf("%d calls for %d requests", len(calls), granted)
	}
	return []sample{
		{what: "floor: each slot one call after the other", unit: "s", value: (burstTime(granted) - graphLatency).Seconds()},
		{what: "publish of the first to the last POST", unit: "s", value: calls[len(calls)-1].Time.Sub(began).Seconds(), goal: atMost(1.5)},
	}, nil
}

// Requests of the row latency, and the time between two of them.
const (
	latencyCount = 400
	latencyEvery = 10 * time.Millisecond
)

// latency measures the time from the publishing of a request on an idle system
// to the arrival of its POST, beside a bare loop that writes the same record
// before it.
func (Options) latency(ctx context.Context) ([]sample, error) {
	w, stop, err := idle(ctx, pace.Rate{}, graphsim.Config{})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	p50, p99, err := w.trickle(ctx)
	if err := errors.Join(err, stop()); err != nil {
		return nil, err
	}
	f, err := w.floorLoop(ctx, true)
	if err != nil {
		return nil, err
	}
	defer f.client.CloseIdleConnections()
	if err := w.fill(ctx, 0); err != nil {
		return nil, err
	}
	it, err := w.messages(ctx)
	if err != nil {
		return nil, err
	}
	defer it.Stop()
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx, it, latencyCount+1) }()
	floor50, floor99, err := w.trickle(ctx)
	if err != nil {
		return nil, err
	}
	if err := <-ended; err != nil {
		return nil, err
	}
	return []sample{
		{what: "floor p50", unit: "ms", value: floor50},
		{what: "floor p99", unit: "ms", value: floor99},
		{what: "p50, publish to POST", unit: "ms", value: p50, goal: atMost(3)},
		{what: "p99, publish to POST", unit: "ms", value: p99, goal: atMost(15)},
	}, nil
}

// trickle publishes requests one by one, and tells the median and the 99th
// percentile of the time to their POST in milliseconds. The first call of all,
// which connects and fetches a token, is not counted.
func (w *world) trickle(ctx context.Context) (p50, p99 float64, err error) {
	published := map[string]time.Time{}
	for i := range latencyCount + 1 {
		device := graphsim.GoodDevice(i)
		published[device] = time.Now()
		data := fmt.Sprintf(`{"id":"L%d","managedDeviceId":%q,"requestedBy":"jo"}`, i, device)
		if _, err := w.JS.Publish(ctx, w.Names.Filter(), []byte(data), jetstream.WithExpectStream(w.Names.Stream)); err != nil {
			return 0, 0, err
		}
		pause := latencyEvery
		if i == 0 {
			delete(published, device)
			pause = settled
		}
		if err := sandbox.Pause(ctx, pause); err != nil {
			return 0, 0, err
		}
	}
	if err := w.emptied(ctx); err != nil {
		return 0, 0, err
	}
	var took []float64
	for _, c := range w.posts() {
		if at, ok := published[c.Device]; ok {
			took = append(took, float64(c.Time.Sub(at))/float64(time.Millisecond))
		}
	}
	if len(took) != latencyCount {
		return 0, 0, fmt.Errorf("%d calls for %d requests", len(took), latencyCount)
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100], nil
}
