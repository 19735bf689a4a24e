package topology

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"passcode-worker/internal/natstest"
)

func TestMain(m *testing.M) {
	// A NATS server that is stopped while it opens a stream leaves the stream's
	// store behind, and the clock of all stores with it.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// testTime bounds every wait of a test.
const testTime = 120 * time.Second

// spec are the names of the contract.
var spec = Names{
	Tenant: "default",
	Stream: "PASSCODE_RESETS", Subject: "passcode.reset.requests",
	DeadStream: "PASSCODE_RESETS_DEAD", DeadSubject: "passcode.reset.dead",
	Bucket:       "passcode-resets",
	FollowStream: "PASSCODE_RESETS_FOLLOW", FollowSubject: "passcode.reset.follow",
}

// rig is a server with a worker's connection to it and an administrator's.
type rig struct {
	t      *testing.T
	ctx    context.Context
	server *natstest.Server // nil with a cluster
	nc     *nats.Conn
	js     jetstream.JetStream
	admin  jetstream.JetStream
}

func newRig(t *testing.T) *rig {
	t.Helper()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	r := newRigAt(t, s.URL(), "", "")
	r.server = s
	return r
}

// newRigAt connects to a server as two users, whose names are their passwords.
func newRigAt(t *testing.T, url, worker, admin string) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	t.Cleanup(cancel)
	connect := func(user string) jetstream.JetStream {
		nc, err := nats.Connect(url, nats.UserInfo(user, user), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
			nats.ReconnectWait(20*time.Millisecond), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	r := &rig{t: t, ctx: ctx, js: connect(worker), admin: connect(admin)}
	r.nc = r.js.Conn()
	return r
}

// newLockedRig runs a server that has everything, and on which the worker may
// publish only on the given subjects.
func newLockedRig(t *testing.T, publish ...string) *rig {
	t.Helper()
	s, err := natstest.StartWith(server.Options{ServerName: "test", StoreDir: t.TempDir(), Users: []*server.User{
		{Username: "admin", Password: "admin"},
		{Username: "worker", Password: "worker", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	r := newRigAt(t, s.URL(), "worker", "admin")
	r.setup(Layout{Memory: true})
	return r
}

// await waits until a condition holds.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func (r *rig) setup(l Layout) {
	r.t.Helper()
	if _, err := Setup(r.ctx, r.admin, spec, l); err != nil {
		r.t.Fatal(err)
	}
}

// stream looks a stream up.
func (r *rig) stream(name string) jetstream.Stream {
	r.t.Helper()
	s, err := r.admin.Stream(r.ctx, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// left is how many messages a stream has.
func (r *rig) left(stream string) uint64 {
	r.t.Helper()
	return r.stream(stream).CachedInfo().State.Msgs
}

// weaknesses of what the rig has.
func (r *rig) weaknesses() []string { return Weaknesses(r.ctx, r.js, spec, 0, true) }

// sendRaw publishes a message whose headers no library would send.
func (r *rig) sendRaw(subject, header, body string) {
	r.t.Helper()
	if err := natstest.PublishRaw(r.server.URL(), subject, header, body); err != nil {
		r.t.Fatal(err)
	}
}

// info is that of the tenant's consumer.
func (r *rig) info() *jetstream.ConsumerInfo {
	r.t.Helper()
	c, err := r.admin.Consumer(r.ctx, spec.Stream, spec.Consumer())
	if err != nil {
		r.t.Fatal(err)
	}
	return c.CachedInfo()
}
