package graphsim_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

func TestResetAndRead(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		const ahead = 90 * time.Second
		s := start(t, graphsim.Config{ClockOffset: ahead})
		c := newClient(t, s, h2)
		device := graphsim.GoodDevice(1)
		before := time.Now().Add(ahead - time.Second)
		req := c.request(context.Background(), http.MethodPost, resetPath(strings.ToUpper(device)))
		a, err := c.send(req)
		if err != nil || a.status != http.StatusNoContent || a.body != "" {
			t.Fatalf("reset: %+v, %v", a, err)
		}
		id := req.Header.Get("client-request-id")
		if got := a.header.Get("client-request-id"); got != id {
			t.Errorf("client-request-id %q, want %q", got, id)
		}
		if a.header.Get("request-id") == "" || a.header.Get("x-ms-ags-diagnostic") == "" {
			t.Errorf("headers: %v", a.header)
		}
		date, err := http.ParseTime(a.header.Get("Date"))
		if err != nil || date.Before(before.Add(-time.Second)) || len(a.header.Values("Date")) != 1 {
			t.Errorf("Date %v, %v: want Graph's clock", date, err)
		}

		g := c.get(device)
		if g.status != http.StatusOK {
			t.Fatalf("GET: %+v", g)
		}
		var doc struct {
			ID      string `json:"id"`
			Results []struct {
				Type     string    `json:"@odata.type"`
				Name     string    `json:"actionName"`
				State    string    `json:"actionState"`
				Started  time.Time `json:"startDateTime"`
				Passcode string    `json:"passcode"`
				Code     *int      `json:"errorCode"`
			} `json:"deviceActionResults"`
		}
		if err := json.Unmarshal([]byte(g.body), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.ID != device || len(doc.Results) != 2+older {
			t.Fatalf("GET: %s", g.body)
		}
		r := doc.Results[1]
		if doc.Results[0].Name == "resetPasscode" || r.Name != "resetPasscode" || r.State != "pending" ||
			r.Type != "#microsoft.graph.resetPasscodeActionResult" || r.Code == nil || r.Started.Before(before) {
			t.Errorf("GET: %s", g.body)
		}
		secrets := strings.Join(s.Secrets(), " ")
		for _, secret := range []string{r.Passcode, c.token, graphsim.DefaultClientSecret} {
			if secret == "" || !strings.Contains(secrets, secret) {
				t.Errorf("Secrets lacks %q", secret)
			}
		}

		if n := s.Resets(strings.ToUpper(device)); n != 1 {
			t.Errorf("Resets is %d", n)
		}
		if l := s.Ledger(); len(l) != 1 || l[device] != 1 {
			t.Errorf("Ledger is %v", l)
		}
		calls := s.Calls()
		if len(calls) != 2 {
			t.Fatalf("calls: %+v", calls)
		}
		proto := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[h2]
		first := calls[0]
		if first.Method != "POST" || first.Device != device || first.Status != 204 || !first.Executed ||
			first.ClientRequestID != id || first.RequestID != a.header.Get("request-id") || first.Protocol != proto ||
			first.SentDuringRetryAfter || first.Tenant != graphsim.DefaultTenantID {
			t.Errorf("call: %+v", first)
		}
		if first.Path != "/v1.0"+resetPath(strings.ToUpper(device)) || calls[1].Path != "/v1.0/deviceManagement/managedDevices/"+device {
			t.Errorf("paths %q, %q", first.Path, calls[1].Path)
		}
		noViolations(t, s)

		s.Forget()
		if len(s.Calls()) != 0 || len(s.Ledger()) != 0 || s.Status().Executed != 0 {
			t.Error("Forget left something")
		}
		c.wantStatus(device, http.StatusNoContent) // the token is still good
	})
}

