package graph

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of one connection. An HTTP/2 connection that is silent for pingAfter
// is asked for a sign of life, so that a dead one is found while nothing waits
// for it; an idle HTTP/1 connection is dropped before a server usually does it,
// because a POST sent into a closing connection has an unknown outcome.
const (
	dialTimeout  = 10 * time.Second
	pingAfter    = 15 * time.Second
	pingTimeout  = 10 * time.Second
	idleHTTP1    = 30 * time.Second
	idleHTTP2    = 20 * time.Second // thousands of tenants that have had work keep none
	maxHeaderLen = 64 << 10
	// unackedTimeout is how long what was written may stay unacknowledged by the
	// network. It must be well below the wait before an outcome is looked up.
	unackedTimeout = 10 * time.Second
)

// conns holds the connections to Graph.
//
// [http.Transport] is not used for calls, because it repeats some requests by
// itself, HTTP/2 ones even after a stream error of the server's own making
// (golang/go#47635). One [http.ClientConn] sends a request once or not at all,
// and a failed dial is told from a failed call.
type conns struct {
	transport    *http.Transport
	scheme, addr string
	http1        atomic.Bool // the last connection is HTTP/1: it carries one call at a time

	mu      sync.Mutex
	open    []*conn // retired ones too, until they are closed
	dialing *dial   // not nil while a connection is being made that others may share
	closed  bool
}

type conn struct {
	cc       *http.ClientConn
	net      *countedConn
	http2    bool
	retired  atomic.Bool // it takes no new call; set with conns.mu held
	lastUsed time.Time   // without its monotonic part; guarded by conns.mu
}

type dial struct {
	done chan struct{}
	err  error // read after done; nil also where only its caller was at fault
}

// countedConn counts what was written, so that a call that failed can be known
// not to have been sent, and writes nothing for a call whose deadline has
// passed: between the last look at the clock and the write, the process may have
// been stopped for any length of time.
type countedConn struct {
	net.Conn
	written atomic.Int64

	mu     sync.Mutex
	unsent map[*time.Time]struct{} // deadlines of the calls that are about to be written
}

// expect notes that a call with this deadline is about to be written; done
// takes that back.
func (c *countedConn) expect(deadline time.Time) (done func()) {
	d := deadline.Round(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unsent == nil {
		c.unsent = map[*time.Time]struct{}{}
	}
	c.unsent[&d] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.unsent, &d)
	}
}

func (c *countedConn) late() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unsent) == 0 {
		return false
	}
	now := time.Now().Round(0) // a monotonic clock stands still while the machine sleeps
	for d := range c.unsent {
		if !now.Before(*d) {
			return true
		}
	}
	return false
}

func (c *countedConn) Write(b []byte) (int, error) {
	if c.late() {
		// What is written may hold that call, or a part of another: the
		// connection is of no more use.
		_ = c.Conn.Close()
		return 0, errDeadline
	}
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

type dialedKey struct{}

func newConns(scheme, addr string, roots *x509.CertPool) *conns {
	dialer := &net.Dialer{Timeout: dialTimeout, Control: giveUpUnacknowledged(unackedTimeout)}
	proxy := proxyFromEnvironment()
	return &conns{
		scheme: scheme,
		addr:   addr,
		transport: &http.Transport{
			// NewClientConn asks without the port, which NO_PROXY may name.
			Proxy: func(*http.Request) (*url.URL, error) {
				return proxy(&url.URL{Scheme: scheme, Host: addr})
			},
			OnProxyConnectResponse: throughProxy,

			ForceAttemptHTTP2: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := dialer.DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				counted := &countedConn{Conn: c}
				if out, ok := ctx.Value(dialedKey{}).(**countedConn); ok {
					*out = counted
				}
				return counted, nil
			},
			TLSHandshakeTimeout:    dialTimeout,
			IdleConnTimeout:        idleHTTP2,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderLen,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		},
	}
}

var errClosed = errors.New("the client is closed")

