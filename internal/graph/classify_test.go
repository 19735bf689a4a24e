package graph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"
)

// verdict is what the specification says of a status that is not a 204.
func verdict(status int) Kind {
	switch status {
	case 401:
		return Unauthorized
	case 403:
		return Forbidden
	case 408:
		return Unknown
	case 421, 425:
		return NotSent
	case 429:
		return Throttled
	case 503:
		return Unavailable
	}
	if status >= 400 && status <= 499 {
		return Refused
	}
	return Unknown
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for status := 100; status <= 599; status++ {
		if got, want := classify(status), verdict(status); got != want {
			t.Errorf("classify(%d) = %v, want %v", status, got, want)
		}
	}
}

func TestKindString(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for k := Throttled; k <= TokenUnavailable; k++ {
		s := k.String()
		if seen[s] || strings.Contains(s, "Kind") {
			t.Errorf("Kind %d is called %q", int(k), s)
		}
		seen[s] = true
	}
	if got := Kind(99).String(); got != "graph.Kind(99)" {
		t.Errorf("an unknown kind is called %q", got)
	}
}

// TestStatus is the verdict table end to end. The device's id is the status of
// the answer.
func TestStatus(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			if (r.ProtoMajor == 2) != http2 {
				t.Errorf("%s", r.Proto)
			}
			status, err := strconv.Atoi(path.Base(path.Dir(r.URL.Path)))
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Retry-After", "2.5")
			w.Header().Set("request-id", fmt.Sprintf("id-%d", status))
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"error":{"code":"TheCode","message":"the message"}}`)
		})
		for status := 200; status <= 599; status++ {
			answer, err := c.Reset(t.Context(), Target{Device: strconv.Itoa(status)}, within(longEnough))
			if status == 204 {
				if want := (Answer{204, "id-204"}); err != nil || answer != want {
					t.Errorf("204: %+v, %v", answer, err)
				}
				continue
			}
			want := Error{Kind: verdict(status), Status: status, RequestID: fmt.Sprintf("id-%d", status),
				Code: "TheCode", Message: "the message", RetryAfter: 2500 * time.Millisecond}
			if status == 304 {
				want.Code, want.Message = "", "" // it has no body
			}
			if e := asError(t, err); *e != want {
				t.Errorf("%d: %#v, want %#v", status, *e, want)
			}
			if answer != (Answer{}) {
				t.Errorf("%d: an answer beside the error: %+v", status, answer)
			}
		}
	})
}

// TestInformational checks that interim answers are passed over.
func TestInformational(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		_, c := serve(t, http2, func(w http.ResponseWriter, _ *http.Request) {
			for _, status := range []int{100, 102, 103} {
				w.WriteHeader(status)
			}
			w.WriteHeader(204)
		})
		if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
			t.Error(err)
		}
	})
}

// TestSwitchingProtocols checks that an answer whose body is the bare
// connection does not hold the call, and that the connection is given up.
func TestSwitchingProtocols(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	_, c := serve(t, false, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer close(left)
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(io.Discard, conn)
	})
	_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
	if e := wantKind(t, err, Unknown); e.Status != 101 {
		t.Error(e)
	}
	<-left
}

// TestAcceptedWithoutEnd checks that a 204 counts at once, even if the server
// never ends its stream.
func TestAcceptedWithoutEnd(t *testing.T) {
	t.Parallel()
	_, c := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(204)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	before := time.Now()
	if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
		t.Error(err)
	}
	if took := time.Since(before); took > longEnough/2 {
		t.Errorf("it took %v", took)
	}
}

// TestMisdirected checks that a call which the server did not process, because
// it came over the wrong connection or too early, may be made again: after a
// 421 over another connection.
func TestMisdirected(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		for status, fresh := range map[int]bool{421: true, 425: false} {
			var remotes []string
			_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
				remotes = append(remotes, r.RemoteAddr)
				if len(remotes) == 1 {
					w.WriteHeader(status)
					return
				}
				w.WriteHeader(204)
			})
			_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
			if e := wantKind(t, err, NotSent); e.Status != status || e.Benign {
				t.Errorf("%#v", e)
			}
			if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
				t.Error(err)
			}
			if len(remotes) != 2 || (remotes[0] != remotes[1]) != fresh {
				t.Errorf("%d: %v", status, remotes)
			}
		}
	})
}

// TestStoppedCall checks that a call which its caller ends is no sign of an
// outage, as one that Graph lets wait to its deadline is, and a refused one.
func TestStoppedCall(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		came := make(chan struct{}, 2)
		_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet { // a body without end
				w.WriteHeader(200)
				_ = http.NewResponseController(w).Flush()
			}
			came <- struct{}{}
			<-r.Context().Done()
		})
		stop := errors.New("stop")
		post := func(ctx context.Context, call Call) error {
			_, err := c.Reset(ctx, Target{Device: testDevice}, call)
			return err
		}
		get := func(ctx context.Context, call Call) error {
			_, err := c.Actions(ctx, testDevice, call)
			return err
		}
		for name, do := range map[string]func(context.Context, Call) error{"POST": post, "GET": get} {
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() { <-came; cancel(stop) }()
			if e := wantKind(t, do(ctx, within(longEnough)), Unknown); !e.Benign {
				t.Errorf("%s ended: %#v", name, e)
			}
			// Before it has a connection.
			if e := wantKind(t, do(ctx, within(longEnough)), NotSent); !e.Benign || !errors.Is(e.Err, stop) {
				t.Errorf("%s ended before: %#v", name, e)
			}
			// In time to connect and to send, however busy the machine is.
			if e := wantKind(t, do(t.Context(), within(4*soon)), Unknown); e.Benign {
				t.Errorf("%s over: %#v", name, e)
			}
			<-came
		}
	})
}
