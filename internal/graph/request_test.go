package graph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

func TestNew(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{ // the address of a reset, or empty where it is refused
		"https://graph.microsoft.com":        "https://graph.microsoft.com/v1.0",
		"https://graph.microsoft.com/":       "https://graph.microsoft.com/v1.0",
		"https://graph.example:8443/gateway": "https://graph.example:8443/gateway/v1.0",
		"http://127.0.0.1:8080":              "http://127.0.0.1:8080/v1.0",
		"http://localhost":                   "http://localhost/v1.0",
		"http://[::1]:80":                    "http://[::1]:80/v1.0",
		"":                                   "",
		"graph.microsoft.com":                "",
		"//graph.microsoft.com":              "",
		"https:graph.microsoft.com":          "",
		"https://":                           "",
		"https://:443":                       "",
		"https://graph.microsoft.com/v1.0":   "",
		"https://graph.microsoft.com/v1.0/":  "",
		"https://graph.microsoft.com/beta":   "",
		"https://graph.microsoft.com?a=b":    "",
		"https://graph.microsoft.com/?":      "",
		"https://graph.microsoft.com/#top":   "",
		"https://user@graph.microsoft.com":   "",
		"https://graph.microsoft.com:port":   "",
		"http://graph.microsoft.com":         "",
		"http://10.0.0.1":                    "",
		"http://localhost.example":           "",
		"ftp://graph.microsoft.com":          "",
	} {
		c, err := New(Config{Endpoint: endpoint})
		switch {
		case want == "" && err == nil:
			t.Errorf("%q: accepted", endpoint)
		case want == "" && !strings.Contains(err.Error(), strconv.Quote(endpoint)):
			t.Errorf("%q: the error does not name it: %v", endpoint, err)
		case want != "" && err != nil:
			t.Errorf("%q: %v", endpoint, err)
		case want != "" && c.root != want:
			t.Errorf("%q: %q", endpoint, c.root)
		}
	}
}

// TestRequest checks what a server gets to see of the two calls.
func TestRequest(t *testing.T) {
	t.Parallel()
	const upn = "o'neil_jo!#^~ext#@contoso.example"
	both(t, func(t *testing.T, http2 bool) {
		got := make(chan *http.Request, 1)
		_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if len(body) > 0 || err != nil {
				t.Errorf("a body of %d bytes, %v", len(body), err)
			}
			got <- r
			if r.Method == http.MethodGet {
				_, _ = io.WriteString(w, `{"id":"D","deviceActionResults":[]}`)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
		reset := func(target Target) func(Call) error {
			return func(call Call) error { _, err := c.Reset(t.Context(), target, call); return err }
		}
		for _, tc := range []struct {
			method, uri string
			do          func(Call) error
		}{
			{"POST", "/v1.0/deviceManagement/managedDevices/D/resetPasscode", reset(Target{Device: "D"})},
			{"POST", "/v1.0/users/U/managedDevices/D/resetPasscode", reset(Target{Device: "D", User: "U"})},
			{"POST", "/v1.0/deviceManagement/detectedApps/A/managedDevices/D/resetPasscode", reset(Target{Device: "D", App: "A"})},
			{"POST", "/v1.0/deviceManagement/detectedApps/A/managedDevices/D/users/U/managedDevices/D/resetPasscode",
				reset(Target{Device: "D", App: "A", User: "U"})},
			{"POST", "/v1.0/users/o%27neil_jo%21%23%5E~ext%23@contoso.example/managedDevices/D/resetPasscode", reset(Target{Device: "D", User: upn})},
			{"POST", "/v1.0/users/a%2Fb%3Fc%25%20%C3%A9/managedDevices/..%2FD/resetPasscode", reset(Target{Device: "../D", User: "a/b?c% é"})},
			{"GET", "/v1.0/deviceManagement/managedDevices/D?$select=id,deviceActionResults",
				func(call Call) error { _, err := c.Actions(t.Context(), "D", call); return err }},
			{"GET", "/v1.0/deviceManagement/managedDevices/D%3F%23?$select=id,deviceActionResults", func(call Call) error {
				_, err := c.Actions(t.Context(), "D?#", call)
				if !errors.Is(err, errNoDevice) { // it is answered with another
					return fmt.Errorf("not refused: %w", err)
				}
				return nil
			}},
		} {
			call := within(longEnough)
			if err := tc.do(call); err != nil {
				t.Errorf("%s: %v", tc.uri, err)
				continue
			}
			r := <-got
			if r.Method != tc.method || r.RequestURI != tc.uri {
				t.Errorf("%s %s, want %s %s", r.Method, r.RequestURI, tc.method, tc.uri)
			}
			want := http.Header{
				"Accept":            {"application/json"},
				"Authorization":     {"Bearer " + testSecret},
				"User-Agent":        {"passcode-worker/test"},
				"Client-Request-Id": {call.ClientRequestID},
			}
			if tc.method == "POST" {
				want["Content-Length"] = []string{"0"}
			}
			if !maps.EqualFunc(r.Header, want, slices.Equal[[]string]) {
				t.Errorf("headers %v, want %v", r.Header, want)
			}
			if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
				t.Errorf("length %d, %v", r.ContentLength, r.TransferEncoding)
			}
			if strings.Contains(tc.uri, "%27") && !strings.Contains(r.URL.Path, upn) {
				t.Errorf("the user arrived as %q", r.URL.Path)
			}
		}
	})
}

