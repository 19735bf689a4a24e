package topology

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestDefaultNames(t *testing.T) {
	t.Parallel()
	if got := DefaultNames(); got != spec {
		t.Errorf("%+v, want %+v", got, spec)
	}
}

// TestWake hears of each request that is stored, by its headers alone, from streams whose
// subjects have few tokens and many.
func TestWake(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for stream, subject := range map[string]string{spec.Stream: spec.Subject, "SHORT": "r", "LONG": "a.b.c.d.e.f"} {
		n := spec
		n.Tenant, n.Stream, n.Subject = "acme", stream, subject
		n.DeadStream, n.DeadSubject, n.Bucket = stream+"_D", subject+".dead", stream
		if _, err := SetupShared(r.ctx, r.admin, n, Layout{Memory: true}); err != nil {
			t.Fatal(err)
		}
		sub, err := r.nc.SubscribeSync(n.Wakes())
		if err != nil {
			t.Fatal(err)
		}
		if err := r.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		request := &nats.Msg{Subject: n.Filter(), Header: nats.Header{"Nats-Msg-Id": {"INC1"}}, Data: []byte("SECRET")}
		if _, err := r.admin.PublishMsg(r.ctx, request); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsgWithContext(r.ctx)
		if err != nil {
			t.Fatalf("%s: %v", stream, err)
		}
		tenant, is := n.Woken(m.Subject)
		if m.Subject != n.Wake() || tenant != "acme" || !is || len(m.Data) != 0 || m.Reply != "" || m.Header.Get("Nats-Stream") != stream {
			t.Errorf("%s: %s wakes %q, %t: %q", stream, m.Subject, tenant, is, m.Data)
		}
		// A copy is not stored, and wakes nobody.
		if ack, err := r.admin.PublishMsg(r.ctx, request); err != nil || !ack.Duplicate {
			t.Fatal(ack, err)
		}
		// Nor does what is refused, such as the question who takes the subject.
		if _, err := Takers(r.ctx, r.nc, n.Filter(), takersWait, 1); err != nil {
			t.Fatal(err)
		}
		if err := r.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if left, _, err := sub.Pending(); left != 0 || err != nil {
			t.Errorf("%s: %d further, %v", stream, left, err)
		}
	}
	for _, subject := range []string{"", "passcode.reset.wake.PASSCODE_RESETS", "passcode.reset.wake.PASSCODE_RESETS.", "passcode.reset.wake.PASSCODE_RESETS.a.b",
		"passcode.reset.wake.OTHER.a", "x.passcode.reset.wake.PASSCODE_RESETS.a"} {
		if tenant, is := spec.Woken(subject); is {
			t.Errorf("%q wakes %q", subject, tenant)
		}
	}
}

// TestWakeOfOldStream is added by an update only, and until then said to be missing.
func TestWakeOfOldStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := Layout{}.Requests(spec)
	old.Replicas, old.RePublish = 1, nil
	if _, err := r.admin.CreateStream(r.ctx, old); err != nil {
		t.Fatal(err)
	}
	says := func() string {
		return weak(StreamWeaknesses(r.stream(spec.Stream).CachedInfo().Config, spec, 0))
	}
	const missing = "does not wake workers by passcode.reset.wake.PASSCODE_RESETS.default"
	r.setup(Layout{})
	if got := says(); !strings.Contains(got, missing) {
		t.Errorf("a plain set-up: %q", got)
	}
	r.setup(Layout{Update: true})
	if got := says(); got != "" {
		t.Errorf("an update: %q", got)
	}
	if again := r.stream(spec.Stream).CachedInfo().Config.RePublish; *again != (jetstream.RePublish{
		Source: "passcode.reset.requests.*", Destination: "passcode.reset.wake.PASSCODE_RESETS.{{wildcard(1)}}", HeadersOnly: true,
	}) {
		t.Errorf("%+v", again)
	}
}
