package consume

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

func TestMain(m *testing.M) {
	// A NATS server that is stopped while it opens a stream leaves the stream's
	// store behind, and the clock of all stores with it.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

const (
	// testTime bounds every wait of a test.
	testTime = 120 * time.Second
	// atOnce is how long may be taken by what waits for nothing. It is much
	// less than any ack wait, and more than a busy machine needs.
	atOnce = 10 * time.Second
)

// quick are times that tests can wait for.
var quick = times{
	heartbeat: 200 * time.Millisecond,
	expiry:    2 * time.Second,
	patience:  3 * time.Second,
	linger:    300 * time.Millisecond,
	giveBack:  500 * time.Millisecond,
	pauseMin:  20 * time.Millisecond,
	pauseMax:  100 * time.Millisecond,
	api:       2 * time.Second,
	ack:       2 * time.Second,
}

// spec are the names that the tests use.
var spec = topology.DefaultNames()

// group is the consumer's priority group.
const group = "worker"

// rig is a server, a worker's connection to it through a proxy, and an
// administrator's without one.
type rig struct {
	t      *testing.T
	ctx    context.Context
	server *natstest.Server // nil with a cluster
	proxy  *natstest.Proxy
	nc     *nats.Conn
	js     jetstream.JetStream
	admin  jetstream.JetStream
	down   chan struct{}
	up     chan struct{}
	errs   chan error // what the connection reports out of turn
	times  times      // of the queues to be run
}

func newRig(t *testing.T) *rig {
	t.Helper()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	r := newRigAt(t, s.URL(), "")
	r.server = s
	return r
}

// newRigAt connects to a server; the worker is the named user.
func newRigAt(t *testing.T, url, user string) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, down: make(chan struct{}, 99), up: make(chan struct{}, 99), errs: make(chan error, 999), times: quick}
	opts := []nats.Option{}
	if user != "" {
		opts = append(opts, nats.UserInfo("admin", "admin"))
	}
	direct, err := nats.Connect(url, append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(direct.Close)
	r.admin = newJetStream(t, direct)
	if r.proxy, err = natstest.StartProxy(url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.proxy.Close)
	r.nc = r.connect(r.proxy.URL(), user)
	r.js = newJetStream(t, r.nc)
	return r
}

func newJetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// connect connects as the worker does.
func (r *rig) connect(url, user string) *nats.Conn {
	r.t.Helper()
	nc, err := nats.Connect(url,
		nats.UserInfo(user, user),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(func(int) time.Duration { return 20 * time.Millisecond }),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { r.down <- struct{}{} }),
		nats.ReconnectHandler(func(*nats.Conn) { r.up <- struct{}{} }),
		nats.ConnectHandler(func(*nats.Conn) { r.up <- struct{}{} }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case r.errs <- err:
			default:
			}
		}))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	if nc.IsConnected() {
		r.receive(r.up, "the connection")
	}
	return nc
}

// receive takes the next of a channel.
func (r *rig) receive(c <-chan struct{}, what string) {
	r.t.Helper()
	take(r, c, what)
}

// take takes the next of a channel.
func take[T any](r *rig, c <-chan T, what string) T {
	r.t.Helper()
	select {
	case v := <-c:
		return v
	case <-r.ctx.Done():
		r.t.Fatalf("waited in vain for: %s", what)
		panic("not reached")
	}
}

// none fails if something comes within a short time.
func none[T any](r *rig, c <-chan T, what string) {
	r.t.Helper()
	noneFor(r, 200*time.Millisecond, c, what)
}

func noneFor[T any](r *rig, within time.Duration, c <-chan T, what string) {
	r.t.Helper()
	select {
	case v := <-c:
		r.t.Fatalf("%s: %v", what, v)
	case <-time.After(within):
	}
}

// await waits until a condition holds.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func (r *rig) setup(l topology.Layout) {
	r.t.Helper()
	if _, err := topology.Setup(r.ctx, r.admin, spec, l); err != nil {
		r.t.Fatal(err)
	}
}

