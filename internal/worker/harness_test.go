package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natsconn"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of the tests wait most of the time. With -short comes the race detector,
	// which makes work of it.
	parallel := "10"
	if testing.Short() {
		parallel = "8"
	}
	if err := flag.Set("test.parallel", parallel); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// testTime bounds every test that waits for something.
const testTime = 120 * time.Second

// clockGrace is by how much an action may seem to have begun before its attempt.
const clockGrace = 2 * time.Second

// rig is a real NATS server, a simulated Graph and the worker between them.
type rig struct {
	t     testing.TB
	nats  *natstest.Server
	sim   *graphsim.Sim
	nc    *nats.Conn
	js    jetstream.JetStream
	cfg   Config
	log   *lines
	addr  string
	names topology.Names
}

// lines keeps a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t testing.TB, sim graphsim.Config, change func(*Config)) *rig {
	t.Helper()
	s, err := graphsim.Start(sim)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	n, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	nc, err := nats.Connect(n.URL(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, nats: n, sim: s, nc: nc, js: js, log: &lines{}, addr: lowAddr(t)}
	r.names = topology.DefaultNames()
	enc := zap.NewProductionEncoderConfig()
	r.cfg = Config{
		NATS:  natsconn.Config{URL: n.URL()},
		Names: r.names,
		Setup: true,
		Tenants: []Tenant{{Name: "default", Credential: graph.Credential{
			Authority: s.URL(), TenantID: graphsim.DefaultTenantID, ClientID: graphsim.DefaultClientID,
			Scope: "https://graph.microsoft.com/.default", Secret: graphsim.DefaultClientSecret, RootCAs: s.CAs(),
		}}},
		Endpoint:    s.URL(),
		RootCAs:     s.CAs(),
		Concurrency: 32,
		MaxPause:    5 * time.Second,
		Policy: verdict.Policy{RequestTimeout: 4 * time.Second, MaxAttempts: 4, BackoffMin: 50 * time.Millisecond,
			BackoffMax: 500 * time.Millisecond, MaxAge: time.Hour, VerifyAfter: 300 * time.Millisecond, OnUnknown: verdict.UnknownDeadLetter},
		HTTPAddr:     r.addr,
		DrainTimeout: 10 * time.Second,
		Build:        metrics.Build{Version: "test"},
		Log:          zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.AddSync(r.log), zap.DebugLevel)),
	}
	if change != nil {
		change(&r.cfg)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the worker:\n%s", tail(r.log.String(), 20000))
		}
	})
	return r
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// start runs the worker; the returned function stops it and waits.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, r.cfg) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(testTime):
			r.t.Error("the worker did not stop")
		}
	}
	r.t.Cleanup(stop)
	r.await("readiness", func() bool { code, _ := r.get("/readyz"); return code == http.StatusOK })
	return stop
}

// await waits until a condition holds.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	await(r.t, what, ok)
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline, calm := time.After(testTime), time.After(500*time.Millisecond)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for: %s", what)
		case <-calm:
			tick.Reset(50 * time.Millisecond) // looking costs more than what is looked at
		case <-tick.C:
		}
	}
}

func (r *rig) get(path string) (int, string) {
	client := http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	resp, err := client.Get("http://" + r.addr + path)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(resp.Body)
	return resp.StatusCode, b.String()
}

// metric reads one series; 0 if it is not there.
func (r *rig) metric(series string) float64 {
	_, body := r.get("/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "passcode_reset_"+series+" "); ok {
			var f float64
			_, _ = fmt.Sscan(rest, &f)
			return f
		}
	}
	return 0
}

// publish puts a request on the stream and returns its sequence.
func (r *rig) publish(body string, header nats.Header) uint64 {
	r.t.Helper()
	// The worker may not have made the stream yet.
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	ack, err := r.js.PublishMsg(ctx, &nats.Msg{Subject: r.names.Filter(), Data: []byte(body), Header: header},
		jetstream.WithRetryAttempts(int(testTime/time.Second)), jetstream.WithRetryWait(time.Second))
	if err != nil {
		r.t.Fatal(err)
	}
	return ack.Sequence
}

