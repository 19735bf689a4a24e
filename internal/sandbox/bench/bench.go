// Package bench measures the worker beside bare loops that do the same steps.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"passcode-worker/internal/sandbox"
)

// Options are those of the command line.
type Options struct {
	Rows    []string // what to measure: all, quick, or names of rows
	Repeats int      // runs of each row; the median counts
	N       int      // requests of each run of the row drain
	Waiting int      // requests that wait in the row memory
	Profile string   // folder for profiles of the row drain; empty: none
	Output  string   // table or json
}

// slots is how many requests a floor works on at a time: as many as the
// worker does.
const slots = 32

// row is one line of what the worker has to reach. Each run makes its own
// world.
type row struct {
	name string
	// quick rows take half a minute at most.
	quick bool
	// idle rows wait for a quota most of their time: all of them, and their
	// repeats, run side by side, each in a world of its own.
	idle bool
	run  func(Options, context.Context) ([]sample, error)
}

func allRows() []row {
	return []row{
		{name: "drain", quick: true, run: Options.drain},
		{name: "burst", quick: true, run: Options.burst},
		{name: "latency", quick: true, run: Options.latency},
		{name: "start", quick: true, run: Options.start},
		{name: "throttled", quick: true, run: badNeighbour(neighbourThrottled)},
		{name: "forbidden", run: badNeighbour(neighbourForbidden)},
		{name: "hanging", run: badNeighbour(neighbourHanging)},
		{name: "crowded", run: badNeighbour(neighbourCrowded)},
		{name: "memory", run: Options.memory},
		{name: "carry", run: Options.carry},
		{name: "alarms", run: Options.alarms},
		{name: "quota", idle: true, run: quotaRow(quotaKnown)},
		{name: "high-told", idle: true, run: quotaRow(quotaTold)},
		{name: "high-untold", idle: true, run: quotaRow(quotaUntold)},
	}
}

// RowNames are the names of all rows, for people.
func RowNames() string {
	var names []string
	for _, r := range allRows() {
		names = append(names, r.name)
	}
	return strings.Join(names, ", ")
}

// errMissed means that something was measured that is not what it should be.
var errMissed = errors.New("a figure was not reached")

// Run measures, and fails where a figure was not reached.
func Run(ctx context.Context, c Options, out io.Writer) error {
	rows, err := c.chosen()
	if err != nil {
		return err
	}
	all := newFigures(rows)
	var alone, idle []row
	for _, r := range rows {
		if r.idle {
			idle = append(idle, r)
		} else {
			alone = append(alone, r)
		}
	}
	// One turn of all rows after the other, so that a noisy minute does not hit
	// every run of one row.
	for i := range c.Repeats {
		for _, r := range alone {
			fmt.Fprintf(os.Stderr, "%s, run %d of %d\n", r.name, i+1, c.Repeats)
			if err := all.measure(ctx, r, c); err != nil {
				return err
			}
		}
	}
	if len(idle) > 0 {
		fmt.Fprintf(os.Stderr, "%d runs side by side that wait for a quota: about 90 s\n", len(idle)*c.Repeats)
		if err := c.sideBySide(ctx, all, idle); err != nil {
			return err
		}
	}
	if err := all.print(out, c.Output); err != nil {
		return err
	}
	if !all.reached() {
		return errMissed
	}
	return nil
}

// staggered is how far apart the runs begin that go on side by side, so that
// their bursts do not meet.
const staggered = 1700 * time.Millisecond

func (c Options) sideBySide(ctx context.Context, all *figures, rows []row) error {
	var group sync.WaitGroup
	errs := make(chan error, len(rows)*c.Repeats)
	for i := range c.Repeats {
		for j, r := range rows {
			group.Go(func() {
				err := sandbox.Pause(ctx, time.Duration(i*len(rows)+j)*staggered)
				if err == nil {
					err = all.measure(ctx, r, c)
				}
				errs <- err
			})
		}
	}
	group.Wait()
	close(errs)
	var failed []error
	for err := range errs {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// chosen are the rows to measure, in their order.
func (c Options) chosen() ([]row, error) {
	var rows []row
	wanted := map[string]bool{}
	for _, name := range c.Rows {
		wanted[name] = true
	}
	for _, r := range allRows() {
		if wanted["all"] || wanted["quick"] && r.quick || wanted[r.name] {
			rows = append(rows, r)
		}
		delete(wanted, r.name)
	}
	delete(wanted, "all")
	delete(wanted, "quick")
	for name := range wanted {
		return nil, fmt.Errorf("--rows: %q is none of: all, quick, %s", name, RowNames())
	}
	if c.Repeats < 1 || c.N < 1 || c.Waiting < 1 {
		return nil, errors.New("--repeats, --n and --waiting are at least 1")
	}
	return rows, nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}
