package metrics

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"passcode-worker/internal/hold"
	"strings"
	"testing"
	"time"
)

func tenant(bound bool, causes ...hold.Cause) TenantState {
	t := TenantState{Tenant: "t", Bound: bound}
	for _, c := range causes {
		t.Holds = append(t.Holds, Hold{Cause: c})
	}
	return t
}

func TestReady(t *testing.T) {
	up := NATSState{Connected: true}
	until := time.Unix(1, 0)
	throttled := tenant(true)
	throttled.PausedUntil = &until
	active := tenant(true)
	active.Active = true
	failing := tenant(true)
	failing.Error = "consumer is gone"

	for name, c := range map[string]struct {
		state State
		want  bool
	}{
		"nothing known yet":              {State{}, false},
		"no tenant":                      {State{NATS: up}, false},
		"NATS away":                      {State{Tenants: []TenantState{active}}, false},
		"active":                         {State{NATS: up, Tenants: []TenantState{active}}, true},
		"standby":                        {State{NATS: up, Tenants: []TenantState{tenant(true)}}, true},
		"throttled":                      {State{NATS: up, Tenants: []TenantState{throttled}}, true},
		"bound, with an error":           {State{NATS: up, Tenants: []TenantState{failing}}, true},
		"unbound":                        {State{NATS: up, Tenants: []TenantState{tenant(false)}}, false},
		"paused":                         {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Paused)}}, true},
		"unbound and paused":             {State{NATS: up, Tenants: []TenantState{tenant(false, hold.Paused)}}, false},
		"held: credentials":              {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Credentials)}}, false},
		"held: permission":               {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Permission)}}, false},
		"held: refused":                  {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Refused)}}, false},
		"held: Graph":                    {State{NATS: up, Tenants: []TenantState{tenant(true, hold.GraphUnavailable)}}, false},
		"held: fuse":                     {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Fuse)}}, false},
		"paused and held":                {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Paused, hold.Fuse)}}, false},
		"one held, one not":              {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Fuse), tenant(true)}}, true},
		"one held, one paused":           {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Fuse), tenant(true, hold.Paused)}}, true},
		"one held, one unbound":          {State{NATS: up, Tenants: []TenantState{tenant(true, hold.Fuse), tenant(false)}}, false},
		"claims to be ready, but is not": {State{Ready: true, Tenants: []TenantState{active}}, false},
	} {
		if got := Ready(c.state); got != c.want {
			t.Errorf("%s: ready %t, want %t", name, got, c.want)
		}
		w := httptest.NewRecorder()
		h := Handler(newTest(), func() State { return c.state })
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		wantCode := http.StatusServiceUnavailable
		if c.want {
			wantCode = http.StatusOK
		}
		var body State
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatalf("%s: %v in %s", name, err, w.Body)
		}
		if w.Code != wantCode || body.Ready != c.want {
			t.Errorf("%s: status %d, ready %t", name, w.Code, body.Ready)
		}
	}
}

func TestReadyzJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	until := at.Add(time.Minute)
	full := State{
		NATS: NATSState{Connected: true, Server: "nats://a:4222", Error: "slow consumer", Since: at},
		Tenants: []TenantState{
			{Tenant: "a", Active: true, Bound: true, PausedUntil: &until},
			{Tenant: "b", Error: "no stream", Holds: []Hold{
				{Cause: hold.Credentials, Since: at, Detail: "secret expired", NextProbe: until},
				{Cause: hold.Paused},
			}},
		},
	}
	for name, c := range map[string]struct {
		state State
		want  string
	}{
		"empty": {State{}, `{"ready":false,"nats":{"connected":false},"tenants":[]}`},
		"full": {full, `{"ready":true,
			"nats":{"connected":true,"server":"nats://a:4222","error":"slow consumer","since":"2026-01-02T03:04:05Z"},
			"tenants":[
				{"tenant":"a","active":true,"bound":true,"pausedUntil":"2026-01-02T03:05:05Z","holds":[]},
				{"tenant":"b","active":false,"bound":false,"error":"no stream","holds":[
					{"cause":"credentials","since":"2026-01-02T03:04:05Z","detail":"secret expired","nextProbe":"2026-01-02T03:05:05Z"},
					{"cause":"paused"}]}]}`},
	} {
		w := httptest.NewRecorder()
		h := Handler(newTest(), func() State { return c.state })
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		if got, want := compact(t, w.Body.String()), compact(t, c.want); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
		if got := w.Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: Content-Type %q", name, got)
		}
		if got := w.Header().Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q", name, got)
		}
	}
	if full.Tenants[0].Holds != nil || full.Ready {
		t.Error("the caller's state was changed")
	}
}

func TestReadyzTimeWithoutJSONForm(t *testing.T) {
	w := httptest.NewRecorder()
	h := Handler(newTest(), func() State {
		return State{NATS: NATSState{Since: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}}
	})
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("status %d", w.Code)
	}
}

func compact(t *testing.T, s string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRoutes(t *testing.T) {
	srv := httptest.NewServer(Handler(newTest(), func() State { return State{} }))
	defer srv.Close()
	for _, c := range []struct {
		method, path string
		code         int
		body         string // part of it; "" = none at all
	}{
		{"GET", "/", 200, "/readyz"},
		{"HEAD", "/", 200, ""},
		{"GET", "/livez", 200, "ok\n"},
		{"HEAD", "/livez", 200, ""},
		{"GET", "/readyz", 503, `"ready": false`},
		{"HEAD", "/readyz", 503, ""},
		{"GET", "/metrics", 200, "passcode_reset_build_info"},
		{"HEAD", "/metrics", 200, ""},
		{"GET", "/other", 404, "not found"},
		{"GET", "/livez/", 404, "not found"},
		{"HEAD", "/other", 404, ""},
		{"POST", "/", 405, "not allowed"},
		{"POST", "/livez", 405, "not allowed"},
		{"PUT", "/readyz", 405, "not allowed"},
		{"DELETE", "/metrics", 405, "not allowed"},
		{"OPTIONS", "/metrics", 405, "not allowed"},
	} {
		name := c.method + " " + c.path
		r, err := http.NewRequest(c.method, srv.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != c.code {
			t.Errorf("%s: status %d, want %d", name, res.StatusCode, c.code)
		}
		if c.body == "" && len(body) > 0 || !strings.Contains(strings.ToLower(string(body)), strings.ToLower(c.body)) {
			t.Errorf("%s: body %q", name, body)
		}
		if got := res.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options %q", name, got)
		}
		if allow := res.Header.Get("Allow"); c.code == 405 && allow != "GET, HEAD" {
			t.Errorf("%s: Allow %q", name, allow)
		}
	}
}

func TestLivezDependsOnNothing(t *testing.T) {
	h := Handler(newTest(), func() State { panic("asked for the state") })
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/livez", nil))
	if w.Code != http.StatusOK || w.Body.String() != "ok\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestOpenMetrics(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	w := httptest.NewRecorder()
	Handler(newTest(), nil).ServeHTTP(w, r)
	if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") {
		t.Errorf("Content-Type %q", got)
	}
	if !strings.HasSuffix(w.Body.String(), "# EOF\n") {
		t.Error("no # EOF at the end")
	}
}
