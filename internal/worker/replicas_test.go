package worker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
	"passcode-worker/internal/tenant"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// TestClockOff has a Graph whose clock is five minutes off, either way: what
// was executed is found, and what was executed before is not taken for it.
func TestClockOff(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{ClockOffset: ahead}, nil)
			again := graphsim.GoodDevice(1)
			var posts atomic.Int64
			r.front(func(w http.ResponseWriter, q *http.Request) bool {
				if q.Method != http.MethodPost || !strings.Contains(q.URL.Path, again) || posts.Add(1) != 2 {
					return false
				}
				w.WriteHeader(http.StatusInternalServerError) // not executed
				return true
			})
			r.start()
			executed := graphsim.FaultDevice(500, 1, 1, 1)
			r.publish(reset("EXECUTED", executed), nil)
			r.awaitEmpty()
			r.accepted("EXECUTED", executed, 1, true)
			// A reset of another request, longer ago than the grace.
			r.publish(reset("FIRST", again), nil)
			r.awaitEmpty()
			<-time.After(clockGrace + time.Second)
			r.publish(reset("SECOND", again), nil)
			r.awaitEmpty()
			if rec := r.record("SECOND"); rec.State != record.Accepted || rec.Verified || rec.Attempts != 2 || r.sim.Resets(again) != 2 {
				t.Errorf("%d resets, record %+v", r.sim.Resets(again), rec)
			}
		})
	}
}

// everyoneWorks makes the consumer one that pins nobody, so that all workers
// work at the same time.
func everyoneWorks(r *rig) {
	r.t.Helper()
	if _, err := topology.Setup(r.t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		r.t.Fatal(err)
	}
	if err := r.js.DeleteConsumer(r.t.Context(), r.names.Stream, r.names.Consumer()); err != nil {
		r.t.Fatal(err)
	}
	cfg := topology.Layout{}.Worker(r.names)
	cfg.PriorityPolicy, cfg.PriorityGroups, cfg.PinnedTTL = jetstream.PriorityPolicyNone, nil, 0
	if _, err := r.js.CreateConsumer(r.t.Context(), r.names.Stream, cfg); err != nil {
		r.t.Fatal(err)
	}
}

// TestDuplicatesOnTwoWorkers publishes the same ids 20 times at once while two
// workers work.
func TestDuplicatesOnTwoWorkers(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 50 * time.Millisecond}, nil)
	everyoneWorks(r)
	r.start()
	r.another(r.cfg)
	const ids, copies = 8, 20
	var all sync.WaitGroup
	for i := range ids {
		device := graphsim.GoodDevice(i)
		if i%2 == 1 {
			device = graphsim.FaultDevice(500, 1, 1, i) // executed
		}
		for range copies {
			all.Go(func() { r.publish(reset(fmt.Sprint("INC", i), device), nil) })
		}
	}
	all.Wait()
	r.awaitEmpty()
	for device, n := range r.sim.Ledger() {
		if n != 1 {
			t.Errorf("%s was reset %d times", device, n)
		}
	}
	if n := len(r.sim.Ledger()); n != ids || len(r.letters()) != 0 {
		t.Errorf("%d devices were reset, %d letters", n, len(r.letters()))
	}
}

// TestSameIDAgain publishes an id again after each of its ends, and while it is
// in progress.
func TestSameIDAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Roles: []string{graphsim.RoleReset}}, nil)
	r.start()
	for _, c := range []struct {
		id, device    string
		state         record.State
		reason        verdict.Reason
		posts, resets int // after the second message
	}{
		{"accepted", graphsim.GoodDevice(1), record.Accepted, "", 1, 1},
		{"dead", graphsim.FaultDevice(409, 0, 0, 2), record.Dead, verdict.ReasonConflict, 2, 0},
		{"unknown", graphsim.FaultDevice(500, 1, 1, 3), record.Dead, verdict.ReasonOutcomeUnknown, 1, 1},
	} {
		for range 2 {
			r.publish(reset(c.id, c.device), nil)
			r.awaitEmpty()
		}
		rec := r.record(c.id)
		if posts, resets := r.calls(http.MethodPost, c.device), r.sim.Resets(c.device); rec.State != c.state ||
			rec.Reason != string(c.reason) || posts != c.posts || resets != c.resets {
			t.Errorf("%s: %d calls, %d resets, record %+v", c.id, posts, resets, rec)
		}
	}
	slow := graphsim.FaultDevice(605, 1, 0, 4) // answered after two seconds
	r.cfg.Policy.RequestTimeout = 10 * time.Second
	r.publish(reset("progress", slow), nil)
	r.awaitState("progress", record.Attempting)
	r.publish(reset("progress", slow), nil)
	r.awaitEmpty()
	if posts, resets := r.calls(http.MethodPost, slow), r.sim.Resets(slow); posts != 1 || resets != 1 {
		t.Errorf("in progress: %d calls, %d resets", posts, resets)
	}
}

