package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// direct is a bucket whose writes do without what the library spends on each: a
// regular expression, options, and a second context. It is half of what a write
// costs here. What is out of the ordinary is left to the library.
type direct struct {
	jetstream.KeyValue
	nc     *nats.Conn
	prefix string // of the subjects; empty where the library has to find it
}

// directPrefix is where the keys of a bucket begin.
func directPrefix(o jetstream.JetStreamOptions, bucket string) string {
	if o.Domain != "" || o.APIPrefix != "" && o.APIPrefix != jetstream.DefaultAPIPrefix {
		return ""
	}
	return "$KV." + bucket + "."
}

// Create writes the first revision of a key.
func (d direct) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	if d.plain(key) && len(opts) == 0 {
		revision, err := d.write(ctx, key, value, 0)
		if err == nil || !isConflict(err) && !errors.Is(err, nats.ErrNoResponders) {
			return revision, err
		}
		// The key may have been deleted, which the library looks at.
	}
	return d.KeyValue.Create(ctx, key, value, opts...)
}

// Update writes a key that is at a revision.
func (d direct) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if d.plain(key) {
		written, err := d.write(ctx, key, value, revision)
		if !errors.Is(err, nats.ErrNoResponders) {
			return written, err
		}
		// The bucket may be a mirror, whose writes go elsewhere.
	}
	return d.KeyValue.Update(ctx, key, value, revision)
}

// plain tells that a key is of the form that [Key] makes, which is a good one.
func (d direct) plain(key string) bool {
	dot := false
	for i := range len(key) {
		switch c := key[i]; {
		case c == '.':
			if dot || i == 0 || i == len(key)-1 {
				return false
			}
			dot = true
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '=':
		default:
			return false
		}
	}
	return dot && d.prefix != ""
}

func (d direct) write(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	reply, err := d.nc.RequestMsgWithContext(ctx, &nats.Msg{
		Subject: d.prefix + key,
		Header:  nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(revision, 10)}},
		Data:    value,
	})
	if err != nil {
		return 0, err
	}
	return readAck(reply.Data)
}

// readAck reads the answer to a write.
func readAck(data []byte) (revision uint64, err error) {
	if n := plainAck(data); n > 0 {
		return n, nil
	}
	var ack struct {
		Error    *jetstream.APIError `json:"error"`
		Stream   string              `json:"stream"`
		Sequence uint64              `json:"seq"`
	}
	switch err := json.Unmarshal(data, &ack); {
	case err != nil:
		return 0, jetstream.ErrInvalidJSAck
	case ack.Error != nil:
		return 0, fmt.Errorf("nats: %w", ack.Error)
	case ack.Stream == "" || ack.Sequence == 0:
		return 0, jetstream.ErrInvalidJSAck
	}
	return ack.Sequence, nil
}

// plainAck reads an answer of the form that a server gives to a write that it has
// stored, and else is 0. JSON would take as long as all else that is done here.
// Source: nats-server, server/stream.go, where it is written by hand.
func plainAck(data []byte) uint64 {
	const begin, sequence = `{"stream":"`, `","seq":`
	i := bytes.Index(data, []byte(sequence))
	if i <= len(begin) || !bytes.HasPrefix(data, []byte(begin)) || data[len(data)-1] != '}' ||
		bytes.ContainsFunc(data[len(begin):i], func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }) {
		return 0
	}
	digits := string(data[i+len(sequence) : len(data)-1])
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || digits[0] == '0' {
		return 0
	}
	return n
}
