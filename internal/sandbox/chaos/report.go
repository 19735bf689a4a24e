package chaos

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
)

// report prints what was thrown against what was lost and doubled.
func (a *arena) report(out io.Writer, took time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ledger, _, err := scenario.Read(ctx, a.JS, a.Names, a.Sim)
	if err != nil {
		return err
	}
	if !a.follows {
		ledger.Outcomes = nil
	}
	alarms, err := a.Alarms(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nFAULT\tTIMES\tFIRST END AFTER IT: MEDIAN\tLONGEST")
	total := 0
	for _, f := range a.faults {
		fmt.Fprintf(w, "%s\t%d", f.name, a.counts[f.name])
		total += a.counts[f.name]
		if all := slices.Sorted(slices.Values(a.recovery[f.name])); len(all) > 0 {
			fmt.Fprintf(w, "\t%.1f s\t%.1f s", all[len(all)/2].Seconds(), all[len(all)-1].Seconds())
		}
		fmt.Fprintln(w)
	}
	s := a.Sim.Status()
	published := 0
	for _, r := range a.requests {
		if len(r.Sequences) > 0 {
			published++
		}
	}
	fmt.Fprintf(w, "\nrequests\t%d\nfaults\t%d\ncalls to Graph\t%d\nlooks\t%d\nresets\t%d\n", published, total, s.Posts, s.Gets, s.Executed)
	if a.follows {
		fmt.Fprintf(w, "outcomes\t%s\nfollowed again after their alarm was lost\t%d\n", outcomes(ledger), a.madeUp)
	} else {
		alarms = 0 // they are as in life, and last longer than this
	}
	fmt.Fprintf(w, "seconds\t%.0f\n\n", took.Seconds())
	err = printFindings(w, findings(scenario.Judge(a.requests, ledger), s, slow(a.faults, a.recovery), int(alarms)))
	if flushErr := w.Flush(); flushErr != nil {
		return flushErr
	}
	return err
}

// finding is what must not be, and where it is all the same.
type finding struct {
	name string
	bad  []string
}

// outcomes says how many of each there are.
func outcomes(l scenario.Ledger) string {
	count := map[outcome.Outcome]int{}
	for _, t := range l.Outcomes {
		count[t.Last.Outcome]++
	}
	var out []string
	for _, o := range outcome.All() {
		if n := count[o]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, o))
		}
	}
	return strings.Join(out, ", ")
}

func findings(v scenario.Verdict, sim graphsim.Status, slow []string, alarms int) []finding {
	var left []string
	if alarms > 0 {
		left = []string{fmt.Sprintf("%d on the follow stream", alarms)}
	}
	return []finding{
		{"lost", v.Lost},
		{"doubled", v.Doubled},
		{"ended twice", v.Twice},
		{"ended wrongly", v.Wrong},
		{"outcomes lost", v.Untold},
		{"outcomes that are wrong", v.Mistold},
		{"outcomes told twice", v.Retold},
		{"alarms left", left},
		{"calls that a client must not make", sim.Violations},
		{"slow to recover", slow},
	}
}

func printFindings(out io.Writer, all []finding) error {
	var err error
	for _, f := range all {
		fmt.Fprintf(out, "%s\t%d\n", f.name, len(f.bad))
		for _, b := range f.bad[:min(len(f.bad), 10)] {
			fmt.Fprintf(out, "  %s\n", b)
		}
		if len(f.bad) > 0 {
			err = sandbox.ErrBroken
		}
	}
	return err
}

// slow tells after which faults a request took longer to end than it may.
func slow(faults []fault, recovery map[string][]time.Duration) []string {
	var out []string
	for _, f := range faults {
		if all := recovery[f.name]; len(all) > 0 && slices.Max(all) > f.within {
			out = append(out, fmt.Sprintf("%s: %.1f s", f.name, slices.Max(all).Seconds()))
		}
	}
	return out
}
