package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/sandbox"
)

// TestMain lets the test binary be the processes that a world starts.
func TestMain(m *testing.M) {
	natstest.Main()
	if os.Getenv(asWorld) == "" || len(os.Args) < 2 {
		if err := os.Setenv(asWorld, "1"); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
	err := fmt.Errorf("started as %q", os.Args[1])
	switch os.Args[1] {
	case "graph":
		err = sandbox.ServeGraph(os.Stdin, os.Stdout)
	case "floor":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err = Floor(ctx, FloorOptions{NATSURL: os.Getenv("NATS_URL"), Graph: os.Getenv("GRAPH_ENDPOINT"), Bare: slices.Contains(os.Args, "--bare")})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// asWorld is set where this program is started by itself.
const asWorld = "BENCH_TEST_WORLD"

// TestDrain measures a short drain with the real programs, and holds what it counts against
// what is known: two record writes, an alarm and an ack are four messages.
func TestDrain(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s := setting{Options: Options{N: 300}, worker: filepath.Join(t.TempDir(), "worker")}
	if err := s.build(ctx, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	r := (Options{}).all()[0]
	all := newFigures([]chosenRow{{row: r}})
	if err := s.measure(ctx, all, chosenRow{row: r}); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range all.all() {
		if got[f.What] = f.Median; f.Goal != nil && f.Reached == nil {
			t.Errorf("%s has a goal, and is not held against it", f.What)
		}
	}
	between := func(what string, least, most float64) {
		t.Helper()
		if v, ok := got[what]; !ok || v < least || v > most {
			t.Errorf("%s: %g, not between %g and %g", what, v, least, most)
		}
	}
	// What happens before the first call is not counted.
	between("worker: of these, record writes", 1.5, 2.2)
	between("worker: of these, alarms", 0.8, 1.1)
	between("floor: messages to NATS", 3, 4.2)
	between("worker: messages to NATS", 3, 10)
	between("worker", 1, 1e6)
	between("worker to floor", 0.001, 1000)
	if hasProc() {
		between("processor time of the worker's process", 0, 1e6)
		between("processor time of Graph, beside the worker", 0, 1e6)
	}
}

// TestProfile: a worker with the file laid over its source writes a profile between two
// signals, and the product's own program has no such thing.
func TestProfile(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s := setting{Options: Options{Profile: t.TempDir()}, worker: filepath.Join(t.TempDir(), "worker")}
	if err := s.build(ctx, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(ctx, s, place{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	file := w.profile(workerName)
	p, err := w.start(map[string]string{profileVariable: file}, w.worker, "run")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.load(ctx, w.names.Filter(), 0, 1), w.posted(ctx, 1)); err != nil {
		t.Fatal(err)
	}
	if err := w.alive(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(p.Signal(syscall.SIGUSR1), w.endProfile(ctx, p, file), p.end()); err != nil {
		t.Fatalf("%v\n%s", err, w.logs())
	}
	// One that ends by itself is not waited for.
	p, err = w.work(noRate)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if err := w.posted(ctx, 1000); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("a worker was killed: %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Errorf("the profile: %v, %v", info, err)
	}
}

// TestProc reads what this process costs, and cannot read of one that is not there.
func TestProc(t *testing.T) {
	t.Parallel()
	if !hasProc() {
		if v, err := processorTime(os.Getpid()); !math.IsNaN(v) || err != nil {
			t.Errorf("%g, %v", v, err)
		}
		t.Skip("no /proc")
	}
	const none = 1 << 30
	for what, v := range map[string]struct {
		get func(pid int) (float64, error)
		max float64
	}{
		"processor time": {func(pid int) (float64, error) { return processorTime(pid) }, 3600},
		"resident":       {func(pid int) (float64, error) { return memoryOf(pid, resident) }, 10_000},
		"peak":           {func(pid int) (float64, error) { return memoryOf(pid, peakResident) }, 10_000},
	} {
		if got, err := v.get(os.Getpid()); err != nil || got < 0 || got > v.max {
			t.Errorf("%s: %g, %v", what, got, err)
		}
		if _, err := v.get(none); err == nil {
			t.Errorf("%s of a process that is not there", what)
		}
	}
}

func TestSum(t *testing.T) {
	t.Parallel()
	scrape := []byte("# HELP a_total x\na_total{r=\"x\",tenant=\"1\"} 2\na_total{r=\"x\",tenant=\"2\"} 3\na_total{r=\"y\",tenant=\"1\"} 7\n")
	if got := sum(scrape, `a_total{r="x"`); got != 5 {
		t.Errorf("%g", got)
	}
}

// TestRatios: as many steps are taken as it needs to tell on which side of the goal the
// ratio is, and each worker has been on each side as often.
func TestRatios(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		one, other float64 // what every second pair of steps comes to
		clearAt    int     // 0: never
		mean       float64
	}{
		"equal, without noise":    {1, 1, fewestSteps, 1},
		"equal, with some noise":  {1 / 1.05, 1.05, fewestSteps, 1},
		"equal, with much noise":  {1 / 1.06, 1.06, 28, 1}, // 3 × ln 1.06 / √(14-1) is less than -ln 0.95
		"worse by a tenth":        {0.9, 0.9, fewestSteps, 0.9},
		"worse, with much noise":  {0.9 / 1.06, 0.9 * 1.06, 22, 0.9},
		"just as good as it must": {keeps / 1.05, keeps * 1.05, 0, keeps},
	} {
		var r ratios
		clearAt := 0
		for step := range neighbourSteps {
			if clearAt == 0 && r.clear(step) {
				clearAt = step
			}
			r.add(1000, 1000*[]float64{c.one, c.other}[step/2%2])
		}
		if mean, _ := r.mean(); clearAt != c.clearAt || math.Abs(mean-c.mean) > 1e-9 {
			t.Errorf("%s: clear after %d steps, %g", name, clearAt, mean)
		}
	}
}

// TestReached: the median is held against the goal, whichever side it is of, or every run
// where the goal asks for it. What is not a number is left out.
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
		{[]float64{0.94, 0.95, 2}, atLeast(0.95).each(), false},
		{[]float64{0.95, 0.96, 2}, atLeast(0.95).each(), true},
		{[]float64{1, 1, 6}, atMost(5).each(), false},
		{[]float64{1, 1, 5}, atMost(5).each(), true},
		{[]float64{1}, nil, true},
	} {
		f := newFigures([]chosenRow{{row: row{name: "r"}}})
		for _, v := range c.values {
			f.add("r", []sample{{what: "w", value: v, goal: c.goal}, {what: "left out", value: math.NaN(), goal: atLeast(1)}})
		}
		var table, text bytes.Buffer
		if err := errors.Join(f.print(&table, "table"), f.print(&text, "json")); err != nil {
			t.Fatal(err)
		}
		if f.reached() != c.reached || strings.Contains(table.String(), "missed") == c.reached || strings.Contains(text.String(), `"reached": false`) == c.reached {
			t.Errorf("%v for %v: %v\n%s%s", c.values, c.goal, f.reached(), table.String(), text.String())
		}
		if strings.Contains(table.String(), "left out") {
			t.Errorf("what is not a number is told:\n%s", table.String())
		}
	}
}

func TestChosen(t *testing.T) {
	t.Parallel()
	one := Options{N: 1, Waiting: 1, Tenants: 2000, Streams: 3}
	quick, named := 0, 0
	for _, r := range (Options{}).all() {
		if r.quick {
			quick++
		}
		if r.named {
			named++
		}
	}
	whole := len((Options{}).all())
	for names, want := range map[string]int{"all": whole - named, "all,streams": whole - named + 1, "quick": quick, "drain": 1, "drain,quick": quick, "memory,quick": quick + 1} {
		o := one
		o.Rows = strings.Split(names, ",")
		rows, err := o.chosen()
		if err != nil || len(rows) != want {
			t.Errorf("%s: %d rows, %v", names, len(rows), err)
		}
		for _, r := range rows {
			if brief := strings.Contains(names, "quick") && r.name != "drain" && r.name != "memory"; r.name != "drain" && r.brief != brief {
				t.Errorf("%s: the row %s is brief: %v", names, r.name, r.brief)
			}
			if r.times != max(1, r.runs) {
				t.Errorf("%s: %d runs of the row %s", names, r.times, r.name)
			}
		}
	}
	o := one
	o.Rows, o.Repeats = []string{"quota"}, 7
	if rows, err := o.chosen(); err != nil || rows[0].times != 7 {
		t.Errorf("%v, %v", rows, err)
	}
	o = one
	o.Rows = []string{"drian"}
	if _, err := o.chosen(); err == nil || !strings.Contains(err.Error(), "drain, cluster") {
		t.Errorf("%v", err)
	}
	o = one
	o.Rows, o.Repeats = []string{"all"}, -1
	if _, err := o.chosen(); err == nil {
		t.Error("a negative number of runs is taken")
	}
	for _, streams := range []int{0, mostStreams + 1} {
		o = one
		o.Rows, o.Streams = []string{"streams"}, streams
		if _, err := o.chosen(); err == nil || !strings.Contains(err.Error(), "--streams") {
			t.Errorf("%d streams: %v", streams, err)
		}
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
	for _, r := range (Options{}).all() {
		want = append(want, r.name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the page has the rows %q, the program %q", got, want)
	}
}
