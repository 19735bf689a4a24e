package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

func TestMain(m *testing.M) {
	// A NATS server that is stopped while it opens a stream leaves the stream's
	// store behind, and the clock of all stores with it.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// testTime bounds every wait of a test.
const testTime = 30 * time.Second

// spec are the names that the tests use.
var spec = topology.DefaultNames()

// rig is a server, a worker's connection to it through a proxy, and an
// administrator's without one.
type rig struct {
	t       *testing.T
	ctx     context.Context
	server  *natstest.Server
	proxy   *natstest.Proxy
	letters *Publisher // of the worker
	admin   jetstream.JetStream
	down    chan struct{}
	up      chan struct{}
}

// newRig runs a server on which the worker may publish dead letters, and nothing else.
func newRig(t *testing.T) *rig {
	t.Helper()
	s, err := natstest.StartWith(server.Options{ServerName: "test", StoreDir: t.TempDir(), Users: []*server.User{
		{Username: "admin", Password: "admin"},
		{Username: "worker", Password: "worker", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"passcode.reset.dead.default"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, server: s, down: make(chan struct{}, 99), up: make(chan struct{}, 99)}
	if r.proxy, err = natstest.StartProxy(s.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.proxy.Close)
	connect := func(url, user string, opts ...nats.Option) jetstream.JetStream {
		nc, err := nats.Connect(url, append(opts, nats.UserInfo(user, user), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
			nats.ReconnectWait(20*time.Millisecond))...)
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
	r.admin = connect(s.URL(), "admin")
	r.letters = New(connect(r.proxy.URL(), "worker",
		nats.DisconnectErrHandler(func(*nats.Conn, error) { r.down <- struct{}{} }),
		nats.ReconnectHandler(func(*nats.Conn) { r.up <- struct{}{} })), spec)
	return r
}

func (r *rig) setup() {
	r.t.Helper()
	if _, err := topology.Setup(r.ctx, r.admin, spec, topology.Layout{Memory: true}); err != nil {
		r.t.Fatal(err)
	}
}

// receive takes the next of a channel.
func (r *rig) receive(c <-chan struct{}, what string) {
	r.t.Helper()
	select {
	case <-c:
	case <-r.ctx.Done():
		r.t.Fatalf("waited in vain for: %s", what)
	}
}

func (r *rig) stream(name string) jetstream.Stream {
	r.t.Helper()
	s, err := r.admin.Stream(r.ctx, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// stored reads the only message of a stream, or fails if there is not exactly one.
func (r *rig) stored(stream, subject string) *topology.Stored {
	r.t.Helper()
	if n := r.stream(stream).CachedInfo().State.Msgs; n != 1 {
		r.t.Fatalf("%d messages in %s, want 1", n, stream)
	}
	m, err := topology.StoredNext(r.ctx, r.admin, stream, subject, 1)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// letter reads the only dead letter.
func (r *rig) letter() *topology.Stored {
	r.t.Helper()
	return r.stored(spec.DeadStream, spec.Dead())
}

// bury makes a letter of the only request, and reads both.
func (r *rig) bury() (m, l *topology.Stored) {
	r.t.Helper()
	m = r.stored(spec.Stream, spec.Filter())
	if err := r.letters.Publish(r.ctx, Original{
		Subject: m.Subject, Header: m.Header, Data: m.Data, Stream: spec.Stream, Sequence: m.Sequence, Published: m.Time,
	}, letter); err != nil {
		r.t.Fatalf("the letter of %d bytes and headers %v: %v", len(m.Data), slices.Collect(maps.Keys(m.Header)), err)
	}
	return m, r.letter()
}

func TestPublish(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup()
	m := request
	m.Header = nats.Header{"traceparent": {"00-1"}, "Nats-Msg-Id": {"x"}, "Nats-TTL": {"1s"}}
	for range 2 {
		if err := r.letters.Publish(r.ctx, m, letter); err != nil {
			t.Fatal(err)
		}
	}
	got := r.letter()
	if !bytes.Equal(got.Data, m.Data) || got.Subject != "passcode.reset.dead.default" {
		t.Errorf("%s: %s", got.Subject, got.Data)
	}
	died, err := time.Parse(time.RFC3339Nano, got.Header.Get(HeaderTime))
	if err != nil || time.Since(died) > testTime {
		t.Errorf("died at %s, %v", got.Header.Get(HeaderTime), err)
	}
	for name, want := range map[string]string{"traceparent": "00-1", "Nats-TTL": ""} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if read, want := Parse(got.Header), (Read{Letter: letter, Stream: "PASSCODE_RESETS", Sequence: 42}); read != want {
		t.Errorf("read as %+v, want %+v", read, want)
	}
	// Another message, or the same number in a stream made anew, is another letter.
	m.Published = m.Published.Add(1)
	if err := r.letters.Publish(r.ctx, m, letter); err != nil {
		t.Fatal(err)
	}
	if n := r.stream(spec.DeadStream).CachedInfo().State.Msgs; n != 2 {
		t.Errorf("%d dead letters, want 2", n)
	}
}

func TestPublishReplyLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup()
	lost := r.proxy.SwallowNext(1, natstest.PubAck(spec.DeadStream))
	short, cancel := context.WithTimeout(r.ctx, 300*time.Millisecond)
	defer cancel()
	if err := r.letters.Publish(short, request, letter); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish without a reply: %v", err)
	}
	r.receive(lost, "the loss of the reply")
	if err := r.letters.Publish(r.ctx, request, letter); err != nil {
		t.Error(err)
	}
	r.letter()
}

// TestPublishFails leaves nothing behind but the error.
func TestPublishFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.letters.Publish(r.ctx, request, letter); err == nil || !strings.Contains(err.Error(), "passcode.reset.dead.default") {
		t.Errorf("Publish without a stream: %v", err)
	}
	cfg := topology.Layout{Memory: true, Replicas: 1}.Letters(spec)
	cfg.Name = "OTHER"
	if _, err := r.admin.CreateStream(r.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if err := r.letters.Publish(r.ctx, request, letter); err == nil {
		t.Error("the letter went to another stream")
	}
	if n := r.stream("OTHER").CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages in the other stream", n)
	}
	if err := r.admin.DeleteStream(r.ctx, "OTHER"); err != nil {
		t.Fatal(err)
	}
	cfg.Name, cfg.MaxMsgs = spec.DeadStream, 1
	if _, err := r.admin.CreateStream(r.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if err := r.letters.Publish(r.ctx, request, letter); err != nil {
		t.Fatal(err)
	}
	second := request
	second.Sequence++
	if err := r.letters.Publish(r.ctx, second, letter); err == nil {
		t.Error("a full stream took a letter")
	}
	if got := Parse(r.letter().Header).Sequence; got != 42 {
		t.Errorf("the letter of %d is there, want that of 42", got)
	}
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	if err := r.letters.Publish(r.ctx, second, letter); err == nil {
		t.Error("published while NATS is away")
	}
	r.proxy.Heal()
	r.receive(r.up, "a new connection")
	r.letter()
}

// TestPublishLarge sends what the server only just took as a request.
func TestPublishLarge(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup()
	header := nats.Header{"traceparent": {"00-1"}}
	for i := range 60 {
		header[fmt.Sprint("X-", i)] = []string{strings.Repeat("x", 1000)}
	}
	for _, m := range []*nats.Msg{
		{Data: make([]byte, maxPayload)},
		{Data: make([]byte, maxPayload-headerSize(header)), Header: header},
		{Header: nats.Header{"Huge": {strings.Repeat("h", 65400)}, "traceparent": {"00-1"}}},
		{Header: nats.Header{"Status": {"404"}, "Description": {"gone"}, "traceparent": {"00-1"}}},
	} {
		m.Subject = spec.Filter()
		if _, err := r.admin.PublishMsg(r.ctx, m); err != nil {
			t.Fatal(err)
		}
		_, got := r.bury()
		if len(m.Data) > 0 && got.Header.Get(HeaderTruncated) != strconv.Itoa(len(m.Data)) || !bytes.HasPrefix(m.Data, got.Data) {
			t.Errorf("%d bytes of %d, truncated: %q", len(got.Data), len(m.Data), got.Header.Get(HeaderTruncated))
		}
		if read := Parse(got.Header); read.Truncated != (len(got.Data) < len(m.Data)) {
			t.Errorf("%d bytes of %d, read as %+v", len(got.Data), len(m.Data), read)
		}
		if got.Header.Get("traceparent") != m.Header.Get("traceparent") {
			t.Errorf("a small header was left out of %v", slices.Collect(maps.Keys(got.Header)))
		}
		for _, name := range []string{spec.Stream, spec.DeadStream} {
			if err := r.stream(name).Purge(r.ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPublishForeignHeaders takes headers that this library would not send, but
// others do.
func TestPublishForeignHeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup()
	header := "NATS/1.0\r\na/b: slash\r\nc d: space\r\nü: umlaut\r\nok: yes\r\nblank:  x \r\n\r\n"
	body := "{}"
	admin := strings.Replace(r.server.URL(), "nats://", "nats://admin:admin@", 1)
	if err := natstest.PublishRaw(admin, spec.Filter(), header, body); err != nil {
		t.Fatal(err)
	}
	m, got := r.bury()
	if got.Header.Get("ok") != "yes" || got.Header.Get(HeaderDropped) != "3" || string(got.Data) != body {
		t.Errorf("letter %v, message %v", got.Header, m.Header)
	}
	if c := Carried(got.Header); len(c) != 2 || c.Get("blank") == "" {
		t.Errorf("the letter bears %v of %v", c, m.Header)
	}
}
