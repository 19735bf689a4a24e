package worker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"passcode-worker/internal/metrics"
)

// holdClock is a hold and the time that it is told. A hold never asks for the
// time itself, so nothing here waits.
type holdClock struct {
	*hold
	t   *testing.T
	now time.Time
}

var holdStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newHoldClock(t *testing.T) *holdClock { return &holdClock{hold: newHold(), t: t, now: holdStart} }

func (h *holdClock) sleep(d time.Duration) { h.now = h.now.Add(d) }

// admitted expects that a message is let through, as a probe or not.
func (h *holdClock) admitted(sequence uint64, probe bool) pass {
	h.t.Helper()
	p, until := h.admit(sequence, h.now)
	if !until.IsZero() || p.Probe != probe {
		h.t.Fatalf("after %s: message %d: pass %+v, or wait for %s; want a pass, probe %t",
			h.now.Sub(holdStart), sequence, p, until.Sub(h.now), probe)
	}
	return p
}

// away expects that a message is turned away, and returns for how long.
func (h *holdClock) away(sequence uint64) time.Duration {
	h.t.Helper()
	p, until := h.admit(sequence, h.now)
	if p != (pass{}) || !until.After(h.now) {
		h.t.Fatalf("after %s: message %d: pass %+v, or wait until %s; want a wait", h.now.Sub(holdStart), sequence, p, until)
	}
	return until.Sub(h.now)
}

// failed fails a message now, and returns how long the next probe has to wait.
func (h *holdClock) failed(sequence uint64, cause metrics.Cause, wait time.Duration, news bool) time.Duration {
	h.t.Helper()
	at, got := h.fail(sequence, cause, "why", wait, h.now)
	if got != news {
		h.t.Fatalf("after %s: failure of message %d: news %t, want %t", h.now.Sub(holdStart), sequence, got, news)
	}
	return at.Sub(h.now)
}

func (h *holdClock) wantCause(cause metrics.Cause) {
	h.t.Helper()
	if got, _, _, _ := h.state(); got != cause {
		h.t.Fatalf("after %s: held for %q, want %q", h.now.Sub(holdStart), got, cause)
	}
}

func TestHoldBegins(t *testing.T) {
	h := newHoldClock(t)
	if ok, _ := h.open(1); !ok {
		t.Error("closed without a hold")
	}
	if p := h.admitted(1, false); p.Cause != "" {
		t.Errorf("a cause without a hold: %+v", p)
	}
	if d := h.failed(1, metrics.CausePermission, 0, true); d != time.Second {
		t.Errorf("the first probe may go in %s", d)
	}
	cause, detail, since, probeAt := h.state()
	if cause != metrics.CausePermission || detail != "why" || !since.Equal(h.now) || !probeAt.Equal(h.now.Add(time.Second)) {
		t.Errorf("state: %q, %q, %s, %s", cause, detail, since, probeAt)
	}
	for _, m := range []uint64{1, 2, 3} {
		if ok, until := h.open(m); ok || !until.Equal(probeAt) {
			t.Errorf("message %d may call: %t; else at %s", m, ok, until)
		}
		if d := h.away(m); d != time.Second {
			t.Errorf("message %d is sent away for %s", m, d)
		}
	}
	h.sleep(time.Second)
	if p := h.admitted(2, true); p.Cause != metrics.CausePermission {
		t.Errorf("the probe is told the cause %q", p.Cause)
	}
	if ok, _ := h.open(2); !ok {
		t.Error("the probe may not call")
	}
	if ok, _ := h.open(1); ok {
		t.Error("another than the probe may call")
	}
	// One at a time.
	for _, m := range []uint64{1, 2, 3, 4} {
		h.away(m)
	}
}

// Each failed probe doubles the wait, up to a minute, or in an outage to five
// seconds; a success starts anew.
func TestHoldBackoff(t *testing.T) {
	h := newHoldClock(t)
	next := uint64(1)
	for _, round := range []struct {
		cause metrics.Cause
		waits []time.Duration
	}{
		{metrics.CausePermission, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}},
		{metrics.CauseGraphUnavailable, []time.Duration{1, 2, 4, 5, 5, 5}},
		{metrics.CauseCredentials, []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}},
	} {
		h.admitted(next, false)
		for i, want := range round.waits {
			if d := h.failed(next, round.cause, 0, true); d != want*time.Second {
				t.Errorf("%s: after failure %d the next probe goes in %s, want %ds", round.cause, i+1, d, want)
			} else {
				h.sleep(d - 1)
				h.away(next + 1)
				h.sleep(1)
			}
			next++
			h.admitted(next, true)
		}
		h.accepted(1, h.now)
		next++
	}
}

