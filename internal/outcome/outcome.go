// Package outcome says what became of a reset after Graph accepted it: the
// outcomes, the document that holds one, the plan of looks at the device, and what
// a look means. Its decisions are pure; [Store] keeps the documents.
package outcome

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"
)

// Outcome is what the device did, as far as Intune reports it.
type Outcome string

const (
	// Pending means that the device has not taken the order yet, or that nothing is known.
	Pending Outcome = "pending"
	// Active means that the device is carrying out the reset.
	Active Outcome = "active"

	// Done means that Intune says that the device has carried out the reset.
	Done Outcome = "done"
	// Failed means that the device tried and could not.
	Failed Outcome = "failed"
	// NotSupported means that this kind of device cannot do it.
	NotSupported Outcome = "not_supported"
	// Canceled means that somebody has canceled the order in Intune.
	Canceled Outcome = "canceled"
	// Superseded means that the order is gone, and a later reset has taken its place.
	Superseded Outcome = "superseded"
	// Removed means that the device is no longer in Intune.
	Removed Outcome = "removed"

	// TimedOut means that the time is over, and the last look, within a day, showed no end.
	TimedOut Outcome = "timed_out"
	// Undetermined means that the time is over, and no look succeeded in the last day.
	Undetermined Outcome = "undetermined"
)

// All lists the outcomes, those that are not final first.
func All() []Outcome {
	return []Outcome{Pending, Active, Done, Failed, NotSupported, Canceled, Superseded, Removed, TimedOut, Undetermined}
}

// Final reports whether following ends with this outcome.
func (o Outcome) Final() bool { return o.known() && o != Pending && o != Active }

// ByTime reports whether an outcome is final only because the time is over.
func (o Outcome) ByTime() bool { return o == TimedOut || o == Undetermined }

func (o Outcome) known() bool {
	for _, k := range All() {
		if o == k {
			return true
		}
	}
	return false
}

// CanBecome reports whether next may replace an outcome. A final one stays, except
// that what the device did may replace one that came only because the time was over.
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
	// It distinguishes this reset from others. Absent until the reset was seen.
	StartedAt time.Time `json:"startedAt,omitzero"`
	// DecidedAt is when a final outcome was found; absent before.
	DecidedAt time.Time `json:"decidedAt,omitzero"`
	// DurationSeconds is from AcceptedAt to DecidedAt; absent before that.
	DurationSeconds float64 `json:"durationSeconds,omitzero"`
	// ErrorCode is Intune's error code, signed, and ErrorCodeHex the same in hex, in
	// which it is documented, such as 0x80070490. Both are absent if it is 0.
	ErrorCode    int32  `json:"errorCode,omitzero"`
	ErrorCodeHex string `json:"errorCodeHex,omitzero"`
	// Reason is what else was done to the device; see the constants.
	Reason Reason `json:"reason,omitzero"`
	// Platform is the kind of device, see [PlatformOf]; absent if it is not known.
	Platform Platform `json:"platform,omitzero"`
	// OwnerType is company or personal; absent if it is not known.
	OwnerType string `json:"ownerType,omitzero"`
	// LastSyncAt is when the device last checked in, by Graph's clock.
	LastSyncAt time.Time `json:"lastSyncAt,omitzero"`
	// ClientRequestID names the call that Graph accepted.
	ClientRequestID string `json:"clientRequestId"`
	// RequestedBy is copied from the request, unchecked.
	RequestedBy string `json:"requestedBy,omitzero"`
	// NextStep is what the help desk should do next, and Text says it in words.
	NextStep    NextStep `json:"nextStep"`
	Text        string   `json:"text"`
	Traceparent string   `json:"traceparent,omitzero"`
}

// Reason is what else is, or was, done to a device, so that its reset no longer counts.
type Reason string

// The first three are under way, and make Intune ignore everything else that waits for
// the device; the others have removed it.
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

// decode reads a document. A value is one only if its tenant and id make up its key.
// Unknown fields are ignored: a later version may have written them.
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

// hex is an error code in the form in which Microsoft documents it.
func hex(code int32) string {
	if code == 0 {
		return ""
	}
	return fmt.Sprintf("0x%08X", uint32(code))
}

// Result is the result of a look, for metrics.
type Result string

// The results. Doubt is a look at a list that is not clear; throttled, not permitted and
// failed are looks that failed for a reason that is not the device's.
const (
	ResultPending      Result = "pending"
	ResultFinal        Result = "final"
	ResultNotFound     Result = "not_found"
	ResultDoubt        Result = "doubt"
	ResultThrottled    Result = "throttled"
	ResultNotPermitted Result = "not_permitted"
	ResultFailed       Result = "failed"
)

// Results lists them all.
func Results() []Result {
	return []Result{ResultPending, ResultFinal, ResultNotFound, ResultDoubt, ResultThrottled, ResultNotPermitted, ResultFailed}
}

// Finals lists the final outcomes.
func Finals() []Outcome { return All()[2:] }
