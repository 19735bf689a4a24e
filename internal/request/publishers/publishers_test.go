// Package publishers_test publishes requests in the ways that integrators do, with the libraries that
// they use, on a real NATS server, and reads them as the worker does.
package publishers_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/request"
)

const (
	stream  = "PASSCODE_RESETS"
	subject = "passcode.reset.requests.default"
	device  = "600d0000-0000-4000-8000-000000000001"

	// requireTools is the variable that makes a missing program, or a package that cannot be installed,
	// an error, as CI wants it.
	requireTools = "PUBLISHERS_REQUIRE_TOOLS"
	// patience bounds one foreign program.
	patience = 2 * time.Minute
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "nats" {
		os.Exit(natsTool(os.Args[1:]))
	}
	// See internal/record.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// queue is a server with the stream of requests, from which each is read once.
type queue struct {
	t   *testing.T
	url string
	nc  *nats.Conn
	js  jetstream.JetStream
	seq uint64 // the last message read
}

func newQueue(t *testing.T) *queue {
	t.Helper()
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
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: []string{"passcode.reset.requests.*"}}); err != nil {
		t.Fatal(err)
	}
	return &queue{t: t, url: s.URL(), nc: nc, js: js}
}

// next reads the next request.
func (q *queue) next(what string) request.Request {
	q.t.Helper()
	s, err := q.js.Stream(q.t.Context(), stream)
	if err != nil {
		q.t.Fatal(err)
	}
	q.seq++
	m, err := s.GetMsg(q.t.Context(), q.seq)
	if err != nil {
		q.t.Fatalf("%s: %v", what, err)
	}
	r, err := request.Decode(request.Source{Data: m.Data, Header: m.Header, Stream: stream, Sequence: m.Sequence})
	if err != nil {
		q.t.Errorf("%s: %v\n%v\n%s", what, err, m.Header, m.Data)
	}
	return r
}

// end checks that there is no further message.
func (q *queue) end() {
	q.t.Helper()
	s, err := q.js.Stream(q.t.Context(), stream)
	if err != nil {
		q.t.Fatal(err)
	}
	if n := s.CachedInfo().State.LastSeq; n != q.seq {
		q.t.Errorf("%d messages, want %d", n, q.seq)
	}
}

// missing ends a test that needs what is not there.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv(requireTools) != "" {
		t.Fatalf("%s (%s is set)", what, requireTools)
	}
	t.Skip(what)
}

// run runs a program in a folder and returns what it printed.
func run(t *testing.T, dir string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), errors.Join(err, errors.New(string(exit.Stderr)))
	}
	return string(out), err
}

// same compares a request with what was published of it.
func same(t *testing.T, what string, got, want request.Request) {
	t.Helper()
	want.IDGiven = true
	if got != want {
		t.Errorf("%s: read %+v, want %+v", what, got, want)
	}
}
