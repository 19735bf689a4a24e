package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/tenant"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// orphan publishes a request and leaves its record as a worker leaves it that
// dies between writing the record and its end.
func orphan(r *rig, id, device string, attempted time.Time) {
	r.t.Helper()
	if _, err := topology.Setup(r.t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		r.t.Fatal(err)
	}
	seq := r.publish(reset(id, device), nil)
	s, err := r.js.Stream(r.t.Context(), r.names.Stream)
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := s.GetMsg(r.t.Context(), seq)
	if err != nil {
		r.t.Fatal(err)
	}
	value, err := json.Marshal(record.Record{ID: id, Tenant: "default", ManagedDeviceID: device, State: record.Attempting, Attempts: 1,
		ReceivedAt: m.Time, AttemptedAt: attempted.UTC(), Stream: r.names.Stream, Sequence: seq, Worker: "gone", ClientRequestID: "c"})
	if err != nil {
		r.t.Fatal(err)
	}
	kv, err := r.js.KeyValue(r.t.Context(), r.names.Bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := kv.Create(r.t.Context(), "default."+id, value); err != nil {
		r.t.Fatal(err)
	}
}

// TestWorkerGoneAfterCall: the record says that a call was made, and nobody is
// there to say what became of it. It was executed; it must not be repeated.
func TestWorkerGoneAfterCall(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	dev := graphsim.GoodDevice(1)
	attempted := time.Now()
	call(t, r, dev)
	orphan(r, "INC1", dev, attempted)
	r.start()
	rec := r.awaitState("INC1", record.Accepted)
	r.awaitEmpty()
	if !rec.Verified || rec.Attempts != 1 || r.sim.Resets(dev) != 1 {
		t.Errorf("record %+v, resets %d", rec, r.sim.Resets(dev))
	}
	p := r.cfg.Policy
	for _, c := range r.sim.Calls() {
		if c.Method == http.MethodGet && c.Time.Before(attempted.Add(p.RequestTimeout+p.VerifyAfter)) {
			t.Errorf("the outcome was read at %s, while the call could still have been sent", c.Time)
		}
	}
}

// TestWorkerGoneBeforeCall: the same record, but the call was never sent.
func TestWorkerGoneBeforeCall(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	dev := graphsim.GoodDevice(1)
	orphan(r, "INC1", dev, time.Now())
	r.start()
	rec := r.awaitState("INC1", record.Accepted)
	if rec.Verified || rec.Attempts != 2 || r.sim.Resets(dev) != 1 {
		t.Errorf("record %+v, resets %d", rec, r.sim.Resets(dev))
	}
}

// call resets a device as the worker that is gone did.
func call(t testing.TB, r *rig, device string) {
	t.Helper()
	acquire, err := r.cfg.Tenants[0].Credential.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	token, err := graph.NewTokens(acquire, nil).Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := graph.New(graph.Config{Endpoint: r.sim.URL(), UserAgent: "gone", RootCAs: r.sim.CAs()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Reset(t.Context(), graph.Target{Device: device},
		graph.Call{Token: token, ClientRequestID: "c", Deadline: time.Now().Add(5 * time.Second)}); err != nil {
		t.Fatal(err)
	}
}

// bare is a tenant that is driven by hand.
func bare(t *testing.T, r *rig, change ...func(*tenant.Config)) *tenant.Tenant {
	t.Helper()
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	store, err := record.Open(t.Context(), r.js, r.names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	acquire, err := r.cfg.Tenants[0].Credential.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	client, err := graph.New(graph.Config{Endpoint: r.sim.URL(), UserAgent: "test", RootCAs: r.sim.CAs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	cfg := tenant.Config{Name: "default", Host: "test", Policy: r.cfg.Policy, Log: r.cfg.Log,
		Metrics: metrics.New(metrics.Build{}).Tenant("default"), Letters: deadletter.New(r.js, r.names),
		Graph: client, Tokens: graph.NewTokens(acquire, nil),
		Exists: func(ctx context.Context, stream string, seq uint64, at time.Time) (bool, error) {
			return topology.Exists(ctx, r.js, stream, seq, at)
		},
		Stores: func() tenant.Stores { return tenant.Stores{Records: store} }}
	for _, c := range change {
		c(&cfg)
	}
	return tenant.New(cfg)
}

// next takes the next message from the stream as a delivery.
func next(t *testing.T, r *rig) (consume.Message, jetstream.Msg) {
	t.Helper()
	s, err := r.js.Stream(t.Context(), r.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Consumer(t.Context(), r.names.Consumer())
	if err != nil {
		t.Fatal(err)
	}
	// This pull would else wait for the pin of the one before it to pass.
	if err := s.UnpinConsumer(t.Context(), r.names.Consumer(), "worker"); err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next(jetstream.FetchMaxWait(10*time.Second), jetstream.FetchPriorityGroup("worker"))
	if err != nil {
		t.Fatal(err)
	}
	// The next one would else have to wait until the server misses this one.
	stream, err := r.js.Stream(t.Context(), r.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.UnpinConsumer(t.Context(), r.names.Consumer(), "worker"); err != nil {
		t.Fatal(err)
	}
	meta, err := msg.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	return consume.Message{Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data(), Stream: meta.Stream,
		Sequence: meta.Sequence.Stream, Delivered: meta.NumDelivered, Published: meta.Timestamp}, msg
}

// TestPanic: a request whose handling panics is given back, counted, and in
// the end a dead letter; the process stays up.
func TestPanic(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	ten := bare(t, r, func(c *tenant.Config) { c.Graph = nil }) // every call panics
	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	m, _ := next(t, r)
	for i := 1; ; i++ {
		d := ten.Handle(t.Context(), t.Context(), m)
		if d == consume.Ack() {
			break
		}
		if i > 30 {
			t.Fatal("it never ends")
		}
		m.Delivered++
		// The wait is not slept: what counts is that it ends.
		rec := r.record("INC1")
		<-time.After(time.Until(rec.NextAt))
	}
	rec := r.record("INC1")
	if rec.State != record.Dead || rec.Reason != string(verdict.ReasonUndeliverable) || rec.Panics != r.cfg.Policy.MaxAttempts {
		t.Errorf("record: %+v", rec)
	}
	if len(r.letters()) != 1 {
		t.Error("no dead letter")
	}
	if !strings.Contains(r.log.String(), "failure_test.go") && !strings.Contains(r.log.String(), "delivery.go") {
		t.Error("no stack in the log")
	}
}

// TestDeliveriesCondemnNobody: ten thousand deliveries are no fault of the
// request's.
func TestDeliveriesCondemnNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	ten := bare(t, r)
	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	m, _ := next(t, r)
	m.Delivered = 10_000
	if d := ten.Handle(t.Context(), t.Context(), m); d != consume.Ack() {
		t.Errorf("disposition %+v", d)
	}
	if rec := r.record("INC1"); rec.State != record.Accepted {
		t.Errorf("record: %+v", rec)
	}
}

// TestSameMessageAgain: the ack of a finished message was lost, so it is
// delivered again. It is acknowledged, nothing else.
func TestSameMessageAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	ten := bare(t, r)
	good, bad := graphsim.GoodDevice(1), graphsim.FaultDevice(404, 0, 0, 1)
	for id, dev := range map[string]string{"good": good, "bad": bad} {
		r.publish(reset(id, dev), nil)
		m, msg := next(t, r)
		for range 3 {
			if d := ten.Handle(t.Context(), t.Context(), m); d != consume.Ack() {
				t.Errorf("%s: disposition %+v", id, d)
			}
			m.Delivered++
		}
		if err := msg.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	if r.sim.Resets(good) != 1 || r.sim.Status().Posts != 2 || len(r.letters()) != 1 {
		t.Errorf("resets %d, calls %d, letters %d", r.sim.Resets(good), r.sim.Status().Posts, len(r.letters()))
	}
}

// TestTwoWorkers: the ack wait of a message runs out while its worker is at
// work, and another worker gets it. There is one reset.
func TestTwoWorkers(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 3 * time.Second}, func(c *Config) { c.Policy.RequestTimeout = 30 * time.Second })
	one, two := bare(t, r), bare(t, r)
	dev := graphsim.GoodDevice(1)
	r.publish(reset("INC1", dev), nil)
	m, _ := next(t, r)
	first := make(chan consume.Disposition, 1)
	go func() { first <- one.Handle(context.Background(), context.Background(), m) }()
	r.awaitState("INC1", record.Attempting)
	m.Delivered = 2
	d := two.Handle(t.Context(), t.Context(), m)
	if d == consume.Ack() {
		t.Error("the second worker acknowledged a request that is under way")
	}
	if rec := r.record("INC1"); rec.State != record.Verifying {
		t.Errorf("record: %+v", rec)
	}
	if d := <-first; d != consume.Ack() {
		t.Errorf("the first worker: %+v", d)
	}
	if rec := r.record("INC1"); rec.State != record.Accepted || rec.Verified || r.sim.Resets(dev) != 1 {
		t.Errorf("record: %+v, resets %d", rec, r.sim.Resets(dev))
	}
}

// TestDeadLetterStreamAway: while the dead-letter stream cannot take it, the
// request stays in the queue.
func TestDeadLetterStreamAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	if err := r.js.DeleteStream(t.Context(), r.names.DeadStream); err != nil {
		t.Fatal(err)
	}
	bad := graphsim.FaultDevice(404, 0, 0, 1)
	r.publish(reset("INC1", bad), nil)
	r.await("the failure in the log", func() bool {
		return strings.Contains(r.log.String(), "the dead letter could not be published")
	})
	if r.waiting() != 1 {
		t.Error("the request is gone")
	}
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	r.awaitState("INC1", record.Dead)
	r.awaitEmpty()
	if len(r.letters()) != 1 {
		t.Errorf("%d dead letters", len(r.letters()))
	}
}

// TestConsumerDeleted: it is reported, and work goes on when it is back.
func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	for _, setup := range []bool{true, false} {
		t.Run(fmt.Sprint("setup=", setup), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{}, func(c *Config) { c.Setup = setup })
			if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
				t.Fatal(err)
			}
			r.start()
			if err := r.js.DeleteConsumer(t.Context(), r.names.Stream, r.names.Consumer()); err != nil {
				t.Fatal(err)
			}
			if !setup {
				r.await("/readyz to tell", func() bool {
					code, body := r.get("/readyz")
					return code == http.StatusServiceUnavailable && strings.Contains(body, "consumer")
				})
				if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
					t.Fatal(err)
				}
			}
			r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
			r.awaitState("INC1", record.Accepted)
			r.await("readiness", func() bool { code, _ := r.get("/readyz"); return code == http.StatusOK })
		})
	}
}

