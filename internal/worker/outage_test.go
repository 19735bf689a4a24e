package worker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// TestOutages: a fault of the whole system dead-letters nothing, is named, and
// everything is done soon after its end, no device twice.
func TestOutages(t *testing.T) {
	t.Parallel()
	const requests = 60
	for _, row := range []struct {
		outage graphsim.Outage
		cause  hold.Cause
		hold   time.Duration // how long the outage lasts once it is noticed
	}{
		{graphsim.OutageSecretExpired, hold.Credentials, 2 * time.Second},
		{graphsim.OutageTokenDown, hold.Credentials, 2 * time.Second},
		{graphsim.OutagePermission, hold.Permission, 2 * time.Second},
		{graphsim.Outage503, hold.GraphUnavailable, 2 * time.Second},
		{graphsim.Outage503RetryAfter, hold.GraphUnavailable, 2 * time.Second},
		{graphsim.Outage500, hold.GraphUnavailable, 2 * time.Second},
		{graphsim.OutageRefuse, hold.GraphUnavailable, 2 * time.Second},
		{graphsim.OutageSilence, hold.GraphUnavailable, 2 * time.Second},
		{graphsim.OutageNoLicence, hold.Refused, 2 * time.Second},
		{graphsim.OutageWrongPath, hold.Refused, 2 * time.Second},
	} {
		t.Run(row.outage.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{}, func(c *Config) {
				if row.outage == graphsim.OutageSilence {
					c.Policy.RequestTimeout = 2 * time.Second
				}
			})
			r.start()
			if row.outage != graphsim.OutagePermission && row.outage != graphsim.OutageTokenDown && row.cause != hold.Refused {
				// The fault comes in the middle of good work. (A permission that
				// is taken away shows in new tokens only, and so does a token
				// service that is away. Refusals of a tenant that was served are
				// taken for the devices' own at first.)
				r.publish(reset("before", graphsim.GoodDevice(0)), nil)
				r.awaitState("before", record.Accepted)
			}
			r.sim.SetOutage(row.outage)
			for i := 1; i <= requests; i++ {
				r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
			}
			gauge := fmt.Sprintf(`hold{cause=%q,tenant="default"}`, row.cause)
			r.await("the hold", func() bool { return r.metric(gauge) == 1 })
			if code, body := r.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, string(row.cause)) {
				t.Errorf("/readyz %d: %s", code, body)
			}
			if code, _ := r.get("/livez"); code != http.StatusOK {
				t.Errorf("/livez %d", code)
			}
			<-time.After(row.hold)
			if n := len(r.letters()); n > 0 {
				t.Errorf("%d dead letters during the outage", n)
			}
			r.sim.SetOutage(graphsim.OutageNone)
			over := time.Now()
			r.awaitEmpty()
			if took := time.Since(over); took > 30*time.Second {
				t.Errorf("all was done only %s after the end", took)
			}
			for i := 1; i <= requests; i++ {
				rec := r.record(fmt.Sprint("r", i))
				if rec.State != record.Accepted || r.sim.Resets(graphsim.GoodDevice(i)) != 1 {
					t.Errorf("r%d: %+v, resets %d", i, rec, r.sim.Resets(graphsim.GoodDevice(i)))
				}
				if used := rec.Attempts - rec.HeldAttempts; used > 2 {
					t.Errorf("r%d: %d attempts used up", i, used)
				}
			}
			if n := len(r.letters()); n > 0 {
				t.Errorf("%d dead letters", n)
			}
			r.await("the hold to be over", func() bool { return r.metric(gauge) == 0 })
			if code, body := r.get("/readyz"); code != http.StatusOK {
				t.Errorf("/readyz %d: %s", code, body)
			}
		})
	}
}

// TestHoldTellsTenantFromDevice: nothing was accepted yet, and the first
// requests are refused for their devices' own sake. A good one must be found
// among them, and then they are dead.
func TestHoldTellsTenantFromDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Concurrency = 1 })
	r.start()
	for i := range 3 {
		r.publish(reset(fmt.Sprint("bad", i), graphsim.FaultDevice(403, 0, 0, i)), nil)
	}
	dev := graphsim.GoodDevice(1)
	r.publish(reset("good", dev), nil)
	r.awaitState("good", record.Accepted)
	for i := range 3 {
		if rec := r.awaitState(fmt.Sprint("bad", i), record.Dead); rec.Reason != string(verdict.ReasonForbidden) {
			t.Errorf("bad%d: %+v", i, rec)
		}
	}
	r.awaitEmpty()
}

