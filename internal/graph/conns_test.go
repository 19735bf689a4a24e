package graph

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// slowly delays each dial.
func slowly(dial dialFunc, d time.Duration) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return dial(ctx, network, addr)
	}
}

// brokenConn fails its writes from some moment on.
type brokenConn struct {
	net.Conn
	broken atomic.Bool
	whole  int // writes that succeed before the first that fails
	allow  int // bytes of that one which get through
}

// Write writes, or fails.
func (c *brokenConn) Write(b []byte) (int, error) {
	if !c.broken.Load() {
		return c.Conn.Write(b)
	}
	if c.whole > 0 {
		c.whole--
		return c.Conn.Write(b)
	}
	n, _ := c.Conn.Write(b[:min(c.allow, len(b))])
	c.allow = 0
	return n, &net.OpError{Op: "write", Net: "tcp", Err: syscall.ECONNRESET}
}

// breakConns makes the connections of a client ones that break.
func breakConns(c *Client, broken *brokenConn) {
	dial := c.conns.transport.DialContext
	c.conns.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			broken.Conn = conn.(*countedConn).Conn
			conn.(*countedConn).Conn = broken
		}
		return conn, err
	}
}

// TestBrokenWrite checks that a request of which nothing was written is known
// not to have been sent, and that one which was written in part is not.
func TestBrokenWrite(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		for _, warm := range []int{0, 1} {
			for allow, want := range map[int]Kind{0: NotSent, 20: Unknown} {
				if warm == 0 && allow > 0 {
					continue // it may be the answer to the server's SETTINGS that breaks
				}
				var requests atomic.Int32
				_, c := serve(t, http2, func(w http.ResponseWriter, _ *http.Request) {
					requests.Add(1)
					w.WriteHeader(http.StatusNoContent)
				})
				broken := &brokenConn{allow: allow}
				breakConns(c, broken)
				for range warm {
					if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
						t.Fatal(err)
					}
				}
				conn, err := c.conns.get(t.Context()) // connects, if none is there
				if err != nil {
					t.Fatal(err)
				}
				conn.cc.Release()
				broken.broken.Store(true)
				_, err = c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
				wantKind(t, err, want)
				if n := int(requests.Load()); n != warm {
					t.Errorf("%d requests", n)
				}
			}
		}
	})
}

// TestBrokenHeaders checks that a request whose headers did not leave as a
// whole is known not to have been sent: no server can act upon it.
func TestBrokenHeaders(t *testing.T) {
	t.Parallel()
	_, c := serve(t, false, func(_ http.ResponseWriter, r *http.Request) { t.Error(r.URL) })
	broken := &brokenConn{whole: 1}
	breakConns(c, broken)
	conn, err := c.conns.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.cc.Release()
	broken.broken.Store(true)
	call := within(longEnough)
	call.Token = testToken(strings.Repeat("x", 20_000)) // more than net/http keeps before it writes
	_, err = c.Reset(t.Context(), Target{Device: testDevice}, call)
	wantKind(t, err, NotSent)
	if broken.whole != 0 {
		t.Error("nothing was written")
	}
}

// openConns is how many connections are held, retired ones included.
func (p *conns) openConns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// TestRetiredAfter503 checks that the call after a 503 goes over a new
// connection, and that the old one is closed when nothing uses it any more.
func TestRetiredAfter503(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		var mu sync.Mutex
		states := make(map[string]http.ConnState)
		remotes := make(chan string, 3)
		waiting, goOn := make(chan struct{}), make(chan struct{})
		_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			remotes <- r.RemoteAddr
			switch r.Header.Get("Client-Request-Id") {
			case "wait":
				close(waiting)
				held(r, goOn)
			case "503":
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = io.WriteString(w, graphError("ServiceUnavailable", "busy"))
				return
			}
			w.WriteHeader(http.StatusNoContent)
		}, func(s *http.Server) {
			s.ConnState = func(c net.Conn, state http.ConnState) {
				mu.Lock()
				defer mu.Unlock()
				states[c.RemoteAddr().String()] = state
			}
		})
		reset := func(id string) error {
			call := within(longEnough)
			call.ClientRequestID = id
			_, err := c.Reset(t.Context(), Target{Device: testDevice}, call)
			return err
		}
		// One call is under way on the connection while another meets the 503.
		slow := make(chan error, 1)
		go func() { slow <- reset("wait") }()
		<-waiting
		first := <-remotes
		wantKind(t, reset("503"), Unavailable)
		unavailable := <-remotes
		if http2 && unavailable != first {
			t.Errorf("one connection for two calls: %s, %s", first, unavailable)
		}
		if err := reset("after"); err != nil {
			t.Error(err)
		}
		if after := <-remotes; after == unavailable {
			t.Error("the call after a 503 used the same connection")
		}
		close(goOn)
		if err := <-slow; err != nil {
			t.Errorf("the call that was under way: %v", err)
		}
		eventually(t, "the retired connection is closed", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return states[unavailable] == http.StateClosed
		})
	})
}

