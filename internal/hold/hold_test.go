package hold

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// clock is a hold and the time that it is told. A hold never asks for the time
// itself, so nothing here waits.
type clock struct {
	*Hold
	t   *testing.T
	now time.Time
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newClock(t *testing.T) *clock { return &clock{Hold: New(), t: t, now: start} }

func (h *clock) sleep(d time.Duration) { h.now = h.now.Add(d) }

// admitted expects that a message is let through, as a probe or not.
func (h *clock) admitted(sequence uint64, probe bool) Pass {
	h.t.Helper()
	p, until := h.Admit(sequence, h.now)
	if !until.IsZero() || p.Probe != probe {
		h.t.Fatalf("after %s: message %d: pass %+v, or wait for %s; want a pass, probe %t",
			h.now.Sub(start), sequence, p, until.Sub(h.now), probe)
	}
	return p
}

// away expects that a message is turned away for at least and at most some time.
func (h *clock) away(sequence uint64, least, most time.Duration) {
	h.t.Helper()
	p, until := h.Admit(sequence, h.now)
	if d := until.Sub(h.now); p != (Pass{}) || d < least || d > most {
		h.t.Fatalf("after %s: message %d: pass %+v, or wait for %s; want a wait of %s to %s", h.now.Sub(start), sequence, p, d, least, most)
	}
}

// says expects what a signal means, but for the instants.
func (h *clock) says(sequence uint64, s Signal, want Standing) Standing {
	h.t.Helper()
	got := h.Observe(sequence, s, h.now)
	compared := got
	compared.Back = time.Time{}
	if compared != want {
		h.t.Fatalf("after %s: message %d, %+v: %+v, want %+v", h.now.Sub(start), sequence, s, compared, want)
	}
	if got.Everybody == got.Back.IsZero() {
		h.t.Fatalf("after %s: message %d, %+v: back at %s", h.now.Sub(start), sequence, s, got.Back)
	}
	return got
}

func (h *clock) wantCause(cause Cause) {
	h.t.Helper()
	if got := h.State().Cause; got != cause {
		h.t.Fatalf("after %s: held for %q, want %q", h.now.Sub(start), got, cause)
	}
}

// next is how long the next probe has to wait.
func (h *clock) next() time.Duration { return h.State().NextProbe.Sub(h.now) }

var (
	forbidden = Signal{Kind: Forbidden, Token: 1, Detail: "403"}
	noToken   = Signal{Kind: NoToken, Detail: "no token"}
	failing   = Signal{Kind: Failing, Detail: "503"}
	tripped   = Standing{Everybody: true, Tripped: true}
)

func still(c Cause) Standing { return Standing{Everybody: true, Tripped: true, Before: c} }

// TestBegins: without a hold all may go; with one nobody, until a probe may.
func TestBegins(t *testing.T) {
	h := newClock(t)
	if ok, _ := h.Allows(1); !ok {
		t.Error("closed without a hold")
	}
	if p := h.admitted(1, false); p.Cause != "" {
		t.Errorf("a cause without a hold: %+v", p)
	}
	back := h.says(1, forbidden, tripped).Back
	s := h.State()
	if s != (State{Permission, "403", h.now, h.now.Add(probeMin)}) {
		t.Errorf("state: %+v", s)
	}
	if late := back.Sub(s.NextProbe); late < jitter || late > jitter+failedMost*turn {
		t.Errorf("the one that failed is back %s after the next probe", late)
	}
	for m := uint64(1); m < 4; m++ {
		if ok, until := h.Allows(m); ok || !until.Equal(s.NextProbe) {
			t.Errorf("message %d may call: %t; else at %s", m, ok, until)
		}
		most := probeMin + jitter
		if m == 1 { // it has failed
			most += turn
		}
		h.away(m, probeMin, most)
	}
	h.sleep(probeMin)
	if p := h.admitted(2, true); p.Cause != Permission {
		t.Errorf("the probe is told the cause %q", p.Cause)
	}
	if ok, _ := h.Allows(2); !ok {
		t.Error("the probe may not call")
	}
	if ok, _ := h.Allows(1); ok {
		t.Error("another than the probe may call")
	}
	for m := uint64(1); m < 5; m++ { // one at a time
		h.away(m, whileProbingMin, whileProbingMax)
	}
}

// TestBackoff: each failed probe doubles the wait, up to a minute, or in an outage
// to five seconds; a success starts anew. What the service asks for makes a wait
// longer, never shorter.
func TestBackoff(t *testing.T) {
	h := newClock(t)
	m := uint64(1)
	for _, round := range []struct {
		signal Signal
		cause  Cause
		waits  []time.Duration
	}{
		{forbidden, Permission, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}},
		{failing, GraphUnavailable, []time.Duration{1, 2, 4, 5, 5, 5}},
		{noToken, Credentials, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}},
		{Signal{Kind: TokenAway, Detail: "no token"}, Credentials, []time.Duration{1, 2, 4, 5, 5, 5}},
	} {
		if round.cause == GraphUnavailable {
			for ; m%outageRow != 0; m++ {
				h.Observe(m, failing, h.now)
			}
		}
		for i, want := range round.waits {
			h.Observe(m, round.signal, h.now)
			h.wantCause(round.cause)
			if d := h.next(); d != want*time.Second {
				t.Errorf("%s: after failure %d the next probe goes in %s, want %ds", round.cause, i+1, d, want)
			}
			h.sleep(h.next() - 1)
			h.away(m+1, 1, 1+jitter)
			h.sleep(1)
			m++
			h.admitted(m, true)
		}
		h.says(m, Signal{Kind: Accepted, Token: 1}, Standing{Ended: round.cause})
		h.sleep(proofFor + time.Second)
		m++
	}
	h.says(m, noToken, tripped)
	for _, tc := range []struct{ wait, want time.Duration }{
		{5 * time.Minute, 5 * time.Minute}, {1, 4 * time.Second}, {9*time.Second + 1, 9*time.Second + 1}, {-1, 16 * time.Second},
	} {
		h.sleep(h.next())
		h.admitted(m, true)
		s := noToken
		s.Wait = tc.wait
		h.says(m, s, still(Credentials))
		if d := h.next(); d != tc.want {
			t.Errorf("asked for %s: %s, want %s", tc.wait, d, tc.want)
		}
	}
}

