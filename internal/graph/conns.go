package graph

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
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
	maxHeaderLen = 64 << 10
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
	http1        atomic.Bool // the server was seen to speak HTTP/1: a connection carries one call at a time

	mu      sync.Mutex
	open    []*conn
	dialing *dial // not nil while a connection is being made that others may share
	closed  bool
}

type conn struct {
	cc       *http.ClientConn
	net      *countedConn
	retired  atomic.Bool
	lastUsed time.Time // owned by conns.mu
}

type dial struct {
	done chan struct{}
	err  error // read after done
}

// countedConn counts what was written, so that a call that failed can be known
// not to have been sent.
type countedConn struct {
	net.Conn
	written atomic.Int64
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

type dialedKey struct{}

func newConns(scheme, addr string, roots *x509.CertPool) *conns {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &conns{
		scheme: scheme,
		addr:   addr,
		transport: &http.Transport{
			Proxy:             http.ProxyFromEnvironment,
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
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderLen,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		},
	}
}

var errClosed = errors.New("the client is closed")

// get returns a connection on which one call is reserved: exactly one
// RoundTrip must follow.
func (p *conns) get(ctx context.Context) (*conn, error) {
	for {
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
			if d.err != nil && !errors.Is(d.err, context.Canceled) {
				return nil, d.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reserve finds a connection that can carry one more call. Call with mu held.
func (p *conns) reserve() *conn {
	keep := p.open[:0]
	var found *conn
	for _, c := range p.open {
		switch {
		case c.cc.Err() != nil:
			continue
		case p.http1.Load() && c.cc.InFlight() == 0 && time.Since(c.lastUsed) > idleHTTP1:
			_ = c.cc.Close() // idle: nothing is lost with it
			continue
		}
		keep = append(keep, c)
		if found == nil && c.cc.Reserve() == nil {
			found = c
			c.lastUsed = time.Now()
		}
	}
	clear(p.open[len(keep):])
	p.open = keep
	return found
}

func (p *conns) dial(ctx context.Context, d *dial) (*conn, error) {
	var raw *countedConn
	cc, err := p.transport.NewClientConn(context.WithValue(ctx, dialedKey{}, &raw), p.scheme, p.addr)
	if err == nil && raw == nil {
		_ = cc.Close()
		err = errors.New("the connection was made without its dialer")
	}
	var c *conn
	if err == nil {
		c = &conn{cc: cc, net: raw, lastUsed: time.Now()}
		cc.SetStateHook(func(cc *http.ClientConn) {
			if c.retired.Load() && cc.InFlight() == 0 {
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
	if err != nil {
		err = fmt.Errorf("connect to %s: %w", p.addr, err)
	} else {
		p.open = append(p.open, c)
	}
	d.err = err
	close(d.done)
	if p.dialing == d {
		p.dialing = nil
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// retire takes a connection out of use; the calls under way on it may finish.
func (p *conns) retire(c *conn) {
	p.mu.Lock()
	for i := range p.open {
		if p.open[i] == c {
			p.open = append(p.open[:i], p.open[i+1:]...)
			break
		}
	}
	p.mu.Unlock()
	c.retired.Store(true)
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
