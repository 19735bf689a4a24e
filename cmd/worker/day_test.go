package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/sandbox/scenario"
	"passcode-worker/internal/verdict"
)

// TestDay gives the real command a thousand requests of every kind, and
// compares all that can be seen of them: the stream, the simulator, the
// records, the dead letters and the metrics.
func TestDay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	requests, err := scenario.Countable(1000)
	if err != nil {
		t.Fatal(err)
	}
	for copy := range 20 {
		for _, r := range requests {
			if copy < r.Copies {
				r.Sequences = append(r.Sequences, w.publish(r.Data, r.Header))
			}
		}
	}
	if n := w.stream(names.Stream).State.Msgs; n != 1000 {
		t.Fatalf("%d messages", n)
	}
	// Looks at devices go on after the requests have ended, and would spoil the counts.
	p := launch(t, w.env("WORKER_FOLLOW", "off"), "run")
	w.awaitEmpty()
	await(t, "the end of the last request", func() bool { return p.metrics()["in_flight"+`{tenant="default"}`] == 0 })

	d := day{w: w, p: p, m: p.metrics(), requests: requests}
	d.checkEnds()
	d.checkLetters()
	d.checkRecords()
	d.checkMetrics()
	w.checkSim()
	w.checkSecrets(p, "SimPass-", "client_secret")
	p.stop()
}

// TestCutsAndCap has what would spoil the counts of the day: cut connections
// take other calls with them, and a pause that is capped ends before Graph
// wants it to.
func TestCutsAndCap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	devices := map[string]string{"CAPPED": graphsim.FaultDevice(429, 1, 4, 1)}
	for i, code := range []int{601, 602, 605, 602, 601, 605} {
		devices[fmt.Sprint("BAD", i)], devices[fmt.Sprint("GOOD", i)] = graphsim.FaultDevice(code, 1, 0, i), graphsim.GoodDevice(i)
	}
	for id, device := range devices {
		if id != "CAPPED" {
			w.publish(body(id, device), nil)
		}
	}
	p := launch(t, w.env("WORKER_MAX_PAUSE", "1s"), "run")
	p.awaitReady()
	w.awaitEmpty()
	w.checkSim()
	w.publish(body("CAPPED", devices["CAPPED"]), nil)
	w.awaitState("CAPPED", record.Accepted)
	for id, device := range devices {
		if n, r := w.sim.Resets(device), w.record(id); n != 1 || r.State != record.Accepted {
			t.Errorf("%s was reset %d times: %+v", id, n, r)
		}
	}
	if p.line("Graph asked for a longer pause than WORKER_MAX_PAUSE; the pause is shortened to that") == nil {
		t.Error("the log does not tell of the capped pause")
	}
	if s := w.sim.Status(); len(s.ResetTwice) > 0 || len(s.Violations) > 0 {
		t.Errorf("reset twice: %q, violations: %q", s.ResetTwice, s.Violations)
	}
	w.checkSecrets(p)
	p.stop()
}

// day is what is known about the requests once they have all ended.
type day struct {
	w        *world
	p        *process
	m        series
	requests []*scenario.Request
}

// checkEnds compares records, resets and dead letters with what they must be.
func (d day) checkEnds() {
	t := d.w.t
	t.Helper()
	l, _, err := scenario.Read(d.w.ctx, d.w.js, names, d.w.sim)
	if err != nil {
		t.Fatal(err)
	}
	v := scenario.Judge(d.requests, l)
	for what, bad := range map[string][]string{"lost": v.Lost, "doubled": v.Doubled, "ended twice": v.Twice, "ended wrongly": v.Wrong} {
		for _, b := range bad {
			t.Errorf("%s: %s", what, b)
		}
	}
	if len(v.Fates) != len(d.requests) {
		t.Errorf("%d fates of %d requests", len(v.Fates), len(d.requests))
	}
}

