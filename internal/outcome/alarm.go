package outcome

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
)

// Alarm says: look at this request's device now. It only sets the time: if one is
// lost, a look is missed, and a second one does no harm. All instants are by the clock
// of the NATS server.
type Alarm struct {
	Tenant string `json:"tenant"`
	ID     string `json:"id"`
	Device string `json:"managedDeviceId"`
	// ClientRequestID names the call that Graph accepted, which began at AttemptedAt
	// and was known to be accepted at AcceptedAt.
	ClientRequestID string    `json:"clientRequestId"`
	AttemptedAt     time.Time `json:"attemptedAt"`
	AcceptedAt      time.Time `json:"acceptedAt"`
	// Number is the look's number in the plan; a request's own first one is 0.
	Number int `json:"number"`
	// Again counts how often the alarm was put back.
	Again int `json:"again,omitzero"`
	// DueAt is when the look is to be made.
	DueAt time.Time `json:"dueAt"`
	// LookedAt is when the device was last looked at; absent before the first look.
	LookedAt time.Time `json:"lookedAt,omitzero"`
	// MissingSince is when the device was first not found; absent while it is there.
	MissingSince time.Time `json:"missingSince,omitzero"`
	// Until is the end of following that an operator has ordered; absent: the plan's.
	Until time.Time `json:"until,omitzero"`

	// Step is the queue that the alarm waits in. It is in the subject.
	Step int `json:"-"`
	// Order identifies an operator's order; empty if there is none. It is only in the
	// message id, so that the server does not take an order for a copy of the plan's alarm.
	Order string `json:"-"`
}

// Of is the alarm of an accepted request, without a number.
func Of(r record.Record) Alarm {
	return Alarm{
		Tenant: r.Tenant, ID: r.ID, Device: r.ManagedDeviceID, ClientRequestID: r.ClientRequestID,
		AttemptedAt: r.AttemptedAt.UTC(), AcceptedAt: r.FinishedAt.UTC(),
	}
}

// Key is the key of the request's record, and of its outcome.
func (a Alarm) Key() string { return record.Key(a.Tenant, request.EscapeID(a.ID)) }

// MessageID identifies the alarm, so that the server drops a copy.
func (a Alarm) MessageID() string {
	id := fmt.Sprintf("%s/%s/%d", a.Key(), a.ClientRequestID, a.Number)
	if a.Again > 0 {
		id += "/again-" + strconv.Itoa(a.Again)
	}
	if !a.Until.IsZero() { // its end differs, so it is no copy of the plan's own alarm
		id += "/until-" + strconv.FormatInt(a.Until.Unix(), 10)
	}
	if a.Order != "" {
		id += "/" + a.Order
	}
	return id
}

// Tokens are the last two tokens of the alarm's subject: step and tenant.
func (a Alarm) Tokens() string { return strconv.Itoa(a.Step) + "." + a.Tenant }

// MarshalAlarm writes an alarm.
func MarshalAlarm(a Alarm) ([]byte, error) { return json.Marshal(a) }

// ParseAlarm reads an alarm; tokens are the last two of its subject, and stored is
// when the server stored it. It fails for anything that no worker can have written.
func ParseAlarm(tokens string, value []byte, stored time.Time) (Alarm, error) {
	var a Alarm
	if len(value) > maxAlarm {
		return a, errors.New("it is too long")
	}
	if err := json.Unmarshal(value, &a); err != nil {
		return Alarm{}, errors.New("it is not the JSON of an alarm") // the error may quote it
	}
	step, tenant, ok := strings.Cut(tokens, ".")
	n, err := strconv.Atoi(step)
	a.Step = n
	switch {
	case !ok || err != nil || n < 0 || n >= Steps || strconv.Itoa(n) != step:
		return Alarm{}, errors.New("its subject names no step")
	case a.Tenant != tenant:
		return Alarm{}, errors.New("its tenant is not the one in its subject")
	case a.ID == "":
		return Alarm{}, errors.New("it names no request")
	case !guid(a.Device), !guid(a.ClientRequestID):
		return Alarm{}, errors.New("it names no device, or no call")
	case a.Number < 0 || a.Number > MaxNumber || a.Again < 0 || a.Again > MaxNumber:
		return Alarm{}, errors.New("its number is out of range")
	case a.AttemptedAt.IsZero() || a.AcceptedAt.IsZero():
		return Alarm{}, errors.New("it does not say when the request was accepted")
	case a.Until.After(stored.Add(longest)):
		return Alarm{}, errors.New("its end is too far away")
	}
	// An instant in the future was written by a clock that is ahead.
	for _, at := range []*time.Time{&a.AttemptedAt, &a.AcceptedAt, &a.LookedAt, &a.MissingSince} {
		if at.After(stored) {
			*at = stored
		}
	}
	return a, nil
}

const (
	maxAlarm = 4096
	// longest is how far away the end of an operator's order may be: outcomes are
	// kept no longer.
	longest = 90*24*time.Hour + time.Minute
)

func guid(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }
