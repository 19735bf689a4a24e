package pace

import "time"

// firstPause is the pause after the first 429 that names no Retry-After.
const firstPause = time.Second

// unavailableMost is the longest pause after a 503 that names no Retry-After: an
// outage ends by itself, and its end is to be noticed soon.
const unavailableMost = 5 * time.Second

// Paused is the instant until which no call may be sent; zero if one may be sent
// now. Ask it last before sending: a pause may have begun since the slot was
// reserved.
func (p *Pacer) Paused() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pausedUntil.After(time.Now()) {
		return p.pausedUntil
	}
	return time.Time{}
}

// Throttled records a refusal, of a call sent at the given instant, that asks for
// a pause but says nothing about the quota of the paced calls, such as a refused
// read. For a paced call answered 429 use [Slot.Throttled]. retryAfter is what the
// server asked for; if it is zero, the pause grows from one second, doubled each
// time up to the window. Throttled returns the end of the pause, by how much it is
// longer than before, and whether the cap cut what the server asked for.
func (p *Pacer) Throttled(sent time.Time, retryAfter time.Duration) (until time.Time, added time.Duration, capped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.throttled(time.Now(), sent, retryAfter, p.longestStep())
}

// Unavailable is [Pacer.Throttled] for an overloaded service (503). Without a
// retryAfter the pause grows up to five seconds only.
func (p *Pacer) Unavailable(sent time.Time, retryAfter time.Duration) (until time.Time, added time.Duration, capped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.throttled(time.Now(), sent, retryAfter, min(unavailableMost, p.longestStep()))
}

// throttled is Throttled; longest bounds a pause without a retryAfter. Call with
// mu held.
func (p *Pacer) throttled(now, sent time.Time, retryAfter, longest time.Duration) (until time.Time, added time.Duration, capped bool) {
	pause := retryAfter
	switch {
	case pause > 0:
		pause = p.bounded(pause)
		capped = pause < retryAfter
	case sent.Before(p.pausedUntil):
		return p.pausedUntil, 0, false
	default:
		pause = p.bounded(min(p.nextStep, longest))
		p.nextStep = max(p.nextStep, min(2*p.nextStep, longest))
	}
	added = p.pauseUntil(now, now.Add(pause))
	return p.pausedUntil, added, capped
}

// pauseUntil makes the pause last until then, if it is not longer already, and
// returns by how much it is longer than before. Call with mu held.
func (p *Pacer) pauseUntil(now, until time.Time) (added time.Duration) {
	if !until.After(p.pausedUntil) {
		return 0
	}
	added = until.Sub(now)
	if p.pausedUntil.After(now) {
		added = until.Sub(p.pausedUntil)
	}
	p.pausedUntil = until
	p.wake()
	return added
}

func (p *Pacer) bounded(pause time.Duration) time.Duration {
	if p.maxPause > 0 {
		return min(pause, p.maxPause)
	}
	return pause
}

// Accepted notes that Graph accepted a call, so the next pause without a
// Retry-After starts at one second again.
func (p *Pacer) Accepted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted(time.Now())
}

func (p *Pacer) accepted(now time.Time) {
	if p.pausedUntil.After(now) {
		return // the call was sent before the pause, so it shows nothing about the time after it
	}
	p.nextStep = firstPause
}

func (p *Pacer) longestStep() time.Duration {
	if p.rate.N > 0 {
		return max(p.rate.W, firstPause)
	}
	return defaultWindow
}
