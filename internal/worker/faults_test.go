package worker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// wire is the way from a worker to its NATS server: a proxy that can lose what
// the server says, and behind it a relay that can lose what the worker says.
type wire struct {
	*natstest.Proxy
	server string
	ln     net.Listener
	all    sync.WaitGroup

	mu    sync.Mutex
	trap  *trap
	mute  bool // nothing that the worker says arrives
	conns map[net.Conn]struct{}
}

// said is a message on its way from the worker to the server.
type said struct {
	subject, reply string
	data           []byte // with its headers
}

// trap is a fault that waits for a message.
type trap struct {
	match func(said) bool
	fault fault
	hit   chan struct{} // closed when the message, or the reply to it, is lost
}

// fault is what befalls a step.
type fault string

const (
	// before: what was to have the effect is lost on its way.
	before fault = "lost"
	// after: it had its effect, and the reply is lost.
	after fault = "reply lost"
	// goneBefore and goneAfter: the same, and from then on nothing comes from
	// the worker, nor reaches it, until another has done its work.
	goneBefore fault = "gone before"
	goneAfter  fault = "gone after"
)

func (f fault) gone() bool { return f == goneBefore || f == goneAfter }

// newWire puts a wire between the rig's worker and its server.
func newWire(r *rig) *wire {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	w := &wire{server: strings.TrimPrefix(r.nats.URL(), "nats://"), ln: ln, conns: map[net.Conn]struct{}{}}
	w.all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.all.Go(func() { w.carry(c) })
		}
	})
	if w.Proxy, err = natstest.StartProxy(ln.Addr().String()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		w.Close()
		_ = ln.Close()
		w.all.Wait()
	})
	r.cfg.NATS.URL = w.URL()
	return w
}

// set lays a trap for the next message that matches.
func (w *wire) set(f fault, match func(said) bool) (hit <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trap = &trap{match, f, make(chan struct{})}
	return w.trap.hit
}

// back ends all faults.
func (w *wire) back() {
	w.mu.Lock()
	w.mute = false
	w.mu.Unlock()
	w.Heal()
}

func (w *wire) carry(worker net.Conn) {
	defer worker.Close()
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		return
	}
	w.all.Go(func() {
		defer worker.Close()
		_, _ = io.Copy(worker, server) // ends with the connection, however
	})
	defer server.Close()
	for r := bufio.NewReader(worker); ; {
		raw, m, err := readSaid(r)
		if err != nil {
			return
		}
		if w.lost(m) {
			continue
		}
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

// lost decides about one piece of the protocol; m is nil if it is no message.
func (w *wire) lost(m *said) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.trap
	if w.mute || m == nil || t == nil || !t.match(*m) {
		return w.mute
	}
	w.trap = nil
	w.mute = t.fault.gone()
	if t.fault == before || t.fault == goneBefore {
		close(t.hit)
		return true
	}
	reply := w.SwallowNext(1, func(r natstest.Message) bool { return r.Subject == m.reply })
	w.all.Go(func() {
		<-reply
		close(t.hit)
	})
	return false
}

// readSaid reads one piece of the worker's protocol.
func readSaid(r *bufio.Reader) (raw []byte, m *said, err error) {
	if raw, err = r.ReadBytes('\n'); err != nil {
		return nil, nil, err
	}
	f := strings.Fields(string(raw))
	if len(f) == 0 || f[0] != "PUB" && f[0] != "HPUB" {
		return raw, nil, nil
	}
	size, err := strconv.Atoi(f[len(f)-1])
	if err != nil {
		return nil, nil, err
	}
	line := len(raw)
	raw = append(raw, make([]byte, size+len("\r\n"))...)
	if _, err := io.ReadFull(r, raw[line:]); err != nil {
		return nil, nil, err
	}
	m = &said{subject: f[1], data: raw[line : line+size]}
	if numbers := map[string]int{"PUB": 1, "HPUB": 2}[f[0]]; len(f) == numbers+3 {
		m.reply = f[2]
	}
	return raw, m, nil
}

// end is what becomes of a request.
type end struct {
	state    record.State
	attempts int
	verified bool
}

