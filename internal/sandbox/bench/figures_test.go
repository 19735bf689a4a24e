package bench

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestReached: the median is held against the goal, whichever side it is of.
func TestReached(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values  []float64
		goal    *goal
		reached bool
	}{
		{[]float64{0.9, 0.95, 2}, atLeast(0.95), true},
		{[]float64{0.9, 0.94, 2}, atLeast(0.95), false},
		{[]float64{64, 70, 1}, atMost(64), true},
		{[]float64{65, 70, 1}, atMost(64), false},
		{[]float64{1, 2}, atMost(1.4), false}, // the mean of the middle two
		{[]float64{1}, nil, true},
	} {
		rows := []row{{name: "r"}}
		f := newFigures(rows)
		for _, v := range c.values {
			rows[0].run = func(Options, context.Context) ([]sample, error) {
				return []sample{{what: "w", value: v, goal: c.goal}}, nil
			}
			if err := f.measure(t.Context(), rows[0], Options{}); err != nil {
				t.Fatal(err)
			}
		}
		var table, text bytes.Buffer
		if err := errors.Join(f.print(&table, "table"), f.print(&text, "json")); err != nil {
			t.Fatal(err)
		}
		if f.reached() != c.reached || strings.Contains(table.String(), "missed") == c.reached || strings.Contains(text.String(), `"reached": false`) == c.reached {
			t.Errorf("%v for %v: %v\n%s%s", c.values, c.goal, f.reached(), table.String(), text.String())
		}
	}
}

func TestChosen(t *testing.T) {
	t.Parallel()
	one := Options{Repeats: 1, N: 1, Waiting: 1}
	for names, want := range map[string]int{"all": len(allRows()), "quick": 5, "drain": 1, "drain,quick": 5, "memory,quick": 6} {
		o := one
		o.Rows = strings.Split(names, ",")
		if rows, err := o.chosen(); err != nil || len(rows) != want {
			t.Errorf("%s: %d rows, %v", names, len(rows), err)
		}
	}
	o := one
	o.Rows = []string{"drian"}
	if _, err := o.chosen(); err == nil || !strings.Contains(err.Error(), "drain, burst") {
		t.Errorf("%v", err)
	}
	o = Options{Rows: []string{"all"}, Repeats: 0, N: 1, Waiting: 1}
	if _, err := o.chosen(); err == nil {
		t.Error("no repeats are taken")
	}
}

// TestIdeal: the ideal that the quota's rows are held against, worked out by hand.
func TestIdeal(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{
		1:    graphLatency,
		32:   graphLatency,
		33:   2 * graphLatency,
		200:  7 * graphLatency,
		201:  grantedIn + graphLatency,
		1000: 4*grantedIn + 7*graphLatency,
	} {
		if got := idealDrain(n); math.Abs(float64(got-want)) > float64(time.Microsecond) {
			t.Errorf("%d: %s instead of %s", n, got, want)
		}
	}
}

// The manual's table of rows has each row that can be measured, and no other.
func TestManualNamesEveryRow(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Measure it yourself\n")
	var got, want []string
	for line := range strings.Lines(section) {
		first, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		if strings.HasPrefix(line, "| `") {
			for _, name := range strings.Split(first, ",") {
				got = append(got, strings.Trim(name, " `"))
			}
		}
	}
	for _, r := range allRows() {
		want = append(want, r.name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the page has the rows %q, the program %q", got, want)
	}
}
