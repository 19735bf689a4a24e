package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/record"
)

// report compares what happened with what should have happened, kind by kind,
// and each promise with what it promises. It fails if anything differs.
func (d *day) report(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	letters, err := deadLetters(ctx, d.js, d.names)
	if err != nil {
		return err
	}
	kv, err := d.js.KeyValue(ctx, d.names.Bucket)
	if err != nil {
		return err
	}
	var lost, doubled, wrong []string
	seen := newTally()
	var records strings.Builder
	for _, e := range d.events {
		if len(e.sequences) == 0 {
			continue
		}
		id := e.id
		if id == "" {
			id = d.names.Stream + "-" + strconv.FormatUint(e.sequences[0], 10)
		}
		var r record.Record
		err := readRecord(ctx, kv, d.names.Tenant, id, &r)
		fmt.Fprintf(&records, "%+v\n", r)
		got := ends(r)
		switch {
		case err != nil:
			got = end{state: "no record"}
			lost = append(lost, id)
		case r.State != record.Accepted && r.State != record.Dead:
			lost = append(lost, id)
		case r.State == record.Dead && letters[e.sequences[0]] == nil:
			lost = append(lost, id+" (no dead letter)")
		case r.State == record.Dead && !bytes.Equal(letters[e.sequences[0]].Data, []byte(e.data)):
			wrong = append(wrong, id+": the dead letter is not what was published")
		}
		resets := 0
		if e.device != "" {
			resets = d.sim.Resets(e.device)
		}
		switch {
		case resets > 1:
			doubled = append(doubled, id)
		case got != e.want || resets != e.resets:
			wrong = append(wrong, fmt.Sprintf("%s (%s): %s with %d resets, expected %s with %d", id, e.kind, got, resets, e.want, e.resets))
		}
		seen.add(e, got, resets)
	}
	seen.print(out)

	s := d.sim.Status()
	waiting, err := d.waiting(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d requests in %d messages; %d calls to Graph, %d resets, %d answered 429; %.0f s\n",
		len(d.events), d.published, s.Calls, s.Executed, s.Throttled, time.Since(d.began).Seconds())
	if d.caughtUp > 0 {
		fmt.Fprintf(out, "%d requests waited when Graph was back; nine tenths were done after %.0f s\n", d.backlog, d.caughtUp.Seconds())
	}
	fmt.Fprintln(out)
	leaks := d.leaks(records.String(), letters)
	ok := true
	for _, p := range []struct {
		promise string
		broken  []string
	}{
		{"nothing is lost", append(lost, counted(int(waiting), "still on the stream")...)},
		{"nothing is reset twice", append(doubled, s.ResetTwice...)},
		{"one bad thing does not spoil the rest", wrong},
		{"as fast as Graph allows", d.slow(s)},
		{"no call inside an announced Retry-After", counted(s.DuringRetry, "calls")},
		{"no call that a client must not make", s.Violations},
		{"no secret, token or passcode in a log, record or dead letter", leaks},
	} {
		verdict := "held"
		if len(p.broken) > 0 {
			ok, verdict = false, fmt.Sprintf("BROKEN (%d)", len(p.broken))
		}
		fmt.Fprintf(out, "%-62s %s\n", p.promise, verdict)
		for _, b := range p.broken[:min(len(p.broken), 10)] {
			fmt.Fprintf(out, "    %s\n", b)
		}
	}
	if !ok {
		return errBroken
	}
	return nil
}

func counted(n int, what string) []string {
	if n == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d %s", n, what)}
}

// leaks looks for every secret that the simulator knows of, in all that the
// worker has written.
func (d *day) leaks(records string, letters map[uint64]*jetstream.RawStreamMsg) []string {
	log, err := os.ReadFile(d.logPath)
	if err != nil {
		return []string{err.Error()}
	}
	var dead strings.Builder
	for _, m := range letters {
		fmt.Fprint(&dead, m.Header, string(m.Data))
	}
	var out []string
	for _, secret := range d.sim.Secrets() {
		for where, text := range map[string]string{"log": string(log), "record": records, "dead letter": dead.String()} {
			if strings.Contains(text, secret) {
				out = append(out, "one in a "+where)
			}
		}
	}
	return out
}

// tally counts the ends per kind, in the order of the kinds.
type tally struct {
	rows map[string]*row
}

type row struct {
	want   end
	n      int
	resets int
	got    map[end]int
}

func newTally() *tally { return &tally{rows: map[string]*row{}} }

func (t *tally) add(e *event, got end, resets int) {
	r := t.rows[e.kind]
	if r == nil {
		r = &row{want: e.want, got: map[end]int{}}
		t.rows[e.kind] = r
	}
	r.n++
	r.resets += resets
	r.got[got]++
}

func (t *tally) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nKIND\tREQUESTS\tEXPECTED\tAS EXPECTED\tRESETS\tOTHERWISE")
	for _, k := range kinds() {
		r := t.rows[k.name]
		if r == nil {
			continue
		}
		other := ""
		for got, n := range r.got {
			if got != r.want {
				other += fmt.Sprintf("%d %s  ", n, got)
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%s\n", k.name, r.n, r.want, r.got[r.want], r.resets, other)
	}
	_ = w.Flush() // to a terminal or a pipe: nothing could be done about it
}
