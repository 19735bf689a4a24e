package hold

import "time"

const (
	// outageRow is how many different requests in a row must find Graph
	// unreachable or failing before that counts as an outage.
	outageRow = 5
	// refusalRow is how many different requests in a row must be
	// refused before the fault may concern every request, although Graph
	// recently accepted something or listed the tenant's devices.
	refusalRow = 20
	// proofFor is how long an accepted request proves that the credentials
	// and the permission are good and that Graph serves the tenant;
	// and how long the answer to the list of devices stays valid.
	proofFor = 10 * time.Minute
)

// evidence is what is known of whether a fault concerns one request or all.
type evidence struct {
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
	// unheard counts the lists in a row that gave no answer.
	unheard int
	// acceptedAt and acceptedBy tell when Graph last accepted something under
	// the newest token that it has accepted, and which token that is.
	acceptedAt time.Time
	acceptedBy int
}

func newEvidence() evidence {
	return evidence{outage: map[uint64]int{}, denied: map[uint64]struct{}{}, refused: map[uint64]struct{}{}}
}

// reset forgets whether the tenant is served. What tokens were accepted stays true.
func (e *evidence) reset() {
	clear(e.outage)
	clear(e.refused)
	e.servedAt, e.unreadableAt, e.unheard = time.Time{}, time.Time{}, 0
}

// accepted notes that Graph has taken a request.
func (e *evidence) accepted(s Signal, now time.Time) {
	clear(e.outage)
	clear(e.denied)
	e.served(now)
	if s.Kind == Accepted && s.Token >= e.acceptedBy { // a late success must not replace a newer token
		e.acceptedAt, e.acceptedBy = now, s.Token
	}
}

// served notes that Graph has just served the tenant.
func (e *evidence) served(now time.Time) {
	clear(e.refused)
	e.servedAt, e.unheard = now, 0
}

// failing notes that a message found Graph failing, and
// tells how often in a row, and whether that makes an outage.
func (e *evidence) failing(sequence uint64) (row int, outage bool) {
	row = e.outage[sequence] + 1
	if row > 1 || len(e.outage) < outageRow {
		e.outage[sequence] = row
	}
	return row, len(e.outage) >= outageRow
}

// ownFault reports whether a refusal by 401 or 403 is the request's own fault:
// Graph accepted something not long ago. token is the one that was used, 0
// where an acceptance under any token counts.
func (e *evidence) ownFault(sequence uint64, token int, now time.Time) bool {
	if len(e.denied) < refusalRow {
		e.denied[sequence] = struct{}{}
	}
	if e.acceptedAt.IsZero() || now.Sub(e.acceptedAt) > proofFor || len(e.denied) >= refusalRow {
		return false
	}
	// What an application may do is written into its token when it is issued:
	// an acceptance under an older one proves nothing about this one.
	return token == 0 || token == e.acceptedBy
}

// listed notes the result of the list of devices.
func (e *evidence) listed(s Serves, now time.Time) {
	switch s {
	case Served:
		e.served(now)
		e.unreadableAt = time.Time{}
	case Unreadable:
		e.unreadableAt, e.unheard = now, 0
	case Unserved:
		e.servedAt, e.unreadableAt, e.unheard = time.Time{}, time.Time{}, 0
	case NotKnown:
		e.unheard++
	}
}

// serves notes a refusal by another 4xx, and tells what is known of whether Graph
// serves the tenant while nothing is held.
func (e *evidence) serves(sequence uint64, now time.Time) Serves {
	if len(e.refused) < refusalRow {
		e.refused[sequence] = struct{}{}
	}
	fresh := func(at time.Time) bool { return !at.IsZero() && now.Sub(at) <= proofFor }
	switch {
	case fresh(e.unreadableAt):
		return Unreadable
	case fresh(e.servedAt) && len(e.refused) < refusalRow:
		return Served
	}
	return NotKnown
}
