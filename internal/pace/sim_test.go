package pace

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// kind is how a simulated server draws its windows.
type kind int

const (
	sliding kind = iota
	fixed
	bucket
)

func (k kind) String() string { return [...]string{"sliding", "fixed", "bucket"}[k] }

// header is the Retry-After of a simulated server.
type header int

const (
	none    header = iota
	decimal        // as long as it takes
	seconds        // rounded up
	short          // a third of what it takes
)

func (h header) String() string { return [...]string{"none", "decimal", "seconds", "too short"}[h] }

// server grants calls within a quota.
type server struct {
	kind         kind
	n            int
	w            time.Duration
	phase        time.Duration // of fixed windows
	countRefused bool          // refused calls count against the quota, too
	header       header
	own          map[int]bool // the calls, from 0, that it refuses for their own sake

	mu     sync.Mutex
	calls  int
	counts []time.Duration // sliding: calls in the window
	begun  time.Duration   // fixed: of the window; bucket: of the last refill
	used   float64         // fixed and bucket: of the quota
}

// take decides about a call. A refused one is told how long it would have to wait.
func (s *server) take(now time.Duration) (ok bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls++; s.own[s.calls-1] {
		return false, 0
	}
	count := func(ok bool) bool { return ok || s.countRefused }
	switch s.kind {
	case sliding:
		for len(s.counts) > 0 && s.counts[0] <= now-s.w {
			s.counts = s.counts[1:]
		}
		ok = len(s.counts) < s.n
		if count(ok) {
			s.counts = append(s.counts, now)
		}
		switch {
		case ok:
		case s.n == 0:
			wait = s.w
		default:
			wait = s.counts[len(s.counts)-s.n] + s.w - now
		}
	case fixed:
		if began := (now+s.w-s.phase)/s.w*s.w - (s.w - s.phase); began != s.begun {
			s.begun, s.used = began, 0
		}
		if ok = s.used < float64(s.n); ok {
			s.used++
		}
		wait = s.begun + s.w - now
	case bucket:
		perSecond := float64(s.n) / s.w.Seconds()
		s.used = max(0, s.used-perSecond*(now-s.begun).Seconds())
		s.begun = now
		if ok = s.used+1 <= float64(s.n); count(ok) {
			// A bucket that owed more than it holds would never be full again.
			s.used = min(s.used+1, 1.5*float64(s.n))
		}
		wait = time.Duration(min(s.w.Seconds(), (s.used+1-float64(s.n))/perSecond) * float64(time.Second))
	}
	return ok, wait
}

func (s *server) set(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n = n
	if s.kind == bucket {
		s.used = min(s.used, float64(n)) // it is empty at worst
	}
}

func (s *server) retryAfter(wait time.Duration) time.Duration {
	switch s.header {
	case decimal:
		return max(time.Millisecond, (wait + time.Millisecond - 1).Truncate(time.Millisecond))
	case seconds:
		return max(time.Second, (wait + time.Second - 1).Truncate(time.Second))
	case short:
		return max(time.Second, (wait / 3).Truncate(time.Second))
	}
	return 0
}

// drain is a backlog that callers work on through a pacer.
type drain struct {
	server  *server
	callers int
	jitter  bool // of the latency of 150 ms
	seed    uint64

	calls int           // ends when so many are let in,
	until time.Duration // or at this time; 0: not

	clock      clock
	mu         sync.Mutex
	seen       calls
	letIn      int
	refused    int
	pauseUntil time.Duration
	took       time.Duration
}

const latency = 150 * time.Millisecond

func (d *drain) run(t *testing.T, p *Pacer) {
	d.clock = newClock()
	left := d.calls
	if d.calls == 0 {
		left = 1 << 30
	}
	next := func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		if left == 0 || d.until > 0 && d.clock.now() >= d.until {
			return false
		}
		left--
		return true
	}
	var wg sync.WaitGroup
	for range d.callers {
		wg.Go(func() {
			for next() {
				for !d.call(t, p) && (d.until == 0 || d.clock.now() < d.until) {
				}
			}
		})
	}
	wg.Wait()
	d.took = d.clock.now()
}

// call makes one call, and tells whether it was let in.
func (d *drain) call(t *testing.T, p *Pacer) bool {
	s, err := p.Reserve(t.Context())
	if wait := (*Wait)(nil); errors.As(err, &wait) {
		sleepUntil(wait.Until)
		return false
	}
	if err != nil {
		t.Error(err)
		return true
	}
	// The call's number decides how long it takes, not which caller makes it, so
	// that a run does not depend on the order in which the callers happen to wake.
	rnd := rand.New(rand.NewPCG(d.seed, uint64(s.call)))
	// The record is written.
	time.Sleep(time.Duration(rnd.Int64N(int64(3 * time.Millisecond)))) // fake time
	if !p.Paused().IsZero() {
		s.Release()
		return false
	}
	sent := time.Now()
	d.mu.Lock()
	if d.clock.now() < d.pauseUntil {
		t.Errorf("a call at %s, in a pause until %s", d.clock.now(), d.pauseUntil)
	}
	d.mu.Unlock()
	there, back := time.Duration(0), latency
	if d.jitter {
		there = time.Duration(rnd.Int64N(int64(latency / 2)))
		back = latency/2 + time.Duration(rnd.Int64N(int64(latency))) - there
	}
	time.Sleep(there) // fake time
	ok, wait := d.server.take(d.clock.now())
	time.Sleep(back) // fake time
	d.seen.add(d.clock.of(sent), d.clock.now())
	d.mu.Lock()
	defer d.mu.Unlock()
	if ok {
		s.Accepted()
		d.letIn++
		return true
	}
	retry := d.server.retryAfter(max(0, wait-back))
	s.Throttled(sent, retry)
	if retry > 0 {
		d.pauseUntil = max(d.pauseUntil, d.clock.now()+retry)
	}
	d.refused++
	return false
}

// share is the part of the calls that were refused, in percent.
func (d *drain) share() float64 {
	return 100 * float64(d.refused) / float64(d.refused+d.letIn)
}
