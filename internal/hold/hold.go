// Package hold is a circuit breaker for one tenant. Faults that concern every
// request trip it; then one request at a time is let through as a probe, and the
// first success lets the rest go. It is pure in time.
package hold

import (
	"slices"
	"sync"
	"time"
)

// Cause is why a tenant's queue stands still.
type Cause string

// The causes, a closed list. Paused is the only one that an operator chose, and
// the only one that leaves the worker ready. A [Hold] does not handle Paused
// and Fuse: no probe ends them.
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

// Hold is the breaker of one tenant.
type Hold struct {
	mu      sync.Mutex
	breaker breaker
	known   evidence
}

// New makes a Hold that holds nothing.
func New() *Hold { return &Hold{known: newEvidence()} }

// Pass lets a request through.
type Pass struct {
	// Probe means that the tenant is held, and that this request tests whether it still has to be.
	Probe bool
	// Cause is what holds the tenant, if it is a probe.
	Cause Cause
}

// Admit lets a message through, or says when it should come again. [Hold.Done] has
// to be called for each message that was let through.
func (h *Hold) Admit(sequence uint64, now time.Time) (Pass, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.breaker.admit(sequence, now)
}

// Allows reports whether a message that was let through may still make its call:
// a hold may have begun since. If not, until is when it should come again.
func (h *Hold) Allows(sequence uint64) (ok bool, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := &h.breaker
	return b.cause == "" || b.probing == sequence, b.probeAt
}

// Done says that a message that was let through has finished. If it
// was a probe that decided nothing, the next probe may start at once.
func (h *Hold) Done(sequence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.breaker.probing == sequence {
		h.breaker.probing = 0
	}
}

// Kind is the result of a call, a look or a request for a token.
type Kind int

const (
	// Accepted means that Graph took a request, under the token of Signal.Token.
	Accepted Kind = iota + 1
	// Found means that a look at a device has shown that Graph had taken a request.
	Found
	// Answered is a real answer, which says nothing about the token.
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
	// Turned means that Graph refused a call with a 4xx other than 401,
	// 403 and 429. Signal.Serves tells whether the fault is the request's own.
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
	b, known := &h.breaker, &h.known
	if answer, good := s.answers(); answer {
		clear(known.outage)
		if b.cause == GraphUnavailable || good && b.cause == Credentials {
			st.Ended = b.release()
		}
	}
	switch s.Kind {
	case Accepted, Found:
		known.accepted(s, now)
		st.Ended = b.release()
	case Answered:
	case Forbidden, LookForbidden:
		if !known.ownFault(sequence, s.Token, now) {
			b.trip(&st, sequence, Permission, s, now)
		}
	case Turned, LookTurned:
		switch {
		case s.Serves == Unserved:
			b.trip(&st, sequence, Refused, s, now)
		case s.Serves == NotKnown:
			st.Row = known.unheard
			if b.cause != "" {
				b.trip(&st, sequence, b.cause, Signal{Detail: b.detail}, now)
			}
		}
	case Listed:
		h.listed(&st, sequence, s, now)
	case Failing:
		var outage bool
		if st.Row, outage = known.failing(sequence); outage || b.probes(sequence) {
			b.trip(&st, sequence, GraphUnavailable, s, now)
		}
	case Unauthorized:
		if !known.ownFault(sequence, 0, now) {
			b.trip(&st, sequence, Credentials, s, now)
		}
	case NoToken, TokenAway:
		b.trip(&st, sequence, Credentials, s, now)
	}
	return st
}

// answers reports whether a signal is a real answer to a call, and whether that shows
// that the token was good. That Graph answers a look is no sign that calls get through.
func (s Signal) answers() (answer, good bool) {
	good = s.Kind == Forbidden || s.Kind == Turned && (s.Serves == Served || s.Serves == Unreadable)
	return good || s.Kind == Answered, good
}

// listed takes what the list of devices tells. That Graph answers a reading is no
// sign that calls get through, so it ends no hold but the one that is of its own
// making. Call with mu held.
func (h *Hold) listed(st *Standing, sequence uint64, s Signal, now time.Time) {
	b := &h.breaker
	h.known.listed(s.Serves, now)
	switch s.Serves {
	case Unserved:
		b.trip(st, sequence, Refused, s, now)
	case Served, Unreadable:
		if b.cause == Refused {
			st.Ended = b.release()
		}
	default:
		if b.probes(sequence) {
			b.trip(st, sequence, b.cause, Signal{Detail: b.detail, Wait: s.Wait}, now)
		}
	}
}

// Serves tells what is known of whether Graph serves the tenant, when a message
// was turned down with another 4xx than 401, 403 and 429. It counts the message:
// after a row of them what was known has to be asked anew. So it has during any
// hold, also for a call that was under way when it began: what was known
// before a hold says nothing of what comes after it.
func (h *Hold) Serves(sequence uint64, now time.Time) Serves {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.known.serves(sequence, now)
	switch b := &h.breaker; {
	case b.cause == "":
		return known
	case b.cause == Refused && !b.probes(sequence):
		return Unserved
	}
	return NotKnown
}

// ServedAt is when Graph last served the tenant; zero: that is not known, or it
// has refused everything since.
func (h *Hold) ServedAt() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known.servedAt
}

// Restore goes on with a hold that another replica began, or this one before a
// restart; the first probe goes at once. It is false where there is a hold
// already, or the cause is none that probes end.
func (h *Hold) Restore(cause Cause, detail string, since, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.breaker.cause != "" || !slices.Contains([]Cause{Credentials, Permission, Refused, GraphUnavailable}, cause) {
		return false
	}
	h.breaker = breaker{cause: cause, detail: detail, since: since, step: probeMin, probeAt: now}
	return true
}

// RestoreServed takes over when Graph last served the tenant, as another replica
// has seen it.
func (h *Hold) RestoreServed(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.After(h.known.servedAt) {
		h.known.servedAt = at
	}
}

// Reset ends whatever holds the tenant, and forgets whether it is served: another
// replica works on it now, and knows better.
func (h *Hold) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.breaker.release()
	h.known.reset()
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
	b := h.breaker
	return State{b.cause, b.detail, b.since, b.probeAt}
}
