package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/record"
)

// report prints what was thrown against what was lost and doubled.
func (a *arena) report(out io.Writer, took time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kv, err := a.js.KeyValue(ctx, a.names.Bucket)
	if err != nil {
		return err
	}
	letters, err := deadLetters(ctx, a.js, a.names)
	if err != nil {
		return err
	}
	lettersOf := map[string]int{}
	for _, m := range letters {
		lettersOf[m.Header.Get(deadletter.HeaderRequestID)]++
	}
	var lost, doubled, both, wrong []string
	for _, q := range a.requests {
		if !q.published {
			continue
		}
		var r record.Record
		if err := readRecord(ctx, kv, a.names.Tenant, q.id, &r); err != nil || r.State != record.Accepted && r.State != record.Dead {
			lost = append(lost, fmt.Sprintf("%s is %q (%v)", q.id, r.State, err))
			continue
		}
		resets := 0
		if q.device != "" {
			resets = a.sim.Resets(q.device)
		}
		switch got := ends(r); {
		case resets > 1:
			doubled = append(doubled, fmt.Sprintf("%s: %d resets", q.id, resets))
		case r.State == record.Accepted && lettersOf[q.id] > 0 || lettersOf[q.id] > 1:
			both = append(both, fmt.Sprintf("%s is %s with %d dead letters", q.id, got, lettersOf[q.id]))
		case got != q.want || resets != q.resets || r.State == record.Dead && lettersOf[q.id] == 0:
			wrong = append(wrong, fmt.Sprintf("%s: %s with %d resets and %d letters, expected %s with %d", q.id, got, resets, lettersOf[q.id], q.want, q.resets))
		}
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nFAULT\tTIMES\tFIRST END AFTER IT: MEDIAN\tLONGEST")
	total := 0
	var slow []string
	for _, f := range a.faults {
		fmt.Fprintf(w, "%s\t%d", f.name, a.counts[f.name])
		total += a.counts[f.name]
		if all := a.recovery[f.name]; len(all) > 0 {
			slices.Sort(all)
			longest := all[len(all)-1]
			fmt.Fprintf(w, "\t%.1f s\t%.1f s", all[len(all)/2].Seconds(), longest.Seconds())
			if longest > f.within {
				slow = append(slow, fmt.Sprintf("%s: %.1f s", f.name, longest.Seconds()))
			}
		}
		fmt.Fprintln(w)
	}
	s := a.sim.Status()
	fmt.Fprintf(w, "\nrequests\t%d\nfaults\t%d\ncalls to Graph\t%d\nresets\t%d\nseconds\t%.0f\n\n", len(a.requests), total, s.Calls, s.Executed, took.Seconds())
	broken := false
	for _, p := range []struct {
		name string
		bad  []string
	}{{"lost", lost}, {"doubled", doubled}, {"ended twice", both}, {"ended wrongly", wrong}, {"calls that a client must not make", s.Violations}, {"slow to recover", slow}} {
		fmt.Fprintf(w, "%s\t%d\n", p.name, len(p.bad))
		for _, b := range p.bad[:min(len(p.bad), 10)] {
			fmt.Fprintf(w, "  %s\n", b)
		}
		broken = broken || len(p.bad) > 0
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if broken {
		return errBroken
	}
	return nil
}
