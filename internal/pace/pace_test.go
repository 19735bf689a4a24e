package pace

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rate is Graph's; with its window a wait is soon longer than [Patience].
var rate = Rate{N: 5, W: 20 * time.Second}

// clock tells the fake time since it was made.
type clock struct{ start time.Time }

func newClock() clock { return clock{time.Now()} }

func (c clock) now() time.Duration           { return time.Since(c.start) }
func (c clock) of(t time.Time) time.Duration { return t.Sub(c.start) }
func (c clock) at(d time.Duration) time.Time { return c.start.Add(d) }
func (c clock) sleepUntil(d time.Duration)   { sleepUntil(c.at(d)) }
func (c clock) want(t *testing.T, d time.Duration) {
	t.Helper()
	if c.now() != d {
		t.Fatalf("it is %s, want %s", c.now(), d)
	}
}

func sleepUntil(at time.Time) {
	time.Sleep(time.Until(at)) // fake time
}

// take reserves a slot that must be there at once.
func take(t *testing.T, p *Pacer) *Slot {
	t.Helper()
	before := time.Now()
	s, err := p.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(before); d != 0 {
		t.Fatalf("the slot came after %s", d)
	}
	return s
}

// refused tells until when a call may not go: it must be told at once.
func refused(t *testing.T, p *Pacer) time.Time {
	t.Helper()
	before := time.Now()
	_, err := p.Reserve(t.Context())
	wait := (*Wait)(nil)
	if !errors.As(err, &wait) {
		t.Fatalf("got %v, want a wait", err)
	}
	if d := time.Since(before); d != 0 {
		t.Fatalf("the wait was told after %s", d)
	}
	return wait.Until
}

// wantFree checks how many slots are free. It leaves them so.
func wantFree(t *testing.T, p *Pacer, n int) {
	t.Helper()
	var slots []*Slot
	for {
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan *Slot, 1)
		go func() {
			s, _ := p.Reserve(ctx)
			got <- s
		}()
		synctest.Wait()
		cancel()
		s := <-got
		if s == nil {
			break
		}
		slots = append(slots, s)
	}
	if len(slots) != n {
		t.Errorf("%d slots are free, want %d", len(slots), n)
	}
	for _, s := range slots {
		s.Release()
	}
}

func TestBurst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(rate, 0)
		for range rate.N {
			take(t, p).Done()
			time.Sleep(time.Second) // fake time
		}
		c.want(t, 5*time.Second)
		if until := c.of(refused(t, p)); until != rate.W {
			t.Errorf("the next call may go at %s, want %s", until, rate.W)
		}
		// Each call makes room for one, a window after its answer.
		for i := range rate.N {
			c.sleepUntil(rate.W + time.Duration(i)*time.Second)
			take(t, p).Done()
			if i < rate.N-1 {
				wantFree(t, p, 0)
			}
		}
		if until := c.of(refused(t, p)); until != 2*rate.W {
			t.Errorf("the next call may go at %s, want %s", until, 2*rate.W)
		}
	})
}

// A short wait is waited for, a long one is told.
func TestPatience(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{1, time.Millisecond, Patience - 1, Patience, Patience + 1, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			c, p := newClock(), New(Rate{1, time.Hour}, 0)
			take(t, p).Done()
			c.sleepUntil(time.Hour - ahead)
			if ahead > Patience {
				if until := c.of(refused(t, p)); until != time.Hour {
					t.Errorf("%s ahead: until %s", ahead, until)
				}
				return
			}
			if _, err := p.Reserve(t.Context()); err != nil {
				t.Fatalf("%s ahead: %v", ahead, err)
			}
			c.want(t, time.Hour)
		})
	}
}

