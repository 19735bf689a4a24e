package backlog

import (
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestPlaces: what waits for what may never come has a bounded number of places, and
// each is given back, at the latest when its message is overdue.
func TestPlaces(t *testing.T) {
	b := New(func(int) {})
	until := start.Add(time.Second)
	park := func(sequence uint64, now time.Time, wantWaits, wantFirst bool) {
		t.Helper()
		if waits, first := b.Park(sequence, until, now); waits != wantWaits || first != wantFirst {
			t.Errorf("message %d: waits %t, first %t; want %t, %t", sequence, waits, first, wantWaits, wantFirst)
		}
	}
	for i := range uint64(Most) {
		park(i, start, true, true)
	}
	park(7, start, true, false) // it has a place
	park(Most, start, false, true)
	b.Unpark(7)
	park(Most, start, true, true)
	park(7, start, false, true)
	park(7, until.Add(Overdue), false, true)
	park(7, until.Add(Overdue+1), true, true) // the others are overdue
}

// TestWaiting: what is shown is what waits.
func TestWaiting(t *testing.T) {
	shown := -1
	b := New(func(n int) { shown = n })
	step := func(what string, want int) {
		t.Helper()
		if shown != want {
			t.Errorf("%s: %d are shown to wait, want %d", what, shown, want)
		}
	}
	b.Wait(1, start.Add(time.Second))
	b.Wait(2, start.Add(time.Minute))
	b.Wait(2, start.Add(time.Hour))
	step("two", 2)
	b.Forget(start.Add(time.Second+Overdue), Overdue)
	step("just in time", 2)
	b.Forget(start.Add(time.Second+Overdue+1), Overdue)
	step("one is overdue", 1)
	b.Back(2)
	step("one is back", 0)
	b.Back(3)
	step("one that nobody waited for", 0)
}

// TestDrain goes through what an estimate can depend on.
func TestDrain(t *testing.T) {
	for _, c := range []struct {
		queue Queue
		want  time.Duration
	}{
		{Queue{}, 0},
		{Queue{Held: true}, 0},
		{Queue{Messages: 10, Held: true, Limit: 10}, -1},
		{Queue{Messages: 10}, -1},
		{Queue{Messages: 10, Flow: -1}, -1},
		{Queue{Messages: 10, Flow: 2}, 5 * time.Second},
		{Queue{Messages: 10, Flow: 2, Pause: time.Minute}, 65 * time.Second},
		{Queue{Messages: 10, Flow: 2, Limit: 10}, time.Second},
		{Queue{Messages: 10, Limit: 10, Free: 5}, 500 * time.Millisecond},
		{Queue{Messages: 10, Limit: 10, Free: 50, Pause: time.Second}, time.Second},
		{Queue{Messages: 10, Limit: 10, Standby: true, Free: 50, Pause: time.Second}, time.Second},
		{Queue{Messages: 10, Limit: 10, Standby: true, Flow: 2}, 5 * time.Second},
		{Queue{Messages: 10, Standby: true, Flow: -2}, -1},
	} {
		if got := c.queue.Drain(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.queue, got, c.want)
		}
	}
}

// TestFlow: the flow follows what is measured, and is steadier.
func TestFlow(t *testing.T) {
	var f Flow
	if got := f.PerSecond(1000, start); got != 0 {
		t.Errorf("nothing to compare with: %g", got)
	}
	messages, now := 1000, start
	for range 30 {
		messages, now = messages-20, now.Add(2*time.Second)
		f.PerSecond(messages, now)
	}
	if got := f.PerSecond(messages-20, now.Add(2*time.Second)); got < 9.9 || got > 10 {
		t.Errorf("10 a second: %g", got)
	}
	if got := f.PerSecond(messages+1000, now.Add(4*time.Second)); got >= 0 {
		t.Errorf("it grows: %g", got)
	}
	before := f
	if f.PerSecond(0, now); f.rate != before.rate {
		t.Errorf("a clock that was set back: %g, before %g", f.rate, before.rate)
	}
}
