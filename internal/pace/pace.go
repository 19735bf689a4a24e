// Package pace decides when the next call to Graph may go: a sliding window of
// calls really sent, and the pauses that the server asks for. It is pure in
// time: it sends nothing and knows nothing of HTTP.
package pace

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Patience is how long a caller that already holds a request waits for its
// turn. A longer wait is told at once (see [Wait]), so that the request can go
// back to the queue and hold nothing.
const Patience = 5 * time.Second

// Graph documents 200 writes per 20 s for an app in a tenant; where no rate is
// configured, its window still bounds the pause after a 429 without Retry-After.
// Source: Microsoft Graph throttling limits, Intune service limits.
const defaultWindow = 20 * time.Second

// firstPause is the pause after the first 429 that names no Retry-After.
const firstPause = time.Second

// Rate is N calls in any window of W. The zero Rate has no limit.
type Rate struct {
	N int
	W time.Duration
}

// ParseRate reads "200/20s". "0" is no limit.
func ParseRate(s string) (Rate, error) {
	if strings.TrimSpace(s) == "0" {
		return Rate{}, nil
	}
	num, per, ok := strings.Cut(s, "/")
	if !ok {
		return Rate{}, fmt.Errorf("%q is not a rate: write calls/window, for example 200/20s, or 0 for no limit", s)
	}
	n, err := strconv.Atoi(strings.TrimSpace(num))
	if err != nil || n <= 0 {
		return Rate{}, fmt.Errorf("%q is not a rate: the number of calls must be a whole number above 0", s)
	}
	w, err := time.ParseDuration(strings.TrimSpace(per))
	if err != nil || w <= 0 {
		return Rate{}, fmt.Errorf("%q is not a rate: the window must be a duration such as 20s", s)
	}
	return Rate{N: n, W: w}, nil
}

// PerSecond is the rate as calls per second; 0 means no limit.
func (r Rate) PerSecond() float64 {
	if r.N == 0 {
		return 0
	}
	return float64(r.N) / r.W.Seconds()
}

// String is the form that [ParseRate] reads.
func (r Rate) String() string {
	if r.N == 0 {
		return "0"
	}
	return fmt.Sprintf("%d/%s", r.N, r.W)
}

// Wait is the error of a call that cannot go within [Patience]. Until is when
// to try again.
type Wait struct{ Until time.Time }

// Error tells the instant.
func (w *Wait) Error() string {
	return "no call may be sent before " + w.Until.UTC().Format(time.RFC3339Nano)
}

// Pacer allows the calls of one tenant. Create it with [New].
type Pacer struct {
	rate     Rate
	maxPause time.Duration

	mu sync.Mutex
	// taken counts slots that are reserved or whose call is under way. A slot
	// stays taken until a window after its answer: when in between the server
	// counted the call is unknown, so only then is it out of every window.
	taken int
	// free holds, in order, the instants at which answered calls leave the window.
	free []time.Time
	// pausedUntil is when calls may go again; zero means never paused. A call
	// sent before it was under way when that pause was announced, however late
	// it is answered: it belongs to the same throttling.
	pausedUntil time.Time
	nextStep    time.Duration
	changed     chan struct{} // closed and replaced at each change that may let a waiter go
}

// New makes a pacer. maxPause caps every pause; zero means no cap.
func New(rate Rate, maxPause time.Duration) *Pacer {
	return &Pacer{rate: rate, maxPause: maxPause, nextStep: firstPause, changed: make(chan struct{})}
}

// Rate is the configured rate.
func (p *Pacer) Rate() Rate { return p.rate }

// Slot is the right to send one call. The first of Done and Release ends it;
// after that, both do nothing.
type Slot struct {
	p     *Pacer
	ended bool // guarded by p.mu
}

// Ready waits until a call could be sent, or until it is plain that the wait
// is longer than [Patience]. It reserves nothing.
func (p *Pacer) Ready(ctx context.Context) error {
	for {
		p.mu.Lock()
		at, changed := p.next(time.Now())
		p.mu.Unlock()
		wait := time.Until(at)
		if wait <= 0 && !at.IsZero() || wait > Patience {
			return nil
		}
		if err := sleep(ctx, at, changed); err != nil {
			return err
		}
	}
}

