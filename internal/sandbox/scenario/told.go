package scenario

import (
	"fmt"
	"slices"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
)

// Telling is what was told of what one device did.
type Telling struct {
	// Last is the document that stands.
	Last outcome.Document
	// Finals is how many documents told an end: one, where all is well.
	Finals int
}

// Add takes the next document of a request into account.
func (t *Telling) Add(d outcome.Document) {
	if t.Last = d; d.Final {
		t.Finals++
	}
}

// followed judges what was told of the device of a request.
func (j *judge) followed(r *Request, rec record.Record, name string) {
	if j.Outcomes == nil {
		return
	}
	t, found := j.Outcomes[escape(r.id(j.Stream))]
	d := t.Last
	if rec.State != record.Accepted {
		if found {
			j.Mistold = append(j.Mistold, fmt.Sprintf("%s: %s on the device, but the request is %s", name, d.Outcome, EndOf(rec)))
		}
		return
	}
	switch {
	case !found:
		j.Untold = append(j.Untold, name+": no outcome")
		return
	case t.Finals == 0:
		j.Untold = append(j.Untold, fmt.Sprintf("%s: %s", name, d.Outcome))
		return
	case t.Finals > 1:
		j.Retold = append(j.Retold, fmt.Sprintf("%s: %d ends were told, at last %s", name, t.Finals, d.Outcome))
	case !d.Final:
		j.Retold = append(j.Retold, fmt.Sprintf("%s: an end was told, and then %s", name, d.Outcome))
		return
	}
	why := ""
	switch {
	case d.ClientRequestID != rec.ClientRequestID:
		why = "of another call than the one that was accepted"
	case d.Outcome != r.Told:
		why = "but the device was told " + string(r.Told)
	default:
		why = contradicts(d, j.Devices[r.Device])
	}
	if why != "" {
		j.Mistold = append(j.Mistold, fmt.Sprintf("%s: %s, %s", name, d.Outcome, why))
	}
}

// apart is how far the clocks of the simulator and of NATS may be apart.
const apart = 500 * time.Millisecond

// contradicts says how a document differs from what the device really did; empty
// where it does not. What is an end only because the time is over is no such word.
func contradicts(d outcome.Document, s graphsim.DeviceState) string {
	own := slices.IndexFunc(s.Resets, func(r graphsim.Reset) bool { return !r.Foreign })
	switch {
	case d.Outcome.ByTime():
		return ""
	case own < 0:
		return "but the device was never reset"
	case d.Outcome == outcome.Removed && !s.Gone:
		return "but the device is there"
	case d.Outcome == outcome.Removed:
		return ""
	case d.Outcome == outcome.Superseded && len(s.Resets) < 2:
		return "but nobody else has reset the device"
	case d.Outcome == outcome.Superseded:
		return ""
	}
	r := s.Resets[own]
	switch {
	case r.State != wordOf(d.Outcome) || r.Ended.IsZero():
		return "but the device's own word is " + r.State
	case d.DecidedAt.Add(apart).Before(r.Ended):
		return "before it was so"
	case d.StartedAt.Sub(r.Ordered).Abs() > time.Microsecond: // Graph's dates have seven decimals
		return "of a reset that began at another time"
	case int(d.ErrorCode) != r.ErrorCode:
		return fmt.Sprintf("with the error code %d instead of %d", d.ErrorCode, r.ErrorCode)
	}
	return ""
}

// wordOf is Intune's word for an outcome.
func wordOf(o outcome.Outcome) string {
	if o == outcome.NotSupported {
		return "notSupported"
	}
	return string(o)
}

// Pending are the records of accepted requests whose end is not told.
func (l Ledger) Pending() []record.Record {
	var out []record.Record
	for id, r := range l.Records {
		if r.State == record.Accepted && !l.Outcomes[id].Last.Final {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b record.Record) int { return a.FinishedAt.Compare(b.FinishedAt) })
	return out
}
