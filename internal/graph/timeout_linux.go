package graph

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// giveUpUnacknowledged lets the kernel give a connection up, and with it what is
// not delivered yet, when the other side has not acknowledged it for so long.
// Else it would go on trying for minutes, also when the connection was closed or
// its process is gone: a call could arrive after its outcome was looked up.
func giveUpUnacknowledged(after time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
		})
		if err != nil {
			return err
		}
		return set
	}
}