// Reserve waits for a slot. It fails with a [*Wait] when the wait would be
// longer than [Patience], or with the context's error.
func (p *Pacer) Reserve(ctx context.Context) (*Slot, error) {
	giveUp := time.Now().Add(Patience)
	for {
		p.mu.Lock()
		now := time.Now()
		at, changed := p.next(now)
		if !at.IsZero() && !at.After(now) {
			p.taken++
			p.mu.Unlock()
			return &Slot{p: p}, nil
		}
		p.mu.Unlock()
		if at.After(giveUp) || at.IsZero() && now.After(giveUp) {
			if at.IsZero() {
				at = now.Add(Patience)
			}
			return nil, &Wait{Until: at}
		}
		if at.IsZero() {
			at = giveUp.Add(time.Millisecond)
		}
		if err := sleep(ctx, at, changed); err != nil {
			return nil, err
		}
	}
}

// next is the earliest instant at which a call may be sent: now, or later, or
// zero where that depends on calls that are still under way. Call with mu held.
func (p *Pacer) next(now time.Time) (at time.Time, changed <-chan struct{}) {
	at = now
	if p.rate.N > 0 {
		out := 0
		for out < len(p.free) && !p.free[out].After(now) {
			out++
		}
		p.free = p.free[out:]
		if p.taken+len(p.free) >= p.rate.N {
			// The slots beyond the limit must leave first.
			over := p.taken + len(p.free) - p.rate.N
			if over >= len(p.free) {
				at = time.Time{}
			} else {
				at = p.free[over]
			}
		}
	}
	if p.pausedUntil.After(now) && (at.IsZero() || p.pausedUntil.After(at)) {
		at = p.pausedUntil
	}
	return at, p.changed
}

func sleep(ctx context.Context, at time.Time, changed <-chan struct{}) error {
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
		return nil
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Paused tells until when no call may be sent; zero where one may be sent now.
// Ask it as the last thing before sending: a pause may have begun since the
// slot was reserved.
func (p *Pacer) Paused() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pausedUntil.After(time.Now()) {
		return p.pausedUntil
	}
	return time.Time{}
}

// Release gives a slot back whose call was never sent.
func (s *Slot) Release() { s.end(false) }

// Done ends the slot of a call that was sent, once it is answered or given up.
func (s *Slot) Done() { s.end(true) }

func (s *Slot) end(sent bool) {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	p.taken--
	if sent && p.rate.N > 0 {
		p.free = append(p.free, time.Now().Add(p.rate.W))
	}
	p.wake()
}

// wake lets every waiter look again. Call with mu held.
func (p *Pacer) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Throttled records a refusal for too many calls (429) or an overloaded service
// (503) of a call sent at the given instant. retryAfter is what the server
// asked for; zero where it named nothing, then the pause grows from one second,
// doubled each time up to the window. It returns the end of the pause, by how
// much it is longer than before, and whether what the server asked for was capped.
func (p *Pacer) Throttled(sent time.Time, retryAfter time.Duration) (until time.Time, added time.Duration, capped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	pause := retryAfter
	switch {
	case pause > 0:
		pause = p.bounded(pause)
		capped = pause < retryAfter
	case sent.Before(p.pausedUntil):
		return p.pausedUntil, 0, false
	default:
		pause = p.bounded(p.nextStep)
		p.nextStep = min(2*p.nextStep, p.window())
	}
	until = now.Add(pause)
	if !until.After(p.pausedUntil) {
		return p.pausedUntil, 0, capped
	}
	added = until.Sub(now)
	if p.pausedUntil.After(now) {
		added = until.Sub(p.pausedUntil)
	}
	p.pausedUntil = until
	p.wake()
	return until, added, capped
}

func (p *Pacer) bounded(pause time.Duration) time.Duration {
	if p.maxPause > 0 {
		return min(pause, p.maxPause)
	}
	return pause
}

// Accepted tells that Graph took a call: the next pause without a Retry-After
// starts small again.
func (p *Pacer) Accepted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pausedUntil.After(time.Now()) {
		return // the call was sent before the pause, so it tells nothing of the time after it
	}
	p.nextStep = firstPause
}

func (p *Pacer) window() time.Duration {
	if p.rate.N > 0 {
		return max(p.rate.W, firstPause)
	}
	return defaultWindow
}
