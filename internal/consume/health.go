package consume

import "time"

// health is what a puller makes of the server's words and of its silence. The
// functions are told the present instant.
type health struct {
	alive func()    // is called at each sign of life
	seen  time.Time // the last sign of life, or since when one is owed
	tries int       // pulls that have failed since
	err   error     // of the last of these; nil: none
	next  time.Time // when the next pull may be sent; zero: at once
	// doubt is when to look the consumer up: it may be gone, or have been made
	// anew. Zero: there is no doubt.
	doubt time.Time
	gone  bool // the server has said that the consumer was deleted
}

// While a consumer has no leader, pulls are refused or lost. The leader is there
// again after some 300 ms where it handed over, and some seconds where it died.
const (
	tryPauseMin = 10 * time.Millisecond
	tryPauseMax = 200 * time.Millisecond
	lookPause   = 200 * time.Millisecond // between two look-ups
)

func (h *health) lives(now time.Time) {
	h.seen, h.tries, h.err, h.next = now, 0, nil, time.Time{}
	h.alive()
}

// fail notes that a pull has failed.
func (h *health) fail(err error, now time.Time) {
	h.err = err
	h.next = now.Add(min(tryPauseMin<<min(h.tries, 8), tryPauseMax))
	h.tries++
}

// suspect has the consumer looked up.
func (h *health) suspect(now time.Time) {
	if h.doubt.IsZero() {
		h.doubt = now
	}
}

// restart forgets what was on a connection that is gone.
func (h *health) restart(now time.Time) {
	h.seen, h.tries, h.err, h.next = now, 0, nil, time.Time{}
	h.suspect(now)
}

// lost is why the consumer is lost: the server owes an answer for longer than
// patience.
func (h *health) lost(asked bool, now time.Time, patience time.Duration) error {
	switch {
	case h.gone:
		return errDeleted
	case !asked && h.tries == 0, now.Sub(h.seen) <= patience:
		return nil
	case h.err == nil:
		return errSilent
	}
	return h.err
}
