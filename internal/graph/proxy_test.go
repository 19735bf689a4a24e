package graph

import (
	"net/url"
	"strings"
	"testing"
)

// withoutProxies takes what the machine's own environment says out of the way.
func withoutProxies(t *testing.T) {
	t.Helper()
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"} {
		t.Setenv(name, "")
		t.Setenv(strings.ToLower(name), "")
	}
}

// TestProxyAddresses never goes out directly where a proxy was meant.
func TestProxyAddresses(t *testing.T) {
	withoutProxies(t)
	target := &url.URL{Scheme: "https", Host: "graph.test:8443"}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		for value, want := range map[string]string{
			"http://proxy.test:3128":                          "http://proxy.test:3128",
			" http://proxy.test:3128\n":                       "http://proxy.test:3128",
			"\uFEFFproxy.test:3128":                           "http://proxy.test:3128",
			"proxy.test":                                      "http://proxy.test",
			"svc:pw@proxy.test:3128":                          "http://svc:pw@proxy.test:3128",
			"http://svc:50%25off@proxy.test:3128/":            "http://svc:50%25off@proxy.test:3128/",
			"http://svc:p%40%23%2Fss@proxy.test:3128":         "http://svc:p%40%23%2Fss@proxy.test:3128",
			"socks5://[fd00::1]:1080":                         "socks5://[fd00::1]:1080",
			"https://proxy.test":                              "https://proxy.test",
			"":                                                "",
			" ":                                               "",
			"http://svc:50%off@proxy.test:3128":               "write it like",
			"http://svc:pa#ss@proxy.test:3128":                "write it like",
			"http://svc:12#ss@proxy.test:3128":                "write it like",
			"http://svc:pa/ss@proxy.test:3128":                "write it like",
			"http://svc:12/ss@proxy.test:3128":                "write it like",
			"http://svc:12?ss@proxy.test:3128":                "write it like",
			"http://svc:pa ss@proxy.test:3128":                "write it like",
			"http://svc:hunter2@proxy.test:99999":             "write it like",
			"http://svc:hunter2@":                             "write it like",
			"://":                                             "write it like",
			"http://":                                         "write it like",
			"http://svc:hunter2@proxy.test:3128#":             "write it like",
			"svc:pa#ss@proxy.test:3128":                       "write it like",
			"ftp://svc:hunter2@proxy.test":                    "its scheme is none of",
			"http://svc:hun\x01ter2@proxy.test":               "a control character",
			"http://proxy.test:3128\nhttp://svc:pass@other:1": "more than one line",
		} {
			t.Setenv(name, value)
			problems, proxy := CheckProxies(), proxyFromEnvironment()
			got, err := proxy(target)
			switch {
			case want == "" || strings.Contains(want, "://"):
				text := ""
				if got != nil {
					text = got.String()
				}
				if len(problems) > 0 || err != nil || text != want {
					t.Errorf("%s=%q: %q, %v, %v; want %q", name, value, text, err, problems, want)
				}
			case len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), name+": ") || !strings.Contains(problems[0].Error(), want):
				t.Errorf("%s=%q: %v; want %q", name, value, problems, want)
			case got != nil || err == nil:
				t.Errorf("%s=%q: goes out by %v", name, value, got)
			case strings.Contains(problems[0].Error(), "svc") || strings.Contains(err.Error(), "hunter2"):
				t.Errorf("%s=%q: quoted: %v", name, value, problems)
			}
		}
		t.Setenv(name, "")
	}
}

func TestProxyChoice(t *testing.T) {
	for name, c := range map[string]struct {
		env    []string
		target string
		want   string
	}{
		"its own before all":         {[]string{"HTTPS_PROXY", "http://a.test:1", "ALL_PROXY", "http://b.test:1"}, "https://graph.test", "http://a.test:1"},
		"all":                        {[]string{"HTTP_PROXY", "http://a.test:1", "ALL_PROXY", "http://b.test:1"}, "https://graph.test", "http://b.test:1"},
		"the other scheme's":         {[]string{"HTTP_PROXY", "http://a.test:1"}, "https://graph.test", ""},
		"excepted":                   {[]string{"HTTPS_PROXY", "http://a.test:1", "NO_PROXY", "graph.test"}, "https://graph.test:8443", ""},
		"excepted with its port":     {[]string{"HTTPS_PROXY", "http://a.test:1", "NO_PROXY", "x.test, graph.test:8443"}, "https://graph.test:8443", ""},
		"excepted with another port": {[]string{"HTTPS_PROXY", "http://a.test:1", "NO_PROXY", "graph.test:443"}, "https://graph.test:8443", "http://a.test:1"},
		"excepted from all":          {[]string{"ALL_PROXY", "http://a.test:1", "NO_PROXY", "*"}, "https://graph.test:8443", ""},
		"this machine":               {[]string{"ALL_PROXY", "http://a.test:1"}, "http://127.0.0.1:80", ""},
	} {
		t.Run(name, func(t *testing.T) {
			withoutProxies(t)
			for i := 0; i < len(c.env); i += 2 {
				t.Setenv(c.env[i], c.env[i+1])
			}
			u, err := url.Parse(c.target)
			if err != nil {
				t.Fatal(err)
			}
			for who, proxy := range map[string]func() (*url.URL, error){
				"calls": func() (*url.URL, error) {
					port := u.Port()
					if port == "" {
						port = "443"
					}
					conns := newConns(u.Scheme, u.Hostname()+":"+port, nil)
					return conns.transport.Proxy(nil)
				},
				"tokens": func() (*url.URL, error) { return proxyFromEnvironment()(u) },
			} {
				got, err := proxy()
				if err != nil || (got == nil) != (c.want == "") || got != nil && got.String() != c.want {
					t.Errorf("%s: %v, %v; want %q", who, got, err, c.want)
				}
			}
		})
	}
}
