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
	// outageProbeMax is probeMax of an outage, of Graph or of the token endpoint: it
	// ends by itself, and its end is to be noticed soon.
	outageProbeMax = 5 * time.Second
	// Those that have not failed come within jitter after the next probe is due, any
	// of them first. Behind them come the last failedMost that have, the one that
	// failed first before the others, a turn apart.
	jitter     = 200 * time.Millisecond
	turn       = 50 * time.Millisecond
	failedMost = 20
	// outageRow is how many different requests in a row must find Graph
	// unreachable or failing before that counts as an outage.
	outageRow = 5
	// refusalRow is how many different requests in a row must be refused before
	// that may be everybody's fault, although Graph accepted something, or listed
	// the tenant's devices, not long ago.
	refusalRow = 20
	// A request that comes while another one is the probe stays away for as long
	// as that one has been under way, within these bounds: most probes that are
	// answered at all are answered soon, and then the rest shall not be away.
	whileProbingMin = 100 * time.Millisecond
	whileProbingMax = 2 * time.Second
	// proofFor is how long an accepted request proves that the credentials and
	// the permission are good, and that Graph serves the tenant; and how long the
	// answer to the list of devices holds.
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
	Refused          Cause = "refused"
	GraphUnavailable Cause = "graph_unavailable"
	Paused           Cause = "paused"
	Fuse             Cause = "fuse"
)

// Causes lists every Cause, in the order in which people read them.
func Causes() []Cause {
	return []Cause{Credentials, Permission, Refused, GraphUnavailable, Paused, Fuse}
}

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
	// failed are the messages that failed last under this hold, the newest last.
	failed []uint64

	// outage counts, per message, the calls in a row that found Graph
	// unreachable or failing; any real answer clears it. It holds no more
	// messages than make a row.
	outage map[uint64]int
	// denied are the messages refused by 401 or 403 since the last acceptance,
	// and refused those refused by another 4xx since Graph was last known to serve
	// the tenant; no more of each than make a row.
	denied, refused map[uint64]struct{}
	// servedAt is when Graph last served the tenant: accepted something, or listed
	// its devices. Zero: not known, or it has refused to since. unreadableAt is
	// when it last said that the application may not list them.
	servedAt, unreadableAt time.Time
	// unheard counts the lists in a row that have told nothing.
	unheard int
	// acceptedAt and acceptedBy tell when Graph last accepted something under
	// the newest token that it has accepted, and which token that is.
	acceptedAt time.Time
	acceptedBy int
}

// New makes a Hold that holds nothing.
func New() *Hold {
	return &Hold{outage: map[uint64]int{}, denied: map[uint64]struct{}{}, refused: map[uint64]struct{}{}}
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
		return Pass{}, h.back(sequence)
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
	// Accepted means that Graph took a request, under the token of Signal.Token.
	Accepted Kind = iota + 1
	// Found means that a look at a device has shown that Graph had taken a request.
	Found
	// Answered is a real answer, which says nothing of the token.
	Answered
	// Failing means that Graph failed, or could not be reached.
	Failing
	// Unauthorized means that the token was rejected, and no other one helps.
	Unauthorized
	// Forbidden means that the token was good, and the request not allowed.
	Forbidden
	// LookForbidden is Forbidden, said of a look. That Graph answers a look is no sign
	// that calls get through.
	LookForbidden
	// Turned means that a call was turned down with another 4xx than 401, 403 and 429.
	// Signal.Serves tells whether that is the request's own affair.
	Turned
	// LookTurned is Turned, said of a look.
	LookTurned
	// Listed means that the list of the tenant's devices was asked for, and Signal.Serves is
	// what it tells.
	Listed
	// NoToken means that the token endpoint refuses.
	NoToken
	// TokenAway means that the token endpoint gives no usable answer.
	TokenAway
)

// Serves is what is known of whether Graph serves a tenant at all: one without a
// licence, or under a wrong address, is refused everything.
type Serves int

