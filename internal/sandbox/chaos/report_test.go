package chaos

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
)

// TestFindings: whatever is wrong is found, under its name, and fails the chaos.
func TestFindings(t *testing.T) {
	t.Parallel()
	one := []string{"C1"}
	for want, all := range map[string][]finding{
		"":                                  findings(scenario.Verdict{}, graphsim.Status{}, nil, 0),
		"lost":                              findings(scenario.Verdict{Lost: one}, graphsim.Status{}, nil, 0),
		"doubled":                           findings(scenario.Verdict{Doubled: one}, graphsim.Status{}, nil, 0),
		"ended twice":                       findings(scenario.Verdict{Twice: one}, graphsim.Status{}, nil, 0),
		"ended wrongly":                     findings(scenario.Verdict{Wrong: one}, graphsim.Status{}, nil, 0),
		"outcomes lost":                     findings(scenario.Verdict{Untold: one}, graphsim.Status{}, nil, 0),
		"outcomes that are wrong":           findings(scenario.Verdict{Mistold: one}, graphsim.Status{}, nil, 0),
		"outcomes told twice":               findings(scenario.Verdict{Retold: one}, graphsim.Status{}, nil, 0),
		"calls that a client must not make": findings(scenario.Verdict{}, graphsim.Status{Violations: one}, nil, 0),
		"slow to recover":                   findings(scenario.Verdict{}, graphsim.Status{}, one, 0),
	} {
		var out bytes.Buffer
		err := printFindings(&out, all)
		if (want == "") != (err == nil) || err != nil && !errors.Is(err, sandbox.ErrBroken) {
			t.Errorf("%q: %v", want, err)
		}
		if n := strings.Count(out.String(), "\t1\n"); n > 1 || (want == "") != (n == 0) || want != "" && !strings.Contains(out.String(), want+"\t1\n  C1\n") {
			t.Errorf("%q: %s", want, out.String())
		}
	}
}

// TestAlarmsLeft: an alarm that is left fails the chaos.
func TestAlarmsLeft(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := printFindings(&out, findings(scenario.Verdict{}, graphsim.Status{}, nil, 3)); !errors.Is(err, sandbox.ErrBroken) || !strings.Contains(out.String(), "alarms left\t1\n  3 on") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestOutcomes counts the outcomes, in their order.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	l := scenario.Ledger{Outcomes: map[string]scenario.Telling{}}
	for i, o := range []outcome.Outcome{outcome.Removed, outcome.Done, outcome.Done} {
		l.Outcomes[strconv.Itoa(i)] = scenario.Telling{Last: outcome.Document{Outcome: o}}
	}
	if got := outcomes(l); got != "2 done, 1 removed" {
		t.Error(got)
	}
}

func TestSlow(t *testing.T) {
	t.Parallel()
	faults := []fault{{name: "kill", within: time.Second}, {name: "cut"}}
	for _, c := range []struct {
		took []time.Duration
		slow int
	}{
		{nil, 0},
		{[]time.Duration{time.Millisecond, time.Second}, 0},
		{[]time.Duration{1001 * time.Millisecond, time.Millisecond}, 1},
	} {
		if got := slow(faults, map[string][]time.Duration{"kill": c.took}); len(got) != c.slow {
			t.Errorf("%v: %q", c.took, got)
		}
	}
}

// TestSoakReport: a worker that grows is found, and one that warms up is not.
func TestSoakReport(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	steady := func(n int, change func(i int, r *reading)) []reading {
		out := make([]reading, n)
		for i := range out {
			out[i] = reading{memory: 30 * mib, goroutines: 60}
			change(i, &out[i])
		}
		return out
	}
	for _, c := range []struct {
		name    string
		samples []reading
		err     error
	}{
		{"steady", steady(40, func(int, *reading) {}), nil},
		{"warming up", steady(40, func(i int, r *reading) { r.memory = min(30, 10+float64(i)*4) * mib }), nil},
		{"one peak", steady(40, func(i int, r *reading) {
			if i == 39 {
				r.memory = 900 * mib
			}
		}), nil},
		{"memory grows", steady(40, func(i int, r *reading) { r.memory += float64(i) * mib }), sandbox.ErrBroken},
		{"goroutines grow", steady(40, func(i int, r *reading) { r.goroutines += float64(i) * 2 }), sandbox.ErrBroken},
	} {
		var out bytes.Buffer
		if err := soakReport(&out, c.samples); !errors.Is(err, c.err) {
			t.Errorf("%s: %v\n%s", c.name, err, out.String())
		}
	}
	if err := soakReport(&bytes.Buffer{}, steady(2, func(int, *reading) {})); err == nil || errors.Is(err, sandbox.ErrBroken) {
		t.Errorf("two samples: %v", err)
	}
}