// What the service asks for makes a wait longer, never shorter.
func TestHoldWait(t *testing.T) {
	h := newHoldClock(t)
	m := uint64(1)
	h.admitted(m, false)
	for i, tc := range []struct{ wait, want time.Duration }{
		{5 * time.Minute, 5 * time.Minute}, {1, 2 * time.Second}, {4*time.Second + 1, 4*time.Second + 1}, {time.Millisecond, 8 * time.Second}, {-1, 16 * time.Second},
	} {
		if d := h.failed(m, metrics.CauseCredentials, tc.wait, true); d != tc.want {
			t.Errorf("failure %d, asked for %s: %s, want %s", i+1, tc.wait, d, tc.want)
		}
		h.sleep(tc.want)
		m++
		h.admitted(m, true)
	}
}

// A probe may find that something else is wrong by now.
func TestHoldChangesCause(t *testing.T) {
	h := newHoldClock(t)
	h.failed(1, metrics.CauseCredentials, 0, true)
	h.sleep(time.Second)
	h.admitted(2, true)
	if d := h.failed(2, metrics.CausePermission, 0, true); d != 2*time.Second {
		t.Errorf("the next probe goes in %s", d)
	}
	cause, _, since, _ := h.state()
	if cause != metrics.CausePermission || !since.Equal(holdStart) {
		t.Errorf("held for %q since %s", cause, since)
	}
	h.sleep(2 * time.Second)
	if p := h.admitted(3, true); p.Cause != metrics.CausePermission {
		t.Errorf("the probe is told the cause %q", p.Cause)
	}
}

// The calls that were under way when the hold began say nothing new, whatever
// they find and however late.
func TestHoldStragglers(t *testing.T) {
	h := newHoldClock(t)
	for m := range uint64(32) {
		h.admitted(m+1, false)
	}
	h.failed(1, metrics.CausePermission, 0, true)
	for m := uint64(2); m <= 20; m++ {
		h.sleep(10 * time.Millisecond)
		if d := h.failed(m, metrics.CauseCredentials, time.Hour, false); !h.now.Add(d).Equal(holdStart.Add(time.Second)) {
			t.Fatalf("straggler %d is to come back in %s", m, d)
		}
	}
	h.wantCause(metrics.CausePermission)
	h.now = holdStart.Add(time.Second)
	h.admitted(40, true)
	for m := uint64(21); m <= 32; m++ { // while the probe is under way
		h.failed(m, metrics.CausePermission, 0, false)
		h.end(m)
		if ok, _ := h.open(m); ok {
			t.Errorf("straggler %d may call", m)
		}
	}
	h.away(41)
	if d := h.failed(40, metrics.CausePermission, 0, true); d != 2*time.Second {
		t.Errorf("the next probe goes in %s", d)
	}
	// They were refused already: those that were not go first.
	h.sleep(2 * time.Second)
	h.away(1)
	h.away(20)
	h.away(32)
	h.admitted(41, true)
}

// While a probe is under way, the others stay away no longer than it has been
// under way already: what is over soon makes nobody wait long.
func TestHoldAwayWhileProbing(t *testing.T) {
	h := newHoldClock(t)
	h.failed(1, metrics.CauseGraphUnavailable, 0, true)
	h.sleep(time.Second)
	h.admitted(2, true)
	for _, tc := range []struct{ passed, want time.Duration }{
		{0, 100 * time.Millisecond}, {20 * time.Millisecond, 100 * time.Millisecond}, {180 * time.Millisecond, 200 * time.Millisecond},
		{time.Second, 1200 * time.Millisecond}, {2 * time.Second, 3 * time.Second}, {time.Minute, 3 * time.Second},
	} {
		h.sleep(tc.passed)
		if d := h.away(3); d != tc.want {
			t.Errorf("sent away for %s, want %s", d, tc.want)
		}
	}
	// One that was sent away for long is waited for, though another one was sent
	// away for a shorter time since.
	h.end(2)
	h.admitted(4, true)
	h.away(5)
	h.failed(4, metrics.CauseGraphUnavailable, 0, true)
	h.sleep(2 * time.Second)
	if d := h.away(1); d != time.Second+graceForOthers {
		t.Errorf("one that was tried waits for the others for %s", d)
	}
	h.sleep(time.Second)
	h.admitted(3, true)
}