// TestServerRestart: the NATS server goes away under load and comes back.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 30 * time.Millisecond}, func(c *Config) { c.Concurrency = 4 })
	r.start()
	const n = 120
	for i := range n {
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
	}
	r.await("some resets", func() bool { return len(r.sim.Ledger()) > 10 })
	r.nats.Stop()
	r.await("/readyz to tell", func() bool { code, _ := r.get("/readyz"); return code == http.StatusServiceUnavailable })
	if code, _ := r.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez %d", code)
	}
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	r.await("readiness", func() bool { code, _ := r.get("/readyz"); return code == http.StatusOK })
	r.awaitEmpty()
	for i := range n {
		if got := r.sim.Resets(graphsim.GoodDevice(i)); got != 1 {
			t.Errorf("r%d was reset %d times: %+v", i, got, r.record(fmt.Sprint("r", i)))
		}
	}
}

// TestDrain: a worker that is told to stop finishes what it has begun, gives
// the rest back at once, and another goes on.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 300 * time.Millisecond}, func(c *Config) {
		c.Concurrency = 8
		c.Tenants[0].Rate = pace.Rate{N: 4, W: time.Second} // some wait for their turn when the stop comes
	})
	stop := r.start()
	const n = 24
	for i := range n {
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
	}
	r.await("calls", func() bool { return len(r.sim.Calls()) > 3 })
	began := time.Now()
	stop()
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("the stop took %s", took)
	}
	r.cfg.Tenants[0].Rate = pace.Rate{}
	r.start()
	r.awaitEmpty()
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("what was given back came back only after %s", took)
	}
	for i := range n {
		if got := r.sim.Resets(graphsim.GoodDevice(i)); got != 1 {
			t.Errorf("r%d was reset %d times", i, got)
		}
	}
}