// TestChangesCause: a probe may find that something else is wrong by now.
func TestChangesCause(t *testing.T) {
	h := newClock(t)
	h.says(1, noToken, tripped)
	since := h.State().Since
	h.sleep(time.Second)
	h.admitted(2, true)
	// It got a token, so that hold is over, and another begins.
	h.says(2, forbidden, Standing{Everybody: true, Tripped: true, Ended: Credentials})
	if s := h.State(); s.Cause != Permission || !s.Since.After(since) || h.next() != probeMin {
		t.Errorf("%+v", s)
	}
	h.sleep(time.Second)
	h.admitted(3, true)
	h.says(3, failing, Standing{Everybody: true, Tripped: true, Before: Permission, Row: 1})
	h.wantCause(GraphUnavailable)
}

// TestStragglers: the calls that were under way when the hold began say nothing
// new, whatever they find and however late; but a success of one proves as much
// as that of a probe.
func TestStragglers(t *testing.T) {
	h := newClock(t)
	for m := uint64(1); m <= 20; m++ {
		h.admitted(m, false)
	}
	h.says(1, noToken, tripped)
	at := h.State()
	for m := uint64(2); m < 10; m++ {
		h.sleep(50 * time.Millisecond)
		got := h.says(m, Signal{Kind: NoToken, Detail: "other", Wait: time.Hour}, Standing{Everybody: true})
		if d := got.Back.Sub(at.NextProbe); d < jitter || d > jitter+failedMost*turn {
			t.Errorf("a straggler is back %s after the next probe", d)
		}
	}
	if h.State() != at {
		t.Errorf("%+v, before %+v", h.State(), at)
	}
	h.sleep(time.Second)
	h.admitted(30, true)
	h.says(10, noToken, Standing{Everybody: true}) // nor while another one is the probe
	h.says(11, Signal{Kind: Accepted, Token: 1}, Standing{Ended: Credentials})
	h.admitted(12, false)
	h.says(30, Signal{Kind: Accepted, Token: 1}, Standing{}) // the probe's own success changes nothing more
}

