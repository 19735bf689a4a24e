// Package pace decides when the next call to Graph may go: a sliding window of
// calls really sent, what refusals have taught about the number that the server
// grants, and the pauses that it asks for. It is pure in time: it sends nothing
// and knows nothing of HTTP.
package pace

import (
	"context"
	"math"
	"sync"
	"time"
)

// Patience is how long a caller that already holds a request waits for its
// turn. A longer wait is told at once (see [Wait]), so that the request can go
// back to the queue and hold nothing.
const Patience = 5 * time.Second

// Graph documents 200 writes per 20 s for an app in a tenant; where no rate is
// configured, its window still bounds the pause after a 429 without Retry-After,
// and it is the window that is learned about.
// Source: Microsoft Graph throttling limits, Intune service limits.
const defaultWindow = 20 * time.Second

// unlimited is the number of calls that may go where nothing limits them.
const unlimited = math.MaxInt32

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
	made     time.Time

	mu sync.Mutex
	// taken counts slots that are reserved or whose call is under way. A slot
	// stays taken until a window after its answer: when in between the server
	// counted the call is unknown, so only then is it out of every window.
	taken int
	calls int // slots reserved so far
	// window holds the calls that were answered.
	window window
	lesson lesson
	ramp   ramp
	// pausedUntil is when calls may go again; zero means never paused. A call
	// sent before it was under way when that pause was announced, however late
	// it is answered: it belongs to the same throttling.
	pausedUntil time.Time
	nextStep    time.Duration
	// changed is closed at the next change that may let a waiter go; nil where
	// nobody waits.
	changed chan struct{}
}

// New makes a pacer. maxPause caps every pause; zero means no cap.
func New(rate Rate, maxPause time.Duration) *Pacer {
	w := newWindow(rate)
	return &Pacer{
		rate: rate, maxPause: maxPause, made: time.Now(), nextStep: firstPause,
		window: w, lesson: newLesson(rate, w.w),
	}
}

// Rate is the configured rate.
func (p *Pacer) Rate() Rate { return p.rate }

// Window is the time over which calls are counted.
func (p *Pacer) Window() time.Duration { return p.window.w }

// Limit is how many calls per second are allowed now: by what was learned, else
// by the configured rate; 0 means no limit.
func (p *Pacer) Limit() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lesson.raise(time.Now())
	if p.lesson.limit > 0 {
		return Rate{p.lesson.limit, p.lesson.w}.PerSecond()
	}
	return p.rate.PerSecond()
}

// Granted is the number of calls in a window that the server has been seen to
// grant since it refused some; 0 means that nothing is learned, or that it is
// forgotten. See [Pacer.Restore].
func (p *Pacer) Granted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lesson.raise(time.Now())
	if p.lesson.limit > 0 {
		return p.lesson.sure
	}
	return 0
}

// Restore begins with what a predecessor had learned (see [Pacer.Granted]; 0 is
// nothing) and been told (see [Pacer.Paused]; zero is no pause).
func (p *Pacer) Restore(granted int, pausedUntil time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if pause := pausedUntil.Sub(now); pause > 0 {
		p.pauseUntil(now, now.Add(p.bounded(pause)))
	}
	if granted > 0 {
		p.lesson = newLesson(p.rate, p.window.w)
		p.lesson.until = now
		p.lesson.set(granted)
	}
	p.wake()
}

// Call is a call that was sent, as others know of it.
type Call struct {
	// At is when it was answered or, where that is not known, sent.
	At time.Time
	// Granted: the server's quota has let it in, as far as is known.
	Granted bool
}

// Rebuild begins the window anew with these calls, in place of all that have been
// answered so far; those under way go on to count. A call that is out of the window
// is ignored; the future is now.
func (p *Pacer) Rebuild(calls []Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.window = newWindow(p.rate)
	for _, c := range calls {
		if ago := max(0, now.Sub(c.At)); ago < p.window.w {
			p.window.add(p.since(now)-ago, c.Granted)
		}
	}
	p.wake()
}

