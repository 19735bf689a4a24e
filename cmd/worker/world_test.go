package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
	"passcode-worker/internal/topology"
)

// names are what everything is called where nothing else is said.
var names = sandbox.Names()

// world is a real NATS server and a simulated Graph.
type world struct {
	t    *testing.T
	ctx  context.Context
	nats *natstest.Server // nil where the server is a process of its own
	url  string           // of the server
	sim  *graphsim.Sim
	js   jetstream.JetStream
	ca   string // file

	environment map[string]string // of a worker, with the times of the service
}

func newWorld(t *testing.T, sim graphsim.Config) *world {
	t.Helper()
	return newWorldWith(t, sim, server.Options{})
}

func newWorldWith(t *testing.T, sim graphsim.Config, opts server.Options) *world {
	t.Helper()
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		t.Skip("SSL_CERT_FILE has no effect here")
	}
	return worldOf(t, sandbox.Options{Sim: sim, NATS: &opts, Connect: []nats.Option{nats.UserInfo(opts.Username, opts.Password)}})
}

// newGraph is a world without a NATS server.
func newGraph(t *testing.T, sim graphsim.Config) *world {
	t.Helper()
	return worldOf(t, sandbox.Options{Sim: sim})
}

func worldOf(t *testing.T, o sandbox.Options) *world {
	t.Helper()
	o.Dir = t.TempDir()
	w, err := sandbox.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return &world{t: t, ctx: t.Context(), nats: w.NATS, url: w.URL, sim: w.Sim, js: w.JS, ca: w.CA, environment: w.Environment()}
}

func connect(t *testing.T, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, append(opts, nats.MaxReconnects(-1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(testTime))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// env is the environment of a worker in this world, with short times. Nothing
// but documented variables is in it.
func (w *world) env(changes ...string) map[string]string {
	env := with(w.environment, "NATS_URL", w.url)
	maps.Copy(env, map[string]string{
		"WORKER_LOG_LEVEL":       "debug",
		"WORKER_RATE":            "0",
		"WORKER_REQUEST_TIMEOUT": "2s",
		"WORKER_VERIFY_AFTER":    "1s",
		"WORKER_BACKOFF_MIN":     "100ms",
		"WORKER_BACKOFF_MAX":     "1s",
		"WORKER_MAX_PAUSE":       "3s",
		"WORKER_MAX_ATTEMPTS":    "3",
		"WORKER_DRAIN_TIMEOUT":   "10s",
	})
	return with(env, changes...)
}

// setUp makes the streams, the bucket and the consumer.
func (w *world) setUp() {
	w.t.Helper()
	if _, err := topology.Setup(w.ctx, w.js, names, topology.Layout{}); err != nil {
		w.t.Fatal(err)
	}
}

// publish puts a request on the stream and returns its sequence.
func (w *world) publish(data string, header nats.Header) uint64 {
	w.t.Helper()
	ack, err := w.js.PublishMsg(w.ctx, &nats.Msg{Subject: names.Filter(), Data: []byte(data), Header: header})
	if err != nil {
		w.t.Fatal(err)
	}
	if ack.Duplicate {
		w.t.Fatalf("the stream took %q for a duplicate", data)
	}
	return ack.Sequence
}

// body is a request for a device; more are further fields.
func body(id, device string, more ...string) string { return scenario.Body(id, device, more...) }

func (w *world) stream(name string) *jetstream.StreamInfo {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return s.CachedInfo()
}

func (w *world) awaitEmpty() {
	w.t.Helper()
	await(w.t, "the request stream to be empty", func() bool { return w.stream(names.Stream).State.Msgs == 0 })
}

// messages reads everything that a stream holds.
func (w *world) messages(name string) []*jetstream.RawStreamMsg {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, name)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []*jetstream.RawStreamMsg
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq > 0 && seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(w.ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // an older record that the history does not hold any more
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// records are the present records by the escaped id.
func (w *world) records() map[string]record.Record {
	w.t.Helper()
	out := map[string]record.Record{}
	for _, m := range w.messages("KV_" + names.Bucket) {
		var r record.Record
		if err := json.Unmarshal(m.Data, &r); err != nil {
			w.t.Fatalf("record %s: %v", m.Subject, err)
		}
		out[strings.TrimPrefix(m.Subject, "$KV."+names.Bucket+".default.")] = r
	}
	return out
}

// record is the record of a request; without one it has no state.
func (w *world) record(id string) record.Record {
	w.t.Helper()
	var r record.Record
	kv, err := w.js.KeyValue(w.ctx, names.Bucket)
	if err != nil {
		return r
	}
	entry, err := kv.Get(w.ctx, "default."+id)
	if err != nil {
		return r
	}
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) awaitState(id string, state record.State) {
	w.t.Helper()
	await(w.t, fmt.Sprintf("request %s to be %s", id, state), func() bool { return w.record(id).State == state })
}

// checkSim reports what no correct worker does.
func (w *world) checkSim() {
	w.t.Helper()
	if v := w.sim.Violations(); len(v) > 0 {
		w.t.Errorf("violations: %q", v)
	}
	if s := w.sim.Status(); len(s.ResetTwice) > 0 {
		w.t.Errorf("reset twice: %q", s.ResetTwice)
	}
	var told time.Time // when the present pause was asked for
	for _, c := range w.sim.Calls() {
		after := c.Time.Sub(told)
		if (c.Status == 429 || c.Status == 503) && after > shortestPause {
			told, after = c.Time, 0
		}
		if c.SentDuringRetryAfter && after > underWay {
			w.t.Errorf("%s for %s %s after Graph had asked for a pause", c.Method, c.Device, after)
		}
	}
}

const (
	// shortestPause is a little less than any that the tests let Graph ask for.
	shortestPause = 800 * time.Millisecond
	// underWay is how long a call may take to arrive where more runs than the
	// machine has processors for.
	underWay = 300 * time.Millisecond
)

// checkSecrets looks for secrets in everything that can be read from outside.
func (w *world) checkSecrets(p *process, more ...string) {
	w.t.Helper()
	_, ready := p.get("/readyz")
	_, metrics := p.get("/metrics")
	_, index := p.get("/")
	places := map[string]string{
		"the log": p.err.String(), "standard output": p.out.String(),
		"/readyz": ready, "/metrics": metrics, "/": index,
	}
	for _, name := range []string{names.DeadStream, "KV_" + names.Bucket} {
		var all strings.Builder
		for _, m := range w.messages(name) {
			fmt.Fprintln(&all, m.Subject, m.Header, string(m.Data))
		}
		places[name] = all.String()
	}
	secrets := append(w.sim.Secrets(), more...)
	for place, text := range places {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				w.t.Errorf("%s holds the secret %s", place, s)
			}
		}
	}
}
