// Package coalesce sends what is written to a connection at about the same time
// with one system call. Where many goroutines write small messages, that is most
// of what a message costs: for the sender, and for the other end, which reads
// them together.
package coalesce

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	// most is how many bytes may wait; beyond, writers wait.
	most = 256 << 10
	// writeWait is how long one system call may take, before the connection is
	// given up. It is as long as that of nats.go.
	writeWait = time.Minute
	// closeWait is how long a connection that is closed may take to send what
	// waits, and one that failed to read what is there yet.
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
// and is never sent on another one. Soon after a failure the connection is closed,
// so that whoever reads it learns of it.
type Conn struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond // there is room, it is closed, or nothing is being sent
	waiting []byte
	spare   []byte // the buffer of what was sent last
	// sending tells that a goroutine sends what waits. It ends where nothing does,
	// so that a connection that is forgotten without being closed leaves none.
	sending  bool
	closed   bool
	deadline time.Time   // of a write that has to wait; zero: none
	err      error       // of the sending
	end      *time.Timer // closes it after a failure; nil: there was none
}

// New takes a connection over.
func New(conn net.Conn) *Conn {
	c := &Conn{Conn: conn}
	c.changed.L = &c.mu
	return c
}

// Write hands b over to be sent. It waits only where too much waits already. It
// fails where an earlier write could not be sent, the connection is closed, or the
// deadline passes meanwhile.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.wait(); err != nil {
		return 0, err
	}
	c.waiting = append(c.waiting, b...)
	if !c.sending {
		c.sending = true
		go c.send()
	}
	return len(b), nil
}

// wait waits for room. Call with mu held.
func (c *Conn) wait() error {
	if deadline := c.deadline; len(c.waiting) >= most && !deadline.IsZero() {
		defer time.AfterFunc(time.Until(deadline), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.changed.Broadcast()
		}).Stop()
	}
	for {
		switch late := !c.deadline.IsZero() && !time.Now().Before(c.deadline); {
		case c.err != nil:
			return c.err
		case c.closed:
			return net.ErrClosed
		case len(c.waiting) < most:
			return nil
		case late:
			return os.ErrDeadlineExceeded
		}
		c.changed.Wait()
	}
}

// Read reads. Where the connection was closed because of what could not be sent,
// it fails with that.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, net.ErrClosed) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			err = c.err
		}
	}
	return n, err
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
	if c.end != nil {
		c.end.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// SetDeadline bounds reading, and the waiting of writes.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetWriteDeadline(t), c.SetReadDeadline(t))
}

// SetWriteDeadline bounds how long the next writes wait for room. How long the
// sending may take is the connection's own affair.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

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

// fail ends the sending. What the other end said before it went away, perhaps why,
// can be read yet; if it is there but takes nothing, there is no use in waiting.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := closeWait
	if errors.Is(err, os.ErrDeadlineExceeded) {
		rest = 0
	}
	c.end = time.AfterFunc(rest, func() { _ = c.Conn.Close() }) // it has failed already
	c.err, c.waiting, c.sending = err, nil, false
	c.changed.Broadcast()
}