var (
	once     = end{record.Accepted, 1, false}
	twice    = end{record.Accepted, 2, false}
	verified = end{record.Accepted, 1, true}
	dead     = end{record.Dead, 1, false} // by a 409

	onceOrTwice = end{record.Accepted, anyNumber, false}
)

// anyNumber of attempts.
const anyNumber = -1

// point is one step with an effect outside the process.
type point struct {
	step   string
	device func(n int) string
	// at is the message that makes the step, where it goes to NATS; else graph
	// or entra puts the faults before Graph or the token service.
	at           func(names topology.Names, m said) bool
	graph        string // method
	entra        bool
	ends         map[fault]end // of each fault that the step can meet
	noDuplicates bool          // a new message for a dead id is a new attempt
	follow       bool          // until its device has done it, once
}

// each gives the ends in the order of the faults.
func each(before_, after_, goneBefore_, goneAfter_ end) map[fault]end {
	return map[fault]end{before: before_, after: after_, goneBefore: goneBefore_, goneAfter: goneAfter_}
}

// api matches a call of the JetStream API.
func api(call string) func(topology.Names, said) bool {
	return func(_ topology.Names, m said) bool { return strings.HasPrefix(m.subject, "$JS.API."+call) }
}

// write matches the writing of a record that holds a text.
func write(text string) func(topology.Names, said) bool {
	return func(n topology.Names, m said) bool {
		return strings.HasPrefix(m.subject, "$KV."+n.Bucket+".") && bytes.Contains(m.data, []byte(text))
	}
}

// say matches what is said about a delivered message.
func say(word string) func(topology.Names, said) bool {
	return func(_ topology.Names, m said) bool {
		return strings.HasPrefix(m.subject, "$JS.ACK.") && bytes.HasPrefix(m.data, []byte(word))
	}
}

func faulty(code, variant int) func(int) string {
	return func(n int) string { return graphsim.FaultDevice(code, 1, variant, n) }
}

// points are the steps from the delivery of a message to its confirmed ack.
// The faults of the devices lead there; those that Graph refuses are refused
// once only, so that a second call would show.
var points = []point{
	{step: "pull", device: graphsim.GoodDevice, at: api("CONSUMER.MSG.NEXT"), ends: map[fault]end{before: once, goneBefore: once}},
	{step: "reading what was before", device: graphsim.GoodDevice, at: api("CONSUMER.CREATE.KV_"), ends: each(once, once, once, once)},
	{step: "token", device: graphsim.GoodDevice, entra: true, ends: each(once, once, once, once)},
	{step: "record before the call", device: graphsim.GoodDevice, at: write(`"state":"attempting"`),
		ends: each(once, once, once, twice)},
	{step: "call", device: graphsim.GoodDevice, graph: http.MethodPost, ends: each(twice, verified, twice, verified)},
	{step: "record of a wait", device: faulty(429, 1), at: write(`"state":"retrying"`), ends: each(once, once, twice, once)},
	// It is handed on while the record is written: which of the two is lost with
	// the process, and so whether there is a further attempt, is open.
	{step: "handing on", device: faulty(429, 1), at: func(n topology.Names, m said) bool {
		return strings.HasPrefix(m.subject, "$KV."+n.StateBucket()+".")
	}, ends: each(once, once, onceOrTwice, onceOrTwice)},
	{step: "keeping the pin", device: graphsim.GoodDevice, at: func(_ topology.Names, m said) bool {
		return bytes.Contains(m.data, []byte(`"max_bytes":1,`))
	}, ends: map[fault]end{before: once, goneBefore: once}},
	{step: "giving back", device: faulty(429, 1), at: say("-NAK"), ends: map[fault]end{before: once, goneBefore: once}},
	{step: "record of an unknown outcome", device: faulty(500, 1), at: write(`"state":"verifying"`),
		ends: each(verified, verified, verified, verified)},
	{step: "look-up", device: faulty(500, 1), graph: http.MethodGet, ends: each(verified, verified, verified, verified)},
	{step: "record of the acceptance", device: graphsim.GoodDevice, at: write(`"state":"accepted"`),
		ends: each(once, once, verified, once)},
	{step: "ack", device: graphsim.GoodDevice, at: say("+ACK"), ends: each(once, once, once, once)},
	// The worker that is gone saw the refusal, and nobody else did: the other
	// one finds that nothing was reset, and calls again.
	{step: "record before the dead letter", device: faulty(409, 0), at: write(`"burying":true`), noDuplicates: true,
		ends: each(dead, dead, twice, dead)},
	{step: "dead letter", device: faulty(409, 0), noDuplicates: true, ends: each(dead, dead, dead, dead),
		at: func(n topology.Names, m said) bool { return m.subject == n.Dead() }},
	{step: "record of the dead letter", device: faulty(409, 0), at: write(`"state":"dead"`), noDuplicates: true,
		ends: each(dead, dead, dead, dead)},
	{step: "ack of a dead letter", device: faulty(409, 0), at: say("+ACK"), noDuplicates: true,
		ends: each(dead, dead, dead, dead)},

	{step: "first alarm", device: slowDevice, follow: true, at: alarmOf(`"number":0,`), ends: each(once, once, once, once)},
	{step: "look at the device", device: slowDevice, follow: true, graph: http.MethodGet, ends: each(once, once, once, once)},
	{step: "outcome that is not final", device: slowDevice, follow: true, at: writeOutcome(`"final":false`), ends: each(once, once, once, once)},
	{step: "next alarm", device: slowDevice, follow: true, at: laterAlarm, ends: each(once, once, once, once)},
	{step: "final outcome", device: slowDevice, follow: true, at: writeOutcome(`"final":true`), ends: each(once, once, once, once)},
	{step: "ack of an alarm", device: slowDevice, follow: true, at: func(n topology.Names, m said) bool {
		return strings.HasPrefix(m.subject, "$JS.ACK."+n.FollowStream+".") && bytes.HasPrefix(m.data, []byte("+ACK"))
	}, ends: map[fault]end{before: once, goneBefore: once}},
}

