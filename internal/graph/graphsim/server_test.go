package graphsim_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// TestMain fails if a closed simulator left a goroutine behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		deadline := time.Now().Add(5 * time.Second)
		for stacks := left(); stacks != ""; stacks = left() {
			if time.Now().After(deadline) {
				println("goroutines are left:\n" + stacks)
				code = 1
				break
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	os.Exit(code)
}

// left is the stacks of the goroutines that serve.
func left() string {
	buf := make([]byte, 1<<20)
	var out []string
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
		if strings.Contains(g, "graphsim.") || strings.Contains(g, "http.(*conn).serve") || strings.Contains(g, "http2serverConn") {
			out = append(out, g)
		}
	}
	return strings.Join(out, "\n\n")
}

func TestTrust(t *testing.T) {
	s := start(t, graphsim.Config{})
	ask := func(pool *x509.CertPool, host string) error {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(strings.Replace(s.URL(), "127.0.0.1", host, 1) + "/_sim/status")
		if err == nil {
			resp.Body.Close()
			if resp.ProtoMajor != 2 {
				t.Errorf("protocol %s", resp.Proto)
			}
		}
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.CAPEM()) {
		t.Fatal("CAPEM holds no certificate")
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if err := ask(pool, host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := ask(nil, "127.0.0.1"); err == nil {
		t.Error("trusted without its authority")
	}
	other := start(t, graphsim.Config{})
	if err := ask(other.CAs(), "127.0.0.1"); err == nil {
		t.Error("trusted by another's authority")
	}
}

func TestAddr(t *testing.T) {
	s := start(t, graphsim.Config{Addr: "localhost:0"})
	if !strings.HasPrefix(s.URL(), "https://127.0.0.1:") {
		t.Errorf("URL %s", s.URL())
	}
	for _, addr := range []string{"0.0.0.0:0", "192.0.2.1:0", "example.org:0", "127.0.0.2:0", "nonsense", s.Addr()} {
		if got, err := graphsim.Start(graphsim.Config{Addr: addr}); err == nil {
			got.Close()
			t.Errorf("%s: no error", addr)
		}
	}
	if _, err := graphsim.New(graphsim.Config{TenantID: "x"}); err == nil {
		t.Error("a tenant that is not a GUID")
	}
}

func TestNoHTTP2(t *testing.T) {
	s := start(t, graphsim.Config{NoHTTP2: true})
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CAs()}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(s.URL() + "/_sim/status")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 1 {
		t.Errorf("protocol %s", resp.Proto)
	}
}

// Without a listener the simulator is a plain handler.
func TestHandlerAlone(t *testing.T) {
	s, err := graphsim.New(graphsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.URL() != "" || s.CAs() != nil {
		t.Error("an address without a listener")
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/_sim/status", nil))
	if w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
	s.SetOutage(graphsim.OutageRefuse)
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("panic %v", err)
		}
	}()
	s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/v1.0"+resetPath(graphsim.GoodDevice(1)), nil))
	t.Error("answered")
}
