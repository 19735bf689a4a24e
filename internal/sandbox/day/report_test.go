package day

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// TestPromises: whatever is wrong breaks its promise, and no other.
func TestPromises(t *testing.T) {
	t.Parallel()
	one := []string{"INC1"}
	for _, c := range []struct {
		broken string // what its line begins with; empty: none is
		f      findings
	}{
		{"", findings{}},
		{"nothing is lost", findings{Verdict: scenario.Verdict{Lost: one}}},
		{"nothing is lost", findings{waiting: 1}},
		{"nothing is lost", findings{Verdict: scenario.Verdict{Forged: 4, Echoes: 3}}},
		{"nothing is reset twice", findings{Verdict: scenario.Verdict{Doubled: one}}},
		{"nothing is reset twice", findings{sim: graphsim.Status{ResetTwice: one}}},
		{"one bad thing does not spoil the rest", findings{Verdict: scenario.Verdict{Wrong: one}}},
		{"one bad thing does not spoil the rest", findings{Verdict: scenario.Verdict{Twice: one}}},
		{"each accepted request has its device's end", findings{Verdict: scenario.Verdict{Untold: one}}},
		{"each accepted request has its device's end", findings{Verdict: scenario.Verdict{Mistold: one}}},
		{"each accepted request has its device's end", findings{Verdict: scenario.Verdict{Retold: one}}},
		{"each accepted request has its device's end", findings{alarms: 1}},
		{"as fast as Graph allows", findings{slow: one}},
		{"no call inside an announced Retry-After", findings{early: one}},
		{"no call that a client must not make", findings{sim: graphsim.Status{Violations: one}}},
		{"no secret, token or passcode", findings{leaks: one}},
	} {
		want, f := c.broken, c.f
		var out bytes.Buffer
		err := printPromises(&out, promises(f))
		if (want == "") != (err == nil) || err != nil && !errors.Is(err, sandbox.ErrBroken) {
			t.Errorf("%q: %v", want, err)
		}
		broken := 0
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, "BROKEN (1)") {
				broken++
				if !strings.HasPrefix(line, want) {
					t.Errorf("%q instead of %q", line, want)
				}
			}
		}
		if (want != "") != (broken == 1) || broken > 1 {
			t.Errorf("%q: %s", want, out.String())
		}
	}
}