// TestTwoIDsForOneDevice are two requests, and so two resets.
func TestTwoIDsForOneDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 50 * time.Millisecond}, nil)
	r.start()
	device := graphsim.GoodDevice(1)
	for _, id := range []string{"ONE", "TWO"} {
		r.publish(reset(id, device), nil)
	}
	r.awaitEmpty()
	for _, id := range []string{"ONE", "TWO"} {
		if rec := r.record(id); rec.State != record.Accepted || rec.Attempts != 1 {
			t.Errorf("%s: %+v", id, rec)
		}
	}
	if n := r.sim.Resets(device); n != 2 {
		t.Errorf("%d resets", n)
	}
}

// TestGivenBackTenThousandTimes gives a request back by holds and drains,
// without waiting for the times that it is given back for.
func TestGivenBackTenThousandTimes(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	away := &graph.Error{Kind: graph.TokenUnavailable, RetryAfter: time.Hour, Err: errors.New("away")}
	held := bare(t, r, func(c *tenant.Config) {
		c.Tokens = graph.NewTokens(func(context.Context, string, bool) (string, time.Time, time.Time, error) {
			return "", time.Time{}, time.Time{}, away
		}, nil)
	})
	device := graphsim.GoodDevice(1)
	r.publish(reset("INC1", device), nil)
	m, _ := next(t, r)
	draining, drain := context.WithCancel(t.Context())
	drain()
	for i := range 10_000 {
		intake := t.Context()
		if i%2 == 1 {
			intake = draining
		}
		if d := held.Handle(intake, t.Context(), m); d == consume.Ack() {
			t.Fatalf("delivery %d: %+v", m.Delivered, d)
		}
		m.Delivered++
	}
	if calls := len(r.sim.Calls()); calls != 0 {
		t.Errorf("%d calls", calls)
	}
	if d := bare(t, r).Handle(t.Context(), t.Context(), m); d != consume.Ack() {
		t.Errorf("disposition %+v", d)
	}
	if rec := r.record("INC1"); rec.State != record.Accepted || rec.Attempts != 1 || len(r.letters()) != 0 {
		t.Errorf("record: %+v", rec)
	}
}

// TestDedupeForgotten: a server that was started again takes a second copy of a
// message whose id it knew before. The request's id still is one request.
func TestDedupeForgotten(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	device := graphsim.GoodDevice(1)
	body, header := fmt.Sprintf(`{"managedDeviceId":%q}`, device), nats.Header{jetstream.MsgIDHeader: {"INC1"}}
	r.publish(body, header)
	r.awaitEmpty()
	r.nats.Stop()
	// What is published before that is noticed is lost.
	r.await("the end of the connection", func() bool { return !r.nc.IsConnected() })
	if err := r.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	r.await("the connection", r.nc.IsConnected)
	if second := r.publish(body, header); second != 2 {
		t.Fatalf("the copy has the sequence %d: the server has not forgotten", second)
	}
	r.awaitEmpty()
	if rec := r.record("INC1"); r.sim.Resets(device) != 1 || rec.State != record.Accepted || rec.Sequence != 1 {
		t.Errorf("%d resets, record %+v", r.sim.Resets(device), rec)
	}
}

