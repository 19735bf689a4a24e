package natstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Main()
	// A NATS server that is stopped while it opens a stream leaves the stream's
	// store behind, and the clock of all stores with it.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

const (
	testTime = 60 * time.Second
	// notComing is how long a test waits for what must not come.
	notComing = 100 * time.Millisecond
)

// rig is a server with a stream S behind a proxy.
type rig struct {
	t      *testing.T
	server *Server
	proxy  *Proxy
	nc     *nats.Conn
	js     jetstream.JetStream
	down   chan struct{}
	up     chan struct{}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, down: make(chan struct{}, 9), up: make(chan struct{}, 9)}
	var err error
	if r.server, err = Start(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.server.Stop() })
	if r.proxy, err = StartProxy(r.server.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.proxy.Close)
	r.nc, err = nats.Connect(r.proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { r.down <- struct{}{} }),
		nats.ReconnectHandler(func(*nats.Conn) { r.up <- struct{}{} }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.CreateStream(r.ctx(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) await(c <-chan struct{}, what string) {
	r.t.Helper()
	select {
	case <-c:
	case <-time.After(testTime):
		r.t.Fatalf("waited in vain for: %s", what)
	}
}

// publish waits for the PubAck, for a while.
func (r *rig) publish(subject string, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	_, err := r.js.Publish(ctx, subject, []byte("x"), jetstream.WithMsgID(subject))
	return err
}

// stored is how many messages the stream has, asked of the server itself.
func (r *rig) stored() uint64 {
	r.t.Helper()
	nc, err := nats.Connect(r.server.URL())
	if err != nil {
		r.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := js.Stream(r.ctx(), "S")
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestProxyPassesAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sub, err := r.nc.SubscribeSync("echo")
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 100, 1 << 20} {
		m := &nats.Msg{Subject: "echo", Reply: "back", Data: bytes.Repeat([]byte("\r\n"), size/2)}
		if size%2 == 0 && size < 1<<20 {
			m.Header = nats.Header{"A": {"MSG x 1 3"}}
		}
		if err := r.nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		got, err := sub.NextMsg(testTime)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Data, m.Data) || got.Reply != "back" || got.Header.Get("A") != m.Header.Get("A") {
			t.Errorf("a message of %d bytes came back as %d bytes with %v", len(m.Data), len(got.Data), got.Header)
		}
	}
}

func TestProxyCut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.proxy.Cut()
	r.await(r.down, "the end of the connection")
	r.await(r.up, "a new connection")
	r.proxy.Refuse()
	if !r.nc.IsConnected() {
		t.Error("Refuse ended a connection")
	}
	r.proxy.Away()
	r.await(r.down, "the end of the connection")
	if _, err := nats.Connect(r.proxy.URL()); err == nil {
		t.Error("connected to what is away")
	}
	r.proxy.Heal()
	r.await(r.up, "a new connection")
	if err := r.nc.FlushTimeout(testTime); err != nil {
		t.Error(err)
	}
}

func TestProxyServerAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.Stop()
	r.await(r.down, "the end of the connection")
	if err := r.server.Restart(); err != nil {
		t.Fatal(err)
	}
	r.await(r.up, "a new connection")
	if got := r.stored(); got != 0 {
		t.Errorf("%d messages", got)
	}
}

func TestProxySwallow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.proxy.Swallow()
	if err := r.publish("s.a", notComing); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish without a reply: %v", err)
	}
	if got := r.stored(); got != 1 {
		t.Errorf("%d messages stored, want 1: only the reply is lost", got)
	}
	r.proxy.Heal()
	if err := r.publish("s.b", testTime); err != nil {
		t.Errorf("publish after it: %v", err)
	}
}

func TestProxySwallowNext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	two := r.proxy.SwallowNext(2, PubAck("S"))
	none := r.proxy.SwallowNext(1, PubAck("T"))
	for i := range 4 {
		wait := testTime
		if i < 2 {
			wait = notComing
		}
		err := r.publish(fmt.Sprint("s.", i), wait)
		if lost := errors.Is(err, context.DeadlineExceeded); lost != (i < 2) || !lost && err != nil {
			t.Errorf("publish %d: %v", i, err)
		}
	}
	r.await(two, "the loss of two")
	select {
	case <-none:
		t.Error("the PubAck of another stream was lost")
	default:
	}
	if got := r.stored(); got != 4 {
		t.Errorf("%d messages stored, want 4", got)
	}
	r.await(r.proxy.SwallowNext(0, nil), "the loss of none")
	// A refusal is no PubAck.
	lost := r.proxy.SwallowNext(1, PubAck("S"))
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	if _, err := r.js.Publish(ctx, "s.a", nil, jetstream.WithExpectStream("T")); err == nil || ctx.Err() != nil {
		t.Errorf("publish to a wrong stream: %v", err)
	}
	select {
	case <-lost:
		t.Error("a refusal was taken for a PubAck")
	default:
	}
	r.proxy.Heal()
	if err := r.publish("s.c", testTime); err != nil {
		t.Errorf("publish after it: %v", err)
	}
}

