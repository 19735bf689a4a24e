package topology

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestWeaknesses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if got := r.weaknesses(); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
	r.setup(Layout{})
	// One server is all that there is to say about what Setup makes on it.
	got := r.weaknesses()
	if len(got) != 7 || !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "KV_passcode-resets has 1 replica") }) {
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
	containsAll(t, r.weaknesses(), "KV_passcode-resets keeps 1 states of a request", "KV_passcode-resets-state keeps 1 values of a key")
	r.setup(Layout{Update: true})
	for _, w := range r.weaknesses() {
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
	containsAll(t, r.weaknesses(), "PASSCODE_RESETS discards old", "PASSCODE_RESETS silently drops requests after 1h",
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
	containsAll(t, r.weaknesses(), "in memory", "instead of work queue", "takes [] instead of")
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
	r := newLockedRig(t, "$JS.API.STREAM.INFO.KV_passcode-resets")
	containsAll(t, r.weaknesses(), "KV_passcode-resets is kept in memory")
	short, cancel := context.WithTimeout(r.ctx, 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	Weaknesses(short, r.js, spec, 0, true)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestUnserved: those have no worker whose requests wait without a consumer, or at a
// consumer that nobody asks for messages, because what a tenant had stays when it is
// removed from the list of those that are served.
func TestUnserved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if got, err := Unserved(r.ctx, r.js, spec); err == nil {
		t.Errorf("without a stream: %q", got)
	}
	r.setup(Layout{Memory: true})
	told := func(want ...string) {
		t.Helper()
		if got, err := Unserved(r.ctx, r.js, spec); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	consumer := func(tenant string) jetstream.Consumer {
		n := spec
		n.Tenant = tenant
		if _, err := SetupConsumer(r.ctx, r.admin, n, Layout{}); err != nil {
			t.Fatal(err)
		}
		c, err := r.admin.Consumer(r.ctx, n.Stream, n.Consumer())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	taken, paused := consumer("taken"), consumer("paused")
	consumer("left")
	consumer("quiet") // has no requests
	for _, tenant := range []string{"default", "zeta", "alpha", "alpha", "left", "taken", "taken", "paused"} {
		if _, err := r.admin.Publish(r.ctx, "passcode.reset.requests."+tenant, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.admin.PauseConsumer(r.ctx, spec.Stream, paused.CachedInfo().Name, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	batch, err := taken.Fetch(1, jetstream.FetchMaxWait(time.Minute), jetstream.FetchPriorityGroup(group))
	if err != nil {
		t.Fatal(err)
	}
	if msg := <-batch.Messages(); msg == nil {
		t.Fatal(batch.Error())
	}
	// One who has taken a message is pinned, and works on it.
	told("alpha", "default", "left", "zeta")

	if err := r.stream(spec.Stream).Purge(r.ctx, jetstream.WithPurgeSubject(spec.Filter())); err != nil {
		t.Fatal(err)
	}
	if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
		t.Fatal(err)
	}
	// Nothing waits for the default tenant, so nobody need serve it. Who had taken a message
	// has not been heard of since, so that its pin has lapsed.
	r.await("the pin to lapse", func() bool {
		info, err := taken.Info(r.ctx)
		return err == nil && Pinned(info) == ""
	})
	told("alpha", "left", "taken", "zeta")
}

// TestUnservedUnlisted may not list the consumers: tenants without one are told all the same,
// with the reason why others may be missing.
func TestUnservedUnlisted(t *testing.T) {
	t.Parallel()
	r := newLockedRig(t, "$JS.API.STREAM.INFO."+spec.Stream, "$JS.API.CONSUMER.NAMES."+spec.Stream)
	for _, tenant := range []string{"default", "alpha"} {
		if _, err := r.admin.Publish(r.ctx, spec.Subject+"."+tenant, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Unserved(r.ctx, r.js, spec); err == nil || !slices.Equal(got, []string{"alpha"}) {
		t.Errorf("%q, %v", got, err)
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
