package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/sandbox"
)

// fault is one kind of fault. do makes it happen, and undoes it where it
// lasts; it returns early when ctx ends, and the arena is calmed afterwards.
type fault struct {
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
			if sandbox.Pause(ctx, time.Duration(a.rand.Int64N(int64(faultEvery)))) != nil {
				return
			}
			f := a.faults[i]
			a.counts[f.name]++
			if err := f.do(ctx); err != nil && ctx.Err() == nil {
				complain(f.name, err)
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
	afterWorker = pin + ackWait + 6*time.Second
	afterNATS   = 10 * time.Second
	afterLeader = 20 * time.Second
)

// kinds are the faults.
func (a *arena) kinds() []fault {
	all := slices.Concat(a.workerFaults(), a.networkFaults(), a.storeFaults(), a.graphFaults())
	if len(a.servers) > 1 {
		return append(all, a.leaderFaults()...)
	}
	return append(all, fault{"NATS: kill -9", func(ctx context.Context) error { return a.killServer(ctx, a.servers[0]) }, afterNATS})
}

func (a *arena) workerFaults() []fault {
	return []fault{
		{"worker: kill -9", func(context.Context) error {
			w := a.anyWorker()
			w.Kill()
			return w.Start()
		}, afterWorker},
		{"all workers: kill -9", func(context.Context) error {
			for _, w := range a.workers {
				w.Kill()
			}
			for _, w := range a.workers {
				if err := w.Start(); err != nil {
					return err
				}
			}
			return nil
		}, afterWorker},
		{"worker: SIGTERM", func(context.Context) error {
			w := a.anyWorker()
			_ = w.Signal(syscall.SIGTERM) // it may be gone already
			if !w.Wait(10 * time.Second) {
				return errors.New("it did not end in time")
			}
			return w.Start()
		}, afterWorker},
		{"worker: frozen, longer than the ack wait", func(ctx context.Context) error {
			w := a.anyWorker()
			w.Freeze()
			defer w.Resume()
			return sandbox.Pause(ctx, freezeLength)
		}, 0},
		{"worker: unpinned by an operator", func(ctx context.Context) error {
			s, err := a.JS.Stream(ctx, a.Names.Stream)
			if err != nil {
				return err
			}
			return s.UnpinConsumer(ctx, a.Names.Consumer(), "worker")
		}, 0},
	}
}

func (a *arena) networkFaults() []fault {
	network := func(name string, begin func(*natstest.Proxy), length time.Duration) fault {
		return fault{"network to NATS: " + name, func(ctx context.Context) error {
			a.network(begin)
			defer a.network((*natstest.Proxy).Heal)
			return sandbox.Pause(ctx, length)
		}, 0}
	}
	return []fault{
		network("cut once", (*natstest.Proxy).Cut, 0),
		network("away, longer than the ack wait", (*natstest.Proxy).Away, freezeLength),
		network("replies lost", (*natstest.Proxy).Swallow, faultLength),
		network("500 ms late", func(p *natstest.Proxy) { p.Delay(500 * time.Millisecond) }, 2*faultLength),
	}
}

// storeFaults fill up what must not drop anything, make consumers anew, and lose alarms,
// which must lose no outcome for good.
func (a *arena) storeFaults() []fault {
	full := func(name, stream string) fault {
		return fault{name + ": full", func(ctx context.Context) error {
			if err := a.limit(ctx, stream, 1); err != nil {
				return err
			}
			pauseErr := sandbox.Pause(ctx, faultLength)
			for { // it must have room again, whatever happens meanwhile
				err := a.limit(context.WithoutCancel(ctx), stream, -1)
				if err == nil {
					return pauseErr
				}
				if sandbox.Pause(context.WithoutCancel(ctx), 100*time.Millisecond) != nil {
					return err
				}
			}
		}, 0}
	}
	faults := []fault{
		full("records", "KV_"+a.Names.Bucket),
		full("dead letters", a.Names.DeadStream),
		full("requests", a.Names.Stream),
		{"consumer: deleted and made anew", a.setupConsumers, 0},
	}
	if !a.follows {
		return faults
	}
	return append(faults,
		full("outcomes", "KV_"+a.Names.OutcomeBucket()),
		full("alarms", a.Names.FollowStream),
		fault{"consumers of the alarms: deleted and made anew", a.setupFollowing, 0},
		fault{"alarms: lost", func(ctx context.Context) error {
			s, err := a.JS.Stream(ctx, a.Names.FollowStream)
			if err != nil {
				return err
			}
			return s.Purge(ctx)
		}, 0})
}

func (a *arena) limit(ctx context.Context, stream string, bytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := a.JS.Stream(ctx, stream)
	if err != nil {
		return err
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = bytes
	_, err = a.JS.UpdateStream(ctx, cfg)
	return err
}

func (a *arena) graphFaults() []fault {
	outage := func(o graphsim.Outage) fault {
		return fault{"Graph: " + o.String(), func(ctx context.Context) error {
			a.Sim.SetOutage(o)
			defer a.Sim.SetOutage(graphsim.OutageNone)
			return sandbox.Pause(ctx, faultLength)
		}, 0}
	}
	return []fault{
		outage(graphsim.Outage503),
		outage(graphsim.Outage500),
		outage(graphsim.OutageRefuse),
		outage(graphsim.OutageSilence),
		outage(graphsim.OutageTokenDown),
		{"Graph: tokens revoked", func(context.Context) error {
			a.Sim.RevokeTokensWithChallenge()
			return nil
		}, 0},
	}
}

// leaderFaults kill the server that leads something, in a cluster.
func (a *arena) leaderFaults() []fault {
	of := func(name string, leader func(context.Context) (string, error)) fault {
		return fault{"NATS: leader of the " + name + ": kill -9", func(ctx context.Context) error {
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
			s, err := a.JS.Stream(ctx, name)
			if err != nil {
				return "", err
			}
			return s.CachedInfo().Cluster.Leader, nil
		}
	}
	return []fault{
		of("requests", stream(a.Names.Stream)),
		of("records", stream("KV_"+a.Names.Bucket)),
		of("dead letters", stream(a.Names.DeadStream)),
		of("consumer", func(ctx context.Context) (string, error) {
			c, err := a.JS.Consumer(ctx, a.Names.Stream, a.Names.Consumer())
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
	err := sandbox.Pause(ctx, time.Second)
	if startErr := s.Start(); startErr != nil {
		return startErr
	}
	return err
}

func (a *arena) anyWorker() *sandbox.Process { return a.workers[a.rand.IntN(len(a.workers))] }
