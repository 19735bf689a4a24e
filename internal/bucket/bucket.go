// Package bucket reads and writes keys of a JetStream key-value bucket where it
// matters who wrote a value last. It differs from the library in three points.
//
// Whoever may publish anything in an account can have a server's answer stored
// under any key, by naming the key as the subject of the reply. A value of such a
// foreign form must neither hide what was there before nor stop the next write.
// So a key is read back to its newest revision of the bucket's own form.
//
// A server of a cluster sometimes refuses a compare-and-set although the revision
// is right, because its marks of the write before are not cleared yet, and any
// other replica may then answer a read with something older still. So the stream's
// leader is asked, and the write repeated where nobody else has written.
//
// A write whose reply is lost may have been stored all the same. That, too, is
// found out by asking the leader.
package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// ErrConflict means that a key is no longer at the revision that was given:
// somebody else has written it, and it must be read again.
var ErrConflict = errors.New("it was changed by somebody else")

const (
	// replyTimeout bounds the wait for one reply. What became of a write whose
	// reply is later than that is found out by reading.
	replyTimeout = 5 * time.Second
	// firstReply bounds the wait for the first reply to a write; it doubles from
	// then on. A reply that was lost with its connection never comes, and the
	// client does not say so.
	firstReply = time.Second
	pauseMin   = 5 * time.Millisecond
	pauseMax   = time.Second
)

// Bucket is an existing bucket.
type Bucket struct {
	// Stream is the name of the bucket's stream.
	Stream string
	// Subject is what a key's subject begins with, as it is stored.
	Subject string
	// ReplyTimeout bounds the wait for one reply; 5 s.
	ReplyTimeout time.Duration

	js jetstream.JetStream
	// Subjects: keys are written below publish and read below direct, where any
	// replica answers; empty: none does.
	publish, direct string
}

// Open binds to an existing bucket.
func Open(ctx context.Context, js jetstream.JetStream, name string) (*Bucket, error) {
	stream, err := js.Stream(ctx, "KV_"+name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = jetstream.ErrBucketNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", name, err)
	}
	if stream.CachedInfo().Config.Mirror != nil {
		return nil, fmt.Errorf("key-value bucket %s is a mirror, which shows changes of another bucket with a delay: use the original bucket", name)
	}
	b := &Bucket{
		Stream: "KV_" + name, Subject: "$KV." + name + ".", ReplyTimeout: replyTimeout,
		js: js,
	}
	o := js.Options()
	b.publish = topology.KV(o, name, "")
	if stream.CachedInfo().Config.AllowDirect {
		b.direct = topology.API(o, "DIRECT.GET."+b.Stream+"."+b.Subject)
	}
	return b, nil
}

// Revision is one value of a key. The zero Revision is none.
type Revision struct {
	Sequence uint64
	Time     time.Time // by the clock of the server that stored it
	Header   nats.Header
	Value    []byte
}

// Deleted reports whether the revision says that the key was removed. The copy
// of a message that says so, in a server's answer, is no word of an operator's.
// Source: nats.go, jetstream/kv.go.
func (r Revision) Deleted() bool {
	if r.Answer() {
		return false
	}
	if op := r.Header.Get("KV-Operation"); op != "" {
		return op == "DEL" || op == "PURGE"
	}
	return slices.Contains([]string{"MaxAge", "Purge", "Remove"}, r.Header.Get(jetstream.MarkerReasonHeader))
}

// Answer reports whether the value is a server's answer to somebody's reading,
// which came here as its reply: a true copy of some value at some other time.
// Source: ADR-31, "JetStream direct get".
func (r Revision) Answer() bool {
	return slices.ContainsFunc(answerHeaders, func(name string) bool { return len(r.Header[name]) > 0 })
}

var answerHeaders = []string{jetstream.StreamHeader, jetstream.SubjectHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer}

// Told reads a change of a key as the server publishes it to those who listen. ok is
// false where it is not the server that says so.
// Source: nats-server, server/stream.go: the server's own headers follow those
// that the value was stored with.
func Told(m *nats.Msg) (r Revision, ok bool) {
	header := maps.Clone(m.Header)
	for _, name := range answerHeaders {
		if len(header[name]) != 1 {
			return Revision{}, false
		}
		delete(header, name)
	}
	r = Revision{Header: header, Value: m.Data}
	var err error
	if r.Sequence, err = strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
		return Revision{}, false
	}
	r.Time, err = time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
	return r, err == nil
}

// Get reads the last revision of a key. The answer may come from a replica that
// lags behind.
//
// Where the value is itself the answer to somebody's reading, the library would
// take its revision and time for those of the value that was read then.
func (b *Bucket) Get(ctx context.Context, key string) (Revision, error) {
	if b.direct == "" {
		return b.Last(ctx, key)
	}
	if !valid(key) {
		return Revision{}, jetstream.ErrInvalidKey
	}
	ctx, cancel := context.WithTimeout(ctx, b.ReplyTimeout)
	defer cancel()
	m, err := b.js.Conn().RequestWithContext(ctx, b.direct+key, nil)
	if err != nil {
		return Revision{}, err
	}
	// The answer's own headers stand among those of the value, which may bear the
	// same names. Then only the leader's answer, which is JSON, is clear.
	status := m.Header.Get("Status")
	switch {
	case len(m.Header[jetstream.SequenceHeader]) == 0 && status == "404":
		return Revision{}, nil
	case len(m.Header[jetstream.SequenceHeader]) == 0:
		return Revision{}, fmt.Errorf("nats: %s %s", status, m.Header.Get("Description"))
	case status != "" || slices.ContainsFunc(answerHeaders, func(name string) bool { return len(m.Header[name]) != 1 }):
		return b.Last(ctx, key)
	}
	r := Revision{Header: m.Header, Value: m.Data}
	if r.Sequence, err = strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
		return Revision{}, jetstream.ErrInvalidJetStreamResponse
	}
	if r.Time, err = time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer)); err != nil {
		return Revision{}, jetstream.ErrInvalidJetStreamResponse
	}
	for _, name := range answerHeaders {
		delete(r.Header, name)
	}
	return r, nil
}

// Last reads the last revision of a key from the stream's leader.
func (b *Bucket) Last(ctx context.Context, key string) (Revision, error) {
	if !valid(key) {
		return Revision{}, jetstream.ErrInvalidKey
	}
	return b.ask(ctx, topology.Which{Last: b.Subject + key})
}

// Newest reads from the stream's leader the newest revision of a key that is of
// the form that the bucket should hold, as far as its history reaches, and the
// last revision of whatever form. Either may be none.
func (b *Bucket) Newest(ctx context.Context, key string, formed func(Revision) bool) (newest, last Revision, err error) {
	last, err = b.Last(ctx, key)
	if err != nil || last.Sequence == 0 || formed(last) {
		return last, last, err
	}
	// What is stored meanwhile is not read: a flood must not keep this going.
	for seq := uint64(1); seq < last.Sequence; {
		r, err := b.ask(ctx, topology.Which{Sequence: seq, Next: b.Subject + key})
		if err != nil {
			return Revision{}, Revision{}, err
		}
		if r.Sequence == 0 || r.Sequence >= last.Sequence {
			break
		}
		if formed(r) {
			newest = r
		}
		seq = r.Sequence + 1
	}
	return newest, last, nil
}

// ask reads one message from the stream's leader.
func (b *Bucket) ask(ctx context.Context, which topology.Which) (Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, b.ReplyTimeout)
	defer cancel()
	m, err := topology.Ask(ctx, b.js, b.Stream, which)
	if err != nil || m == nil {
		return Revision{}, err
	}
	r := Revision{Sequence: m.Sequence, Time: m.Time, Header: m.Header, Value: m.Data}
	if m.Unreadable { // they are headers all the same, of no form of ours
		r.Header = nats.Header{"": nil}
	}
	return r, nil
}

// Put writes a key whatever is there.
func (b *Bucket) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.write(ctx, key, value, nil)
}

// Set writes a key if nobody has changed it since the given revision (0: if there
// is none), and returns the last revision. It fails with [ErrConflict] where
// somebody has. Values that are not formed change nothing: they are written over,
// as long as the history shows that nothing else came between.
//
// It goes on until it knows, or the context ends. Only then is the outcome of the
// write unknown.
func (b *Bucket) Set(ctx context.Context, key string, value []byte, revision uint64, formed func(Revision) bool) (uint64, error) {
	var why error // the last failure that was not just the end of the context
	pause, wait := pauseMin, min(firstReply, b.ReplyTimeout)
	for at := revision; ; {
		written, err := b.try(ctx, key, value, at, wait)
		if err == nil || isHopeless(err) {
			return written, err
		}
		newest, last, readErr := b.newest(ctx, key, wait, formed)
		if readErr == nil {
			switch standing(newest, last, revision, value) {
			case ours:
				return last.Sequence, nil
			case changed:
				return 0, ErrConflict
			case unchanged:
				at = last.Sequence
			}
		}
		if why == nil || ctx.Err() == nil {
			why = errors.Join(err, readErr)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", context.Cause(ctx), why)
		case <-time.After(pause):
		}
		pause, wait = min(2*pause, pauseMax), min(2*wait, b.ReplyTimeout)
	}
}

// Delete removes a key if it is still at the given revision. It is tried once.
func (b *Bucket) Delete(ctx context.Context, key string, revision uint64) error {
	_, err := b.write(ctx, key, nil, nats.Header{
		"KV-Operation":                      {"DEL"},
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(revision, 10)},
	})
	return err
}

func (b *Bucket) try(ctx context.Context, key string, value []byte, revision uint64, wait time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return b.write(ctx, key, value, nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(revision, 10)}})
}

func (b *Bucket) newest(ctx context.Context, key string, wait time.Duration, formed func(Revision) bool) (newest, last Revision, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return b.Newest(ctx, key, formed)
}

// stand is where a key stands after a write that has failed, or whose reply was
// lost.
type stand int

const (
	unchanged stand = iota // nobody has written anything that counts
	ours                   // the write was stored
	changed                // somebody else has written, or nobody can tell
)

// standing compares what the leader says of a key with the revision at which it
// was written. A newer value is ours if it is so to the byte: an attempt's client
// request id, for example, is in no other.
func standing(newest, last Revision, revision uint64, value []byte) stand {
	switch {
	case newest.Sequence > revision && !newest.Deleted() && bytes.Equal(newest.Value, value):
		return ours
	case revision == 0 && (last.Sequence == 0 || newest.Deleted()):
		return unchanged
	case newest.Sequence > revision, last.Sequence < revision:
		return changed
	case last.Sequence == revision:
		return unchanged
	case newest.Sequence == 0:
		return changed // something may have been pushed out of the history
	}
	return unchanged // by what counts
}

func (b *Bucket) write(ctx context.Context, key string, value []byte, header nats.Header) (uint64, error) {
	if !valid(key) {
		return 0, jetstream.ErrInvalidKey
	}
	reply, err := b.js.Conn().RequestMsgWithContext(ctx, &nats.Msg{Subject: b.publish + key, Header: header, Data: value})
	if err != nil {
		return 0, err
	}
	return readAck(reply.Data)
}

// valid reports whether a key can be one. It is what the library asks of keys.
func valid(key string) bool {
	if key == "" || key[0] == '.' || key[len(key)-1] == '.' || strings.Contains(key, "..") {
		return false
	}
	for i := range len(key) {
		switch c := key[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '=', c == '.', c == '/':
		default:
			return false
		}
	}
	return true
}

// isHopeless reports whether a write would fail for ever: it was refused for its
// own sake, or the connection is closed for good.
func isHopeless(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrInvalidKey) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.As(err, &api) && api.ErrorCode == errTooLarge
}

// errTooLarge is the error code for a message larger than its stream takes.
// Source: nats-server, server/errors.json.
const errTooLarge jetstream.ErrorCode = 10054
