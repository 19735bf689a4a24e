package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

func escape(id string) string { return request.EscapeID(id) }

// Read reads the ledger, and all that it is in as one text.
func Read(ctx context.Context, js jetstream.JetStream, names topology.Names, sim *graphsim.Sim) (l Ledger, stored string, err error) {
	l = Ledger{Stream: names.Stream, Records: map[string]record.Record{}, Resets: sim.Ledger(), Devices: map[string]graphsim.DeviceState{}}
	for device := range l.Resets {
		l.Devices[device] = sim.Device(device)
	}
	var all strings.Builder
	for _, part := range []struct {
		stream, what string
		read         func(jetstream.Msg)
	}{
		{kvStream(names.Bucket), "records", l.record(names)},
		{names.DeadStream, "dead letters", l.letter},
		{kvStream(names.OutcomeBucket()), "outcomes", l.outcome(names)},
	} {
		err := Each(ctx, js, part.stream, func(m jetstream.Msg) {
			fmt.Fprintln(&all, m.Headers(), string(m.Data()))
			part.read(m)
		})
		if part.what == "outcomes" && errors.Is(err, jetstream.ErrStreamNotFound) {
			l.Outcomes = nil // nobody follows
			continue
		}
		if err != nil {
			return l, "", fmt.Errorf("%s: %w", part.what, err)
		}
	}
	return l, all.String(), nil
}

// kvStream is the stream of a bucket.
func kvStream(bucket string) string { return "KV_" + bucket }

// Each calls each with all that is stored in a stream, as it is stored. The stream must
// be none that serves as a queue, unless it is empty.
func Each(ctx context.Context, js jetstream.JetStream, stream string, each func(jetstream.Msg)) error {
	s, err := js.Stream(ctx, stream)
	if err != nil || s.CachedInfo().State.Msgs == 0 {
		return err
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	messages, err := c.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		each(m)
		if meta, err := m.Metadata(); err != nil || meta.NumPending == 0 {
			return err
		}
	}
}

// record finds of each key the newest value that is a record: a PubAck may lie over
// it.
func (l *Ledger) record(names topology.Names) func(jetstream.Msg) {
	return func(m jetstream.Msg) {
		var r record.Record
		id, ours := strings.CutPrefix(m.Subject(), "$KV."+names.Bucket+"."+names.Tenant+".")
		if ours && json.Unmarshal(m.Data(), &r) == nil && escape(r.ID) == id {
			l.Records[id] = r
		}
	}
}

func (l *Ledger) letter(m jetstream.Msg) {
	of, err := strconv.ParseUint(m.Headers().Get(deadletter.HeaderSequence), 10, 64)
	if err != nil {
		l.Strays++
		return
	}
	l.Letters = append(l.Letters, Letter{of, m.Headers().Get(deadletter.HeaderRequestID), verdict.Reason(m.Headers().Get(deadletter.HeaderReason)), m.Data()})
}

// outcome counts of each key the documents that tell an end.
func (l *Ledger) outcome(names topology.Names) func(jetstream.Msg) {
	l.Outcomes = map[string]Telling{}
	return func(m jetstream.Msg) {
		key := strings.TrimPrefix(m.Subject(), "$KV."+names.OutcomeBucket()+".")
		id, ours := strings.CutPrefix(key, names.Tenant+".")
		if d, ok := outcome.Decode(key, m.Headers(), m.Data()); ok && ours {
			t := l.Outcomes[id]
			t.Add(d)
			l.Outcomes[id] = t
		}
	}
}
