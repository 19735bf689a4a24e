package day

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
)

// report compares what happened with what should have happened, kind by kind,
// and each promise with what it promises. It fails if anything differs.
func (d *day) report(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	ledger, _, err := scenario.Read(ctx, d.JS, d.Names, d.Sim)
	if err != nil {
		return err
	}
	d.heard.compare(ledger)
	waiting, err := d.Waiting(ctx)
	if err != nil {
		return err
	}
	alarms, err := d.Alarms(ctx)
	if err != nil {
		return err
	}
	written, err := d.written(ctx)
	if err != nil {
		return err
	}
	s := d.Sim.Status()
	found := findings{
		Verdict: scenario.Judge(d.requests, ledger),
		waiting: int(waiting),
		alarms:  int(alarms),
		sim:     s,
		slow:    slow(d.speed()),
		early:   early(d.Sim.Calls(), d.began),
		leaks:   leaks(d.Sim.Secrets(), written),
	}
	printFates(out, found.Fates)
	fmt.Fprintf(out, "\n%d requests in %d messages; %d calls to Graph and %d looks, %d resets, %d answered 429; %.0f s\n",
		len(d.requests), d.published, s.Posts, s.Gets, s.Executed, s.Throttled, d.took.Seconds())
	if d.caughtUp > 0 {
		fmt.Fprintf(out, "%d requests waited when Graph was back; nine tenths were done after %.0f s\n", d.backlog, d.caughtUp.Seconds())
	}
	fmt.Fprintln(out)
	return printPromises(out, promises(found))
}

// findings are all that the promises are judged by.
type findings struct {
	scenario.Verdict
	waiting int // requests that are still on the stream
	alarms  int // requests that are still followed
	sim     graphsim.Status
	slow    []string
	early   []string // calls inside an announced Retry-After
	leaks   []string
}

// promise is what was promised, and what broke it.
type promise struct {
	name   string
	broken []string
}

func promises(f findings) []promise {
	return []promise{
		{"nothing is lost", slices.Concat(f.Lost, counted(f.waiting, "still on the stream"),
			counted(max(0, f.Forged-f.Echoes), "PubAcks that were sent to be requests have no dead letter"))},
		{"nothing is reset twice", slices.Concat(f.Doubled, f.sim.ResetTwice)},
		{"one bad thing does not spoil the rest", slices.Concat(f.Wrong, f.Twice)},
		{"each accepted request has its device's end, told once", slices.Concat(f.Untold, f.Mistold, f.Retold,
			counted(f.alarms, "alarms are left"))},
		{"as fast as Graph allows", f.slow},
		{"no call inside an announced Retry-After", f.early},
		{"no call that a client must not make", f.sim.Violations},
		{"no secret, token or passcode in what the worker has written", f.leaks},
	}
}

func printPromises(out io.Writer, all []promise) error {
	var err error
	for _, p := range all {
		verdict := "held"
		if len(p.broken) > 0 {
			err, verdict = sandbox.ErrBroken, fmt.Sprintf("BROKEN (%d)", len(p.broken))
		}
		fmt.Fprintf(out, "%-62s %s\n", p.name, verdict)
		for _, b := range p.broken[:min(len(p.broken), 10)] {
			fmt.Fprintf(out, "    %s\n", b)
		}
	}
	return err
}

func counted(n int, what string) []string {
	if n == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d %s", n, what)}
}

// speed is what tells whether the day was as fast as Graph allowed.
type speed struct {
	calls, throttled int
	// meant is how many refusals the requests of the day bring about, whatever the
	// rate.
	meant int
	// callsAfter and pausesAfter are the calls since Graph was back, and how many of
	// them were answered by asking for a pause.
	callsAfter, pausesAfter int
	// caughtUp is how long it took then until nine tenths of the backlog were done;
	// 0: never.
	caughtUp time.Duration
}

func (d *day) speed() speed {
	status := d.Sim.Status()
	s := speed{calls: status.Posts, throttled: status.Throttled, caughtUp: d.caughtUp}
	for _, r := range d.requests {
		if strings.HasPrefix(r.Kind, "429") {
			s.meant++
		}
	}
	back := d.began.Add(outageAt + outageFor)
	for _, c := range d.Sim.Calls() {
		if c.Time.Before(back) || c.Method != http.MethodPost {
			continue // looks have a quota of their own
		}
		s.callsAfter++
		if pausing(c) {
			s.pausesAfter++
		}
	}
	return s
}

