package worker

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

const refusedGauge = `hold{cause="refused",tenant="default"}`

// lists is how often the list of devices was asked for.
func (r *rig) lists() (n int) {
	for _, c := range r.sim.Calls() {
		if c.Method == http.MethodGet && c.Path == "/v1.0/deviceManagement/managedDevices" {
			n++
		}
	}
	return n
}

// TestRefusedEverything: Graph refuses every call of a tenant, which has nothing to
// do with any device, whatever was before. Nothing more than a handful is dead, and
// all else is accepted once that is over.
func TestRefusedEverything(t *testing.T) {
	t.Parallel()
	const requests = 300
	for _, row := range []struct {
		name   string
		outage graphsim.Outage
		words  string
		before func(r *rig) (published int) // of those with a number
		dead   int                          // at most
	}{
		{"no licence", graphsim.OutageNoLicence, "Request not applicable to target tenant.", nil, 0},
		{"wrong path", graphsim.OutageWrongPath, "Invalid version: oops", nil, 0},
		{"a licence that lapses", graphsim.OutageNoLicence, "Request not applicable to target tenant.", func(r *rig) int {
			r.publish(reset("before", graphsim.GoodDevice(0)), nil)
			r.awaitState("before", record.Accepted)
			return 0
		}, 19},
		{"after an outage", graphsim.OutageNoLicence, "Request not applicable to target tenant.", func(r *rig) int {
			const published = 100
			r.publish(reset("before", graphsim.GoodDevice(0)), nil)
			r.awaitState("before", record.Accepted)
			r.sim.SetOutage(graphsim.Outage503)
			for i := 1; i <= published; i++ {
				r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
			}
			r.await("the outage to be seen", func() bool { return r.metric(`hold{cause="graph_unavailable",tenant="default"}`) == 1 })
			return published
		}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{}, nil)
			r.start()
			first := 1
			if row.before != nil {
				first += row.before(r)
			}
			r.sim.SetOutage(row.outage)
			for i := first; i <= requests; i++ {
				r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
			}
			r.await("the hold", func() bool { return r.metric(refusedGauge) == 1 })
			if code, body := r.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, `"refused"`) || !strings.Contains(body, row.words) {
				t.Errorf("/readyz %d: %s", code, body)
			}
			asked := r.lists()
			r.await("a probe", func() bool { return r.lists() > asked }) // what was under way has arrived
			posts := r.sim.Status().Posts
			asked = r.lists()
			r.await("two probes", func() bool { return r.lists() >= asked+2 })
			if n := r.sim.Status().Posts; n != posts {
				t.Errorf("%d calls while the tenant was held: the list is the probe", n-posts)
			}
			dead := r.letters()
			if len(dead) > row.dead {
				t.Errorf("%d dead letters, at most %d", len(dead), row.dead)
			}
			r.sim.SetOutage(graphsim.OutageNone)
			r.awaitEmpty()
			r.await("the hold to be over", func() bool { return r.metric(refusedGauge) == 0 })
			accepted := 0
			for i := 1; i <= requests; i++ {
				id, device := fmt.Sprint("r", i), graphsim.GoodDevice(i)
				if rec := r.record(id); rec.State == record.Dead {
					r.died(id, verdict.ReasonRejected, 1)
					continue
				}
				accepted++
				r.accepted(id, device, 1, false)
				// One for all that were under way when it began, and one that succeeded.
				if n := r.calls(http.MethodPost, device); row.dead == 0 && row.before == nil && n > 2 {
					t.Errorf("%s: %d calls", id, n)
				}
			}
			if len(r.letters()) != len(dead) || accepted != requests-len(dead) {
				t.Errorf("%d accepted, %d dead letters", accepted, len(r.letters()))
			}
			t.Logf("%d dead, %d lists before the hold was probed", len(dead), asked)
		})
	}
}

