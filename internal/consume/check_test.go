package consume

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// queue is a queue that is only asked.
func (r *rig) queue() *Queue {
	return New(r.js, Config{Names: spec, Log: zap.NewNop()})
}

func TestDepth(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	q := r.queue()
	if d, err := q.Depth(r.ctx); err == nil {
		t.Errorf("a depth without a consumer: %+v", d)
	}
	r.setup(Layout{Memory: true})
	if d, err := q.Depth(r.ctx); err != nil || d != (Depth{}) {
		t.Errorf("empty: %+v, %v", d, err)
	}
	// Another tenant's requests are not this one's.
	if _, err := r.admin.Publish(r.ctx, "passcode.reset.requests.other", nil); err != nil {
		t.Fatal(err)
	}
	if d, err := q.Depth(r.ctx); err != nil || d != (Depth{}) {
		t.Errorf("empty for this tenant: %+v, %v", d, err)
	}
	begun := time.Now()
	r.publish("a", "b", "c")
	d, err := q.Depth(r.ctx)
	if err != nil || d.Messages != 3 || d.AckPending != 0 {
		t.Errorf("three wait: %+v, %v", d, err)
	}
	if at, err := q.Oldest(r.ctx); err != nil || at.Before(begun) || at.After(time.Now()) {
		t.Errorf("the oldest of %s: %v", at, err)
	}
	w := r.run(Config{Slots: 2, Handle: h.handle})
	first, second := take(r, h.calls, "a message"), take(r, h.calls, "a message")
	if d, err := q.Depth(r.ctx); err != nil || d.Messages != 3 || d.AckPending != 2 || d.Redelivered != 0 {
		t.Errorf("two of three in work: %+v, %v", d, err)
	}
	first.answer <- Nak(0)
	second.answer <- Nak(0)
	take(r, h.calls, "a message")
	take(r, h.calls, "a message")
	r.await("a redelivery", func() bool {
		d, err := q.Depth(r.ctx)
		if err != nil || d.Messages != 3 {
			t.Fatalf("%+v, %v", d, err)
		}
		return d.Redelivered > 0
	})
	w.cut()
	w.stop()
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	if d, err := q.Depth(r.ctx); err == nil {
		t.Errorf("a depth while NATS is away: %+v", d)
	}
}

func TestExists(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
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
	r.run(Config{Setup: true, Handle: h.handle}).awaitBound()
	r.publish("a")
	c := take(r, h.calls, "the message")
	// In UTC and without a monotonic clock, as a record has it.
	if published := c.Published.UTC().Round(0); !exists(c.Sequence, published) || exists(c.Sequence, published.Add(1)) || exists(c.Sequence+1, published) {
		t.Error("a message is not known by its sequence and its instant")
	}
	c.answer <- Ack()
	r.awaitEmpty()
	if exists(c.Sequence, c.Published) {
		t.Error("a message exists that was acknowledged")
	}
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	if _, err := Exists(r.ctx, r.js, spec.Stream, c.Sequence, c.Published); err == nil {
		t.Error("it is known what exists, though NATS is away")
	}
}

// TestClock reads the server's clock, which is ours here, however slow the
// answer is; the error is known.
func TestClock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	type reading struct{ ahead, within time.Duration }
	told := make(chan reading, 99)
	w := r.run(Config{Setup: true, Handle: newHandler().handle, Clock: func(ahead, within time.Duration) { told <- reading{ahead, within} }})
	w.awaitBound()
	look := func(least time.Duration) {
		t.Helper()
		got := take(r, told, "the time")
		if got.ahead.Abs() > got.within || got.within < least || got.within > testTime {
			t.Errorf("the server's clock is %s ahead, within %s", got.ahead, got.within)
		}
	}
	look(0)
	if _, err := w.q.Depth(r.ctx); err != nil {
		t.Fatal(err)
	}
	look(0)
	const slow = 700 * time.Millisecond
	r.proxy.Delay(slow)
	if _, err := w.q.Depth(r.ctx); err != nil {
		t.Fatal(err)
	}
	look(slow / 2)
}