// A success of a call that was under way proves as much as that of a probe.
func TestHoldEndsByStraggler(t *testing.T) {
	h := newHoldClock(t)
	h.admitted(1, false)
	h.admitted(2, false)
	h.failed(1, metrics.CausePermission, 0, true)
	h.sleep(time.Second)
	h.admitted(3, true)
	if ended := h.accepted(1, h.now); ended != metrics.CausePermission {
		t.Errorf("ended: %q", ended)
	}
	h.admitted(1, false)
	// The probe that was under way is an ordinary call by now.
	if ok, _ := h.open(3); !ok {
		t.Error("closed without a hold")
	}
	h.failed(4, metrics.CausePermission, 0, true)
	h.failed(3, metrics.CausePermission, 0, false)
	h.end(3)
	h.sleep(time.Second)
	h.admitted(5, true)
	h.end(3)
	h.away(6)
}

// The first success lets everything go, and leaves nothing behind.
func TestHoldEnds(t *testing.T) {
	for _, cause := range metrics.Causes() {
		h := newHoldClock(t)
		h.failed(1, cause, 0, true)
		h.sleep(time.Second)
		h.admitted(2, true)
		if ended := h.accepted(1, h.now); ended != cause {
			t.Errorf("%s: ended: %q", cause, ended)
		}
		h.end(2)
		if c, detail, since, probeAt := h.state(); c != "" || detail != "" || !since.IsZero() || !probeAt.IsZero() {
			t.Errorf("%s: left: %q, %q, %s, %s", cause, c, detail, since, probeAt)
		}
		for m := range uint64(100) {
			h.admitted(m+1, false)
			if ok, _ := h.open(m + 1); !ok {
				t.Errorf("%s: message %d may not call", cause, m+1)
			}
		}
		if ended := h.accepted(1, h.now); ended != "" {
			t.Errorf("%s: ended again: %q", cause, ended)
		}
		// The next hold knows nothing of this one.
		h.sleep(time.Minute)
		if d := h.failed(3, cause, 0, true); d != time.Second {
			t.Errorf("%s: the next hold's first probe goes in %s", cause, d)
		}
		h.sleep(time.Second)
		h.admitted(2, true)
	}
}

// A new hold begins with a round of its own.
func TestHoldEndsWithinAGrace(t *testing.T) {
	h := newHoldClock(t)
	for range 2 {
		h.failed(1, metrics.CausePermission, 0, true)
		h.sleep(time.Second)
		h.away(1)
		h.sleep(graceForOthers / 2)
		h.accepted(1, h.now)
		h.sleep(time.Minute)
	}
}

// What ends without a decision leaves the next probe free to go at once, and
// does not count as a turn.
func TestHoldUndecided(t *testing.T) {
	h := newHoldClock(t)
	h.failed(1, metrics.CausePermission, 0, true)
	h.sleep(time.Second)
	h.admitted(2, true)
	h.sleep(time.Second)
	h.away(3)
	h.end(3) // not the probe
	h.away(3)
	h.end(2)
	h.end(2)
	h.admitted(3, true)
	h.end(3)
	h.admitted(2, true) // it goes on in the same delivery
	h.end(2)
	h.admitted(2, true)
	if _, _, _, probeAt := h.state(); !probeAt.Equal(holdStart.Add(time.Second)) {
		t.Errorf("the next probe: %s", probeAt)
	}
	if d := h.failed(2, metrics.CausePermission, 0, true); d != 2*time.Second {
		t.Errorf("the next probe goes in %s", d)
	}
	h.end(2)
	h.away(2)
}

// A lone request is probed again and again, soon after each probe is due.
func TestHoldLone(t *testing.T) {
	h := newHoldClock(t)
	h.admitted(1, false)
	due := h.failed(1, metrics.CausePermission, 0, true)
	for i := range 20 {
		from, visits := h.now, 0
		for {
			p, until := h.admit(1, h.now)
			if p.Probe {
				break
			}
			if visits++; visits > 4 {
				t.Fatalf("probe %d: it was sent away %d times", i+1, visits)
			}
			h.now = until
		}
		if late := h.now.Sub(from) - due; late < 0 || late > time.Second {
			t.Errorf("probe %d goes %s after it is due", i+1, late)
		}
		h.sleep(time.Duration(i) * time.Second)
		if i%3 == 0 { // without a decision: at once again
			h.end(1)
			h.admitted(1, true)
		}
		due = h.failed(1, metrics.CausePermission, 0, true)
	}
}

