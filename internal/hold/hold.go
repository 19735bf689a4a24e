// Package hold is a circuit breaker for one tenant. Faults that concern every
// request trip it; then one request at a time is let through as a probe, and the
// first success lets the rest go. It is pure in time.
package hold

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Limits of the hold.
const (
	probeMin = time.Second
	probeMax = time.Minute
	// outageProbeMax is probeMax of an outage: it ends by itself, and its end is to
	// be noticed soon.
	outageProbeMax = 5 * time.Second
	// A request that failed comes back later than those that were only sent away,
	// by grace, so that the next probe is another one where two or more wait. All
	// of them are spread over jitter, so that it may be any of them.
	grace  = 300 * time.Millisecond
	jitter = 200 * time.Millisecond
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
	whileProbingMax = 2 * time.Second
	// proofFor is how long an accepted request proves that the credentials and
	// the permission are good.
	proofFor = 10 * time.Minute
)

// Cause is why a tenant's queue stands still.
type Cause string

// The causes, a closed list. Paused is the only one that an operator chose, and
// the only one that leaves the worker ready. Paused and Fuse are no business of
// a [Hold]: no probe ends them.
const (
	Credentials      Cause = "credentials"
	Permission       Cause = "permission"
	GraphUnavailable Cause = "graph_unavailable"
	Paused           Cause = "paused"
	Fuse             Cause = "fuse"
)

// Causes lists every Cause, in the order in which people read them.
func Causes() []Cause { return []Cause{Credentials, Permission, GraphUnavailable, Paused, Fuse} }

// Hold is the breaker of one tenant. While Cause is empty nothing is held.
type Hold struct {
	mu     sync.Mutex
	cause  Cause
	detail string
	since  time.Time
	step   time.Duration
	// probeAt is when the next probe may go; probing is the message that is
	// the probe now, 0 for none, and probingSince when it was let through.
	probeAt      time.Time
	probing      uint64
	probingSince time.Time

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

// New makes a Hold that holds nothing.
func New() *Hold {
	return &Hold{outage: map[uint64]int{}, refused: map[uint64]struct{}{}}
}

// Pass lets a request through.
type Pass struct {
	// Probe: the tenant is held, and this request tries whether it still has to be.
	Probe bool
	// Cause is what holds the tenant, if it is a probe.
	Cause Cause
}

// Admit lets a message through, or says when it should come again. [Hold.Done] has
// to be called for each message that was let through.
func (h *Hold) Admit(sequence uint64, now time.Time) (Pass, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.cause == "":
		return Pass{}, time.Time{}
	case h.probing != 0:
		return Pass{}, now.Add(min(max(now.Sub(h.probingSince), whileProbingMin), whileProbingMax))
	case now.Before(h.probeAt):
		return Pass{}, h.probeAt.Add(rand.N(jitter))
	}
	h.probing, h.probingSince = sequence, now
	return Pass{Probe: true, Cause: h.cause}, time.Time{}
}

// Allows reports whether a message that was let through may still make its call:
// a hold may have begun since. If not, until is when it should come again.
func (h *Hold) Allows(sequence uint64) (ok bool, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause == "" || h.probing == sequence, h.probeAt
}

// Done says that a message that was let through is through. Where it was a probe
// that decided nothing, the next may go at once.
func (h *Hold) Done(sequence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probing == sequence {
		h.probing = 0
	}
}

// Kind is what a call, a look or a request for a token came to.
type Kind int

const (
	// Accepted: Graph took a request, under the token of Signal.Token.
	Accepted Kind = iota + 1
	// Found: a look at a device has shown that Graph had taken a request.
	Found
	// Answered: a real answer, which says nothing of the token.
	Answered
	// Served: a real answer for which the token was good.
	Served
	// Failing: Graph failed, or could not be reached.
	Failing
	// Unauthorized: the token was rejected, and no other one helps.
	Unauthorized
	// Forbidden: the token was good, and the request not allowed.
	Forbidden
	// LookForbidden: the same, said of a look. That Graph answers a look is no sign
	// that calls get through.
	LookForbidden
	// NoToken: the token endpoint refuses or is away.
	NoToken
)

// Signal is what a message has found out.
type Signal struct {
	Kind Kind
	// Token is the generation of the token that was used; 0 where an acceptance
	// under any token counts.
	Token  int
	Detail string
	// Wait is the least time until the next probe; 0 where the service named none.
	Wait time.Duration
}

