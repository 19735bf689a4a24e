package verdict

import (
	"passcode-worker/internal/graph"
	"passcode-worker/internal/hold"
)

// OfList decides what the answer to the list of a tenant's devices says: kind is 0
// for 200, and mayRead tells that the token names a right to read devices.
func OfList(kind graph.Kind, mayRead bool) hold.Serves {
	switch kind {
	case 0:
		return hold.Served
	case graph.Refused:
		return hold.Unserved
	case graph.Forbidden:
		if mayRead {
			return hold.Unserved // it is more than this reading that is not allowed
		}
		return hold.Unreadable
	case graph.Throttled, graph.Unavailable, graph.NotSent, graph.Unknown, graph.Unauthorized, graph.TokenRefused, graph.TokenUnavailable:
	}
	return hold.NotKnown
}
