package natsconn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestExplain tells what a failure to connect is likely due to.
func TestExplain(t *testing.T) {
	t.Parallel()
	first := Config{TLSFirst: true}
	timeout := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for name, c := range map[string]struct {
		cfg  Config
		err  error
		says string // empty: nothing is added
	}{
		"unknown authority":       {Config{}, &tls.CertificateVerificationError{Err: errors.New("x")}, "NATS_CA"},
		"greets before TLS":       {first, tls.RecordHeaderError{Msg: "x"}, "remove NATS_TLS_FIRST"},
		"no TLS at all":           {Config{}, tls.RecordHeaderError{Msg: "x"}, ""},
		"nothing at the address":  {Config{}, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, "NATS_TIMEOUT"},
		"no greeting":             {Config{}, timeout, "NATS_TLS_FIRST=true"},
		"no greeting, by nats.go": {Config{}, nats.ErrTimeout, "NATS_TLS_FIRST=true"},
		"closed before it greets": {Config{}, io.EOF, "NATS_TLS_FIRST=true"},
		"no TLS in time":          {first, timeout, "remove NATS_TLS_FIRST"},
		"TLS of a plain server":   {Config{}, nats.ErrSecureConnWanted, "write nats:// in NATS_URL"},
		"refused":                 {Config{}, nats.ErrAuthorization, ""},
		"refused connection":      {Config{}, &net.OpError{Op: "dial", Err: errors.New("refused")}, ""},
		"closed":                  {first, io.EOF, ""},
	} {
		wrapped := fmt.Errorf("wrapped: %w", c.err)
		got := c.cfg.Explain(wrapped)
		added := strings.TrimPrefix(got.Error(), wrapped.Error())
		if !errors.Is(got, wrapped) || (c.says == "") != (added == "") || !strings.Contains(added, c.says) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