func TestWeaknesses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	q := r.queue()
	if got := q.Weaknesses(r.ctx); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
	r.setup(Layout{})
	// One server is all that there is to say about what Setup makes on it.
	got := q.Weaknesses(r.ctx)
	if len(got) != 4 || !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "KV_passcode-resets has 1 replica") }) {
		t.Errorf("%q", got)
	}
	for _, w := range got {
		if !strings.Contains(w, "1 replica") {
			t.Errorf("%q", w)
		}
	}

	m := r.made()
	m.requests.Discard, m.requests.MaxAge, m.requests.MaxMsgsPerSubject = jetstream.DiscardOld, time.Hour, 10
	m.letters.Discard, m.letters.MaxBytes = jetstream.DiscardOld, 1<<20
	for _, cfg := range []jetstream.StreamConfig{m.requests, m.letters} {
		if _, err := r.admin.UpdateStream(r.ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	m.worker.MaxDeliver, m.worker.BackOff = 5, []time.Duration{time.Second}
	if _, err := r.admin.UpdateConsumer(r.ctx, spec.Stream, m.worker); err != nil {
		t.Fatal(err)
	}
	for _, bucket := range []string{spec.Bucket, spec.StateBucket()} {
		s, err := r.admin.Stream(r.ctx, "KV_"+bucket)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		cfg.MaxMsgsPerSubject = 1 // as an earlier version made that of the state
		if _, err := r.admin.UpdateStream(r.ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	containsAll(t, q.Weaknesses(r.ctx), "KV_passcode-resets keeps 1 states of a request", "KV_passcode-resets-state keeps 1 values of a key")
	r.setup(Layout{Update: true})
	for _, w := range q.Weaknesses(r.ctx) {
		if strings.Contains(w, " keeps ") {
			t.Errorf("after the update: %q", w)
		}
	}
	for _, cfg := range []jetstream.StreamConfig{m.requests, m.letters} { // the update has undone this, too
		if _, err := r.admin.UpdateStream(r.ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.admin.UpdateConsumer(r.ctx, spec.Stream, m.worker); err != nil {
		t.Fatal(err)
	}
	containsAll(t, q.Weaknesses(r.ctx), "PASSCODE_RESETS discards old", "PASSCODE_RESETS drops requests after 1h",
		"keeps only 10 requests", "PASSCODE_RESETS_DEAD discards old", "at most 5 times", "back-off list")

	if err := r.admin.DeleteStream(r.ctx, spec.Stream); err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.CreateStream(r.ctx, jetstream.StreamConfig{
		Name: spec.Stream, Subjects: []string{"passcode.reset.requests.*"}, Storage: jetstream.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.CreateConsumer(r.ctx, spec.Stream, jetstream.ConsumerConfig{Durable: spec.Consumer()}); err != nil {
		t.Fatal(err)
	}
	containsAll(t, q.Weaknesses(r.ctx), "in memory", "instead of work queue", "takes [] instead of")
	// Nothing to say about explicit acks, a pinned group, and a filter that is written as a list.
	if got := ConsumerWeaknesses(jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1,
		PriorityPolicy: jetstream.PriorityPolicyPinned, PinnedTTL: pinnedTTL, FilterSubjects: []string{spec.Filter()}}, spec); got != nil {
		t.Errorf("%q", got)
	}
}

func containsAll(t *testing.T, got []string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, part) }) {
			t.Errorf("%q is not said in %q", part, got)
		}
	}
}

// TestWeaknessesLockedDown may not read the streams: what it may read is still
// looked at, and the end of the context ends it.
func TestWeaknessesLockedDown(t *testing.T) {
	t.Parallel()
	r := newLockedRig(t, append([]string{"$JS.API.STREAM.INFO.KV_passcode-resets"}, locked...), []string{"_INBOX.>"})
	containsAll(t, r.queue().Weaknesses(r.ctx), "KV_passcode-resets is kept in memory")
	short, cancel := context.WithTimeout(r.ctx, 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	r.queue().Weaknesses(short)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestUnserved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if got, err := Unserved(r.ctx, r.js, spec); err == nil {
		t.Errorf("without a stream: %q", got)
	}
	r.setup(Layout{Memory: true})
	for _, tenant := range []string{"default", "zeta", "alpha", "alpha", "other"} {
		if _, err := r.admin.Publish(r.ctx, "passcode.reset.requests."+tenant, nil); err != nil {
			t.Fatal(err)
		}
	}
	other := spec
	other.Tenant = "other"
	if _, err := Setup(r.ctx, r.admin, other, Layout{}); err != nil {
		t.Fatal(err)
	}
	if got, err := Unserved(r.ctx, r.js, spec); err != nil || !slices.Equal(got, []string{"alpha", "zeta"}) {
		t.Errorf("%q, %v, want alpha and zeta", got, err)
	}
	r.run(Config{Handle: func(_, _ context.Context, _ Message) Disposition { return Ack() }})
	r.await("the end of the queue", func() bool { return r.left(spec.Stream) == 4 })
	if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
		t.Fatal(err)
	}
	// Nothing waits for the default tenant, so nobody need serve it.
	if got, err := Unserved(r.ctx, r.js, spec); err != nil || !slices.Equal(got, []string{"alpha", "zeta"}) {
		t.Errorf("%q, %v, want alpha and zeta", got, err)
	}
}

func TestOlderThan(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.12.4": true, "2.12.5": false, "2.12.6": false, "2.12.10": false, "2.11.99": true, "2.13.0": false, "2.15.2": false,
		"1.99.99": true, "3.0.0": false, "10.0.0": false,
		"2.12.4-RC.1": true, "2.12.5-RC.1": false, "2.12.4+build": true, "2.12.5+build": false, "2.15.0-preview.1": false,
		"2.12": false, "2.11": true, "2": false, "1": true, "2.12.5.1": false, "2.12.4.9": true,
		"": false, "x": false, "2.x": false, "v2.1.1": false, "-": false,
	} {
		if got := olderThan(version, 2, 12, 5); got != want {
			t.Errorf("olderThan(%q) = %v, want %v", version, got, want)
		}
	}
}
