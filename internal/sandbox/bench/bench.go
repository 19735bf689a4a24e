// Package bench measures the worker beside bare loops that do the same steps. NATS, the
// simulated Graph, the worker and the loop are each a process of its own, as in life.
package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/sandbox"
)

// Options are those of the command line.
type Options struct {
	Rows    []string // what to measure: all, quick, or names of rows; all leaves out those that take long
	Repeats int      // runs of each row; 0: as many as the row needs
	N       int      // requests of each turn of the row drain
	Waiting int      // requests that wait in the row memory
	Tenants int      // of the rows tenants and replicas; a quarter of them in those of a cluster, and two and a half times as many in streams
	Streams int      // over which the rows streams and cluster-streams spread their tenants
	Profile string   // folder for profiles of the row drain; empty: none
	Output  string   // table or json
}

// setting is what all rows share.
type setting struct {
	Options
	worker string // the program
	brief  bool   // the row is one of the quick ones, and waits less
}

// slots is how many requests a floor works on at a time: as many as the
// worker does.
const slots = 32

// row is one line of what the worker has to reach. Each run has a world of its own.
type row struct {
	name string
	// quick rows are those of "quick".
	quick bool
	// waits: the row waits most of its time, and costs little. All of them, and their
	// runs, go on side by side; the others run alone.
	waits bool
	// named rows take minutes for a figure without a goal: "all" leaves them out.
	named bool
	runs  int // 0: one
	in    place
	run   func(context.Context, *world) ([]sample, error)
}

func (c Options) all() []row {
	silent := place{sim: graphsim.Config{NoCallLog: true}}
	three := silent
	three.cluster = true
	neighbours := place{sim: graphsim.Config{NoCallLog: true, QuotaUnknown: true}, tenants: neighbourCount}
	fleet, fleetOfThree := place{tenants: c.Tenants}, place{tenants: c.Tenants / 4, cluster: true}
	spread, spreadOnThree := place{tenants: 5 * c.Tenants / 2, spread: c.Streams}, fleetOfThree
	spreadOnThree.spread = c.Streams
	return []row{
		{name: "drain", quick: true, in: silent, run: drain},
		{name: "cluster", in: three, run: drain},
		{name: "burst", quick: true, runs: 3, in: granting(graphsim.Decimal), run: burst},
		{name: "latency", quick: true, runs: 3, run: latency},
		{name: "start", quick: true, runs: 3, run: start},
		{name: "throttled", quick: true, in: neighbours, run: badNeighbour(neighbourThrottled)},
		{name: "forbidden", in: neighbours, run: badNeighbour(neighbourForbidden)},
		{name: "hanging", in: neighbours, run: badNeighbour(neighbourHanging)},
		{name: "crowded", in: neighbours, run: badNeighbour(neighbourCrowded)},
		{name: "tenants", quick: true, in: fleet, run: tenants},
		{name: "cluster-tenants", in: fleetOfThree, run: tenants},
		{name: "streams", named: true, in: spread, run: tenants},
		{name: "cluster-streams", named: true, in: spreadOnThree, run: tenants},
		{name: "consumers", in: silent, run: consumers},
		{name: "cluster-consumers", named: true, in: three, run: consumers},
		{name: "replicas", in: fleet, run: replicas},
		{name: "memory", in: silent, run: memory},
		{name: "alarms", run: alarms},
		{name: "recover", quick: true, waits: true, in: granting(graphsim.Decimal), run: recovery},
		{name: "quota", waits: true, runs: 3, in: granting(graphsim.Decimal), run: quota(quotaKnown)},
		{name: "high-told", waits: true, runs: 5, in: secretive(graphsim.Decimal), run: quota(quotaTold)},
		{name: "high-untold", waits: true, runs: 5, in: secretive(graphsim.None), run: quota(quotaUntold)},
	}
}

