package pace

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

var graphs = Rate{200, 20 * time.Second}

// learnt makes a pacer that has had n calls let in, and then one refused with a
// pause of a second.
func learnt(t *testing.T, r Rate, n int) *Pacer {
	t.Helper()
	p := New(r, time.Hour)
	for range n {
		take(t, p).Accepted()
	}
	refuse(t, p)
	if d := time.Until(p.Paused()); d != time.Second {
		t.Fatalf("paused for %s", d)
	}
	return p
}

// refuse has three calls refused: one or two may be their own affair.
func refuse(t *testing.T, p *Pacer) {
	t.Helper()
	one, others, sent := take(t, p), []*Slot{take(t, p), take(t, p)}, time.Now()
	if until, added, capped := one.Throttled(sent, 0); time.Until(until) != added || added < time.Second || capped {
		t.Errorf("paused until %s, %s added, capped %t", until, added, capped)
	}
	for _, s := range others {
		if _, added, capped := s.Throttled(sent, 0); added != 0 || capped {
			t.Errorf("%s added for another, capped %t", added, capped)
		}
	}
}

func wantLimit(t *testing.T, p *Pacer, perSecond float64, granted int) {
	t.Helper()
	if got := p.Limit(); math.Abs(got-perSecond) > 1e-9 {
		t.Errorf("the limit is %v per second, want %v", got, perSecond)
	}
	if got := p.Granted(); got != granted {
		t.Errorf("%d calls in a window are known to be granted, want %d", got, granted)
	}
}

// What was let in within the window is what the server grants, and no more is
// sent until it has left the window.
func TestLearns(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{{100, 20 * time.Second}, {2000, 20 * time.Second}, {}} {
		synctest.Test(t, func(t *testing.T) {
			c, p := newClock(), New(r, time.Hour)
			wantLimit(t, p, r.PerSecond(), 0)
			for range 10 { // these will have left
				take(t, p).Accepted()
			}
			c.sleepUntil(30 * time.Second)
			for i := range 40 {
				s := take(t, p)
				if i < 5 {
					s.Done() // let in or not: nobody knows
				} else {
					s.Accepted()
				}
			}
			refuse(t, p)
			wantLimit(t, p, 35./20, 35)
			n, at, _ := p.Available()
			if got := c.of(at); n != 0 || got < 50*time.Second || got > 50*time.Second+20*time.Millisecond {
				t.Errorf("%d calls may go, the next at %s", n, got)
			}
		})
	}
}

// Of the calls that were under way with the first that is refused, those let in
// count, and those refused make no second lesson.
func TestLearnsFromAllUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(graphs, time.Hour)
		sent := time.Now()
		var slots []*Slot
		for range 60 {
			slots = append(slots, take(t, p))
		}
		for i, s := range slots {
			time.Sleep(time.Millisecond) // fake time
			switch {
			case i == 10 || i > 31:
				s.Throttled(sent, 0)
			default:
				s.Accepted()
			}
		}
		wantLimit(t, p, 31./20, 31)
		if d := time.Until(p.Paused()); d != time.Second-49*time.Millisecond {
			t.Errorf("paused for another %s", d)
		}
	})
}

// A call refused alone, or some of many, may be refused for their own sake,
// whatever the status says. They must not slow the others down.
func TestOwnAffair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(graphs, time.Hour)
		for range 30 {
			take(t, p).Accepted()
		}
		// One before those let in, and one after the pause.
		var slots []*Slot
		for range 5 {
			slots = append(slots, take(t, p))
		}
		sent := time.Now()
		for i, s := range slots {
			if i == 1 {
				s.Throttled(sent, 0)
			} else {
				s.Accepted()
			}
			wantLimit(t, p, 10, 0)
		}
		sleepUntil(p.Paused())
		take(t, p).Throttled(time.Now(), 0)
		wantLimit(t, p, 10, 0)
		sleepUntil(p.Paused())
		take(t, p).Accepted()
		wantLimit(t, p, 10, 0)
		// When hardly any others are let in, it was the quota.
		take(t, p).Throttled(time.Now(), 0)
		wantLimit(t, p, 10, 0)
		sleepUntil(p.Paused())
		take(t, p).Throttled(time.Now(), 0)
		wantLimit(t, p, 35./20, 35)
		c.want(t, 4*time.Second)
	})
}

