package pace

import "time"

// Graph's documented number of writes per [defaultWindow] for an app in a
// tenant. Where no rate is configured, the steps back up are measured by it.
const defaultCalls = 200

// lesson is what refusals (429) have taught about the number of calls that the
// server grants in a window. It is not safe for concurrent use.
type lesson struct {
	rate Rate
	w    time.Duration

	// limit is the number of calls allowed in a window; 0: nothing is learned.
	limit int
	// sure is how many calls in a window the server has let in. Those beyond it
	// go one at a time, so that trying for more costs one refusal, not as many
	// as there are callers.
	sure int
	// most is the limit before the last refusals; 0: there was none.
	most int
	// step is by how much a window without a refusal raises the limit; at
	// forget there is no limit left to be learned.
	step, forget int
	// clean is since when no call was refused: the first call after the pause.
	// Zero: there was none yet.
	clean time.Time
	// until is the end of the pause after the last refusals.
	until time.Time
	// none is set while no call was let in since the last refusals.
	none bool
}

func newLesson(r Rate, w time.Duration) lesson { return lesson{rate: r, w: w} }

// refused learns from the first refusal of several: granted calls were let in
// within the window before it. Where these were very few, as they are where
// there was little to send, or none since the refusals before, it tells that the
// server grants nothing now, but not how much it grants in a window; ok is false
// then.
func (l *lesson) refused(granted int) (ok bool) {
	few := defaultCalls / 10
	if l.rate.N > 0 {
		few = min(few, max(1, l.rate.N/10))
	}
	ok = granted >= few && !l.none
	l.most, l.clean, l.none = l.limit, time.Time{}, true
	if ok {
		l.set(granted, granted)
	}
	return ok
}

// letIn tells that the server has let in so many calls within a window. late
// is set where the last of them was under way with calls that were refused, so
// that it belongs to what was learned from these.
func (l *lesson) letIn(granted int, late bool) {
	if !late {
		l.none = false
	} else if granted > l.limit && l.clean.IsZero() {
		l.set(granted, granted)
	}
	l.sure = max(l.sure, min(granted, l.limit))
}

// set keeps to a number of calls, of which so many are sure to be granted.
func (l *lesson) set(limit, sure int) {
	if l.most > 0 {
		limit = min(limit, l.most)
	}
	l.limit, l.sure = limit, min(limit, sure)
	l.forget = l.rate.N
	l.step = max(1, (l.rate.N+10)/20)
	if l.rate.N == 0 {
		// No number is configured to come back to: the last one is forgotten
		// once the server could have shown that it grants twice as much.
		l.forget = max(2*limit, defaultCalls)
		l.step = max(limit, defaultCalls) / 20
	}
	if l.limit >= l.forget {
		l.limit = 0
	}
}

// raise comes back up by a step for each window without a refusal.
func (l *lesson) raise(now time.Time) {
	if l.limit == 0 {
		return
	}
	from := l.from()
	windows := now.Sub(from) / l.w
	if windows <= 0 {
		return
	}
	l.clean = from.Add(windows * l.w)
	if windows > 40 || l.limit+int(windows)*l.step >= l.forget {
		l.limit = 0
		return
	}
	l.limit += int(windows) * l.step
}

// from is when the window without a refusal begins. With nothing to send, none
// can be refused; then it is over a window later.
func (l *lesson) from() time.Time {
	if !l.clean.IsZero() {
		return l.clean
	}
	return l.until.Add(l.w)
}

// began tells that a call may be sent now.
func (l *lesson) began(now time.Time) {
	if l.clean.IsZero() && l.limit > 0 {
		l.clean = now
		if idle := l.until.Add(l.w); idle.Before(now) {
			l.clean = idle
		}
	}
}

// raisedBy is when the limit will have been raised by n.
func (l *lesson) raisedBy(n int) time.Time {
	return l.from().Add(time.Duration((n+l.step-1)/l.step) * l.w)
}

// rampStart is how many calls go at once at first after a refusal.
const rampStart = 4

// rampEnd is where a ramp is high enough to be no limit any more.
const rampEnd = 1024

// rampPatience is how long answers may stay away before the others go on without
// them. It is well below [Patience], so that a call can wait for the end of a ramp.
const rampPatience = 2 * time.Second

// ramp lets few calls go at once after a refusal that came unexpected, and one
// more for each that is let in, so that the number under way doubles with each
// round. If the server still refuses, that costs few refusals. It is not safe
// for concurrent use.
type ramp struct {
	most  int       // calls under way; 0: no limit
	taken int       // calls under way that count
	since time.Time // when the first call went; zero: none has
	// round tells apart the calls from before and after the last refusals.
	round uint32
}

// begin starts anew: the calls under way are those of the round before.
func (r *ramp) begin(most int) {
	*r = ramp{most: most, round: r.round + 1}
}

func (r *ramp) began(now time.Time) {
	r.taken++
	if r.since.IsZero() {
		r.since = now
	}
}

// ended tells that a call is over, and whether the server let it in.
func (r *ramp) ended(round uint32, granted bool) {
	if round != r.round {
		return
	}
	r.taken--
	if granted && r.most > 0 {
		if r.most++; r.most > rampEnd {
			r.most = 0
		}
	}
}

// room is how many more calls may go, and when the ramp is over in any case.
func (r *ramp) room(now time.Time) (n int, end time.Time) {
	if r.most == 0 {
		return unlimited, time.Time{}
	}
	if end = r.since.Add(rampPatience); !r.since.IsZero() && !end.After(now) {
		r.most = 0
		return unlimited, time.Time{}
	}
	return max(0, r.most-r.taken), end
}
