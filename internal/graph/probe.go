package graph

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Probe is what Graph said to a call without an effect: [Client.List].
type Probe struct {
	// Ahead is how far Graph's clock is ahead of ours, to the second; Clock
	// reports whether Graph said what time it is.
	Ahead time.Duration
	Clock bool
	// Err is Graph's refusal, without its words; nil where it serves the tenant and
	// lets devices be read.
	Err *Error
	// Said is Graph's code and message of a refusal, to be compared with known
	// ones. It is not to be shown: nobody knows what else it may hold.
	Said string
}

// Probe asks for the list of devices. It fails where Graph gave no answer, or one
// that is not Graph's.
func (c *Client) Probe(ctx context.Context, call Call) (Probe, error) {
	r, err := c.list(ctx, call)
	if err == nil {
		return Probe{Ahead: r.ahead, Clock: r.ahead != 0}, nil
	}
	e := (*Error)(nil)
	if !errors.As(err, &e) || e.Status < http.StatusBadRequest {
		return Probe{}, err
	}
	p := Probe{Err: e, Said: e.Code + ": " + e.Message}
	e.Message = ""
	if e.RetryAfter == 0 {
		// Only an answer that was expected comes with the time.
		if r, err := c.do(ctx, http.MethodGet, c.root+listOfOne, call, e.Status, maxErrorBody); err == nil {
			p.Ahead, p.Clock = r.ahead, r.ahead != 0
		}
	}
	return p, nil
}
