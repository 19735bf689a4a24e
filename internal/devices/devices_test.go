package devices

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
)

const device = "600d0000-0000-4000-8000-000000000001"

type rig struct {
	t     *testing.T
	ctx   context.Context
	nc    *nats.Conn
	js    jetstream.JetStream
	store *Store
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "d", History: 16, TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	store, err := Open(ctx, js, "d", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, ctx, nc, js, store}
}

func (r *rig) get() Claim {
	r.t.Helper()
	c, err := r.store.Get(r.ctx, "t", device)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// answer stores a PubAck under the device's key, as a publisher can.
func (r *rig) answer() {
	r.t.Helper()
	value, err := json.Marshal(map[string]any{"stream": "PASSCODE_RESETS", "seq": 7})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.js.Publish(r.ctx, "$KV.d.t."+device, value); err != nil {
		r.t.Fatal(err)
	}
}

// TestTake: of two requests for one device one gets it; a claim can be made over the
// claim that was read, and over nothing else.
func TestTake(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	none := r.get()
	if none != (Claim{}) {
		t.Fatalf("%+v", none)
	}
	until := time.Now().Add(time.Minute).UTC()
	a, err := r.store.Take(r.ctx, "t", device, Claim{Request: "t.A", Message: 7, Until: until}, none)
	if err != nil || a.Revision == 0 {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := r.store.Take(r.ctx, "t", device, Claim{Request: "t.B", Until: until}, none); !errors.Is(err, ErrTaken) {
		t.Errorf("a second one: %v", err)
	}
	if got := r.get(); got.Request != "t.A" || got.Message != 7 || !got.Until.Equal(until) || got.Revision != a.Revision {
		t.Errorf("%+v", got)
	}
	again, err := r.store.Take(r.ctx, "t", device, Claim{Request: "t.A", Until: until.Add(time.Minute)}, r.get())
	if err != nil || again.Revision <= a.Revision {
		t.Fatalf("%+v, %v", again, err)
	}
	// One's own claim is given back, an older one is not.
	if err := r.store.Drop(r.ctx, "t", device, a); err == nil {
		t.Error("an old claim is given back")
	}
	if err := r.store.Drop(r.ctx, "t", device, again); err != nil {
		t.Error(err)
	}
	free := r.get()
	if free.Request != "" || !free.Until.IsZero() {
		t.Errorf("%+v", free)
	}
	if _, err := r.store.Take(r.ctx, "t", device, Claim{Request: "t.B", Until: until}, free); err != nil {
		t.Error(err)
	}
	kv, err := r.js.KeyValue(r.ctx, "d")
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(r.ctx, "t."+device); err != nil { // an operator frees it
		t.Fatal(err)
	}
	if _, err := r.store.Take(r.ctx, "t", device, Claim{Request: "t.C", Until: until}, r.get()); err != nil {
		t.Error(err)
	}
}

// TestForeign: what others store under the key neither hides a claim nor keeps the
// device for ever; so much of it that no claim is left counts as one.
func TestForeign(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	until := time.Now().Add(time.Minute).UTC()
	if _, err := r.store.Take(r.ctx, "t", device, Claim{Request: "t.A", Until: until}, r.get()); err != nil {
		t.Fatal(err)
	}
	r.answer()
	there := r.get()
	if there.Request != "t.A" {
		t.Fatalf("%+v", there)
	}
	if _, err := r.store.Take(r.ctx, "t", device, Claim{Request: "t.A", Until: until}, there); err != nil {
		t.Errorf("over a foreign value: %v", err)
	}
	for range 20 {
		r.answer()
	}
	flooded := r.get()
	if left := time.Until(flooded.Until); flooded.Request != "" || left < 50*time.Minute || left > time.Hour {
		t.Errorf("%+v", flooded)
	}
	if _, err := r.store.Take(r.ctx, "t", device, Claim{Request: "t.B", Until: until}, flooded); err != nil {
		t.Error(err)
	}
	if got := r.get(); got.Request != "t.B" {
		t.Errorf("%+v", got)
	}
}

// TestDecode takes nothing for a claim that is none.
func TestDecode(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, value := range []string{`{}`, `null`, `[]`, ``, `{"request":"t.A"}`, `{"until":"2026-01-01T00:00:00Z"}`, `{"request":"","message":1,"until":"2026-01-01T00:00:00Z"}`,
		`{"request":"t.A","message":1,"until":"2026-01-01T00:00:00Z","seq":1}`, `{"request":"t.A","message":1,"until":"2026-01-01T00:00:00Z"} x`, `{"request":"t.A","until":"2026-01-01T00:00:00Z"}`, `{"request":7,"message":1,"until":"2026-01-01T00:00:00Z"}`} {
		if _, err := r.js.Publish(r.ctx, "$KV.d.t."+device, []byte(value)); err != nil {
			t.Fatal(err)
		}
		if got := r.get(); got.Request != "" {
			t.Errorf("%s: %+v", value, got)
		}
	}
}

// TestTooShort: a bucket that forgets a device before its time is refused, with
// what to do.
func TestTooShort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := Open(r.ctx, r.js, "d", time.Hour+1); err == nil || !strings.Contains(err.Error(), "worker setup --update") {
		t.Errorf("%v", err)
	}
	if _, err := Open(r.ctx, r.js, "none", time.Hour); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("%v", err)
	}
}