// TestUndecided: what ends without a decision leaves the next probe free to go at
// once, and it may be the same.
func TestUndecided(t *testing.T) {
	h := newClock(t)
	h.says(1, forbidden, tripped)
	h.sleep(time.Second)
	h.admitted(2, true)
	h.Done(1) // not the probe
	h.away(3, whileProbingMin, whileProbingMax)
	h.Done(2)
	h.Done(2)
	h.admitted(2, true)
	h.Done(2)
	h.admitted(3, true)
	if h.next() != 0 {
		t.Errorf("the wait is %s", h.next())
	}
}

// TestWhileProbing: the others stay away for as long as the probe has been under
// way, within bounds.
func TestWhileProbing(t *testing.T) {
	h := newClock(t)
	h.says(1, forbidden, tripped)
	h.sleep(time.Second)
	h.admitted(2, true)
	for _, tc := range []struct{ after, want time.Duration }{
		{0, whileProbingMin}, {time.Millisecond, whileProbingMin}, {700 * time.Millisecond, 701 * time.Millisecond}, {time.Hour, whileProbingMax},
	} {
		h.sleep(tc.after)
		h.away(3, tc.want, tc.want)
	}
}

// TestSignals: what each signal ends and begins.
func TestSignals(t *testing.T) {
	causes := []Cause{Credentials, Permission, Refused, GraphUnavailable}
	all := map[Cause]bool{Credentials: true, Permission: true, Refused: true, GraphUnavailable: true}
	held := func(c Cause) *clock {
		h := newClock(t)
		if !h.Restore(c, "before", h.now, h.now) {
			t.Fatalf("%s cannot be restored", c)
		}
		h.admitted(7, true)
		return h
	}
	for _, tc := range []struct {
		kind   Kind
		serves Serves
		ended  map[Cause]bool
		then   Cause // what is held after it, where it did not end
	}{
		{Accepted, 0, all, ""},
		{Found, 0, all, ""},
		{Answered, 0, map[Cause]bool{GraphUnavailable: true}, ""},
		{Turned, Served, map[Cause]bool{GraphUnavailable: true, Credentials: true}, ""},
		{Turned, Unreadable, map[Cause]bool{GraphUnavailable: true, Credentials: true}, ""},
		{Turned, Unserved, nil, Refused},
		{Turned, NotKnown, nil, same},
		{LookTurned, Served, nil, ""},
		{LookTurned, Unreadable, nil, ""},
		{LookTurned, Unserved, nil, Refused},
		{LookTurned, NotKnown, nil, same},
		{Listed, Served, map[Cause]bool{Refused: true}, ""},
		{Listed, Unreadable, map[Cause]bool{Refused: true}, ""},
		{Listed, Unserved, nil, Refused},
		{Listed, NotKnown, nil, same},
		{Forbidden, 0, map[Cause]bool{GraphUnavailable: true, Credentials: true}, Permission},
		{LookForbidden, 0, nil, Permission},
		{Unauthorized, 0, nil, Credentials},
		{NoToken, 0, nil, Credentials},
		{TokenAway, 0, nil, Credentials},
		{Failing, 0, nil, GraphUnavailable},
	} {
		for _, c := range causes {
			h := held(c)
			st := h.Observe(7, Signal{Kind: tc.kind, Serves: tc.serves, Token: 1, Detail: "now"}, h.now)
			if (st.Ended == c) != tc.ended[c] {
				t.Errorf("kind %d, %d in %s: %+v", tc.kind, tc.serves, c, st)
			}
			want := tc.then
			if want == same || want == "" && !tc.ended[c] {
				want = c
			}
			h.wantCause(want)
			if st.Tripped != (tc.then != "") || st.Tripped && h.next() < probeMin {
				t.Errorf("kind %d, %d in %s: %+v", tc.kind, tc.serves, c, st)
			}
			if detail := h.State().Detail; tc.then == same && detail != "before" || tc.then == Refused && detail != "now" {
				t.Errorf("kind %d, %d in %s: %q", tc.kind, tc.serves, c, detail)
			}
		}
	}
}

