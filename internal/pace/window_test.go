package pace

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// calls is what a server saw: when each call was sent and answered.
type calls struct {
	mu   sync.Mutex
	list []call
}

type call struct{ sent, answered time.Duration }

func (c *calls) add(sent, answered time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, call{sent, answered})
}

// tooMany says where a window holds more calls than the rate allows; nothing
// where none does.
func (c *calls) tooMany(r Rate) string {
	var sent, answered []time.Duration
	for _, call := range c.list {
		sent = append(sent, call.sent)
		answered = append(answered, call.answered)
	}
	slices.Sort(sent)
	slices.Sort(answered)
	for i := r.N; i < len(sent); i++ {
		if d := sent[i] - sent[i-r.N]; d < r.W {
			return fmt.Sprintf("%d calls were sent within %s, from %s on", r.N+1, d, sent[i-r.N])
		}
	}
	// The server counts a call somewhere between sending and answer. The worst
	// that it can do is a window that begins with an answer: it may hold every
	// call that is sent before its end and not answered before its beginning.
	for _, from := range answered {
		before := sort.Search(len(answered), func(i int) bool { return answered[i] >= from })
		sentBy := sort.Search(len(sent), func(i int) bool { return sent[i] >= from+r.W })
		if n := sentBy - before; n > r.N {
			return fmt.Sprintf("a server may count %d calls in the window from %s on", n, from)
		}
	}
	return ""
}

// The check itself must see what is wrong.
func TestTooMany(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		list []call
		bad  bool
	}{
		{[]call{{0, 0}, {0, 0}, {10, 10}}, false},
		{[]call{{0, 0}, {0, 0}, {9, 9}}, true},
		{[]call{{0, 5}, {0, 0}, {10, 10}}, false},
		{[]call{{0, 5}, {0, 1}, {10, 10}}, true},
		{[]call{{0, 5}, {0, 1}, {11, 20}}, false},
		{[]call{{0, 100}, {50, 50}, {60, 60}, {70, 70}}, false},
		{[]call{{0, 100}, {50, 50}, {59, 59}}, true},
	} {
		c := calls{list: tc.list}
		if got := c.tooMany(Rate{2, 10}); (got != "") != tc.bad {
			t.Errorf("%v: %q", tc.list, got)
		}
	}
}

// Whatever callers do, no window ever holds more calls than the rate allows,
// no call is sent inside a pause, and no slot is lost.
func TestWindows(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{{1, time.Second}, {2, 3 * time.Second}, {7, 20 * time.Second}, {50, 20 * time.Second}, {20, 100 * time.Millisecond}} {
		for seed := range uint64(6) {
			t.Run(fmt.Sprintf("%s-%d", r, seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { windows(t, r, seed) })
			})
		}
	}
}

