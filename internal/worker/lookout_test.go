package worker

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// restricted is a rig whose worker may do all but what is denied.
func restricted(t *testing.T, publish, subscribe []string) *rig {
	t.Helper()
	r := newRig(t, graphsim.Config{}, nil)
	s, err := natstest.StartWith(server.Options{ServerName: "test", StoreDir: t.TempDir(), NoAuthUser: "admin", Users: []*server.User{
		{Username: "admin"},
		{Username: "worker", Password: "secret", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{">"}, Deny: publish},
			Subscribe: &server.SubjectPermission{Allow: []string{">"}, Deny: subscribe},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	if r.nc, err = nats.Connect(s.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err) // so that the worker begins at rest
	}
	r.nats, r.cfg.NATS.URL, r.cfg.NATS.User, r.cfg.NATS.Password = s, s.URL(), "worker", "secret"
	return r
}

// first publishes the first request after a while, just after a look at the queue, and
// returns how long it took until it was accepted.
func (r *rig) first(after time.Duration) time.Duration {
	r.t.Helper()
	<-time.After(after)
	begun := time.Now()
	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	r.awaitState("INC1", record.Accepted)
	return time.Since(begun)
}

// lookers are a fleet of a restricted worker that serves nobody, but looks.
func (r *rig) lookers() (*fleet, *nats.Conn) {
	r.t.Helper()
	nc, err := nats.Connect(r.cfg.NATS.URL, nats.UserInfo(r.cfg.NATS.User, r.cfg.NATS.Password))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		r.t.Fatal(err)
	}
	f := newFleet(r.cfg, js, metrics.New(r.cfg.Build))
	f.listed = r.cfg.Tenants
	return f, nc
}

// TestDeafWorkerDoesNotRest denies the wake-ups, and later refuses something else, too.
func TestDeafWorkerDoesNotRest(t *testing.T) {
	t.Parallel()
	r := restricted(t, []string{"passcode.reset.replicas.>"}, []string{"passcode.reset.wake.>"})
	f, nc := r.lookers()
	for range 3 {
		if f.lookout.look(t.Context(), testTime, 0); !f.lookout.listed.Load() || f.lookout.rests() {
			t.Fatalf("listed: %t; queues rest though no wake-up may be heard", f.lookout.listed.Load())
		}
		if err := errors.Join(nc.Publish(r.names.Replicas(nil), nil), nc.Flush()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLooksThatFail: a look that fails, as it does where the server is slow, wakes no queue
// and gives no replica the tenants of another, until several in a row do.
func TestLooksThatFail(t *testing.T) {
	t.Parallel()
	r := restricted(t, nil, nil)
	f, _ := r.lookers()
	for round := range 2 {
		if f.lookout.look(t.Context(), testTime, 0); !f.lookout.rests() {
			t.Fatalf("round %d: queues do not rest though all is seen", round)
		}
		for failed := range mostFailed {
			f.lookout.look(t.Context(), time.Nanosecond, 0)
			if got, want := f.lookout.rests(), failed+1 < mostFailed; got != want {
				t.Errorf("round %d: after %d looks that failed queues rest: %t", round, failed+1, got)
			}
		}
	}
}

// TestWorkerWithOldRights has only the rights that a worker needed that listed nothing,
// shared nothing and was woken by nobody.
func TestWorkerWithOldRights(t *testing.T) {
	t.Parallel()
	r := restricted(t, []string{"passcode.reset.replicas.>", "$JS.API.CONSUMER.LIST.>"}, []string{"passcode.reset.wake.>", "passcode.reset.replicas.>"})
	begun := time.Now()
	r.start()
	t.Logf("ready after %s", time.Since(begun))
	if took := r.first(2*pollInterval + pollInterval/4); took > pollInterval-200*time.Millisecond {
		t.Errorf("a request was accepted after %s", took)
	}
	begun = time.Now()
	if _, err := r.js.PauseConsumer(t.Context(), r.names.Stream, r.names.Consumer(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.await("the pause to be shown", func() bool { return r.metric(`hold{cause="paused",tenant="default"}`) == 1 })
	t.Logf("the pause is shown after %s", time.Since(begun))
}

// TestWakeUpsDoNotArrive loses all wake-ups, as where the stream is another account's: soon
// no queue rests any more.
func TestWakeUpsDoNotArrive(t *testing.T) {
	t.Parallel()
	const tenants = mostMissed + 1
	r := newRig(t, graphsim.Config{}, nil)
	p, err := natstest.StartProxy(r.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.SwallowNext(1<<30, func(m natstest.Message) bool { return strings.HasPrefix(m.Subject, "passcode.reset.wake.") })
	r.cfg.NATS.URL = p.URL()
	one := r.cfg.Tenants[0]
	r.cfg.Tenants = nil
	names := r.names
	for i := range tenants {
		one.Name, names.Tenant = fmt.Sprint("t", i), fmt.Sprint("t", i)
		r.cfg.Tenants = append(r.cfg.Tenants, one)
		if _, err := topology.Setup(t.Context(), r.js, names, topology.Layout{}); err != nil {
			t.Fatal(err)
		}
	}
	waits := func(tenant string) int {
		names.Tenant = tenant
		c, err := r.js.Consumer(t.Context(), names.Stream, names.Consumer())
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo().NumWaiting
	}
	r.start()
	last := fmt.Sprint("t", tenants-1)
	for i := range mostMissed {
		if waits(last) != 0 {
			t.Fatalf("a queue with nothing in it does not rest after %d lost wake-ups", i)
		}
		names.Tenant = fmt.Sprint("t", i)
		if _, err := r.js.Publish(t.Context(), names.Filter(), []byte(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)))); err != nil {
			t.Fatal(err)
		}
		r.awaitEmpty()
	}
	r.await("a queue to rest no more", func() bool { return waits(last) > 0 })
	if !strings.Contains(r.log.String(), "the request stream sends wake-ups") {
		t.Error("nobody is told")
	}
}