// RowNames are the names of all rows, for people.
func RowNames() string {
	var names []string
	for _, r := range (Options{}).all() {
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
	if !hasProc() {
		fmt.Fprintln(os.Stderr, "there is no /proc: the figures of processor time and memory are left out")
	}
	dir, err := os.MkdirTemp("", "passcode-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	s := setting{Options: c, worker: filepath.Join(dir, "worker")}
	if err := s.build(ctx, dir); err != nil {
		return err
	}
	all := newFigures(rows)
	waiting := func(r chosenRow) bool { return r.waits }
	failed := errors.Join(
		s.oneByOne(ctx, all, slices.DeleteFunc(slices.Clone(rows), waiting)),
		s.sideBySide(ctx, all, slices.DeleteFunc(rows, func(r chosenRow) bool { return !waiting(r) })))
	if !all.reached() {
		failed = errors.Join(failed, errMissed)
	}
	return errors.Join(failed, all.print(out, c.Output))
}

//go:embed profile.go
var profileSource string

// build builds the worker. Where a profile is asked for, a file is laid over its source
// for this build, which lets signals begin and end one; the product knows nothing of it.
func (s setting) build(ctx context.Context, dir string) error {
	if s.Profile == "" {
		return sandbox.BuildWorker(ctx, s.worker)
	}
	if err := os.MkdirAll(s.Profile, 0o755); err != nil {
		return err
	}
	source, overlay := filepath.Join(dir, "profile.go"), filepath.Join(dir, "overlay.json")
	text := strings.Replace(profileSource, "package bench", "package main", 1) +
		"\nfunc init() { profileBetweenSignals(os.Getenv(profileVariable)) }\n"
	place, err := sandbox.WorkerSource(ctx)
	if err != nil {
		return err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(place, "bench_profile.go"): source}})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(source, []byte(text), 0o600), os.WriteFile(overlay, list, 0o600)); err != nil {
		return err
	}
	return sandbox.BuildWorker(ctx, s.worker, "-overlay", overlay)
}

// measure makes one run of a row, in a world of its own.
func (s setting) measure(ctx context.Context, all *figures, r chosenRow) error {
	s.brief = r.brief
	w, err := newWorld(ctx, s, r.in)
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	defer w.close()
	samples, err := r.run(ctx, w)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", r.name, err, w.logs())
	}
	all.add(r.name, samples)
	return nil
}

// oneByOne runs rows that need the machine for themselves: one turn of all after the
// other, so that a noisy minute does not hit every run of one. One that fails does not
// keep the others from being measured.
func (s setting) oneByOne(ctx context.Context, all *figures, rows []chosenRow) (failed error) {
	for i, left := 0, true; left; i++ {
		left = false
		for _, r := range rows {
			if i >= r.times || ctx.Err() != nil {
				continue
			}
			left = true
			fmt.Fprintf(os.Stderr, "%s, run %d of %d\n", r.name, i+1, r.times)
			failed = errors.Join(failed, s.measure(ctx, all, r))
		}
	}
	return failed
}

// staggered is how far apart the runs begin that go on side by side, so that
// their bursts do not meet.
const staggered = 1700 * time.Millisecond

// sideBySide runs rows that wait.
func (s setting) sideBySide(ctx context.Context, all *figures, rows []chosenRow) error {
	var runs []chosenRow
	for _, r := range rows {
		runs = append(runs, slices.Repeat([]chosenRow{r}, r.times)...)
	}
	if len(runs) > 0 {
		fmt.Fprintf(os.Stderr, "%d runs side by side that wait most of the time\n", len(runs))
	}
	errs := make([]error, len(runs))
	var group sync.WaitGroup
	for i, r := range runs {
		group.Go(func() {
			if errs[i] = sandbox.Pause(ctx, time.Duration(i)*staggered); errs[i] == nil {
				errs[i] = s.measure(ctx, all, r)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// chosenRow is a row to measure.
type chosenRow struct {
	row
	times int
	brief bool
}

// chosen are the rows to measure, in their order.
func (c Options) chosen() ([]chosenRow, error) {
	var rows []chosenRow
	wanted := map[string]bool{}
	for _, name := range c.Rows {
		wanted[name] = true
	}
	for _, r := range c.all() {
		times := max(1, r.runs)
		if c.Repeats > 0 {
			times = c.Repeats
		}
		switch {
		case wanted["all"] && !r.named || wanted[r.name]:
			rows = append(rows, chosenRow{r, times, false})
		case wanted["quick"] && r.quick:
			rows = append(rows, chosenRow{r, times, true})
		}
		delete(wanted, r.name)
	}
	delete(wanted, "all")
	delete(wanted, "quick")
	for name := range wanted {
		return nil, fmt.Errorf("--rows: %q is none of: all, quick, %s", name, RowNames())
	}
	if c.Repeats < 0 || c.N < 1 || c.Waiting < 1 || c.Tenants < 4*sampled {
		return nil, fmt.Errorf("--n and --waiting are at least 1, --tenants %d, and --repeats is not negative", 4*sampled)
	}
	if c.Streams < 1 || c.Streams > mostStreams {
		return nil, fmt.Errorf("--streams is 1 to %d", mostStreams)
	}
	return rows, nil
}

// mostStreams is how many streams even the fewest tenants can be spread over.
const mostStreams = sampled

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}