func windows(t *testing.T, r Rate, seed uint64) {
	c, p := newClock(), New(r, 40*time.Second)
	end := 30 * r.W
	var seen calls
	var wg sync.WaitGroup
	for caller := range uint64(2*r.N + 3) {
		rnd := rand.New(rand.NewPCG(seed, caller))
		// Coarse instants, so that many fall together.
		upTo := func(d time.Duration) time.Duration { return time.Duration(rnd.Int64N(21)) * d / 20 }
		wg.Go(func() {
			for c.now() < end {
				if rnd.IntN(2) == 0 {
					if err := ready(t.Context(), p); err != nil {
						t.Error(err)
					}
				}
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if rnd.IntN(8) == 0 {
					ctx, cancel = context.WithTimeout(ctx, upTo(r.W))
				}
				from := c.now()
				s, err := p.Reserve(ctx)
				cancel()
				if d := c.now() - from; d > Patience+10*time.Millisecond {
					t.Errorf("a caller waited for %s", d)
				}
				if wait := (*Wait)(nil); errors.As(err, &wait) {
					if time.Until(wait.Until) <= 0 {
						t.Errorf("at %s: wait until %s", c.now(), c.of(wait.Until))
					}
					sleepUntil(wait.Until)
					continue
				}
				if err != nil {
					continue
				}
				if rnd.IntN(3) == 0 {
					time.Sleep(upTo(r.W)) // fake time
				}
				if !p.Paused().IsZero() || rnd.IntN(8) == 0 {
					s.Release()
					continue
				}
				sent := time.Now()
				switch rnd.IntN(4) {
				case 0:
					time.Sleep(upTo(3 * r.W)) // fake time
				case 1, 2:
					time.Sleep(upTo(r.W / 5)) // fake time
				}
				seen.add(c.of(sent), c.now())
				if rnd.IntN(10*r.N) == 0 {
					p.Throttled(sent, upTo(r.W))
				} else {
					p.Accepted()
				}
				s.Done()
				s.Release()
			}
		})
	}
	wg.Wait()
	if bad := seen.tooMany(r); bad != "" {
		t.Error(bad)
	}
	if len(seen.list) < 3*r.N {
		t.Errorf("only %d calls were made", len(seen.list))
	}
	time.Sleep(r.W + time.Minute) // fake time
	wantFree(t, p, r.N)
}

// model is a plain account of a pacer.
type model struct {
	rate   Rate
	under  []*Slot     // calls under way
	leaves []time.Time // when answered calls leave the window
	paused time.Time
}

// next is when a call may go; ok tells that it is known.
func (m *model) next() (at time.Time, ok bool) {
	at = time.Now()
	left := m.leaves[:0:0]
	for _, l := range m.leaves {
		if l.After(at) {
			left = append(left, l)
		}
	}
	m.leaves = left
	slices.SortFunc(left, time.Time.Compare)
	if over := len(m.under) + len(left) - m.rate.N; over >= len(left) {
		return at, false
	} else if over >= 0 {
		at = left[over]
	}
	if m.paused.After(at) {
		at = m.paused
	}
	return at, true
}

// One caller gets a slot at the very instant at which there is one, or is told
// that instant; and coming back then, it finds it.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			m := model{rate: Rate{1 + rnd.IntN(6), time.Duration(1+rnd.IntN(12)) * time.Second}}
			p := New(m.rate, 0)
			take := func(i int) *Slot {
				s := m.under[i]
				m.under = slices.Delete(m.under, i, i+1)
				return s
			}
			for op := range 600 {
				fail := func(format string, args ...any) {
					t.Fatalf("seed %d, op %d, rate %s: %s", seed, op, m.rate, fmt.Sprintf(format, args...))
				}
				switch what := rnd.IntN(12); {
				case what < 5:
					at, known := m.next()
					if !known {
						continue
					}
					from := time.Now()
					s, err := p.Reserve(t.Context())
					if wait := (*Wait)(nil); errors.As(err, &wait) {
						if !wait.Until.Equal(at) || at.Sub(from) <= Patience || !time.Now().Equal(from) {
							fail("told after %s to wait for %s, want %s", time.Since(from), wait.Until.Sub(from), at.Sub(from))
						}
						if rnd.IntN(2) == 0 {
							continue
						}
						sleepUntil(at)
						s, err = p.Reserve(t.Context())
					}
					if err != nil || !time.Now().Equal(at) {
						fail("%v after %s, want a slot after %s", err, time.Since(from), at.Sub(from))
					}
					m.under = append(m.under, s)
				case what < 8 && len(m.under) > 0:
					take(rnd.IntN(len(m.under))).Done()
					m.leaves = append(m.leaves, time.Now().Add(m.rate.W))
				case what < 9 && len(m.under) > 0:
					take(rnd.IntN(len(m.under))).Release()
				case what < 10:
					until, _, _ := p.Throttled(time.Now(), time.Duration(rnd.IntN(8000))*time.Millisecond)
					if until.Before(m.paused) {
						fail("a pause was cut short")
					}
					m.paused = until
				default:
					time.Sleep(time.Duration(rnd.Int64N(int64(m.rate.W)))) // fake time
				}
			}
			for len(m.under) > 0 {
				take(0).Release()
			}
		})
	}
}

