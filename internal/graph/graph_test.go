package graph

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"passcode-worker/internal/graph/graphsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testDevice = "0a1b2c3d-0000-4000-8000-000000000001"
	testSecret = "eyJ-access-token-that-nobody-may-see"
	longEnough = 20 * time.Second // for a call that must not meet its deadline
)

func testToken(value string) Token { return Token{value: &value, Generation: 1} }

// within is a call that has a while to end.
func within(d time.Duration) Call {
	return Call{Token: testToken(testSecret), ClientRequestID: uuid.NewString(), Deadline: time.Now().Add(d)}
}

func newTestClient(t testing.TB, endpoint string, roots *x509.CertPool) *Client {
	t.Helper()
	c, err := New(Config{Endpoint: endpoint, UserAgent: "passcode-worker/test", RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serve runs a TLS server, changed before it starts, and makes a client of it.
func serve(t testing.TB, http2 bool, h http.HandlerFunc, change ...func(*http.Server)) (*httptest.Server, *Client) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = http2
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, f := range change {
		f(s.Config)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, newTestClient(t, s.URL, roots(s))
}

// held waits until the test says go on, or the request ends: a test that fails never
// says it.
func held(r *http.Request, goOn <-chan struct{}) {
	select {
	case <-goOn:
	case <-r.Context().Done():
	}
}

func roots(s *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

// both runs a test over HTTP/2 and over HTTP/1.1.
func both(t *testing.T, f func(t *testing.T, http2 bool)) {
	t.Helper()
	for name, http2 := range map[string]bool{"h2": true, "h1": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, http2)
		})
	}
}

// simulate runs a simulated Graph and Entra.
func simulate(t testing.TB, cfg graphsim.Config) *graphsim.Sim {
	t.Helper()
	s, err := graphsim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// simClient is a client of a simulated Graph, with a token that it takes.
func simClient(t testing.TB, s *graphsim.Sim) (*Client, Token) {
	t.Helper()
	acquire, err := simCredential(s).Acquire()
	if err != nil {
		t.Fatal(err)
	}
	token, err := NewTokens(acquire, nil).Get(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return newTestClient(t, s.URL(), s.CAs()), token
}

func simCredential(s *graphsim.Sim) Credential {
	return Credential{
		Authority: s.URL(), TenantID: graphsim.DefaultTenantID, ClientID: graphsim.DefaultClientID,
		Scope: "https://graph.microsoft.com/.default", Secret: graphsim.DefaultClientSecret, RootCAs: s.CAs(),
	}
}

// asError is the *Error that every failure of this package is.
func asError(t testing.TB, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v (%T) is not an *Error", err, err)
	}
	return e
}

func wantKind(t testing.TB, err error, want Kind) Error {
	t.Helper()
	e := asError(t, err)
	if e.Kind != want {
		t.Fatalf("%v: want %v", e, want)
	}
	return *e
}

// noTrace fails if a secret is anywhere in an error.
func noTrace(t testing.TB, err error, secrets ...string) {
	t.Helper()
	texts := []string{err.Error()}
	if e := (*Error)(nil); errors.As(err, &e) {
		texts = append(texts, e.Code, e.Message, e.RequestID, e.Claims)
	}
	for ; err != nil; err = errors.Unwrap(err) {
		texts = append(texts, err.Error())
	}
	for _, s := range secrets {
		for _, text := range texts {
			if strings.Contains(text, s) {
				t.Errorf("%q holds the secret %q", text, s)
			}
		}
	}
}

// eventually waits for something that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain: " + what)
		}
	}
}

func withTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}
