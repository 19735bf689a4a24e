package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrConflict means that the record is no longer at the revision that was
// given: somebody else has written it, and it must be read again.
var ErrConflict = errors.New("the record was changed by another")

const (
	// replyTimeout bounds the wait for one reply. What became of a write whose
	// reply is later than that is found out by reading.
	replyTimeout = 5 * time.Second
	// firstReply bounds the wait for the first reply to a write; it doubles from
	// then on. A reply that was lost with its connection never comes, and the
	// client does not say so.
	firstReply = time.Second
	// refusedTimeout is how long a revision is refused before that counts,
	// though no newer one can be read: the record was removed.
	refusedTimeout = 5 * time.Second
	pauseMin       = 5 * time.Millisecond
	pauseMax       = time.Second
)

// Store is the bucket.
type Store struct {
	js     jetstream.JetStream
	bucket string
	kv     jetstream.KeyValue
	// Tests shorten these.
	replyTimeout, refusedTimeout time.Duration
}

// Open binds to an existing bucket.
func Open(ctx context.Context, js jetstream.JetStream, bucket string) (*Store, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", bucket, err)
	}
	kv = direct{kv, js.Conn(), directPrefix(js.Options(), bucket)}
	return &Store{js: js, bucket: bucket, kv: kv, replyTimeout: replyTimeout, refusedTimeout: refusedTimeout}, nil
}

// Get reads a record and its revision. Where there is none, the revision is 0.
// The answer may come from a replica that lags behind: decide by [Store.Put].
func (s *Store) Get(ctx context.Context, key string) (Record, uint64, error) {
	entry, err := s.entry(ctx, key, s.replyTimeout)
	if err != nil || entry == nil {
		return Record{}, 0, err
	}
	var r Record
	err = json.Unmarshal(entry.Value(), &r)
	if err == nil && !r.State.known() {
		// A PubAck, for example, whose publisher has named the key as the subject
		// of the reply. It must not pass for a request without a record.
		err = errors.New("it has no state")
	}
	if err != nil {
		return Record{}, 0, fmt.Errorf("record %s, revision %d, is not of the form it should be: %w", key, entry.Revision(), err)
	}
	return r, entry.Revision(), nil
}

// entry is nil where there is no record.
func (s *Store) entry(ctx context.Context, key string, wait time.Duration) (jetstream.KeyValueEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	entry, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record %s: %w", key, err)
	}
	return entry, nil
}

// Since reads each change of a tenant's records since an instant of the server's,
// the oldest first, and when it was stored, as far as the history of each record
// reaches. A record that is not of the form it should be is passed over.
func (s *Store) Since(ctx context.Context, tenant string, since time.Time, each func(r Record, stored time.Time)) error {
	fail := func(err error) error {
		return fmt.Errorf("records of tenant %s since %s: %w", tenant, since.UTC().Format(time.RFC3339), err)
	}
	// One filter, so that an account can be allowed this for one tenant alone.
	consumer, err := ReadingConsumer(ctx, s.js, "KV_"+s.bucket, jetstream.ConsumerConfig{
		Description:       "what a worker reads when it takes over",
		FilterSubject:     "$KV." + s.bucket + "." + tenant + ".*",
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
		batch, err := consumer.Fetch(int(min(left, sinceBatch)), jetstream.FetchContext(ctx))
		if err != nil {
			return fail(err)
		}
		got := uint64(0)
		for m := range batch.Messages() {
			got++
			var r Record
			meta, err := m.Metadata()
			if err == nil && json.Unmarshal(m.Data(), &r) == nil && r.State.known() {
				each(r, meta.Timestamp)
			}
		}
		if err := batch.Error(); err != nil {
			return fail(err)
		}
		if got == 0 {
			return fail(errors.New("no answer"))
		}
		left -= min(left, got)
	}
	return nil
}

// ReadingConsumer makes a consumer that is to be read once, and need not survive
// its server: in memory, without replicas. An account whose tiers do not include one
// replica has it with as many as the stream.
func ReadingConsumer(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	cfg.MemoryStorage, cfg.Replicas = true, 1
	consumer, err := js.CreateConsumer(ctx, stream, cfg)
	if !hasCode(err, errNoTier) {
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
	// sinceBatch is how many changes are asked for at a time.
	sinceBatch = 500
	// sinceInactive is how long the server keeps the consumer of such a reading.
	sinceInactive = 10 * time.Second
)

// Put writes a record if its revision is still the given one (0: if there is
// none), and returns the new revision. It fails with [ErrConflict] where it is
// not.
//
// A write whose reply is lost may have been stored all the same. Put reads back
// who wrote the record, and writes again where nobody did; it goes on until it
// knows, or the context ends. Only then is the outcome of a write unknown.
//
// That the server refuses a write for its revision is no proof either. It does
// so too while another write of the key is on its way through the cluster,
// which may be an earlier one of ours or come to nothing, and when it has just
// become the leader and does not know the last write yet.
func (s *Store) Put(ctx context.Context, key string, r Record, revision uint64) (uint64, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("write record %s: %w", key, err)
	}
	var why error         // the last failure that was not just the end of the context
	var refused time.Time // since when the server refuses the revision
	pause, wait := pauseMin, min(firstReply, s.replyTimeout)
	for {
		written, err := s.write(ctx, key, value, revision, wait)
		switch {
		case err == nil:
			return written, nil
		case isHopeless(err):
			return 0, fmt.Errorf("write record %s: %w", key, err)
		case !isConflict(err):
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		}
		// A newer revision is of this very write if the value is ours to the
		// byte: an attempt's client request id is in no other. A revision that
		// is not newer may come from a replica that lags behind.
		entry, readErr := s.entry(ctx, key, wait)
		if readErr == nil && entry != nil && entry.Revision() > revision {
			if bytes.Equal(entry.Value(), value) {
				return entry.Revision(), nil
			}
			return 0, ErrConflict
		}
		if readErr == nil && !refused.IsZero() && time.Since(refused) > s.refusedTimeout {
			return 0, ErrConflict
		}
		if why == nil || ctx.Err() == nil {
			why = errors.Join(err, readErr)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("write record %s: %w: %w", key, context.Cause(ctx), why)
		case <-time.After(pause):
		}
		pause, wait = min(2*pause, pauseMax), min(2*wait, s.replyTimeout)
	}
}

func (s *Store) write(ctx context.Context, key string, value []byte, revision uint64, wait time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if revision == 0 {
		return s.kv.Create(ctx, key, value)
	}
	return s.kv.Update(ctx, key, value, revision)
}

// isConflict tells that the server refused a write for its revision. The
// library does not translate each code at each place.
func isConflict(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) ||
		hasCode(err, jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// isHopeless tells that a write would fail for ever: it was refused for its own
// sake, or the connection is closed for good.
func isHopeless(err error) bool {
	return errors.Is(err, jetstream.ErrInvalidKey) || errors.Is(err, nats.ErrMaxPayload) ||
		hasCode(err, errTooLarge) || errors.Is(err, nats.ErrConnectionClosed)
}

// errTooLarge is the error code for a message larger than its stream takes.
// Source: nats-server, server/errors.json.
const errTooLarge jetstream.ErrorCode = 10054

func hasCode(err error, codes ...jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode)
}
