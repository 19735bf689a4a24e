package worker

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// TestLookUps: what a look at the device shows, and how often it has to.
func TestLookUps(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, nil)
	tests := map[string]func(*testing.T){}
	add := func(name string, test func(*rig)) {
		n := len(tests)
		tests[name] = func(t *testing.T) { test(base.branch(t, 100+n)) }
	}
	add("slow", testSlowLookUp)
	add("odd answers", testOddLookUps)
	add("under a low rate", testLowRate)
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		add(fmt.Sprint("refused with ", status), func(r *rig) { testLookUpRefused(r, status) })
		add(fmt.Sprint("nothing but a look refused with ", status), func(r *rig) { testOnlyLookUpRefused(r, status) })
	}
	add("shows with the second look", func(r *rig) { testShowsLate(r, 0, nil, 200) })
	add("gone with the first look", func(r *rig) { testShowsLate(r, 1, nil, 404) })
	add("shows after its time is over", func(r *rig) {
		r.cfg.Policy.VerifyAfter = 800 * time.Millisecond
		testShowsLate(r, 2, func(body string) string {
			until := time.Now().Add(1500 * time.Millisecond)
			return strings.TrimSuffix(body, "}") + fmt.Sprintf(`,"notAfter":%q}`, until.UTC().Format(time.RFC3339Nano))
		}, 200)
	})
	add("shows after the last attempt", func(r *rig) {
		r.cfg.Policy.MaxAttempts = 1
		testShowsLate(r, 3, nil, 200)
	})
	add("gone for good", testGone)
	add("two looks before a further attempt", testTwoLooks)
	add("a doubt is no absence", testDoubt)
	add("a refusal that the first call has caused", testRefusedAfterUnknown)
	add("a refusal after a call without effect", testRefusedAfterNone)
	add("a refusal whose look is not answered", testRefusedThenSilence)
	add("looked up from the first unknown call on", testFirstUnknown)
	together(t, tests)
}

