package topology

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestExists(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	exists := func(sequence uint64, published time.Time) bool {
		t.Helper()
		there, err := Exists(r.ctx, r.js, spec.Stream, sequence, published)
		if err != nil {
			t.Fatal(err)
		}
		return there
	}
	if exists(1, time.Now()) {
		t.Error("a message exists without a stream")
	}
	r.setup(Layout{Memory: true})
	ack, err := r.admin.Publish(r.ctx, spec.Filter(), []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	s := r.stream(spec.Stream)
	// In UTC and without a monotonic clock, as a record has it.
	published := s.CachedInfo().State.FirstTime.UTC().Round(0)
	if !exists(ack.Sequence, published) || exists(ack.Sequence, published.Add(1)) || exists(ack.Sequence+1, published) {
		t.Error("a message is not known by its sequence and its instant")
	}
	if err := s.DeleteMsg(r.ctx, ack.Sequence); err != nil {
		t.Fatal(err)
	}
	if exists(ack.Sequence, published) {
		t.Error("a message exists that is gone")
	}
	r.server.Stop()
	if _, err := Exists(r.ctx, r.js, spec.Stream, ack.Sequence, published); err == nil {
		t.Error("it is known what exists, though NATS is away")
	}
}

// forged are headers that the server or a library writes, as a publisher may
// have written them: in one case or the other, once or twice.
func forged() map[string]nats.Header {
	out := map[string]nats.Header{}
	for name, value := range map[string]string{
		"Nats-Time-Stamp": "2001-01-01T00:00:00Z", "Nats-Sequence": "1", "Nats-Subject": "a", "Nats-Stream": "S",
		"Nats-Last-Sequence": "0", "Nats-Num-Pending": "0", "Status": "404", "Description": "Message Not Found",
	} {
		out[name] = nats.Header{name: {value}}
		out[name+", twice"] = nats.Header{name: {value, "y"}}
		out[name+", in lower case"] = nats.Header{strings.ToLower(name): {value}}
	}
	return out
}

// TestForgedOldest reads when the oldest message was stored, and whether it
// exists, whatever its headers say.
func TestForgedOldest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true})
	s := r.stream(spec.Stream)
	if at, err := Oldest(r.ctx, r.js, spec); err != nil || !at.IsZero() {
		t.Errorf("of an empty queue: %s, %v", at, err)
	}
	look := func(what string) {
		t.Helper()
		info, err := s.Info(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		stored := info.State.FirstTime
		if at, err := Oldest(r.ctx, r.js, spec); err != nil || !at.Equal(stored) {
			t.Errorf("%s: oldest %s, want %s, %v", what, at, stored, err)
		}
		for _, c := range []struct {
			sequence uint64
			at       time.Time
			want     bool
		}{
			{info.State.FirstSeq, stored, true}, {info.State.FirstSeq, stored.Add(time.Nanosecond), false},
			{info.State.FirstSeq + 1, stored, false}, {1 << 40, stored, false},
		} {
			if got, err := Exists(r.ctx, r.js, spec.Stream, c.sequence, c.at); err != nil || got != c.want {
				t.Errorf("%s: message %d of %s exists: %t, %v", what, c.sequence, c.at, got, err)
			}
		}
		if err := s.Purge(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	for what, h := range forged() {
		for _, body := range []string{"", "body"} {
			if _, err := r.admin.PublishMsg(r.ctx, &nats.Msg{Subject: spec.Filter(), Header: h, Data: []byte(body)}); err != nil {
				t.Fatal(err)
			}
			look(what)
		}
	}
	// Blocks of headers that the server stores, and that are none.
	for _, h := range []string{"NATS/1.0\r\nno colon\r\n\r\n", "NATS/1.0 4\r\n\r\n"} {
		r.sendRaw(spec.Filter(), h, "")
		look(h)
	}
}
