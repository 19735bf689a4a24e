// Package pace decides when the next call to Graph may go: a sliding window of
// calls really sent, what refusals have taught about the number that the server
// grants, and the pauses that it asks for. It depends on nothing but time: it
// sends nothing and knows nothing of HTTP.
package pace

import (
	"context"
	"math"
	"sync"
	"time"
)

// Patience is how long a caller that already holds a request waits for its
// turn. A longer wait is an error at once (see [Wait]), so that the request can
// go back to the queue and hold nothing.
const Patience = 5 * time.Second

// Graph documents 200 writes per 20 s for an app in a tenant; if no rate is
// configured, its window still bounds the pause after a 429 without Retry-After,
// and the number of calls is learned for this window.
// Source: Microsoft Graph throttling limits, Intune service limits.
const defaultWindow = 20 * time.Second

// unlimited is the number of calls that may go if there is no limit.
const unlimited = math.MaxInt32

// Wait is the error of a call that cannot go within [Patience]. Until is when
// to try again.
type Wait struct{ Until time.Time }

// Error names the instant.
func (w *Wait) Error() string {
	return "no call may be sent before " + w.Until.UTC().Format(time.RFC3339Nano)
}

// Pacer allows the calls of one tenant. Create it with [New].
type Pacer struct {
	rate     Rate
	maxPause time.Duration
	made     time.Time

	mu sync.Mutex
	// taken counts slots that are reserved or whose call is under way. An
	// answered call counts in window for a whole window after its answer: when
	// the server counted it is unknown, so only then has it left every window.
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
	// changed is closed at the next change that may let a waiter go; nil if
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

// Limit is how many calls per second are allowed now: the learned number if
// there is one, else the configured rate; 0 means no limit.
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
// grant since it refused some; 0 means that nothing was learned, or that it was
// forgotten since. See [Pacer.Restore].
func (p *Pacer) Granted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lesson.raise(time.Now())
	if p.lesson.limit > 0 {
		return p.lesson.sure
	}
	return 0
}

// Restore takes over from a predecessor what it had learned (see
// [Pacer.Granted]; 0 is nothing) and its pause (see [Pacer.Paused]; zero is none).
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

// Call is a call that was sent earlier; see [Pacer.Rebuild].
type Call struct {
	// At is when it was answered or, if that is not known, sent.
	At time.Time
	// Granted reports whether the server's quota is known to have let it in.
	Granted bool
}

// Rebuild replaces the calls that have been answered so far by these; calls under
// way still count. It ignores a call that has left the window, and takes one in the
// future as of now.
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

// Available is how many further calls could begin now, a large number if there
// is no limit. If none could, at is the earliest instant at which one could, or
// zero if that depends on calls under way. changed is closed at the next change,
// other than the passing of time, that may let more go. Nothing is reserved.
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
		// If it depends on calls under way, the next answer may let this one go.
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
// instant at which one may, or zero if that depends on calls that are still
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

// more is room when the window already holds as many calls as are sure to be
// granted. Call with mu held.
func (p *Pacer) more(now time.Time, inWindow int) (n int, at time.Time) {
	l := &p.lesson
	at = p.left(inWindow - l.sure + 1)
	if inWindow >= l.limit {
		if raised := l.raisedBy(inWindow - l.limit + 1); at.IsZero() || raised.Before(at) {
			at = raised
		}
		return 0, at
	}
	// If many calls are about to leave the window, the server may have forgotten
	// them already, and being let in would prove nothing. A refused call may count
	// for a window, too, and so take the place of the next one. Therefore one is
	// tried only while the next is still a long way off, unless the server has
	// refused nothing for so long that it seems to grant much more.
	since := p.since(now)
	if p.taken > 0 || p.window.leaving(since+l.w/10, l.sure/4) || l.limit-l.sure <= l.step && !p.window.lull(since) {
		return 0, at
	}
	return 1, now
}

// left is when n calls will have left the window; zero if that depends on calls
// under way.
func (p *Pacer) left(n int) time.Time {
	at, ok := p.window.left(n)
	if !ok {
		return time.Time{}
	}
	return p.made.Add(at)
}

// change returns a channel that is closed at the next change. Call with mu held.
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