// slowDevice has done it after its first look.
func slowDevice(n int) string { return graphsim.StoryDevice(graphsim.StoryDone, 6, 0, n) }

// alarmOf matches the publishing of an alarm that holds a text.
func alarmOf(text string) func(topology.Names, said) bool {
	return func(n topology.Names, m said) bool {
		return strings.HasPrefix(m.subject, n.FollowSubject+".") && bytes.Contains(m.data, []byte(text))
	}
}

// laterAlarm matches the publishing of an alarm that is not a request's first. Which look
// comes next depends on how late the first one was.
func laterAlarm(n topology.Names, m said) bool {
	return strings.HasPrefix(m.subject, n.FollowSubject+".") && !bytes.Contains(m.data, []byte(`"number":0,`))
}

// writeOutcome matches the writing of an outcome that holds a text.
func writeOutcome(text string) func(topology.Names, said) bool {
	return func(n topology.Names, m said) bool {
		return strings.HasPrefix(m.subject, "$KV."+n.OutcomeBucket()+".") && bytes.Contains(m.data, []byte(text))
	}
}

// TestFaultPoints makes each fault at each step. Another worker takes over from
// one that is gone; that one comes back when all is done, and does no harm.
func TestFaultPoints(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, nil)
	tests := map[string]func(*testing.T){}
	for _, p := range points {
		for f, want := range p.ends {
			n := len(tests)
			tests[p.step+" "+string(f)] = func(t *testing.T) { p.test(base.branch(t, n), f, want, n) }
		}
	}
	together(t, tests)
}

func (p point) test(r *rig, f fault, want end, n int) {
	const id = "INC1"
	device := p.device(0x8000 + n)
	r.cfg.Policy.RequestTimeout = 4 * time.Second
	shortAckWait(r)
	if p.follow {
		r.cfg.Follow, r.cfg.FollowPlan = FollowOn, outcome.Plan{For: time.Hour, Faster: faster}
	}
	direct := r.cfg
	w := newWire(r)
	hit := p.lay(r, w, f)
	r.start()
	r.publish(reset(id, device), nil)
	select {
	case <-hit:
	case <-time.After(testTime):
		r.t.Fatal("the step was never made")
	}
	if f.gone() {
		w.Away()
	}
	if !p.noDuplicates {
		for range 2 {
			r.publish(reset(id, device), nil)
		}
	}
	if f.gone() {
		r.another(direct)
	}
	check := func() {
		r.settled()
		r.check(id, device, want)
		if p.follow {
			r.followedOnce(id)
		}
	}
	check()
	if f.gone() {
		w.back()
		r.returned()
		check()
	}
}

