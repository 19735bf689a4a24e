package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// fault1 is one kind of fault. do makes it happen, and undoes it where it
// lasts; it returns early when ctx ends, and the arena is calmed afterwards.
type fault1 struct {
	name string
	do   func(ctx context.Context) error
}

// throw makes faults happen, one after the other, each kind as often as the
// others, in an order that the seed decides.
func (a *arena) throw(ctx context.Context, stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		for _, i := range a.rand.Perm(len(a.faults)) {
			if pauseFor(ctx, time.Duration(a.rand.Int64N(int64(chaosFaultEvery)))) != nil {
				return
			}
			f := a.faults[i]
			a.counts[f.name]++
			if err := f.do(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "chaos: %s: %v\n", f.name, err)
			}
		}
	}
}

// kinds are the faults.
func (a *arena) kinds() []fault1 {
	outage := func(o graphsim.Outage) fault1 {
		return fault1{"Graph: " + o.String(), func(ctx context.Context) error {
			a.sim.SetOutage(o)
			defer a.sim.SetOutage(graphsim.OutageNone)
			return pauseFor(ctx, chaosFaultLength)
		}}
	}
	network := func(name string, begin func(), length time.Duration) fault1 {
		return fault1{name, func(ctx context.Context) error {
			begin()
			defer a.proxy.Heal()
			return pauseFor(ctx, length)
		}}
	}
	return []fault1{
		{"worker: kill -9", func(context.Context) error {
			w := a.anyWorker()
			w.kill()
			return w.start()
		}},
		{"all workers: kill -9", func(context.Context) error {
			for _, w := range a.workers {
				w.kill()
			}
			for _, w := range a.workers {
				if err := w.start(); err != nil {
					return err
				}
			}
			return nil
		}},
		{"worker: SIGTERM", func(context.Context) error {
			w := a.anyWorker()
			w.signal(syscall.SIGTERM)
			if !w.wait(10 * time.Second) {
				return fmt.Errorf("it did not end in time")
			}
			return w.start()
		}},
		{"worker: frozen, longer than the ack wait", func(ctx context.Context) error {
			w := a.anyWorker()
			w.signal(syscall.SIGSTOP)
			defer w.resume()
			return pauseFor(ctx, chaosFreeze)
		}},
		{"NATS: kill -9", func(ctx context.Context) error {
			a.server.kill()
			err := pauseFor(ctx, time.Second)
			if startErr := a.server.start(); startErr != nil {
				return startErr
			}
			return err
		}},
		network("network to NATS: cut once", a.proxy.Cut, 0),
		network("network to NATS: away, longer than the ack wait", a.proxy.Away, chaosFreeze),
		network("network to NATS: replies lost", a.proxy.Swallow, chaosFaultLength),
		network("network to NATS: 500 ms late", func() { a.proxy.Delay(500 * time.Millisecond) }, 2*chaosFaultLength),
		outage(graphsim.Outage503),
		outage(graphsim.Outage500),
		outage(graphsim.OutageRefuse),
		outage(graphsim.OutageSilence),
		outage(graphsim.OutageTokenDown),
		{"Graph: tokens revoked", func(context.Context) error {
			a.sim.RevokeTokensWithChallenge()
			return nil
		}},
	}
}

func (a *arena) anyWorker() *process { return a.workers[a.rand.IntN(len(a.workers))] }
