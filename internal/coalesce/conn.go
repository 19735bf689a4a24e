// Package coalesce sends what is written to a connection at about the same time
// with one system call. Where many goroutines write small messages, that is most
// of what a message costs: for the sender, and for the other end, which reads
// them together.
package coalesce

import (
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// most is how many bytes may wait; beyond, writers wait.
	most = 256 << 10
	// writeWait is how long the other end may take none of what is sent, before
	// the connection is given up. It is as long as that of nats.go.
	writeWait = time.Minute
	// closeWait is how long a connection that is closed may take to send what
	// waits.
	closeWait = time.Second
)

// Dialer makes connections that send together what is written at about the same
// time. It is a dialer for [github.com/nats-io/nats.go.SetCustomDialer].
type Dialer struct {
	// Timeout is for connecting; zero is none.
	Timeout time.Duration
}

// Dial connects.
func (d Dialer) Dial(network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: d.Timeout}).Dial(network, address)
	if err != nil {
		return nil, err
	}
	return New(c), nil
}

// Conn is a connection whose writes return before they are sent. That they have
// returned means no more than it does of any connection, where they are in a
// buffer of the kernel then: what was written may be lost with the connection,
// and is never sent on another one. After a failure the connection is closed, so
// that whoever reads it learns of it.
type Conn struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond // there is room, it is closed, or nothing is being sent
	waiting []byte
	spare   []byte // the buffer of what was sent last
	// sending tells that a goroutine sends what waits. It ends where nothing does,
	// so that a connection that is forgotten without being closed leaves none.
	sending bool
	closed  bool
	err     error
}

// New takes a connection over.
func New(conn net.Conn) *Conn {
	c := &Conn{Conn: conn}
	c.changed.L = &c.mu
	return c
}

// Write hands b over to be sent. It waits only where too much waits already. It
// fails where an earlier write could not be sent, or the connection is closed.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && !c.closed && len(c.waiting) >= most {
		c.changed.Wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.closed:
		return 0, net.ErrClosed
	}
	c.waiting = append(c.waiting, b...)
	if !c.sending {
		c.sending = true
		go c.send()
	}
	return len(b), nil
}

// Close sends what waits, within a second or so, and closes the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true
	_ = c.Conn.SetWriteDeadline(time.Now().Add(closeWait)) // what is wrong with it shows when it is written to
	c.changed.Broadcast()
	for c.sending {
		c.changed.Wait()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// SetDeadline is for reading only. How long the sending may take is the
// connection's own affair.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing. See [Conn.SetDeadline].
func (*Conn) SetWriteDeadline(time.Time) error { return nil }

// send sends until nothing waits.
func (c *Conn) send() {
	for {
		runtime.Gosched() // whoever is about to write may do so first
		out := c.take()
		if out == nil {
			return
		}
		if _, err := c.Conn.Write(out); err != nil {
			c.fail(err)
			return
		}
		c.spare = out
	}
}

// take is what waits, nil for nothing: then the sending is over.
func (c *Conn) take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed.Broadcast()
	if len(c.waiting) == 0 {
		c.sending = false
		return nil
	}
	wait := writeWait
	if c.closed {
		wait = closeWait
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(wait)) // as above
	out := c.waiting
	c.waiting, c.spare = c.spare[:0], nil
	return out
}

func (c *Conn) fail(err error) {
	_ = c.Conn.Close() // the reader is to know
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.waiting, c.sending = err, nil, false
	c.changed.Broadcast()
}
