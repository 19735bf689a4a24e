package worker

import (
	"sync"
	"time"

	"passcode-worker/internal/metrics"
)

// Limits of the hold.
const (
	probeMin = time.Second
	probeMax = time.Minute
	// outageProbeMax is probeMax of an outage: it ends by itself, so that its end
	// is to be noticed soon.
	outageProbeMax = 5 * time.Second
	// graceForOthers is how long a due probe waits for a request that has not
	// been tried in this round, before one that has is tried again. The one
	// that was tried last waits twice as long, so that it is a different one
	// each time where two or more wait.
	graceForOthers = 250 * time.Millisecond
	// outageRow is how many different requests in a row must find Graph
	// unreachable or failing before that counts as an outage.
	outageRow = 5
	// refusalRow is how many different requests in a row must be refused by
	// 401 or 403 before it counts as everybody's fault, although Graph
	// accepted something not long ago.
	refusalRow = 20
	// A request that comes while another one is the probe stays away for as long
	// as that one has been under way, within these bounds: most probes that are
	// answered at all are answered soon, and then the rest shall not be away.
	whileProbingMin = 100 * time.Millisecond
	whileProbing    = 3 * time.Second
	// roundMost bounds a round. The consumer has no more messages out at a time
	// (max ack pending); what else is noted has come to its end.
	roundMost = 1000
	// proofFor is how long an accepted request proves that the credentials and
	// the permission are good.
	proofFor = 10 * time.Minute
)

// hold is what one tenant knows about faults that are everybody's. While it is
// held, one request at a time is let through as a probe, a different one each
// time; the first success lets the rest go. It is pure in time.
type hold struct {
	mu sync.Mutex
	// cause is empty while nothing is held.
	cause  metrics.Cause
	detail string
	since  time.Time
	step   time.Duration
	// probeAt is when the next probe may go; probing is the message that is
	// the probe now, 0 for none, and probingSince when it was let through.
	probeAt      time.Time
	probing      uint64
	probingSince time.Time
	// tried are the messages that were refused in this round; last is the one
	// that was refused last.
	tried map[uint64]struct{}
	last  uint64
	// othersBack is when all that were sent away while another one was the
	// probe are back. fallback is when a message that was tried may go again,
	// because no other has come; zero until it is asked for.
	othersBack, fallback time.Time

	// heard tells that the present probe found Graph better than before: it
	// answered a reading, or could be reached again. Then the next one goes soon,
	// even if this one fails; that may be its own matter.
	heard bool
	// reached tells whether a call that was a sign of the outage could be sent.
	// In a hold it stays true once it is: a Graph that comes and goes is none to be
	// tried each second.
	reached bool

	// outage counts, per message, the calls in a row that found Graph
	// unreachable or failing; any real answer clears it. It holds no more
	// messages than make a row.
	outage map[uint64]int
	// refused are the messages refused by 401 or 403 since the last acceptance,
	// no more than make a row.
	refused map[uint64]struct{}
	// acceptedAt and acceptedBy tell when Graph last accepted something under
	// the newest token that it has accepted, and which token that is.
	acceptedAt time.Time
	acceptedBy int
}

func newHold() *hold {
	return &hold{tried: map[uint64]struct{}{}, outage: map[uint64]int{}, refused: map[uint64]struct{}{}}
}

// pass lets a request through.
type pass struct {
	// Probe tells that the tenant is held and this request tries whether it
	// still has to be.
	Probe bool
	// Cause is what holds the tenant, if it is a probe.
	Cause metrics.Cause
}

// admit lets a message through, or tells when it should come again.
func (h *hold) admit(sequence uint64, now time.Time) (pass, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == "" {
		return pass{}, time.Time{}
	}
	if h.probing != 0 {
		back := now.Add(min(max(now.Sub(h.probingSince), whileProbingMin), whileProbing))
		if back.After(h.othersBack) {
			h.othersBack = back
		}
		return pass{}, back
	}
	if now.Before(h.probeAt) {
		return pass{}, h.probeAt
	}
	if _, again := h.tried[sequence]; again {
		if h.fallback.IsZero() {
			h.fallback = now.Add(max(0, h.othersBack.Sub(now)) + graceForOthers)
		}
		fallback := h.fallback
		if sequence == h.last {
			fallback = fallback.Add(graceForOthers)
		}
		if now.Before(fallback) {
			return pass{}, fallback
		}
		clear(h.tried) // nothing else is waiting: a new round
	}
	h.probing, h.probingSince, h.fallback, h.heard = sequence, now, time.Time{}, false
	return pass{Probe: true, Cause: h.cause}, time.Time{}
}

// open tells whether a message that was let through may still make its call:
// a hold may have begun since.
func (h *hold) open(sequence uint64) (ok bool, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause == "" || h.probing == sequence, h.probeAt
}

