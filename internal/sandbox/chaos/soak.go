package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
)

// SoakOptions are those of the command line.
type SoakOptions struct {
	For    time.Duration
	Rate   int    // requests published in a second
	Worker string // the worker's program; empty: built
	Keep   bool   // the folder with logs and streams
}

const (
	soakEvery = 2 * time.Second
	// soakParts is how many parts the time is divided into. The first warms up;
	// the last must not need more than the second, but for a little.
	soakParts = 4
	// What the last part may have more than the second.
	soakMemory     = 8 << 20
	soakShare      = 1.2
	soakGoroutines = 20
)

// reading is what a worker process uses.
type reading struct{ memory, goroutines float64 }

// Soak lets one worker work through mixed requests, some of which fail, and
// compares what it uses at the end with what it used once it was warm.
func Soak(ctx context.Context, o SoakOptions, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, o.For+5*time.Minute)
	defer cancel()
	port, err := sandbox.FreePort()
	if err != nil {
		return err
	}
	address := fmt.Sprint("127.0.0.1:", port)
	a, err := newArena(ctx, arenaConfig{workers: 1, program: o.Worker, env: map[string]string{"WORKER_HTTP_ADDR": address}})
	if err != nil {
		return err
	}
	defer a.close(o.Keep)
	a.requests = scenario.Chaos(int(o.For.Seconds()*float64(o.Rate)), rand.New(rand.NewPCG(1, 1)))
	fmt.Fprintf(out, "soak: %d requests in %s; logs in %s\n", len(a.requests), o.For, a.dir)

	published := make(chan error, 1)
	began := time.Now()
	publishing, enough := context.WithTimeout(ctx, o.For)
	defer enough()
	go func() { published <- a.publish(publishing, o.Rate) }()
	var samples []reading
	for time.Since(began) < o.For {
		if err := sandbox.Pause(ctx, soakEvery); err != nil {
			return err
		}
		s, err := readSample(ctx, "http://"+address+"/metrics")
		if err != nil {
			return err
		}
		samples = append(samples, s)
	}
	// A busy machine publishes fewer than there are; the last one's PubAck may
	// not have been waited for, so it may be done or not.
	if err := <-published; err != nil && ctx.Err() != nil {
		return err
	}
	a.calm(ctx) // no list of actions leaves a doubt any more
	if err := a.settle(ctx, a.Waiting); err != nil {
		return err
	}
	grown := soakReport(out, samples)
	return errors.Join(a.report(out, time.Since(began)), grown)
}

// soakReport prints the medians of each part.
func soakReport(out io.Writer, samples []reading) error {
	part := max(1, len(samples)/soakParts)
	var medians []reading
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nPART\tMEMORY (MIB)\tGOROUTINES")
	for p := range slices.Chunk(samples, part) {
		if len(p) < part {
			break
		}
		m := reading{middle(p, func(s reading) float64 { return s.memory }), middle(p, func(s reading) float64 { return s.goroutines })}
		medians = append(medians, m)
		fmt.Fprintf(w, "%d\t%.1f\t%.0f\n", len(medians), m.memory/(1<<20), m.goroutines)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(medians) < soakParts {
		return errors.New("too short to tell")
	}
	warm, last := medians[1], medians[soakParts-1]
	if last.memory > soakShare*warm.memory+soakMemory || last.goroutines > warm.goroutines+soakGoroutines {
		return fmt.Errorf("the worker grows: %w", sandbox.ErrBroken)
	}
	return nil
}

func middle(samples []reading, of func(reading) float64) float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func readSample(ctx context.Context, url string) (s reading, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		f, _ := strconv.ParseFloat(value, 64) // 0 where it is no number
		switch name {
		case "process_resident_memory_bytes":
			s.memory = f
		case "go_goroutines":
			s.goroutines = f
		}
	}
	if lines.Err() == nil && s.goroutines == 0 {
		return s, errors.New("the worker's metrics do not tell its goroutines")
	}
	return s, lines.Err()
}