// A backlog goes at the full rate: N calls at once, then N in each window.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rate    Rate
		lasts   time.Duration
		callers int
	}{
		{Rate{10, time.Second}, 0, 1},
		{Rate{10, time.Second}, 0, 64},
		{Rate{10, time.Second}, 150 * time.Millisecond, 64},
		{Rate{200, 20 * time.Second}, 0, 32},
		{Rate{200, 20 * time.Second}, 0, 500},
		{Rate{200, 20 * time.Second}, 150 * time.Millisecond, 500},
		{Rate{1, 30 * time.Second}, time.Second, 3},
	} {
		t.Run(fmt.Sprintf("%s-%s-%d", tc.rate, tc.lasts, tc.callers), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const rounds = 6
				c, p := newClock(), New(tc.rate, 0)
				var seen calls
				var wg sync.WaitGroup
				backlog := make(chan struct{}, rounds*tc.rate.N)
				for range rounds * tc.rate.N {
					backlog <- struct{}{}
				}
				close(backlog)
				for range tc.callers {
					wg.Go(func() {
						for range backlog {
							for {
								s, err := p.Reserve(t.Context())
								if wait := (*Wait)(nil); errors.As(err, &wait) {
									sleepUntil(wait.Until)
									continue
								}
								sent := c.now()
								time.Sleep(tc.lasts) // fake time
								s.Done()
								seen.add(sent, c.now())
								break
							}
						}
					})
				}
				wg.Wait()
				if bad := seen.tooMany(tc.rate); bad != "" {
					t.Error(bad)
				}
				if n := len(seen.list); n != rounds*tc.rate.N {
					t.Errorf("%d calls", n)
				}
				// Each round lasts a window, and one call.
				if want := (rounds-1)*(tc.rate.W+tc.lasts) + tc.lasts; c.now() > want+(rounds-1)*10*time.Millisecond {
					t.Errorf("the backlog took %s, want %s", c.now(), want)
				}
			})
		})
	}
}

// However many wait, none waits for ever: neither for a slot that is released,
// nor for one that is answered, nor through pauses and cancellations.
func TestNoWaiterIsLost(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{{1, time.Millisecond}, {3, 10 * time.Millisecond}, {3, 10 * time.Second}} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s-%d", r, seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					c, p := newClock(), New(r, 0)
					const callers, each = 100, 10
					var wg sync.WaitGroup
					for caller := range uint64(callers) {
						rnd := rand.New(rand.NewPCG(seed, caller))
						wg.Go(func() {
							for done := 0; done < each; {
								if caller%2 == 0 {
									// In a bubble, one that waits for ever is found.
									if err := ready(t.Context(), p); err != nil {
										t.Error(err)
									}
								}
								ctx, cancel := context.WithCancel(t.Context())
								if rnd.IntN(5) == 0 {
									go cancel()
								}
								s, err := p.Reserve(ctx)
								if wait := (*Wait)(nil); errors.As(err, &wait) {
									sleepUntil(wait.Until)
								}
								if err == nil {
									done++
									switch rnd.IntN(4) {
									case 0:
										go s.Release()
									case 1:
										p.Throttled(time.Now(), time.Duration(1+rnd.IntN(4))*time.Millisecond)
										s.Done()
									default:
										go s.Done()
									}
								}
								cancel()
							}
						})
					}
					wg.Wait()
					// As many windows as all the calls need, and the pauses.
					if most := callers * each * (r.W/time.Duration(r.N) + 10*time.Millisecond); c.now() > most {
						t.Errorf("it took %s, more than %s", c.now(), most)
					}
					time.Sleep(r.W + time.Second) // fake time
					wantFree(t, p, r.N)
				})
			})
		}
	}
}