// A 401 makes a probe come again in the same delivery, with a new token. Only
// what comes of that counts; the tenant is held, and the wait grows, all the
// same.
func TestHoldProbeTwiceInADelivery(t *testing.T) {
	for n := range 5 {
		q := newHoldQueue(t, 0)
		at, _ := q.fail(1, metrics.CauseCredentials, "why", 0, q.now)
		q.add(1, at).seen = true
		for m := range n {
			q.add(uint64(m+2), q.now)
		}
		decided := map[uint64]int{}
		q.call = func(m *heldMessage) (time.Duration, probeOutcome, time.Duration) {
			q.end(m.sequence)
			q.admitted(m.sequence, true)
			decided[m.sequence]++
			return 100 * time.Millisecond, refusal, 0
		}
		for len(q.probes) < 6*(n+1) {
			q.step()
		}
		for m, times := range decided {
			if times < 4 || times > 8 {
				t.Errorf("of %d messages, message %d was probed %d times of %d", n+1, m, times, len(q.probes))
			}
		}
		var due time.Duration
		for i := range len(q.probes) {
			due += min(time.Second<<i, probeMax)
		}
		if took := q.now.Sub(holdStart); took < due || took > due+time.Duration(len(q.probes))*time.Second {
			t.Errorf("%d probes of %d messages took %s, want %s", len(q.probes), n+1, took, due)
		}
	}
}

func TestHoldAnswered(t *testing.T) {
	for _, tc := range []struct {
		cause metrics.Cause
		// ends tells whether an answer without, and one with a good token ends it.
		ends [2]bool
	}{
		{metrics.CauseGraphUnavailable, [2]bool{true, true}},
		{metrics.CauseCredentials, [2]bool{false, true}},
		{metrics.CausePermission, [2]bool{false, false}},
		{metrics.CauseFuse, [2]bool{false, false}},
		{metrics.CausePaused, [2]bool{false, false}},
	} {
		for i, ends := range tc.ends {
			h := newHoldClock(t)
			h.failed(1, tc.cause, 0, true)
			want, left := metrics.Cause(""), tc.cause
			if ends {
				want, left = tc.cause, ""
			}
			if ended := h.answered(i == 1); ended != want {
				t.Errorf("%s, token taken %t: ended %q, want %q", tc.cause, i == 1, ended, want)
			}
			h.wantCause(left)
			if ended := h.answered(true); !ends && ended != "" && tc.cause != metrics.CauseCredentials {
				t.Errorf("%s: ended %q", tc.cause, ended)
			}
		}
	}
	h := newHoldClock(t)
	if ended := h.answered(true); ended != "" {
		t.Errorf("ended without a hold: %q", ended)
	}
}

func TestHoldOutageSign(t *testing.T) {
	h := newHoldClock(t)
	sign := func(m uint64, times int, outage bool) {
		t.Helper()
		n, is := h.outageSign(m, true)
		if n != times || is != outage {
			t.Errorf("message %d: %d times, outage %t; want %d, %t", m, n, is, times, outage)
		}
	}
	// It takes five different requests; one alone may fail for ever.
	for i := range 10 {
		sign(1, i+1, false)
	}
	sign(2, 1, false)
	sign(3, 1, false)
	sign(4, 1, false)
	sign(2, 2, false)
	// Any real answer breaks the row.
	h.answered(false)
	for m := uint64(1); m <= 4; m++ {
		sign(m, 1, false)
	}
	h.accepted(0, h.now)
	for m := uint64(1); m <= 4; m++ {
		sign(m, 1, false)
	}
	sign(4, 2, false)
	sign(5, 1, true)
	sign(1, 2, true)
	sign(6, 1, true)
	h.failed(5, metrics.CauseGraphUnavailable, 0, true)
	sign(7, 1, true) // a straggler's attempt is not held against it
	h.answered(true)
	sign(8, 1, false)
}

// One probe is enough to tell that a held tenant is held for an outage, too.
func TestHoldOutageOfAProbe(t *testing.T) {
	h := newHoldClock(t)
	h.failed(1, metrics.CausePermission, 0, true)
	if _, outage := h.outageSign(2, true); outage {
		t.Error("a straggler's sign is taken for an outage")
	}
	h.sleep(time.Second)
	h.admitted(3, true)
	if _, outage := h.outageSign(4, true); outage {
		t.Error("a straggler's sign is taken for an outage")
	}
	if _, outage := h.outageSign(3, true); !outage {
		t.Error("the probe's sign is not taken for an outage")
	}
	h.failed(3, metrics.CauseGraphUnavailable, 0, true)
	h.wantCause(metrics.CauseGraphUnavailable)
	if _, outage := h.outageSign(3, true); outage {
		t.Error("after its end the probe is like any other")
	}
}