func TestRoutes(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	d, other := graphsim.GoodDevice(1), graphsim.GoodDevice(2)
	user := url.PathEscape("o'neil#x^y!~_z.a-b@example.org")
	const app = "App_1-x"
	good := []string{
		resetPath(d),
		"/users/" + user + "/managedDevices/" + d + "/resetPasscode",
		"/users/" + other + "/managedDevices/" + d + "/resetPasscode",
		"/deviceManagement/detectedApps/" + app + "/managedDevices/" + d + "/resetPasscode",
		"/deviceManagement/detectedApps/" + app + "/managedDevices/" + d + "/users/" + user + "/managedDevices/" + d + "/resetPasscode",
	}
	for i, path := range good {
		if a, err := c.send(c.request(context.Background(), http.MethodPost, path)); err != nil || a.status != http.StatusNoContent {
			t.Errorf("%s: %+v, %v", path, a, err)
		}
		if s.Resets(d) != i+1 {
			t.Errorf("%s did not reset the device", path)
		}
	}
	for _, query := range []string{"?$select=id,deviceActionResults", "?%24select=id%2CdeviceActionResults"} {
		if a, err := c.send(c.request(context.Background(), http.MethodGet, "/deviceManagement/managedDevices/"+d+query)); err != nil || a.status != http.StatusOK {
			t.Errorf("GET %s: %+v, %v", query, a, err)
		}
	}
	for _, query := range []string{listQuery, "?%24select=id&%24top=1"} {
		if a := c.list(query); a.status != http.StatusOK || !strings.Contains(a.body, `"value":[{"id":"`+d+`"}]`) {
			t.Errorf("GET %s: %+v", query, a)
		}
	}
	noViolations(t, s)

	bad := []struct{ method, path, kind string }{
		{"POST", "/deviceManagement/managedDevices/nonsense/resetPasscode", "path"},
		{"POST", "/deviceManagement/managedDevices/" + d + "/wipe", "path"},
		{"POST", "/deviceManagement/managedDevices/" + d + "/x/resetPasscode", "path"},
		{"POST", "/deviceManagement/managedDevices/" + d + "/resetPasscode/", "path"},
		{"POST", "/deviceManagement/managedDevices('" + d + "')/resetPasscode", "path"},
		{"POST", "/me/managedDevices/" + d + "/resetPasscode", "path"},
		{"POST", "/users/a%2Fb@c/managedDevices/" + d + "/resetPasscode", "path"},
		{"POST", "/users/a@b@c/managedDevices/" + d + "/resetPasscode", "path"},
		{"POST", "/users//managedDevices/" + d + "/resetPasscode", "path"},
		{"POST", "/deviceManagement/detectedApps/a.b/managedDevices/" + d + "/resetPasscode", "path"},
		{"POST", "/deviceManagement/detectedApps/a/managedDevices/" + d + "/users/" + user + "/managedDevices/" + other + "/resetPasscode", "path"},
		{"POST", resetPath(d) + "?x=1", "path"},
		{"POST", strings.Repeat("/a", 20) + "/resetPasscode", "path"},
		{"GET", "/deviceManagement/managedDevices", "path"},
		{"GET", "/deviceManagement/managedDevices/" + d, "path"},
		{"GET", "/deviceManagement/managedDevices/" + d + "?$select=id", "path"},
		{"GET", resetPath(d), "method"},
		{"PUT", resetPath(d), "method"},
		{"POST", devicePath(d), "method"},
		{"POST", "/deviceManagement/managedDevices" + listQuery, "method"},
		{"GET", "/deviceManagement/managedDevices?$top=2&$select=id", "path"},
		{"GET", "/deviceManagement/managedDevices?$top=1", "path"},
	}
	for _, b := range bad {
		s.Forget()
		a, err := c.send(c.request(context.Background(), b.method, b.path))
		if err != nil || a.status != http.StatusBadRequest && a.status != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: %+v, %v", b.method, b.path, a, err)
		}
		if v := s.Violations(); len(v) != 1 || !strings.HasPrefix(v[0], b.kind+": ") {
			t.Errorf("%s %s: violations %v", b.method, b.path, v)
		}
		if len(s.Ledger()) != 0 {
			t.Errorf("%s %s reset something", b.method, b.path)
		}
	}
}

func TestViolations(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		s := start(t, graphsim.Config{})
		c := newClient(t, s, h2)
		cases := []struct {
			kind   string
			change func(r *http.Request)
		}{
			{"body", func(r *http.Request) { setBody(r, "{}", 2) }},
			{"body", func(r *http.Request) { setBody(r, "{}", -1) }},
			{"client-request-id", func(r *http.Request) { r.Header.Del("client-request-id") }},
			{"client-request-id", func(r *http.Request) { r.Header.Set("client-request-id", "x") }},
			{"client-request-id", func(r *http.Request) { r.Header.Add("client-request-id", graphsim.GoodDevice(1)) }},
			{"user-agent", func(r *http.Request) { r.Header.Set("User-Agent", "") }},
			{"user-agent", func(r *http.Request) { r.Header.Del("User-Agent") }},
			{"accept", func(r *http.Request) { r.Header.Del("Accept") }},
			{"idempotency-key", func(r *http.Request) { r.Header.Set("Idempotency-Key", "x") }},
			{"x-idempotency-key", func(r *http.Request) { r.Header.Set("X-Idempotency-Key", "x") }},
			{"retry-attempt", func(r *http.Request) { r.Header.Set("Retry-Attempt", "1") }},
			{"authorization", func(r *http.Request) { r.Header.Del("Authorization") }},
		}
		for i, tc := range cases {
			s.Forget()
			req := c.request(context.Background(), http.MethodPost, resetPath(graphsim.GoodDevice(i)))
			tc.change(req)
			if _, err := c.send(req); err != nil {
				t.Fatal(err)
			}
			if v := s.Violations(); len(v) != 1 || !strings.HasPrefix(v[0], tc.kind+": ") {
				t.Errorf("%d, %s: %v", i, tc.kind, v)
			}
		}

		s.Forget()
		req := c.request(context.Background(), http.MethodPost, resetPath(graphsim.GoodDevice(1)))
		setBody(req, "", -1) // of unknown length, but empty
		if _, err := c.send(req); err != nil {
			t.Fatal(err)
		}
		noViolations(t, s)
		again := c.request(context.Background(), http.MethodGet, devicePath(graphsim.GoodDevice(1)))
		again.Header.Set("client-request-id", req.Header.Get("client-request-id"))
		if _, err := c.send(again); err != nil {
			t.Fatal(err)
		}
		if v := s.Violations(); len(v) != 1 || !strings.Contains(v[0], "the same on two calls") {
			t.Errorf("the same id again: %v", v)
		}
	})
}

