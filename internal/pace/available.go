package pace

import (
	"math"
	"time"
)

// Available tells how many calls could begin now. Where that is 0, at is the
// earliest instant at which one could, zero where that depends on calls under
// way; changed is closed at the next change that may let more go. It reserves
// nothing.
func (p *Pacer) Available() (n int, at time.Time, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	at, changed = p.next(now)
	switch {
	case at.IsZero() || at.After(now):
		return 0, at, changed
	case p.rate.N == 0:
		return math.MaxInt32, time.Time{}, changed
	}
	return p.rate.N - p.taken - len(p.free), time.Time{}, changed
}

// Sent records a call that was sent by another replica, or before a restart.
func (p *Pacer) Sent(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if free := at.Add(p.rate.W); p.rate.N > 0 && free.After(time.Now()) {
		p.free = append(p.free, free)
	}
}

// Limit is the calls per second that are granted; 0: no limit.
func (p *Pacer) Limit() float64 { return p.rate.PerSecond() }

// Granted is the number of calls per window that was learned; 0: none.
func (p *Pacer) Granted() int { return 0 }

// Restore takes over what another replica has learned and was told.
func (p *Pacer) Restore(_ int, pausedUntil time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pausedUntil.After(p.pausedUntil) {
		p.pausedUntil = pausedUntil
		p.wake()
	}
}

// Window is the time over which calls are counted.
func (p *Pacer) Window() time.Duration { return p.window() }
