package consume

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of a dead letter.
const (
	headerPrefix          = "Dead-Letter-"
	HeaderReason          = headerPrefix + "Reason"
	HeaderDetail          = headerPrefix + "Detail"
	HeaderAttempts        = headerPrefix + "Attempts"
	HeaderStatus          = headerPrefix + "Status"
	HeaderRequestID       = headerPrefix + "Request-Id"
	HeaderGraphRequestID  = headerPrefix + "Graph-Request-Id"
	HeaderClientRequestID = headerPrefix + "Client-Request-Id"
	HeaderSubject         = headerPrefix + "Subject"
	HeaderStream          = headerPrefix + "Stream"
	HeaderSequence        = headerPrefix + "Sequence"
	HeaderTime            = headerPrefix + "Time"
	HeaderRedrives        = headerPrefix + "Redrives"
	// HeaderTruncated is set, to the original length, where the message was so
	// large that the letter's own headers left no room for all of it.
	HeaderTruncated = headerPrefix + "Truncated"
)

// maxDetail is the length of HeaderDetail, in bytes.
const maxDetail = 1024

// Letter says why a message is dead.
type Letter struct {
	Reason, Detail  string
	Attempts        int
	Status          int    // last HTTP status, 0 without one
	RequestID       string // as in the record's key
	GraphRequestID  string
	ClientRequestID string
}

// Letters publishes dead letters.
type Letters struct {
	js    jetstream.JetStream
	names Names
}

// NewLetters makes a publisher to the tenant's dead-letter subject.
func NewLetters(js jetstream.JetStream, names Names) *Letters {
	return &Letters{js, names}
}

// Publish puts the message on the dead-letter stream and waits until it is
// stored. Where it fails the letter may have been stored all the same; to
// publish it again is safe within the stream's duplicate window.
func (l *Letters) Publish(ctx context.Context, m Message, letter Letter) error {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	msg := &nats.Msg{Subject: l.names.Dead(), Data: m.Data, Header: letter.headers(m, time.Now())}
	fit(msg, l.js.Conn().MaxPayload())
	// The instant is part of the id: sequences begin anew when a stream is
	// made anew.
	id := fmt.Sprintf("%s-%d-%d", m.Stream, m.Sequence, m.Published.UnixNano())
	_, err := l.js.PublishMsg(ctx, msg, jetstream.WithMsgID(id), jetstream.WithExpectStream(l.names.DeadStream))
	if err != nil {
		return fmt.Errorf("publish the dead letter to %s: %w", l.names.Dead(), err)
	}
	return nil
}

func (l Letter) headers(m Message, now time.Time) nats.Header {
	h := nats.Header{}
	redrives := 0
	for name, values := range m.Header {
		switch {
		case strings.EqualFold(name, HeaderRedrives):
			if n, err := strconv.Atoi(strings.Join(values, "")); err == nil && n > 0 {
				redrives = n
			}
		case hasPrefixFold(name, headerPrefix):
			// Of an earlier death, or made up.
		case hasPrefixFold(name, "Nats-"):
			// The server would act on it.
		default:
			h[name] = values
		}
	}
	for name, value := range map[string]string{
		HeaderReason:          l.Reason,
		HeaderDetail:          headerText(l.Detail, maxDetail),
		HeaderAttempts:        strconv.Itoa(l.Attempts),
		HeaderStatus:          strconv.Itoa(l.Status),
		HeaderRequestID:       l.RequestID,
		HeaderGraphRequestID:  l.GraphRequestID,
		HeaderClientRequestID: l.ClientRequestID,
		HeaderSubject:         m.Subject,
		HeaderStream:          m.Stream,
		HeaderSequence:        strconv.FormatUint(m.Sequence, 10),
		HeaderTime:            now.UTC().Format(time.RFC3339Nano),
		HeaderRedrives:        strconv.Itoa(redrives),
	} {
		h[name] = []string{value}
	}
	return h
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// headerText keeps a text to one line of at most limit bytes.
func headerText(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// fit cuts the data of a letter that is larger than the server takes. A
// request of that size is not one, so what is lost is only the tail of
// something unreadable; a letter that could never be stored would block its
// message for ever.
func fit(msg *nats.Msg, limit int64) {
	// Room for the headers that the library adds.
	const reserve = 256
	size := int64(len("NATS/1.0\r\n\r\n") + reserve)
	for name, values := range msg.Header {
		for _, v := range values {
			size += int64(len(name) + len(": \r\n") + len(v))
		}
	}
	if limit <= 0 || size+int64(len(msg.Data)) <= limit {
		return
	}
	msg.Header[HeaderTruncated] = []string{strconv.Itoa(len(msg.Data))}
	msg.Data = msg.Data[:max(0, limit-size-int64(len(HeaderTruncated)+32))]
}

// Depth is how much waits in a tenant's queue.
type Depth struct {
	Messages    int // all, also those that were delivered and are not acknowledged
	AckPending  int // delivered, not acknowledged
	Redelivered int
	Oldest      time.Duration // age of the oldest message; 0 in an empty queue
}

// Depth asks the server how much waits.
func (q *Queue) Depth(ctx context.Context) (Depth, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	n := q.cfg.Names
	consumer, err := q.js.Consumer(ctx, n.Stream, n.Consumer())
	if err != nil {
		return Depth{}, fmt.Errorf("consumer %s: %w", n.Consumer(), err)
	}
	info := consumer.CachedInfo()
	d := Depth{
		Messages:    int(info.NumPending) + info.NumAckPending,
		AckPending:  info.NumAckPending,
		Redelivered: info.NumRedelivered,
	}
	if d.Messages == 0 {
		return d, nil
	}
	stream, err := q.js.Stream(ctx, n.Stream)
	if err != nil {
		return d, fmt.Errorf("stream %s: %w", n.Stream, err)
	}
	first, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(n.Filter()))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return d, nil
	case err != nil:
		return d, fmt.Errorf("oldest message of %s: %w", n.Filter(), err)
	}
	d.Oldest = max(0, time.Since(first.Time))
	return d, nil
}
