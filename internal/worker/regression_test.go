package worker

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// together runs subtests at the same time, more of them than there are
// processors: they mostly wait.
func together(t *testing.T, tests map[string]func(*testing.T)) {
	t.Helper()
	const most = 16
	var all sync.WaitGroup
	slots := make(chan struct{}, most)
	for name, test := range tests {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			t.Run(name, test)
		})
	}
	all.Wait()
}

// branch is a rig on the same NATS server and the same Graph, with names of its own.
func (r *rig) branch(t *testing.T, n int) *rig {
	t.Helper()
	b := *r
	b.t, b.log, b.addr = t, &lines{}, lowAddr(t)
	b.names = topology.Names{Tenant: "default", Stream: fmt.Sprint("R", n), Subject: fmt.Sprint("requests", n),
		DeadStream: fmt.Sprint("D", n), DeadSubject: fmt.Sprint("dead", n), Bucket: fmt.Sprint("records", n)}
	b.cfg.Names, b.cfg.HTTPAddr, b.cfg.Tenants = b.names, b.addr, slices.Clone(r.cfg.Tenants)
	b.cfg.Log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(b.log), zap.DebugLevel))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the worker:\n%s", tail(b.log.String(), 20000))
		}
	})
	return &b
}

// lowPort is the last port that was tried by lowAddr.
var lowPort = func() *atomic.Int64 {
	var p atomic.Int64
	p.Store(12000 + rand.Int64N(15000))
	return &p
}()

// lowAddr is a free address with a port that no connection and no other
// listener is given by chance.
func lowAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprint("127.0.0.1:", lowPort.Add(1))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// own gives the rig a Graph of its own.
func (r *rig) own(cfg graphsim.Config) {
	r.t.Helper()
	s, err := graphsim.Start(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = s.Close() })
	r.sim = s
	r.cfg.Endpoint, r.cfg.RootCAs = s.URL(), s.CAs()
	r.cfg.Tenants[0].Credential.Authority, r.cfg.Tenants[0].Credential.RootCAs = s.URL(), s.CAs()
}

// front puts a handler before Graph; it returns true where it has answered.
func (r *rig) front(h func(w http.ResponseWriter, q *http.Request) bool) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !h(w, q) {
			r.sim.ServeHTTP(w, q)
		}
	}))
	r.t.Cleanup(s.Close)
	r.cfg.Endpoint = s.URL
}

// eventually waits as await does, but does not look as often: it is for tests
// of which many wait at the same time.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(testTime)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			r.t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

// settled waits until nothing is left on the stream.
func (r *rig) settled() {
	r.t.Helper()
	r.eventually("the stream to be empty", func() bool { return r.waiting() == 0 })
}

// calls counts the calls that reached Graph about a device.
func (r *rig) calls(method, device string) (n int) {
	for _, c := range r.sim.Calls() {
		if c.Method == method && c.Device == device {
			n++
		}
	}
	return n
}

// held tells whether the tenant has ever been held.
func (r *rig) held() bool { return strings.Contains(r.log.String(), "the queue stands still") }

// accepted checks the end of a request that was accepted.
func (r *rig) accepted(id, device string, attempts int, verified bool) {
	r.t.Helper()
	rec := r.record(id)
	if rec.State != record.Accepted || rec.Attempts != attempts || rec.Verified != verified || r.sim.Resets(device) != 1 {
		r.t.Errorf("%s: %q, %d attempts, verified %v, %d resets; want accepted, %d, %v, 1 (%s %s)",
			id, rec.State, rec.Attempts, rec.Verified, r.sim.Resets(device), attempts, verified, rec.Reason, rec.Detail)
	}
}

// died checks the end of a request that was not.
func (r *rig) died(id string, reason verdict.Reason, attempts int) {
	r.t.Helper()
	rec := r.record(id)
	if rec.State != record.Dead || rec.Reason != string(reason) || rec.Attempts != attempts {
		r.t.Errorf("%s: %q %s, %d attempts; want dead, %s, %d (%s)", id, rec.State, rec.Reason, rec.Attempts, reason, attempts, rec.Detail)
	}
	letter := r.letters()[strconv.FormatUint(rec.Sequence, 10)]
	if letter == nil {
		r.t.Errorf("%s: no dead letter", id)
	} else if got, n := letter.Header.Get(deadletter.HeaderReason), letter.Header.Get(deadletter.HeaderAttempts); got != string(reason) || n != strconv.Itoa(attempts) {
		r.t.Errorf("%s: the letter says %s after %s attempts", id, got, n)
	}
}

