package pace

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAvailable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		want := func(p *Pacer, n int, at time.Duration, known bool) {
			t.Helper()
			gotN, gotAt, _ := p.Available()
			if gotN != n || known && time.Until(gotAt) != at || !known && !gotAt.IsZero() {
				t.Errorf("%d at %s, want %d in %s, known %t", gotN, gotAt, n, at, known)
			}
		}
		closed := func(changed <-chan struct{}) bool {
			select {
			case <-changed:
				return true
			default:
				return false
			}
		}
		want(New(Rate{}, 0), unlimited, 0, true)
		p := New(rate, 0)
		want(p, rate.N, 0, true)
		var slots []*Slot
		for i := range rate.N {
			slots = append(slots, take(t, p))
			want(p, rate.N-1-i, 0, i < rate.N-1)
		}
		for _, change := range []func(){
			slots[0].Release, func() { take(t, p).Done() }, slots[1].Done, slots[2].Accepted,
			func() { slots[3].Throttled(time.Now(), 0) }, func() { p.Throttled(time.Now(), time.Minute) },
			func() { p.Rebuild(granted(time.Now())) }, func() { p.Restore(0, time.Time{}) },
		} {
			_, _, changed := p.Available()
			if _, _, same := p.Available(); closed(changed) || changed != same {
				t.Error("there is a change already")
			}
			change()
			if !closed(changed) {
				t.Error("no change was told")
			}
		}
		p = New(rate, 0)
		p.Throttled(time.Now(), time.Minute)
		want(p, 0, time.Minute, true)
	})
}

// granted are calls that the server has let in, at these instants.
func granted(at ...time.Time) (calls []Call) {
	for _, a := range at {
		calls = append(calls, Call{At: a, Granted: true})
	}
	return calls
}

// TestRebuild: the window holds the calls that are told, and those under way, and
// no others; told twice, or of calls that it knew itself, nothing counts twice.
func TestRebuild(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(rate, 0)
		var known []Call
		for _, ago := range []time.Duration{time.Hour, 20 * time.Second, 5 * time.Second, 20*time.Second - 1, -time.Hour} {
			known = append(known, granted(time.Now().Add(-ago).Round(0))...) // as from a clock on the wall
		}
		for range 3 {
			p.Rebuild(known)
			wantFree(t, p, 2)
		}
		c.sleepUntil(1)
		wantFree(t, p, 3)
		// A call of its own, which the records tell of as well.
		take(t, p).Done()
		known = append(known, granted(time.Now(), time.Now().Add(-10*time.Second))...)
		p.Rebuild(known)
		wantFree(t, p, 1)
		// One under way is not told of, and goes on to count.
		slot := take(t, p)
		p.Rebuild(known)
		wantFree(t, p, 0)
		slot.Release()
		wantFree(t, p, 1)
		c.sleepUntil(10*time.Second + 1)
		wantFree(t, p, 2)
		c.sleepUntil(15 * time.Second)
		wantFree(t, p, 3)
		c.sleepUntil(20*time.Second + 1)
		wantFree(t, p, rate.N)
		take(t, p).Done()
		p.Rebuild(nil)
		wantFree(t, p, rate.N)

		// What was let in is part of what the server grants; what was refused is not.
		for _, refused := range []bool{false, true} {
			p = New(graphs, 0)
			var calls []Call
			for range 40 {
				calls = append(calls, Call{At: time.Now(), Granted: true})
				if refused {
					calls = append(calls, Call{At: time.Now()})
				}
			}
			p.Rebuild(calls)
			refuse(t, p)
			wantLimit(t, p, 2, 40)
		}
	})
}

func TestRestore(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rate      Rate
		granted   int
		paused    time.Duration
		perSecond float64
		want      int
		wantPause time.Duration
	}{
		{graphs, 0, 0, 10, 0, 0},
		{graphs, 60, 10 * time.Second, 3, 60, 10 * time.Second},
		{graphs, 60, -time.Second, 3, 60, 0},
		{graphs, 0, 3 * time.Hour, 10, 0, time.Hour}, // capped
		{graphs, 200, 0, 10, 0, 0},                   // no less than what is configured
		{graphs, 900, 0, 10, 0, 0},
		{graphs, -1, 0, 10, 0, 0},
		{Rate{}, 900, 0, 45, 900, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := New(tc.rate, time.Hour)
			p.Restore(tc.granted, time.Now().Add(tc.paused).Round(0))
			wantLimit(t, p, tc.perSecond, tc.want)
			if d := time.Until(p.Paused()); d != tc.wantPause && (tc.wantPause != 0 || d > 0) {
				t.Errorf("paused for %s, want %s", d, tc.wantPause)
			}
			sleepUntil(p.Paused())
			if tc.want > 0 {
				wantFree(t, p, tc.want)
				time.Sleep(tc.wantPause + 60*time.Second) // fake time
				if got := p.Limit(); got <= tc.perSecond {
					t.Errorf("still %v per second", got)
				}
			}
		})
	}
}

// A successor that is told what was sent and learned keeps to the same windows.
func TestTakeover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), learnt(t, graphs, 50)
		next := New(graphs, time.Hour)
		var calls []Call
		for range 50 {
			calls = append(calls, granted(c.at(0))...)
		}
		next.Rebuild(calls)
		next.Restore(p.Granted(), p.Paused())
		_, at, _ := next.Available()
		if got := c.of(at); got != graphs.W {
			t.Errorf("the successor may send at %s", got)
		}
	})
}

// However many calls there are, little is remembered, and nothing in idleness.
func TestMemory(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{{}, {1 << 30, 20 * time.Second}, {exact, 20 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			p := New(r, 0)
			for i := range 30_000 {
				if n, _, _ := p.Available(); n > 0 {
					take(t, p).Accepted()
				}
				if i%3000 == 0 {
					var calls []Call
					for n := range 10 * exact {
						calls = append(calls, granted(time.Now().Add(-time.Duration(n%19)*time.Second))...)
					}
					p.Rebuild(calls)
				}
				time.Sleep(time.Millisecond) // fake time
			}
			if n := cap(p.window.marks); n > 10*exact {
				t.Errorf("%s: room for %d marks", r, n)
			}
			time.Sleep(time.Minute) // fake time
			p.Available()
			if n := cap(p.window.marks); n > roomKept || p.window.n != 0 || p.window.granted != 0 || p.taken != 0 {
				t.Errorf("%s: when idle, room for %d marks; %d calls, %d granted, %d taken", r, n, p.window.n, p.window.granted, p.taken)
			}
		})
	}
}

func BenchmarkReserve(b *testing.B) {
	for name, p := range map[string]*Pacer{
		"no-limit": New(Rate{}, 0),
		"limit":    New(Rate{1 << 40, time.Millisecond}, 0),
		"learned":  New(Rate{}, 0),
	} {
		if name == "learned" {
			p.Restore(1<<40, time.Time{})
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					s, err := p.Reserve(b.Context())
					if err != nil {
						b.Error(err)
						return
					}
					s.Accepted()
				}
			})
		})
	}
}
