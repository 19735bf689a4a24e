package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"passcode-worker/internal/graph/graphsim"
)

// tunnel is a proxy that leads whatever is asked for to one address. user, if
// not empty, is who may use it.
type tunnel struct {
	*httptest.Server
	to, user string

	mu    sync.Mutex
	asked []string
}

func newTunnel(t *testing.T, to, user string) *tunnel {
	t.Helper()
	p := &tunnel{to: to, user: user}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host)
	p.mu.Unlock()
	if user, _, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth(); user != p.user {
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	there, err := net.Dial("tcp", p.to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = there.Close()
		return
	}
	_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n") // what fails here fails below, too
	go func() {
		_, _ = io.Copy(there, buffered) // until either side ends
		_ = there.Close()
	}()
	_, _ = io.Copy(here, there)
	_ = here.Close()
}

func (p *tunnel) hosts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(p.asked)
	slices.Sort(out)
	return slices.Compact(out)
}

// TestProxies calls Graph and the token service by a proxy, or not at all.
func TestProxies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	u, err := url.Parse(w.sim.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := newTunnel(t, u.Host, "svc")
	address := strings.TrimPrefix(proxy.URL, "http://")
	world := func(changes ...string) map[string]string {
		return with(w.env("GRAPH_ENDPOINT", "https://graph.test:"+u.Port(), "AZURE_AUTHORITY_HOST", "https://login.test:"+u.Port()), changes...)
	}
	both := []string{"CONNECT graph.test:" + u.Port(), "CONNECT login.test:" + u.Port()}

	for _, name := range []string{"HTTPS_PROXY", "ALL_PROXY"} {
		p := runCheck(t, world(name, "http://svc:50%25off@"+address), exitDone)
		p.is(t, "token", "ok", "by client secret")
		p.is(t, "Graph", "ok", "answers")
		if got := proxy.hosts(); !slices.Equal(got, both) {
			t.Errorf("%s: the proxy was asked for %q, not %q", name, got, both)
		}
	}

	// A password that is not written as an address asks for it.
	for _, password := range []string{"50%off", "pa#ss", "pa/ss"} {
		for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy"} {
			for _, command := range []string{"run", "check"} {
				r := runFor(t, world(name, "http://svc:"+password+"@"+address), command)
				if found := problems(r.err); r.code != exitUsage || len(found) != 1 || !strings.HasPrefix(found[0], name+": it is not the address of a proxy") || strings.Contains(r.err, password) {
					t.Errorf("%s, %s with %s: status %d\n%s%s", command, name, password, r.code, r.out, r.err)
				}
			}
		}
	}

	// A proxy that does not know us says so, to check and in a hold.
	refused := world("HTTPS_PROXY", proxy.URL)
	p := runCheck(t, refused, exitFailed)
	p.is(t, "token", "failed", "HTTP 407")
	p.is(t, "Graph", "failed", "HTTP 407")
	running := launch(t, refused, "run")
	w.publish(body("1", graphsim.GoodDevice(1)), nil)
	await(t, "the hold", func() bool { _, ready := running.get("/readyz"); return strings.Contains(ready, "HTTP 407") })
	running.stop()

	// NO_PROXY with a port: direct, where these names mean nothing.
	before := len(proxy.hosts())
	p = runCheck(t, world("HTTPS_PROXY", "http://svc@"+address, "NO_PROXY", "graph.test:"+u.Port()), exitFailed)
	p.is(t, "token", "ok", "by client secret")
	p.is(t, "Graph", "failed", "lookup graph.test")
	if len(proxy.hosts()) != before {
		t.Errorf("the proxy was asked for %q", proxy.hosts())
	}
}
