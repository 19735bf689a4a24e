package topology

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// LastHeader is the last value of a header of exactly this name; empty where
// there is none. The server puts its own behind what a publisher may have called
// the same, so that this is the server's, where it writes one.
func LastHeader(h nats.Header, name string) string {
	values := h.Values(name)
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// Stored is a message as it lies on a stream.
type Stored struct {
	Sequence uint64
	Subject  string
	Time     time.Time // when the stream stored it
	// Header is empty where what the publisher has stored are no headers.
	Header nats.Header
	Data   []byte
}

// StoredAt reads the message of a sequence; nil: it is not there.
//
// It asks the leader of the stream. A direct read may come from a replica that
// lags behind, and tells sequence, time and "not found" in headers, where a
// publisher can have written something, too.
func StoredAt(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64) (*Stored, error) {
	return stored(ctx, js, stream, fmt.Sprintf("message %d", sequence), struct {
		Sequence uint64 `json:"seq"`
	}{sequence})
}

// StoredNext reads, as [StoredAt] does, the first message of a subject from a
// sequence on; nil: there is none.
func StoredNext(ctx context.Context, js jetstream.JetStream, stream, subject string, from uint64) (*Stored, error) {
	return stored(ctx, js, stream, "the next message of "+subject, struct {
		Sequence uint64 `json:"seq"`
		Subject  string `json:"next_by_subj"`
	}{max(1, from), subject})
}

func stored(ctx context.Context, js jetstream.JetStream, stream, what string, request any) (*Stored, error) {
	fail := func(err error) (*Stored, error) { return nil, fmt.Errorf("%s of stream %s: %w", what, stream, err) }
	body, err := json.Marshal(request)
	if err != nil {
		return fail(err)
	}
	reply, err := js.Conn().RequestWithContext(ctx, API(js.Options(), "STREAM.MSG.GET."+stream), body)
	if err != nil {
		return fail(err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Sequence uint64    `json:"seq"`
			Subject  string    `json:"subject"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(reply.Data, &answer); {
	case err != nil:
		return fail(err)
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return fail(answer.Error)
	case answer.Message == nil:
		return fail(errors.New("the server answered nothing"))
	}
	m := answer.Message
	s := &Stored{Sequence: m.Sequence, Subject: m.Subject, Time: m.Time, Data: m.Data}
	if len(m.Header) > 0 {
		s.Header, _ = nats.DecodeHeadersMsg(m.Header) // what are none are left out
	}
	return s, nil
}

// Exists reports whether a message is still on its stream. The instant tells it
// from another one of the same sequence on a stream that was made anew.
func Exists(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64, published time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	m, err := StoredAt(ctx, js, stream, sequence)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	return m != nil && m.Time.Equal(published), err
}

// Oldest is when the oldest request of the queue was stored, by the clock of the
// NATS server; zero in an empty queue.
func Oldest(ctx context.Context, js jetstream.JetStream, n Names) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	first, err := StoredNext(ctx, js, n.Stream, n.Filter(), 1)
	if err != nil || first == nil {
		return time.Time{}, err
	}
	return first.Time, nil
}