func TestSlow(t *testing.T) {
	t.Parallel()
	ok := speed{calls: 500, throttled: 14, meant: 14, callsAfter: 300, pausesAfter: 8, caughtUp: 30 * time.Second}
	for name, c := range map[string]struct {
		change func(*speed)
		slow   bool
	}{
		"as it should be":                {func(*speed) {}, false},
		"429s that the requests bring":   {func(s *speed) { s.throttled, s.meant = 40, 40 }, false},
		"429s for the quota's sake":      {func(s *speed) { s.throttled = 14 + 11 }, true},
		"never caught up":                {func(s *speed) { s.caughtUp = 0 }, true},
		"just in time":                   {func(s *speed) { s.caughtUp = 48 * time.Second }, false}, // 20 s + 5 s + 8 s + 15 s
		"late":                           {func(s *speed) { s.caughtUp = 49 * time.Second }, true},
		"more calls may take longer":     {func(s *speed) { s.callsAfter, s.caughtUp = 600, 49*time.Second }, false},
		"more pauses may take longer":    {func(s *speed) { s.pausesAfter, s.caughtUp = 9, 49*time.Second }, false},
		"fewer pauses may take less":     {func(s *speed) { s.pausesAfter, s.caughtUp = 0, 41*time.Second }, true},
		"a few 429s while it finds out":  {func(s *speed) { s.throttled = 14 + 10 }, false},
		"a small day may have no 429 so": {func(s *speed) { s.calls, s.throttled = 49, 15 }, true},
	} {
		s := ok
		c.change(&s)
		if got := slow(s); (len(got) > 0) != c.slow {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestEarly(t *testing.T) {
	t.Parallel()
	began := time.Unix(100, 0)
	calls := []graphsim.Call{
		{Time: began, Method: "POST", Device: "d1", Status: 429},
		{Time: began.Add(underWay), Method: "POST", Device: "d4", Status: 204, SentDuringRetryAfter: true},
		{Time: began.Add(time.Second / 2), Method: "GET", Device: "d2", Status: 200, SentDuringRetryAfter: true},
		{Time: began.Add(2 * time.Second), Method: "POST", Device: "d3", Status: 204},
	}
	want := "GET at 0.500 s, answered 200 (d2), after POST at 0.000 s, answered 429 (d1)"
	if got := early(calls, began); len(got) != 1 || got[0] != want {
		t.Errorf("%q", got)
	}
}

func TestLeaks(t *testing.T) {
	t.Parallel()
	texts := map[string]string{"log": "a b", "record": "c SimPass-7 d"}
	if got := leaks([]string{"SimPass-7", "s3cret"}, texts); len(got) != 1 || !strings.Contains(got[0], "record") || strings.Contains(got[0], "SimPass") {
		t.Errorf("%q", got)
	}
	if got := leaks([]string{"s3cret"}, texts); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// TestPrintFates: what ended otherwise is in the table.
func TestPrintFates(t *testing.T) {
	t.Parallel()
	good := &scenario.Request{Kind: "good", Want: scenario.Accepted(), Resets: 1, Told: outcome.Done}
	bad := &scenario.Request{Kind: "404", Want: scenario.Dead(verdict.ReasonNotFound), Told: outcome.Done}
	fate := func(r *scenario.Request, got scenario.End, resets int, did outcome.Outcome) scenario.Fate {
		return scenario.Fate{Request: r, Got: got, Reset: resets, Outcome: did}
	}
	var out bytes.Buffer
	printFates(&out, []scenario.Fate{
		fate(good, scenario.Accepted(), 1, outcome.Done), fate(good, scenario.Accepted(), 2, outcome.Failed),
		fate(good, scenario.Accepted(), 1, ""), fate(good, scenario.End{}, 0, ""), fate(bad, bad.Want, 0, ""),
	})
	want := []string{
		"good 4 accepted 3 4 1 of 3 done 1 failed on the device, 1 no record, 1 nothing on the device",
		"404 1 dead: not_found 1 0",
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, w := range want {
		if len(lines) != len(want)+1 || strings.Join(strings.Fields(lines[i+1]), " ") != w {
			t.Errorf("%s", out.String())
		}
	}
}

// TestHeard: an end that was told twice is counted although the bucket holds it once,
// and one that nobody heard is counted as untold.
func TestHeard(t *testing.T) {
	t.Parallel()
	names := topology.DefaultNames()
	h := hearing(names)
	say := func(id string, o outcome.Outcome, header nats.Header) {
		d := fmt.Sprintf(`{"id":%q,"tenant":"default","outcome":%q,"final":%t,"acceptedAt":"2026-11-27T10:00:00Z"}`, id, o, o.Final())
		h.hear(&nats.Msg{Subject: names.Outcome(id), Header: header, Data: []byte(d)})
	}
	servers := nats.Header{jetstream.StreamHeader: {"KV_x"}, jetstream.SubjectHeader: {"x"}, jetstream.SequenceHeader: {"1"}, jetstream.TimeStampHeaer: {"2026-11-27T10:00:00Z"}}
	say("twice", outcome.Pending, servers)
	say("twice", outcome.Done, servers)
	say("twice", outcome.Done, servers)
	say("once", outcome.Failed, servers)
	h.hear(&nats.Msg{Subject: names.Outcome("once"), Data: []byte(`{"stream":"S","seq":1}`)})
	h.hear(&nats.Msg{Subject: names.Filter(), Data: []byte("SimPass-1")})
	ledger := scenario.Ledger{Outcomes: map[string]scenario.Telling{"twice": {Finals: 1}, "once": {Finals: 1}, "unheard": {Finals: 1}, "open": {}}}
	h.compare(ledger)
	for id, n := range map[string]int{"twice": 2, "once": 1, "unheard": 0, "open": 0} {
		if got := ledger.Outcomes[id].Finals; got != n {
			t.Errorf("%s: %d", id, got)
		}
	}
	if !strings.Contains(h.text(), "SimPass-1") {
		t.Error("not all is kept")
	}
}