// TestRefusedAfterOutage: a call that was under way when an outage held the tenant is
// refused after it, as everything is by then. It is no proof that the refusal is its
// own: nothing dies, and the hold goes on.
func TestRefusedAfterOutage(t *testing.T) {
	t.Parallel()
	late := graphsim.GoodDevice(99)
	r, release := newRig(t, graphsim.Config{}, nil), make(chan struct{})
	r.cfg.Policy.RequestTimeout = testTime
	r.front(func(_ http.ResponseWriter, q *http.Request) bool {
		return strings.Contains(q.URL.Path, late) && held(q, release)
	})
	r.start()
	r.publish(reset("before", graphsim.GoodDevice(0)), nil)
	r.awaitState("before", record.Accepted)
	r.publish(reset("late", late), nil)
	r.await("its call", func() bool { return r.record("late").State == record.Attempting })
	r.sim.SetOutage(graphsim.Outage503)
	for i := 1; i <= 10; i++ {
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
	}
	r.await("the outage to be seen", func() bool { return r.metric(`hold{cause="graph_unavailable",tenant="default"}`) == 1 })
	r.sim.SetOutage(graphsim.OutageNoLicence)
	close(release)
	r.await("the hold", func() bool { return r.metric(refusedGauge) == 1 })
	r.await("the late one's answer", func() bool { return r.record("late").State != record.Attempting })
	if dead := r.letters(); len(dead) != 0 {
		t.Errorf("%d dead letters", len(dead))
	}
	r.sim.SetOutage(graphsim.OutageNone)
	r.awaitEmpty()
	for i := 1; i <= 10; i++ {
		r.accepted(fmt.Sprint("r", i), graphsim.GoodDevice(i), 1, false)
	}
	r.accepted("late", late, 1, false)
}

// TestDevicesAreGone: devices that Graph does not know drain as fast as others, with
// one list for twenty of them, whether or not something was accepted before.
func TestDevicesAreGone(t *testing.T) {
	t.Parallel()
	const requests = 300
	for _, row := range []struct {
		name   string
		roles  []string
		before int
		most   int // lists
	}{
		{"served", nil, 1, requests / 20},
		{"not known to be served", nil, 0, requests/20 + 1},
		{"may not read", []string{graphsim.RoleReset}, 0, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{Latency: 20 * time.Millisecond, Roles: row.roles}, nil)
			stop := r.start()
			for i := range row.before {
				r.publish(reset(fmt.Sprint("before", i), graphsim.GoodDevice(i)), nil)
				r.awaitState(fmt.Sprint("before", i), record.Accepted)
			}
			began := time.Now()
			for i := range requests {
				r.publish(reset(fmt.Sprint("r", i), graphsim.FaultDevice(404, 0, 0, i)), nil)
			}
			r.awaitEmpty()
			took := time.Since(began)
			for i := range requests {
				if rec := r.record(fmt.Sprint("r", i)); rec.State != record.Dead || rec.Reason != string(verdict.ReasonNotFound) || rec.Attempts != 1 {
					t.Errorf("%+v", rec)
				}
			}
			if n := len(r.letters()); n != requests {
				t.Errorf("%d dead letters", n)
			}
			s := r.sim.Status()
			if s.Posts != requests+row.before {
				t.Errorf("%d calls for %d requests", s.Posts, requests+row.before)
			}
			if n := r.lists(); n > row.most || n == 0 || s.Gets != n {
				t.Errorf("%d lists, at most %d; %d GETs", n, row.most, s.Gets)
			}
			if r.held() || strings.Contains(r.log.String(), `"msg":"retry`) {
				t.Error("they were held up")
			}
			t.Logf("%d lists, %s", r.lists(), took)
			if row.before == 0 {
				return
			}
			// Another replica knows that the tenant is served, and asks no list for it.
			asked := r.lists()
			r.await("that to be handed on", func() bool { return !r.handedOn().ServedAt.IsZero() })
			stop()
			r.successor().start()
			r.publish(reset("next", graphsim.FaultDevice(404, 0, 0, requests)), nil)
			r.awaitState("next", record.Dead)
			if n := r.lists(); n != asked {
				t.Errorf("%d lists after the restart", n-asked)
			}
		})
	}
}

// TestRefusedIsHandedOn restarts a worker while its tenant is refused everything: it
// begins with the list, and not with a call.
func TestRefusedIsHandedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	stop := r.start()
	r.sim.SetOutage(graphsim.OutageNoLicence)
	for i := range 10 {
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
	}
	r.await("the hold to be handed on", func() bool { h := r.handedOn().Hold; return h != nil && h.Cause == "refused" })
	if w := r.handedOn(); !w.ServedAt.IsZero() || !strings.Contains(w.Hold.Detail, "target tenant") {
		t.Errorf("handed on: %+v", w)
	}
	stop()
	posts, asked := r.sim.Status().Posts, r.lists()
	next := r.successor()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, next.cfg) }()
	defer finish(t, cancel, done)
	r.await("a list", func() bool { return r.lists() > asked })
	r.sim.SetOutage(graphsim.OutageNone)
	r.awaitEmpty()
	for i := range 10 {
		r.accepted(fmt.Sprint("r", i), graphsim.GoodDevice(i), 1, false)
	}
	if n := r.sim.Status().Posts; n != posts+10 {
		t.Errorf("%d calls after the restart, want 10", n-posts)
	}
}