// Where most calls under way were let in, nothing is learned from the refusal of
// one. But a server that said how long to wait may mean all of them, and grants
// few when the time is over: then few go at first.
func TestFewGoFirstWhereTold(t *testing.T) {
	t.Parallel()
	for retryAfter, want := range map[time.Duration]int{0: 165, 15 * time.Second: rampStart} {
		synctest.Test(t, func(t *testing.T) {
			p := New(graphs, time.Hour)
			for range 30 {
				take(t, p).Accepted()
			}
			var slots []*Slot
			for range 5 {
				slots = append(slots, take(t, p))
			}
			slots[0].Throttled(time.Now(), retryAfter)
			for _, s := range slots[1:] {
				s.Accepted()
			}
			wantLimit(t, p, 10, 0)
			sleepUntil(p.Paused())
			wantFree(t, p, want)
		})
	}
}

// Answers come in any order: a call that was sent before the one that was refused
// first, and is refused after it, counts as well.
func TestLearnsWhateverTheOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(graphs, time.Hour)
		for range 50 {
			take(t, p).Accepted()
		}
		sent, slots := time.Now(), []*Slot{}
		for range 5 {
			slots = append(slots, take(t, p))
		}
		for i := range slots {
			slots[len(slots)-1-i].Throttled(sent, 0)
		}
		wantLimit(t, p, 50./20, 50)
	})
}

// Calls that were under way with the first refusals, and let in, say nothing of the
// calls after the pause.
func TestLearnsAfterThePause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(graphs, time.Hour)
		for range 100 {
			take(t, p).Accepted()
		}
		// together makes calls at once, of which the first are refused.
		together := func(refused, letIn int) {
			t.Helper()
			sent, slots := time.Now(), []*Slot{}
			for range refused + letIn {
				slots = append(slots, take(t, p))
			}
			for i, s := range slots {
				if i < refused {
					s.Throttled(sent, 2*time.Second)
				} else {
					s.Accepted()
				}
			}
		}
		together(1, 12)
		wantLimit(t, p, 10, 0)
		sleepUntil(p.Paused())
		together(3, 0)
		wantLimit(t, p, 112./20, 112)
	})
}

// A caller alone learns from three refusals in a row.
func TestLearnsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(graphs, time.Hour)
		for range 50 {
			take(t, p).Accepted()
		}
		for range 2 {
			take(t, p).Throttled(time.Now(), 0)
			wantLimit(t, p, 10, 0)
			// So long that the window is empty.
			time.Sleep(20*time.Second + time.Millisecond) // fake time
		}
		take(t, p).Throttled(time.Now(), 0)
		wantLimit(t, p, 50./20, 50)
	})
}

