package graph

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// HTTP/2 frame types, flags and error codes: RFC 9113 sections 6 and 7.
const (
	frameHeaders  = 0x1
	frameReset    = 0x3
	frameSettings = 0x4
	framePing     = 0x6
	frameGoAway   = 0x7

	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4

	codeNone           = 0x0
	codeProtocol       = 0x1
	codeInternal       = 0x2
	codeRefused        = 0x7
	codeCancel         = 0x8
	codeCalm           = 0xb
	codeHTTP11Required = 0xd
)

// rawServer accepts TLS connections and leaves the rest to a test.
type rawServer struct {
	url      string
	template *httptest.Server // for its certificate
	requests atomic.Int32     // that were read
	conns    atomic.Int32     // that were accepted
}

// listen hands each TLS connection to a function, and closes it after.
func listen(t testing.TB, protocol string, serve func(s *rawServer, c net.Conn)) *rawServer {
	t.Helper()
	template := httptest.NewTLSServer(nil)
	template.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: template.TLS.Certificates, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{url: "https://" + l.Addr().String(), template: template}
	var served sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			mu.Lock()
			open[c] = true
			mu.Unlock()
			served.Go(func() {
				defer c.Close()
				if c.(*tls.Conn).Handshake() == nil {
					serve(s, c)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.(*tls.Conn).NetConn().Close()
		}
		mu.Unlock()
		served.Wait()
	})
	return s
}

func (s *rawServer) client(t testing.TB) *Client {
	t.Helper()
	return newTestClient(t, s.url, roots(s.template))
}

// cut ends a connection with a TCP reset.
func cut(c net.Conn) {
	raw := c.(*tls.Conn).NetConn()
	_ = raw.(*net.TCPConn).SetLinger(0)
	_ = raw.Close()
}

// h2Conn is the server's end of an HTTP/2 connection.
type h2Conn struct {
	net.Conn
	mu sync.Mutex // held while a frame is written
}

// frame writes one frame.
func (c *h2Conn) frame(kind, flags byte, stream uint32, payload ...byte) {
	b := make([]byte, 9, 9+len(payload))
	binary.BigEndian.PutUint32(b, uint32(len(payload))<<8|uint32(kind))
	b[4] = flags
	binary.BigEndian.PutUint32(b[5:], stream)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.Write(append(b, payload...))
}

func (c *h2Conn) reset(stream, code uint32) {
	c.frame(frameReset, 0, stream, binary.BigEndian.AppendUint32(nil, code)...)
}

func (c *h2Conn) goAway(last, code uint32, debug string) {
	b := binary.BigEndian.AppendUint32(nil, last)
	b = binary.BigEndian.AppendUint32(b, code)
	c.frame(frameGoAway, 0, 0, append(b, debug...)...)
}

// noContent answers a stream with 204, the entry 9 of HPACK's static table.
func (c *h2Conn) noContent(stream uint32) {
	c.frame(frameHeaders, flagEndHeaders|flagEndStream, stream, 0x80|9)
}

// listenH2 speaks as much HTTP/2 as a test of failures needs. answer is called
// for each request, in a goroutine of its own connection; false ends that
// connection.
func listenH2(t testing.TB, answer func(c *h2Conn, stream uint32) bool) *rawServer {
	t.Helper()
	return listen(t, "h2", func(s *rawServer, raw net.Conn) {
		c := &h2Conn{Conn: raw}
		c.frame(frameSettings, 0, 0)
		r := bufio.NewReader(raw)
		const preface = len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
		if _, err := r.Discard(preface); err != nil {
			return
		}
		for {
			var h [9]byte
			if _, err := io.ReadFull(r, h[:]); err != nil {
				return
			}
			payload := make([]byte, binary.BigEndian.Uint32(h[:])>>8)
			if _, err := io.ReadFull(r, payload); err != nil {
				return
			}
			kind, flags, stream := h[3], h[4], binary.BigEndian.Uint32(h[5:])
			switch {
			case kind == frameSettings && flags&flagAck == 0:
				c.frame(frameSettings, flagAck, 0)
			case kind == framePing && flags&flagAck == 0:
				c.frame(framePing, flagAck, 0, payload...)
			case kind == frameHeaders:
				s.requests.Add(1)
				if flags&flagEndStream == 0 {
					t.Error("the request has a body")
				}
				if !answer(c, stream) {
					return
				}
			}
		}
	})
}
