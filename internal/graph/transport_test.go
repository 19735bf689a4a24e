package graph

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// soon is a deadline that a call is meant to meet, when its connection is there.
const soon = 500 * time.Millisecond

// TestTransportFailures checks, for each way in which a call can fail below
// HTTP, what is concluded, and that the server was sent it once at most.
func TestTransportFailures(t *testing.T) {
	t.Parallel()

	t.Run("refused connection", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		c := newTestClient(t, "https://"+l.Addr().String(), nil)
		_, err = c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
		if e := wantKind(t, err, NotSent); !strings.Contains(e.Error(), "refused") {
			t.Error(e)
		}
	})

	t.Run("unknown name", func(t *testing.T) {
		t.Parallel()
		c := newTestClient(t, "https://graph.invalid", nil)
		c.conns.transport.Proxy = nil
		c.conns.transport.DialContext = (&net.Dialer{Resolver: &net.Resolver{
			PreferGo: true,
			Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no name server") },
		}}).DialContext
		_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
		if e := wantKind(t, err, NotSent); !strings.Contains(e.Error(), "graph.invalid") {
			t.Error(e)
		}
	})

	t.Run("unknown certificate authority", func(t *testing.T) {
		t.Parallel()
		s, _ := serve(t, true, func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
		c := newTestClient(t, s.URL, nil)
		_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
		if e := wantKind(t, err, NotSent); !strings.Contains(e.Error(), "certificate") {
			t.Error(e)
		}
	})

	t.Run("server that speaks no TLS", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n")
				c.Close()
			}
		}()
		_, err = newTestClient(t, "https://"+l.Addr().String(), nil).Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
		wantKind(t, err, NotSent)
	})

	t.Run("handshake without end", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0") // connects, and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, err = newTestClient(t, "https://"+l.Addr().String(), nil).Reset(t.Context(), Target{Device: testDevice}, within(soon))
		wantKind(t, err, NotSent)
	})

	t.Run("cut after the handshake", func(t *testing.T) {
		t.Parallel()
		for _, protocol := range []string{"h2", "http/1.1"} {
			s := listen(t, protocol, func(_ *rawServer, c net.Conn) { cut(c) })
			_, err := s.client(t).Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
			// The client may have written before the reset reached it.
			if e := asError(t, err); e.Kind != NotSent && e.Kind != Unknown {
				t.Errorf("%s: %v", protocol, e)
			}
			if n := s.conns.Load(); n != 1 {
				t.Errorf("%s: %d connections", protocol, n)
			}
		}
	})

	t.Run("answer that is not HTTP", func(t *testing.T) {
		t.Parallel()
		for _, protocol := range []string{"h2", "http/1.1"} {
			for _, text := range []string{
				`{"deviceActionResults":[{"passcode":"482913"}]}` + "\r\n\r\n",
				"HTTP/1.1 200 OK\r\nno header 482913 " + testSecret + "\r\n\r\n",
				"HTTP/1.1 2xx 482913\r\n\r\n",
				"HTTP/1.1 204 No Content\r\nContent-Length: 482913, 5\r\n\r\n",
				strings.Repeat("482913", 100_000),
			} {
				s := listen(t, protocol, func(_ *rawServer, c net.Conn) {
					b := make([]byte, 16<<10)
					_, _ = c.Read(b)
					_, _ = io.WriteString(c, text)
					_, _ = io.Copy(io.Discard, c)
				})
				c := s.client(t)
				_, err := c.Actions(t.Context(), testDevice, within(longEnough))
				e := asError(t, err)
				// Over HTTP/2 it may be read before the request is written.
				if e.Kind != Unknown && (protocol != "h2" || e.Kind != NotSent) {
					t.Errorf("%s: %v", protocol, e)
				}
				noTrace(t, e, "482913", testSecret)
				if n := s.conns.Load(); n != 1 {
					t.Errorf("%s: %d connections", protocol, n)
				}
			}
		}
	})
}