func reset(id, device string) string {
	return fmt.Sprintf(`{"id":%q,"managedDeviceId":%q}`, id, device)
}

// record reads the record of an id.
func (r *rig) record(key string) record.Record {
	r.t.Helper()
	kv, err := r.js.KeyValue(context.Background(), r.names.Bucket)
	if err != nil {
		return record.Record{}
	}
	e, err := kv.Get(context.Background(), "default."+key)
	if err != nil {
		return record.Record{}
	}
	var rec record.Record
	if err := json.Unmarshal(e.Value(), &rec); err != nil {
		r.t.Fatal(err)
	}
	return rec
}

func (r *rig) awaitState(id string, s record.State) record.Record {
	r.t.Helper()
	r.await(fmt.Sprintf("%s to be %s", id, s), func() bool { return r.record(id).State == s })
	return r.record(id)
}

// letters reads all dead letters by sequence of the request.
func (r *rig) letters() map[string]*topology.Stored {
	r.t.Helper()
	out := map[string]*topology.Stored{}
	s, err := r.js.Stream(context.Background(), r.names.DeadStream)
	if err != nil {
		r.t.Fatal(err)
	}
	for seq := s.CachedInfo().State.FirstSeq; seq > 0 && seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := topology.StoredAt(context.Background(), r.js, r.names.DeadStream, seq) // from the leader: others may lag
		if err != nil || m == nil {
			r.t.Fatalf("letter %d: %v", seq, err)
		}
		key := m.Header.Get(deadletter.HeaderSequence)
		if out[key] != nil {
			r.t.Errorf("two dead letters for sequence %s", key)
		}
		out[key] = m
	}
	return out
}

// waiting is how many messages the request stream holds.
func (r *rig) waiting() uint64 {
	s, err := r.js.Stream(context.Background(), r.names.Stream)
	if err != nil {
		return 1 << 60
	}
	return s.CachedInfo().State.Msgs
}

func (r *rig) awaitEmpty() {
	r.t.Helper()
	r.await("the stream to be empty", func() bool { return r.waiting() == 0 })
}

// together runs subtests at the same time, more of them than there are
// processors: they mostly wait.
func together(t *testing.T, tests map[string]func(*testing.T)) {
	t.Helper()
	const most = 16
	var all sync.WaitGroup
	slots := make(chan struct{}, most)
	for name, test := range tests {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			t.Run(name, test)
		})
	}
	all.Wait()
}

// branch is a rig on the same NATS server and the same Graph, with names of its own.
func (r *rig) branch(t *testing.T, n int) *rig {
	t.Helper()
	b := *r
	b.t, b.log, b.addr = t, &lines{}, lowAddr(t)
	b.names = topology.Names{Tenant: "default", Stream: fmt.Sprint("R", n), Subject: fmt.Sprint("requests", n),
		DeadStream: fmt.Sprint("D", n), DeadSubject: fmt.Sprint("dead", n), Bucket: fmt.Sprint("records", n),
		FollowStream: fmt.Sprint("F", n), FollowSubject: fmt.Sprint("follow", n)}
	b.cfg.Names, b.cfg.HTTPAddr, b.cfg.Tenants = b.names, b.addr, slices.Clone(r.cfg.Tenants)
	b.cfg.Log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(b.log), zap.DebugLevel))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the worker:\n%s", tail(b.log.String(), 20000))
		}
	})
	return &b
}

// lowPorts counts through ports below those of connections, in blocks. It listens on the
// first of each block as long as the process lives, so that other processes take others:
// fuzzing has a dozen.
type lowPorts struct {
	mu        sync.Mutex
	next, end int // of the block
	held      []net.Listener
}

var lows lowPorts

func (p *lowPorts) take() (port int, err error) {
	const first, size, blocks = 12000, 100, 150
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == p.end {
		err = errors.New("other processes have all ports")
		for _, block := range rand.Perm(blocks) {
			var l net.Listener
			if l, err = net.Listen("tcp", fmt.Sprint("127.0.0.1:", first+block*size)); err == nil {
				p.held = append(p.held, l)
				p.next, p.end = first+block*size+1, first+(block+1)*size
				break
			}
		}
	}
	if err != nil {
		return 0, err
	}
	p.next++
	return p.next - 1, nil
}

