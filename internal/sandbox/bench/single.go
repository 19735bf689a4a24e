package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/topology"
)

// Requests of a trickle, and the time between two of them.
const (
	trickleCount = 400
	trickleEvery = 10 * time.Millisecond
	// aloneEvery is that time where each request is of another tenant: each makes a connection
	// to Graph, which takes the processes together longer than trickleEvery, and no
	// request is to wait for another. It ends before the first devices are looked at.
	aloneEvery = 30 * time.Millisecond
)

// latency measures the time from the publishing of a request on an idle system
// to the arrival of its POST, beside a bare loop that writes the same record
// before it.
func latency(ctx context.Context, w *world) ([]sample, error) {
	f, err := w.floor()
	if err != nil {
		return nil, err
	}
	floor50, floor99, err := w.trickle(ctx)
	if err == nil {
		err = f.end()
	}
	if err == nil {
		err = w.fill(ctx, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	p, err := w.idle(ctx, noRate)
	if err != nil {
		return nil, err
	}
	p50, p99, err := w.trickle(ctx)
	if err == nil {
		err = p.end()
	}
	return []sample{
		{what: "floor p50", unit: "ms", value: floor50},
		{what: "floor p99", unit: "ms", value: floor99},
		{what: "p50, publish to POST", unit: "ms", value: p50, goal: atMost(2)},
		{what: "p99, publish to POST", unit: "ms", value: p99, goal: atMost(10)},
	}, err
}

// trickle publishes requests one by one, and returns the median and the 99th
// percentile of the time to their POST in milliseconds. The first call of all,
// which connects and fetches a token, is not counted.
func (w *world) trickle(ctx context.Context) (p50, p99 float64, err error) {
	return w.trickleOf(ctx, 0, func(int) topology.Names { return w.names })
}

// trickleOf is trickle where the tenant of each request is looked up by its number, which
// counts from first: no two trickles of one worker may have the same.
func (w *world) trickleOf(ctx context.Context, first int, tenant func(number int) topology.Names) (p50, p99 float64, err error) {
	began := time.Now()
	published := map[string]time.Time{}
	for i := first; i <= first+trickleCount; i++ {
		names, n := tenant(i), trickled+i
		published[graphsim.GoodDevice(n)] = time.Now()
		if _, err := w.js.Publish(ctx, names.Filter(), request(n), jetstream.WithExpectStream(names.Stream)); err != nil {
			return 0, 0, err
		}
		pause := trickleEvery
		if w.tenants > 0 {
			pause = aloneEvery
		}
		if i == first {
			delete(published, graphsim.GoodDevice(n))
			pause = settled
		}
		if err := sandbox.Pause(ctx, pause); err != nil {
			return 0, 0, err
		}
	}
	if err := w.emptied(ctx, w.requests()...); err != nil {
		return 0, 0, err
	}
	calls, err := w.graph.Posts(began)
	if err != nil {
		return 0, 0, err
	}
	var took []float64
	for _, c := range calls {
		if at, ok := published[c.Device]; ok {
			took = append(took, float64(c.Time.Sub(at))/float64(time.Millisecond))
		}
	}
	if len(took) != trickleCount {
		return 0, 0, fmt.Errorf("%d calls for %d requests", len(took), trickleCount)
	}
	return percentile(took, 50), percentile(took, 99), nil
}

// trickled is the number of a trickle's first device; those of others are lower.
const trickled = 20_000_000

// startWaiting is how many requests wait when a worker is started.
const startWaiting = 100

// start measures the time from the start of a worker process to its first call, beside
// that of a floor.
func start(ctx context.Context, w *world) ([]sample, error) {
	floor, err := w.startTime(ctx, func() (*process, error) { return w.floor() })
	if err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	ours, err := w.startTime(ctx, func() (*process, error) { return w.work(quotaRate) })
	return []sample{
		{what: "floor: a bare process", unit: "ms", value: floor},
		{what: "start to the first POST", unit: "ms", value: ours, goal: atMost(200)},
	}, err
}

func (w *world) startTime(ctx context.Context, start func() (*process, error)) (ms float64, err error) {
	if err := w.fill(ctx, startWaiting); err != nil {
		return 0, err
	}
	began := time.Now()
	p, err := start()
	if err != nil {
		return 0, err
	}
	if err := w.posted(ctx, 1); err != nil {
		return 0, err
	}
	calls, err := w.graph.Posts(began)
	if err != nil {
		return 0, err
	}
	return float64(calls[0].Time.Sub(began)) / float64(time.Millisecond), p.end()
}

// memoryFor is how long a worker works on the backlog before its memory is read.
const memoryFor = 20 * time.Second

// memory measures the most memory that a worker process ever had resident, in
// 20 s of draining a long queue as fast as it can, beside the same of a worker
// whose queue is empty.
func memory(ctx context.Context, w *world) ([]sample, error) {
	empty, err := w.peakAfter(ctx, 3*time.Second)
	if err != nil {
		return nil, err
	}
	if err := w.fill(ctx, w.Waiting); err != nil {
		return nil, err
	}
	before, err := w.state(ctx, w.names.Stream)
	if err != nil {
		return nil, err
	}
	full, err := w.peakAfter(ctx, memoryFor)
	if err != nil {
		return nil, err
	}
	left, err := w.messages(ctx, w.names.Stream)
	if err != nil {
		return nil, err
	}
	records, err := w.state(ctx, "KV_"+w.names.Bucket)
	return []sample{
		{what: "floor: an empty queue", unit: "MiB", value: empty},
		{what: fmt.Sprintf("%d waiting", w.Waiting), unit: "MiB", value: full, goal: atMost(48)},
		{what: "still waiting then", value: float64(left)},
		{what: "stored for a request that waits", unit: "B", value: float64(before.Bytes) / float64(before.Msgs)},
		{what: "stored for the records of one done", unit: "B", value: float64(records.Bytes) / float64(w.Waiting-int(left))},
	}, err
}

// peakAfter is the most memory, in MiB, that a worker had resident.
func (w *world) peakAfter(ctx context.Context, d time.Duration) (float64, error) {
	p, err := w.work(noRate)
	if err != nil {
		return 0, err
	}
	if err := sandbox.Pause(ctx, d); err != nil {
		return 0, err
	}
	mib, err := memoryOf(p.Pid(), peakResident)
	if err != nil {
		return 0, err
	}
	return mib, p.end()
}

// alarmCount is how many requests are followed in the row alarms, none of them due.
const alarmCount = 100_000

// alarms measures what 100,000 alarms that are not due cost: the memory of worker and
// server, and what a new request waits for its call meanwhile, beside the same without them.
func alarms(ctx context.Context, w *world) ([]sample, error) {
	floor, err := w.following(ctx, 0)
	if err != nil {
		return nil, err
	}
	f, err := w.following(ctx, alarmCount)
	if err != nil {
		return nil, err
	}
	// Those of the trickle are not due yet either.
	s, err := w.graph.Status()
	if err != nil {
		return nil, err
	}
	if s.Gets > 0 {
		return nil, fmt.Errorf("%d looks at devices that were not due", s.Gets)
	}
	return []sample{
		{what: "floor: p99, publish to POST, none followed", unit: "ms", value: floor.p99},
		{what: "floor: worker, none followed", unit: "MiB", value: floor.worker},
		{what: "floor: server, none followed", unit: "MiB", value: floor.server},
		{what: fmt.Sprintf("worker, %d followed", alarmCount), unit: "MiB", value: f.worker, goal: atMost(64)},
		{what: fmt.Sprintf("server, %d followed", alarmCount), unit: "MiB", value: f.server},
		{what: "p50, publish to POST", unit: "ms", value: f.p50},
		{what: "p99, publish to POST", unit: "ms", value: f.p99, goal: atMost(15)},
	}, nil
}

// followed is what following costs.
type followed struct{ p50, p99, worker, server float64 }

// following lets requests trickle through a worker that follows n others, none of which is
// due, and returns how long they waited and the most memory of worker and server.
func (w *world) following(ctx context.Context, n int) (f followed, err error) {
	if err := w.fill(ctx, 0); err != nil {
		return f, err
	}
	if err := w.setAlarms(ctx, n); err != nil {
		return f, err
	}
	p, err := w.idle(ctx, noRate)
	if err != nil {
		return f, err
	}
	if f.p50, f.p99, err = w.trickle(ctx); err != nil {
		return f, err
	}
	if f.worker, err = memoryOf(p.Pid(), peakResident); err != nil {
		return f, err
	}
	if f.server, err = memoryOf(w.nats[0].Pid(), peakResident); err != nil {
		return f, err
	}
	return f, p.end()
}

// setAlarms puts the alarms of n requests on the follow stream, which have been off for an
// hour and are due within the next half.
func (w *world) setAlarms(ctx context.Context, n int) error {
	plan := outcome.Plan{For: outcome.DefaultFor}
	now := time.Now().UTC()
	for i := range n {
		accepted := now.Add(-time.Hour - time.Minute + time.Duration(i)*time.Millisecond/10)
		a := plan.Next(outcome.Alarm{
			Tenant: w.names.Tenant, ID: fmt.Sprint("off", i), Device: graphsim.GoodDevice(1_000_000 + i), ClientRequestID: uuid.NewString(),
			AttemptedAt: accepted.Add(-time.Second), AcceptedAt: accepted,
		}, now)
		value, err := outcome.MarshalAlarm(a)
		if err != nil {
			return err
		}
		m := &nats.Msg{Subject: w.names.FollowSubject + "." + a.Tokens(), Data: value}
		if _, err := w.js.PublishMsgAsync(m, jetstream.WithMsgID(a.MessageID())); err != nil {
			return err
		}
	}
	return w.stored(ctx)
}