// followedOnce waits until a device has done it, and fails where that was told more
// than once, or an alarm is left.
func (r *rig) followedOnce(id string) {
	r.t.Helper()
	r.eventually("the outcome", func() bool { return r.outcome(id).Outcome == outcome.Done })
	r.eventually("no alarm", func() bool { return r.alarms() == 0 })
	kv, err := r.js.KeyValue(r.t.Context(), r.names.OutcomeBucket())
	if err != nil {
		r.t.Fatal(err)
	}
	history, err := kv.History(r.t.Context(), "default."+id)
	if err != nil {
		r.t.Fatal(err)
	}
	ends := 0
	for _, e := range history {
		if d, ok := outcome.Decode("default."+id, nil, e.Value()); ok && d.Final {
			ends++
		}
	}
	if ends != 1 {
		r.t.Errorf("%d ends were told in %d changes", ends, len(history))
	}
}

// shortAckWait sets up what the worker needs, with an ack wait of two seconds.
func shortAckWait(r *rig) {
	r.t.Helper()
	if _, err := topology.Setup(r.t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		r.t.Fatal(err)
	}
	c, err := r.js.Consumer(r.t.Context(), r.names.Stream, r.names.Consumer())
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := c.CachedInfo().Config
	cfg.AckWait = 2 * time.Second
	if _, err := r.js.UpdateConsumer(r.t.Context(), r.names.Stream, cfg); err != nil {
		r.t.Fatal(err)
	}
	for step := range topology.FollowSteps {
		cfg := topology.Layout{}.FollowStep(r.names, step)
		cfg.AckWait = 2 * time.Second
		if _, err := r.js.UpdateConsumer(r.t.Context(), r.names.FollowStream, cfg); err != nil {
			r.t.Fatal(err)
		}
	}
	r.cfg.DrainTimeout = 2 * time.Second
}

// lay makes ready the fault of the step.
func (p point) lay(r *rig, w *wire, f fault) (hit <-chan struct{}) {
	if p.at != nil {
		return w.set(f, func(m said) bool { return p.at(r.names, m) })
	}
	done := make(chan struct{})
	var met atomic.Bool
	meet := func(q *http.Request) {
		if f == after || f == goneAfter {
			r.sim.ServeHTTP(httptest.NewRecorder(), q)
		}
		if f.gone() {
			w.Away()
		}
		close(done)
		panic(http.ErrAbortHandler) // the connection is cut
	}
	if p.entra {
		s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
			if strings.HasSuffix(q.URL.Path, "/token") && !met.Swap(true) {
				meet(q)
			}
			r.sim.ServeHTTP(rw, q)
		}))
		r.t.Cleanup(s.Close)
		roots := x509.NewCertPool()
		roots.AddCert(s.Certificate())
		r.cfg.Tenants[0].Credential.Authority, r.cfg.Tenants[0].Credential.RootCAs = s.URL, roots
		return done
	}
	r.front(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == p.graph && !met.Swap(true) {
			meet(q)
		}
		return false
	})
	return done
}

// another runs a second worker.
func (r *rig) another(cfg Config) {
	cfg.HTTPAddr = ""
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run of the second worker: %v", err)
		}
	})
}