// same stands for the cause that was there before.
const same Cause = "same"

// TestServes: when a refusal may be everybody's, so that the list is asked for.
func TestServes(t *testing.T) {
	h := newClock(t)
	serves := func(m uint64, want Serves) {
		t.Helper()
		if got := h.Serves(m, h.now); got != want {
			t.Fatalf("after %s: message %d: %d, want %d", h.now.Sub(start), m, got, want)
		}
	}
	listed := func(m uint64, s Serves, want Standing) {
		t.Helper()
		h.says(m, Signal{Kind: Listed, Serves: s, Detail: "400"}, want)
	}
	m := uint64(0)
	row := func(n int, want Serves) { // n further messages
		t.Helper()
		for range n {
			m++
			serves(m, want)
			serves(m, want) // one counts once
		}
	}
	row(3, NotKnown)
	for _, proof := range []Signal{{Kind: Accepted}, {Kind: Found}, {Kind: Listed, Serves: Served}} {
		h.says(m, proof, Standing{})
		row(refusalRow-1, Served)
		row(3, NotKnown) // the row is full
		h.says(m, proof, Standing{})
		if !h.ServedAt().Equal(h.now) {
			t.Errorf("served at %s", h.ServedAt())
		}
		row(1, Served)
		h.sleep(proofFor)
		row(1, Served)
		h.sleep(1)
		row(1, NotKnown)
	}
	// What tells nothing is counted, so that the waits grow.
	for i := range 3 {
		listed(m, NotKnown, Standing{})
		h.says(m, Signal{Kind: Turned}, Standing{Row: i + 1})
	}
	listed(m, Served, Standing{})
	h.says(m, Signal{Kind: Turned}, Standing{})
	// Where it may not be read, no row makes it be asked for, but time does.
	listed(m, Unreadable, Standing{})
	row(2*refusalRow, Unreadable)
	h.sleep(proofFor + 1)
	row(1, NotKnown)
	listed(m, Unreadable, Standing{})
	listed(m, Served, Standing{}) // the permission was granted
	row(refusalRow-1, Served)

	// Held, nothing that was known counts; who is refused while everybody is comes back.
	listed(m, Unserved, tripped)
	h.wantCause(Refused)
	if !h.ServedAt().IsZero() {
		t.Errorf("served at %s", h.ServedAt())
	}
	row(1, Unserved)
	h.says(m, Signal{Kind: Turned, Serves: Unserved}, Standing{Everybody: true})
	h.sleep(probeMin)
	h.admitted(m, true)
	serves(m, NotKnown)
	listed(m, Served, Standing{Ended: Refused})
	row(1, Served)
	for i := range uint64(outageRow) {
		h.Observe(100+i, failing, h.now)
	}
	row(1, NotKnown) // it was under way, and may be refused as everything else after the outage
	h.sleep(probeMin)
	h.admitted(m, true)
	serves(m, NotKnown)

	// Another replica knows better.
	h.Reset()
	row(1, NotKnown)
	h.RestoreServed(h.now.Add(-proofFor))
	row(refusalRow-2, Served)
	h.RestoreServed(h.now.Add(-2 * proofFor)) // nothing new
	row(1, NotKnown)                          // the row counts on
}