const (
	// NotKnown means that the list of its devices has to be asked for, or has told nothing.
	NotKnown Serves = iota
	// Served means that a refusal is the request's own.
	Served
	// Unserved means that a refusal is everybody's.
	Unserved
	// Unreadable means that the application may not list devices, so that nobody can tell; a
	// refusal is taken for the request's own.
	Unreadable
)

// Signal is what a message has found out.
type Signal struct {
	Kind Kind
	// Token is the generation of the token that was used; 0 where an acceptance
	// under any token counts.
	Token  int
	Detail string
	// Serves belongs to Turned, LookTurned and Listed.
	Serves Serves
	// Wait is the least time until the next probe; 0 where the service named none.
	Wait time.Duration
}

// Standing is what a signal means.
type Standing struct {
	// Everybody: what failed concerns every request, so that the tenant is held.
	// Back is when the message that failed should come again.
	Everybody bool
	Back      time.Time
	// Row counts how often in a row this message found Graph failing, or, of a
	// refusal that nobody can judge yet, how many lists in a row have told nothing.
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
		clear(h.denied)
		h.served(now)
		if s.Kind == Accepted && s.Token >= h.acceptedBy { // a late success takes nothing from a newer token
			h.acceptedAt, h.acceptedBy = now, s.Token
		}
		st.Ended = h.release()
	case Answered, Forbidden:
		h.answered(&st, s.Kind != Answered)
		if s.Kind == Forbidden && !h.ownFault(sequence, s.Token, now) {
			h.trip(&st, sequence, Permission, s, now)
		}
	case Turned, LookTurned:
		switch {
		case s.Serves == Unserved:
			h.trip(&st, sequence, Refused, s, now)
		case s.Serves == NotKnown:
			st.Row = h.unheard
			if h.cause != "" {
				h.trip(&st, sequence, h.cause, Signal{Detail: h.detail}, now)
			}
		case s.Kind == Turned:
			h.answered(&st, true)
		}
	case Listed:
		h.listed(&st, sequence, s, now)
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
	case NoToken, TokenAway:
		h.trip(&st, sequence, Credentials, s, now)
	}
	return st
}

// answered notes a real answer to a call; good tells that its token was. Call with
// mu held.
func (h *Hold) answered(st *Standing, good bool) {
	clear(h.outage)
	if h.cause == GraphUnavailable || good && h.cause == Credentials {
		st.Ended = h.release()
	}
}

// served notes that Graph has just served the tenant. Call with mu held.
func (h *Hold) served(now time.Time) {
	clear(h.refused)
	h.servedAt, h.unheard = now, 0
}

// listed notes what the list of devices tells. That Graph answers a reading is no
// sign that calls get through, so it ends no hold but the one that is of its own
// making. Call with mu held.
func (h *Hold) listed(st *Standing, sequence uint64, s Signal, now time.Time) {
	switch s.Serves {
	case Served:
		h.served(now)
		h.unreadableAt = time.Time{}
	case Unreadable:
		h.unreadableAt, h.unheard = now, 0
	case Unserved:
		h.servedAt, h.unreadableAt, h.unheard = time.Time{}, time.Time{}, 0
		h.trip(st, sequence, Refused, s, now)
		return
	default:
		h.unheard++
		if h.probing == sequence && h.cause != "" {
			h.trip(st, sequence, h.cause, Signal{Detail: h.detail, Wait: s.Wait}, now)
		}
		return
	}
	if h.cause == Refused {
		st.Ended = h.release()
	}
}