// check compares the end of a request: one end, no more than one reset, a dead
// letter if and only if it is dead.
func (r *rig) check(id, device string, want end) {
	r.t.Helper()
	letters := 0
	if want.attempts == anyNumber {
		want.attempts = r.record(id).Attempts
	}
	if want.state == record.Dead {
		letters = 1
		r.died(id, verdict.ReasonConflict, want.attempts)
		if n := r.sim.Resets(device); n > 0 {
			r.t.Errorf("it is dead, and was reset %d times", n)
		}
	} else {
		r.accepted(id, device, want.attempts, want.verified)
	}
	if n := len(r.letters()); n != letters {
		r.t.Errorf("%d dead letters", n)
	}
	kv, err := r.js.KeyValue(r.t.Context(), r.names.Bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	history, err := kv.History(r.t.Context(), "default."+id)
	if err != nil {
		r.t.Fatal(err)
	}
	var states []string
	ends := 0
	for _, e := range history {
		var rec record.Record
		if err := json.Unmarshal(e.Value(), &rec); err != nil {
			r.t.Fatal(err)
		}
		states = append(states, fmt.Sprint(rec.State, " ", rec.Attempts))
		if !rec.State.InProgress() {
			ends++
		}
	}
	if ends != 1 {
		r.t.Errorf("the record came to %d ends: %v", ends, states)
	}
}

// TestFaultsThatLast holds faults that stay for a while.
func TestFaultsThatLast(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, nil)
	tests := map[string]func(*testing.T){}
	add := func(name string, test func(*rig, string)) {
		n := len(tests)
		tests[name] = func(t *testing.T) {
			r := base.branch(t, n)
			shortAckWait(r)
			test(r, graphsim.GoodDevice(0x9000+n))
		}
	}
	add("delivery lost", testDeliveryLost)
	add("bucket full before the call", testBucketFull)
	add("bucket full after the call", testBucketFullAfterCall)
	add("dead-letter stream full", testLettersFull)
	add("NATS away during a call", testAwayDuringCall)
	add("NATS away during a call that is refused", testAwayDuringRefusal)
	add("late replies", testLateReplies)
	together(t, tests)
}

// testDeliveryLost: the message counts as delivered, but has not arrived.
func testDeliveryLost(r *rig, device string) {
	w := newWire(r)
	r.start()
	lost := w.SwallowNext(1, func(m natstest.Message) bool { return m.Subject == r.names.Filter() })
	r.publish(reset("INC1", device), nil)
	<-lost
	r.settled()
	r.check("INC1", device, once)
}

// limit makes a stream take no message, or any number again.
func (r *rig) limit(stream string, full bool) {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = -1
	if full {
		cfg.MaxBytes = 1
	}
	if _, err := r.js.UpdateStream(r.t.Context(), cfg); err != nil {
		r.t.Fatal(err)
	}
}

// tries counts what the worker publishes under a subject, stored or not.
func (r *rig) tries(subject string) func() int64 {
	r.t.Helper()
	var n atomic.Int64
	sub, err := r.nc.Subscribe(subject, func(*nats.Msg) { n.Add(1) })
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = sub.Unsubscribe() })
	return n.Load
}

// testBucketFull: without a written record there is no call.
func testBucketFull(r *rig, device string) {
	r.start()
	tries := r.tries("$KV." + r.names.Bucket + ".>")
	r.limit("KV_"+r.names.Bucket, true)
	for range 3 {
		r.publish(reset("INC1", device), nil)
	}
	r.eventually("a write that is refused again and again", func() bool { return tries() >= 4 })
	if n := r.calls(http.MethodPost, device); n > 0 {
		r.t.Errorf("%d calls without a record", n)
	}
	r.limit("KV_"+r.names.Bucket, false)
	r.settled()
	r.check("INC1", device, once)
}

// underWay holds back the first answer of Graph, with its effect, until
// release is called. It returns when the call is under way.
func underWay(r *rig, device string) (release func()) {
	under, end := make(chan struct{}), make(chan struct{})
	var met atomic.Bool
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		if met.Swap(true) {
			return false
		}
		answer := httptest.NewRecorder()
		r.sim.ServeHTTP(answer, q)
		close(under)
		held(q, end)
		w.WriteHeader(answer.Code)
		return true
	})
	r.start()
	r.publish(reset("INC1", device), nil)
	select {
	case <-under:
	case <-time.After(testTime):
		r.t.Fatal("no call")
	}
	return func() { close(end) }
}