// slow tells what was slower than Graph allows.
func slow(s speed) []string {
	var out []string
	// The pacer keeps to the quota: the few are for where it has to find out anew.
	if more := s.throttled - s.meant; more > s.calls/50 {
		out = append(out, fmt.Sprintf("%d of %d calls were answered 429 for the quota's sake", more, s.calls))
	}
	// The wait for the next probe is as long as the outage at most; then come the
	// windows that the calls need, and a second's pause for each refusal.
	most := outageFor + time.Duration(s.callsAfter)*window/quota + time.Duration(s.pausesAfter)*time.Second + catchUpSlack
	if s.caughtUp == 0 || s.caughtUp > most {
		out = append(out, fmt.Sprintf("nine tenths of the backlog could have been done within %.0f s", most.Seconds()))
	}
	return out
}

// underWay is how long after Graph has asked for a pause a call may come that was sent
// before the answer was read. When looks are possible again, hundreds are due at once, and
// client and server share a process. No pause of the day is as short.
const underWay = 400 * time.Millisecond

// early tells of each call inside an announced Retry-After, and which call had been told
// to wait last.
func early(calls []graphsim.Call, began time.Time) []string {
	at := func(c graphsim.Call) string {
		return fmt.Sprintf("%s at %.3f s, answered %d (%s)", c.Method, c.Time.Sub(began).Seconds(), c.Status, c.Device)
	}
	var told graphsim.Call
	var out []string
	for _, c := range calls {
		if c.SentDuringRetryAfter && c.Time.Sub(told.Time) > underWay {
			out = append(out, at(c)+", after "+at(told))
		}
		if pausing(c) {
			told = c
		}
	}
	return out
}

// leaks looks for every secret that the simulator knows of, in all that the
// worker has written.
func leaks(secrets []string, texts map[string]string) []string {
	var out []string
	for _, secret := range secrets {
		for where, text := range texts {
			if strings.Contains(text, secret) {
				out = append(out, "one in a "+where)
			}
		}
	}
	return out
}

// row counts the ends of one kind.
type row struct {
	want   scenario.End
	told   outcome.Outcome
	n      int
	resets int
	got    map[scenario.End]int
	// accepted are those that were, and did what was told of their devices.
	accepted int
	did      map[outcome.Outcome]int
}

func (r *row) add(f scenario.Fate) {
	r.n++
	r.resets += f.Reset
	r.got[f.Got]++
	if f.Got == scenario.Accepted() {
		r.accepted++
		r.did[f.Outcome]++
	}
}

// device is what was told of the devices against what they were told to come to.
func (r *row) device() string {
	if r.accepted == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d %s", r.did[r.told], r.accepted, r.told)
}

// otherwise is what is not as it was expected.
func (r *row) otherwise() string {
	var out []string
	for got, n := range r.got {
		if got != r.want {
			out = append(out, fmt.Sprintf("%d %s", n, got))
		}
	}
	for did, n := range r.did {
		if did != r.told {
			out = append(out, fmt.Sprintf("%d %s on the device", n, cmp.Or(did, "nothing")))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// printFates counts the ends per kind, in the order of the kinds.
func printFates(out io.Writer, fates []scenario.Fate) {
	rows := map[string]*row{}
	for _, f := range fates {
		r := rows[f.Kind]
		if r == nil {
			r = &row{want: f.Want, told: f.Told, got: map[scenario.End]int{}, did: map[outcome.Outcome]int{}}
			rows[f.Kind] = r
		}
		r.add(f)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nKIND\tREQUESTS\tEXPECTED\tAS EXPECTED\tRESETS\tON THE DEVICE\tOTHERWISE")
	for _, k := range scenario.Kinds() {
		if r := rows[k.Name]; r != nil {
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%s\t%s\n", k.Name, r.n, r.want, r.got[r.want], r.resets, r.device(), r.otherwise())
		}
	}
	_ = w.Flush() // to a terminal or a pipe: nothing could be done about it
}
