package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

func escape(id string) string { return request.EscapeID(id) }

// Read reads the ledger, and all that the worker has stored as one text.
func Read(ctx context.Context, js jetstream.JetStream, names topology.Names, sim *graphsim.Sim) (l Ledger, stored string, err error) {
	l = Ledger{Stream: names.Stream, Records: map[string]record.Record{}, Resets: sim.Ledger()}
	var all strings.Builder
	if err := readRecords(ctx, js, names, &l, &all); err != nil {
		return l, "", fmt.Errorf("records: %w", err)
	}
	if err := readLetters(ctx, js, names, &l, &all); err != nil {
		return l, "", fmt.Errorf("dead letters: %w", err)
	}
	return l, all.String(), nil
}

// readRecords finds of each key the newest value that is a record: a PubAck may
// lie over it.
func readRecords(ctx context.Context, js jetstream.JetStream, names topology.Names, l *Ledger, all *strings.Builder) error {
	kv, err := js.KeyValue(ctx, names.Bucket)
	if err != nil {
		return err
	}
	watch, err := kv.WatchAll(ctx, jetstream.IncludeHistory())
	if err != nil {
		return err
	}
	defer func() { _ = watch.Stop() }() // all was read
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, open := <-watch.Updates():
			if !open || entry == nil {
				return nil
			}
			var r record.Record
			id, ours := strings.CutPrefix(entry.Key(), names.Tenant+".")
			if ours && json.Unmarshal(entry.Value(), &r) == nil && escape(r.ID) == id {
				l.Records[id] = r
			}
			all.Write(entry.Value())
			all.WriteByte('\n')
		}
	}
}

func readLetters(ctx context.Context, js jetstream.JetStream, names topology.Names, l *Ledger, all *strings.Builder) error {
	s, err := js.Stream(ctx, names.DeadStream)
	if err != nil {
		return err
	}
	state := s.CachedInfo().State
	for seq := state.FirstSeq; state.Msgs > 0 && seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil {
			return err
		}
		fmt.Fprintln(all, m.Header, string(m.Data))
		of, err := strconv.ParseUint(m.Header.Get(deadletter.HeaderSequence), 10, 64)
		if err != nil {
			l.Strays++
			continue
		}
		l.Letters = append(l.Letters, Letter{of, m.Header.Get(deadletter.HeaderRequestID), verdict.Reason(m.Header.Get(deadletter.HeaderReason)), m.Data})
	}
	return nil
}
