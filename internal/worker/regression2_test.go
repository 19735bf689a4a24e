package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// testHardToPassOn: messages that look like a word of the server's, or whose
// headers leave no room for a letter's, hold nothing up.
func testHardToPassOn(r *rig) {
	r.start()
	started := len(r.log.String())
	odd := []nats.Header{{"X-Junk": {strings.Repeat("x", 65300)}}}
	for _, status := range []string{"100", "400", "404", "408", "409", "503"} {
		odd = append(odd, nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}})
	}
	for _, h := range odd {
		r.publish("", h)
	}
	began, dev := time.Now(), graphsim.GoodDevice(0x2000)
	r.publish(reset("good", dev), nil)
	r.settled()
	if took := time.Since(began); took > 10*time.Second {
		r.t.Errorf("it took %s", took)
	}
	r.accepted("good", dev, 1, false)
	if n := len(r.letters()); n != len(odd) {
		r.t.Errorf("%d dead letters, want %d", n, len(odd))
	}
	if strings.Contains(r.log.String()[started:], "cannot be worked on") {
		r.t.Error("the queue was lost")
	}
}

// testBucketMadeAnew: the records are deleted, and made again, while a call is
// under way. What is known of it is written down.
func testBucketMadeAnew(r *rig) {
	r.cfg.Policy.RequestTimeout = 10 * time.Second
	r.start()
	bucket := "KV_" + r.names.Bucket
	s, err := r.js.Stream(r.t.Context(), bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	dev := graphsim.FaultDevice(605, 1, 0, 3) // takes two seconds
	r.publish(reset("INC1", dev), nil)
	r.eventually("the call", func() bool { return r.sim.Resets(dev) == 1 })
	if err := r.js.DeleteStream(r.t.Context(), bucket); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.js.CreateStream(r.t.Context(), s.CachedInfo().Config); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		r.t.Fatal(err) // else the worker was faster
	}
	r.settled()
	r.accepted("INC1", dev, 1, false)
}

// meanwhile holds back the answer to the first call and returns when it is
// under way, so that the record can be changed as another worker would; answer
// sends the answer.
func meanwhile(r *rig, device string, header http.Header, status int) (answer func()) {
	under, release := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodPost || first.Swap(true) {
			return false
		}
		close(under)
		select {
		case <-release:
		case <-q.Context().Done():
		}
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		return true
	})
	r.start()
	r.publish(reset("INC1", device), nil)
	select {
	case <-under:
	case <-time.After(testTime):
		r.t.Fatal("no call")
	}
	return func() { close(release) }
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

// testThrottledAfterTakeOver: another worker was given the message and took the
// attempt for lost. Its own worker then sees it refused: that counts.
func testThrottledAfterTakeOver(r *rig) {
	r.own(graphsim.Config{Roles: []string{graphsim.RoleReset}}) // a look-up would say nothing
	dev := graphsim.GoodDevice(1)
	r.cfg.Policy.RequestTimeout = 20 * time.Second
	answer := meanwhile(r, dev, http.Header{"Retry-After": {"1"}}, http.StatusTooManyRequests)
	r.change("INC1", func(rec *record.Record) {
		rec.State, rec.NextAt = record.Verifying, time.Now().Add(3*time.Second).UTC()
	})
	answer()
	r.settled()
	r.accepted("INC1", dev, 1, false)
	if n := len(r.letters()); n > 0 {
		r.t.Errorf("%d dead letters", n)
	}
}

// testThrottledAfterNextAttempt: another worker is at the next attempt already.
// What becomes of that one is not for the first to write.
func testThrottledAfterNextAttempt(r *rig) {
	dev := graphsim.GoodDevice(0x8000)
	r.cfg.Policy.RequestTimeout = 4 * time.Second
	answer := meanwhile(r, dev, http.Header{"Retry-After": {"1"}}, http.StatusTooManyRequests)
	r.change("INC1", func(rec *record.Record) {
		rec.State, rec.Attempts, rec.ClientRequestID, rec.AttemptedAt = record.Attempting, 2, "c", time.Now().UTC()
	})
	call(r.t, r, dev)
	answer()
	r.settled()
	r.accepted("INC1", dev, 2, true)
}

