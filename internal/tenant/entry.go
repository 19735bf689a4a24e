package tenant

import (
	"context"
	"errors"
	"fmt"

	"passcode-worker/internal/clock"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// entry is the record of a request, as a delivery has read or written it last.
type entry struct {
	store *record.Store
	clock *clock.Clock
	key   string
	// own is the record of the delivered message before its first attempt; what is
	// stored may be about another message of the same id.
	own record.Record
	// idGiven: the id is the publisher's, so that other messages may have it.
	idGiven bool

	// known: rec and rev are what the bucket says. On a first delivery the worker assumes that
	// there is no record; the first write proves it.
	known bool
	rec   record.Record
	rev   uint64
	// garbled means that the key holds values but none is a record; rec is then empty.
	garbled bool
}

// mine reports whether the record is about the delivered message.
func (e *entry) mine() bool { return e.rec.Same(e.own) }

// base is the record to continue from: the present one,
// or a new one if the present one is about an earlier message.
func (e *entry) base() record.Record {
	switch {
	case e.garbled:
		r := e.own
		r.UnknownSince = e.clock.Local(r.ReceivedAt) // it may have been called at any time since
		return r
	case e.rec.State != record.None && e.mine():
		return e.rec
	case e.idGiven:
		return verdict.TakenUp(e.own, e.rec)
	}
	return e.own
}

func (e *entry) load(ctx context.Context) error {
	r, rev, err := e.store.Get(ctx, e.key)
	if e.garbled = errors.Is(err, record.ErrGarbled); err != nil && !e.garbled {
		return err
	}
	e.rec, e.rev, e.known = r.Shifted(-e.clock.Ahead()), rev, true
	return nil
}

// put writes the record as the next revision. from is the state it comes from:
// none, where it begins anew over the record of an earlier message. After
// [record.ErrConflict] the record is what the bucket says now.
func (e *entry) put(ctx context.Context, from record.State, r record.Record) error {
	if !from.CanBecome(r.State) {
		return fmt.Errorf("a record cannot go from %q to %q", from, r.State)
	}
	r.Worker = e.own.Worker
	rev, err := e.store.Put(ctx, e.key, r.Shifted(e.clock.Ahead()), e.rev)
	if errors.Is(err, record.ErrConflict) {
		e.known = false
		e.rec, e.rev = record.Record{}, 0
		if loadErr := e.load(ctx); loadErr != nil {
			return loadErr
		}
		return record.ErrConflict
	}
	if err != nil {
		return err
	}
	e.rec, e.rev, e.known, e.garbled = r, rev, true, false
	return nil
}

// settle writes down the result of the attempt that this delivery has made,
// as long as the record is about that attempt. If another worker has changed
// the record meanwhile, change is called again with the record as it is now.
func (e *entry) settle(ctx context.Context, change func(record.Record) record.Record) error {
	made := e.rec
	for {
		err := e.put(ctx, e.rec.State, change(e.rec))
		if !errors.Is(err, record.ErrConflict) {
			return err
		}
		switch {
		case e.rec.State == record.None:
			// The record was lost with its bucket, but the result is known.
			if err := e.put(ctx, record.None, change(made)); !errors.Is(err, record.ErrConflict) {
				return err
			}
		case e.rec.ClientRequestID != made.ClientRequestID || !e.rec.State.InProgress() || e.rec.Burying:
			return record.ErrConflict
		}
	}
}
