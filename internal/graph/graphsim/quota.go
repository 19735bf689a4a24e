package graphsim

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// defaultWindow is Intune's: 200 writes per application and tenant in 20 s.
const defaultWindow = 20 * time.Second

// timeline is a queue of instants in order.
type timeline struct {
	at   []time.Time
	head int
}

func (l *timeline) reset()              { l.at, l.head = l.at[:0], 0 }
func (l *timeline) add(t time.Time)     { l.at = append(l.at, t) }
func (l *timeline) len() int            { return len(l.at) - l.head }
func (l *timeline) get(i int) time.Time { return l.at[l.head+i] }

// prune drops what is not after the given instant.
func (l *timeline) prune(until time.Time) {
	for l.head < len(l.at) && !l.at[l.head].After(until) {
		l.head++
	}
	// The room in front is used again once it is the larger half.
	if l.head > 64 && l.head > len(l.at)/2 {
		l.at = l.at[:copy(l.at, l.at[l.head:])]
		l.head = 0
	}
}

// quota is what may happen within a sliding window.
type quota struct {
	n      int // 0: no limit; negative: nothing
	window time.Duration
}

func (q *quota) set(n int, window time.Duration) {
	if window <= 0 {
		window = defaultWindow
	}
	q.n, q.window = n, window
}

// take counts a call against the quota, on its line. A refused one is told how
// long it would have to wait.
func (q quota) take(line *timeline, now time.Time, countThrottled bool) (ok bool, wait time.Duration) {
	if q.n < 0 {
		return false, q.window
	}
	line.prune(now.Add(-q.window))
	ok = line.len() < q.n
	if ok || countThrottled {
		line.add(now)
	}
	if ok {
		return true, 0
	}
	// The call that must leave the window before there is room.
	return false, line.get(line.len() - q.n).Add(q.window).Sub(now)
}

// arrive notes a POST and tells how many have come within the window, less a
// little: a client that keeps its own clock exactly cannot know how long each
// call is on its way.
func (t *tenant) arrive(now time.Time) int {
	grace := min(t.limit.window/20, 500*time.Millisecond)
	t.arrivals.prune(now.Add(grace - t.limit.window))
	t.arrivals.add(now)
	return t.arrivals.len()
}

// announced is a time in which no call should come, by our clock.
type announced struct{ from, until time.Time }

// underWay is how long after an announcement calls may still arrive that were
// sent before it.
const underWay = 50 * time.Millisecond

func (a *announced) add(now time.Time, wait time.Duration) {
	until := now.Add(wait)
	switch {
	case !now.Before(a.until):
		a.from, a.until = now.Add(underWay), until
	case until.After(a.until):
		a.until = until
	}
}

// early reports whether a call comes while a Retry-After forbids it: that of a
// POST forbids all calls, that of a GET further GETs.
func (t *tenant) early(method string, now time.Time) bool {
	return t.graph.covers(now) || method == http.MethodGet && t.reading.covers(now)
}

// announce notes a Retry-After.
func (t *tenant) announce(method string, now time.Time, wait time.Duration) {
	if method == http.MethodGet {
		t.reading.add(now, wait)
	} else {
		t.graph.add(now, wait)
	}
}

func (a *announced) covers(now time.Time) bool {
	return now.After(a.from) && now.Before(a.until)
}

// retryAfter is a Retry-After to be sent.
type retryAfter struct {
	style RetryAfterStyle
	wait  time.Duration
}

// header writes it, and gives the wait that the text really announces. now is
// Graph's.
func (r retryAfter) header(now time.Time) (string, time.Duration) {
	switch r.style {
	case Seconds:
		n := max(1, int(math.Ceil(r.wait.Seconds())))
		return strconv.Itoa(n), time.Duration(n) * time.Second
	case Decimal:
		ms := max(1, (r.wait+time.Millisecond-1)/time.Millisecond)
		return strconv.FormatFloat(float64(ms)/1000, 'f', -1, 64), ms * time.Millisecond
	case Date:
		t := now.Add(r.wait + time.Second - 1).Truncate(time.Second)
		return t.UTC().Format(http.TimeFormat), t.Sub(now)
	}
	return "", 0
}

// dateCache keeps the text of a Date header for a second.
type dateCache struct {
	second int64
	text   string
}

func (d *dateCache) at(t time.Time) string {
	if sec := t.Unix(); sec != d.second || d.text == "" {
		d.second, d.text = sec, t.UTC().Format(http.TimeFormat)
	}
	return d.text
}