// A refusal when next to nothing was let in tells that nothing is granted now.
// After each pause one call goes, until one is let in; then ever more at once.
func TestNothingGranted(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{graphs, {}} {
		synctest.Test(t, func(t *testing.T) {
			p := New(r, time.Hour)
			for range 19 {
				take(t, p).Accepted()
			}
			time.Sleep(time.Second) // fake time
			take(t, p).Throttled(time.Now(), 0)
			wantLimit(t, p, r.PerSecond(), 0)
			for step := time.Second; step <= 16*time.Second; step *= 2 {
				if d := time.Until(p.Paused()); d != step {
					t.Errorf("a pause of %s, want %s", d, step)
				}
				sleepUntil(p.Paused())
				if n, _, _ := p.Available(); n != 1 {
					t.Errorf("%d calls may go after %s", n, step)
				}
				take(t, p).Throttled(time.Now(), 0)
			}
			wantLimit(t, p, r.PerSecond(), 0)
			sleepUntil(p.Paused())
			for most := 1; most <= rampEnd && (r.N == 0 || 4*most <= r.N); most *= 2 {
				wantFree(t, p, most)
				var slots []*Slot
				for range most {
					slots = append(slots, take(t, p))
				}
				if n, at, _ := p.Available(); n != 0 || time.Until(at) != rampPatience {
					t.Errorf("%d of %d calls are under way, and %d more may go, or at %s", most, most, n, at)
				}
				for _, s := range slots {
					s.Accepted()
				}
			}
			if r.N == 0 {
				if n, _, _ := p.Available(); n != unlimited {
					t.Errorf("%d calls may go", n)
				}
			}
		})
	}
}

// Answers that stay away do not hold the others up for ever.
func TestRampEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), learnt(t, graphs, 50)
		c.sleepUntil(graphs.W)
		for range rampStart {
			take(t, p)
		}
		if _, err := p.Reserve(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.want(t, graphs.W+rampPatience)
		wantFree(t, p, 50-rampStart-1)
	})
}

// An overloaded service (503) and a refused reading tell nothing of the quota.
func TestOnlyRefusalsTeach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(graphs, time.Hour)
		for range 50 {
			take(t, p).Accepted()
		}
		s := take(t, p)
		p.Throttled(time.Now(), 0)
		s.Done()
		wantLimit(t, p, 10, 0)
		sleepUntil(p.Paused())
		wantFree(t, p, 149)
	})
}

// Each window without a refusal raises the limit by a twentieth of the rate, up
// to the rate.
func TestComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), learnt(t, graphs, 50)
		c.sleepUntil(graphs.W) // the window begins with the first call
		take(t, p).Accepted()
		for i := range 15 {
			from := time.Duration(i+1) * graphs.W
			c.sleepUntil(from + graphs.W - 1)
			wantLimit(t, p, float64(50+10*i)/20, 50)
			c.sleepUntil(from + graphs.W)
		}
		wantLimit(t, p, 10, 0)
		wantFree(t, p, 200)
	})
}

// With nothing to send the windows pass all the same, from one after the pause on.
func TestComesBackIdle(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rate Rate
		back time.Duration
	}{
		{graphs, 15 * graphs.W},
		{Rate{2000, 20 * time.Second}, 20 * graphs.W}, // (2000-50)/100
		{Rate{}, 15 * graphs.W},                       // as if it were Graph's
		{Rate{55, 10 * time.Second}, 2 * 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, p := newClock(), learnt(t, tc.rate, 50)
			w := p.window.w
			c.sleepUntil(time.Second + w + tc.back - 1)
			if p.Granted() != 50 {
				t.Errorf("%s: it is forgotten too early", tc.rate)
			}
			if n, _, _ := p.Available(); n != rampStart {
				t.Errorf("%s: %d calls may go", tc.rate, n)
			}
			c.sleepUntil(time.Second + w + tc.back)
			wantLimit(t, p, tc.rate.PerSecond(), 0)
		})
	}
}

// More than the server has granted is tried one call at a time, and a refusal
// then costs nothing of what is sure.
func TestTriesForMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), learnt(t, graphs, 50)
		burst := func(n int) {
			t.Helper()
			for range n {
				take(t, p).Accepted()
			}
		}
		c.sleepUntil(graphs.W)
		burst(50)
		wantFree(t, p, 0)
		c.sleepUntil(2*graphs.W - 1)
		wantFree(t, p, 0)
		c.sleepUntil(2 * graphs.W)
		wantLimit(t, p, 3, 50)
		burst(50)
		wantFree(t, p, 1)
		s := take(t, p)
		wantFree(t, p, 0)
		s.Accepted()
		wantLimit(t, p, 3, 51)
		// Not when all are about to leave: the server may have forgotten them.
		c.sleepUntil(3*graphs.W - graphs.W/10)
		wantFree(t, p, 0)
		c.sleepUntil(3 * graphs.W)
		burst(51)
		take(t, p).Accepted()
		take(t, p).Throttled(time.Now(), 0)
		wantLimit(t, p, 52./20, 52)
		sleepUntil(p.Paused())
		wantFree(t, p, 0)
		c.sleepUntil(4 * graphs.W)
		wantFree(t, p, 52) // no ramp: the refusal was half expected
	})
}