func TestRoles(t *testing.T) {
	for _, tc := range []struct {
		roles     []string
		post, get int
	}{
		{nil, 204, 200},
		{[]string{}, 403, 403},
		{[]string{graphsim.RoleReset}, 204, 403},
		{[]string{graphsim.RoleRead}, 403, 200},
		{[]string{graphsim.RoleReadWrite}, 403, 200},
	} {
		s := start(t, graphsim.Config{Roles: tc.roles})
		c := newClient(t, s, true)
		d := graphsim.GoodDevice(1)
		post, get := c.post(d), c.get(d)
		if post.status != tc.post || get.status != tc.get {
			t.Errorf("%v: POST %d, GET %d; want %d, %d", tc.roles, post.status, get.status, tc.post, tc.get)
		}
		if tc.post == 403 {
			e := graphError(t, post)
			if e.Code != "Forbidden" || !strings.Contains(e.Message, "Application must have one of the following scopes: "+graphsim.RoleReset) ||
				!strings.Contains(e.Message, d) || !strings.Contains(e.Message, "https://fef.") {
				t.Errorf("body: %+v", e)
			}
			if s.Resets(d) != 0 {
				t.Error("the device was reset")
			}
		}
	}
}

type errorDoc struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Details []string `json:"details"`
	Inner   struct {
		Date    string `json:"date"`
		Request string `json:"request-id"`
		Client  string `json:"client-request-id"`
	} `json:"innerError"`
}

func graphError(t *testing.T, a answer) errorDoc {
	t.Helper()
	var doc struct {
		Error errorDoc `json:"error"`
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatalf("%v in %q", err, a.body)
	}
	if doc.Error.Inner.Request != a.header.Get("request-id") {
		t.Errorf("request-id %q, header %q", doc.Error.Inner.Request, a.header.Get("request-id"))
	}
	return doc.Error
}

func TestNoCallLog(t *testing.T) {
	s := start(t, graphsim.Config{NoCallLog: true, Latency: time.Millisecond})
	c := newClient(t, s, true)
	d := graphsim.GoodDevice(1)
	c.wantStatus(d, 204)
	c.wantStatus(d, 204)
	st := s.Status()
	if len(s.Calls()) != 0 || st.Posts != 2 || st.Executed != 2 || st.Devices != 1 || len(st.ResetTwice) != 1 || st.ResetTwice[0] != d {
		t.Errorf("calls %v, status %+v", s.Calls(), st)
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{Latency: 3 * time.Second})
		began := time.Now()
		a := c.wantStatus(graphsim.GoodDevice(1), 204)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
		if want := time.Now().UTC().Format(http.TimeFormat); a.header.Get("Date") != want {
			t.Errorf("Date %s, want %s", a.header.Get("Date"), want)
		}
		if !lastCall(t, s).Time.Equal(began) {
			t.Error("the call's time is not that of its arrival")
		}
	})
}

// A client that leaves while it waits has an executed reset without an answer.
func TestLeaveDuringLatency(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		s := start(t, graphsim.Config{Latency: time.Hour})
		c := newClient(t, s, h2)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		d := graphsim.GoodDevice(2)
		done := make(chan error, 1)
		go func() {
			_, err := c.send(c.request(ctx, http.MethodPost, resetPath(d)))
			done <- err
		}()
		eventually(t, "the reset", func() bool { return s.Resets(d) == 1 })
		cancel()
		if <-done == nil {
			t.Fatal("the client did not leave")
		}
		eventually(t, "the call to be logged as unanswered", func() bool {
			last := lastCall(t, s)
			return last.Status == 0 && last.Executed
		})
	})
}
