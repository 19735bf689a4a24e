package graphsim_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/graph/graphsim"
)

// start runs a simulator for a test.
func start(t testing.TB, cfg graphsim.Config) *graphsim.Sim {
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

// client is a correct client of a simulator, over one protocol.
type client struct {
	t     testing.TB
	sim   *graphsim.Sim
	http  *http.Client
	root  string
	token string
}

func newHTTP(t testing.TB, s *graphsim.Sim, h2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetHTTP2(h2)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CAs()}, Protocols: p, MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func newClient(t testing.TB, s *graphsim.Sim, h2 bool) *client {
	t.Helper()
	c := &client{t: t, sim: s, http: newHTTP(t, s, h2), root: s.URL()}
	c.login(graphsim.DefaultTenantID)
	return c
}

// direct calls the handler without a connection, for tests in fake time.
type direct struct{ sim *graphsim.Sim }

// RoundTrip serves the request in the caller's goroutine.
func (d direct) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			resp, err = nil, io.ErrUnexpectedEOF
		default:
			panic(v)
		}
	}()
	r := req.Clone(req.Context())
	r.RequestURI, r.RemoteAddr = r.URL.RequestURI(), "192.0.2.1:1234"
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.sim.ServeHTTP(w, r)
	return w.Result(), nil
}

// newDirect makes a simulator without a listener, and its client. Call it in
// a synctest bubble.
func newDirect(t testing.TB, cfg graphsim.Config) (*graphsim.Sim, *client) {
	t.Helper()
	s, err := graphsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c := &client{t: t, sim: s, http: &http.Client{Transport: direct{s}}, root: "https://graphsim"}
	c.login(graphsim.DefaultTenantID)
	return s, c
}

// tokenForm is a correct token request with the secret.
func tokenForm() url.Values {
	return url.Values{
		"grant_type": {"client_credentials"}, "client_id": {graphsim.DefaultClientID},
		"client_secret": {graphsim.DefaultClientSecret}, "scope": {"https://graph.microsoft.com/.default openid"},
	}
}

func (c *client) askToken(tenant string, form url.Values) (status int, answer map[string]any, header http.Header) {
	c.t.Helper()
	resp, err := c.http.PostForm(c.root+"/"+tenant+"/oauth2/v2.0/token", form)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, answer, resp.Header
}

func (c *client) login(tenant string) {
	c.t.Helper()
	status, answer, _ := c.askToken(tenant, tokenForm())
	if status != http.StatusOK {
		c.t.Fatalf("token: %d %v", status, answer)
	}
	c.token = answer["access_token"].(string)
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// request is a correct Graph request.
func (c *client) request(ctx context.Context, method, path string) *http.Request {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, c.root+"/v1.0"+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "graphsim-test/1.0")
	req.Header.Set("client-request-id", uuid.NewString())
	return req
}

func (c *client) send(req *http.Request) (answer, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

// setBody gives a request a body; a length of -1 is an unknown one.
func setBody(r *http.Request, body string, length int64) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), length
}

func resetPath(device string) string {
	return "/deviceManagement/managedDevices/" + device + "/resetPasscode"
}

func devicePath(device string) string {
	return "/deviceManagement/managedDevices/" + device + "?$select=id,deviceActionResults"
}

// listQuery asks for one device of all.
const listQuery = "?$top=1&$select=id"

func (c *client) list(query string) answer {
	c.t.Helper()
	a, err := c.send(c.request(context.Background(), http.MethodGet, "/deviceManagement/managedDevices"+query))
	if err != nil {
		c.t.Fatalf("GET of the list: %v", err)
	}
	return a
}

// post resets a device and expects an answer.
func (c *client) post(device string) answer {
	c.t.Helper()
	a, err := c.send(c.request(context.Background(), http.MethodPost, resetPath(device)))
	if err != nil {
		c.t.Fatalf("POST for %s: %v", device, err)
	}
	return a
}

func (c *client) get(device string) answer {
	c.t.Helper()
	a, err := c.send(c.request(context.Background(), http.MethodGet, devicePath(device)))
	if err != nil {
		c.t.Fatalf("GET of %s: %v", device, err)
	}
	return a
}

func (c *client) wantStatus(device string, want int) answer {
	c.t.Helper()
	a := c.post(device)
	if a.status != want {
		c.t.Fatalf("POST for %s: %d %s, want %d", device, a.status, a.body, want)
	}
	return a
}

// eventually waits for something that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain: " + what)
		}
	}
}

func noViolations(t testing.TB, s *graphsim.Sim) {
	t.Helper()
	if v := s.Violations(); len(v) > 0 {
		t.Errorf("violations: %s", strings.Join(v, "\n"))
	}
}

// both runs a test over HTTP/2 and over HTTP/1.1.
func both(t *testing.T, f func(t *testing.T, h2 bool)) {
	t.Run("h2", func(t *testing.T) { f(t, true) })
	t.Run("h1", func(t *testing.T) { f(t, false) })
}

func refused(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		c.Close()
	}
	return err != nil
}

func lastCall(t testing.TB, s *graphsim.Sim) graphsim.Call {
	t.Helper()
	calls := s.Calls()
	if len(calls) == 0 {
		t.Fatal("no call was logged")
	}
	return calls[len(calls)-1]
}

func contains(list []string, part string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, part) })
}
