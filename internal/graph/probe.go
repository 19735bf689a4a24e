package graph

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// noDevice is a device that Intune does not know.
const noDevice = "00000000-0000-0000-0000-000000000000"

// Probe is what Graph said to a call without an effect.
type Probe struct {
	// Status is the HTTP status: 404 where the application may read devices.
	Status int
	// Ahead is how far Graph's clock is ahead of ours, to the second; Clock
	// tells whether Graph said what time it is.
	Ahead time.Duration
	Clock bool
	// Err is Graph's refusal; nil for 200 and 404.
	Err error
	// Said is Graph's code and message of a refusal, to be compared with known
	// ones. It is not to be shown: nobody knows what else it may hold.
	Said string
}

// Probe reads a device that does not exist. It fails where Graph gave no answer.
func (c *Client) Probe(ctx context.Context, call Call) (Probe, error) {
	u := c.root + "/deviceManagement/managedDevices/" + noDevice + "?$select=id,deviceActionResults"
	r, err := c.do(ctx, http.MethodGet, u, call, http.StatusOK, maxDeviceBody)
	p := Probe{Status: r.Status, Ahead: r.ahead, Clock: r.ahead != 0}
	if err == nil {
		return p, nil
	}
	e := (*Error)(nil)
	if !errors.As(err, &e) || e.Status == 0 {
		return Probe{}, err
	}
	p.Said = e.Code + ": " + e.Message
	e.Message = "" // as for every answer that may be about a device
	p.Status = e.Status
	if e.Status != http.StatusNotFound {
		p.Err = e
	}
	if e.RetryAfter == 0 {
		// Only an answer that was expected comes with the time.
		if r, err := c.do(ctx, http.MethodGet, u, call, e.Status, maxDeviceBody); err == nil {
			p.Ahead, p.Clock = r.ahead, r.ahead != 0
		}
	}
	return p, nil
}