// Those whose failures made it an outage have had their turn: the first probe
// is another, where there is one.
func TestHoldOutageTurns(t *testing.T) {
	h := newHoldClock(t)
	for m := uint64(1); m <= outageRow; m++ {
		h.admitted(m, false)
		h.outageSign(m, true)
	}
	h.failed(outageRow, metrics.CauseGraphUnavailable, 0, true)
	h.sleep(time.Second)
	for m := uint64(1); m <= outageRow; m++ {
		h.away(m)
	}
	h.admitted(outageRow+1, true)
}

// A probe whose reading was answered keeps the wait short, though it failed.
func TestHoldRead(t *testing.T) {
	h := newHoldClock(t)
	m := uint64(1)
	fail := func(read uint64, want time.Duration) {
		t.Helper()
		h.read(read)
		if d := h.failed(m, metrics.CauseGraphUnavailable, 0, true); d != want {
			t.Errorf("the next probe goes in %s, want %s", d, want)
		}
		h.sleep(want)
		m++
		h.admitted(m, true)
	}
	h.read(m) // without a hold it means nothing
	fail(m, time.Second)
	fail(0, 2*time.Second)
	fail(1, 4*time.Second) // another's reading
	fail(m, time.Second)
	fail(0, 2*time.Second) // it is the probe's own matter
	h.read(m)
	h.end(m)
	m++
	h.admitted(m, true)
	fail(0, 4*time.Second)
	h.wantCause(metrics.CauseGraphUnavailable) // a reading ends nothing
}

// A probe that reaches Graph after others could not keeps the wait short, though
// it failed: that may be its own matter.
func TestHoldReachedAgain(t *testing.T) {
	h := newHoldClock(t)
	m := uint64(1)
	for ; m < outageRow; m++ {
		h.outageSign(m, false)
	}
	probe := func(reached bool, want time.Duration) {
		t.Helper()
		h.outageSign(m, reached)
		if d := h.failed(m, metrics.CauseGraphUnavailable, 0, true); d != want {
			t.Errorf("the next probe goes in %s, want %s", d, want)
		}
		h.outageSign(m+1_000_000, !reached) // a straggler changes nothing
		h.sleep(want)
		m++
		h.admitted(m, true)
	}
	probe(false, time.Second)
	probe(false, 2*time.Second)
	probe(false, 4*time.Second)
	probe(true, time.Second)
	probe(true, 2*time.Second)
	probe(true, 4*time.Second)
	// Once in a hold: a Graph that comes and goes is not tried each second.
	probe(false, 5*time.Second)
	probe(true, 5*time.Second)
	h.accepted(1, h.now)

	// A hold that began with a failing Graph waits longer with each failing probe.
	for range outageRow {
		h.outageSign(m, true)
		m++
	}
	probe(true, time.Second)
	probe(true, 2*time.Second)
	h.accepted(1, h.now)

	// It is no news of a hold that is not for an outage, whatever was before.
	h.outageSign(m, false)
	h.failed(m, metrics.CausePermission, 0, true)
	h.sleep(time.Second)
	m++
	h.admitted(m, true)
	probe(true, 2*time.Second)
	probe(true, 4*time.Second)
	h.accepted(1, h.now)

	// The next hold has its own.
	for range outageRow {
		h.outageSign(m, false)
		m++
	}
	probe(false, time.Second)
	probe(false, 2*time.Second)
	probe(true, time.Second)
}

func TestHoldOwnFault(t *testing.T) {
	h := newHoldClock(t)
	m := uint64(0)
	own := func(token int, want bool) {
		t.Helper()
		m++
		if got := h.ownFault(m, token, h.now); got != want {
			t.Errorf("message %d, token %d, %s after the start: own fault %t, want %t", m, token, h.now.Sub(holdStart), got, want)
		}
	}
	own(1, false) // nothing was ever accepted
	own(0, false)
	h.accepted(0, h.now) // found out afterwards: it proves nothing about now
	own(1, false)
	own(0, false)
	h.accepted(1, h.now)
	own(1, true)
	own(0, true)
	own(2, false) // a newer token may allow less
	h.sleep(proofFor)
	own(1, true)
	own(0, true)
	h.sleep(1)
	own(1, false)
	own(0, false)
	h.accepted(2, h.now)
	own(2, true)
	own(1, false)
	// A late success under the old token takes nothing from the new one.
	h.sleep(time.Minute)
	h.accepted(1, h.now)
	own(2, true)
	own(0, true)
	h.sleep(proofFor - time.Minute)
	own(2, true)
	h.sleep(1)
	own(2, false)
	h.accepted(0, h.now)
	own(2, false)
}