// TestRegressions holds faults that the worker once had.
func TestRegressions(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, nil)
	tests := map[string]func(*testing.T){}
	add := func(name string, test func(*rig)) {
		n := len(tests)
		tests[name] = func(t *testing.T) { test(base.branch(t, n)) }
	}
	add("slow look-up", testSlowLookUp)
	add("odd look-ups", testOddLookUps)
	add("look-up under a low rate", testLowRate)
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		add(fmt.Sprint("look-up refused with ", status), func(r *rig) { testLookUpRefused(r, status) })
		add(fmt.Sprint("nothing but a look-up refused with ", status), func(r *rig) { testOnlyLookUpRefused(r, status) })
	}
	add("invalid under a dead id", testInvalidUnderDeadID)
	add("letter keeps its reason", testLetterKeepsReason)
	add("hard to pass on", testHardToPassOn)
	add("bucket made anew during a call", testBucketMadeAnew)
	add("429 after another took over", testThrottledAfterTakeOver)
	add("429 after another's next attempt", testThrottledAfterNextAttempt)
	add("overtaken before the letter", testOvertaken)
	add("pause is capped", testPauseIsCapped)
	add("Retry-After of a 504", testRetryAfterOf504)
	add("slow dials into a pause", testSlowDials)
	add("eight bad devices", testEightBad)
	add("exhausted in a hold", testExhaustedInHold)
	together(t, tests)
}

// testSlowLookUp: Graph's clock is told from the Date of an answer, which may
// have been long on its way. That must not make a reset seem older than it is.
func testSlowLookUp(r *rig) {
	r.cfg.Policy.RequestTimeout = 15 * time.Second
	r.front(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodGet {
			select {
			case <-time.After(7 * time.Second):
			case <-q.Context().Done():
			}
		}
		return false
	})
	dev := graphsim.FaultDevice(500, 1, 1, 1) // executed
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.accepted("INC1", dev, 1, true)
}

// testOddLookUps: what is not plainly an answer about the device is none.
func testOddLookUps(r *rig) {
	odd := map[string]string{}
	for i, body := range []string{
		`{}`, `null`, `[]`, ``, `<html>busy</html>`,
		`{"id":"00000000-0000-0000-0000-000000000000","deviceActionResults":[]}`,
		`{"deviceActionResults":null}`,
		`{"deviceActionResults":[{"actionName":"resetPasscode"}]}`,
		`{"deviceActionResults":[{"startDateTime":"` + time.Now().Add(time.Minute).UTC().Format(time.RFC3339) + `"}]}`,
		`{"deviceActionResults":[`,
	} {
		odd[graphsim.FaultDevice(500, 1, 1, 0x100+i)] = body // executed
	}
	var mu sync.Mutex
	answered := map[string]bool{}
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		for dev, body := range odd {
			if q.Method == http.MethodGet && strings.Contains(q.URL.Path, dev) && !answered[dev] {
				answered[dev] = true
				_, _ = io.WriteString(w, body)
				return true
			}
		}
		return false
	})
	r.start()
	for dev, body := range odd {
		r.publish(reset(dev, dev), nil) // one after the other: together they would be an outage
		r.settled()
		r.accepted(dev, dev, 1, true)
		if !answered[dev] {
			r.t.Errorf("%s was never answered", body)
		}
	}
}

// testLowRate: a look-up and the attempt that follows on it take one slot, so
// that they come to pass however few there are.
func testLowRate(r *rig) {
	r.cfg.Tenants[0].Rate = pace.Rate{N: 1, W: 6 * time.Second}
	dev := graphsim.FaultDevice(500, 1, 0, 2)
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.accepted("INC1", dev, 2, false)
	if posts := r.calls(http.MethodPost, dev); posts != 2 {
		r.t.Errorf("%d calls", posts)
	}
}

// refuseLookUps makes Graph refuse to tell about a device.
func refuseLookUps(r *rig, device string, status int) {
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		refused := q.Method == http.MethodGet && strings.Contains(q.URL.Path, device)
		if refused {
			w.WriteHeader(status)
		}
		return refused
	})
}

