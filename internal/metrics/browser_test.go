package metrics

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"passcode-worker/internal/hold"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/html"
)

// chromium opens a page in a real browser, and returns the document as it then
// is and what the browser said.
func chromium(t *testing.T, url string, flags ...string) (dom, said string) {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no chromium is installed (Debian: apt-get install chromium): the page is not tried in a browser")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	args := append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir(),
		"--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom",
	}, append(flags, url)...)
	cmd := exec.CommandContext(ctx, path, args...)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	if failed := cmd.Run(); failed != nil || !strings.Contains(out.String(), "<html") {
		t.Fatalf("%s: %v\n%s\n%s", path, failed, out.String(), err.String())
	}
	return out.String(), err.String()
}

// owned is what every attack tries to do: it shows in the document.
const owned = "document.title='owned'"

var attacks = []string{
	`<script>` + owned + `</script>`,
	`</bdi></td></table></main></body><script>` + owned + `</script>`,
	`<img src=x onerror="` + owned + `">`,
	`"><svg onload=` + owned + `>`,
	`' onmouseover='` + owned + `' x='`,
	`</style><script>` + owned + `</script>`,
	`</title><script>` + owned + `</script>`,
	`--><script>` + owned + `</script><!--`,
	`javascript:` + owned,
	`{{.Product}} {{template "x"}} ${` + owned + `} <%= 7*7 %>`,
	`<iframe srcdoc="<script>parent.` + owned + `</script>"></iframe>`,
	`<form action=javascript:` + owned + `><button autofocus onfocus=` + owned + `>`,
	`<base href="//example.invalid/"><link rel=stylesheet href=x><meta http-equiv=refresh content="0;url=javascript:` + owned + `">`,
	"\u202e\u2066rtl\u2069 \u200b\ufeff \x00\x1b[31m\r\n\u2028 \xff\xfe",
}

// hostile is a worker all of whose texts are attacks.
func hostile() (*Metrics, State) {
	m := newTest()
	s := up()
	s.NATS.Server, s.NATS.Error = attacks[0], strings.Join(attacks, " ")
	for i, attack := range attacks {
		name := strings.ToValidUTF8(attack, "?")
		a := m.Tenant(name)
		a.SetQueue(Queue{Messages: 4321})
		for range 2 {
			a.Verdict(Verdict{ID: attack, Device: attack, Outcome: attack, State: "dead", Reason: attack, Detail: attacks[len(attacks)-1-i]})
		}
		h := held(name, hold.Cause(attack))
		h.Holds[0].Detail, h.Error = attack, attack
		s.Tenants = append(s.Tenants, h)
	}
	return m, s
}

// elements are what a page may consist of.
var elements = strings.Fields(`html head meta title noscript style body header b a form input button div main section h1 h2 p bdi span
	small dl dt dd meter svg path line table thead tbody tr th td time code ul li q footer script`)

// look goes through a document and tells what does not belong into it.
func look(t *testing.T, dom string) (scripts int) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(dom))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if !slices.Contains(elements, n.Data) {
			t.Errorf("an element <%s>", n.Data)
		}
		if n.Data == "script" {
			scripts++
		}
		for _, a := range n.Attr {
			local := strings.HasPrefix(a.Val, "/")
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" || (a.Key == "href" || a.Key == "src" || a.Key == "action") && !local {
				t.Errorf("an attribute %s=%q of <%s>", a.Key, a.Val, n.Data)
			}
		}
	}
	return scripts
}

func TestHostileTextsInABrowser(t *testing.T) {
	m, s := hostile()
	srv := httptest.NewServer(Handler(m, func() State { return s }))
	defer srv.Close()
	single := httptest.NewServer(Handler(m, func() State { return State{NATS: s.NATS, Tenants: s.Tenants[:1]} }))
	defer single.Close()

	for name, url := range map[string]string{
		"all":      srv.URL + "/",
		"one":      single.URL + "/",
		"a filter": srv.URL + "/?tenant=%22%3E%3Cscript%3E" + owned + "%3C/script%3E",
		"a tenant": srv.URL + "/?tenant=%3Cimg",
	} {
		t.Run(name, func(t *testing.T) {
			dom, said := chromium(t, url)
			if strings.Contains(dom, "<title>owned") {
				t.Error("a text ran")
			}
			if n := look(t, dom); n != 1 {
				t.Errorf("%d scripts", n)
			}
			if i := strings.IndexAny(dom, "\u202e\u2066\u2069\u200b\ufeff\x1b\u2028"); i >= 0 {
				t.Errorf("a character that nobody sees is at %q", dom[max(0, i-20):min(len(dom), i+20)])
			}
			if strings.Contains(said, "Content Security Policy") {
				t.Errorf("the page is against its own policy:\n%s", said)
			}
			if !strings.Contains(dom, "4,321") && name != "a filter" {
				t.Error("the queue is not shown")
			}
		})
	}
}

