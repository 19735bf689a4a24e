package pace

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(rate, time.Hour)
		throttled := func(retryAfter, until, added time.Duration, capped bool) {
			t.Helper()
			u, a, k := p.Throttled(time.Now(), retryAfter)
			if c.of(u) != until || a != added || k != capped {
				t.Errorf("at %s, Retry-After %s: until %s, %s added, capped %t; want %s, %s, %t",
					c.now(), retryAfter, c.of(u), a, k, until, added, capped)
			}
			if got := c.of(p.Paused()); got != until {
				t.Errorf("paused until %s, want %s", got, until)
			}
		}
		if got := p.Paused(); !got.IsZero() {
			t.Errorf("paused until %s before the first refusal", got)
		}
		throttled(10*time.Second, 10*time.Second, 10*time.Second, false)
		throttled(10*time.Second, 10*time.Second, 0, false)
		throttled(9*time.Second, 10*time.Second, 0, false) // a shorter one does not cut
		if until := c.of(refused(t, p)); until != 10*time.Second {
			t.Errorf("a call may go at %s", until)
		}
		c.sleepUntil(4 * time.Second)
		throttled(6*time.Second, 10*time.Second, 0, false)
		throttled(7*time.Second, 11*time.Second, time.Second, false) // a longer one wins
		c.sleepUntil(11*time.Second - 1)
		if p.Paused().IsZero() {
			t.Error("the pause is over too early")
		}
		if _, err := p.Reserve(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.want(t, 11*time.Second)
		if got := p.Paused(); !got.IsZero() {
			t.Errorf("at its end, paused until %s", got)
		}
		throttled(1, 11*time.Second+1, 1, false)
		throttled(time.Hour, 11*time.Second+time.Hour, time.Hour-1, false)
		throttled(time.Hour+1, 11*time.Second+time.Hour, 0, true)
		c.sleepUntil(12 * time.Second)
		throttled(365*24*time.Hour, 12*time.Second+time.Hour, time.Second, true)
	})
}

// A pause that begins while a caller waits for its turn holds for it, too.
func TestThrottledWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, pause := range []time.Duration{time.Second, 3 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			c, p := newClock(), New(Rate{1, 4 * time.Second}, 0)
			take(t, p).Done()
			time.AfterFunc(time.Second, func() { p.Throttled(time.Now(), pause) })
			s, err := p.Reserve(t.Context())
			if pause > Patience {
				c.want(t, time.Second)
				if w := (*Wait)(nil); !errors.As(err, &w) || c.of(w.Until) != time.Second+pause {
					t.Errorf("pause of %s: %v", pause, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.want(t, max(time.Second+pause, 4*time.Second))
			s.Release()
		})
	}
}

// steps are the pauses after refusals without Retry-After, each of a call sent
// just after the last pause.
func steps(p *Pacer, n int) (out []time.Duration) {
	for range n {
		_, added, capped := p.Throttled(time.Now(), 0)
		if capped {
			added = -1 // the server has asked for nothing that could be capped
		}
		out = append(out, added)
		sleepUntil(p.Paused())
	}
	return out
}

func wantSteps(t *testing.T, what string, got []time.Duration, seconds ...float64) {
	t.Helper()
	for i, s := range seconds {
		if want := time.Duration(s * float64(time.Second)); got[i] != want {
			t.Errorf("%s: step %d is %s, want %s", what, i+1, got[i], want)
		}
	}
}

func TestSteps(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		rate     Rate
		maxPause time.Duration
		want     []float64
	}{
		{"Graph's rate", Rate{200, 20 * time.Second}, time.Hour, []float64{1, 2, 4, 8, 16, 20, 20, 20}},
		{"no rate", Rate{}, time.Hour, []float64{1, 2, 4, 8, 16, 20, 20, 20}},
		{"no cap", Rate{}, 0, []float64{1, 2, 4, 8, 16, 20, 20, 20}},
		{"a short window", Rate{10, 3 * time.Second}, time.Hour, []float64{1, 2, 3, 3}},
		{"a very short window", Rate{10, 50 * time.Millisecond}, time.Hour, []float64{1, 1, 1}},
		{"a long window", Rate{10, time.Hour}, 2 * time.Hour, []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600}},
		{"a small cap", Rate{200, 20 * time.Second}, 5 * time.Second, []float64{1, 2, 4, 5, 5}},
		{"a very small cap", Rate{200, 20 * time.Second}, 50 * time.Millisecond, []float64{.05, .05, .05}},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := New(tc.rate, tc.maxPause)
			wantSteps(t, tc.name, steps(p, len(tc.want)), tc.want...)
			p.Accepted()
			wantSteps(t, tc.name+", after an acceptance", steps(p, len(tc.want)), tc.want...)
		})
	}
}

// After 503s the pause grows less than after 429s, and lets that after the next 429
// grow no more.
func TestStepsOfAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(graphs, 0)
		for _, want := range []time.Duration{1, 2, 4, 5, 5, 5} {
			if _, added, _ := p.Unavailable(time.Now(), 0); added != want*time.Second {
				t.Errorf("%s added, want %d s", added, want)
			}
			sleepUntil(p.Paused())
		}
		wantSteps(t, "after 429s", steps(p, 4), 5, 10, 20, 20)
		if _, added, _ := p.Unavailable(time.Now(), time.Minute); added != time.Minute {
			t.Errorf("%s added for a Retry-After", added)
		}
	})
}