// TestRedirect checks that a redirect is an outcome like another, and that
// neither the call nor the token goes elsewhere.
func TestRedirect(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		elsewhere, _ := serve(t, http2, func(_ http.ResponseWriter, r *http.Request) {
			t.Errorf("redirected: %s %s, %q", r.Method, r.URL, r.Header.Get("Authorization"))
		})
		var requests atomic.Int32
		_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			status, err := strconv.Atoi(r.Header.Get("Client-Request-Id"))
			if err != nil {
				t.Error(err)
			}
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, status)
		})
		for _, status := range []int{301, 302, 303, 307, 308} {
			call := within(longEnough)
			call.ClientRequestID = strconv.Itoa(status)
			_, err := c.Reset(t.Context(), Target{Device: testDevice}, call)
			if e := wantKind(t, err, Unknown); e.Status != status {
				t.Errorf("%d: %v", status, e)
			}
			_, err = c.Actions(t.Context(), testDevice, call)
			if e := wantKind(t, err, Unknown); e.Status != status {
				t.Errorf("GET, %d: %v", status, e)
			}
		}
		if n := requests.Load(); n != 10 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestCorrectClient lets the simulated Graph look for what a correct client
// never sends, among it an Idempotency-Key.
func TestCorrectClient(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		s := simulate(t, graphsim.Config{NoHTTP2: !http2})
		c, token := simClient(t, s)
		for n := range 5 {
			call := within(longEnough)
			call.Token = token
			answer, err := c.Reset(t.Context(), Target{Device: graphsim.GoodDevice(n)}, call)
			if err != nil {
				t.Fatal(err)
			}
			calls := s.Calls()
			last := calls[len(calls)-1]
			if answer != (Answer{204, last.RequestID}) || last.ClientRequestID != call.ClientRequestID || last.Remote != calls[0].Remote {
				t.Errorf("answer %+v to %+v", answer, last)
			}
		}
		if v := s.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}

// TestDeadlineInThePast checks that a call whose time is over is not sent,
// neither on a connection that is there nor on a new one.
func TestDeadlineInThePast(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		var requests atomic.Int32
		s, c := serve(t, http2, func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.WriteHeader(http.StatusNoContent)
		})
		fresh := newTestClient(t, s.URL, roots(s))
		if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
			t.Fatal(err)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		for _, client := range []*Client{c, fresh} {
			for _, deadline := range []time.Time{{}, time.Now(), time.Now().Add(-time.Hour)} {
				call := within(0)
				call.Deadline = deadline
				_, err := client.Reset(t.Context(), Target{Device: testDevice}, call)
				if wantKind(t, err, NotSent); !errors.Is(err, errDeadline) {
					t.Error(err)
				}
			}
			_, err := client.Reset(over, Target{Device: testDevice}, within(longEnough))
			if wantKind(t, err, NotSent); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if n := requests.Load(); n != 1 {
			t.Errorf("%d requests", n)
		}
		// The connection was given back.
		if _, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough)); err != nil {
			t.Error(err)
		}
	})
}

func TestInvalidHeader(t *testing.T) {
	t.Parallel()
	_, c := serve(t, true, func(_ http.ResponseWriter, r *http.Request) { t.Error(r.Header) })
	call := within(longEnough)
	call.Token = testToken("one\r\ntwo")
	_, err := c.Reset(t.Context(), Target{Device: testDevice}, call)
	wantKind(t, err, NotSent)
	noTrace(t, err, "one", "two")
}

func TestObserve(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	var seen []string
	c, err := New(Config{Endpoint: s.URL, RootCAs: roots(s), Observe: func(method string, status int, took time.Duration) {
		if took <= 0 || took > longEnough {
			t.Errorf("%v", took)
		}
		seen = append(seen, fmt.Sprint(method, status))
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
	_, _ = c.Actions(t.Context(), testDevice, within(longEnough))
	_, _ = c.Reset(t.Context(), Target{Device: testDevice}, within(0))
	if want := []string{"POST429", "GET200", "POST0"}; !slices.Equal(seen, want) {
		t.Errorf("%v, want %v", seen, want)
	}
}
