package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/bucket"
	"passcode-worker/internal/request"
)

// ErrConflict means that the record is no longer at the revision that was
// given: somebody else has written it, and it must be read again.
var ErrConflict = bucket.ErrConflict

// ErrGarbled means that there is something where the record should be, and
// nothing in its history that is one. Whether there ever was a record cannot be
// told.
var ErrGarbled = errors.New("it does not have the form of a record")

// Store is the bucket.
type Store struct {
	js     jetstream.JetStream
	bucket *bucket.Bucket
}

// Open binds to an existing bucket.
func Open(ctx context.Context, js jetstream.JetStream, name string) (*Store, error) {
	b, err := bucket.Open(ctx, js, name)
	if err != nil {
		return nil, err
	}
	return &Store{js, b}, nil
}

// Get reads a record and the last revision of its key. Where there is none, the
// revision is 0; so it is where an operator has deleted it. What lies above the
// record and is none, such as a PubAck whose publisher has named the key as the
// subject of the reply, is passed over, as far as the history reaches; where it
// hides nothing that is a record, the error is [ErrGarbled], and the revision
// that of the last value, so that it can be written over.
//
// The answer may come from a replica that lags behind: decide by [Store.Put].
func (s *Store) Get(ctx context.Context, key string) (Record, uint64, error) {
	fail := func(revision uint64, err error) (Record, uint64, error) {
		return Record{}, revision, fmt.Errorf("read record %s: %w", key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.bucket.ReplyTimeout)
	defer cancel()
	last, err := s.bucket.Get(ctx, key)
	if err != nil {
		return fail(0, err)
	}
	if last.Sequence == 0 || last.Deleted() {
		return Record{}, 0, nil
	}
	if r, ok := decode(key, last); ok {
		return r, last.Sequence, nil
	}
	newest, last, err := s.bucket.Newest(ctx, key, formed(key))
	if err != nil {
		return fail(0, err)
	}
	if last.Sequence == 0 || newest.Deleted() {
		return Record{}, 0, nil
	}
	if newest.Sequence == 0 {
		return fail(last.Sequence, fmt.Errorf("revision %d: %w", last.Sequence, ErrGarbled))
	}
	r, _ := decode(key, newest)
	return r, last.Sequence, nil
}

// decode reads a record. A value is one only under its own key, in a state that
// a record can have, and where it was written and not copied by a server.
// Unknown fields are those of a later version.
func decode(key string, v bucket.Revision) (r Record, ok bool) {
	if v.Answer() || json.Unmarshal(v.Value, &r) != nil || !r.State.known() || Key(r.Tenant, request.EscapeID(r.ID)) != key {
		return Record{}, false
	}
	return r, true
}

// Decode reads a value of a key from the history of the bucket, with the headers
// that it is stored with. ok is false where it is no record.
func Decode(key string, header nats.Header, value []byte) (r Record, ok bool) {
	return decode(key, bucket.Revision{Header: header, Value: value})
}

// Told reads a change of a record as the server publishes it to those who listen,
// and the change's revision. ok is false where what was stored is no record.
func Told(key string, m *nats.Msg) (r Record, revision uint64, ok bool) {
	v, ok := bucket.Told(m)
	if !ok {
		return Record{}, 0, false
	}
	r, ok = decode(key, v)
	return r, v.Sequence, ok
}

// formed reports of a revision of a key whether it counts: as a record, or as an
// operator's word that there is none.
func formed(key string) func(bucket.Revision) bool {
	return func(v bucket.Revision) bool {
		if v.Deleted() {
			return true
		}
		_, ok := decode(key, v)
		return ok
	}
}

// Since reads each change of a tenant's records since an instant of the server's,
// the oldest first, and when it was stored, as far as the history of each record
// reaches. A record that is not of the form it should be is passed over.
func (s *Store) Since(ctx context.Context, tenant string, since time.Time, each func(r Record, stored time.Time)) error {
	fail := func(err error) error {
		return fmt.Errorf("records of tenant %s since %s: %w", tenant, since.UTC().Format(time.RFC3339), err)
	}
	// One filter, so that an account can be allowed this for one tenant alone.
	consumer, err := ReadingConsumer(ctx, s.js, s.bucket.Stream, jetstream.ConsumerConfig{
		Description:       "what a worker reads when it takes over",
		FilterSubject:     s.bucket.Subject + tenant + ".*",
		DeliverPolicy:     jetstream.DeliverByStartTimePolicy,
		OptStartTime:      &since,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: sinceInactive,
	})
	if err != nil {
		return fail(err)
	}
	info := consumer.CachedInfo()
	for left := info.NumPending; left > 0; {
		// Each batch has its own time: how many there are says nothing.
		got, err := s.batch(ctx, consumer, int(min(left, sinceBatch)), each)
		if err != nil {
			return fail(err)
		}
		if got == 0 {
			return fail(errors.New("no answer"))
		}
		left -= min(left, got)
	}
	return nil
}

// batch reads the next changes. Each batch has its own time: how many there are says
// nothing of a server that answers. In a cluster the server that has the consumer may
// not be listening yet when another one says that it is made.
func (s *Store) batch(ctx context.Context, consumer jetstream.Consumer, n int, each func(r Record, stored time.Time)) (got uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.bucket.ReplyTimeout)
	defer cancel()
	for {
		got, err = s.fetch(ctx, consumer, n, each)
		if got > 0 || !errors.Is(err, nats.ErrNoResponders) {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, err
		case <-time.After(unheardWait):
		}
	}
}