// Twenty different requests that are refused in a row are everybody's fault,
// although something was accepted not long ago.
func TestHoldRefusalRow(t *testing.T) {
	for _, token := range []int{0, 7} {
		h := newHoldClock(t)
		h.accepted(7, h.now)
		for range 100 { // the same one proves nothing
			if !h.ownFault(1, token, h.now) {
				t.Fatal("not its own fault")
			}
		}
		for m := uint64(2); m < refusalRow; m++ {
			if !h.ownFault(m, token, h.now) {
				t.Fatalf("refusal %d in a row is not its own fault", m)
			}
		}
		// Neither an answer nor the end of another fault is an acceptance.
		h.answered(true)
		for m := uint64(refusalRow); m < refusalRow+5; m++ {
			if h.ownFault(m, token, h.now) {
				t.Errorf("refusal %d in a row is its own fault", m)
			}
		}
		if h.ownFault(1, token, h.now) {
			t.Error("the first one's fault again")
		}
		h.accepted(7, h.now)
		if !h.ownFault(1, token, h.now) {
			t.Error("after an acceptance: not its own fault")
		}
	}
}

// A hold may last for weeks, and meet any number of requests.
func TestHoldMemory(t *testing.T) {
	h := newHoldClock(t)
	h.accepted(1, h.now)
	for m := uint64(1); m <= 100_000; m++ {
		p, until := h.admit(m, h.now)
		if p.Probe {
			if p, until := h.admit(m+1_000_000, h.now); p.Probe || until.IsZero() {
				t.Fatal("two probes")
			}
		} else if !until.IsZero() {
			t.Fatalf("message %d is sent away for %s", m, until.Sub(h.now))
		}
		h.outageSign(m, true)
		h.ownFault(m, 1, h.now)
		h.sleep(time.Second)
		at, news := h.fail(m, metrics.CauseGraphUnavailable, "why", 0, h.now)
		if !news {
			t.Fatalf("message %d: no news", m)
		}
		h.fail(m+1_000_000, metrics.CauseGraphUnavailable, "why", 0, h.now) // a straggler
		h.outageSign(m+1_000_000, true)
		h.ownFault(m+1_000_000, 1, h.now)
		h.now = at
		if n := max(len(h.tried), len(h.outage), len(h.refused)); n > 1000 {
			t.Fatalf("after %d requests %d are remembered", m, n)
		}
	}
	h.accepted(1, h.now)
	if n := len(h.tried) + len(h.outage) + len(h.refused); n > 0 {
		t.Errorf("%d requests are remembered without a hold", n)
	}
}

// holdQueue plays JetStream with a worker on it: a message that was given back
// comes again at its instant, a little late; where several may come,
// redelivered ones come before new ones, each kind in the order of the stream,
// or in any order where shuffled.
type holdQueue struct {
	*holdClock
	rnd      *rand.Rand
	shuffled bool
	late     time.Duration // the most that a delivery is late
	// call says what comes of a probe: how long it takes, and what of it; for
	// undecided also when the message comes back.
	call   func(m *heldMessage) (takes time.Duration, o probeOutcome, back time.Duration)
	all    []*heldMessage
	probe  *heldMessage // at most one
	probes []uint64
}

type probeOutcome int

const (
	refusal probeOutcome = iota
	success
	undecided
)

type heldMessage struct {
	sequence  uint64
	at        time.Time // of the next delivery, or of the end of the call
	seen      bool
	calling   bool
	outcome   probeOutcome
	back      time.Duration
	delivered time.Time // first
}

func newHoldQueue(t *testing.T, seed uint64) *holdQueue {
	return &holdQueue{holdClock: newHoldClock(t), rnd: rand.New(rand.NewPCG(seed, 0))}
}

func (q *holdQueue) upTo(d time.Duration) time.Duration {
	return time.Duration(q.rnd.Int64N(int64(d) + 1))
}