// get returns a connection on which one call is reserved: exactly one
// RoundTrip or Release must follow.
func (p *conns) get(ctx context.Context) (*conn, error) {
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, errClosed
		}
		if c := p.reserve(); c != nil {
			p.mu.Unlock()
			return c, nil
		}
		d := p.dialing
		if d == nil || p.http1.Load() {
			d = &dial{done: make(chan struct{})}
			p.dialing = d
			p.mu.Unlock()
			return p.dial(ctx, d)
		}
		p.mu.Unlock()
		select {
		case <-d.done:
			// A failed dial is everybody's: a queue of callers that each wait
			// for a time-out of their own would take minutes to notice an outage.
			if d.err != nil {
				return nil, d.err
			}
		case <-ctx.Done():
		}
	}
}

// reserve finds a connection that can carry one more call, and drops those
// that never will. Call with mu held.
func (p *conns) reserve() *conn {
	keep := p.open[:0]
	var found *conn
	now := time.Now().Round(0) // a monotonic clock stands still while the machine sleeps
	for _, c := range p.open {
		if c.cc.Err() != nil {
			continue
		}
		if c.cc.InFlight() == 0 {
			// A connection to which the server has said GOAWAY takes no call,
			// and is closed by net/http only at the end of a call.
			useless := c.cc.Available() == 0
			old := p.http1.Load() && now.Sub(c.lastUsed) > idleHTTP1
			if useless || old {
				_ = c.cc.Close() // idle: nothing is lost with it
				continue
			}
		}
		keep = append(keep, c)
		if found == nil && !c.retired.Load() && c.cc.Reserve() == nil {
			found = c
			c.lastUsed = now
		}
	}
	clear(p.open[len(keep):])
	p.open = keep
	return found
}

func (p *conns) dial(ctx context.Context, d *dial) (*conn, error) {
	var raw *countedConn
	var http2 bool
	traced := httptrace.WithClientTrace(context.WithValue(ctx, dialedKey{}, &raw), &httptrace.ClientTrace{
		TLSHandshakeDone: func(s tls.ConnectionState, _ error) { http2 = s.NegotiatedProtocol == "h2" },
	})
	cc, err := p.transport.NewClientConn(traced, p.scheme, p.addr)
	if err == nil && raw == nil {
		_ = cc.Close()
		err = errors.New("the connection was made without its dialer")
	}
	var c *conn
	if err == nil {
		c = &conn{cc: cc, net: raw, http2: http2, lastUsed: time.Now().Round(0)}
		cc.SetStateHook(func(cc *http.ClientConn) {
			switch {
			case cc.Err() != nil:
				go p.drop(c) // the caller may hold mu
			case c.retired.Load() && cc.InFlight() == 0:
				_ = cc.Close() // nothing uses it any more
			}
		})
		if err = cc.Reserve(); err != nil {
			_ = cc.Close()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed && err == nil {
		_ = cc.Close()
		err = errClosed
	}
	if p.dialing == d {
		p.dialing = nil
	}
	defer close(d.done)
	if err != nil {
		err = fmt.Errorf("connect to %s: %w", p.addr, err)
		if ctx.Err() == nil {
			d.err = err // else the caller's time was over, and the others try again
		}
		return nil, err
	}
	p.http1.Store(!http2)
	p.open = append(p.open, c)
	return c, nil
}

// drop forgets a connection that is closed: a tenant without work keeps none of its
// buffers.
func (p *conns) drop(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = slices.DeleteFunc(p.open, func(o *conn) bool { return o == c })
}

// retire takes a connection out of use; the calls under way on it may finish.
func (p *conns) retire(c *conn) {
	p.mu.Lock()
	c.retired.Store(true)
	p.mu.Unlock()
	if c.cc.InFlight() == 0 {
		_ = c.cc.Close() // nothing uses it
	}
}

func (p *conns) close() {
	p.mu.Lock()
	open := p.open
	p.open, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range open {
		_ = c.cc.Close() // the process is done with them
	}
	p.transport.CloseIdleConnections()
}