// A slot whose call is under way leaves at no known instant.
func TestAllUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(rate, 0)
		var slots []*Slot
		for range rate.N {
			slots = append(slots, take(t, p))
		}
		c.sleepUntil(time.Hour)
		_, err := p.Reserve(t.Context())
		wait := (*Wait)(nil)
		if !errors.As(err, &wait) {
			t.Fatalf("got %v, want a wait", err)
		}
		if d := c.now() - time.Hour; d < Patience || d > Patience+time.Second {
			t.Errorf("it was told after %s", d)
		}
		if d := time.Until(wait.Until); d <= 0 || d > Patience {
			t.Errorf("the request is to come back in %s", d)
		}
		// One that was never sent makes room at once.
		time.AfterFunc(2*time.Second, slots[0].Release)
		from := c.now()
		if slots[0], err = p.Reserve(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.want(t, from+2*time.Second)
		// One that is answered makes the instant known.
		time.AfterFunc(2*time.Second, slots[0].Done)
		from = c.now()
		if _, err := p.Reserve(t.Context()); !errors.As(err, &wait) {
			t.Fatalf("got %v, want a wait", err)
		}
		c.want(t, from+2*time.Second)
		if until := c.of(wait.Until); until != c.now()+rate.W {
			t.Errorf("until %s", until)
		}
	})
}

func TestNoLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(Rate{}, 0)
		var slots []*Slot
		for range 10_000 {
			slots = append(slots, take(t, p))
		}
		for i, s := range slots {
			if i%2 == 0 {
				s.Done()
			} else {
				s.Release()
			}
		}
		if err := ready(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		c.want(t, 0)
		if len(p.window.marks) > 1 {
			t.Errorf("%d marks are kept for calls of one instant", len(p.window.marks))
		}
		// A pause holds all the same.
		p.Throttled(time.Now(), time.Minute)
		if until := c.of(refused(t, p)); until != time.Minute {
			t.Errorf("until %s", until)
		}
	})
}

func TestSlotEndsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(rate, 0)
		released := take(t, p)
		released.Release()
		released.Done()
		released.Release()
		wantFree(t, p, rate.N)

		done := take(t, p)
		done.Done()
		done.Release()
		done.Done()
		wantFree(t, p, rate.N-1)
		time.Sleep(rate.W) // fake time
		wantFree(t, p, rate.N)

		var wg sync.WaitGroup
		both := take(t, p)
		for i := range 100 {
			wg.Go(func() {
				if i%2 == 0 {
					both.Done()
				} else {
					both.Release()
				}
			})
		}
		wg.Wait()
		time.Sleep(rate.W) // fake time
		wantFree(t, p, rate.N)
	})
}

func TestReady(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		rate Rate
		// events change the pacer; by then all slots are taken by calls under way.
		events func(p *Pacer, slots []*Slot)
		want   time.Duration
	}{
		{"a slot is released", rate, func(_ *Pacer, slots []*Slot) { slots[0].Release() }, 0},
		{"a slot is released later", rate, func(_ *Pacer, slots []*Slot) {
			time.Sleep(time.Minute) // fake time
			slots[3].Release()
		}, time.Minute},
		{"an answer makes a long wait plain", rate, func(_ *Pacer, slots []*Slot) {
			time.Sleep(time.Minute) // fake time
			slots[3].Done()
		}, time.Minute},
		{"a short window", Rate{2, 2 * time.Second}, func(_ *Pacer, slots []*Slot) {
			time.Sleep(time.Minute) // fake time
			slots[1].Done()
		}, 62 * time.Second},
		{"released while it waits for an answered one", Rate{2, 4 * time.Second}, func(_ *Pacer, slots []*Slot) {
			slots[1].Done()
			time.Sleep(time.Second) // fake time
			slots[0].Release()
		}, time.Second},
		{"a window of just the patience", Rate{1, Patience}, func(_ *Pacer, slots []*Slot) { slots[0].Done() }, Patience},
		{"a window of more than the patience", Rate{1, Patience + 1}, func(_ *Pacer, slots []*Slot) { slots[0].Done() }, 0},
		{"a short pause", rate, func(p *Pacer, slots []*Slot) {
			slots[0].Release()
			p.Throttled(time.Now(), 3*time.Second)
		}, 3 * time.Second},
		{"a long pause", rate, func(p *Pacer, _ []*Slot) { p.Throttled(time.Now(), time.Minute) }, 0},
		{"a short pause that grows long", rate, func(p *Pacer, slots []*Slot) {
			slots[0].Release()
			p.Throttled(time.Now(), 3*time.Second)
			time.Sleep(2 * time.Second) // fake time
			p.Throttled(time.Now(), time.Minute)
		}, 2 * time.Second},
		{"a short pause with no slot after it", rate, func(p *Pacer, slots []*Slot) {
			p.Throttled(time.Now(), 3*time.Second)
			time.Sleep(10 * time.Second) // fake time
			slots[0].Release()
		}, 10 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, p := newClock(), New(tc.rate, 0)
				if err := ready(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				c.want(t, 0)
				var slots []*Slot
				for range tc.rate.N {
					slots = append(slots, take(t, p))
				}
				var wg sync.WaitGroup
				if tc.want == 0 {
					tc.events(p, slots)
				} else {
					wg.Go(func() { tc.events(p, slots) })
				}
				if err := ready(t.Context(), p); err != nil {
					t.Error(err)
				}
				c.want(t, tc.want)
				wg.Wait()
				for _, s := range slots {
					s.Release()
				}
				time.Sleep(2 * time.Minute) // fake time
				wantFree(t, p, tc.rate.N)   // it has reserved nothing
			})
		})
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	why := errors.New("told to stop")
	for name, wait := range map[string]func(*Pacer, context.Context) error{
		"Available": func(p *Pacer, ctx context.Context) error { return ready(ctx, p) },
		"Reserve": func(p *Pacer, ctx context.Context) error {
			_, err := p.Reserve(ctx)
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			// For an instant that is known, for one that is not, for a pause.
			known, unknown, paused := New(Rate{1, 4 * time.Second}, 0), New(rate, 0), New(Rate{}, 0)
			take(t, known).Done()
			var slots []*Slot
			for range rate.N {
				slots = append(slots, take(t, unknown))
			}
			paused.Throttled(time.Now(), 4*time.Second)
			for _, p := range []*Pacer{known, unknown, paused} {
				c := newClock()
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(why) })
				if err := wait(p, ctx); !errors.Is(err, why) {
					t.Errorf("%s: %v", name, err)
				}
				c.want(t, time.Second)
				if err := wait(p, ctx); !errors.Is(err, why) {
					t.Errorf("%s again: %v", name, err)
				}
				c.want(t, time.Second)
			}
			for _, s := range slots {
				s.Release()
			}
			time.Sleep(4 * time.Second) // fake time
			wantFree(t, known, 1)
			wantFree(t, unknown, rate.N)
		})
	}
}