// checkLetters compares each dead letter with the message it is of.
func (d day) checkLetters() {
	t := d.w.t
	t.Helper()
	type letter struct {
		header nats.Header
		data   string
	}
	letters := map[uint64]letter{}
	for _, m := range d.w.messages(names.DeadStream) {
		seq, err := strconv.ParseUint(m.Header.Get(deadletter.HeaderSequence), 10, 64)
		if _, twice := letters[seq]; err != nil || twice || m.Subject != names.Dead() {
			t.Errorf("dead letter %d on %s for message %d: %v, seen before: %v", m.Sequence, m.Subject, seq, err, twice)
		}
		letters[seq] = letter{m.Header, string(m.Data)}
	}
	for _, r := range d.requests {
		var redrives []string
		for _, seq := range r.Sequences {
			l, ok := letters[seq]
			delete(letters, seq)
			if got := l.header.Get(deadletter.HeaderReason); got != string(r.Want.Reason) || ok != (r.Want.State == record.Dead) {
				t.Errorf("%s: %s has the dead letter %q instead of %q: %s", r.Kind, r.ID, got, r.Want.Reason, l.header.Get(deadletter.HeaderDetail))
			}
			if ok && (l.data != r.Data || !maps.EqualFunc(own(l.header), own(r.Header), slices.Equal)) {
				t.Errorf("%s: the dead letter does not hold the message as it was: %v", r.Kind, l.header)
			}
			for name, want := range map[string]string{
				deadletter.HeaderSubject: names.Filter(), deadletter.HeaderStream: names.Stream,
			} {
				if ok && l.header.Get(name) != want {
					t.Errorf("%s: header %s is %q instead of %q", r.Kind, name, l.header.Get(name), want)
				}
			}
			if ok {
				redrives = append(redrives, l.header.Get(deadletter.HeaderRedrives))
			}
		}
		// Each further message takes the dead id up again; one that is no request does not.
		slices.Sort(redrives)
		for n, got := range redrives {
			if got != strconv.Itoa(n) && got != "0" || r.Want.Reason != verdict.ReasonInvalidRequest && got != strconv.Itoa(n) {
				t.Errorf("%s: redrives %v", r.Kind, redrives)
				break
			}
		}
	}
	if len(letters) > 0 {
		t.Errorf("%d dead letters of nobody's", len(letters))
	}
}

// own are the headers that are the publisher's.
func own(h nats.Header) map[string][]string {
	out := map[string][]string{}
	for name, values := range h {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, "dead-letter-") && !strings.HasPrefix(lower, "nats-") {
			out[name] = values
		}
	}
	return out
}

func (d day) checkRecords() {
	t := d.w.t
	t.Helper()
	records := d.w.records()
	for _, r := range d.requests {
		id := r.ID
		if id == "" {
			id = names.Stream + "-" + strconv.FormatUint(r.Sequences[0], 10)
		}
		rec, ok := records[id]
		if r.Kind == scenario.Hostile && !ok {
			continue // it has an id that is not told here
		}
		if rec.FinishedAt.IsZero() || r.Device != "" && rec.ManagedDeviceID != r.Device {
			t.Errorf("%s: record %s: %+v", r.Kind, id, rec)
		}
		delete(records, id)
	}
	for id, r := range records {
		if r.State != record.Dead || r.Reason != string(verdict.ReasonInvalidRequest) {
			t.Errorf("record %s of nobody's: %+v", id, r)
		}
	}
}

func (d day) checkMetrics() {
	t, m := d.w.t, d.m
	t.Helper()
	outcomes, reasons, results := map[string]int{}, map[string]int{}, m.by("attempts_total", "result")
	for _, r := range d.requests {
		if r.Want.State == record.Dead {
			outcomes["dead"] += r.Copies
			reasons[string(r.Want.Reason)] += r.Copies
			continue
		}
		outcomes["accepted"]++
		outcomes["duplicate"] += r.Copies - 1
	}
	delete(outcomes, "")
	same := func(what string, got, want map[string]int) {
		t.Helper()
		if !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	same("requests_total", m.by("requests_total", "outcome"), outcomes)
	same("dead_letters_total", m.by("dead_letters_total", "reason"), reasons)
	if n := results["accepted"] + m.sum("verifications_total", `result="executed"`); n != outcomes["accepted"] {
		t.Errorf("%d attempts and verifications found a reset, %d requests were accepted", n, outcomes["accepted"])
	}
	codes := map[string]map[string]int{"POST": {}, "GET": {}}
	for _, c := range d.w.sim.Calls() {
		code := strconv.Itoa(c.Status)
		if c.Status == 0 {
			code = "none"
		}
		codes[c.Method][code]++
	}
	for method, want := range codes {
		same("graph_requests_total of "+method, m.by("graph_requests_total", "code", `method="`+method+`"`), want)
	}
	posts := 0
	for _, n := range results {
		posts += n
	}
	if want := m.sum("graph_requests_total", `method="POST"`); posts != want {
		t.Errorf("%d attempts, but %d POSTs", posts, want)
	}
	for _, gauge := range []string{"in_flight", "waiting_retry", "hold"} {
		if n := m.sum(gauge); n != 0 {
			t.Errorf("%s is %d at the end", gauge, n)
		}
	}
	if m.sum("nats_connected") != 1 || m.sum("active") != 1 {
		t.Error("not connected, or not active")
	}
}