// lowAddr is a free address with a port that no connection and no other
// listener is given by chance.
func lowAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		port, err := lows.take()
		if err != nil {
			t.Fatal(err)
		}
		addr := fmt.Sprint("127.0.0.1:", port)
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// own gives the rig a Graph of its own.
func (r *rig) own(cfg graphsim.Config) {
	r.t.Helper()
	s, err := graphsim.Start(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = s.Close() })
	r.sim = s
	r.cfg.Endpoint, r.cfg.RootCAs = s.URL(), s.CAs()
	r.cfg.Tenants[0].Credential.Authority, r.cfg.Tenants[0].Credential.RootCAs = s.URL(), s.CAs()
}

// front puts a handler before Graph; it returns true where it has answered. Where it
// waits for the test it ends with its request, too: a test that fails never says go on.
func (r *rig) front(h func(w http.ResponseWriter, q *http.Request) bool) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !h(w, q) {
			r.sim.ServeHTTP(w, q)
		}
	}))
	r.t.Cleanup(func() {
		s.CloseClientConnections() // which ends the requests
		s.Close()
	})
	r.cfg.Endpoint = s.URL
}

// held waits until the test says go on, or the request ends, and reports whether that has
// ended.
func held(q *http.Request, goOn <-chan struct{}) (ended bool) {
	select {
	case <-goOn:
		return false
	case <-q.Context().Done():
		return true
	}
}

// eventually waits as await does, but does not look as often: it is for tests
// of which many wait at the same time.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(testTime)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			r.t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

// settled waits until nothing is left on the stream.
func (r *rig) settled() {
	r.t.Helper()
	r.eventually("the stream to be empty", func() bool { return r.waiting() == 0 })
}

// calls counts the calls that reached Graph about a device.
func (r *rig) calls(method, device string) (n int) {
	for _, c := range r.sim.Calls() {
		if c.Method == method && c.Device == device {
			n++
		}
	}
	return n
}

// held tells whether the tenant has ever been held.
func (r *rig) held() bool { return strings.Contains(r.log.String(), "the queue stands still") }

// accepted checks the end of a request that was accepted.
func (r *rig) accepted(id, device string, attempts int, verified bool) {
	r.t.Helper()
	rec := r.record(id)
	if rec.State != record.Accepted || rec.Attempts != attempts || rec.Verified != verified || r.sim.Resets(device) != 1 {
		r.t.Errorf("%s: %q, %d attempts, verified %v, %d resets; want accepted, %d, %v, 1 (%s %s)",
			id, rec.State, rec.Attempts, rec.Verified, r.sim.Resets(device), attempts, verified, rec.Reason, rec.Detail)
	}
}

// died checks the end of a request that was not.
func (r *rig) died(id string, reason verdict.Reason, attempts int) {
	r.t.Helper()
	rec := r.record(id)
	if rec.State != record.Dead || rec.Reason != string(reason) || rec.Attempts != attempts {
		r.t.Errorf("%s: %q %s, %d attempts; want dead, %s, %d (%s)", id, rec.State, rec.Reason, rec.Attempts, reason, attempts, rec.Detail)
	}
	letter := r.letters()[strconv.FormatUint(rec.Sequence, 10)]
	if letter == nil {
		r.t.Errorf("%s: no dead letter", id)
	} else if got, n := letter.Header.Get(deadletter.HeaderReason), letter.Header.Get(deadletter.HeaderAttempts); got != string(reason) || n != strconv.Itoa(attempts) {
		r.t.Errorf("%s: the letter says %s after %s attempts", id, got, n)
	}
}

// change writes a record as another worker would.
func (r *rig) change(id string, change func(*record.Record)) {
	r.t.Helper()
	store, err := record.Open(r.t.Context(), r.js, r.names.Bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	rec, rev, err := store.Get(r.t.Context(), "default."+id)
	if err != nil {
		r.t.Fatal(err)
	}
	change(&rec)
	rec.Worker = "another"
	if _, err := store.Put(r.t.Context(), "default."+id, rec, rev); err != nil {
		r.t.Fatal(err)
	}
}