// TestHoldExpires: a request that nobody can help waits until its deadline,
// and its dead letter tells what kept it.
func TestHoldExpires(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.sim.SetOutage(graphsim.OutagePermission)
	r.start()
	until := time.Now().Add(6 * time.Second).UTC().Format(time.RFC3339Nano)
	r.publish(fmt.Sprintf(`{"id":"INC1","managedDeviceId":%q,"notAfter":%q}`, graphsim.GoodDevice(1), until), nil)
	rec := r.awaitState("INC1", record.Dead)
	if rec.Reason != string(verdict.ReasonExpired) || !strings.Contains(rec.Detail, "403") || rec.Attempts != 0 {
		t.Errorf("record: %+v", rec)
	}
	if !strings.Contains(rec.Detail, "PrivilegedOperations") {
		t.Errorf("the cause is not named: %s", rec.Detail)
	}
}

// TestRevoked: tokens that are revoked are replaced once for all that wait.
func TestRevoked(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 20 * time.Millisecond}, nil)
	r.start()
	for i := range 200 {
		if i == 100 {
			r.await("half of the resets", func() bool { return len(r.sim.Ledger()) > 60 })
			r.sim.RevokeTokensWithChallenge()
		}
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
	}
	r.awaitEmpty()
	for dev, n := range r.sim.Ledger() {
		if n != 1 {
			t.Errorf("%s was reset %d times", dev, n)
		}
	}
	calls := r.sim.TokenCalls()
	if len(calls) != 2 || calls[1].Claims == "" || !strings.Contains(calls[1].Claims, "nbf") && !strings.Contains(calls[1].Claims, "access_token") {
		t.Errorf("token calls: %+v", calls)
	}
	if n := len(r.letters()); n > 0 {
		t.Errorf("%d dead letters", n)
	}
}

// TestRefusedChallenge: tokens are revoked with a challenge that the token
// service refuses. The next request for a token goes without it.
func TestRefusedChallenge(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{RefuseClaims: true}, nil)
	r.start()
	r.publish(reset("before", graphsim.GoodDevice(0)), nil)
	r.awaitState("before", record.Accepted)
	r.sim.RevokeTokensWithChallenge()
	r.publish(reset("after", graphsim.GoodDevice(1)), nil)
	if rec := r.awaitState("after", record.Accepted); rec.Attempts != 1 || r.sim.Resets(graphsim.GoodDevice(1)) != 1 {
		t.Errorf("record: %+v", rec)
	}
	if calls := r.sim.TokenCalls(); len(calls) != 3 || calls[1].Status != 400 || calls[2].Status != 200 {
		t.Errorf("token calls: %+v", calls)
	}
}

// TestStopIsNoOutage: calls that the worker itself cuts short at its hard stop
// are no sign of an outage.
func TestStopIsNoOutage(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) {
		c.DrainTimeout = time.Second
		c.Policy.RequestTimeout = 20 * time.Second
	})
	stop := r.start()
	const requests = 10
	for i := range requests {
		r.publish(reset(fmt.Sprint("r", i), graphsim.FaultDevice(604, 0, 0, i)), nil)
	}
	r.await("the calls", func() bool { return len(r.sim.Calls()) == requests })
	stop()
	if r.held() {
		t.Error("the tenant was held")
	}
}

