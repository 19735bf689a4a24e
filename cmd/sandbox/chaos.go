package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/verdict"
)

type chaosCmd struct {
	N       int           `default:"2000" help:"Requests."`
	Workers int           `default:"2" help:"Worker processes at a time."`
	Seed    uint64        `default:"0" help:"Decides the requests and the faults; 0: a new one, which is printed."`
	Rate    int           `default:"100" help:"Requests published per second."`
	Cluster bool          `help:"Three NATS servers and three replicas of everything, whose leaders are killed, too."`
	Limit   time.Duration `default:"5m" help:"By then everything must be over."`
	Worker  string        `default:"" help:"The worker's program; built from ./cmd/worker if not given."`
	Keep    bool          `help:"Keep the folder with logs and streams."`
}

// Times of the chaos. They are short, so that a minute holds many faults; what
// they are to each other is as in a real installation.
const (
	chaosAckWait     = 4 * time.Second
	chaosPin         = 2 * time.Second
	chaosFaultEvery  = 1500 * time.Millisecond
	chaosFaultLength = 2 * time.Second
	chaosFreeze      = 7 * time.Second
	chaosLatency     = 50 * time.Millisecond
)

// Run throws faults at worker processes and NATS processes while requests come
// in, and afterwards compares the simulator's ledger of executed resets with
// the records, the dead letters and the stream.
func (c chaosCmd) Run(ctx context.Context) error {
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	began := time.Now()
	a, err := newArena(ctx, arenaConfig{seed: c.Seed, workers: c.Workers, cluster: c.Cluster, program: c.Worker})
	if err != nil {
		return err
	}
	defer a.close(c.Keep)
	a.faults = a.kinds()
	a.requests = chaosRequests(c.N, a.rand)
	fmt.Printf("chaos: seed %d, %d requests, %d workers, %d NATS servers; logs in %s\n", c.Seed, c.N, c.Workers, len(a.servers), a.dir)
	playErr := a.play(ctx, c)
	a.calm(context.WithoutCancel(ctx))
	err = a.report(os.Stdout, time.Since(began))
	return errors.Join(playErr, err)
}

type chaosRequest struct {
	id, device, data string
	want             end
	resets           int
	published        bool
}

// chaosRequests are mostly good ones, with the faults of single requests among
// them.
func chaosRequests(n int, r *rand.Rand) []*chaosRequest {
	var out []*chaosRequest
	for i := range n {
		q := &chaosRequest{id: fmt.Sprint("C", i), device: graphsim.GoodDevice(i), want: accepted, resets: 1}
		switch p := r.IntN(100); {
		case p < 4:
			q.device, q.want, q.resets = graphsim.FaultDevice(404, 0, 0, i), dead(verdict.ReasonNotFound), 0
		case p < 8:
			q.device = graphsim.FaultDevice(602, 1, 1, i) // executed, the reply lost
		case p < 12:
			q.device = graphsim.FaultDevice(500, 1, 1, i) // executed, 500
		case p < 16:
			q.device = graphsim.FaultDevice(500, 1, 0, i)
		case p < 18:
			q.device = graphsim.FaultDevice(429, 1, 2, i)
		case p < 20:
			q.device = graphsim.FaultDevice(601, 1, 0, i) // cut, with all other calls of that connection
		case p < 22:
			q.device, q.want, q.resets = "", dead(verdict.ReasonInvalidRequest), 0
		}
		q.data = fmt.Sprintf(`{"id":%q,"managedDeviceId":%q}`, q.id, q.device)
		out = append(out, q)
	}
	return out
}

// play publishes and throws faults until every request has come to its end.
func (a *arena) play(ctx context.Context, c chaosCmd) error {
	published := make(chan error, 1)
	go func() { published <- a.publish(ctx, c.Rate) }()
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
	return a.settle(ctx)
}

// publish puts the requests on the stream. One whose PubAck is lost is
// published again, as a publisher has to.
func (a *arena) publish(ctx context.Context, rate int) error {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for _, q := range a.requests {
		for !q.published {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := a.js.PublishMsg(try, &nats.Msg{Subject: a.names.Filter(), Data: []byte(q.data)}, jetstream.WithMsgID("m-"+q.id))
			cancel()
			q.published = err == nil
		}
	}
	return nil
}

// settle waits until the stream is empty and stays so.
func (a *arena) settle(ctx context.Context) error {
	empty := 0
	for empty < 20 {
		if err := pauseFor(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("it is not over in time: %w", err)
		}
		s, err := a.js.Stream(ctx, a.names.Stream)
		if err == nil && s.CachedInfo().State.Msgs == 0 {
			empty++
		} else {
			empty = 0
		}
	}
	return nil
}
