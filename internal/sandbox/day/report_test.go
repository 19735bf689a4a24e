package day

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
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
		{"as fast as Graph allows", findings{slow: one}},
		{"no call inside an announced Retry-After", findings{sim: graphsim.Status{DuringRetry: 1}}},
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
	good := &scenario.Request{Kind: "good", Want: scenario.Accepted(), Resets: 1}
	var out bytes.Buffer
	printFates(&out, []scenario.Fate{
		{Request: good, Got: scenario.Accepted(), Reset: 1}, {Request: good, Got: scenario.Accepted(), Reset: 2}, {Request: good},
	})
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || strings.Join(strings.Fields(lines[1]), " ") != "good 3 accepted 2 3 1 no record" {
		t.Errorf("%s", out.String())
	}
}
