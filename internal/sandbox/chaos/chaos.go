// Package chaos throws faults at worker processes and NATS processes under load,
// and counts what was lost or doubled.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
)

// Options are those of the command line.
type Options struct {
	N       int           // requests
	Workers int           // processes at a time
	Seed    uint64        // decides the requests and the faults; 0: a new one, which is printed
	Rate    int           // requests published in a second
	Cluster bool          // three NATS servers
	Limit   time.Duration // by then everything must be over
	Worker  string        // another worker's program, what it tells of devices is not judged; empty: this one, started again
	Keep    bool          // the folder with logs and streams
}

// Times of the chaos. They are short, so that a minute holds many faults; what
// they are to each other is as in a real installation.
const (
	ackWait      = 4 * time.Second
	pin          = 2 * time.Second
	faultEvery   = 1500 * time.Millisecond
	faultLength  = 2 * time.Second
	freezeLength = 7 * time.Second
	graphLatency = 50 * time.Millisecond
	duplicates   = 10 * time.Second // of the alarms

	requestTimeout = time.Second
	verifyAfter    = time.Second
	backoffMin     = 50 * time.Millisecond
	backoffMax     = time.Second
	maxAttempts    = 100
	maxPause       = 2 * time.Second
	drainTimeout   = 5 * time.Second

	// Devices are looked at 1, 2, 4, 8 s … after the acceptance: few looks for most of
	// them, because there is a quota for looks. One that is gone is told to be so after
	// 40 s.
	faster    = 15
	followFor = 75 * time.Second
	// orderFor is how long a request is followed whose alarm was lost.
	orderFor = 50 * time.Second
)

// Run throws faults while requests come in, and afterwards compares the
// simulator's ledger of executed resets with the records, the dead letters and
// the stream.
func Run(ctx context.Context, o Options, out io.Writer) error {
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	began := time.Now()
	a, err := newArena(ctx, arenaConfig{seed: o.Seed, workers: o.Workers, cluster: o.Cluster, program: o.Worker, follows: o.Worker == ""})
	if err != nil {
		return err
	}
	defer a.close(o.Keep)
	a.faults = a.kinds()
	a.requests = scenario.Chaos(o.N, a.rand)
	fmt.Fprintf(out, "chaos: seed %d, %d requests, %d workers, %d NATS servers; logs in %s\n", o.Seed, o.N, o.Workers, len(a.servers), a.dir)
	playErr := a.play(ctx, o)
	a.calm(context.WithoutCancel(ctx))
	err = a.report(out, time.Since(began))
	return errors.Join(playErr, err)
}

// play publishes and throws faults until every request has come to its end.
func (a *arena) play(ctx context.Context, o Options) error {
	published := make(chan error, 1)
	go func() { published <- a.publish(ctx, o.Rate) }()
	stop := make(chan struct{})
	thrown := make(chan struct{})
	go func() {
		defer close(thrown)
		a.throw(ctx, stop)
	}()
	err := <-published
	close(stop)
	<-thrown
	if err != nil {
		return err
	}
	a.calm(ctx)
	if err := a.settle(ctx, a.Waiting); err != nil || !a.follows {
		return err
	}
	return a.settleFollowing(ctx)
}

// publish puts the requests on the stream. One whose PubAck is lost is
// published again, as a publisher has to.
func (a *arena) publish(ctx context.Context, rate int) error {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	p := &scenario.Publisher{JS: a.JS, Forger: a.forger, Names: a.Names}
	for _, r := range a.requests {
		for len(r.Sequences) < r.Copies {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			_ = p.Publish(try, r, "m-"+r.ID) // it is tried again
			cancel()
		}
	}
	return nil
}

// settle waits until a stream is empty and stays so.
func (a *arena) settle(ctx context.Context, waiting func(context.Context) (uint64, error)) error {
	empty := 0
	for empty < 20 {
		if err := sandbox.Pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("it is not over in time: %w", err)
		}
		if left, err := waiting(ctx); err == nil && left == 0 {
			empty++
		} else {
			empty = 0
		}
	}
	return nil
}

// complain tells of a fault that could not be made.
func complain(name string, err error) { fmt.Fprintf(os.Stderr, "chaos: %s: %v\n", name, err) }
