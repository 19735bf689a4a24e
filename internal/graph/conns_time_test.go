package graph

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a network in memory, for tests in fake time: a listener, and a way
// to make its connections go dead without a word.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
	dials  int
	dead   atomic.Bool // what is written from now on goes nowhere
	served atomic.Int32
	// onWrite, if not nil, is called for each write of a client.
	onWrite func()
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// pipeConn is a client's end.
type pipeConn struct {
	net.Conn
	network *pipes
}

func (c pipeConn) Write(b []byte) (int, error) {
	if f := c.network.onWrite; f != nil {
		f()
	}
	if c.network.dead.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p.dials++
	near, far := net.Pipe()
	select {
	case p.accept <- far:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c := &countedConn{Conn: pipeConn{near, p}}
	*ctx.Value(dialedKey{}).(**countedConn) = c
	return c, nil
}

// inFakeTime runs a test with a client and a server of a network in memory.
func inFakeTime(t *testing.T, http2 bool, test func(t *testing.T, p *pipes, c *Client)) {
	t.Helper()
	template := httptest.NewTLSServer(nil)
	template.Close()
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{accept: make(chan net.Conn), closed: make(chan struct{})}
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetHTTP2(http2)
		s := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				p.served.Add(1)
				w.WriteHeader(http.StatusNoContent)
			}),
			TLSConfig: &tls.Config{Certificates: template.TLS.Certificates, MinVersion: tls.VersionTLS12},
			Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0),
		}
		var served sync.WaitGroup
		served.Go(func() { _ = s.ServeTLS(p, "", "") })
		c := newTestClient(t, "https://127.0.0.1", roots(template))
		c.conns.transport.DialContext = p.dial
		test(t, p, c)
		c.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		served.Wait()
	})
}

func resetNow(t *testing.T, c *Client) {
	t.Helper()
	if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
		t.Fatal(err)
	}
}

// TestDeadConnection checks that an HTTP/2 connection whose other end has gone
// without a word is found while nothing waits for it.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	inFakeTime(t, true, func(t *testing.T, p *pipes, c *Client) {
		c.conns.transport.IdleConnTimeout = time.Hour // it is not closed for want of calls
		resetNow(t, c)
		wait(pingAfter + pingTimeout + time.Second)
		resetNow(t, c)
		if p.dials != 1 {
			t.Errorf("%d connections: a living one was given up", p.dials)
		}
		p.dead.Store(true)
		wait(pingAfter + pingTimeout + time.Second)
		p.dead.Store(false)
		resetNow(t, c)
		if p.dials != 2 || c.conns.openConns() != 1 {
			t.Errorf("%d connections were made, %d are held", p.dials, c.conns.openConns())
		}
	})
}

// TestIdleConnections checks after which time of idleness a connection is not
// used any more, and that one in use stays.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	for http2, idle := range map[bool]time.Duration{true: idleHTTP2, false: idleHTTP1} {
		inFakeTime(t, http2, func(t *testing.T, p *pipes, c *Client) {
			for range 3 {
				resetNow(t, c)
				wait(idle - time.Second)
			}
			if p.dials != 1 {
				t.Errorf("HTTP/2 %t: %d connections", http2, p.dials)
			}
			wait(2 * time.Second)
			resetNow(t, c)
			if p.dials != 2 || c.conns.openConns() != 1 {
				t.Errorf("HTTP/2 %t: %d connections were made, %d are held", http2, p.dials, c.conns.openConns())
			}
		})
	}
}

// TestHandshakeTimeout checks that a handshake without end fails for all that
// wait, long before their own deadlines.
func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	inFakeTime(t, true, func(t *testing.T, p *pipes, c *Client) {
		p.dead.Store(true)
		start := time.Now()
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(time.Minute))
				if wantKind(t, err, NotSent); errors.Is(err, errDeadline) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if took := time.Since(start); took != dialTimeout || p.dials != 1 {
			t.Errorf("it took %v and %d connections", took, p.dials)
		}
		p.dead.Store(false)
		resetNow(t, c)
	})
}

// TestSilentServer checks that a call without an answer ends with its deadline,
// and that the next one goes over another connection.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{true, false} {
		inFakeTime(t, http2, func(t *testing.T, p *pipes, c *Client) {
			resetNow(t, c)
			p.dead.Store(true)
			start := time.Now()
			_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(3*time.Second))
			if wantKind(t, err, Unknown); !errors.Is(err, errDeadline) || time.Since(start) != 3*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			p.dead.Store(false)
			resetNow(t, c)
			if p.dials != 2 {
				t.Errorf("%d connections", p.dials)
			}
			// The old one is not kept for ever.
			wait(pingAfter + pingTimeout + time.Second)
			resetNow(t, c)
			if n := c.conns.openConns(); n != 1 {
				t.Errorf("%d connections are held", n)
			}
		})
	}
}

// TestGuardedWrite checks that the deadline of a call is known to its
// connection when the call is written, and forgotten after.
func TestGuardedWrite(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{true, false} {
		inFakeTime(t, http2, func(t *testing.T, p *pipes, c *Client) {
			resetNow(t, c)
			synctest.Wait() // nothing else is to be written
			net := c.conns.open[0].net
			guarded := func() int {
				net.mu.Lock()
				defer net.mu.Unlock()
				for d := range net.unsent {
					if !d.Equal(time.Now().Add(longEnough)) {
						t.Errorf("HTTP/2 %t: the deadline is noted as %v", http2, d)
					}
				}
				return len(net.unsent)
			}
			first := -1
			p.onWrite = func() {
				if first < 0 {
					first = guarded()
				}
			}
			resetNow(t, c)
			if first != 1 || guarded() != 0 {
				t.Errorf("HTTP/2 %t: %d deadlines when it was written, %d after", http2, first, guarded())
			}
		})
	}
}

// TestStoppedBeforeWrite stops the call, as the process may be, after the last
// look at the clock: when it goes on after its deadline, nothing is sent.
func TestStoppedBeforeWrite(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{true, false} {
		inFakeTime(t, http2, func(t *testing.T, p *pipes, c *Client) {
			for _, warm := range []bool{false, true} {
				if warm {
					resetNow(t, c)
				}
				served := p.served.Load()
				call := within(time.Second)
				call.May = func() bool { <-time.After(time.Minute); return true }
				_, err := c.Reset(t.Context(), Target{Device: testDevice}, call)
				if err == nil || !errors.Is(err, errDeadline) {
					t.Errorf("HTTP/2 %t: %v", http2, err)
				}
				wait(time.Minute)
				if n := p.served.Load() - served; n != 0 {
					t.Errorf("HTTP/2 %t: %d requests were sent", http2, n)
				}
			}
			resetNow(t, c)
		})
	}
}