// TestHungCallAtStop: a call that hangs is cut short when the drain time is
// over, and the next worker finds out what became of it.
func TestHungCallAtStop(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) {
		c.DrainTimeout = 5 * time.Second
		c.Policy.RequestTimeout = 12 * time.Second
	})
	stop := r.start()
	dev := graphsim.FaultDevice(603, 1, 0, 1) // executed, never answered
	r.publish(reset("INC1", dev), nil)
	r.await("the call", func() bool { return r.sim.Resets(dev) == 1 })
	began := time.Now()
	stop()
	if took := time.Since(began); took > r.cfg.DrainTimeout {
		t.Errorf("the stop took %s", took)
	}
	r.start()
	if rec := r.awaitState("INC1", record.Accepted); !rec.Verified || r.sim.Resets(dev) != 1 {
		t.Errorf("record %+v, resets %d", rec, r.sim.Resets(dev))
	}
}

// TestOneLinePerVerdict keeps the log at one line per verdict.
func TestOneLinePerVerdict(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	r.awaitState("INC1", record.Accepted)
	r.awaitEmpty()
	n := 0
	for line := range strings.Lines(r.log.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if entry["request_id"] != "INC1" {
			continue
		}
		n++
		for _, field := range []string{"device", "tenant", "attempt", "status", "reason", "graph_request_id", "client_request_id", "duration"} {
			if _, ok := entry[field]; !ok {
				t.Errorf("no %s in %s", field, line)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d lines", n)
	}
}

// TestOwnerRemoved: the message of a request in progress is taken off the
// stream. A later message with the same id must not wait for it for ever, and
// must not repeat its call blindly.
func TestOwnerRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	dev := graphsim.GoodDevice(1)
	attempted := time.Now()
	call(t, r, dev)
	orphan(r, "INC1", dev, attempted)
	s, err := r.js.Stream(t.Context(), r.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.publish(reset("INC1", dev), nil)
	if rec := r.awaitState("INC1", record.Accepted); !rec.Verified || rec.Sequence != 2 || r.sim.Resets(dev) != 1 {
		t.Errorf("record %+v, resets %d", rec, r.sim.Resets(dev))
	}
	r.awaitEmpty()
}