// testBucketFullAfterCall: what became of the call is written down as soon as
// there is room for it.
func testBucketFullAfterCall(r *rig, device string) {
	r.cfg.Policy.RequestTimeout = 20 * time.Second
	release := underWay(r, device)
	tries := r.tries("$KV." + r.names.Bucket + ".>")
	r.limit("KV_"+r.names.Bucket, true)
	release()
	r.eventually("a write that is refused again and again", func() bool { return tries() >= 4 })
	for range 2 {
		r.publish(reset("INC1", device), nil)
	}
	if r.waiting() != 3 {
		r.t.Errorf("%d messages wait", r.waiting())
	}
	r.limit("KV_"+r.names.Bucket, false)
	r.settled()
	r.check("INC1", device, once)
}

// testLettersFull: letters that cannot be stored keep their requests in the
// queue. A duplicate of a dead request is a request of its own.
func testLettersFull(r *rig, _ string) {
	r.start()
	tries := r.tries(r.names.Dead())
	r.limit(r.names.DeadStream, true)
	device := graphsim.FaultDevice(409, 0, 0, 0x9000)
	const n = 3
	for range n {
		r.publish(reset("INC1", device), nil)
	}
	r.eventually("a letter that is refused again and again", func() bool { return tries() >= 3 })
	if r.waiting() != n {
		r.t.Errorf("%d messages wait", r.waiting())
	}
	r.limit(r.names.DeadStream, false)
	r.settled()
	r.died("INC1", verdict.ReasonConflict, 1)
	if letters, posts := len(r.letters()), r.calls(http.MethodPost, device); letters != n || posts != n || r.sim.Resets(device) != 0 {
		r.t.Errorf("%d letters, %d calls, %d resets", letters, posts, r.sim.Resets(device))
	}
}

// testAwayDuringCall: the network to NATS is away for longer than the ack wait
// while a call is under way, and another worker is given the message. Both see
// that the device was reset.
func testAwayDuringCall(r *rig, device string) {
	awayDuring(r, device)
	r.check("INC1", device, verified)
}

// testAwayDuringRefusal: the same, and Graph refuses the call. The first worker
// buries nothing, because the other one has gone on.
func testAwayDuringRefusal(r *rig, _ string) {
	device := graphsim.FaultDevice(409, 1, 0, 0x9001)
	awayDuring(r, device)
	r.check("INC1", device, twice)
}

func awayDuring(r *rig, device string) {
	r.cfg.Policy.RequestTimeout = 4 * time.Second
	direct := r.cfg
	w := newWire(r)
	release := underWay(r, device)
	w.Away()
	r.another(direct)
	for range 2 {
		r.publish(reset("INC1", device), nil)
	}
	r.eventually("the other worker to have the message", func() bool { return r.record("INC1").State != record.Attempting })
	release()
	r.eventually("the other worker to end it", func() bool { return r.record("INC1").State == record.Accepted })
	w.back()
	r.returned()
	r.settled()
}

// returned waits until a worker that was gone has ended what it had begun.
func (r *rig) returned() {
	r.t.Helper()
	r.eventually("the first worker to be back", func() bool {
		return r.metric("nats_connected") == 1 && r.metric(`in_flight{tenant="default"}`) == 0
	})
}

// testLateReplies: every reply of NATS is half a second late.
func testLateReplies(r *rig, good string) {
	w := newWire(r)
	w.Delay(500 * time.Millisecond)
	r.start()
	requests := map[string]struct {
		device string
		end    end
	}{
		"good":      {good, once},
		"throttled": {graphsim.FaultDevice(429, 1, 1, 0x9100), once},
		"failed":    {graphsim.FaultDevice(500, 1, 0, 0x9101), twice},
		"executed":  {graphsim.FaultDevice(500, 1, 1, 0x9102), verified},
		"lost":      {graphsim.FaultDevice(602, 1, 1, 0x9103), verified},
		// It is refused again where a pause kept the first refusal from being judged.
		"refused": {graphsim.FaultDevice(409, 0, 0, 0x9104), dead},
	}
	for id, q := range requests {
		r.publish(reset(id, q.device), nil)
	}
	for range 2 {
		r.publish(reset("good", good), nil)
	}
	r.settled()
	refused := requests["refused"]
	r.check("refused", refused.device, refused.end)
	delete(requests, "refused")
	for id, q := range requests {
		r.accepted(id, q.device, q.end.attempts, q.end.verified)
	}
}
