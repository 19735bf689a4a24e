// Package outcome says what became of a reset after Graph accepted it: the
// outcomes, the document that tells one, the plan of looks at the device, and what
// a look means. Its decisions are pure; [Store] keeps the documents.
package outcome

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"
)

// Outcome is what the device did, as far as Intune tells.
type Outcome string

const (
	// Pending means that the device has not taken the order yet, or nothing is known of it.
	Pending Outcome = "pending"
	// Active means that the device is at it.
	Active Outcome = "active"

	// Done means that the device did it. It is Intune's word.
	Done Outcome = "done"
	// Failed means that the device tried and could not.
	Failed Outcome = "failed"
	// NotSupported means that this kind of device cannot.
	NotSupported Outcome = "not_supported"
	// Canceled means that somebody has withdrawn the order in Intune.
	Canceled Outcome = "canceled"
	// Superseded means that the order is gone, and a later reset is there.
	Superseded Outcome = "superseded"
	// Removed means that the device is no longer in Intune.
	Removed Outcome = "removed"

	// TimedOut means that the device was looked at, and is not at an end yet.
	TimedOut Outcome = "timed_out"
	// Undetermined means that nobody could look for the last day.
	Undetermined Outcome = "undetermined"
)

// All are the outcomes, those that are not final first.
func All() []Outcome {
	return []Outcome{Pending, Active, Done, Failed, NotSupported, Canceled, Superseded, Removed, TimedOut, Undetermined}
}

// Final reports whether an outcome is an end.
func (o Outcome) Final() bool { return o.known() && o != Pending && o != Active }

// ByTime reports whether an outcome is an end only because the time is over.
func (o Outcome) ByTime() bool { return o == TimedOut || o == Undetermined }

func (o Outcome) known() bool {
	for _, k := range All() {
		if o == k {
			return true
		}
	}
	return false
}

// CanBecome reports whether an outcome may follow another. A final one changes no
// more, but that the device's word may replace an end that came with time.
func (o Outcome) CanBecome(next Outcome) bool {
	if o.Final() {
		return o.ByTime() && next.Final() && !next.ByTime()
	}
	return next.known()
}

// Document is the outcome of one request: the value of a key in the bucket, and the
// event. Its JSON form is a contract. All instants are by the clock of the NATS
// server.
type Document struct {
	ID              string  `json:"id"`
	Tenant          string  `json:"tenant"`
	ManagedDeviceID string  `json:"managedDeviceId"`
	Outcome         Outcome `json:"outcome"`
	Final           bool    `json:"final"`
	// AcceptedAt is when Graph was known to have accepted the reset.
	AcceptedAt time.Time `json:"acceptedAt"`
	// StartedAt is when the reset began, by Graph's clock and as Intune shows it.
	// It is what tells this reset from others. Absent until it was seen.
	StartedAt time.Time `json:"startedAt,omitzero"`
	// DecidedAt is when a final outcome was found; absent before.
	DecidedAt time.Time `json:"decidedAt,omitzero"`
	// DurationSeconds is from AcceptedAt to DecidedAt; absent before that.
	DurationSeconds float64 `json:"durationSeconds,omitzero"`
	// ErrorCode is Intune's error code, signed, and ErrorCodeHex the same as it is
	// looked up, such as 0x80070490. Absent where it is 0.
	ErrorCode    int32  `json:"errorCode,omitzero"`
	ErrorCodeHex string `json:"errorCodeHex,omitzero"`
	// Reason is what else was done to the device; see the constants.
	Reason Reason `json:"reason,omitzero"`
	// Platform is the kind of device, see [PlatformOf]; absent where it is not known.
	Platform Platform `json:"platform,omitzero"`
	// OwnerType is company or personal; absent where it is not known.
	OwnerType string `json:"ownerType,omitzero"`
	// LastSyncAt is when the device last checked in, by Graph's clock.
	LastSyncAt time.Time `json:"lastSyncAt,omitzero"`
	// ClientRequestID names the call that Graph accepted.
	ClientRequestID string `json:"clientRequestId"`
	// RequestedBy is the requester's own word.
	RequestedBy string `json:"requestedBy,omitzero"`
	// NextStep is what a help desk does next, and Text says it in words.
	NextStep    NextStep `json:"nextStep"`
	Text        string   `json:"text"`
	Traceparent string   `json:"traceparent,omitzero"`
}

// Reason is what else is, or was, done to a device, so that its reset is void.
type Reason string

// The first three are under way, and make Intune ignore what else waits for the device;
// the others have removed it.
const (
	WipePending   Reason = "wipe_pending"
	RetirePending Reason = "retire_pending"
	DeletePending Reason = "delete_pending"
	Wiped         Reason = "wiped"
	Retired       Reason = "retired"
	Deleted       Reason = "deleted"
)

// over is the reason once what was under way has removed the device.
func (r Reason) over() Reason {
	switch r {
	case WipePending:
		return Wiped
	case RetirePending:
		return Retired
	case DeletePending:
		return Deleted
	}
	return r
}

// decode reads a document. A value is one only where it says what it is, under its
// own key. Unknown fields are those of a later version.
func decode(key string, value []byte, keyOf func(tenant, id string) string) (Document, bool) {
	var d Document
	if json.Unmarshal(value, &d) != nil || !d.Outcome.known() || d.Final != d.Outcome.Final() || d.AcceptedAt.IsZero() {
		return Document{}, false
	}
	return d, d.ID != "" && keyOf(d.Tenant, d.ID) == key
}

// SortKey orders documents by age, the oldest first.
func (d Document) SortKey(o Document) int {
	return cmp.Or(d.AcceptedAt.Compare(o.AcceptedAt), cmp.Compare(d.Tenant, o.Tenant), cmp.Compare(d.ID, o.ID))
}

// hex is an error code as it is looked up.
func hex(code int32) string {
	if code == 0 {
		return ""
	}
	return fmt.Sprintf("0x%08X", uint32(code))
}

// Result is what a look came to.
type Result string

// The results. A doubt is a look that shows something of which it is not clear what it
// is; throttled, not permitted and failed are looks that failed for everybody's sake.
const (
	ResultPending      Result = "pending"
	ResultFinal        Result = "final"
	ResultNotFound     Result = "not_found"
	ResultDoubt        Result = "doubt"
	ResultThrottled    Result = "throttled"
	ResultNotPermitted Result = "not_permitted"
	ResultFailed       Result = "failed"
)

// Results are all of them.
func Results() []Result {
	return []Result{ResultPending, ResultFinal, ResultNotFound, ResultDoubt, ResultThrottled, ResultNotPermitted, ResultFailed}
}

// Finals are the outcomes that are an end.
func Finals() []Outcome { return All()[2:] }