// Available is how many further calls could begin now, a large number where
// there is no limit. If none could, at is the earliest instant at which one
// could, zero where that depends on calls under way. changed is closed at the
// next change that may let more go; time that passes is none. Nothing is
// reserved.
func (p *Pacer) Available() (n int, at time.Time, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, at = p.room(time.Now())
	return n, at, p.change()
}

// Reserve waits for a slot. It fails with a [*Wait] when the wait would be
// longer than [Patience], or with the context's error.
func (p *Pacer) Reserve(ctx context.Context) (*Slot, error) {
	now := time.Now()
	giveUp := now.Add(Patience)
	for {
		p.mu.Lock()
		n, at := p.room(now)
		if n > 0 {
			s := p.take(now)
			p.mu.Unlock()
			return s, nil
		}
		// Where calls under way decide, the next answer may let this one go.
		_, rampEnds := p.ramp.room(now)
		anyMoment := at.IsZero() || at.Equal(rampEnds)
		changed := p.change()
		p.mu.Unlock()
		if now.After(giveUp) || at.After(giveUp) && !anyMoment {
			if at.IsZero() {
				at = now.Add(Patience)
			}
			return nil, &Wait{Until: at}
		}
		if at.IsZero() || at.After(giveUp) {
			at = giveUp.Add(time.Millisecond)
		}
		if err := sleep(ctx, at, changed); err != nil {
			return nil, err
		}
		now = time.Now()
	}
}

// since is how old the pacer is. Call with mu held or not.
func (p *Pacer) since(now time.Time) time.Duration { return now.Sub(p.made) }

// room is how many calls may be sent now. If none may, at is the earliest
// instant at which one may, or zero where that depends on calls that are still
// under way. Call with mu held.
func (p *Pacer) room(now time.Time) (n int, at time.Time) {
	p.window.drop(p.since(now))
	p.lesson.raise(now)
	n, at = unlimited, now
	switch inWindow := p.taken + p.window.n; {
	case p.lesson.limit > 0:
		if n, at = p.lesson.sure-inWindow, now; n <= 0 {
			n, at = p.more(now, inWindow)
		}
	case p.rate.N > 0:
		if n = max(0, p.rate.N-inWindow); n == 0 {
			at = p.left(inWindow - p.rate.N + 1)
		}
	}
	if few, end := p.ramp.room(now); few < n {
		if n = few; n == 0 {
			at = end
		}
	}
	if p.pausedUntil.After(now) {
		n = 0
		if at.IsZero() || p.pausedUntil.After(at) {
			at = p.pausedUntil
		}
	}
	return n, at
}

// more is room where as many calls are in the window as are sure to be granted.
// Call with mu held.
func (p *Pacer) more(now time.Time, inWindow int) (n int, at time.Time) {
	l := &p.lesson
	at = p.left(inWindow - l.sure + 1)
	if inWindow >= l.limit {
		if raised := l.raisedBy(inWindow - l.limit + 1); at.IsZero() || raised.Before(at) {
			at = raised
		}
		return 0, at
	}
	// Where many calls are about to leave the window, the server may have
	// forgotten them already: to be let in now would prove nothing. A refused
	// call may count for a window, too, and then takes the place of the next one:
	// so it is sent where that one is long in coming, but for where the server has
	// refused nothing for so long that it seems to grant much more.
	since := p.since(now)
	if p.taken > 0 || p.window.leaving(since+l.w/10, l.sure/4) || l.limit-l.sure <= l.step && !p.window.lull(since) {
		return 0, at
	}
	return 1, now
}

// left is when n calls will have left the window; zero where that depends on
// calls under way.
func (p *Pacer) left(n int) time.Time {
	at, ok := p.window.left(n)
	if !ok {
		return time.Time{}
	}
	return p.made.Add(at)
}

// change is closed at the next change. Call with mu held.
func (p *Pacer) change() <-chan struct{} {
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}

// wake lets every waiter look again. Call with mu held.
func (p *Pacer) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
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
