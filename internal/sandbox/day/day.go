// Package day plays a mixed day of requests against the simulated Graph, and says
// whether every promise held.
package day

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/worker"
)

// Options are those of the command line.
type Options struct {
	Seed uint64 // decides the order of the requests

	Serve     bool // stay up instead
	Worker    bool // with Serve: also run the worker
	NATSPort  int  // 0: 4222 with Serve, else any
	GraphAddr string
	HTTPAddr  string
	CAFile    string // where Serve writes the authority of Graph's certificate; empty: a temporary file
	Quota     string // such as 200/20s; empty: that with Serve
	Latency   time.Duration
	Outage    string
	Faster    int // with Serve: how many times as fast as in life devices are looked at
}

// The day.
const (
	quota        = 300
	window       = 5 * time.Second
	publishFor   = 12 * time.Second
	revokeAt     = 4 * time.Second
	outageAt     = 8 * time.Second
	outageFor    = 20 * time.Second
	plainAt      = outageAt + outageFor + 15*time.Second // from then on no list of actions leaves a doubt
	limit        = 4 * time.Minute                       // more than three times what it takes: only a day that stands still ends by it
	settledAfter = 2 * time.Second
	catchUpSlack = 15 * time.Second // for look-ups, short holds, and a busy machine

	// Devices are looked at 0.25, 0.5, 1, 2 s … after the acceptance. One that is gone is
	// told to be so after 10 s. Most have done it at the first look, because there is a
	// quota for looks.
	faster    = 60
	followFor = 70 * time.Second
	work      = 200 * time.Millisecond
)

// Run plays the day, or serves. It fails with [sandbox.ErrBroken] where a promise
// did not hold.
func Run(ctx context.Context, o Options, out *os.File) error {
	if o.Serve {
		return serve(ctx, o, out)
	}
	w, err := sandbox.New(sandbox.Options{NATS: &server.Options{Port: o.NATSPort}, Sim: graphsim.Config{
		Quota: quota, Window: window, RetryAfter: graphsim.Decimal, Latency: o.Latency, Addr: o.GraphAddr,
		Tenants: []string{scenario.NeighbourDirectory}, Work: work,
	}})
	if err != nil {
		return err
	}
	defer w.Close()
	forger, err := scenario.ConnectForger(w.URL)
	if err != nil {
		return err
	}
	defer forger.Close()
	// All that can be written is to be looked through for secrets.
	log, err := w.FileLog(zap.DebugLevel)
	if err != nil {
		return err
	}
	httpAddr := o.HTTPAddr
	if httpAddr == "" {
		port, err := sandbox.FreePort()
		if err != nil {
			return err
		}
		httpAddr = fmt.Sprint("127.0.0.1:", port)
	}
	heard, err := listen(w)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cfg := w.Config(pace.Rate{N: quota, W: window}, httpAddr, log)
	cfg.Tenants = append(cfg.Tenants, w.Tenant(scenario.Neighbour, scenario.NeighbourDirectory, pace.Rate{}))
	cfg.Follow, cfg.FollowPlan = worker.FollowOn, outcome.Plan{For: followFor, Faster: faster}
	stop := w.Run(cfg)
	d := &day{World: w, forger: forger, requests: scenario.Day(o.Seed), began: time.Now(), heard: heard, served: "http://" + httpAddr}
	playErr := d.play(ctx, newProgress(out))
	d.took = time.Since(d.began)
	if playErr == nil {
		playErr = d.readPages(ctx)
	}
	if err := errors.Join(playErr, stop()); err != nil {
		_ = d.report(context.WithoutCancel(ctx), out) // what is known helps to understand the error
		return errors.Join(err, d.keepLog(out))
	}
	err = d.report(ctx, out)
	if errors.Is(err, sandbox.ErrBroken) {
		err = errors.Join(err, d.keepLog(out))
	}
	return err
}