// TestRefusedBackoff: the hold for a refusal waits ever longer, up to a minute. And a
// refusal whose list fails is no answer that ends a row of failures.
func TestRefusedBackoff(t *testing.T) {
	h := newClock(t)
	unserved := Signal{Kind: Listed, Serves: Unserved, Detail: "400"}
	h.says(1, unserved, tripped)
	for m, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if h.next() != want*time.Second {
			t.Errorf("probe %d in %s, want %ds", m, h.next(), want)
		}
		h.sleep(h.next())
		h.admitted(uint64(10+m), true)
		h.says(uint64(10+m), unserved, still(Refused))
	}
	h = newClock(t)
	for m := uint64(1); m < outageRow; m++ {
		h.says(m, failing, Standing{Row: 1})
		h.says(m, Signal{Kind: Turned}, Standing{})
	}
	h.says(99, failing, Standing{Everybody: true, Tripped: true, Row: 1})
	h.wantCause(GraphUnavailable)
}

// TestOutageRow: five different requests in a row are an outage; a real answer
// breaks the row, and the same request again does not lengthen it.
func TestOutageRow(t *testing.T) {
	h := newClock(t)
	for m := uint64(1); m < outageRow; m++ {
		h.says(m, failing, Standing{Row: 1})
	}
	h.says(1, failing, Standing{Row: 2})
	h.says(1, failing, Standing{Row: 3})
	h.says(99, Signal{Kind: Answered}, Standing{})
	for m := uint64(1); m < outageRow; m++ {
		h.says(m, failing, Standing{Row: 1})
	}
	h.says(100, failing, Standing{Everybody: true, Tripped: true, Row: 1})
	h.wantCause(GraphUnavailable)
	h.says(101, Signal{Kind: Accepted, Token: 1}, Standing{Ended: GraphUnavailable})
	h.says(102, failing, Standing{Row: 1}) // the row is over, too
}

// TestOwnFault: a refusal is the request's own where Graph has accepted something
// lately, for a 403 under the same token; from the twentieth different request in
// a row on it is not.
func TestOwnFault(t *testing.T) {
	unauthorized := Signal{Kind: Unauthorized}
	h := newClock(t)
	h.says(1, Signal{Kind: Accepted, Token: 3}, Standing{})
	own := func(s Signal, want bool) {
		t.Helper()
		probe := newClock(t)
		probe.known.acceptedAt, probe.known.acceptedBy = h.known.acceptedAt, h.known.acceptedBy
		probe.now = h.now
		if got := !probe.Observe(9, s, probe.now).Everybody; got != want {
			t.Errorf("after %s: %+v: own fault %v", h.now.Sub(start), s, got)
		}
	}
	own(Signal{Kind: Forbidden, Token: 3}, true)
	own(Signal{Kind: LookForbidden, Token: 3}, true)
	own(Signal{Kind: Forbidden, Token: 4}, false)
	own(Signal{Kind: Forbidden, Token: 2}, false)
	own(unauthorized, true)
	h.says(2, Signal{Kind: Accepted, Token: 2}, Standing{}) // late, of an older token
	own(Signal{Kind: Forbidden, Token: 3}, true)
	h.sleep(proofFor)
	own(Signal{Kind: Forbidden, Token: 3}, true)
	h.sleep(1)
	own(Signal{Kind: Forbidden, Token: 3}, false)
	own(unauthorized, false)

	h.says(3, Signal{Kind: Accepted, Token: 4}, Standing{})
	for m := uint64(10); m < 10+refusalRow-1; m++ {
		for range 3 { // one request counts once
			h.says(m, Signal{Kind: Forbidden, Token: 4}, Standing{})
		}
	}
	h.says(50, Signal{Kind: Forbidden, Token: 4}, tripped)
	h.says(51, Signal{Kind: Accepted, Token: 4}, Standing{Ended: Permission})
	h.says(52, Signal{Kind: Forbidden, Token: 4}, Standing{})
	h.says(53, Signal{Kind: Found}, Standing{})
}

