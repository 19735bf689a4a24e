package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"text/tabwriter"
)

// sample is one figure of one run.
type sample struct {
	what string
	unit string
	// value is not a number where this system does not tell.
	value float64
	// goal is what it is to reach; nil: it is there for comparison.
	goal *goal
}

// goal is what a figure is to reach.
type goal struct {
	// Bound is the least that the figure may be, or the most, as Most says.
	Bound float64 `json:"bound"`
	Most  bool    `json:"most,omitzero"`
	// Every run has to reach it, and not their median.
	Every bool `json:"every,omitzero"`
}

func atLeast(bound float64) *goal { return &goal{Bound: bound} }
func atMost(bound float64) *goal  { return &goal{Bound: bound, Most: true} }

// each is the goal for every single run.
func (g goal) each() *goal { g.Every = true; return &g }

func (g goal) String() string {
	sign := "≥"
	if g.Most {
		sign = "≤"
	}
	if g.Every {
		sign = "each " + sign
	}
	return fmt.Sprintf("%s %g", sign, g.Bound)
}

// figure is what all runs say of one thing.
type figure struct {
	Row    string    `json:"row"`
	What   string    `json:"what"`
	Unit   string    `json:"unit"` // empty: a ratio
	Values []float64 `json:"values"`
	Median float64   `json:"median"`
	Least  float64   `json:"least"`
	Most   float64   `json:"most"`
	Goal   *goal     `json:"goal,omitempty"`
	// ToGoal is the median by the goal, or the worst value where each run has to reach it:
	// it is reached from 1 on, or up to 1 where the goal is an upper bound.
	ToGoal  float64 `json:"toGoal,omitzero"`
	Reached *bool   `json:"reached,omitempty"`
}

// figures is what was measured, by row.
type figures struct {
	order []string

	mu   sync.Mutex
	rows map[string][]*figure
}

func newFigures(rows []chosenRow) *figures {
	f := &figures{rows: map[string][]*figure{}}
	for _, r := range rows {
		f.order = append(f.order, r.name)
	}
	return f
}

// add takes the samples of one run of a row. What is not a number is left out.
func (f *figures) add(row string, samples []sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range samples {
		if math.IsNaN(s.value) || math.IsInf(s.value, 0) { // a ratio to what was too short to count
			continue
		}
		i := slices.IndexFunc(f.rows[row], func(g *figure) bool { return g.What == s.what })
		if i < 0 {
			i = len(f.rows[row])
			f.rows[row] = append(f.rows[row], &figure{Row: row, What: s.what, Unit: s.unit, Goal: s.goal})
		}
		g := f.rows[row][i]
		g.Values = append(g.Values, s.value)
		g.sum()
	}
}

func (g *figure) sum() {
	g.Median, g.Least, g.Most = median(g.Values), slices.Min(g.Values), slices.Max(g.Values)
	if g.Goal == nil {
		return
	}
	judged := g.Median
	switch {
	case g.Goal.Every && g.Goal.Most:
		judged = g.Most
	case g.Goal.Every:
		judged = g.Least
	}
	g.ToGoal = judged / g.Goal.Bound
	g.Reached = new(g.ToGoal >= 1 != g.Goal.Most || g.ToGoal == 1)
}

// all are the figures in the order of the rows.
func (f *figures) all() []*figure {
	out := []*figure{}
	for _, name := range f.order {
		out = append(out, f.rows[name]...)
	}
	return out
}

func (f *figures) reached() bool {
	return !slices.ContainsFunc(f.all(), func(g *figure) bool { return g.Reached != nil && !*g.Reached })
}

func (f *figures) print(w io.Writer, form string) error {
	if form == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(f.all())
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ROW\tFIGURE\tMEDIAN\tLEAST\tMOST\tUNIT\tTO REACH\t\tOF IT") // Flush tells a failed write
	last := ""
	for _, g := range f.all() {
		row, bound, verdict, ratio := g.Row, "", "", ""
		if row == last {
			row = ""
		}
		last = g.Row
		if g.Goal != nil {
			bound, verdict, ratio = g.Goal.String(), "missed", fmt.Sprintf("%.3f", g.ToGoal)
			if *g.Reached {
				verdict = "reached"
			}
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			row, g.What, short(g.Median), short(g.Least), short(g.Most), g.Unit, bound, verdict, ratio)
	}
	return t.Flush()
}

// short writes a figure with as many digits as mean something.
func short(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
