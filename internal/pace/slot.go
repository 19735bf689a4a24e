package pace

import "time"

// Slot is the right to send one call. The first of Accepted, Throttled, Done
// and Release ends it; later ones change nothing that is counted.
type Slot struct {
	p     *Pacer
	call  int  // counted from 1
	sure  bool // the server was sure to grant it when it was reserved
	ended bool // guarded by p.mu
}

// take reserves a slot. Call with mu held, and only if there is room.
func (p *Pacer) take(now time.Time) *Slot {
	sure := p.lesson.limit == 0 || p.taken+p.window.n < p.lesson.sure
	p.taken++
	p.calls++
	p.ramp.began(now)
	p.lesson.began(now)
	return &Slot{p: p, call: p.calls, sure: sure}
}

// Release gives back a slot whose call was never sent.
func (s *Slot) Release() {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.end(time.Time{}, false)
}

// Done ends the slot of a call that was sent, once it is answered or given up
// and the answer does not show whether the server's quota let it in.
func (s *Slot) Done() {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.end(time.Now(), false)
}

// Accepted ends the slot of a call that the server's quota has let in: it was
// accepted, or refused for a reason of its own.
func (s *Slot) Accepted() {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if s.end(now, true) {
		if s.call < p.ramp.from {
			p.late(now, s, true)
		} else {
			p.lesson.letIn(p.window.granted)
		}
	}
	p.accepted(now)
}

// Throttled ends the slot of a call that was sent at the given instant and
// refused because of the server's quota (429). It does what [Pacer.Throttled] does,
// and also learns how many calls the server grants. Without a retryAfter, the pause
// ends at the latest once half of the calls that the server let in have left the
// window.
func (s *Slot) Throttled(sent time.Time, retryAfter time.Duration) (until time.Time, added time.Duration, capped bool) {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case !s.end(now, false):
	case sent.Before(p.lesson.until):
		p.late(now, s, false)
	default:
		p.lesson.refuse(now, s.call, s.sure, retryAfter > 0, p.window.granted, p.taken+1)
		p.ramp = ramp{most: p.lesson.ramp(), from: p.calls + 1}
	}
	// Once half of the calls that the server had let in have left the window, there
	// is quota again, wherever the server's own windows begin. A longer pause would
	// wait for nothing.
	longest := p.longestStep()
	if at, ok := p.window.freed(max(p.lesson.few(), p.lesson.last.granted/2)); ok && at-p.since(now) < p.nextStep {
		longest = at - p.since(now)
	}
	until, added, capped = p.throttled(now, sent, retryAfter, longest)
	if until.After(p.lesson.until) {
		p.lesson.until = until
	}
	return until, added, capped
}

// late notes the end of a call that was under way with those refused last. Call
// with mu held.
func (p *Pacer) late(now time.Time, s *Slot, letIn bool) {
	p.lesson.late(now, s.call, letIn, p.window.granted)
	if p.ramp.since.IsZero() {
		p.ramp.most = p.lesson.ramp()
	}
}

// end ends a slot. answered is zero if its call was never sent. It reports whether
// the slot had not ended before. Call with mu held.
func (s *Slot) end(answered time.Time, granted bool) bool {
	if s.ended {
		return false
	}
	s.ended = true
	p := s.p
	p.taken--
	p.ramp.ended(s.call, granted)
	if !answered.IsZero() {
		p.window.drop(p.since(answered))
		p.window.add(p.since(answered), granted)
	}
	p.wake()
	return true
}
