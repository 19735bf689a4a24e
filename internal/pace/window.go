package pace

import (
	"slices"
	"sort"
	"time"
)

// exact is the number of calls up to which a window remembers each one. Beyond
// it, calls that leave within the same 1/exact of the window share a mark, so that
// a window takes little memory, however many calls there are.
const exact = 1024

// roomKept is for how many marks an empty window keeps memory.
const roomKept = 64

// mark stands for calls that leave the window at the same instant.
type mark struct {
	leave   time.Duration // since the pacer was made
	n       int           // calls
	granted int           // those of them that the server is known to have let in
}

// window counts the calls of the last w. It is not safe for concurrent use.
type window struct {
	w       time.Duration
	quantum time.Duration // what leaving is rounded up to; 0: it is exact
	marks   []mark        // those from head on count, in the order of leaving
	head    int
	n       int           // calls in it
	granted int           // those of them that the server is known to have let in
	last    time.Duration // when the last one left
}

func newWindow(r Rate) window {
	win := window{w: r.W}
	if r.N == 0 {
		win.w = defaultWindow
	}
	if r.N == 0 || r.N > exact {
		win.quantum = max(1, win.w/exact)
	}
	return win
}

// add counts a call that leaves a window after at.
func (w *window) add(at time.Duration, granted bool) {
	m := mark{leave: at + w.w, n: 1}
	if granted {
		m.granted = 1
	}
	if q := w.quantum; q > 0 {
		m.leave = (m.leave + q - 1) / q * q
	}
	w.n++
	w.granted += m.granted
	// Calls come in the order of leaving, except those of a predecessor.
	i := len(w.marks)
	if i > w.head && w.marks[i-1].leave >= m.leave {
		i = w.head + sort.Search(i-w.head, func(i int) bool { return w.marks[w.head+i].leave >= m.leave })
	}
	full := len(w.marks)-w.head >= 4*exact
	switch {
	case i < len(w.marks) && (full || w.marks[i].leave == m.leave):
		// With too many marks, a call that leaves too late is the lesser evil.
		w.marks[i].n++
		w.marks[i].granted += m.granted
	case full:
		last := &w.marks[len(w.marks)-1]
		last.leave, last.n, last.granted = m.leave, last.n+1, last.granted+m.granted
	default:
		if len(w.marks) == cap(w.marks) && w.head > len(w.marks)/2 {
			i -= w.head
			w.marks = slices.Delete(w.marks, 0, w.head)
			w.head = 0
		}
		w.marks = slices.Insert(w.marks, i, m)
	}
}

// drop forgets the calls that have left by now.
func (w *window) drop(now time.Duration) {
	for w.head < len(w.marks) && w.marks[w.head].leave <= now {
		w.n -= w.marks[w.head].n
		w.granted -= w.marks[w.head].granted
		w.last = w.marks[w.head].leave
		w.head++
	}
	if w.head == len(w.marks) && w.head > 0 {
		w.marks, w.head = w.marks[:0], 0
		if cap(w.marks) > roomKept {
			w.marks = nil
		}
	}
}

// left is when n of the calls have left; ok is false if there are fewer than n.
func (w *window) left(n int) (at time.Duration, ok bool) {
	for _, m := range w.marks[w.head:] {
		if n -= m.n; n <= 0 {
			return m.leave, true
		}
	}
	return 0, false
}

// leaving reports whether more than n of the calls leave by the given instant.
func (w *window) leaving(by time.Duration, n int) bool {
	at, ok := w.left(n + 1)
	return ok && at <= by
}

// lull reports whether it takes long until the next call leaves: at least half of
// the longest time between two that leave. The time since the last one left counts
// too, up to a tenth of the window, so that steady traffic has lulls as well.
func (w *window) lull(now time.Duration) bool {
	if w.n == 0 {
		return true
	}
	from := max(w.last, now-w.w/10)
	ahead := w.marks[w.head].leave - from
	for _, m := range w.marks[w.head:] {
		if m.leave-from > 2*ahead {
			return false
		}
		from = m.leave
	}
	return true
}

// freed is when fewer than n of the calls that were let in are left; ok is false
// if there are fewer already.
func (w *window) freed(n int) (at time.Duration, ok bool) {
	granted := w.granted
	for _, m := range w.marks[w.head:] {
		if granted < n {
			break
		}
		granted -= m.granted
		at, ok = m.leave, true
	}
	return at, ok
}