func (q *holdQueue) add(sequence uint64, at time.Time) *heldMessage {
	m := &heldMessage{sequence: sequence, at: at}
	q.all = append(q.all, m)
	return m
}

// next takes the message whose turn it is.
func (q *holdQueue) next() *heldMessage {
	if q.shuffled {
		q.rnd.Shuffle(len(q.all), func(i, j int) { q.all[i], q.all[j] = q.all[j], q.all[i] })
	}
	return slices.MinFunc(q.all, func(a, b *heldMessage) int {
		if c := a.at.Compare(b.at); c != 0 || q.shuffled {
			return c
		}
		if a.seen != b.seen {
			if a.seen {
				return -1
			}
			return 1
		}
		return int(a.sequence) - int(b.sequence)
	})
}

// step plays one event. It ends with the hold.
func (q *holdQueue) step() (held bool) {
	m := q.next()
	q.now = m.at
	if !m.calling {
		p, until := q.admit(m.sequence, q.now)
		if !m.seen {
			m.seen, m.delivered = true, q.now
		}
		if !until.IsZero() {
			if until.Before(q.now) {
				q.t.Fatalf("message %d is to come back in the past", m.sequence)
			}
			m.at = until.Add(q.upTo(q.late))
			return true
		}
		if !p.Probe || q.probe != nil {
			q.t.Fatalf("message %d is let through; another is the probe: %t", m.sequence, q.probe != nil)
		}
		var takes time.Duration
		takes, m.outcome, m.back = q.call(m)
		q.probe, m.calling, m.at = m, true, q.now.Add(takes)
		q.probes = append(q.probes, m.sequence)
		return true
	}
	q.probe, m.calling = nil, false
	switch m.outcome {
	case success:
		q.accepted(1, q.now)
		q.end(m.sequence)
		return false
	case refusal:
		at, _ := q.fail(m.sequence, metrics.CausePermission, "why", 0, q.now)
		m.at = at.Add(q.upTo(q.late))
	case undecided:
		m.at = q.now.Add(m.back)
	}
	q.end(m.sequence)
	return true
}

// Of three, two are refused for their own sake. Whatever the order in which
// they come, and however long a call takes, the third is asked before any of
// the others is asked again.
func TestHoldRotation(t *testing.T) {
	durations := []time.Duration{0, time.Millisecond, 300 * time.Millisecond, time.Second, 2900 * time.Millisecond, 3 * time.Second, 10 * time.Second, time.Minute}
	for _, names := range [][3]uint64{{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}} {
		a, b, good := names[0], names[1], names[2]
		for i, takes := range durations {
			for variant := range uint64(64) {
				q := newHoldQueue(t, variant)
				q.shuffled = variant&1 > 0
				if variant&2 > 0 {
					q.late = 100 * time.Millisecond
				}
				undecideds := int(variant >> 2 & 3)
				probed := map[uint64]int{}
				q.call = func(m *heldMessage) (time.Duration, probeOutcome, time.Duration) {
					takes := takes
					if variant&16 > 0 {
						takes = durations[q.rnd.IntN(len(durations))]
					}
					if m.sequence != good && undecideds > 0 && q.rnd.IntN(2) == 0 {
						undecideds--
						return takes, undecided, q.upTo(5 * time.Second)
					}
					if m.sequence == good {
						return takes, success, 0
					}
					if probed[m.sequence]++; probed[m.sequence] > 1 || m.sequence == a {
						t.Errorf("%v, duration %d, variant %d: message %d is probed again before message %d (probes: %v)",
							names, i, variant, m.sequence, good, q.probes)
					}
					return takes, refusal, 0
				}
				// The hold begins with the first one's refusal.
				at, _ := q.fail(a, metrics.CausePermission, "why", 0, q.now)
				q.add(a, at).seen = true
				for _, m := range []uint64{b, good} {
					from := q.now
					if variant&32 > 0 { // it comes while the tenant is held already
						from = from.Add(q.upTo(time.Second))
					}
					q.add(m, from)
				}
				for range 10_000 {
					if t.Failed() || !q.step() {
						break
					}
				}
				q.wantCause("")
				// What waits is back soon: where all probes take the same time, none
				// is away for longer than that, but to let others go first.
				most := whileProbing
				if variant&16 == 0 {
					most = min(max(takes, whileProbingMin), whileProbing) + 2*graceForOthers
				}
				for _, m := range q.all {
					if d := m.at.Sub(q.now); m.outcome != undecided && d > most+q.late {
						t.Errorf("%v, duration %d, variant %d: message %d waits for %s without a hold", names, i, variant, m.sequence, d)
					}
				}
			}
		}
	}
}

