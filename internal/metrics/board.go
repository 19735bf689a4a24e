package metrics

import (
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Bounds of what is kept for the status page, per tenant.
const (
	keptVerdicts = 15
	keptDead     = 10
	maxShownText = 400 // bytes of a detail; the log has all of it
	maxShownName = 256 // bytes of an id, a device, a reason

	slotTime = 10 * time.Second
	slots    = 90 // a quarter of an hour
)

// Verdict is one verdict as the log and the status page show it.
type Verdict struct {
	Time       time.Time // the zero time means now
	ID, Device string
	Outcome    string // the log's message
	State      string // of the record: accepted, dead, retrying, verifying
	Reason     string // of a dead letter
	Detail     string // never a secret, token or passcode
	Attempt    int
	Status     int // HTTP status; 0 = none
}

// The states that have a colour of their own on the page.
const (
	stateAccepted = "accepted"
	stateDead     = "dead"
)

// Verdict keeps a verdict for the status page, which shows the last few.
func (t *Tenant) Verdict(v Verdict) {
	if v.Time.IsZero() {
		v.Time = time.Now()
	}
	v.ID, v.Device, v.Reason = clip(v.ID, maxShownName), clip(v.Device, maxShownName), clip(v.Reason, maxShownName)
	v.Outcome, v.Detail = clip(v.Outcome, maxShownText), clip(v.Detail, maxShownText)
	t.board.verdict(v)
}

// clip cuts a text, and copies what is left so that the rest can be freed.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return strings.Clone(s[:limit]) + "…"
}

// followed is what the status page knows about the requests that are followed, of all
// tenants together.
type followed struct {
	mu    sync.Mutex
	at    time.Time // when depth was set; zero: never
	depth FollowDepth
}

func (f *followed) set(d FollowDepth) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.depth, f.at = d, time.Now()
}

func (f *followed) get() (d FollowDepth, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.depth, f.at
}

// board is what the status page knows about one tenant. Its size is bounded.
type board struct {
	mu sync.Mutex
	now
	verdicts ring
	dead     ring   // the dead ones, kept apart because other verdicts push them out quickly
	slots    []slot // a ring by time; nil until something is counted
}

// ring keeps the last verdicts.
type ring struct {
	kept []Verdict
	next int // where the next one goes once it is full
}

func (r *ring) put(v Verdict, most int) {
	if len(r.kept) < most {
		r.kept = append(r.kept, v)
		return
	}
	r.kept[r.next] = v
	r.next = (r.next + 1) % most
}

// newestFirst returns a copy.
func (r *ring) newestFirst() []Verdict {
	out := make([]Verdict, 0, len(r.kept))
	for i := range r.kept {
		out = append(out, r.kept[(r.next+len(r.kept)-1-i)%len(r.kept)])
	}
	return out
}

// now is the part of a tenant's state of which only the last value counts.
type now struct {
	queue                  Queue
	queueKnown             bool // the queue has been read
	inFlight, waitingRetry int
	rate, configured       float64 // calls per second; 0 = no limit
}

// slot counts what ended within one slotTime.
type slot struct {
	number                           int64 // of the slot since 1970; a stale slot has another one
	accepted, dead, throttled, calls uint32
	done, failed, other              uint32 // outcomes
}

func slotOf(t time.Time) int64 { return t.UnixNano() / int64(slotTime) }

func (b *board) set(change func(*now)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.now)
}

func (b *board) verdict(v Verdict) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verdicts.put(v, keptVerdicts)
	if v.State == stateDead {
		b.dead.put(v, keptDead)
	}
}

// count adds to the slot of the present moment.
func (b *board) count(change func(*slot)) {
	number := slotOf(time.Now())
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.slots == nil {
		b.slots = make([]slot, slots)
	}
	s := &b.slots[number%slots]
	if s.number != number {
		*s = slot{number: number}
	}
	change(s)
}

// glance is a board at one moment.
type glance struct {
	now
	verdicts, dead []Verdict   // newest first
	slots          [slots]slot // oldest first; the last one is under way
}

func (b *board) glance(at time.Time) glance {
	last := slotOf(at)
	b.mu.Lock()
	defer b.mu.Unlock()
	g := glance{now: b.now, verdicts: b.verdicts.newestFirst(), dead: b.dead.newestFirst()}
	for i := range g.slots {
		number := last - slots + 1 + int64(i)
		g.slots[i].number = number
		if b.slots == nil {
			continue
		}
		if s := b.slots[number%slots]; s.number == number {
			g.slots[i] = s
		}
	}
	return g
}

func (s *slot) add(o slot) {
	s.accepted += o.accepted
	s.dead += o.dead
	s.throttled += o.throttled
	s.calls += o.calls
	s.done += o.done
	s.failed += o.failed
	s.other += o.other
}

// perSecond is the number of calls per second over the last two whole slots.
func (g glance) perSecond() float64 {
	calls := g.slots[slots-2].calls + g.slots[slots-3].calls
	return float64(calls) / (2 * slotTime.Seconds())
}