// A pause that grew ends when what the server had let in has left every window, but
// for so few that they tell nothing.
func TestPauseEndsWithTheWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(Rate{2000, 20 * time.Second}, time.Hour)
		for i := range 30 {
			c.sleepUntil(time.Duration(i) * 100 * time.Millisecond)
			take(t, p).Accepted()
		}
		// Reserved beforehand, since the window would let none go before it has emptied.
		var slots []*Slot
		for range 6 {
			slots = append(slots, take(t, p))
		}
		throttled := func() {
			slots[0].Throttled(time.Now(), 0)
			slots = slots[1:]
		}
		for _, until := range []time.Duration{1, 3, 7, 15} {
			throttled()
			if got, want := c.of(p.Paused()), 2900*time.Millisecond+until*time.Second; got != want {
				t.Errorf("paused until %s, want %s", got, want)
			}
			sleepUntil(p.Paused())
		}
		throttled()
		if got := c.of(p.Paused()); got < 21*time.Second || got > 21*time.Second+20*time.Millisecond {
			t.Errorf("paused until %s with 19 calls left in the window", got)
		}
		sleepUntil(p.Paused())
		// Then it is as long as it would have been.
		throttled()
		if got := time.Until(p.Paused()); got != 16*time.Second {
			t.Errorf("paused for %s", got)
		}
	})
}

// A Retry-After in between neither makes the next step longer nor shorter.
func TestStepsBesideRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(rate, 0)
		wantSteps(t, "before", steps(p, 2), 1, 2)
		p.Throttled(time.Now(), 30*time.Second)
		sleepUntil(p.Paused())
		wantSteps(t, "after", steps(p, 2), 4, 8)
		// A call without one that was under way when a pause with one began
		// belongs to it.
		sent := time.Now()
		until, _, _ := p.Throttled(sent, 30*time.Second)
		if again, added, _ := p.Throttled(sent, 0); !again.Equal(until) || added != 0 {
			t.Errorf("%s added, until %s instead of %s", added, again, until)
		}
	})
}

// However many calls were under way when a pause began, and whenever they are
// answered, they make one step.
func TestOneStepPerEpisode(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			p := New(Rate{}, 0)
			want := time.Second
			for episode := range 8 {
				episodeAt := time.Now()
				var wg sync.WaitGroup
				// Some are sent before, some at the very instant at which the
				// first of them is refused; some are refused long after the pause.
				first := time.Duration(rnd.IntN(100)) * time.Millisecond
				lasts := []time.Duration{first, first + 1, first + want/2, first + want, first + want + 1, first + 3*want}
				for i := range 40 {
					sent := time.Duration(rnd.Int64N(int64(first)/1e6+1)) * time.Millisecond
					last := lasts[rnd.IntN(len(lasts))]
					if i == 0 {
						sent, last = 0, first
					}
					accepted := i > 0 && last > first && last < first+want && rnd.IntN(3) == 0
					wg.Go(func() {
						sleepUntil(episodeAt.Add(sent))
						sent := time.Now()
						sleepUntil(episodeAt.Add(last))
						if accepted {
							// It was under way, too: it tells nothing of the time since.
							p.Accepted()
							return
						}
						p.Throttled(sent, 0)
					})
				}
				sleepUntil(episodeAt.Add(first))
				synctest.Wait()
				if until := p.Paused(); !until.Equal(episodeAt.Add(first + want)) {
					t.Errorf("seed %d, episode %d: paused for %s, want %s", seed, episode+1, until.Sub(episodeAt)-first, want)
				}
				sleepUntil(episodeAt.Add(first + want))
				synctest.Wait()
				if until := p.Paused(); !until.IsZero() {
					t.Errorf("seed %d, episode %d: still paused", seed, episode+1)
				}
				wg.Wait()
				if until := p.Paused(); !until.IsZero() {
					t.Errorf("seed %d, episode %d: late refusals began a pause of %s", seed, episode+1, time.Until(until))
				}
				want = min(2*want, 20*time.Second)
			}
			p.Accepted()
			p.Throttled(time.Now(), 0)
			if d := time.Until(p.Paused()); d != time.Second {
				t.Errorf("seed %d: %s after an acceptance, want 1s", seed, d)
			}
		})
	}
}

// What is added to a pause sums up to the time in which no call could be sent.
func TestPauseAdded(t *testing.T) {
	t.Parallel()
	const tick = 100 * time.Millisecond // every pause is a multiple of it
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			p := New(Rate{}, 10*time.Second)
			var added, paused time.Duration
			for range 300 {
				for range rnd.IntN(3) {
					_, a, _ := p.Throttled(time.Now().Add(-time.Duration(rnd.IntN(5))*time.Second),
						time.Duration(rnd.IntN(4)*rnd.IntN(40))*tick)
					if a < 0 {
						t.Fatalf("seed %d: %s added", seed, a)
					}
					added += a
				}
				if rnd.IntN(4) == 0 {
					p.Accepted()
				}
				for range rnd.IntN(50) {
					if !p.Paused().IsZero() {
						paused += tick
					}
					time.Sleep(tick) // fake time
				}
			}
			if until := p.Paused(); !until.IsZero() {
				paused += time.Until(until)
			}
			if added != paused {
				t.Errorf("seed %d: %s added, paused for %s", seed, added, paused)
			}
		})
	}
}

// Acceptances are told all the time; they must not cost a pause its length.
func TestAcceptedDoesNotEndAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := newClock(), New(rate, 0)
		p.Throttled(time.Now(), time.Minute)
		p.Accepted()
		if until := c.of(p.Paused()); until != time.Minute {
			t.Errorf("paused until %s", until)
		}
	})
}