// With any number of requests waiting, each gets its turn in each round, none
// is asked twice in a row, and new ones are asked first.
func TestHoldRounds(t *testing.T) {
	for seed := range uint64(400) {
		q := newHoldQueue(t, seed)
		q.shuffled = seed%2 == 0
		if seed%3 > 0 {
			q.late = 100 * time.Millisecond
		}
		n := 2 + q.rnd.IntN(12)
		at, _ := q.fail(1, metrics.CausePermission, "why", 0, q.now)
		q.add(1, at).seen = true
		for m := 2; m <= n; m++ {
			from := q.now
			if seed%5 == 0 {
				from = from.Add(q.upTo(5 * time.Minute))
			}
			q.add(uint64(m), from)
		}
		last := uint64(1)
		round := map[uint64]bool{1: true}
		q.call = func(m *heldMessage) (time.Duration, probeOutcome, time.Duration) {
			fail := func(what string) {
				t.Errorf("seed %d, %d messages: after %s message %d %s: %v", seed, n, q.now.Sub(holdStart), m.sequence, what, q.probes)
			}
			others := slices.ContainsFunc(q.all, func(o *heldMessage) bool { return o != m && o.seen && o.outcome != undecided })
			if m.sequence == last && others {
				fail("is refused twice in a row")
			}
			if round[m.sequence] {
				for _, o := range q.all {
					if o.seen && !round[o.sequence] && q.now.Sub(o.delivered) > time.Minute+time.Second && o.outcome != undecided {
						fail(fmt.Sprintf("is probed again before message %d", o.sequence))
					}
				}
				clear(round)
			}
			takes := q.upTo(time.Duration(1+q.rnd.IntN(5)) * time.Second)
			if seed%7 == 0 && q.rnd.IntN(4) == 0 {
				last = 0
				return takes, undecided, time.Second + q.upTo(10*time.Second)
			}
			round[m.sequence], last = true, m.sequence
			return takes, refusal, 0
		}
		for len(q.probes) < 60 && !t.Failed() {
			q.step()
		}
		// None is forgotten, and the back-off is the only thing that is waited for.
		if most := 61 * (probeMax + 10*time.Second); q.now.Sub(holdStart) > most {
			t.Errorf("seed %d: 60 probes took %s", seed, q.now.Sub(holdStart))
		}
	}
}

// An outage of an hour with hundreds of requests waiting, and a worker that is
// made anew each minute: each time one probe goes at once, and within a minute
// of the end the hold is over and everything comes back.
func TestHoldForAnHour(t *testing.T) {
	for seed, messages := range []uint64{300, 100, 10, 2} {
		q := newHoldQueue(t, uint64(seed))
		q.late = 100 * time.Millisecond
		for m := uint64(1); m <= messages; m++ {
			q.add(m, q.now.Add(q.upTo(time.Minute)))
		}
		at, _ := q.fail(1, metrics.CauseGraphUnavailable, "why", 0, q.now)
		q.all[0].at = at
		end := holdStart.Add(time.Hour)
		q.call = func(*heldMessage) (time.Duration, probeOutcome, time.Duration) {
			if q.now.After(end) {
				return q.upTo(time.Second), success, 0
			}
			return q.upTo(time.Second), refusal, 0
		}
		restarts := 0
		for restart := holdStart.Add(time.Minute); q.step(); {
			if q.now.Before(restart) {
				continue
			}
			// What it knew is handed on; a probe under way was for nothing.
			cause, detail, since, _ := q.state()
			q.hold = newHold()
			q.restore(cause, detail, since, q.now)
			if q.probe != nil {
				q.probe.calling, q.probe = false, nil
			}
			restart = restart.Add(time.Minute)
			restarts++
		}
		if late := q.now.Sub(end); late < 0 || late > time.Minute {
			t.Errorf("seed %d: the hold ended %s after the outage", seed, late)
		}
		if restarts < 59 || len(q.probes) < restarts {
			t.Errorf("seed %d: %d restarts, %d probes", seed, restarts, len(q.probes))
		}
		for _, m := range q.all {
			if d := m.at.Sub(q.now); d > whileProbing+time.Minute {
				t.Errorf("seed %d: message %d waits for %s without a hold", seed, m.sequence, d)
			}
		}
	}
}
