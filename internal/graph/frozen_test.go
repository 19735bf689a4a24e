package graph

import (
	"errors"
	"net"
	"testing"
	"time"
)

// TestWriteAfterDeadline: a process that is stopped between the last look at
// the clock and the write writes nothing when it goes on.
func TestWriteAfterDeadline(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	defer server.Close()
	c := &countedConn{Conn: client}
	done := c.expect(time.Now().Add(time.Hour))
	read := make(chan int, 1)
	go func() {
		n, _ := server.Read(make([]byte, 10))
		read <- n
	}()
	if _, err := c.Write([]byte("in time")); err != nil || <-read != len("in time") {
		t.Fatalf("a write in time: %v", err)
	}
	late := c.expect(time.Now().Add(-time.Nanosecond))
	go func() {
		n, _ := server.Read(make([]byte, 10))
		read <- n
	}()
	if _, err := c.Write([]byte("too late")); !errors.Is(err, errDeadline) {
		t.Fatalf("a late write: %v", err)
	}
	if n := <-read; n != 0 {
		t.Errorf("%d bytes were written", n)
	}
	late()
	done()
	if len(c.unsent) != 0 {
		t.Errorf("%d calls are still noted", len(c.unsent))
	}
}
