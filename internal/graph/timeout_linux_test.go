package graph

import (
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUnacknowledged: what a call has written and the network does not deliver
// is given up long before the call's outcome is looked up.
func TestUnacknowledged(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := newConns("https", l.Addr().String(), nil).transport.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	counted, ok := c.(*countedConn)
	if !ok {
		t.Fatalf("a connection is a %T", c)
	}
	raw, err := counted.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		got, optErr = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	}); err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	if want := int(unackedTimeout.Milliseconds()); got != want || unackedTimeout > 15*time.Second {
		t.Errorf("%d ms instead of %d", got, want)
	}
}

// TestUndeliveredIsDropped takes the network away under a call that was written,
// closes its connection, as the end of a process does, and brings the network
// back: the call must not arrive then. It needs a network of its own.
func TestUndeliveredIsDropped(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network of its own: %v", err)
	}
	loopback(t, true)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const after = time.Second
	dialer := net.Dialer{Control: giveUpUnacknowledged(after), FallbackDelay: -1}
	c, err := dialer.DialContext(t.Context(), "tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	loopback(t, false)
	if _, err := c.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	_ = c.Close() // what it could not deliver is what this is about
	<-time.After(3 * after)
	loopback(t, true)
	if err := server.SetReadDeadline(time.Now().Add(4 * after)); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 10)); n > 0 {
		t.Errorf("%d bytes arrived after all (%v)", n, err)
	}
}

// loopback turns the loopback device of this thread's network on or off.
func loopback(t *testing.T, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	if up {
		ifr.SetUint16(unix.IFF_UP)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatal(err)
	}
}