// setupAckWait makes everything, and a consumer with a short ack wait.
func (r *rig) setupAckWait(l topology.Layout, wait time.Duration) {
	r.t.Helper()
	r.setup(l)
	cfg := topology.Layout{}.Worker(spec)
	cfg.AckWait = wait
	if _, err := r.admin.UpdateConsumer(r.ctx, spec.Stream, cfg); err != nil {
		r.t.Fatal(err)
	}
}

// publish puts messages on the stream.
func (r *rig) publish(bodies ...string) {
	r.t.Helper()
	for _, body := range bodies {
		if _, err := r.admin.Publish(r.ctx, spec.Filter(), []byte(body)); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) info() *jetstream.ConsumerInfo {
	r.t.Helper()
	c, err := r.admin.Consumer(r.ctx, spec.Stream, spec.Consumer())
	if err != nil {
		r.t.Fatal(err)
	}
	return c.CachedInfo()
}

// left is how many messages a stream has.
func (r *rig) left(stream string) uint64 {
	r.t.Helper()
	s, err := r.admin.Stream(r.ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func (r *rig) awaitEmpty() {
	r.t.Helper()
	r.await("an empty stream", func() bool { return r.left(spec.Stream) == 0 })
}

// running is a queue at work.
type running struct {
	r     *rig
	q     *Queue
	bound chan error
	log   *observer.ObservedLogs
	end   context.CancelFunc // of the intake
	cut   context.CancelFunc // of the work
	done  chan struct{}
}

// run works on a queue until the test ends. A zero Slots is 4, and Setup is as given.
func (r *rig) run(cfg Config) *running {
	r.t.Helper()
	core, log := observer.New(zap.DebugLevel)
	w := &running{r: r, bound: make(chan error, 999), log: log, done: make(chan struct{})}
	cfg.Names, cfg.Layout.Memory, cfg.Log = spec, true, zap.New(core)
	if cfg.Slots == 0 {
		cfg.Slots = 4
	}
	cfg.Bound = func(err error) { w.bound <- err }
	w.q = New(r.js, cfg)
	w.q.times = r.times
	var soft, hard context.Context
	soft, w.end = context.WithCancel(context.Background())
	hard, w.cut = context.WithCancel(context.Background())
	go func() {
		defer close(w.done)
		w.q.Run(soft, hard)
	}()
	r.t.Cleanup(func() {
		w.end()
		w.cut()
		select {
		case <-w.done:
		case <-time.After(testTime):
			r.t.Error("Run does not end")
		}
	})
	return w
}

// awaitBound waits until the queue is bound.
func (w *running) awaitBound() {
	w.r.t.Helper()
	for take(w.r, w.bound, "being bound") != nil {
	}
}

// awaitLost waits until the queue is not bound, and returns why.
func (w *running) awaitLost() error {
	w.r.t.Helper()
	for {
		if err := take(w.r, w.bound, "being lost"); err != nil {
			return err
		}
	}
}

// stop ends the intake and returns how long Run took to end.
func (w *running) stop() time.Duration {
	w.r.t.Helper()
	begun := time.Now()
	w.end()
	w.r.receive(w.done, "the end of Run")
	return time.Since(begun)
}

// warnings are the log lines from Warn up.
func (w *running) warnings() (out []string) {
	for _, e := range w.log.All() {
		if e.Level >= zap.WarnLevel {
			out = append(out, fmt.Sprint(e.Message, " ", e.ContextMap()))
		}
	}
	return out
}

// handler is a handler whose messages a test takes and answers.
type handler struct {
	calls chan call
	mu    sync.Mutex
	in    int // in work
	most  int // in work at a time
}

// call is one message in work.
type call struct {
	Message
	ctx    context.Context
	answer chan Disposition
}

func newHandler() *handler { return &handler{calls: make(chan call, 999)} }

func (h *handler) handle(_, ctx context.Context, m Message) Disposition {
	h.count(1)
	defer h.count(-1)
	c := call{m, ctx, make(chan Disposition, 1)}
	h.calls <- c
	select {
	case d := <-c.answer:
		return d
	case <-ctx.Done():
		return Nak(0)
	}
}

func (h *handler) count(by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.in += by
	h.most = max(h.most, h.in)
}

// peak is how many messages were in work at a time.
func (h *handler) peak() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.most
}