// TestIdleGoAway checks that a connection which took a GOAWAY while nothing
// used it is closed, though the server leaves it open.
func TestIdleGoAway(t *testing.T) {
	t.Parallel()
	server := make(chan *h2Conn, 2)
	s := listenH2(t, func(c *h2Conn, stream uint32) bool {
		c.noContent(stream)
		server <- c
		return true
	})
	c := s.client(t)
	if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
		t.Fatal(err)
	}
	old := c.conns.open[0]
	eventually(t, "the end of the call", func() bool { return old.cc.InFlight() == 0 })
	(<-server).goAway(1, codeNone, "")
	eventually(t, "the GOAWAY", func() bool { return old.cc.Available() == 0 })
	if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
		t.Fatal(err)
	}
	if n := c.conns.openConns(); n != 1 || old.cc.Err() == nil {
		t.Errorf("%d connections, the old one: %v", n, old.cc.Err())
	}
}

// TestManyCalls checks that a burst shares what connections it needs, and that
// no reservation is lost.
func TestManyCalls(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		calls := 300 // more than the server lets one connection carry
		if !http2 {
			calls = 30 // each has its own
		}
		var requests, remotes sync.Map
		var under atomic.Int64
		all := make(chan struct{})
		_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			requests.Store(r.Header.Get("Client-Request-Id"), true)
			remotes.Store(r.RemoteAddr, true)
			if under.Add(1) == int64(calls) {
				close(all)
			}
			held(r, all) // all are under way at once
			w.WriteHeader(http.StatusNoContent)
		})
		var group sync.WaitGroup
		for range calls {
			group.Go(func() {
				if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		count := func(m *sync.Map) (n int) {
			m.Range(func(_, _ any) bool { n++; return true })
			return n
		}
		if n := count(&requests); n != calls {
			t.Errorf("%d requests", n)
		}
		if n := count(&remotes); http2 && n > 10 || !http2 && n != calls {
			t.Errorf("%d connections", n)
		}
		c.conns.mu.Lock()
		for _, conn := range c.conns.open {
			if n := conn.cc.InFlight(); n != 0 {
				t.Errorf("%d calls are still reserved", n)
			}
		}
		c.conns.mu.Unlock()
	})
}

// TestSharedDial checks that callers share one dial, and its failure.
func TestSharedDial(t *testing.T) {
	t.Parallel()
	_, c := serve(t, true, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	dial := c.conns.transport.DialContext
	var dials atomic.Int32
	begin := make(chan error)
	c.conns.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		if err := <-begin; err != nil {
			return nil, err
		}
		return dial(ctx, network, addr)
	}
	for _, failure := range []error{errors.New("no route"), nil} {
		dials.Store(0)
		const callers = 20
		errs := make(chan error, callers)
		var started atomic.Int32
		for range callers {
			go func() {
				started.Add(1)
				_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
				errs <- err
			}()
		}
		eventually(t, "a dial, and all callers", func() bool { return dials.Load() > 0 && started.Load() == callers })
		for len(errs) < callers {
			select {
			case begin <- failure: // a late caller may dial once more
			case <-time.After(time.Millisecond):
			}
		}
		for range callers {
			if err := <-errs; !errors.Is(err, failure) {
				t.Errorf("%v, want %v", err, failure)
			} else if err != nil {
				wantKind(t, err, NotSent)
			}
		}
		if n := dials.Load(); n > callers/2 {
			t.Errorf("%d dials", n)
		}
	}
}

// TestIdleConnectionIsForgotten checks that nothing is held of a connection that was
// closed because nobody called, and that the next call makes another one.
func TestIdleConnectionIsForgotten(t *testing.T) {
	t.Parallel()
	_, c := serve(t, true, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	c.conns.transport.IdleConnTimeout = time.Millisecond
	for range 3 {
		if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(longEnough); c.conns.openConns() > 0; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal("the closed connection is still held")
			}
		}
	}
}
