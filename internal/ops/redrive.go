package ops

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
)

// MaxRedrives is how often a request may be redriven without force.
const MaxRedrives = 3

// reasonUnknown is the reason of a letter whose device may have been reset.
const reasonUnknown = "outcome_unknown"

// Action is what was done with a letter, or about an outcome.
type Action string

// The actions.
const (
	// Redriven: the request is in the queue again, and the letter removed.
	Redriven Action = "redriven"
	// Removed: the letter is gone.
	Removed Action = "removed"
	// Refused: nothing was done, for the reason in Detail.
	Refused Action = "refused"
	// Superseded: the request had been sent again since it died, and is in
	// progress or accepted, so only the letter was removed.
	Superseded Action = "superseded"
	// Gone: somebody else has removed the letter meanwhile.
	Gone Action = "gone"
	// WouldRedrive and WouldRemove are what a dry run says instead.
	WouldRedrive Action = "would redrive"
	WouldRemove  Action = "would remove"
)

// Result is what became of one letter. Its JSON form is what worker dead prints.
type Result struct {
	Action   Action `json:"action"`
	Sequence uint64 `json:"sequence"` // of the letter
	ID       string `json:"id"`
	Reason   string `json:"reason"` // of the letter
	Detail   string `json:"detail,omitzero"`
	// NewSequence is the number of the request's new message on the request stream.
	NewSequence uint64 `json:"newSequence,omitzero"`
	Redrives    int    `json:"redrives,omitzero"`
}

// Refusal says why a letter may not be redriven; empty: it may.
func Refusal(l DeadLetter, force bool) string {
	switch {
	case l.RequestID == "" || l.Reason == "":
		return "it is not a dead letter that the worker wrote"
	case l.truncated:
		return "its request was too large to keep in full: send the request again"
	case force:
	case l.Reason == reasonUnknown:
		return "the device may have been reset: look at it in Intune first. --force sends the request nevertheless; the worker then looks up the reset before it calls again"
	case l.Redrives >= MaxRedrives:
		return fmt.Sprintf("it has been redriven %d times: find out what is wrong first; --force sends it once more", l.Redrives)
	}
	return ""
}

// Redrive puts the request of a letter back into the queue, waits until it is
// stored there, and then removes the letter. An interruption at any point loses
// nothing. Redriving the letter again goes on from there and repeats nothing: the
// message id is the letter's own, and after the server has forgotten that id, the
// request's record shows the newer message.
func (t *Tools) Redrive(ctx context.Context, l DeadLetter, force, dry bool) (Result, error) {
	out := Result{Action: Refused, Sequence: l.Sequence, ID: l.ID, Reason: l.Reason}
	// The letter may have been read from a replica that lags behind, or a while ago:
	// another operator may have removed it since.
	now, err := t.current(ctx, t.names.DeadStream, l.Sequence)
	if err != nil {
		return out, err
	}
	if now == nil || !now.Time.Equal(l.Time) {
		out.Action = Gone
		return out, nil
	}
	l = letterFrom(*now)
	if out.Detail = Refusal(l, force); out.Detail != "" {
		return out, nil
	}
	msg, problem := t.redriven(l)
	if out.Detail = problem; problem != "" {
		return out, nil
	}
	newer, err := t.newer(ctx, l)
	garbled := errors.Is(err, record.ErrGarbled)
	if err != nil && !garbled {
		return out, err
	}
	switch {
	case garbled && !force:
		out.Detail = err.Error() + "; --force sends the request nevertheless"
		return out, nil
	case newer.State == record.Dead && !force:
		out.Detail = fmt.Sprintf("the request was sent again later, as message %d, and died with reason %s: redrive that letter and remove this one; --force sends it nevertheless",
			newer.Sequence, newer.Reason)
		return out, nil
	case newer.State != record.None && newer.State != record.Dead:
		out.Action, out.NewSequence = Superseded, newer.Sequence
		out.Detail = fmt.Sprintf("message %d is a newer message of the same request, and is %s", newer.Sequence, newer.State)
		if dry {
			out.Action = WouldRemove
		}
	case dry:
		out.Action = WouldRedrive
	default:
		ack, err := t.publish(ctx, msg)
		if err != nil {
			return out, err
		}
		out.Action, out.NewSequence, out.Redrives = Redriven, ack.Sequence, l.Redrives+1
	}
	if !dry {
		_, err = t.remove(ctx, l.Sequence)
	}
	return out, err
}

// newer is the record of a letter's request if it is about a newer message, else a
// record without a state. It shows an interrupted redrive after the server has
// forgotten the message id.
func (t *Tools) newer(ctx context.Context, l DeadLetter) (record.Record, error) {
	r, _, err := t.read(ctx, t.insist, l.RequestID)
	if err != nil || r.Stream != l.Stream || r.Sequence <= l.StreamSequence {
		return record.Record{}, err
	}
	return r, nil
}

// redriven returns the message that takes up a letter's request again, or the problem
// that prevents it.
//
// Its message id consists of the letter's number on its stream and its time. So it is
// the same however often this letter is redriven, and another one for the next letter
// of the same request: the server drops a message with an id that it has seen, even if
// that message is done. A request that had its id from the message id, or from its
// place on the stream, therefore gets the id into its body, and so keeps its record.
func (t *Tools) redriven(l DeadLetter) (msg *nats.Msg, problem string) {
	h := deadletter.Carried(l.Header)
	h[jetstream.MsgIDHeader] = []string{fmt.Sprintf("redrive-%s-%d-%d", t.names.DeadStream, l.Sequence, l.Time.UnixNano())}
	h[jetstream.ExpectedStreamHeader] = []string{t.names.Stream}
	decode := func(data []byte) (request.Request, error) {
		return request.Decode(request.Source{Data: data, Header: h, Stream: t.names.Stream})
	}
	r, err := decode(l.Data)
	data := l.Data
	if r.Key() != l.RequestID {
		own, ownErr := request.Decode(request.Source{Data: l.Data, Header: deadletter.Carried(l.Header)})
		if ownErr == nil && own.IDGiven {
			return nil, "its request and the letter have different ids: it is not a dead letter that the worker wrote"
		}
		with := named(l.Data, l.ID)
		again, againErr := decode(with)
		switch {
		case again.Key() == l.RequestID && (err == nil) == (againErr == nil):
			data = with
		case err == nil:
			// Under another id it would have no record, and a reset that was done
			// would be done again.
			return nil, "its id does not fit into its body: send the request again with an id of its own"
		}
		// An invalid request that takes no id will have a record of its own.
	}
	return &nats.Msg{Subject: t.names.Filter(), Header: h, Data: data}, ""
}
