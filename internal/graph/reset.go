package graph

import "time"

// Sight is what a list of actions tells of a reset. The zero value is the one
// on which nothing can be built.
type Sight int

const (
	// SightDoubt means that a reset may or may not have begun.
	SightDoubt Sight = iota
	// SightNone means that none has begun.
	SightNone
	// SightReset means that one has begun.
	SightReset
)

// Finding is the answer of [ResetSince].
type Finding struct {
	Sight Sight
	// Reset is the earliest reset found; zero where there is none.
	Reset Action
	// Doubt says why nothing is certain; empty without a doubt.
	Doubt string
}

// ResetSince reports whether a reset began at or after an instant of Graph's
// clock. A caller who is not sure of that instant, or of the clocks, gives an
// earlier one. list is nil where Graph's answer had none or null.
//
// An entry that began before the instant is of no account, whatever is odd
// about it; where it does not say when it began, its last update tells. A reset
// that is certain counts more than any doubt.
func ResetSince(list []Action, since time.Time) Finding {
	found, doubt := Action{}, doubtOfList(list)
	for _, a := range list {
		switch odd := oddity(a); {
		case before(a, since) || a.What == ActionOther:
		case odd != "":
			doubt = odd
		default:
			found = earlier(found, a)
		}
	}
	switch {
	case !found.Started.IsZero():
		return Finding{Sight: SightReset, Reset: found}
	case doubt != "":
		return Finding{Doubt: doubt}
	}
	return Finding{Sight: SightNone}
}

// Own is whose reset a look shows. The zero value decides nothing.
type Own int

const (
	// OwnPending means that ours is not there (yet), or that this is in doubt.
	OwnPending Own = iota
	// OwnFound means that ours is there.
	OwnFound
	// OwnSuperseded means that ours is not there, but a later reset is.
	OwnSuperseded
)

// Window says which reset is a request's, by Graph's clock.
type Window struct {
	// From and To are the instants within which it began, both included. A
	// caller who is not sure of them, or of the clocks, makes them wider.
	From, To time.Time
	// Start is that of the request's reset as it was seen before. It then is
	// the key, and From and To do not matter. Zero: not seen yet.
	Start time.Time
}

// OwnFinding is the answer of [OwnReset].
type OwnFinding struct {
	Own Own
	// Reset is the request's; zero where it was not found.
	Reset Action
	// Doubt says why nothing is certain; empty without a doubt.
	Doubt string
}

// OwnReset finds a request's reset in a device's list: the earliest that began
// in its window or, once its start is known, the one with that start, which
// Intune keeps while it updates the entry. list is nil where Graph's answer had
// none or null.
//
// As for [ResetSince], an entry that certainly began earlier is of no account,
// and a reset that is certain counts more than any doubt. But a later reset
// takes the place of ours only where nothing in the list may be ours.
func OwnReset(list []Action, w Window) OwnFinding {
	if !w.Start.IsZero() {
		w.From, w.To = w.Start, w.Start
	}
	found, later := Action{}, false
	doubt := doubtOfList(list)
	ours := doubt != "" // the doubt is of what may be ours
	for _, a := range list {
		odd := oddity(a)
		switch {
		case before(a, w.From) || a.What == ActionOther:
		case odd != "":
			ours = ours || a.Started.IsZero() || w.holds(a.Started)
			doubt = odd
		case w.holds(a.Started):
			found = earlier(found, a)
		default:
			later = later || a.Started.After(w.To)
		}
	}
	switch {
	case !found.Started.IsZero():
		return OwnFinding{Own: OwnFound, Reset: found}
	case later && !ours:
		return OwnFinding{Own: OwnSuperseded}
	}
	return OwnFinding{Doubt: doubt}
}

// holds reports whether a reset that began then is the request's.
func (w Window) holds(started time.Time) bool {
	return !started.Before(w.From) && !started.After(w.To)
}

// doubtOfList says what is wrong with a list as such.
func doubtOfList(list []Action) string {
	if list == nil {
		return "the device's list of actions is missing"
	}
	return ""
}

// oddity says why an entry is no certain reset, although it may be one; empty
// where it is one, with a start. Not for other actions.
func oddity(a Action) string {
	switch {
	case a.What == ActionUnclear && a.Name != "":
		return "an action has the type of a reset, but not its name"
	case a.What == ActionUnclear:
		return "an action has no name that tells what it is"
	case a.Started.IsZero():
		return "a reset has no start time"
	}
	return ""
}

// before reports whether an entry certainly began before an instant. Where it
// does not say when, it did so before its last update, which is cut to seconds.
func before(a Action, t time.Time) bool {
	if a.Started.IsZero() {
		return !a.Updated.IsZero() && a.Updated.Before(t.Truncate(time.Second))
	}
	return a.Started.Before(t)
}

// earlier is the one of two resets that began first; the first may be none.
func earlier(found, a Action) Action {
	if found.Started.IsZero() || a.Started.Before(found.Started) {
		return a
	}
	return found
}