// TestLostAnswers lets the simulated Graph read the call and lose its answer.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		s := simulate(t, graphsim.Config{NoHTTP2: !http2})
		c, token := simClient(t, s)
		for _, tc := range []struct {
			name          string
			code, variant int
			deadline      time.Duration
			executed      int
		}{
			{"cut before execution", 601, 0, longEnough, 0},
			{"stream reset before execution", 601, 1, longEnough, 0},
			{"cut after execution", 602, 0, longEnough, 1},
			{"stream reset after execution", 602, 1, longEnough, 1},
			{"silence after execution", 603, 0, soon, 1},
			{"silence", 604, 0, soon, 0},
		} {
			call := within(longEnough)
			call.Token = token
			if _, err := c.Reset(t.Context(), Target{Device: graphsim.GoodDevice(1)}, call); err != nil {
				t.Errorf("before %s: %v", tc.name, err) // it is not harmed by what went before
			}
			device := graphsim.FaultDevice(tc.code, 0, tc.variant, 1)
			call = within(tc.deadline)
			call.Token = token
			_, err := c.Reset(t.Context(), Target{Device: device}, call)
			e := asError(t, err)
			if e.Kind != Unknown || e.Status != 0 {
				t.Errorf("%s: %v", tc.name, e)
			}
			if tc.deadline == soon && !errors.Is(err, errDeadline) {
				t.Errorf("%s: %v", tc.name, e)
			}
			calls := 0
			for _, got := range s.Calls() {
				if got.Device == device {
					calls++
				}
			}
			if n := s.Resets(device); n != tc.executed || calls != 1 {
				t.Errorf("%s: %d calls, %d resets", tc.name, calls, n)
			}
		}
		if v := s.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}