// testLookUpRefused: that one device may not be read is no fault of the
// tenant's, where others are accepted.
func testLookUpRefused(r *rig, status int) {
	bad, good := graphsim.FaultDevice(500, 1, 1, status), graphsim.GoodDevice(status)
	refuseLookUps(r, bad, status)
	r.start()
	r.publish(reset("good", good), nil)
	r.awaitState("good", record.Accepted)
	r.publish(reset("bad", bad), nil)
	r.settled()
	r.died("bad", verdict.ReasonOutcomeUnknown, 1)
	if r.held() {
		r.t.Error("the tenant was held")
	}
}

// testOnlyLookUpRefused: with nothing else to tell whose fault it is, the
// tenant is held. But the request does not outlive its deadline, and the next
// one ends the hold.
func testOnlyLookUpRefused(r *rig, status int) {
	bad, good := graphsim.FaultDevice(500, 1, 1, 0x1000+status), graphsim.GoodDevice(0x1000+status)
	refuseLookUps(r, bad, status)
	r.start()
	until := time.Now().Add(5 * time.Second)
	r.publish(fmt.Sprintf(`{"id":"bad","managedDeviceId":%q,"notAfter":%q}`, bad, until.UTC().Format(time.RFC3339Nano)), nil)
	r.settled()
	r.died("bad", verdict.ReasonOutcomeUnknown, 1)
	if over := r.record("bad").FinishedAt.Sub(until); over > 10*time.Second {
		r.t.Errorf("it ended %s after its deadline", over)
	}
	r.publish(reset("good", good), nil)
	r.settled()
	r.accepted("good", good, 1, false)
}

// testInvalidUnderDeadID: a message that is no request does not wipe out that
// a device may have been reset.
func testInvalidUnderDeadID(r *rig) {
	r.own(graphsim.Config{Roles: []string{graphsim.RoleReset}})
	dev := graphsim.FaultDevice(500, 1, 1, 1) // executed
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.died("INC1", verdict.ReasonOutcomeUnknown, 1)
	before := r.record("INC1")
	bad := r.publish(`{"id":"INC1","managedDeviceId":"oops"}`, nil)
	r.settled()
	if after := r.record("INC1"); !reflect.DeepEqual(after, before) {
		r.t.Errorf("the record was %+v and is %+v", before, after)
	}
	letter := r.letters()[strconv.FormatUint(bad, 10)]
	if letter == nil || letter.Header.Get(deadletter.HeaderReason) != string(verdict.ReasonInvalidRequest) {
		r.t.Errorf("the letter of the invalid message: %+v", letter)
	}
	gets := r.calls(http.MethodGet, dev)
	r.publish(reset("INC1", dev), nil)
	r.settled()
	if r.calls(http.MethodGet, dev) <= gets || r.calls(http.MethodPost, dev) != 1 || r.sim.Resets(dev) != 1 {
		r.t.Errorf("calls: %+v", r.sim.Calls())
	}
	// The instant is turned into this machine's time and back.
	if rec := r.record("INC1"); rec.Reason != string(verdict.ReasonOutcomeUnknown) || rec.AttemptedAt.Sub(before.AttemptedAt).Abs() > time.Second {
		r.t.Errorf("record: %+v", rec)
	}
}

// testLetterKeepsReason: a refusal whose letter has to wait stays a refusal,
// and is not taken for an attempt of unknown outcome.
func testLetterKeepsReason(r *rig) {
	r.own(graphsim.Config{Roles: []string{graphsim.RoleReset}})
	dev := graphsim.FaultDevice(409, 0, 0, 1)
	r.start()
	s, err := r.js.Stream(r.t.Context(), r.names.DeadStream)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.js.DeleteStream(r.t.Context(), r.names.DeadStream); err != nil {
		r.t.Fatal(err)
	}
	r.publish(reset("INC1", dev), nil)
	r.eventually("three failures to publish", func() bool {
		return strings.Count(r.log.String(), "the dead letter could not be published") >= 3
	})
	if _, err := r.js.CreateStream(r.t.Context(), s.CachedInfo().Config); err != nil {
		r.t.Fatal(err)
	}
	r.settled()
	r.died("INC1", verdict.ReasonConflict, 1)
	if calls := r.sim.Calls(); len(calls) != 2 || r.calls(http.MethodPost, dev) != 1 || r.lists() != 1 {
		r.t.Errorf("%d calls", len(calls))
	}
}