// end tells that a probe is over. It must be called for every probe; where it
// decided nothing, the next may go at once, and it may be the same one: that
// has not had its turn.
func (h *hold) end(sequence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probing == sequence {
		h.probing = 0
	}
}

// fail records that everybody is concerned. It begins a hold, or, after a
// failed probe, makes it wait longer. wait is the least time until the next
// probe, 0 where the service named none. It returns when that will be, and
// whether this failure was news: not so for a call that was under way when the
// hold began.
func (h *hold) fail(sequence uint64, cause metrics.Cause, detail string, wait time.Duration, now time.Time) (at time.Time, news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.cause == "":
		h.since = now
		h.step = probeMin
		// Those that made it a hold have had their turn.
		for failed := range h.outage {
			h.turn(failed)
		}
	case h.probing == sequence:
		h.probing = 0
		most := probeMax
		if cause == metrics.CauseGraphUnavailable {
			most = outageProbeMax
		}
		h.step = min(2*h.step, most)
		if h.heard {
			h.step = probeMin
		}
	default:
		h.turn(sequence)
		return h.probeAt, false
	}
	h.cause, h.detail = cause, detail
	h.turn(sequence)
	h.probeAt = now.Add(max(h.step, wait))
	return h.probeAt, true
}

// restore goes on with a hold that another replica began, or this one before a
// restart; the first probe goes at once. It is false where there is a hold
// already, or the cause is none that probes end.
func (h *hold) restore(cause metrics.Cause, detail string, since, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch cause {
	case metrics.CauseCredentials, metrics.CausePermission, metrics.CauseGraphUnavailable:
	default:
		return false
	}
	if h.cause != "" {
		return false
	}
	h.cause, h.detail, h.since, h.step, h.probeAt = cause, detail, since, probeMin, now
	return true
}

// stand ends whatever holds the tenant: another replica works on it now, and
// knows better.
func (h *hold) stand() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.outage)
	h.release()
}

// turn notes that a message has had its turn in this round.
func (h *hold) turn(sequence uint64) {
	if len(h.tried) >= roundMost {
		clear(h.tried)
	}
	h.tried[sequence], h.last = struct{}{}, sequence
}

// outageSign records a call that found Graph failing or, where it could not be
// sent, unreachable. It returns how often in a row that happened to this
// message, and whether it is an outage: now the tenant is to be held.
func (h *hold) outageSign(sequence uint64, sent bool) (times int, isOutage bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.cause == "":
		h.reached = sent
	case h.probing == sequence && sent:
		h.heard = h.heard || h.cause == metrics.CauseGraphUnavailable && !h.reached
		h.reached = true
	}
	times = h.outage[sequence] + 1
	if times > 1 || len(h.outage) < outageRow {
		h.outage[sequence] = times
	}
	return times, len(h.outage) >= outageRow || h.cause != "" && h.probing == sequence
}

// read records that Graph answered a reading by the present probe. That is no
// success: its next call will tell. But it is not silence either.
func (h *hold) read(sequence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = h.heard || h.probing == sequence
}

// answered records that Graph gave a real answer: it is there, and an outage
// is over. tokenTaken tells that the answer also needed a good token; then a
// hold for credentials is over too.
func (h *hold) answered(tokenTaken bool) (ended metrics.Cause) {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.outage)
	if h.cause == metrics.CauseGraphUnavailable || tokenTaken && h.cause == metrics.CauseCredentials {
		return h.release()
	}
	return ""
}

// accepted records that Graph took a request, or was found to have taken it
// (token 0): whatever held the tenant is over.
func (h *hold) accepted(token int, now time.Time) (ended metrics.Cause) {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.outage)
	clear(h.refused)
	if token > 0 && token >= h.acceptedBy { // a late success takes nothing from a newer token
		h.acceptedAt, h.acceptedBy = now, token
	}
	return h.release()
}

func (h *hold) release() metrics.Cause {
	ended := h.cause
	h.cause, h.detail, h.since = "", "", time.Time{}
	h.probeAt, h.probing, h.fallback = time.Time{}, 0, time.Time{}
	clear(h.tried)
	return ended
}

// ownFault tells whether a refusal by 401 or 403 is the request's own fault:
// Graph accepted something not long ago. token is the one that was used, 0
// where an acceptance under any token counts.
func (h *hold) ownFault(sequence uint64, token int, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.refused) < refusalRow {
		h.refused[sequence] = struct{}{}
	}
	if h.acceptedAt.IsZero() || now.Sub(h.acceptedAt) > proofFor || len(h.refused) >= refusalRow {
		return false
	}
	// What an application may do is written into its token when it is issued:
	// an acceptance under an older one proves nothing about this one.
	return token == 0 || token == h.acceptedBy
}

// state is the hold as others see it; an empty cause means none.
func (h *hold) state() (cause metrics.Cause, detail string, since, probeAt time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause, h.detail, h.since, h.probeAt
}