// TestNeverServedDevices: devices that Graph always answers with 401, beside
// good ones, become dead letters, and cost few tokens, one after the other or
// all at once.
func TestNeverServedDevices(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	const devices = 10
	began := time.Now()
	good := func(i int) {
		r.publish(reset(fmt.Sprint("good", i), graphsim.GoodDevice(i)), nil)
		r.awaitState(fmt.Sprint("good", i), record.Accepted)
	}
	good(0)
	for i := 1; i <= devices; i++ {
		device := graphsim.FaultDevice(401, 0, i%2, i) // with a challenge and without
		r.publish(reset(fmt.Sprint("bad", i), device), nil)
		r.await("the call", func() bool { return r.calls(http.MethodPost, device) > 0 })
		good(i)
	}
	for i := 1; i <= devices; i++ {
		if rec := r.awaitState(fmt.Sprint("bad", i), record.Dead); rec.Reason != string(verdict.ReasonUnauthorized) {
			t.Errorf("bad%d: %+v", i, rec)
		}
	}
	// The first, and from the first 401 on at most one in renewPause.
	if n, most := r.sim.Status().TokenCalls, 3+int(time.Since(began)/(5*time.Second)); n > most {
		t.Errorf("%d token requests, want at most %d", n, most)
	}
	if r.held() {
		t.Error("the tenant was held")
	}
	for i := range devices + 1 {
		if n := r.sim.Resets(graphsim.GoodDevice(i)); n != 1 {
			t.Errorf("good%d: %d resets", i, n)
		}
	}
}

// TestNotBegun: a server that goes away under a burst says of calls that it has
// not begun with them. They are made again at once over another connection,
// each device is reset once, and that is no outage.
func TestNotBegun(t *testing.T) {
	t.Parallel()
	const burst = 32
	for name, end := range map[string]func(f *http2.Framer, streams []uint32) error{
		"GOAWAY": func(f *http2.Framer, streams []uint32) error { return f.WriteGoAway(streams[0], http2.ErrCodeNo, nil) },
		"REFUSED_STREAM": func(f *http2.Framer, streams []uint32) error {
			for _, s := range streams[1:] {
				if err := f.WriteRSTStream(s, http2.ErrCodeRefusedStream); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{}, func(c *Config) { c.Concurrency = burst })
			server := newFramed(t, burst, end)
			r.cfg.Endpoint, r.cfg.RootCAs = server.url, server.roots
			r.start()
			for i := range burst {
				r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
			}
			r.awaitEmpty()
			for i := range burst {
				if rec := r.record(fmt.Sprint("r", i)); rec.State != record.Accepted || rec.Attempts != 1 || rec.Verified {
					t.Errorf("r%d: %+v", i, rec)
				}
			}
			if n := server.done.Load(); n != burst {
				t.Errorf("%d calls were carried out", n)
			}
			if r.held() {
				t.Error("the tenant was held")
			}
		})
	}
}

// framed is a server that speaks HTTP/2 frame by frame.
type framed struct {
	url   string
	roots *x509.CertPool
	done  atomic.Int32 // calls that were carried out
}

// newFramed begins with no call until a burst has come on one connection. Then
// it carries out the first of it, and ends the others. All later calls, it
// carries out.
func newFramed(t *testing.T, burst int, end func(f *http2.Framer, streams []uint32) error) *framed {
	t.Helper()
	template := httptest.NewTLSServer(nil)
	template.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: template.TLS.Certificates, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	s := &framed{url: "https://" + l.Addr().String(), roots: x509.NewCertPool()}
	s.roots.AddCert(template.Certificate())
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { _ = l.Close() })
	var ended atomic.Bool
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				s.serve(c, burst, &ended, end)
			})
		}
	})
	return s
}

func (s *framed) serve(c net.Conn, burst int, ended *atomic.Bool, end func(f *http2.Framer, streams []uint32) error) {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(c, c)
	noContent := func(stream uint32) error {
		s.done.Add(1)
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x80 | 9}, EndHeaders: true, EndStream: true})
	}
	err := f.WriteSettings()
	var streams []uint32
	for err == nil {
		var frame http2.Frame
		if frame, err = f.ReadFrame(); err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = f.WritePing(true, frame.Data)
			}
		case *http2.HeadersFrame:
			if ended.Load() {
				err = noContent(frame.StreamID)
				break
			}
			if streams = append(streams, frame.StreamID); len(streams) == burst {
				ended.Store(true)
				err = errors.Join(end(f, streams), noContent(streams[0]))
			}
		}
	}
}

// TestBadDevices is about devices that fail for ever, beside good ones.
func TestBadDevices(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, nil)
	tests := map[string]func(*testing.T){}
	add := func(name string, test func(*rig)) {
		n := len(tests)
		tests[name] = func(t *testing.T) { test(base.branch(t, 500+n)) }
	}
	add("eight bad devices", testEightBad)
	add("exhausted in a hold", testExhaustedInHold)
	together(t, tests)
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
