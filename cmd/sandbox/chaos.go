package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
)

type chaosCmd struct {
	N       int           `default:"2000" help:"Requests."`
	Workers int           `default:"2" help:"Worker processes at a time."`
	Seed    uint64        `default:"0" help:"Decides the requests and the faults; 0: a new one, which is printed."`
	Rate    int           `default:"100" help:"Requests published per second."`
	Limit   time.Duration `default:"5m" help:"By then everything must be over."`
	Worker  string        `default:"" help:"The worker's program; built from ./cmd/worker if not given."`
	Keep    bool          `help:"Keep the folder with logs and streams."`
}

// serverCmd is the NATS server as a process of its own, so that it can be
// killed. The chaos command starts it.
type serverCmd struct {
	Dir  string `required:""`
	Port int    `required:""`
}

// Run serves until it is killed.
func (c serverCmd) Run(ctx context.Context) error {
	s, err := natstest.StartWith(serverOptions(c.Dir, c.Port))
	if err != nil {
		return err
	}
	<-ctx.Done()
	s.Stop()
	return nil
}

// Times of the chaos. They are short, so that a minute holds many faults; what
// they are to each other is as in a real installation.
const (
	chaosAckWait     = 4 * time.Second
	chaosFaultEvery  = 1500 * time.Millisecond
	chaosFaultLength = 2 * time.Second
	chaosFreeze      = 6 * time.Second
	chaosLatency     = 50 * time.Millisecond
)

// Run throws faults at worker processes and a NATS process while requests come
// in, and afterwards compares the simulator's ledger of executed resets with
// the records, the dead letters and the stream.
func (c chaosCmd) Run(ctx context.Context) error {
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	began := time.Now()
	a, err := c.arena(ctx)
	if err != nil {
		return err
	}
	defer a.close(c.Keep)
	fmt.Printf("chaos: seed %d, %d requests, %d workers; logs in %s\n", c.Seed, c.N, c.Workers, a.dir)
	playErr := a.play(ctx, c)
	a.calm(context.WithoutCancel(ctx))
	err = a.report(os.Stdout, time.Since(began))
	return errors.Join(playErr, err)
}

// arena is where the chaos happens.
type arena struct {
	dir     string
	rand    *rand.Rand
	names   consume.Names
	sim     *graphsim.Sim
	server  *process
	proxy   *natstest.Proxy // between the workers and the server
	workers []*process
	nc      *nats.Conn // past the proxy
	js      jetstream.JetStream

	faults []fault1
	counts map[string]int // faults injected

	requests []*chaosRequest
}

type chaosRequest struct {
	id, device, data string
	want             end
	resets           int
	published        bool
}

func (c chaosCmd) arena(ctx context.Context) (*arena, error) {
	dir, err := os.MkdirTemp("", "passcode-chaos-")
	if err != nil {
		return nil, err
	}
	a := &arena{dir: dir, rand: rand.New(rand.NewPCG(c.Seed, 1)), counts: map[string]int{}, names: sandboxNames()}
	if err := a.build(ctx, c); err != nil {
		a.close(false)
		return nil, err
	}
	return a, nil
}

func (a *arena) build(ctx context.Context, c chaosCmd) error {
	program := c.Worker
	if program == "" {
		program = filepath.Join(a.dir, "worker")
		if err := buildWorker(ctx, program); err != nil {
			return err
		}
	}
	var err error
	if a.sim, err = graphsim.Start(graphsim.Config{Latency: chaosLatency, NoCallLog: true}); err != nil {
		return err
	}
	ca := filepath.Join(a.dir, "ca.pem")
	if err := os.WriteFile(ca, a.sim.CAPEM(), 0o600); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a.server = newProcess(filepath.Join(a.dir, "nats.log"), nil, self, "server", "--dir", filepath.Join(a.dir, "nats"), fmt.Sprint("--port=", port))
	if err := a.server.start(); err != nil {
		return err
	}
	address := fmt.Sprintf("nats://127.0.0.1:%d", port)
	if a.proxy, err = natstest.StartProxy(address); err != nil {
		return err
	}
	if a.nc, err = nats.Connect(address, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectWait(50*time.Millisecond)); err != nil {
		return err
	}
	if a.js, err = jetstream.New(a.nc); err != nil {
		return err
	}
	if err := a.setup(ctx); err != nil {
		return err
	}
	for i := range c.Workers {
		w := newProcess(filepath.Join(a.dir, fmt.Sprintf("worker%d.log", i)), a.environment(ca), program, "run")
		if err := w.start(); err != nil {
			return err
		}
		a.workers = append(a.workers, w)
	}
	a.faults = a.kinds()
	a.requests = chaosRequests(c.N, a.rand)
	return nil
}

// setup makes the streams, with an ack wait that fits the short times.
func (a *arena) setup(ctx context.Context) error {
	for {
		_, err := consume.Setup(ctx, a.js, a.names, consume.Layout{})
		if err == nil {
			break
		}
		if pauseErr := pauseFor(ctx, 100*time.Millisecond); pauseErr != nil {
			return errors.Join(err, pauseErr)
		}
	}
	cfg := consume.Layout{}.Worker(a.names)
	cfg.AckWait = chaosAckWait
	_, err := a.js.UpdateConsumer(ctx, a.names.Stream, cfg)
	return err
}

