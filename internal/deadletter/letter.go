// Package deadletter is for the letter that a request becomes which cannot be
// done: how it is written, published, and read again.
package deadletter

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// publishWait bounds the publishing of a letter.
const publishWait = 5 * time.Second

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
	// HeaderDropped is set, to their number, where original headers had to be
	// left out: there was no room for them, or NATS does not take such names.
	HeaderDropped = headerPrefix + "Dropped-Headers"
)

const (
	// maxDetail is the length of HeaderDetail, in bytes, and maxName that of
	// other texts.
	maxDetail = 1024
	maxName   = 1024
	// maxHeaders is how long the server lets the headers of a stored message
	// be. Source: nats-server, server/stream.go, processJetStreamMsg.
	maxHeaders = math.MaxUint16
)

// Letter says why a message is dead.
type Letter struct {
	Reason, Detail  string
	Attempts        int
	Status          int    // last HTTP status, 0 without one
	RequestID       string // as in the record's key
	GraphRequestID  string
	ClientRequestID string
	Redrives        int // how often the request was taken up again after its death
}

// Original is the message that is dead.
type Original struct {
	Subject  string
	Header   nats.Header
	Data     []byte
	Stream   string
	Sequence uint64 // in the stream
	// Published is when the stream stored the message.
	Published time.Time
}

// Publisher publishes the dead letters of one tenant.
type Publisher struct {
	js    jetstream.JetStream
	names topology.Names
}

// New makes a publisher to the tenant's dead-letter subject.
func New(js jetstream.JetStream, names topology.Names) *Publisher {
	return &Publisher{js, names}
}

// Publish puts the message on the dead-letter stream and waits until it is
// stored. Where it fails the letter may have been stored all the same; to
// publish it again is safe within the stream's duplicate window.
func (p *Publisher) Publish(ctx context.Context, m Original, letter Letter) error {
	ctx, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	msg := letter.compose(p.names, m, time.Now(), p.js.Conn().MaxPayload())
	ack, err := p.js.PublishMsg(ctx, msg)
	if err == nil {
		err = topology.OfDomain(p.js, ack)
	}
	if err != nil {
		return fmt.Errorf("publish the dead letter to %s: %w", msg.Subject, err)
	}
	return nil
}

// compose writes the letter. A letter that the server could never store would
// block its message for ever, so what does not fit is left out: of the original
// headers as few as possible, and of the data the tail. A request of that size
// is not one.
func (l Letter) compose(n topology.Names, m Original, now time.Time, maxPayload int64) *nats.Msg {
	theirs, dropped := fit(m)
	own := l.headers(m, now)
	// The instant is part of the id: sequences begin anew when a stream is
	// made anew.
	own[jetstream.MsgIDHeader] = []string{fmt.Sprintf("%s-%d-%d", m.Stream, m.Sequence, m.Published.UnixNano())}
	own[jetstream.ExpectedStreamHeader] = []string{n.DeadStream}

	room := maxHeaders
	if maxPayload > 0 {
		room = int(min(int64(room), maxPayload))
	}
	// Room for the two that may follow is kept free.
	notes := lineSize(HeaderTruncated, "18446744073709551615") + lineSize(HeaderDropped, "65535")
	room -= headerSize(own) + notes
	// The shortest first, so that as many as possible fit.
	names := slices.SortedFunc(maps.Keys(theirs), func(a, b string) int {
		return cmp.Or(namedSize(a, theirs[a])-namedSize(b, theirs[b]), strings.Compare(a, b))
	})
	for _, name := range names {
		if size := namedSize(name, theirs[name]); size <= room {
			room -= size
			own[name] = theirs[name]
		} else {
			dropped++
		}
	}
	if dropped > 0 {
		own[HeaderDropped] = []string{strconv.Itoa(dropped)}
	}
	data := m.Data
	if limit := maxPayload - int64(headerSize(own)+notes); maxPayload > 0 && int64(len(data)) > limit {
		own[HeaderTruncated] = []string{strconv.Itoa(len(data))}
		data = data[:max(0, limit)]
	}
	return &nats.Msg{Subject: n.Dead(), Header: own, Data: data}
}

// fit are the original headers that go with the letter, and how many cannot go
// with it.
func fit(m Original) (kept nats.Header, dropped int) {
	kept = nats.Header{}
	for name, values := range Carried(m.Header) {
		switch {
		case !validName(name):
			// The library refuses to send it, and with it the letter.
			dropped++
		case len(m.Data) == 0 && strings.EqualFold(name, "Status"):
			// Readers take a message without data for a word of the server's.
			dropped++
		default:
			clean := make([]string, len(values))
			for i, v := range values {
				clean[i] = lineBreaks.Replace(v)
			}
			kept[name] = clean
		}
	}
	return kept, dropped
}

func (l Letter) headers(m Original, now time.Time) nats.Header {
	h := nats.Header{}
	for name, value := range map[string]string{
		HeaderReason:          headerText(l.Reason, maxName),
		HeaderDetail:          headerText(l.Detail, maxDetail),
		HeaderAttempts:        strconv.Itoa(l.Attempts),
		HeaderStatus:          strconv.Itoa(l.Status),
		HeaderRequestID:       headerText(l.RequestID, maxName),
		HeaderGraphRequestID:  headerText(l.GraphRequestID, maxName),
		HeaderClientRequestID: headerText(l.ClientRequestID, maxName),
		HeaderSubject:         m.Subject,
		HeaderStream:          m.Stream,
		HeaderSequence:        strconv.FormatUint(m.Sequence, 10),
		HeaderTime:            now.UTC().Format(time.RFC3339Nano),
		HeaderRedrives:        strconv.Itoa(l.Redrives),
	} {
		h[name] = []string{value}
	}
	return h
}

var lineBreaks = strings.NewReplacer("\r", " ", "\n", " ")

// validName reports whether the library sends a header of this name. Other
// libraries let more through.
func validName(name string) bool {
	for _, r := range name {
		if r <= ' ' || r > '~' || strings.ContainsRune("\"()/,:;<=>?@[\\]{}", r) {
			return false
		}
	}
	return name != ""
}

// headerSize is the length of headers as they are sent.
func headerSize(h nats.Header) int {
	size := len("NATS/1.0\r\n\r\n")
	for name, values := range h {
		size += namedSize(name, values)
	}
	return size
}

func namedSize(name string, values []string) (size int) {
	for _, v := range values {
		size += lineSize(name, v)
	}
	return size
}

func lineSize(name, value string) int { return len(name) + len(": \r\n") + len(value) }

// headerText keeps a text to one line of at most limit bytes.
func headerText(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
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