// keepLog keeps the worker's log beyond the day, for who looks for the cause.
func (d *day) keepLog(out io.Writer) error {
	kept := filepath.Join(os.TempDir(), fmt.Sprintf("sandbox-day-%s.log", d.began.UTC().Format("20060102T150405")))
	log, err := os.ReadFile(d.LogFile())
	if err == nil {
		err = os.WriteFile(kept, log, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the worker's log: %w", err)
	}
	fmt.Fprintf(out, "\nthe worker's log is in %s\n", kept)
	return nil
}

// day is one run of the requests.
type day struct {
	*sandbox.World
	forger    *nats.Conn
	requests  []*scenario.Request
	began     time.Time
	took      time.Duration
	published int
	heard     *heard
	served    string            // where the worker serves its pages
	pages     map[string]string // these, when all is over
	// backlog is how many requests waited when Graph was back, and caughtUp how
	// long it took then until nine tenths of them were done; 0: not yet.
	backlog  int
	caughtUp time.Duration
}

// play publishes the requests, makes the faults of the whole system happen in
// the middle of it, and waits until every request has come to its end.
func (d *day) play(ctx context.Context, p *progress) error {
	defer p.end()
	if err := d.ready(ctx); err != nil {
		return err
	}
	d.began = time.Now()
	faults := make(chan struct{})
	go func() {
		defer close(faults)
		d.faults(ctx)
	}()
	defer func() { <-faults }()

	publisher := &scenario.Publisher{JS: d.JS, Forger: d.forger, Names: d.Names}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	total, next := len(d.requests), 0
	var quiet time.Time
	for {
		elapsed := time.Since(d.began)
		for ; next < min(total, int(float64(total)*float64(elapsed)/float64(publishFor))+1); next++ {
			if err := d.publish(ctx, publisher, d.requests[next]); err != nil {
				return err
			}
		}
		left, err := d.Waiting(ctx)
		if err != nil {
			return err
		}
		alarms, err := d.Alarms(ctx)
		if err != nil {
			return err
		}
		d.catchUp(elapsed, int(left))
		p.show(elapsed, phase(elapsed, int(left)), d.published, int(left), int(alarms), d.Sim.Status())
		// What is over must stay over: the end is believed after a while.
		if next < total || left > 0 || alarms > 0 || elapsed < outageAt+outageFor {
			quiet = time.Time{}
		} else if quiet.IsZero() {
			quiet = time.Now()
		} else if time.Since(quiet) > settledAfter {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the day is not over after %s: %d requests are still waiting, %d are followed", limit, left, alarms)
		case <-tick.C:
		}
	}
}

// catchUp is told how many requests wait.
func (d *day) catchUp(elapsed time.Duration, left int) {
	switch back := elapsed - outageAt - outageFor; {
	case back < 0:
		d.backlog = left
	case d.caughtUp == 0 && left <= d.backlog/10:
		d.caughtUp = back
	}
}

// ready waits until the worker has made what it needs, and serves both tenants.
func (d *day) ready(ctx context.Context) error {
	for _, tenant := range []string{d.Names.Tenant, scenario.Neighbour} {
		names := d.Names
		names.Tenant = tenant
		for {
			if _, err := d.JS.Consumer(ctx, names.Stream, names.Consumer()); err == nil {
				break
			}
			if sandbox.Pause(ctx, 50*time.Millisecond) != nil {
				return errors.New("the worker did not begin")
			}
		}
	}
	for {
		if _, err := d.JS.Consumer(ctx, d.Names.FollowStream, topology.FollowConsumer(topology.FollowSteps-1)); err == nil {
			return nil
		}
		if sandbox.Pause(ctx, 50*time.Millisecond) != nil {
			return errors.New("the worker does not follow requests")
		}
	}
}

func (d *day) publish(ctx context.Context, p *scenario.Publisher, r *scenario.Request) error {
	messageID := ""
	if r.Reply != "" {
		messageID = "m-" + r.ID
	}
	for range r.Copies {
		if err := p.Publish(ctx, r, messageID); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		d.published++
	}
	return nil
}

// faults lets the day's faults of the whole system happen.
func (d *day) faults(ctx context.Context) {
	for _, f := range []struct {
		at time.Duration
		do func()
	}{
		{revokeAt, d.Sim.RevokeTokensWithChallenge},
		{outageAt, func() { d.Sim.SetOutage(graphsim.OutageRefuse) }},
		{outageAt + outageFor, func() { d.Sim.SetOutage(graphsim.OutageNone) }},
		{plainAt, func() { scenario.ShowPlainly(d.Sim, d.requests) }},
	} {
		if sandbox.Pause(ctx, time.Until(d.began.Add(f.at))) != nil {
			return
		}
		f.do()
	}
}

func phase(elapsed time.Duration, left int) string {
	switch {
	case elapsed < revokeAt:
		return "morning"
	case elapsed < outageAt:
		return "tokens revoked"
	case elapsed < outageAt+outageFor:
		return "Graph and Entra unreachable"
	case left == 0:
		return "following devices"
	}
	return "catching up"
}

// pausing reports whether Graph asked for a pause by an answer.
func pausing(c graphsim.Call) bool {
	return c.Status == http.StatusTooManyRequests || c.Status == http.StatusServiceUnavailable
}
