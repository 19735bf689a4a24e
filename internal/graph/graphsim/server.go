package graphsim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// server is the listening half of a Sim.
type server struct {
	http  *http.Server
	trust trust
	addr  string // host:port, the same across refusals

	tasks sync.WaitGroup // timed ends of outages

	life     sync.Mutex // guards starting and stopping of the listener
	closed   bool
	listener net.Listener
	served   chan struct{} // closed when the Serve call of the listener returned

	connMu sync.Mutex
	conns  map[*conn]struct{}
}

// conn is an accepted connection, tracked so that it can be cut.
type conn struct {
	net.Conn
	server *server
}

// Close forgets the connection and closes it.
func (c *conn) Close() error {
	c.server.connMu.Lock()
	delete(c.server.conns, c)
	c.server.connMu.Unlock()
	return c.Conn.Close()
}

// cut ends the connection with a TCP reset: what was not yet sent is lost.
func (c *conn) cut() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a closed connection
	}
	_ = c.Close() // it is gone either way
}

type trackingListener struct {
	net.Listener
	server *server
}

// Accept waits for a connection and tracks it.
func (l trackingListener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, server: l.server}
	l.server.connMu.Lock()
	l.server.conns[c] = struct{}{}
	l.server.connMu.Unlock()
	return c, nil
}

type connKey struct{}

// Start makes a simulator and listens, with a certificate made for it. The
// certificate names localhost, 127.0.0.1 and ::1.
func Start(cfg Config) (*Sim, error) {
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	addr, err := loopbackAddr(cfg.Addr)
	if err != nil {
		return nil, err
	}
	if s.server.trust, err = newTrust(time.Now()); err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!cfg.NoHTTP2)
	s.server.conns = make(map[*conn]struct{})
	s.server.http = &http.Server{
		Handler:           s,
		Protocols:         protocols,
		ReadHeaderTimeout: 30 * time.Second,
		// Cut connections and aborted handlers are its business, not news.
		ErrorLog:  log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.server.trust.leaf}, MinVersion: tls.VersionTLS12},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("simulated Graph: %w", err)
	}
	s.server.addr = l.Addr().String()
	s.server.serve(l)
	return s, nil
}

// serve starts to accept on a listener. Call with life held, or before others
// know the server.
func (v *server) serve(l net.Listener) {
	v.listener = l
	v.served = make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		// It returns when the listener is closed, which is wanted.
		_ = v.http.ServeTLS(trackingListener{l, v}, "", "")
	}(v.served)
}

// refuse closes the listener and cuts all connections. Call with life held.
func (v *server) refuse() {
	if v.listener == nil {
		return
	}
	_ = v.listener.Close() // closed is what it shall be
	<-v.served
	v.listener = nil
	v.cutAll()
}

func (v *server) cutAll() {
	v.connMu.Lock()
	all := make([]*conn, 0, len(v.conns))
	for c := range v.conns {
		all = append(all, c)
	}
	v.connMu.Unlock()
	for _, c := range all {
		c.cut()
	}
}

// listenAgain opens the listener on the old port. Another process may hold the
// port for a moment, as the near end of a connection: it is tried again until
// it works or the simulator is closed. Call with life held.
func (v *server) listenAgain(closing <-chan struct{}) {
	if v.http == nil || v.listener != nil || v.closed {
		return
	}
	for {
		l, err := net.Listen("tcp", v.addr)
		if err == nil {
			v.serve(l)
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-closing:
			return
		}
	}
}

// Close ends the listener and all connections, and waits for the handlers and
// for what else it started.
func (s *Sim) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		v := &s.server
		v.life.Lock()
		v.closed = true
		v.refuse()
		v.cutAll() // whatever an earlier refusal let slip
		v.life.Unlock()
		s.gate.Lock() // waits for the handlers; never given back
		v.tasks.Wait()
		if v.http != nil {
			// All connections are cut; this waits until net/http noticed.
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = v.http.Shutdown(ctx) // on a time-out the next line does the rest
			_ = v.http.Close()       // nothing is left to fail
		}
	})
	return nil
}

// later runs f after a while, unless the simulator is closed first.
// Call it from a handler only: Close waits for handlers, then for tasks.
func (s *Sim) later(d time.Duration, f func()) {
	s.server.tasks.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			f()
		case <-s.closing:
		}
	})
}

var errGone = errors.New("the client has gone, or the simulator is closed")

// wait lets time pass for a request; errGone if its client leaves first.
func (s *Sim) wait(r *http.Request, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
	case <-s.closing:
	}
	return errGone
}

// silence keeps a request without an answer until its client leaves.
func (s *Sim) silence(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.closing:
	}
	panic(http.ErrAbortHandler)
}

// hangUp ends a request without an answer, with its connection or, over
// HTTP/2, its stream alone.
func (s *Sim) hangUp(r *http.Request, streamOnly bool) {
	if c, ok := r.Context().Value(connKey{}).(*tls.Conn); ok && !streamOnly {
		if tracked, ok := c.NetConn().(*conn); ok {
			tracked.cut()
		}
	}
	panic(http.ErrAbortHandler)
}

// CAs holds the certificate authority that the server's certificate is from.
// It is nil without a listener.
func (s *Sim) CAs() *x509.CertPool { return s.server.trust.pool }

// CAPEM is that authority's certificate in PEM form.
func (s *Sim) CAPEM() []byte { return s.server.trust.pem }
