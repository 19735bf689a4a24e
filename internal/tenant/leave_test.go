package tenant

import (
	"testing"
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/hold"
)

// TestLookLasts: a look allows an attempt for a few seconds; what is held up longer
// has to be looked at once more.
func TestLookLasts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for ago, want := range map[time.Duration]bool{0: true, lookLasts: true, lookLasts + 1: false, time.Hour: false} {
		if got := (&leave{looked: now.Add(-ago)}).allows(now); got != want {
			t.Errorf("looked %s ago: %v", ago, got)
		}
	}
	if !(&leave{}).allows(now) {
		t.Error("an attempt that needs no look is not allowed")
	}
}

// TestProbeWithoutToken: a probe for which no other token is to be had just now
// has found nothing out, and lets the next one go.
func TestProbeWithoutToken(t *testing.T) {
	t.Parallel()
	ten := newTenant(Config{})
	l := &leave{t: ten, sequence: 7}
	ten.gate.Hold.Restore(hold.Permission, "why", time.Now(), time.Now())
	if p, _ := ten.gate.Hold.Admit(l.sequence, time.Now()); !p.Probe {
		t.Fatal("it is no probe")
	}
	before := time.Now()
	at := noToken(ten.gate, l.sequence, &graph.Error{Kind: graph.TokenUnavailable, Benign: true, RetryAfter: time.Minute})
	l.end()
	if at.Before(before.Add(time.Minute)) || at.After(time.Now().Add(time.Minute)) {
		t.Errorf("it comes again in %s", at.Sub(before))
	}
	if h := ten.gate.Hold.State(); h.Cause != hold.Permission || h.Detail != "why" {
		t.Errorf("the hold is %+v", h)
	}
	if p, until := ten.gate.Hold.Admit(8, time.Now()); !p.Probe {
		t.Errorf("no other may go until %s", until)
	}
}
