package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
)

type dayCmd struct {
	Seed uint64 `default:"1" help:"Decides the order of the requests."`

	Serve     bool          `help:"Do not play a day: stay up, so that your own system can be pointed at it."`
	Worker    bool          `default:"true" negatable:"" help:"With --serve: also run the worker."`
	NATSPort  int           `name:"nats-port" default:"0" help:"Port of NATS; 0: 4222 with --serve, else any."`
	GraphAddr string        `default:"" help:"Address of the simulated Graph; default 127.0.0.1:8443 with --serve, else any."`
	HTTPAddr  string        `name:"http-addr" default:"" help:"Address of the worker's metrics and health; default 127.0.0.1:9090 with --serve."`
	CAFile    string        `name:"ca-file" default:"" placeholder:"FILE" help:"With --serve: where to write the authority of the simulated Graph's certificate; default a temporary file."`
	Quota     string        `default:"" help:"What the simulated Graph grants, such as 200/20s (default with --serve; 0: no limit)."`
	Latency   time.Duration `default:"20ms" help:"How long the simulated Graph takes."`
	Outage    string        `default:"none" help:"With --serve: a fault of the whole system from the start. One of: none, 503, 503-retry-after, 500, refuse, silence, secret-expired, token-down, permission, throttle, no-licence, wrong-path."`
}

// The day.
const (
	dayQuota     = 300
	dayWindow    = 5 * time.Second
	publishFor   = 12 * time.Second
	revokeAt     = 4 * time.Second
	outageAt     = 8 * time.Second
	outageFor    = 20 * time.Second
	dayLimit     = 4 * time.Minute // more than three times what it takes: only a day that stands still ends by it
	settledAfter = 2 * time.Second
	catchUpSlack = 15 * time.Second // for look-ups, short holds, and a busy machine
)

// Run plays the day, or serves.
func (c dayCmd) Run(ctx context.Context) error {
	if c.Serve {
		return c.serve(ctx)
	}
	w, err := newWorld(c.NATSPort, graphsim.Config{Quota: dayQuota, Window: dayWindow, RetryAfter: graphsim.Decimal, Latency: c.Latency, Addr: c.GraphAddr})
	if err != nil {
		return err
	}
	defer w.close()
	log, err := w.fileLog()
	if err != nil {
		return err
	}
	httpAddr := c.HTTPAddr
	if httpAddr == "" {
		httpAddr = "127.0.0.1:0"
	}
	ctx, cancel := context.WithTimeout(ctx, dayLimit)
	defer cancel()
	stop := w.run(w.config(pace.Rate{N: dayQuota, W: dayWindow}, httpAddr, log))
	d := &day{world: w, events: events(c.Seed), began: time.Now()}
	playErr := d.play(ctx, newProgress(os.Stdout))
	if err := errors.Join(playErr, stop()); err != nil {
		_ = d.report(context.WithoutCancel(ctx), os.Stdout) // what is known helps to understand the error
		return err
	}
	return d.report(ctx, os.Stdout)
}

// day is one run of the requests.
type day struct {
	*world
	events    []*event
	began     time.Time
	published int
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

	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	total, next := len(d.events), 0
	var quiet time.Time
	for {
		elapsed := time.Since(d.began)
		for ; next < min(total, int(float64(total)*float64(elapsed)/float64(publishFor))+1); next++ {
			if err := d.publish(ctx, d.events[next]); err != nil {
				return err
			}
		}
		left, err := d.waiting(ctx)
		if err != nil {
			return err
		}
		d.follow(elapsed, int(left))
		p.show(elapsed, d.phase(elapsed), d.published, int(left), d.sim.Status())
		// What is over must stay over: the end is believed after a while.
		if next < total || left > 0 || elapsed < outageAt+outageFor {
			quiet = time.Time{}
		} else if quiet.IsZero() {
			quiet = time.Now()
		} else if time.Since(quiet) > settledAfter {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the day is not over after %s: %d requests are still waiting", dayLimit, left)
		case <-tick.C:
		}
	}
}

// follow is told how many requests wait.
func (d *day) follow(elapsed time.Duration, left int) {
	switch back := elapsed - outageAt - outageFor; {
	case back < 0:
		d.backlog = left
	case d.caughtUp == 0 && left <= d.backlog/10:
		d.caughtUp = back
	}
}

// slow tells what was slower than Graph allows.
func (d *day) slow(s graphsim.Status) []string {
	var out []string
	meant := 0 // refusals that requests of the day bring about, whatever the rate
	for _, e := range d.events {
		if strings.HasPrefix(e.kind, "429") {
			meant++
		}
	}
	// The pacer keeps to the quota: the few are for where it has to find out anew.
	if more := s.Throttled - meant; more > s.Calls/50 {
		out = append(out, fmt.Sprintf("%d of %d calls were answered 429 for the quota's sake", more, s.Calls))
	}
	back := d.began.Add(outageAt + outageFor)
	calls, pauses := 0, 0
	for _, c := range d.sim.Calls() {
		if c.Time.Before(back) {
			continue
		}
		calls++
		if c.Status == http.StatusTooManyRequests || c.Status == http.StatusServiceUnavailable {
			pauses++
		}
	}
	// The wait for the next probe is as long as the outage at most; then come the
	// windows that the calls need, and a second's pause for each refusal.
	most := outageFor + time.Duration(calls)*dayWindow/dayQuota + time.Duration(pauses)*time.Second + catchUpSlack
	if d.caughtUp == 0 || d.caughtUp > most {
		out = append(out, fmt.Sprintf("nine tenths of the backlog could have been done within %.0f s", most.Seconds()))
	}
	return out
}

// ready waits until the worker has made the stream.
func (d *day) ready(ctx context.Context) error {
	for {
		if _, err := d.js.Consumer(ctx, d.names.Stream, d.names.Consumer()); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the worker did not begin")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *day) publish(ctx context.Context, e *event) error {
	for range e.copies {
		ack, err := d.js.PublishMsg(ctx, &nats.Msg{Subject: d.names.Filter(), Data: []byte(e.data), Header: e.header})
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		e.sequences = append(e.sequences, ack.Sequence)
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
		{revokeAt, d.sim.RevokeTokensWithChallenge},
		{outageAt, func() { d.sim.SetOutage(graphsim.OutageRefuse) }},
		{outageAt + outageFor, func() { d.sim.SetOutage(graphsim.OutageNone) }},
	} {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(d.began.Add(f.at))):
			f.do()
		}
	}
}

func (d *day) phase(elapsed time.Duration) string {
	switch {
	case elapsed < revokeAt:
		return "morning"
	case elapsed < outageAt:
		return "tokens revoked"
	case elapsed < outageAt+outageFor:
		return "Graph and Entra unreachable"
	}
	return "catching up"
}