// empty is what Graph says of a device on which no action shows.
func empty(w http.ResponseWriter, device string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"id":%q,"deviceActionResults":[]}`, device)
}

// answer answers the nth look or call, counted from 1, and returns true; or it
// returns false, and Graph answers.
type answer func(w http.ResponseWriter, n int) bool

// statuses answers one after the other by a status, and then ever by the last; 0
// leaves the answer to Graph.
func statuses(codes ...int) answer {
	return func(w http.ResponseWriter, n int) bool {
		code := codes[min(n, len(codes))-1]
		if code != 0 {
			w.WriteHeader(code)
		}
		return code != 0
	}
}

// meets answers the looks at a device and the calls for it; count is how many of
// either there were.
func (r *rig) meets(device string, look, call answer) (count func() (looks, calls int)) {
	var looks, calls atomic.Int32
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		switch {
		case !strings.Contains(q.URL.Path, device):
			return false
		case q.Method == http.MethodPost:
			return call(w, int(calls.Add(1)))
		}
		return look(w, int(looks.Add(1)))
	})
	return func() (int, int) { return int(looks.Load()), int(calls.Load()) }
}

// looks answers the looks at a device; at are the times of all of them.
func (r *rig) looks(device string, look answer) (at func() []time.Time) {
	var mu sync.Mutex
	var times []time.Time
	r.meets(device, func(w http.ResponseWriter, n int) bool {
		mu.Lock()
		times = append(times, time.Now())
		mu.Unlock()
		return look(w, n)
	}, statuses(0))
	return func() []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return append([]time.Time(nil), times...)
	}
}

// testShowsLate: the reset was done, its answer lost, and the first look does not
// show it yet. It is neither done again nor given up.
func testShowsLate(r *rig, n int, change func(string) string, status int) {
	dev := graphsim.FaultDevice(500, 1, 1, 0x3100+n) // executed
	const hidden = 1
	looks := r.looks(dev, func(w http.ResponseWriter, n int) bool {
		switch {
		case n > hidden:
			return false
		case status == http.StatusOK:
			empty(w, dev)
		default:
			w.WriteHeader(status)
		}
		return true
	})
	r.start()
	body := reset("INC1", dev)
	if change != nil {
		body = change(body)
	}
	r.publish(body, nil)
	r.settled()
	rec := r.record("INC1")
	if rec.State != record.Accepted || !rec.Verified || rec.Attempts != 1 || len(looks()) != hidden+1 {
		r.t.Errorf("%d looks, record %+v", len(looks()), rec)
	}
	if rec.UnknownSince.IsZero() || !rec.UnknownSince.Equal(rec.AttemptedAt) {
		r.t.Errorf("unknown since %s, attempted at %s", rec.UnknownSince, rec.AttemptedAt)
	}
	if n := r.sim.Resets(dev); n != 1 {
		r.t.Errorf("%d resets", n)
	}
}

// testGone: a device that is gone twice is gone.
func testGone(r *rig) {
	dev := graphsim.FaultDevice(500, 1, 0, 0x3001)
	looks := r.looks(dev, func(w http.ResponseWriter, _ int) bool { w.WriteHeader(http.StatusNotFound); return true })
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.died("INC1", verdict.ReasonNotFound, 1)
	if n := len(looks()); n != 2 {
		r.t.Errorf("%d looks", n)
	}
}

// testTwoLooks: the second look comes no sooner than twice the wait of the first
// after that one, and the attempt at once after the second.
func testTwoLooks(r *rig) {
	dev := graphsim.FaultDevice(500, 1, 0, 0x3002)
	looks := r.looks(dev, func(http.ResponseWriter, int) bool { return false })
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.accepted("INC1", dev, 2, false)
	at := looks()
	if len(at) != 2 {
		r.t.Fatalf("%d looks", len(at))
	}
	if d := at[1].Sub(at[0]); d < 2*r.cfg.Policy.VerifyAfter {
		r.t.Errorf("the looks are %s apart", d)
	}
	if rec := r.record("INC1"); rec.AttemptedAt.Sub(at[1]).Abs() > time.Second {
		r.t.Errorf("looked at %s, attempted at %s", at[1], rec.AttemptedAt)
	}
}

// testDoubt: an answer that leaves it open allows no further call, and is no
// look that finds nothing.
func testDoubt(r *rig) {
	dev := graphsim.FaultDevice(500, 1, 1, 0x3003) // executed
	looks := r.looks(dev, func(w http.ResponseWriter, n int) bool {
		if n > 4 {
			return false
		}
		if n == 3 { // one look that finds nothing, and none that agrees
			empty(w, dev)
			return true
		}
		_, _ = fmt.Fprintf(w, `{"id":%q,"deviceActionResults":null}`, dev)
		return true
	})
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.accepted("INC1", dev, 1, true)
	if n := len(looks()); n != 5 {
		r.t.Errorf("%d looks", n)
	}
}

// testRefusedAfterUnknown: the reset was done and shows only after two looks and a
// further call, which Graph refuses because the first is pending.
func testRefusedAfterUnknown(r *rig) {
	dev := graphsim.FaultDevice(500, 1, 1, 0x3004) // executed
	count := r.meets(dev, func(w http.ResponseWriter, n int) bool {
		if n > 2 {
			return false
		}
		empty(w, dev)
		return true
	}, statuses(0, http.StatusConflict))
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	rec := r.record("INC1")
	if looks, calls := count(); rec.State != record.Accepted || !rec.Verified || r.sim.Resets(dev) != 1 || calls != 2 || looks != 3 {
		r.t.Errorf("%d resets, %d calls, %d looks, record %+v", r.sim.Resets(dev), calls, looks, rec)
	}
	if n := len(r.letters()); n != 0 {
		r.t.Errorf("%d dead letters", n)
	}
}

// testRefusedAfterNone: where the look shows no reset, the refusal counts.
func testRefusedAfterNone(r *rig) {
	dev := graphsim.GoodDevice(0x3005)
	count := r.meets(dev, statuses(0), statuses(http.StatusBadGateway, http.StatusConflict))
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.died("INC1", verdict.ReasonConflict, 2)
	rec := r.record("INC1")
	if looks, _ := count(); looks != 3 || rec.Status != http.StatusConflict || rec.Refusal != "" || !strings.Contains(rec.Detail, "409") {
		r.t.Errorf("%d looks, record %+v", looks, rec)
	}
	// Another message of the id is looked up first, although the last call was
	// answered.
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.died("INC1", verdict.ReasonConflict, 1)
	if looks, calls := count(); looks != 6 || calls != 3 {
		r.t.Errorf("%d looks and %d calls in all", looks, calls)
	}
}

// testRefusedThenSilence: the refusal is kept until the device could be looked at.
func testRefusedThenSilence(r *rig) {
	dev := graphsim.GoodDevice(0x3006)
	count := r.meets(dev, statuses(0, 0, http.StatusInternalServerError, http.StatusInternalServerError, 0),
		statuses(http.StatusBadGateway, http.StatusUnprocessableEntity))
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.died("INC1", verdict.ReasonRejected, 2)
	if looks, calls := count(); looks != 5 || calls != 2 {
		r.t.Errorf("%d looks, %d calls", looks, calls)
	}
}

// testFirstUnknown: the reset of the first call shows only once the id was dead
// and has come again. That it began before the last call makes it no other's.
func testFirstUnknown(r *rig) {
	dev := graphsim.FaultDevice(500, 1, 1, 0x3007) // executed
	var shows atomic.Bool
	count := r.meets(dev, func(w http.ResponseWriter, _ int) bool {
		if shows.Load() {
			return false
		}
		empty(w, dev)
		return true
	}, statuses(0, http.StatusConflict))
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.died("INC1", verdict.ReasonConflict, 2)
	// The grace for clocks must not be what finds it.
	<-time.After(clockGrace)
	shows.Store(true)
	last := r.publish(reset("INC1", dev), nil)
	r.settled()
	rec := r.record("INC1")
	if _, calls := count(); rec.State != record.Accepted || !rec.Verified || r.sim.Resets(dev) != 1 || calls != 2 {
		r.t.Errorf("%d resets, %d calls, record %+v", r.sim.Resets(dev), calls, rec)
	}
	if rec.Sequence != last || rec.Redrives != 1 || len(rec.Ended) != 1 {
		r.t.Errorf("it is about message %d, want %d; %d redrives, ended %v", rec.Sequence, last, rec.Redrives, rec.Ended)
	}
}

// TestEndedStaysEnded: a copy of a message that has its letter comes late, when
// the record is about a newer message of the id. It is acknowledged, not called.
func TestEndedStaysEnded(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	dev := graphsim.FaultDevice(404, 2, 0, 1) // refuses two calls
	first, second := r.publish(reset("INC1", dev), nil), r.publish(reset("INC1", dev), nil)
	s, err := r.js.Stream(t.Context(), r.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetMsg(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	store, err := record.Open(t.Context(), r.js, r.names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	dead := record.Record{ID: "INC1", Tenant: "default", ManagedDeviceID: dev, State: record.Dead, Attempts: 1, Reason: "not_found",
		Stream: r.names.Stream, Sequence: second, ReceivedAt: m.Time, AttemptedAt: m.Time, FinishedAt: m.Time, Ended: []uint64{first, second}}
	if _, err := store.Put(t.Context(), "default.INC1", dead, 0); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.awaitEmpty()
	if n := len(r.sim.Calls()); n != 0 || len(r.letters()) != 0 {
		t.Errorf("%d calls, %d letters", n, len(r.letters()))
	}
}

// TestRedrivesAreCounted: each new message that takes a dead id up again counts,
// whatever a publisher writes into the header.
func TestRedrivesAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	dev := graphsim.FaultDevice(404, 0, 0, 1)
	for n := range 18 {
		seq := r.publish(reset("INC1", dev), nats.Header{deadletter.HeaderRedrives: {"99"}, strings.ToLower(deadletter.HeaderRedrives): {"98"}})
		r.awaitEmpty()
		letter := r.letters()[strconv.FormatUint(seq, 10)]
		if letter == nil {
			t.Fatalf("message %d has no letter", n)
		}
		if got := letter.Header.Values(deadletter.HeaderRedrives); len(got) != 1 || got[0] != strconv.Itoa(n) {
			t.Errorf("message %d: the letter says %v redrives", n, got)
		}
	}
	if rec := r.record("INC1"); rec.Redrives != 17 || len(rec.Ended) != record.MaxEnded || rec.Ended[record.MaxEnded-1] != rec.Sequence {
		t.Errorf("%+v", rec)
	}
	// An invalid message takes nothing up: the record of another stays as it is.
	bad := graphsim.FaultDevice(404, 0, 0, 2)
	r.publish(reset("OTHER", bad), nil)
	r.awaitEmpty()
	before := r.record("OTHER")
	r.publish(`{"id":"OTHER","managedDeviceId":"oops"}`, nil)
	r.awaitEmpty()
	if after := r.record("OTHER"); after.Sequence != before.Sequence || after.Reason != "not_found" {
		t.Errorf("the record was %+v and is %+v", before, after)
	}
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