// TestLookRefused: a look that is refused while the tenant is says nothing of its
// request, whose call may have had its effect.
func TestLookRefused(t *testing.T) {
	t.Parallel()
	for _, outage := range []graphsim.Outage{graphsim.OutageNoLicence, graphsim.OutageWrongPath} {
		r := newRig(t, graphsim.Config{}, func(c *Config) { c.Policy.VerifyAfter = 4 * time.Second })
		r.start()
		dev := graphsim.FaultDevice(602, 1, 1, 1) // the reply is lost
		r.publish(reset("INC1", dev), nil)
		r.awaitState("INC1", record.Verifying)
		r.sim.SetOutage(outage)
		r.await("the hold", func() bool { return r.metric(refusedGauge) == 1 })
		if rec := r.record("INC1"); rec.State != record.Verifying {
			t.Errorf("%v: %+v", outage, rec)
		}
		r.sim.SetOutage(graphsim.OutageNone)
		r.awaitEmpty()
		r.accepted("INC1", dev, 1, true)
	}
}

const (
	cut   = -1  // the connection is cut
	plain = 200 // a page instead of a list
)

// TestListTellsNothing: while the list is answered with something that says nothing
// of the tenant, a refused request waits, however it goes on; what the answer asks
// for is done.
func TestListTellsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	var mu sync.Mutex
	var posts, lists int
	var early bool
	var until time.Time                                          // of the Retry-After
	script := []int{429, 401, 503, 500, 408, 302, cut, plain, 0} // 0: a list
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		early = early || time.Now().Before(until)
		if q.Method == http.MethodPost {
			posts++
			w.WriteHeader(http.StatusNotFound)
			return
		}
		lists++
		switch status := script[min(lists, len(script))-1]; status {
		case 0:
			_, _ = w.Write([]byte(`{"value":[]}`)) // the worker sees less
		case cut:
			panic(http.ErrAbortHandler)
		case plain:
			_, _ = w.Write([]byte(`<html>welcome</html>`))
		case http.StatusTooManyRequests:
			until = time.Now().Add(900 * time.Millisecond)
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(status)
		default:
			w.WriteHeader(status)
		}
	}))
	t.Cleanup(s.Close)
	r.cfg.Endpoint = s.URL
	r.cfg.RootCAs = r.sim.CAs().Clone()
	r.cfg.RootCAs.AddCert(s.Certificate())
	r.start()
	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	r.awaitState("INC1", record.Dead)
	r.died("INC1", verdict.ReasonNotFound, 1)
	mu.Lock()
	defer mu.Unlock()
	if posts != len(script) || lists != len(script) || early {
		t.Errorf("%d calls, %d lists, in the pause: %t", posts, lists, early)
	}
	if n := r.sim.Status().TokenCalls; n != 2 {
		t.Errorf("%d token requests: the 401 asks for another", n)
	}
	if r.held() {
		t.Error("the tenant was held")
	}
}

// TestStoppedWhileListing ends a worker by force while a refused request waits for the
// list. The next one finds out what became of the call, and makes no other.
func TestStoppedWhileListing(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.DrainTimeout = time.Second })
	var posts, lists atomic.Int32
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.Method == http.MethodPost:
			posts.Add(1)
			w.WriteHeader(http.StatusNotFound)
		case !strings.HasSuffix(q.URL.Path, "/managedDevices"): // a device
			w.WriteHeader(http.StatusNotFound)
		case lists.Add(1) == 1:
			<-q.Context().Done()
		default:
			_, _ = w.Write([]byte(`{"value":[]}`)) // the worker sees less
		}
	}))
	t.Cleanup(s.Close)
	r.cfg.Endpoint = s.URL
	r.cfg.RootCAs = r.sim.CAs().Clone()
	r.cfg.RootCAs.AddCert(s.Certificate())
	r.cfg.Policy.RequestTimeout = 10 * time.Second
	stop := r.start()
	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	r.await("the list", func() bool { return lists.Load() == 1 })
	stop()
	if rec := r.record("INC1"); rec.State != record.Attempting {
		t.Errorf("%+v", rec)
	}
	next := r.successor()
	next.cfg.Policy.RequestTimeout = time.Second // it need not wait for the first one's call any longer
	next.start()
	r.awaitState("INC1", record.Dead)
	r.died("INC1", verdict.ReasonNotFound, 1)
	if posts.Load() != 1 || len(r.letters()) != 1 {
		t.Errorf("%d calls, %d dead letters", posts.Load(), len(r.letters()))
	}
}