func TestProxyAckConfirmation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.publish("s.a", testTime); err != nil {
		t.Fatal(err)
	}
	c, err := r.js.CreateConsumer(r.ctx(), "S", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	lost := r.proxy.SwallowNext(1, AckConfirmation)
	short, cancel := context.WithTimeout(context.Background(), notComing)
	defer cancel()
	if err := m.DoubleAck(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ack: %v", err)
	}
	r.await(lost, "the loss of the confirmation")
	if info, err := c.Info(r.ctx()); err != nil || info.NumAckPending != 0 {
		t.Errorf("%+v, %v: want the message acknowledged", info, err)
	}
	r.proxy.Heal()
}

func TestProxyDelay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const delay = 50 * time.Millisecond
	r.proxy.Delay(delay)
	begun := time.Now()
	for range 3 {
		if err := r.nc.FlushTimeout(testTime); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took < 3*delay {
		t.Errorf("three round trips took %s", took)
	}
	// It is latency: what is under way at a time is late once.
	sub, err := r.nc.SubscribeSync("many")
	if err != nil {
		t.Fatal(err)
	}
	const many = 100
	begun = time.Now()
	for range many {
		if err := r.nc.Publish("many", nil); err != nil {
			t.Fatal(err)
		}
	}
	for range many {
		if _, err := sub.NextMsg(testTime); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took < delay || took > many*delay/2 {
		t.Errorf("%d messages at once took %s", many, took)
	}
	r.proxy.Delay(time.Hour)
	r.proxy.Close() // does not wait for what is late
}

func TestProxyTarget(t *testing.T) {
	t.Parallel()
	p, err := StartProxy("nats://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := nats.Connect(p.URL()); err == nil {
		t.Error("connected to nothing")
	}
	p.Close() // twice is once
}

// TestCluster stops a leader and starts it again on its store and its port.
func TestCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := StartCluster(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Stop() })
	proxy, err := StartProxy(c.Servers[1].URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	behind, err := nats.Connect(proxy.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(behind.Close)
	if others := behind.DiscoveredServers(); len(others) != 0 {
		t.Errorf("a client behind the proxy knows %v", others)
	}
	nc, err := nats.Connect(c.URL(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	if err := UntilAnswered(ctx, func(ctx context.Context) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := UntilAnswered(ctx, func(ctx context.Context) error {
		_, err := js.CreateConsumer(ctx, "S", jetstream.ConsumerConfig{Durable: "c", Replicas: 3})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	leader, err := c.StreamLeader("S")
	if err != nil {
		t.Fatal(err)
	}
	url := leader.URL()
	leader.Stop()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	next, err := c.StreamLeader("S")
	if err != nil || next == leader {
		t.Fatalf("the leader after the leader: %v", err)
	}
	if of, err := c.ConsumerLeader("S", "c"); err != nil || of == leader {
		t.Fatalf("the consumer's leader after the leader: %v", err)
	}
	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if leader.URL() != url {
		t.Errorf("started again at %s instead of %s", leader.URL(), url)
	}
	// Started again as a whole it still has its streams.
	c.Stop()
	nc.Close()
	if c, err = StartCluster(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ConsumerLeader("S", "c"); err != nil {
		t.Error(err)
	}
}

// TestProcess kills a server and starts it again on its store.
func TestProcess(t *testing.T) {
	t.Parallel()
	p, err := StartProcess(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	nc, err := nats.Connect(p.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err == nil {
		t.Error("started twice")
	}
	p.Kill()
	p.Kill() // twice is once
	if _, err := nats.Connect(p.URL()); err == nil {
		t.Error("connected to what was killed")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	again, err := nats.Connect(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if js, err = jetstream.New(again); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, "S")
	if err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("the stream after the kill: %v", err)
	}
}

// TestProcessOptions: the server that is asked says what it was started with.
func TestProcessOptions(t *testing.T) {
	t.Parallel()
	p, err := StartProcessWith(t.TempDir(), ProcessOptions{SyncAlways: true, Monitor: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	resp, err := http.Get(p.Monitor() + "/varz")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	var got struct {
		JetStream struct {
			Config struct {
				SyncAlways bool `json:"sync_always"`
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || !got.JetStream.Config.SyncAlways {
		t.Errorf("%+v, %v", got, err)
	}
	if err := syscall.Kill(p.Pid(), 0); err != nil {
		t.Errorf("the process %d: %v", p.Pid(), err)
	}
}

// TestProcesses kills the leader of a stream.
func TestProcesses(t *testing.T) {
	t.Parallel()
	c, err := StartProcesses(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Kill)
	nc, err := nats.Connect(c.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*testTime)
	defer cancel()
	var s jetstream.Stream
	for s == nil { // servers may still be on their way into the cluster
		if s, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3}); err != nil {
			s = nil
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	leader := c.Named(s.CachedInfo().Cluster.Leader)
	if leader == nil || c.Named("nobody") != nil {
		t.Fatalf("the leader is %+v", s.CachedInfo().Cluster)
	}
	leader.Kill()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.Publish(try, "s", []byte("x"))
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
}