// testOvertaken: another worker has gone on with a further attempt when the
// first sees its own refused. The first buries nothing.
func testOvertaken(r *rig) {
	dev := graphsim.GoodDevice(0x5000)
	r.cfg.Policy.RequestTimeout = 20 * time.Second
	answer := meanwhile(r, dev, nil, http.StatusConflict)
	r.change("INC1", func(rec *record.Record) {
		rec.State, rec.ClientRequestID, rec.NextAt = record.Retrying, "another", time.Now().Add(3*time.Second).UTC()
	})
	answer()
	r.eventually("the message to be given back", func() bool { return r.metric(`waiting_retry{tenant="default"}`) == 1 })
	if rec := r.record("INC1"); r.waiting() != 1 || len(r.letters()) != 0 || rec.Worker != "another" {
		r.t.Errorf("messages %d, letters %d, record %+v", r.waiting(), len(r.letters()), rec)
	}
	r.settled()
	r.accepted("INC1", dev, 2, false)
	if n := len(r.letters()); n > 0 {
		r.t.Errorf("%d dead letters", n)
	}
}

// row lets calls wait until there are as many as make an outage.
func row() func(q *http.Request) {
	var calls atomic.Int64
	full := make(chan struct{})
	return func(q *http.Request) {
		if calls.Add(1) == 5 {
			close(full)
		}
		select {
		case <-full:
		case <-q.Context().Done():
		}
	}
}

// testPauseIsCapped: nobody waits for a day because Graph says so, neither in a
// pause nor in a hold.
func testPauseIsCapped(r *rig) {
	r.cfg.MaxPause = 2 * time.Second
	r.cfg.Policy.RequestTimeout = 20 * time.Second
	var calls atomic.Int64
	wait := row()
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		if calls.Add(1) > 5 {
			return false
		}
		wait(q)
		w.Header().Set("Retry-After", "86400")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	r.start()
	for i := range 5 {
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(0x7000+i)), nil)
	}
	r.eventually("the hold", r.held)
	began := time.Now()
	r.settled()
	if took := time.Since(began); took > 15*time.Second {
		r.t.Errorf("it took %s", took)
	}
	for i := range 5 {
		r.accepted(fmt.Sprint("r", i), graphsim.GoodDevice(0x7000+i), 1, false)
	}
	for _, text := range []string{"a longer pause than is allowed", "a longer wait was asked for than is allowed"} {
		if !strings.Contains(r.log.String(), text) {
			r.t.Errorf("not in the log: %s", text)
		}
	}
}

// testRetryAfterOf504: a Retry-After counts whatever it comes with.
func testRetryAfterOf504(r *rig) {
	var mu sync.Mutex
	var until time.Time
	early := 0
	r.front(func(w http.ResponseWriter, _ *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if time.Now().Before(until) {
			early++
		}
		if !until.IsZero() {
			return false
		}
		until = time.Now().Add(2 * time.Second)
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusGatewayTimeout)
		return true
	})
	dev := graphsim.GoodDevice(0x6000)
	r.start()
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.accepted("INC1", dev, 2, false)
	if early > 0 {
		r.t.Errorf("%d calls inside the Retry-After", early)
	}
}

// testSlowDials: connections that are made while a pause begins carry nothing
// until it is over.
func testSlowDials(r *rig) {
	const latency, dial = 300 * time.Millisecond, 800 * time.Millisecond
	r.own(graphsim.Config{NoHTTP2: true, Latency: latency})
	r.cfg.Policy.RequestTimeout = 20 * time.Second
	made := slowDials(r, dial)
	r.start()
	r.publish(reset("first", graphsim.FaultDevice(429, 1, 1, 1)), nil) // Retry-After: 1
	r.eventually("the first call", func() bool { return len(r.sim.Calls()) == 1 })
	const n = 8
	for i := range n {
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
	}
	r.settled()
	for i := range n {
		r.accepted(fmt.Sprint("r", i), graphsim.GoodDevice(i), 1, false)
	}
	// A call on the first connection may have been on its way when the worker
	// learned of the pause, which its log tells. Any other had to wait for its
	// connection.
	from, until := r.pause()
	calls := r.sim.Calls()
	for _, c := range calls[1:] {
		if c.Remote != calls[0].Remote && c.Time.After(from.Add(50*time.Millisecond)) && c.Time.Before(until) {
			r.t.Errorf("a call inside the Retry-After: %+v", c)
		}
	}
	for _, at := range made() {
		if at.After(from) && at.Before(until) {
			return
		}
	}
	r.t.Skip("no connection was made inside the pause: the machine is too slow for this test")
}

