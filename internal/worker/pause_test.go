package worker

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
)

// TestPauses is about what Graph asks for, and when.
func TestPauses(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, nil)
	tests := map[string]func(*testing.T){}
	add := func(name string, test func(*rig)) {
		n := len(tests)
		tests[name] = func(t *testing.T) { test(base.branch(t, 400+n)) }
	}
	add("429 after another took over", testThrottledAfterTakeOver)
	add("429 after another's next attempt", testThrottledAfterNextAttempt)
	add("pause is capped", testPauseIsCapped)
	add("Retry-After of a 504", testRetryAfterOf504)
	add("slow dials into a pause", testSlowDials)
	together(t, tests)
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
		held(q, release)
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

// row lets calls wait until there are as many as make an outage.
func row() func(q *http.Request) {
	var calls atomic.Int64
	full := make(chan struct{})
	return func(q *http.Request) {
		if calls.Add(1) == 5 {
			close(full)
		}
		held(q, full)
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
	for _, text := range []string{"a longer pause than WORKER_MAX_PAUSE", "a longer wait than WORKER_MAX_PAUSE"} {
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