// TestRestore: a hold goes on at another replica, whose first probe goes at once.
func TestRestore(t *testing.T) {
	for _, c := range append(Causes(), "", "else") {
		h := newClock(t)
		want := c == Credentials || c == Permission || c == Refused || c == GraphUnavailable
		if got := h.Restore(c, "why", start.Add(-time.Hour), h.now); got != want {
			t.Errorf("%q: %v", c, got)
		}
		h.admitted(1, want)
		if want {
			h.Done(1)
			if h.Restore(c, "again", h.now, h.now) || h.State().Detail != "why" {
				t.Errorf("%q is restored over a hold", c)
			}
			h.Reset()
			h.wantCause("")
			h.admitted(2, false)
		}
	}
}

// TestMemory: a hold may last for weeks, and meet any number of requests.
func TestMemory(t *testing.T) {
	h := newClock(t)
	for m := range uint64(100_000) {
		h.Observe(m, failing, h.now)
		h.Observe(m, Signal{Kind: Unauthorized}, h.now)
		h.Serves(m, h.now)
		h.Admit(m, h.now)
	}
	if len(h.known.outage) > outageRow || len(h.known.denied) > refusalRow || len(h.known.refused) > refusalRow {
		t.Errorf("%d, %d and %d requests are remembered", len(h.known.outage), len(h.known.denied), len(h.known.refused))
	}
}

// queue plays JetStream with a worker on it: a message that was given back comes
// again at its instant; where several may come, in the order of the stream, or in
// any order where shuffled.
type queue struct {
	*clock
	rnd      *rand.Rand
	shuffled bool
	// call says what comes of a probe: how long it takes, and whether it succeeds.
	call   func(m *message) (takes time.Duration, ok bool)
	all    []*message
	probes []uint64
}

type message struct {
	sequence uint64
	at       time.Time // of the next delivery, or of the end of the call
	calling  bool
	ok       bool
}

func newQueue(t *testing.T, seed uint64, messages int) *queue {
	q := &queue{clock: newClock(t), rnd: rand.New(rand.NewPCG(seed, 0)), shuffled: seed%2 == 0}
	for m := range messages {
		q.all = append(q.all, &message{sequence: uint64(m + 1), at: q.now})
	}
	return q
}

// step plays one event. It ends with the hold.
func (q *queue) step() (held bool) {
	if q.shuffled {
		q.rnd.Shuffle(len(q.all), func(i, j int) { q.all[i], q.all[j] = q.all[j], q.all[i] })
	}
	m := slices.MinFunc(q.all, func(a, b *message) int {
		if c := a.at.Compare(b.at); c != 0 || q.shuffled {
			return c
		}
		return int(a.sequence) - int(b.sequence)
	})
	q.now = m.at
	if !m.calling {
		p, until := q.Admit(m.sequence, q.now)
		if !until.IsZero() {
			if !until.After(q.now) {
				q.t.Fatalf("message %d is to come back in the past", m.sequence)
			}
			m.at = until
			return true
		}
		if !p.Probe || slices.ContainsFunc(q.all, func(o *message) bool { return o.calling }) {
			q.t.Fatalf("message %d is let through, probe %v, beside another", m.sequence, p.Probe)
		}
		var takes time.Duration
		takes, m.ok = q.call(m)
		m.calling, m.at = true, q.now.Add(takes)
		q.probes = append(q.probes, m.sequence)
		return true
	}
	m.calling = false
	if m.ok {
		q.Observe(m.sequence, Signal{Kind: Accepted, Token: 1}, q.now)
	} else {
		m.at = q.Observe(m.sequence, forbidden, q.now).Back
	}
	q.Done(m.sequence)
	return !m.ok
}