// Serves tells what is known of whether Graph serves the tenant, when a message
// was turned down with another 4xx than 401, 403 and 429. It counts the message:
// after a row of them what was known has to be asked anew. So it has after the
// refusal of a probe, since during a hold nothing is certain.
func (h *Hold) Serves(sequence uint64, now time.Time) Serves {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.refused) < refusalRow {
		h.refused[sequence] = struct{}{}
	}
	fresh := func(at time.Time) bool { return !at.IsZero() && now.Sub(at) <= proofFor }
	switch probe := h.cause != "" && h.probing == sequence; {
	case h.cause == Refused && !probe:
		return Unserved
	case probe:
		return NotKnown
	case fresh(h.unreadableAt):
		return Unreadable
	case fresh(h.servedAt) && len(h.refused) < refusalRow:
		return Served
	}
	return NotKnown
}

// ServedAt is when Graph last served the tenant; zero: that is not known, or it
// has refused everything since.
func (h *Hold) ServedAt() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.servedAt
}

// trip begins a hold, or, after a failed probe, makes it wait longer. Call with mu
// held.
func (h *Hold) trip(st *Standing, sequence uint64, cause Cause, s Signal, now time.Time) {
	most := probeMax
	if cause == GraphUnavailable || s.Kind == TokenAway {
		most = outageProbeMax
	}
	switch {
	case h.cause == "":
		h.since, h.step = now, probeMin
	case h.probing == sequence:
		h.probing, h.step = 0, min(2*h.step, most)
	default: // it was under way when the hold began
		h.fails(sequence)
		st.Everybody, st.Back = true, h.back(sequence)
		return
	}
	h.fails(sequence)
	st.Tripped, st.Before = true, h.cause
	h.cause, h.detail = cause, s.Detail
	h.probeAt = now.Add(max(h.step, s.Wait))
	st.Everybody, st.Back = true, h.back(sequence)
}

// fails notes that a message has failed. Call with mu held.
func (h *Hold) fails(sequence uint64) {
	h.failed = slices.DeleteFunc(h.failed, func(other uint64) bool { return other == sequence })
	if len(h.failed) == failedMost {
		h.failed = slices.Delete(h.failed, 0, 1)
	}
	h.failed = append(h.failed, sequence)
}

// back is when a message should come again. Where some wait that are none of
// those that failed last, the next probe is one of them; else it is the one whose
// failure is longest ago. So a request that is in order is soon tried among a few
// that fail for ever. Call with mu held.
func (h *Hold) back(sequence uint64) time.Time {
	if i := slices.Index(h.failed, sequence); i >= 0 {
		return h.probeAt.Add(jitter + time.Duration(i+1)*turn)
	}
	return h.probeAt.Add(rand.N(jitter))
}

// ownFault reports whether a refusal by 401 or 403 is the request's own fault:
// Graph accepted something not long ago. token is the one that was used, 0
// where an acceptance under any token counts. Call with mu held.
func (h *Hold) ownFault(sequence uint64, token int, now time.Time) bool {
	if len(h.denied) < refusalRow {
		h.denied[sequence] = struct{}{}
	}
	if h.acceptedAt.IsZero() || now.Sub(h.acceptedAt) > proofFor || len(h.denied) >= refusalRow {
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
	if h.cause != "" || !slices.Contains([]Cause{Credentials, Permission, Refused, GraphUnavailable}, cause) {
		return false
	}
	h.cause, h.detail, h.since, h.step, h.probeAt = cause, detail, since, probeMin, now
	return true
}

// RestoreServed takes over when Graph last served the tenant, as another replica
// has seen it.
func (h *Hold) RestoreServed(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.After(h.servedAt) {
		h.servedAt = at
	}
}

// Reset ends whatever holds the tenant, and forgets whether it is served: another
// replica works on it now, and knows better.
func (h *Hold) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.outage)
	clear(h.refused)
	h.servedAt, h.unreadableAt, h.unheard = time.Time{}, time.Time{}, 0
	h.release()
}

func (h *Hold) release() Cause {
	ended := h.cause
	h.cause, h.detail, h.since, h.probeAt, h.probing, h.failed = "", "", time.Time{}, time.Time{}, 0, nil
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
