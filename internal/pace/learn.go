package pace

import "time"

// Graph's documented number of writes per [defaultWindow] for an app in a
// tenant. If no rate is configured, it sets the size of the steps back up.
const defaultCalls = 200

// number is what was learned about the number of calls that the server grants.
type number struct {
	// limit is the number of calls allowed in a window; 0: nothing is learned.
	limit int
	// sure is how many calls in a window the server has let in. Those beyond it
	// go one at a time, so that trying for more costs one refusal, not as many
	// as there are callers.
	sure int
	// step is by how much a window without a refusal raises the limit. A limit
	// that reaches forget is dropped.
	step, forget int
}

// lesson is what refusals (429) have taught about the number of calls that the
// server grants in a window. It is not safe for concurrent use.
type lesson struct {
	number
	rate Rate
	w    time.Duration

	// until is the end of the pause after the last refusals, and clean the start
	// of the time without one: the first call after the pause. Zero: none yet.
	until, clean time.Time
	last         refusals
	taught       bool // the last refusals taught something
	// none is set while no call has been let in since the last refusals.
	none bool
}

// refusals are those of calls that were under way together, and those after the
// pause, as long as no call is let in.
type refusals struct {
	before  number
	granted int  // the most calls that were let in within a window
	sure    bool // the first refused call was sure to be granted
	again   bool // there were some after the pause, too
	told    bool // the server said how long to wait
	// first is the call that was refused first, refused counts the refusals, and
	// letIn the calls after first that were let in.
	first, refused, letIn int
	underWay              int // calls under way when first was refused
	// odd is how many earlier refusals, within a window of each other, proved
	// nothing, and oddLetIn how many calls were let in since.
	odd, oddLetIn int
}

// telling reports whether the refusals show that the quota was used up. A few of
// them, or some among more calls that were let in, may concern those calls alone.
// Proof is any of these: many refusals among the calls under way together; some
// after the pause, too; one of a call beyond what is sure; many of late.
//
// Few calls count as many: if answers overtake each other, half of those under way
// may be let in after the first refusal, and a worker that learns nothing then
// sends too early after the pause. But in the very first burst hardly any call has
// been let in, and three refusals of 32 prove nothing.
func (r *refusals) telling() bool {
	many := max(r.granted/40, r.underWay/8)
	if r.refused > r.letIn && (!r.sure || r.refused >= max(3, many) || r.again && r.refused > 3) {
		return true
	}
	all := r.odd + r.refused
	return all >= max(4, many) && 2*all > r.oddLetIn+r.letIn
}

func newLesson(r Rate, w time.Duration) lesson { return lesson{rate: r, w: w} }

// refuse learns from the first refusal since the last pause. sure reports whether
// the call was sure to be granted, and told whether the server said how long to
// wait; granted calls were let in within the window before it, and underWay calls
// were under way.
func (l *lesson) refuse(now time.Time, first int, sure, told bool, granted, underWay int) {
	recent := now.Sub(l.until) < l.w
	if r := &l.last; recent && l.none {
		// While nothing is let in, the window empties and shows less and less, so
		// these refusals are added to the last ones.
		if r.refused <= r.letIn {
			// The calls let in were under way with those refused before the pause,
			// and say nothing about the refusals after it.
			r.odd, r.oddLetIn = r.odd+r.refused, r.oddLetIn+r.letIn
			r.refused, r.letIn = 0, 0
		}
		r.refused++
		r.again = true
	} else {
		last := *r
		*r = refusals{before: l.number, granted: granted, sure: sure, first: first, refused: 1, underWay: underWay}
		if recent && !l.taught {
			r.odd, r.oddLetIn = last.odd+last.refused, last.oddLetIn+last.letIn
		}
	}
	l.last.told = told
	l.clean, l.none = time.Time{}, true
	l.judge()
}

// late learns from a call that was under way with those refused. granted is the
// number of calls let in within the window before its answer.
func (l *lesson) late(now time.Time, call int, letIn bool, granted int) {
	if !l.clean.IsZero() && now.Sub(l.clean) > rampPatience {
		return // too late to count with those refusals
	}
	r := &l.last
	r.granted = max(r.granted, granted)
	switch {
	case !letIn:
		r.refused++
	case call > r.first:
		r.letIn++
	}
	l.judge()
}

// judge draws the conclusion from the last refusals.
func (l *lesson) judge() {
	r := &l.last
	l.number = r.before
	if l.taught = r.telling() && r.granted >= l.few(); !l.taught {
		return
	}
	granted := r.granted
	if r.before.limit > 0 {
		granted = min(granted, r.before.limit)
	}
	l.set(granted)
}

// few is the least number of calls let in that shows what a server grants in a
// window. If there were fewer, there was little to send, or others had used up
// the quota.
func (l *lesson) few() int {
	few := defaultCalls / 10
	if l.rate.N > 0 {
		few = min(few, max(1, l.rate.N/10))
	}
	return few
}

// ramp is how many calls may go at once at first after the last refusals; 0
// means any number. The refusals may have concerned those calls alone; but a server
// that said how long to wait may mean all calls, and then grants few at first.
func (l *lesson) ramp() int {
	switch r := &l.last; {
	case r.letIn > r.refused && !r.told:
		return 0
	case r.again || r.granted < l.few():
		return 1
	case r.sure:
		return rampStart
	}
	return 0
}

// letIn notes that the server has let in granted calls within a window.
func (l *lesson) letIn(granted int) {
	l.none = false
	l.last.oddLetIn++
	l.sure = max(l.sure, min(granted, l.limit))
}

// set limits the calls to a number that is sure to be granted.
func (l *lesson) set(granted int) {
	l.limit, l.sure = granted, granted
	l.forget = l.rate.N
	l.step = max(1, (l.rate.N+10)/20)
	if l.rate.N == 0 {
		// No number is configured to come back to, so the limit is dropped once
		// it has doubled without a refusal.
		l.forget = max(2*granted, defaultCalls)
		l.step = max(granted, defaultCalls) / 20
	}
	if l.limit >= l.forget {
		l.limit = 0
	}
}

// raise raises the limit by a step for each window without a refusal.
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

// from is when the window without a refusal begins: at the first call after the
// pause or, if there is none, a window after the pause.
func (l *lesson) from() time.Time {
	if !l.clean.IsZero() {
		return l.clean
	}
	return l.until.Add(l.w)
}

// began notes that a call may be sent now.
func (l *lesson) began(now time.Time) {
	if l.clean.IsZero() && !l.until.IsZero() {
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

// rampEnd is the number of calls above which a ramp no longer limits.
const rampEnd = 1024

// rampPatience is how long a ramp waits for answers before other calls go on
// without them. It is well below [Patience], so that a call can wait for its end.
const rampPatience = 2 * time.Second

// ramp lets few calls go at once after an unexpected refusal, and one more for
// each that is let in, so that the number under way doubles with each round. If
// the server still refuses, that costs few refusals. It is not safe for
// concurrent use.
type ramp struct {
	most  int       // most calls under way; 0: no limit
	taken int       // calls under way that count
	from  int       // the first call that counts
	since time.Time // when that call was sent; zero: not yet
}

func (r *ramp) began(now time.Time) {
	r.taken++
	if r.since.IsZero() {
		r.since = now
	}
}

// ended notes that a call is over, and whether the server let it in.
func (r *ramp) ended(call int, granted bool) {
	if call < r.from {
		return
	}
	r.taken--
	if granted && r.most > 0 {
		if r.most++; r.most > rampEnd {
			r.most = 0
		}
	}
}

// room is how many more calls may go, and when the ramp is over at the latest.
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