// TestRotation: where two or more wait, the next probe is another one than the
// last, and a good request is found after no more probes than there are requests,
// however long they take; among more than are remembered it is so on the average.
func TestRotation(t *testing.T) {
	for _, takes := range []time.Duration{0, time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second} {
		for _, messages := range []int{2, 3, 10, failedMost, 50} {
			// What is remembered is taken in turns, and only the first choices are random.
			trials := 20
			if messages > failedMost {
				trials = 60
			}
			total, most := 0, 0
			for seed := range uint64(trials) {
				q := newQueue(t, seed, messages)
				good := uint64(messages)
				q.call = func(m *message) (time.Duration, bool) { return takes, m.sequence == good }
				q.all[slices.IndexFunc(q.all, func(m *message) bool { return m.sequence == 1 })].at = q.Observe(1, forbidden, q.now).Back
				for len(q.probes) < 1000 && q.step() {
				}
				for i := 1; i < len(q.probes); i++ {
					if q.probes[i] == q.probes[i-1] {
						t.Fatalf("%s, %d messages, seed %d: the same one twice in a row: %v", takes, messages, seed, q.probes)
					}
				}
				total, most = total+len(q.probes), max(most, len(q.probes))
			}
			bound := messages
			if messages > failedMost {
				bound *= 12
			}
			if mean := float64(total) / float64(trials); mean > float64(messages) || most > bound {
				t.Errorf("%s, %d messages: %.1f probes on the average, %d at most", takes, messages, mean, most)
			}
		}
	}
}

// TestLone: a lone request is probed again and again, soon after each probe is due.
func TestLone(t *testing.T) {
	q := newQueue(t, 1, 1)
	var at []time.Duration
	q.call = func(*message) (time.Duration, bool) { at = append(at, q.now.Sub(start)); return 0, false }
	q.all[0].at = q.Observe(1, forbidden, q.now).Back
	for len(at) < 10 {
		q.step()
	}
	wait := probeMin
	for i := 1; i < len(at); i++ {
		wait = min(2*wait, probeMax)
		if d := at[i] - at[i-1]; d != wait+jitter+turn {
			t.Errorf("probe %d comes %s after the one before, want %s", i, d, wait)
		}
	}
}

// TestForAnHour: an outage of an hour with hundreds of requests waiting, and a
// worker that is made anew each minute: a probe at least every five seconds or so,
// and the hold ends as soon after the outage.
func TestForAnHour(t *testing.T) {
	queues := []int{300, 100, 10, 2}
	if testing.Short() {
		queues = []int{50, 10, 2}
	}
	for seed, messages := range queues {
		q := newQueue(t, uint64(seed), messages)
		end := start.Add(time.Hour)
		q.call = func(*message) (time.Duration, bool) {
			return time.Duration(q.rnd.Int64N(int64(time.Second))), q.now.After(end)
		}
		q.Restore(GraphUnavailable, "why", q.now, q.now)
		restarts := 0
		for restart := start.Add(time.Minute); q.stepOutage(); {
			if q.now.Before(restart) {
				continue
			}
			// What it knew is handed on; a probe under way was for nothing.
			s := q.State()
			q.Hold = New()
			q.Restore(s.Cause, s.Detail, s.Since, q.now)
			for _, m := range q.all {
				m.calling = false
			}
			restart = restart.Add(time.Minute)
			restarts++
		}
		if late := q.now.Sub(end); late < 0 || late > outageProbeMax+jitter+failedMost*turn+time.Second {
			t.Errorf("%d messages: the hold ended %s after the outage", messages, late)
		}
		if restarts < 59 || len(q.probes) < 500 || len(q.probes) > 1500 {
			t.Errorf("%d messages: %d restarts, %d probes", messages, restarts, len(q.probes))
		}
	}
}

// stepOutage is step where Graph is down instead of forbidding.
func (q *queue) stepOutage() bool {
	before := forbidden
	defer func() { forbidden = before }()
	forbidden = failing
	return q.step()
}

func ExampleHold() {
	h, now := New(), start
	h.Observe(1, Signal{Kind: NoToken, Detail: "the secret has expired"}, now)
	_, until := h.Admit(2, now)
	fmt.Println(h.State().Cause, until.After(now))
	now = now.Add(time.Second)
	p, _ := h.Admit(2, now)
	fmt.Println(p.Probe, h.Observe(2, Signal{Kind: Accepted, Token: 1}, now).Ended)
	// Output:
	// credentials true
	// true credentials
}