// pause is when the worker learned of a pause, and its end.
func (r *rig) pause() (from, until time.Time) {
	for line := range strings.Lines(r.log.String()) {
		var e struct {
			Msg       string
			TS, Until float64
		}
		if err := json.Unmarshal([]byte(line), &e); err == nil && e.Msg == "pause" {
			return time.UnixMicro(int64(e.TS * 1e6)), time.UnixMicro(int64(e.Until * 1e6))
		}
	}
	r.t.Fatal("no pause in the log")
	return from, until
}

// slowDials lets every connection to Graph but the first take its time. It
// returns when connections were made.
func slowDials(r *rig, by time.Duration) (made func() []time.Time) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	end := make(chan struct{})
	var mu sync.Mutex
	var times []time.Time
	var all sync.WaitGroup
	carry := func(c net.Conn, delay time.Duration) {
		defer c.Close()
		select {
		case <-time.After(delay):
		case <-end:
			return
		}
		s, err := net.Dial("tcp", r.sim.Addr())
		if err != nil {
			return
		}
		defer s.Close()
		mu.Lock()
		times = append(times, time.Now())
		mu.Unlock()
		all.Go(func() {
			<-end
			_ = c.Close()
		})
		all.Go(func() {
			_, _ = io.Copy(s, c)
			_ = s.Close()
		})
		_, _ = io.Copy(c, s)
	}
	all.Go(func() {
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			delay := min(1, time.Duration(n)) * by
			all.Go(func() { carry(c, delay) })
		}
	})
	r.t.Cleanup(func() {
		_ = ln.Close()
		close(end)
		all.Wait()
	})
	r.cfg.Endpoint = "https://" + ln.Addr().String()
	return func() []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return append([]time.Time(nil), times...)
	}
}

// testEightBad: devices that fail for ever look like an outage, but those that
// do not are let through in their turn.
func testEightBad(r *rig) {
	r.start()
	const bad = 8
	for i := range bad {
		r.publish(reset(fmt.Sprint("bad", i), graphsim.FaultDevice(500, 0, 0, 0x3000+i)), nil)
	}
	r.eventually("the hold, and probes", func() bool { return r.held() && r.metric(`attempts_total{result="unknown",tenant="default"}`) > bad+3 })
	for i := range 3 {
		id, began := fmt.Sprint("good", i), time.Now()
		r.publish(reset(id, graphsim.GoodDevice(0x3000+i)), nil)
		r.eventually(id, func() bool { return r.record(id).State == record.Accepted })
		// A probe each second, eight others before it: and as much again for a
		// machine that has much to do.
		if took := time.Since(began); took > 25*time.Second {
			r.t.Errorf("%s was accepted only after %s", id, took)
		}
	}
	for i := range bad {
		if rec := r.record(fmt.Sprint("bad", i)); rec.State == record.Dead && rec.Reason != string(verdict.ReasonAttemptsExhausted) {
			r.t.Errorf("bad%d: %+v", i, rec)
		}
	}
}

// testExhaustedInHold: a probe is made for everybody's sake, so a request that
// has had all its attempts does not die of it.
func testExhaustedInHold(r *rig) {
	r.cfg.Policy.MaxAttempts, r.cfg.Policy.RequestTimeout, r.cfg.Policy.VerifyAfter = 1, 20*time.Second, 2*time.Second
	wait := row()
	var up atomic.Bool
	var posts atomic.Int64
	r.front(func(w http.ResponseWriter, q *http.Request) bool {
		if up.Load() || q.Method != http.MethodPost {
			return false
		}
		if posts.Add(1) <= 5 {
			wait(q)
		}
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	r.start()
	const n = 5 + 1
	for i := range n {
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(0x4000+i)), nil)
	}
	r.eventually("the hold", r.held)
	begun := posts.Load()
	r.eventually("probes", func() bool { return posts.Load() >= begun+4 })
	if letters := r.letters(); len(letters) > 0 {
		r.t.Errorf("%d dead letters in a hold", len(letters))
	}
	up.Store(true)
	r.settled()
	// Those that failed before it was plain that the fault was everybody's have
	// had their only attempt.
	dead := 0
	for i := range n {
		id, dev := fmt.Sprint("r", i), graphsim.GoodDevice(0x4000+i)
		if r.sim.Resets(dev) > 0 {
			continue
		}
		dead++
		if rec := r.record(id); rec.State != record.Dead || rec.Reason != string(verdict.ReasonAttemptsExhausted) {
			r.t.Errorf("%s: %+v", id, rec)
		}
	}
	if dead >= 5 {
		r.t.Errorf("%d requests died of the outage", dead)
	}
}