// TestPageWithoutScriptInABrowser forbids scripts altogether: the numbers are
// there, and the page asks to be loaded again by itself.
func TestPageWithoutScriptInABrowser(t *testing.T) {
	m, s := hostile()
	page := Handler(m, func() State { return s })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Content-Security-Policy", "script-src 'none'")
		rec := httptest.NewRecorder()
		page.ServeHTTP(rec, r)
		w.Header().Add("Content-Security-Policy", rec.Header().Get("Content-Security-Policy"))
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(rec.Body.Bytes())
	}))
	defer srv.Close()
	dom, said := chromium(t, srv.URL+"/")
	if !strings.Contains(said, "Content Security Policy") {
		t.Error("the script was not stopped, so this shows nothing")
	}
	for _, want := range []string{"4,321", "Held: every tenant", `<meta http-equiv="refresh"`, "Last verdicts", "accepted"} {
		if !strings.Contains(dom, want) {
			t.Errorf("not there without a script: %s", want)
		}
	}
}

// TestPolicyInABrowser puts markup into the page as if nothing had been
// escaped: the policy alone must hold. Without the policy the same page is
// taken over, which shows that the attack is one.
func TestPolicyInABrowser(t *testing.T) {
	m, s := hostile()
	page := Handler(m, func() State { return s })
	for _, attack := range []string{
		`<script>` + owned + `</script>`,
		`<img src=x onerror="` + owned + `">`,
		`<svg onload="` + owned + `"></svg>`,
	} {
		for _, guarded := range []bool{true, false} {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				rec := httptest.NewRecorder()
				page.ServeHTTP(rec, r)
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				if guarded {
					w.Header().Set("Content-Security-Policy", rec.Header().Get("Content-Security-Policy"))
				}
				_, _ = w.Write([]byte(strings.Replace(rec.Body.String(), "<main>", "<main>"+attack, 1)))
			}))
			dom, said := chromium(t, srv.URL+"/")
			srv.Close()
			if ran := strings.Contains(dom, "<title>owned"); ran == guarded {
				t.Errorf("%s: ran %t with the policy %t", attack, ran, guarded)
			}
			if told := strings.Contains(said, "Content Security Policy"); told != guarded {
				t.Errorf("%s: the browser told of the policy %t, want %t:\n%s", attack, told, guarded, said)
			}
		}
	}
}

// TestRefreshInABrowser lets the page's script run: it takes in new numbers,
// and says so when there are none to be had.
func TestRefreshInABrowser(t *testing.T) {
	m := newTest()
	a := m.Tenant("a")
	a.SetQueue(Queue{Messages: 1111})
	page := Handler(m, func() State { return up(working("a")) })
	for _, away := range []bool{false, true} {
		var asked atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" && asked.Add(1) > 1 {
				if away {
					w.WriteHeader(http.StatusBadGateway)
					return
				}
				a.SetQueue(Queue{Messages: 2222})
			}
			page.ServeHTTP(w, r)
		}))
		a.SetQueue(Queue{Messages: 1111})
		dom, said := chromium(t, srv.URL+"/", "--virtual-time-budget=14000")
		srv.Close()
		if asked.Load() < 2 || strings.Contains(said, "Content Security Policy") {
			t.Errorf("the page was asked for %d times:\n%s", asked.Load(), said)
		}
		if fresh := strings.Contains(dom, "2,222"); fresh == away {
			t.Errorf("worker away %t: new number %t", away, fresh)
		}
		banner := dom[strings.Index(dom, `<div id="stale"`):strings.Index(dom, "<main>")]
		if told := strings.Contains(banner, "The worker does not answer"); told != away {
			t.Errorf("worker away %t: the page says %s", away, banner)
		}
	}
}