// TestUnpinLost loses the word with which a worker that stops hands over, or the
// answer to it. Then the other works a little later.
func TestUnpinLost(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, nil)
	tests := map[string]func(*testing.T){}
	for n, f := range []fault{before, after} {
		tests[string(f)] = func(t *testing.T) {
			r := base.branch(t, n)
			direct, w := r.cfg, newWire(r)
			stop := r.start()
			first, second := graphsim.GoodDevice(0xa000+n), graphsim.GoodDevice(0xa100+n)
			r.publish(reset("FIRST", first), nil)
			r.settled()
			r.another(direct)
			hit := w.set(f, func(m said) bool { return strings.HasPrefix(m.subject, "$JS.API.CONSUMER.UNPIN.") })
			stop()
			<-hit
			began := time.Now()
			r.publish(reset("SECOND", second), nil)
			r.settled()
			r.accepted("SECOND", second, 1, false)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("the other worked only after %s", took)
			}
		}
	}
	together(t, tests)
}

// TestStopWithHandOnLost stops a worker whose last word to the next one gets no
// answer: it ends in time all the same.
func TestStopWithHandOnLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.DrainTimeout = 8 * time.Second })
	w := newWire(r)
	state := func(m said) bool { return strings.HasPrefix(m.subject, "$KV."+r.names.StateBucket()+".") }
	lost := w.set(before, state)
	stop := r.start()
	r.publish(reset("INC1", graphsim.FaultDevice(429, 1, 4, 1)), nil) // a long pause
	<-lost
	again := w.set(before, state)
	began := time.Now()
	stop()
	if took := time.Since(began); took > r.cfg.DrainTimeout {
		t.Errorf("the stop took %s", took)
	}
	select {
	case <-again:
	default:
		// It may have said it again before that was to be lost.
		if kv, err := r.js.KeyValue(t.Context(), r.names.StateBucket()); err != nil {
			t.Error(err)
		} else if _, err := kv.Get(t.Context(), "default"); err != nil {
			t.Errorf("it has not handed on the pause, nor tried to again: %v", err)
		}
	}
}

// TestLeadersStop stops, under load, the server that leads the request stream,
// the consumer, the records and the dead letters, one after the other. Killed
// without a word they are by the sandbox's chaos.
func TestLeadersStop(t *testing.T) {
	t.Parallel()
	cluster, err := natstest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Stop)
	r := newRig(t, graphsim.Config{Latency: 20 * time.Millisecond}, func(c *Config) {
		c.NATS.URL, c.Concurrency = cluster.URL(), 4
	})
	r.nats.Stop()
	if r.nc, err = nats.Connect(cluster.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	r.start()
	wanted := map[string]int{} // resets by device
	publish := func(n int) {
		for range n {
			i := len(wanted)
			device, resets := graphsim.GoodDevice(i), 1
			if i%5 == 4 {
				device, resets = graphsim.FaultDevice(409, 0, 0, i), 0
			}
			wanted[device] = resets
			// The id makes it one message where the answer is lost.
			id := fmt.Sprint("INC", i)
			r.await("the PubAck", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				_, err := r.js.Publish(ctx, r.names.Filter(), []byte(reset(id, device)), jetstream.WithMsgID(id))
				return err == nil
			})
		}
	}
	for what, leader := range map[string]func() (*natstest.Server, error){
		"requests": func() (*natstest.Server, error) { return cluster.StreamLeader(r.names.Stream) },
		"consumer": func() (*natstest.Server, error) {
			return cluster.ConsumerLeader(r.names.Stream, r.names.Consumer())
		},
		"records": func() (*natstest.Server, error) { return cluster.StreamLeader("KV_" + r.names.Bucket) },
		"letters": func() (*natstest.Server, error) { return cluster.StreamLeader(r.names.DeadStream) },
	} {
		publish(30)
		server, err := leader()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		server.Stop()
		publish(30)
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	r.awaitEmpty()
	ledger := r.sim.Ledger()
	for device, n := range wanted {
		if ledger[device] != n {
			t.Errorf("%s was reset %d times instead of %d", device, ledger[device], n)
		}
	}
	if n := len(r.letters()); n != len(wanted)/5 {
		t.Errorf("%d letters of %d", n, len(wanted)/5)
	}
}