// TestStreamEnds lets an HTTP/2 server end a request in each way it has.
func TestStreamEnds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		first bool // the request is the connection's first
		end   func(c *h2Conn, stream uint32) bool
		want  Kind // 0: success
	}{
		{"GOAWAY below", false, func(c *h2Conn, s uint32) bool { c.goAway(s-2, codeNone, ""); return true }, NotSent},
		{"GOAWAY below the first", true, func(c *h2Conn, _ uint32) bool { c.goAway(0, codeNone, ""); return true }, NotSent},
		{"GOAWAY with an error below", false, func(c *h2Conn, s uint32) bool { c.goAway(s-2, codeCalm, "too many"); return true }, NotSent},
		{"GOAWAY with an error below the first", true, func(c *h2Conn, _ uint32) bool { c.goAway(0, codeCalm, "too many"); return true }, NotSent},
		{"GOAWAY in two steps below", false, func(c *h2Conn, s uint32) bool {
			c.goAway(1<<31-1, codeNone, "")
			c.goAway(s-2, codeNone, "")
			return true
		}, NotSent},
		{"GOAWAY at", false, func(c *h2Conn, s uint32) bool { c.goAway(s, codeNone, ""); return false }, Unknown},
		{"GOAWAY at the first", true, func(c *h2Conn, s uint32) bool { c.goAway(s, codeNone, ""); return false }, Unknown},
		{"GOAWAY above", false, func(c *h2Conn, _ uint32) bool { c.goAway(1<<31-1, codeNone, goAwayText); return false }, Unknown},
		{"GOAWAY with an error at", false, func(c *h2Conn, s uint32) bool { c.goAway(s, codeInternal, goAwayText); return false }, Unknown},
		{"GOAWAY at, then the answer", false, func(c *h2Conn, s uint32) bool {
			c.goAway(s, codeNone, "")
			c.noContent(s)
			return true
		}, 0},
		{"RST_STREAM REFUSED_STREAM", false, func(c *h2Conn, s uint32) bool { c.reset(s, codeRefused); return true }, NotSent},
		{"RST_STREAM REFUSED_STREAM, first", true, func(c *h2Conn, s uint32) bool { c.reset(s, codeRefused); return true }, NotSent},
		{"RST_STREAM PROTOCOL_ERROR", false, func(c *h2Conn, s uint32) bool { c.reset(s, codeProtocol); return true }, Unknown},
		{"RST_STREAM PROTOCOL_ERROR, first", true, func(c *h2Conn, s uint32) bool { c.reset(s, codeProtocol); return true }, Unknown},
		{"RST_STREAM INTERNAL_ERROR", false, func(c *h2Conn, s uint32) bool { c.reset(s, codeInternal); return true }, Unknown},
		{"RST_STREAM NO_ERROR", false, func(c *h2Conn, s uint32) bool { c.reset(s, codeNone); return true }, Unknown},
		{"RST_STREAM CANCEL", false, func(c *h2Conn, s uint32) bool { c.reset(s, codeCancel); return true }, Unknown},
		{"RST_STREAM ENHANCE_YOUR_CALM", false, func(c *h2Conn, s uint32) bool { c.reset(s, codeCalm); return true }, Unknown},
		{"RST_STREAM HTTP_1_1_REQUIRED", false, func(c *h2Conn, s uint32) bool { c.reset(s, codeHTTP11Required); return true }, Unknown},
		{"headers, then RST_STREAM", false, func(c *h2Conn, s uint32) bool {
			c.frame(frameHeaders, flagEndHeaders, s, 0x80|9)
			c.reset(s, codeInternal)
			return true
		}, 0},
		{"frame that is too large", false, func(c *h2Conn, s uint32) bool {
			c.frame(frameHeaders, flagEndHeaders, s, make([]byte, 1<<21)...)
			return true
		}, Unknown},
		{"headers that are not HPACK", false, func(c *h2Conn, s uint32) bool {
			c.frame(frameHeaders, flagEndHeaders|flagEndStream, s, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
			return true
		}, Unknown},
		{"closed", false, func(*h2Conn, uint32) bool { return false }, Unknown},
		{"cut", false, func(c *h2Conn, _ uint32) bool { cut(c.Conn); return false }, Unknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			warm := int32(1) // calls that are answered before
			if tc.first {
				warm = 0
			}
			var s *rawServer
			s = listenH2(t, func(c *h2Conn, stream uint32) bool {
				if s.requests.Load() != warm+1 {
					c.noContent(stream)
					return true
				}
				return tc.end(c, stream)
			})
			c := s.client(t)
			for range warm {
				if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
			if tc.want == 0 {
				if err != nil {
					t.Error(err)
				}
			} else if e := wantKind(t, err, tc.want); e.Benign != (tc.want == NotSent) {
				t.Errorf("%#v", e)
			}
			if n := s.requests.Load(); n != warm+1 {
				t.Errorf("%d requests were sent", n-warm)
			}
			// The next call is not harmed, and does not use a connection that
			// let one fail.
			if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
				t.Error(err)
			}
			if n := s.conns.Load(); tc.want != 0 && n != 2 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestIdleConnectionClosed checks that a connection which the server closed
// while nothing used it does not harm the next call.
func TestIdleConnectionClosed(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		var requests atomic.Int32
		s, c := serve(t, http2, func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.WriteHeader(204)
		})
		for range 3 {
			if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
				t.Fatal(err)
			}
			s.CloseClientConnections()
			eventually(t, "the client notices", func() bool {
				c.conns.mu.Lock()
				defer c.conns.mu.Unlock()
				return len(c.conns.open) == 0 || c.conns.open[0].cc.Available() == 0
			})
		}
		if n := requests.Load(); n != 3 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestHTTP1Cut reads a request over HTTP/1.1 and closes in the midst of the
// answer.
func TestHTTP1Cut(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Kind{
		"":                                  Unknown,
		"HTTP/1.1 204 No Con":               Unknown,
		"HTTP/1.1 204 No Content\r\nDate: ": Unknown,
		"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 100\r\n\r\n{\"e": Throttled,
		"HTTP/1.1 500 Oh\r\nContent-Length: 100\r\n\r\n{\"error\":":         Unknown,
	} {
		s := listen(t, "http/1.1", func(s *rawServer, c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				return
			}
			s.requests.Add(1)
			_, _ = io.WriteString(c, text)
		})
		_, err := s.client(t).Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
		wantKind(t, err, want)
		if n := s.requests.Load(); n != 1 {
			t.Errorf("%q: %d requests", text, n)
		}
	}
}

// TestGoAwayUnderLoad lets a server end its connections again and again while
// many call. Each call that it has not begun with is known as such, and as no
// sign of an outage, and each other one is answered.
func TestGoAwayUnderLoad(t *testing.T) {
	t.Parallel()
	const callers, each = 32, 40
	var begun atomic.Int32
	_, c := serve(t, true, func(w http.ResponseWriter, _ *http.Request) {
		if begun.Add(1)%25 == 0 {
			w.Header().Set("Connection", "close") // over HTTP/2: a graceful GOAWAY
		}
		w.WriteHeader(204)
	})
	var group sync.WaitGroup
	var answered, refused atomic.Int32
	for range callers {
		group.Go(func() {
			for range each {
				_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
				if err == nil {
					answered.Add(1)
				} else if e := asError(t, err); e.Kind != NotSent || !e.Benign {
					t.Errorf("%v: %#v", err, e)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	group.Wait()
	if answered.Load() != begun.Load() || refused.Load() == 0 {
		t.Errorf("%d begun, %d answered, %d refused", begun.Load(), answered.Load(), refused.Load())
	}
}
