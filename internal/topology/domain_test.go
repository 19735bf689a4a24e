package topology

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
)

// TestSubjects are those of JetStream here, of a domain, and of another account.
func TestSubjects(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o       jetstream.JetStreamOptions
		api, kv string
	}{
		{jetstream.JetStreamOptions{}, "$JS.API.STREAM.INFO.S", "$KV.b.k"},
		{jetstream.JetStreamOptions{APIPrefix: "$JS.API."}, "$JS.API.STREAM.INFO.S", "$KV.b.k"},
		{jetstream.JetStreamOptions{Domain: "hub"}, "$JS.hub.API.STREAM.INFO.S", "$JS.hub.API.$KV.b.k"},
		{jetstream.JetStreamOptions{APIPrefix: "JS.owner"}, "JS.owner.STREAM.INFO.S", "JS.owner.$KV.b.k"},
		{jetstream.JetStreamOptions{APIPrefix: "JS.owner."}, "JS.owner.STREAM.INFO.S", "JS.owner.$KV.b.k"},
	} {
		if api, kv := API(c.o, "STREAM.INFO.S"), KV(c.o, "b", "k"); api != c.api || kv != c.kv {
			t.Errorf("%+v: %s, %s", c.o, api, kv)
		}
	}
}

// TestTakers finds who stores what comes on a subject, and leaves nothing behind.
func TestTakers(t *testing.T) {
	t.Parallel()
	hub, leaf, err := natstest.StartLeaf(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Stop)
	t.Cleanup(leaf.Stop)
	r, far := newRigAt(t, hub.URL(), "", ""), newRigAt(t, leaf.URL(), "", "")
	find := func(wait time.Duration, most int) []string {
		t.Helper()
		found, err := Takers(r.ctx, r.nc, "a.b", wait, most)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	began := time.Now()
	if found := find(testTime, 0); len(found) != 0 || time.Since(began) > testTime/2 {
		t.Errorf("%q after %s", found, time.Since(began))
	}
	makeAt := func(r *rig, name string) {
		t.Helper()
		if _, err := r.admin.CreateStream(r.ctx, jetstream.StreamConfig{Name: name, Subjects: []string{"a.*"}, Storage: jetstream.MemoryStorage}); err != nil {
			t.Fatal(err)
		}
	}
	makeAt(r, "NEAR")
	r.await("a second one to be refused", func() bool { return errors.Is(alone(r.ctx, far.js, "a.b"), ErrTaken) })
	if err := alone(r.ctx, r.js, "a.b"); err != nil { // the server refuses it
		t.Error(err)
	}
	makeAt(far, "FAR")
	r.await("both to answer", func() bool { return len(find(time.Second, 2)) == 2 })
	found := find(time.Second, 0)
	slices.Sort(found)
	if !slices.Equal(found, []string{"FAR", "NEAR"}) || !slices.Equal(Others(found, "NEAR"), []string{"FAR"}) || len(find(testTime, 1)) != 1 {
		t.Errorf("%q", found)
	}
	if n := r.left("NEAR") + far.left("FAR"); n != 0 {
		t.Errorf("%d messages were stored", n)
	}
}

// TestOfDomain takes no answer of another domain for one of the domain that is
// meant.
func TestOfDomain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hub, err := jetstream.NewWithDomain(r.nc, "hub")
	if err != nil {
		t.Fatal(err)
	}
	for domain, meant := range map[string]bool{"hub": true, "leaf": false, "": false} {
		if err := OfDomain(hub, &jetstream.PubAck{Stream: "S", Domain: domain}); errors.Is(err, ErrOtherDomain) == meant {
			t.Errorf("hub is meant, %q answers: %v", domain, err)
		}
		if err := OfDomain(r.js, &jetstream.PubAck{Stream: "S", Domain: domain}); err != nil {
			t.Errorf("any is meant, %q answers: %v", domain, err)
		}
	}
}
