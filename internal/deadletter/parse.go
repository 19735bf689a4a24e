package deadletter

import (
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// Read is what a letter says. Nothing in it is to be trusted: whoever may publish
// to the subject can write anything.
type Read struct {
	Letter
	// Stream and Sequence are where the request lay; 0: the letter does not say.
	Stream   string
	Sequence uint64
	// Truncated tells that the letter holds only the beginning of its request.
	Truncated bool
}

// Parse reads the headers of a letter. What is no number counts as 0.
func Parse(h nats.Header) Read {
	number := func(name string) int {
		n, err := strconv.Atoi(h.Get(name))
		if err != nil {
			return 0 // Atoi itself gives the greatest number for one that is too large
		}
		return n
	}
	sequence, err := strconv.ParseUint(h.Get(HeaderSequence), 10, 64)
	if err != nil {
		sequence = 0
	}
	return Read{
		Letter: Letter{
			Reason:          h.Get(HeaderReason),
			Detail:          h.Get(HeaderDetail),
			Attempts:        number(HeaderAttempts),
			Status:          number(HeaderStatus),
			RequestID:       h.Get(HeaderRequestID),
			GraphRequestID:  h.Get(HeaderGraphRequestID),
			ClientRequestID: h.Get(HeaderClientRequestID),
			Redrives:        max(0, number(HeaderRedrives)),
		},
		Stream:    h.Get(HeaderStream),
		Sequence:  sequence,
		Truncated: h.Get(HeaderTruncated) != "",
	}
}

// Carried are the headers of a request that its letter bears: those that are
// neither of an earlier death, or made up, nor such as the server acts on.
func Carried(h nats.Header) nats.Header {
	out := nats.Header{}
	for name, values := range h {
		if !hasPrefixFold(name, headerPrefix) && !hasPrefixFold(name, "Nats-") {
			out[name] = values
		}
	}
	return out
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
