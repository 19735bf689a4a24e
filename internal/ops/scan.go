package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// stored is a message as a stream stores it.
type stored = topology.Stored

const (
	// batchMessages and batchBytes bound one batch of a scan.
	batchMessages = 500
	batchBytes    = 4 << 20
	// scanTries is how often a batch is tried that fails and brings nothing.
	scanTries = 4
)

const errNotDirect = finalError("it does not exist, or does not allow direct reads; worker setup --update corrects both")

// scan calls each with the messages of one subject, in order, up to a sequence. It
// holds one batch at a time, so a stream of any length can be read. It leaves
// nothing behind on the server, and needs one right. Messages that are removed
// meanwhile may be missing.
func (t *Tools) scan(ctx context.Context, stream, subject string, upTo uint64, each func(stored) error) error {
	from := uint64(1)
	for tries := 1; from <= upTo; tries++ {
		batch, more, err := t.batch(ctx, stream, subject, from)
		if err != nil && len(batch) == 0 && (isFinal(err) || tries == scanTries || ctx.Err() != nil) {
			return fmt.Errorf("read stream %s: %w", stream, err)
		}
		for _, m := range batch {
			if m.Sequence > upTo {
				return nil
			}
			if err := each(m); err != nil {
				return err
			}
			from, tries = m.Sequence+1, 0
		}
		switch {
		case err == nil && !more:
			return nil
		case err != nil && len(batch) == 0:
			if err := t.pause(ctx, time.Duration(tries)*pauseMin); err != nil {
				return fmt.Errorf("read stream %s: %w", stream, err)
			}
		}
	}
	return nil
}

// batch reads the next messages of a subject and reports whether more follow. An
// error comes with what was read before it, without a gap.
//
// Source: ADR-31, "JetStream direct get", batch requests.
func (t *Tools) batch(ctx context.Context, stream, subject string, from uint64) (got []stored, more bool, err error) {
	body, err := json.Marshal(map[string]any{"seq": from, "next_by_subj": subject, "batch": batchMessages, "max_bytes": batchBytes})
	if err != nil {
		return nil, false, err
	}
	err = t.rights.do(ctx, func(ctx context.Context) error {
		inbox := t.nc.NewInbox()
		// Not SubscribeSync: it takes a message without data that has a header
		// Status for one of the server's own.
		msgs := make(chan *nats.Msg, batchMessages+1)
		sub, err := t.nc.ChanSubscribe(inbox, msgs)
		if err != nil {
			return err
		}
		defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
		if err := t.nc.PublishRequest(t.api("DIRECT.GET."+stream), inbox, body); err != nil {
			return err
		}
		last := uint64(0)
		for {
			m, err := next(ctx, msgs)
			if err != nil {
				return err
			}
			// The server gives the sequence with every message of a stream.
			sequence := topology.LastHeader(m.Header, jetstream.SequenceHeader)
			if sequence == "" && m.Header == nil {
				// The publisher stored headers that cannot be parsed, so the
				// library returns none at all.
				s, err := topology.StoredNext(ctx, t.js, stream, subject, max(from, last+1))
				if err == nil && s != nil {
					got, more = append(got, *s), true
				}
				return err
			}
			if sequence == "" {
				more, err = endOfBatch(m)
				return err
			}
			s, err := storedFrom(m, sequence)
			if err != nil {
				return err
			}
			if before := topology.LastHeader(m.Header, jetstream.LastSequenceHeader); before != strconv.FormatUint(last, 10) {
				return errors.New("a part of the answer was lost")
			}
			last = s.Sequence
			got = append(got, s)
		}
	})
	return got, more, err
}

func next(ctx context.Context, msgs <-chan *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	select {
	case m := <-msgs:
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// endOfBatch reads the message that follows the last one of a batch.
func endOfBatch(m *nats.Msg) (more bool, err error) {
	switch status := m.Header.Get("Status"); status {
	case "204":
		pending := m.Header.Get("Nats-Num-Pending")
		return pending != "0" && pending != "", nil
	case "404":
		return false, nil
	case "503":
		return false, errNotDirect
	default:
		return false, fmt.Errorf("the server answered %.3s %.80s", status, m.Header.Get("Description"))
	}
}

func storedFrom(m *nats.Msg, sequence string) (stored, error) {
	seq, err := strconv.ParseUint(sequence, 10, 64)
	if err != nil {
		return stored{}, fmt.Errorf("the server gave the sequence %.20q", sequence)
	}
	at, err := time.Parse(time.RFC3339Nano, topology.LastHeader(m.Header, jetstream.TimeStampHeaer))
	if err != nil {
		return stored{}, fmt.Errorf("message %d: the server did not say when it was stored", seq)
	}
	return stored{Sequence: seq, Time: at, Header: m.Header, Data: m.Data}, nil
}

// current reads a message from the stream's leader, because a direct read may come
// from a replica that lags behind; nil: the message is no longer there.
func (t *Tools) current(ctx context.Context, stream string, sequence uint64) (s *stored, err error) {
	err = t.insist(ctx, func(ctx context.Context) (err error) {
		s, err = topology.StoredAt(ctx, t.js, stream, sequence)
		return err
	})
	return s, err
}

// last is the last sequence of a stream.
func (t *Tools) last(ctx context.Context, stream string) (uint64, error) {
	var last uint64
	err := t.insist(ctx, func(ctx context.Context) error {
		s, err := t.js.Stream(ctx, stream)
		if err == nil {
			last = s.CachedInfo().State.LastSeq
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	return last, nil
}

// ask sends a request to the JetStream API. It returns the error in the answer; nil:
// the request was carried out.
func (t *Tools) ask(ctx context.Context, subject, body string) (*jetstream.APIError, error) {
	m, err := t.nc.RequestWithContext(ctx, subject, []byte(body))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, err
	}
	return answer.Error, nil
}

// Error codes of a removal. Source: nats-server, server/errors.json
// (JSSequenceNotFoundErrF, JSStreamMsgDeleteFailedF).
const (
	errGone       jetstream.ErrorCode = 10043
	errNotDeleted jetstream.ErrorCode = 10057 // also said of a message that is gone
)
