package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/request"
)

// DeadLetter is one letter on the dead-letter stream. Its JSON form is what
// worker dead prints.
type DeadLetter struct {
	// Sequence is the letter's number on the dead-letter stream, and Time when the
	// stream stored it.
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
	// ID is the request's id, and RequestID the same id as in the key of its record.
	ID        string `json:"id"`
	RequestID string `json:"requestId"`
	// Device is empty if it could not be read from the request.
	Device          string `json:"managedDeviceId"`
	Reason          string `json:"reason"`
	Detail          string `json:"detail"`
	Attempts        int    `json:"attempts"`
	Status          int    `json:"status"`
	Redrives        int    `json:"redrives"`
	GraphRequestID  string `json:"graphRequestId,omitzero"`
	ClientRequestID string `json:"clientRequestId,omitzero"`
	RequestedBy     string `json:"requestedBy,omitzero"`
	RequestReason   string `json:"requestReason,omitzero"`
	// Stream and StreamSequence are the request's stream and its number there.
	Stream         string `json:"requestStream"`
	StreamSequence uint64 `json:"requestSequence"`

	// Header and Data are the letter itself.
	Header nats.Header `json:"-"`
	Data   []byte      `json:"-"`
	// truncated reports whether Data is only the beginning of the request.
	truncated bool
}

// Selection says which dead letters are meant. The zero Selection means all of
// the tenant's.
type Selection struct {
	IDs       []string // request ids; none means any
	Sequences []uint64 // on the dead-letter stream; none means any
	Reason    string   // empty means any
	Device    string   // in lower case; empty means any
	// Since is the earliest time of the letter; zero means any.
	Since time.Time
	// Limit is how many letters at most; 0 means no limit.
	Limit int
}

// All reports whether the selection means all letters, apart from its limit.
func (s Selection) All() bool {
	return len(s.IDs) == 0 && len(s.Sequences) == 0 && s.Reason == "" && s.Device == "" && s.Since.IsZero()
}

func (s Selection) takes(l DeadLetter) bool {
	return (len(s.IDs) == 0 || slices.ContainsFunc(s.IDs, func(id string) bool { return request.EscapeID(id) == l.RequestID })) &&
		(len(s.Sequences) == 0 || slices.Contains(s.Sequences, l.Sequence)) &&
		(s.Reason == "" || s.Reason == l.Reason) &&
		(s.Device == "" || s.Device == l.Device) &&
		(s.Since.IsZero() || !l.Time.Before(s.Since))
}

// errEnough ends a scan early.
var errEnough = errors.New("enough")

// Letters calls each with the selected dead letters, the oldest first. It leaves
// out letters that arrive meanwhile, so that a request that is redriven and dies
// again does not come up twice.
func (t *Tools) Letters(ctx context.Context, sel Selection, each func(DeadLetter) error) error {
	upTo, err := t.last(ctx, t.names.DeadStream)
	if err != nil {
		return err
	}
	found := 0
	err = t.scan(ctx, t.names.DeadStream, t.names.Dead(), upTo, func(m stored) error {
		l := letterFrom(m)
		if !sel.takes(l) {
			return nil
		}
		if err := each(l); err != nil {
			return err
		}
		if found++; sel.Limit > 0 && found >= sel.Limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// letterFrom reads a letter. It trusts nothing in it: whoever may publish to the
// subject can write anything.
func letterFrom(m stored) DeadLetter {
	read := deadletter.Parse(m.Header)
	l := DeadLetter{
		Sequence: m.Sequence, Time: m.Time.UTC(), Header: m.Header, Data: m.Data,
		RequestID:       read.RequestID,
		Reason:          read.Reason,
		Detail:          read.Detail,
		Attempts:        read.Attempts,
		Status:          read.Status,
		Redrives:        read.Redrives,
		GraphRequestID:  read.GraphRequestID,
		ClientRequestID: read.ClientRequestID,
		Stream:          read.Stream,
		StreamSequence:  read.Sequence,
		truncated:       read.Truncated,
	}
	id, err := request.UnescapeID(l.RequestID)
	if l.ID = id; err != nil {
		l.ID = l.RequestID
	}
	// Even of an invalid request, what can be read is of use.
	r, _ := request.Decode(request.Source{Data: m.Data, Header: deadletter.Carried(m.Header)})
	l.Device, l.RequestedBy, l.RequestReason = r.DeviceID, r.RequestedBy, r.Reason
	return l
}

// Remove removes a letter from the dead-letter stream. It reports whether the letter
// was still there.
func (t *Tools) Remove(ctx context.Context, l DeadLetter) (bool, error) {
	now, err := t.current(ctx, t.names.DeadStream, l.Sequence)
	if err != nil {
		return false, err
	}
	if now == nil || !now.Time.Equal(l.Time) {
		return false, nil
	}
	return t.remove(ctx, l.Sequence)
}

func (t *Tools) remove(ctx context.Context, sequence uint64) (bool, error) {
	err := t.insist(ctx, func(ctx context.Context) error {
		answer, err := t.ask(ctx, t.api("STREAM.MSG.DELETE."+t.names.DeadStream), fmt.Sprintf(`{"seq":%d,"no_erase":true}`, sequence))
		if err == nil && answer != nil {
			return answer
		}
		return err
	})
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == errGone || api.ErrorCode == errNotDeleted) {
		// It may be gone already: removed by an earlier try whose reply was lost,
		// or by somebody else.
		if now, readErr := t.current(ctx, t.names.DeadStream, sequence); now == nil && readErr == nil {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("remove letter %d: %w", sequence, err)
	}
	return true, nil
}