func TestWaitError(t *testing.T) {
	t.Parallel()
	err := error(&Wait{Until: time.Date(2026, 1, 2, 5, 4, 5, 60_000_000, time.FixedZone("", 7200))})
	if !strings.HasSuffix(err.Error(), " 2026-01-02T03:04:05.06Z") {
		t.Error(err)
	}
}

// What is left of a call a window after its answer must not stay in memory.
func TestForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(Rate{3, time.Millisecond}, 0)
		for range 10_000 {
			take(t, p).Done()
			time.Sleep(time.Millisecond) // fake time
		}
		if p.window.n > 3 || cap(p.window.marks) > roomKept {
			t.Errorf("%d calls are remembered, with room for %d", p.window.n, cap(p.window.marks))
		}
	})
}

func BenchmarkReserveDone(b *testing.B) {
	for name, p := range map[string]*Pacer{
		"no-limit": New(Rate{}, 0),
		// So many calls that the window never fills, so short that it empties.
		"limit": New(Rate{1 << 40, time.Millisecond}, 0),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s, err := p.Reserve(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				s.Done()
			}
		})
		b.Run(name+"-parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					s, err := p.Reserve(b.Context())
					if err != nil {
						b.Error(err)
						return
					}
					s.Done()
				}
			})
		})
	}
}

// ready waits, as whoever takes requests does, until a call could be sent, or
// until it is plain that the wait is longer than Patience.
func ready(ctx context.Context, p *Pacer) error {
	for {
		n, at, changed := p.Available()
		if n > 0 || time.Until(at) > Patience {
			return nil
		}
		if err := sleep(ctx, at, changed); err != nil {
			return err
		}
	}
}

// The end of a ramp is only the latest instant at which a call may go: one whose
// patience ends before it still waits for the answers that let it go sooner.
func TestWaitsForAnswersInARamp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(graphs, time.Hour)
		take(t, p).Throttled(time.Now(), 4*time.Second)
		c.sleepUntil(500 * time.Millisecond)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				s, err := p.Reserve(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(latency) // fake time
				s.Accepted()
			})
		}
		wg.Wait()
		c.want(t, 4*time.Second+2*latency)
	})
}
