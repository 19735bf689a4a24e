package graph

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// TestWaiterLeaves checks that a caller which waits for another's dial goes
// when its time is over.
func TestWaiterLeaves(t *testing.T) {
	t.Parallel()
	_, c := serve(t, true, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	dial := c.conns.transport.DialContext
	c.conns.transport.DialContext = slowly(dial, time.Second)
	first := make(chan error, 1)
	go func() {
		_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
		first <- err
	}()
	eventually(t, "the dial", func() bool {
		c.conns.mu.Lock()
		defer c.conns.mu.Unlock()
		return c.conns.dialing != nil
	})
	_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(time.Millisecond))
	if wantKind(t, err, NotSent); !errors.Is(err, errDeadline) {
		t.Error(err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// TestClose checks that Close ends calls under way, on retired connections
// too, and that later calls are not sent.
func TestClose(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		arrived := make(chan string, 2)
		_, c := serve(t, http2, func(_ http.ResponseWriter, r *http.Request) {
			arrived <- r.RemoteAddr
			<-r.Context().Done()
		})
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
				errs <- err
			}()
			<-arrived
			c.conns.mu.Lock()
			conn := c.conns.open[0]
			c.conns.mu.Unlock()
			c.conns.retire(conn) // the second call goes over another
		}
		before := time.Now()
		c.Close()
		for range 2 {
			wantKind(t, <-errs, Unknown)
		}
		if took := time.Since(before); took > longEnough/2 {
			t.Errorf("it took %v", took)
		}
		_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
		if wantKind(t, err, NotSent); !errors.Is(err, errClosed) {
			t.Error(err)
		}
		c.Close()
	})
}

// TestCloseWhileDialing checks that a connection which is ready only after
// Close is not kept.
func TestCloseWhileDialing(t *testing.T) {
	t.Parallel()
	_, c := serve(t, true, func(_ http.ResponseWriter, r *http.Request) { t.Error(r.URL) })
	dial := c.conns.transport.DialContext
	c.conns.transport.DialContext = slowly(dial, soon)
	errs := make(chan error, 1)
	go func() {
		_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
		errs <- err
	}()
	eventually(t, "the dial", func() bool {
		c.conns.mu.Lock()
		defer c.conns.mu.Unlock()
		return c.conns.dialing != nil
	})
	c.Close()
	if err := <-errs; !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if n := c.conns.openConns(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestIdleHTTP1 checks that an HTTP/1 connection which was idle for long is not
// used, and closed.
func TestIdleHTTP1(t *testing.T) {
	t.Parallel()
	remotes := make(chan string, 1)
	_, c := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		remotes <- r.RemoteAddr
		w.WriteHeader(http.StatusNoContent)
	})
	reset := func() string {
		if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
			t.Fatal(err)
		}
		return <-remotes
	}
	first := reset()
	if second := reset(); second != first {
		t.Error("a connection in use was given up")
	}
	old := c.conns.open[0]
	c.conns.mu.Lock()
	old.lastUsed = old.lastUsed.Add(-idleHTTP1)
	c.conns.mu.Unlock()
	if third := reset(); third == first {
		t.Error("an idle connection was used")
	}
	if n := c.conns.openConns(); n != 1 || old.cc.Err() == nil {
		t.Errorf("%d connections, the old one: %v", n, old.cc.Err())
	}
}

// TestTimeoutRetires checks that a call without an answer takes its connection
// out of use, while the others on it end well, and that it is closed then.
func TestTimeoutRetires(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	arrived := make(chan string, 3)
	_, c := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.RemoteAddr
		switch r.Header.Get("Client-Request-Id") {
		case "wait":
			held(r, goOn)
		case "never":
			<-r.Context().Done()
		}
		w.WriteHeader(http.StatusNoContent)
	})
	reset := func(id string, d time.Duration) error {
		call := within(d)
		call.ClientRequestID = id
		_, err := c.Reset(t.Context(), Target{Device: testDevice}, call)
		return err
	}
	slow := make(chan error, 1)
	go func() { slow <- reset("wait", longEnough) }()
	first := <-arrived
	wantKind(t, reset("never", soon), Unknown)
	if second := <-arrived; second != first {
		t.Fatalf("two connections: %s, %s", first, second)
	}
	old := c.conns.open[0]
	if err := reset("after", longEnough); err != nil {
		t.Error(err)
	}
	if third := <-arrived; third == first {
		t.Error("the connection was used again")
	}
	close(goOn)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	eventually(t, "the old connection is closed", func() bool { return old.cc.Err() != nil })
	if err := reset("last", longEnough); err != nil {
		t.Error(err)
	}
	<-arrived
	if n := c.conns.openConns(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestDialersDeadline checks that the end of the time of the caller which
// connects is not a failure of the others that wait for it.
func TestDialersDeadline(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func() (context.Context, Call, func()){
		"deadline": func() (context.Context, Call, func()) {
			return t.Context(), within(soon), func() {}
		},
		"cancelled": func() (context.Context, Call, func()) {
			ctx, cancel := context.WithCancel(t.Context())
			return ctx, within(longEnough), cancel
		},
	} {
		_, c := serve(t, true, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		dial := c.conns.transport.DialContext
		dialing := make(chan struct{})
		var dials atomic.Int32
		c.conns.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) > 1 {
				return dial(ctx, network, addr)
			}
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, call, cancel := end()
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { _, err := c.Reset(ctx, Target{Device: testDevice}, call); first <- err }()
		<-dialing
		go func() {
			_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
			second <- err
		}()
		cancel()
		wantKind(t, <-first, NotSent)
		if err := <-second; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHeldBack checks that a call which may not be sent any more, once the
// connection is there, is not sent, and that the connection is kept.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer s.Close()
	observed := 0
	c, err := New(Config{Endpoint: s.URL, Observe: func(string, int, time.Duration) { observed++ }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dial := c.conns.transport.DialContext
	c.conns.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return slowly(dial, 2*soon)(context.WithoutCancel(ctx), network, addr) // deaf to the end of the call's time
	}
	_, err = c.Reset(t.Context(), Target{Device: testDevice}, within(soon))
	if wantKind(t, err, NotSent); !errors.Is(err, ErrHeldBack) || !errors.Is(err, errDeadline) {
		t.Error(err)
	}
	for _, may := range []bool{false, true} {
		call := within(longEnough)
		call.May = func() bool {
			if c.conns.openConns() != 1 {
				t.Error("asked before a connection was there")
			}
			return may
		}
		_, err := c.Reset(t.Context(), Target{Device: testDevice}, call)
		if may && err != nil || !may && !errors.Is(err, ErrHeldBack) {
			t.Error(err)
		}
		if n := requests.Load(); n != 0 && !may {
			t.Errorf("%d requests", n)
		}
	}
	if c.conns.openConns() != 1 || requests.Load() != 1 || observed != 1 {
		t.Fatalf("%d connections, %d requests, %d observed", c.conns.openConns(), requests.Load(), observed)
	}
	eventually(t, "no call is reserved", func() bool { return c.conns.open[0].cc.InFlight() == 0 })
}
