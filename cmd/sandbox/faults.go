package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
)

// fault1 is one kind of fault. do makes it happen, and undoes it where it
// lasts; it returns early when ctx ends, and the arena is calmed afterwards.
type fault1 struct {
	name string
	do   func(ctx context.Context) error
	// within is how long after it the next request must come to its end, on a
	// machine that is busy; 0: that is not measured.
	within time.Duration
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
			if f.within == 0 {
				continue
			}
			if took, ok := a.nextEnd(ctx, time.Now()); ok {
				a.recovery[f.name] = append(a.recovery[f.name], took)
			}
		}
	}
}

// Times of recovery, with room for a busy machine: a worker is replaced within
// its pin, and takes up within the ack wait what had been on its way to it; after
// a restart of NATS the first verdict comes within 5 s; an election takes as long.
const (
	afterWorker = chaosPin + chaosAckWait + 6*time.Second
	afterNATS   = 10 * time.Second
	afterLeader = 20 * time.Second
)

// kinds are the faults.
func (a *arena) kinds() []fault1 {
	all := slices.Concat(a.workerFaults(), a.networkFaults(), a.storeFaults(), a.graphFaults())
	if len(a.servers) > 1 {
		return append(all, a.leaderFaults()...)
	}
	return append(all, fault1{"NATS: kill -9", func(ctx context.Context) error { return a.killServer(ctx, a.servers[0]) }, afterNATS})
}

func (a *arena) workerFaults() []fault1 {
	return []fault1{
		{"worker: kill -9", func(context.Context) error {
			w := a.anyWorker()
			w.kill()
			return w.start()
		}, afterWorker},
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
		}, afterWorker},
		{"worker: SIGTERM", func(context.Context) error {
			w := a.anyWorker()
			w.signal(syscall.SIGTERM)
			if !w.wait(10 * time.Second) {
				return errors.New("it did not end in time")
			}
			return w.start()
		}, afterWorker},
		{"worker: frozen, longer than the ack wait", func(ctx context.Context) error {
			w := a.anyWorker()
			w.signal(syscall.SIGSTOP)
			defer w.resume()
			return pauseFor(ctx, chaosFreeze)
		}, 0},
		{"worker: unpinned by an operator", func(ctx context.Context) error {
			s, err := a.js.Stream(ctx, a.names.Stream)
			if err != nil {
				return err
			}
			return s.UnpinConsumer(ctx, a.names.Consumer(), "worker")
		}, 0},
	}
}

func (a *arena) networkFaults() []fault1 {
	network := func(name string, begin func(*natstest.Proxy), length time.Duration) fault1 {
		return fault1{"network to NATS: " + name, func(ctx context.Context) error {
			a.network(begin)
			defer a.network((*natstest.Proxy).Heal)
			return pauseFor(ctx, length)
		}, 0}
	}
	return []fault1{
		network("cut once", (*natstest.Proxy).Cut, 0),
		network("away, longer than the ack wait", (*natstest.Proxy).Away, chaosFreeze),
		network("replies lost", (*natstest.Proxy).Swallow, chaosFaultLength),
		network("500 ms late", func(p *natstest.Proxy) { p.Delay(500 * time.Millisecond) }, 2*chaosFaultLength),
	}
}

// storeFaults fill up what must not drop anything, and make the consumer anew.
func (a *arena) storeFaults() []fault1 {
	full := func(name, stream string) fault1 {
		return fault1{name + ": full", func(ctx context.Context) error {
			if err := a.limit(ctx, stream, 1); err != nil {
				return err
			}
			pauseErr := pauseFor(ctx, chaosFaultLength)
			for { // it must have room again, whatever happens meanwhile
				err := a.limit(context.WithoutCancel(ctx), stream, -1)
				if err == nil {
					return pauseErr
				}
				if pauseFor(context.WithoutCancel(ctx), 100*time.Millisecond) != nil {
					return err
				}
			}
		}, 0}
	}
	return []fault1{
		full("records", "KV_"+a.names.Bucket),
		full("dead letters", a.names.DeadStream),
		full("requests", a.names.Stream),
		{"consumer: deleted and made anew", a.setupConsumer, 0},
	}
}

func (a *arena) limit(ctx context.Context, stream string, bytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := a.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = bytes
	_, err = a.js.UpdateStream(ctx, cfg)
	return err
}

func (a *arena) graphFaults() []fault1 {
	outage := func(o graphsim.Outage) fault1 {
		return fault1{"Graph: " + o.String(), func(ctx context.Context) error {
			a.sim.SetOutage(o)
			defer a.sim.SetOutage(graphsim.OutageNone)
			return pauseFor(ctx, chaosFaultLength)
		}, 0}
	}
	return []fault1{
		outage(graphsim.Outage503),
		outage(graphsim.Outage500),
		outage(graphsim.OutageRefuse),
		outage(graphsim.OutageSilence),
		outage(graphsim.OutageTokenDown),
		{"Graph: tokens revoked", func(context.Context) error {
			a.sim.RevokeTokensWithChallenge()
			return nil
		}, 0},
	}
}

// leaderFaults kill the server that leads something, in a cluster.
func (a *arena) leaderFaults() []fault1 {
	of := func(name string, leader func(context.Context) (string, error)) fault1 {
		return fault1{"NATS: leader of the " + name + ": kill -9", func(ctx context.Context) error {
			ask, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			led, err := leader(ask)
			if err != nil {
				return err
			}
			for _, s := range a.servers {
				if s.Name() == led {
					return a.killServer(ctx, s)
				}
			}
			return fmt.Errorf("%q leads it", led)
		}, afterLeader}
	}
	stream := func(name string) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			s, err := a.js.Stream(ctx, name)
			if err != nil {
				return "", err
			}
			return s.CachedInfo().Cluster.Leader, nil
		}
	}
	return []fault1{
		of("requests", stream(a.names.Stream)),
		of("records", stream("KV_"+a.names.Bucket)),
		of("dead letters", stream(a.names.DeadStream)),
		of("consumer", func(ctx context.Context) (string, error) {
			c, err := a.js.Consumer(ctx, a.names.Stream, a.names.Consumer())
			if err != nil {
				return "", err
			}
			return c.CachedInfo().Cluster.Leader, nil
		}),
	}
}

// killServer kills a server and starts it again after a second.
func (a *arena) killServer(ctx context.Context, s *natstest.Process) error {
	s.Kill()
	err := pauseFor(ctx, time.Second)
	if startErr := s.Start(); startErr != nil {
		return startErr
	}
	return err
}

func (a *arena) anyWorker() *process { return a.workers[a.rand.IntN(len(a.workers))] }