// A try for more that is refused can keep its place for a window from the next
// call that leaves on: so it is made where that one is long in coming.
func TestTriesForMoreInALull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), learnt(t, graphs, 50)
		burst := func(at time.Duration, n int) {
			t.Helper()
			c.sleepUntil(at)
			for range n {
				take(t, p).Accepted()
			}
		}
		// The calls of each window go in two bursts, the second 4 s later.
		const w, second = 20 * time.Second, 4 * time.Second
		burst(w, 40)
		burst(w+second, 10)
		burst(2*w, 40)
		wantLimit(t, p, 3, 50)
		// Not between the two.
		wantFree(t, p, 0)
		_, at, _ := p.Available()
		if got := c.of(at); got != 2*w+second {
			t.Errorf("the next call may go at %s", got)
		}
		burst(2*w+second, 10)
		wantFree(t, p, 1)
		take(t, p).Throttled(time.Now(), 0)
		// One call waits for its place, until the burst after it.
		burst(3*w, 39)
		wantFree(t, p, 0)
		burst(3*w+second, 11)
		wantFree(t, p, 0)
		// Where nothing was refused for two windows, every chance is taken.
		burst(4*w, 39)
		burst(4*w+second, 11)
		burst(5*w, 39)
		wantLimit(t, p, 3.5, 50)
		wantFree(t, p, 1)
	})
}

// Where calls leave one after the other there is no lull to wait for.
func TestTriesForMoreInSteadyTraffic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const every = 400 * time.Millisecond
		c, p := newClock(), learnt(t, graphs, 50)
		tries := 0
		for i := range 150 {
			c.sleepUntil(graphs.W + time.Duration(i)*every)
			take(t, p).Accepted()
			time.Sleep(every / 2) // fake time
			if n, _, _ := p.Available(); n > 0 && p.lesson.sure == 50 && i > 50 {
				tries++
			}
		}
		if tries < 50 {
			t.Errorf("more could be tried after %d calls of 99", tries)
		}
	})
}

// Where nothing is known to be granted, and nothing is under way, it is known at
// least when to ask again: else nobody would, for ever.
func TestNeverWithoutAnInstant(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{{}, {200, 20 * time.Second}, {5, 20 * time.Second}} {
		for _, unknown := range []int{0, 1, 3, 30, 150} {
			synctest.Test(t, func(t *testing.T) {
				p := New(r, 0)
				for range min(unknown, max(r.N-1, 0)) + unknown*min(1, 1-min(1, r.N)) {
					take(t, p).Done()                 // nobody knows whether they were let in
					time.Sleep(10 * time.Millisecond) // fake time
				}
				take(t, p).Throttled(time.Now(), 900*time.Millisecond)
				began := time.Now()
				for range 10_000 {
					n, at, changed := p.Available()
					if n > 0 {
						break
					}
					if at.IsZero() {
						t.Fatalf("%s, %d unknown: %s after the refusal nothing says when to ask again", r, unknown, time.Since(began))
					}
					select {
					case <-changed:
					case <-time.After(time.Until(at)): // fake time
					}
				}
				if took := time.Since(began); took > 2*defaultWindow {
					t.Errorf("%s, %d unknown: the next call may go after %s", r, unknown, took)
				}
			})
		}
	}
}
