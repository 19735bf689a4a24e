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
	Header   nats.Header
	// Unreadable: what the publisher has stored as headers are none; Header is empty.
	Unreadable bool
	Data       []byte
}

// StoredAt reads the message of a sequence; nil: it is not there.
//
// It asks the leader of the stream. A direct read may come from a replica that
// lags behind, and tells sequence, time and "not found" in headers, where a
// publisher can have written something, too.
func StoredAt(ctx context.Context, js jetstream.JetStream, stream string, sequence uint64) (*Stored, error) {
	s, err := Ask(ctx, js, stream, Which{Sequence: sequence})
	if err != nil {
		return nil, fmt.Errorf("message %d of stream %s: %w", sequence, stream, err)
	}
	return s, nil
}

// StoredNext reads, as [StoredAt] does, the first message of a subject from a
// sequence on; nil: there is none.
func StoredNext(ctx context.Context, js jetstream.JetStream, stream, subject string, from uint64) (*Stored, error) {
	s, err := Ask(ctx, js, stream, Which{Sequence: max(1, from), Next: subject})
	if err != nil {
		return nil, fmt.Errorf("the next message of %s of stream %s: %w", subject, stream, err)
	}
	return s, nil
}

// Which names a message: that of a sequence, the next of a subject from a sequence on,
// or the last of a subject.
// Source: nats-server, server/jetstream_api.go (JSApiMsgGetRequest).
type Which struct {
	Sequence uint64 `json:"seq,omitempty"`
	Next     string `json:"next_by_subj,omitempty"`
	Last     string `json:"last_by_subj,omitempty"`
}

// Ask reads a message from the leader of its stream; nil: it is not there.
func Ask(ctx context.Context, js jetstream.JetStream, stream string, which Which) (*Stored, error) {
	body, err := json.Marshal(which)
	if err != nil {
		return nil, err
	}
	reply, err := js.Conn().RequestWithContext(ctx, API(js.Options(), "STREAM.MSG.GET."+stream), body)
	if err != nil {
		return nil, err
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
		return nil, jetstream.ErrInvalidJetStreamResponse
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, fmt.Errorf("nats: %w", answer.Error)
	case answer.Message == nil || answer.Message.Sequence == 0:
		return nil, jetstream.ErrInvalidJetStreamResponse
	}
	m := answer.Message
	s := &Stored{Sequence: m.Sequence, Subject: m.Subject, Time: m.Time, Data: m.Data}
	if len(m.Header) > 0 {
		s.Header, err = nats.DecodeHeadersMsg(m.Header)
		s.Unreadable = err != nil
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