// Standing is what a signal means.
type Standing struct {
	// Everybody: what failed concerns every request, so that the tenant is held.
	// Back is when the message that failed should come again.
	Everybody bool
	Back      time.Time
	// Row counts how often in a row this message found Graph failing.
	Row int
	// Ended is the cause of the hold that is over now; empty: none.
	Ended Cause
	// Tripped: the hold has begun, or a probe has failed; not so for a call that
	// was under way when the hold began. Before is the cause before; empty: none.
	Tripped bool
	Before  Cause
}

// Observe takes a signal: it ends the hold, trips it, or makes the next probe
// wait longer. It must be called before the message is decided on, so that others
// stop at once.
func (h *Hold) Observe(sequence uint64, s Signal, now time.Time) (st Standing) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch s.Kind {
	case Accepted, Found:
		clear(h.outage)
		clear(h.refused)
		if s.Kind == Accepted && s.Token >= h.acceptedBy { // a late success takes nothing from a newer token
			h.acceptedAt, h.acceptedBy = now, s.Token
		}
		st.Ended = h.release()
	case Answered, Served, Forbidden:
		clear(h.outage)
		if h.cause == GraphUnavailable || s.Kind != Answered && h.cause == Credentials {
			st.Ended = h.release()
		}
		if s.Kind == Forbidden && !h.ownFault(sequence, s.Token, now) {
			h.trip(&st, sequence, Permission, s, now)
		}
	case LookForbidden:
		if !h.ownFault(sequence, s.Token, now) {
			h.trip(&st, sequence, Permission, s, now)
		}
	case Failing:
		st.Row = h.outage[sequence] + 1
		if st.Row > 1 || len(h.outage) < outageRow {
			h.outage[sequence] = st.Row
		}
		if len(h.outage) >= outageRow || h.cause != "" && h.probing == sequence {
			h.trip(&st, sequence, GraphUnavailable, s, now)
		}
	case Unauthorized:
		if !h.ownFault(sequence, 0, now) {
			h.trip(&st, sequence, Credentials, s, now)
		}
	case NoToken:
		h.trip(&st, sequence, Credentials, s, now)
	}
	return st
}

// trip begins a hold, or, after a failed probe, makes it wait longer. Call with mu
// held.
func (h *Hold) trip(st *Standing, sequence uint64, cause Cause, s Signal, now time.Time) {
	most := probeMax
	if cause == GraphUnavailable {
		most = outageProbeMax
	}
	switch {
	case h.cause == "":
		h.since, h.step = now, probeMin
	case h.probing == sequence:
		h.probing, h.step = 0, min(2*h.step, most)
	default: // it was under way when the hold began
		st.Everybody, st.Back = true, later(h.probeAt)
		return
	}
	st.Tripped, st.Before = true, h.cause
	h.cause, h.detail = cause, s.Detail
	h.probeAt = now.Add(max(h.step, s.Wait))
	st.Everybody, st.Back = true, later(h.probeAt)
}

// later is when a request that has failed comes back.
func later(probeAt time.Time) time.Time { return probeAt.Add(grace + rand.N(jitter)) }

// ownFault reports whether a refusal by 401 or 403 is the request's own fault:
// Graph accepted something not long ago. token is the one that was used, 0
// where an acceptance under any token counts. Call with mu held.
func (h *Hold) ownFault(sequence uint64, token int, now time.Time) bool {
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

// Restore goes on with a hold that another replica began, or this one before a
// restart; the first probe goes at once. It is false where there is a hold
// already, or the cause is none that probes end.
func (h *Hold) Restore(cause Cause, detail string, since, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause != "" || !slices.Contains([]Cause{Credentials, Permission, GraphUnavailable}, cause) {
		return false
	}
	h.cause, h.detail, h.since, h.step, h.probeAt = cause, detail, since, probeMin, now
	return true
}

// Reset ends whatever holds the tenant: another replica works on it now, and
// knows better.
func (h *Hold) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.outage)
	h.release()
}

func (h *Hold) release() Cause {
	ended := h.cause
	h.cause, h.detail, h.since, h.probeAt, h.probing = "", "", time.Time{}, time.Time{}, 0
	return ended
}

// State is a hold as others see it. The zero State holds nothing.
type State struct {
	Cause     Cause
	Detail    string
	Since     time.Time
	NextProbe time.Time
}

// State is the hold as it is now.
func (h *Hold) State() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return State{h.cause, h.detail, h.since, h.probeAt}
}
