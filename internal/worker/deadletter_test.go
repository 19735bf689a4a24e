package worker

import (
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// TestLetters is about what has a dead letter, or is about to.
func TestLetters(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, nil)
	tests := map[string]func(*testing.T){}
	add := func(name string, test func(*rig)) {
		n := len(tests)
		tests[name] = func(t *testing.T) { test(base.branch(t, 300+n)) }
	}
	add("invalid under a dead id", testInvalidUnderDeadID)
	add("letter keeps its reason", testLetterKeepsReason)
	add("hard to pass on", testHardToPassOn)
	add("overtaken before the letter", testOvertaken)
	together(t, tests)
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

// testHardToPassOn: messages that look like a word of the server's, or whose
// headers leave no room for a letter's, hold nothing up.
func testHardToPassOn(r *rig) {
	r.start()
	started := len(r.log.String())
	odd := []nats.Header{{"X-Junk": {strings.Repeat("x", 65300)}}}
	for _, status := range []string{"100", "400", "404", "408", "409", "503"} {
		odd = append(odd, nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}})
	}
	for _, h := range odd {
		r.publish("", h)
	}
	began, dev := time.Now(), graphsim.GoodDevice(0x2000)
	r.publish(reset("good", dev), nil)
	r.settled()
	if took := time.Since(began); took > 10*time.Second {
		r.t.Errorf("it took %s", took)
	}
	r.accepted("good", dev, 1, false)
	if n := len(r.letters()); n != len(odd) {
		r.t.Errorf("%d dead letters, want %d", n, len(odd))
	}
	if strings.Contains(r.log.String()[started:], "cannot be worked on") {
		r.t.Error("the queue was lost")
	}
}

// testOvertaken: another worker has gone on with a further attempt when the
// first sees its own refused. The first buries nothing.
func testOvertaken(r *rig) {
	dev := graphsim.GoodDevice(0x5000)
	r.cfg.Policy.RequestTimeout = 20 * time.Second
	answer := meanwhile(r, dev, nil, http.StatusConflict)
	r.change("INC1", func(rec *record.Record) {
		rec.State, rec.ClientRequestID, rec.NextAt = record.Retrying, "another", time.Now().Add(3*time.Second).UTC()
	})
	answer()
	r.eventually("the message to be given back", func() bool { return r.metric(`waiting_retry{tenant="default"}`) == 1 })
	if rec := r.record("INC1"); r.waiting() != 1 || len(r.letters()) != 0 || rec.Worker != "another" {
		r.t.Errorf("messages %d, letters %d, record %+v", r.waiting(), len(r.letters()), rec)
	}
	r.settled()
	r.accepted("INC1", dev, 2, false)
	if n := len(r.letters()); n > 0 {
		r.t.Errorf("%d dead letters", n)
	}
}