func (a *arena) environment(ca string) []string {
	return []string{
		"NATS_URL=" + a.proxy.URL(),
		"AZURE_TENANT_ID=" + graphsim.DefaultTenantID, "AZURE_CLIENT_ID=" + graphsim.DefaultClientID,
		"AZURE_CLIENT_SECRET=" + graphsim.DefaultClientSecret,
		"AZURE_AUTHORITY_HOST=" + a.sim.URL(), "GRAPH_ENDPOINT=" + a.sim.URL(), "SSL_CERT_FILE=" + ca,
		"WORKER_RATE=0", "WORKER_REQUEST_TIMEOUT=1s", "WORKER_VERIFY_AFTER=500ms", "WORKER_BACKOFF_MIN=50ms", "WORKER_BACKOFF_MAX=1s",
		"WORKER_MAX_ATTEMPTS=100", "WORKER_MAX_PAUSE=2s", "WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_DRAIN_TIMEOUT=5s",
	}
}

// chaosRequests are mostly good ones, with the faults of single requests among
// them.
func chaosRequests(n int, r *rand.Rand) []*chaosRequest {
	var out []*chaosRequest
	for i := range n {
		q := &chaosRequest{id: fmt.Sprint("C", i), device: graphsim.GoodDevice(i), want: accepted, resets: 1}
		switch p := r.IntN(100); {
		case p < 4:
			q.device, q.want, q.resets = graphsim.FaultDevice(404, 0, 0, i), dead(metrics.ReasonNotFound), 0
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
			q.device, q.want, q.resets = "", dead(metrics.ReasonInvalidRequest), 0
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
			try, cancel := context.WithTimeout(ctx, time.Second)
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

// calm ends every fault.
func (a *arena) calm(ctx context.Context) {
	a.sim.SetOutage(graphsim.OutageNone)
	a.proxy.Heal()
	for _, p := range append([]*process{a.server}, a.workers...) {
		p.resume()
		if err := p.revive(); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
	}
	_ = pauseFor(ctx, 200*time.Millisecond)
}

func (a *arena) close(keep bool) {
	for _, p := range append(slices.Clone(a.workers), a.server) {
		if p != nil {
			p.resume()
			p.kill()
		}
	}
	if a.nc != nil {
		a.nc.Close()
	}
	if a.proxy != nil {
		a.proxy.Close()
	}
	if a.sim != nil {
		_ = a.sim.Close() // the process ends with it
	}
	if !keep {
		_ = os.RemoveAll(a.dir) // a temporary folder
	}
}

// report prints what was thrown against what was lost and doubled.
func (a *arena) report(out io.Writer, took time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kv, err := a.js.KeyValue(ctx, a.names.Bucket)
	if err != nil {
		return err
	}
	letters, err := deadLetters(ctx, a.js, a.names)
	if err != nil {
		return err
	}
	lettersOf := map[string]int{}
	for _, m := range letters {
		lettersOf[m.Header.Get(consume.HeaderRequestID)]++
	}
	var lost, doubled, both, wrong []string
	for _, q := range a.requests {
		if !q.published {
			continue
		}
		var r record.Record
		if err := readRecord(ctx, kv, a.names.Tenant, q.id, &r); err != nil || r.State != record.Accepted && r.State != record.Dead {
			lost = append(lost, fmt.Sprintf("%s is %q (%v)", q.id, r.State, err))
			continue
		}
		resets := 0
		if q.device != "" {
			resets = a.sim.Resets(q.device)
		}
		switch got := ends(r); {
		case resets > 1:
			doubled = append(doubled, fmt.Sprintf("%s: %d resets", q.id, resets))
		case r.State == record.Accepted && lettersOf[q.id] > 0 || lettersOf[q.id] > 1:
			both = append(both, fmt.Sprintf("%s is %s with %d dead letters", q.id, got, lettersOf[q.id]))
		case got != q.want || resets != q.resets || r.State == record.Dead && lettersOf[q.id] == 0:
			wrong = append(wrong, fmt.Sprintf("%s: %s with %d resets and %d letters, expected %s with %d", q.id, got, resets, lettersOf[q.id], q.want, q.resets))
		}
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nFAULT\tTIMES")
	total := 0
	for _, f := range a.faults {
		fmt.Fprintf(w, "%s\t%d\n", f.name, a.counts[f.name])
		total += a.counts[f.name]
	}
	s := a.sim.Status()
	fmt.Fprintf(w, "\nrequests\t%d\nfaults\t%d\ncalls to Graph\t%d\nresets\t%d\nseconds\t%.0f\n\n", len(a.requests), total, s.Calls, s.Executed, took.Seconds())
	broken := false
	for _, p := range []struct {
		name string
		bad  []string
	}{{"lost", lost}, {"doubled", doubled}, {"ended twice", both}, {"ended wrongly", wrong}, {"calls that a client must not make", s.Violations}} {
		fmt.Fprintf(w, "%s\t%d\n", p.name, len(p.bad))
		for _, b := range p.bad[:min(len(p.bad), 10)] {
			fmt.Fprintf(w, "  %s\n", b)
		}
		broken = broken || len(p.bad) > 0
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if broken {
		return errBroken
	}
	return nil
}