func (s *Store) fetch(ctx context.Context, consumer jetstream.Consumer, n int, each func(r Record, stored time.Time)) (got uint64, err error) {
	batch, err := consumer.Fetch(n, jetstream.FetchContext(ctx))
	if err != nil {
		return 0, err
	}
	for m := range batch.Messages() {
		got++
		key := strings.TrimPrefix(m.Subject(), s.bucket.Subject)
		r, ok := decode(key, bucket.Revision{Header: m.Headers(), Value: m.Data()})
		if meta, err := m.Metadata(); err == nil && ok {
			each(r, meta.Timestamp)
		}
	}
	return got, batch.Error()
}

// ReadingConsumer makes a consumer that is to be read once, and need not survive
// its server: in memory, without replicas. An account whose tiers do not include one
// replica has it with as many as the stream.
func ReadingConsumer(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	cfg.MemoryStorage, cfg.Replicas = true, 1
	consumer, err := js.CreateConsumer(ctx, stream, cfg)
	if api := (*jetstream.APIError)(nil); !errors.As(err, &api) || api.ErrorCode != errNoTier {
		return consumer, err
	}
	// Not given, it would be one again, as for each consumer without a name that lasts.
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	cfg.Replicas = s.CachedInfo().Config.Replicas
	return js.CreateConsumer(ctx, stream, cfg)
}

// errNoTier is the error code where an account has no limits for so many replicas.
// Source: nats-server, server/errors.json.
const errNoTier jetstream.ErrorCode = 10120

const (
	// unheardWait is the wait before a consumer is asked again that did not hear.
	unheardWait = 50 * time.Millisecond
	// sinceBatch is how many changes are asked for at a time.
	sinceBatch = 500
	// sinceInactive is how long the server keeps the consumer of such a reading.
	sinceInactive = 10 * time.Second
)

// Put writes a record if its revision is still the given one (0: if there is
// none), and returns the new revision. It fails with [ErrConflict] where another
// record was written, or the key deleted. What is no record does not count: it is
// written over, unless it has filled the history.
//
// Put goes on until it knows what became of the write, or the context ends.
func (s *Store) Put(ctx context.Context, key string, r Record, revision uint64) (uint64, error) {
	value, err := json.Marshal(r)
	if err == nil {
		revision, err = s.bucket.Set(ctx, key, value, revision, formed(key))
	}
	if err != nil {
		return 0, fmt.Errorf("write record %s: %w", key, err)
	}
	return revision, nil
}
