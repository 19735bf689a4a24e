package graphsim_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

func TestOutagesOfHTTP(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		for _, tc := range []struct {
			outage     graphsim.Outage
			post, get  int
			retryAfter string
		}{
			{graphsim.Outage503, 503, 503, ""},
			{graphsim.Outage503RetryAfter, 503, 503, "1"},
			{graphsim.Outage500, 500, 500, ""},
			{graphsim.OutageThrottle, 429, 429, "1"},
			{graphsim.OutageNoLicence, 400, 400, ""},
			{graphsim.OutageWrongPath, 404, 404, ""},
			{graphsim.OutagePermission, 403, 200, ""},
			{graphsim.OutageTokenDown, 204, 200, ""},
		} {
			s := start(t, graphsim.Config{})
			c := newClient(t, s, h2)
			d := graphsim.GoodDevice(1)
			s.SetOutage(tc.outage)
			a := c.wantStatus(d, tc.post)
			if got := a.header.Get("Retry-After"); got != tc.retryAfter {
				t.Errorf("%v: Retry-After %q", tc.outage, got)
			}
			if g := c.get(d); g.status != tc.get {
				t.Errorf("%v: GET %d", tc.outage, g.status)
			}
			if g := c.list(listQuery); g.status != tc.get {
				t.Errorf("%v: GET of the list %d", tc.outage, g.status)
			}
			if st := s.Status(); st.Outage != tc.outage.String() || tc.post != 204 && st.Executed != 0 {
				t.Errorf("%v: %+v", tc.outage, st)
			}
			s.SetOutage(graphsim.OutageNone)
			c.wantStatus(d, 204)
		}
	})
}

func TestOutagePermissionShowsInTokens(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	d := graphsim.GoodDevice(1)
	s.SetOutage(graphsim.OutagePermission)
	if e := graphError(t, c.wantStatus(d, 403)); !strings.Contains(e.Message, "Application must have one of the following scopes: "+graphsim.RoleReset) {
		t.Errorf("%+v", e)
	}
	c.login(graphsim.DefaultTenantID)
	if roles := tokenRoles(t, c.token); len(roles) != 1 || roles[0] != graphsim.RoleRead {
		t.Errorf("roles %v", roles)
	}
	s.SetOutage(graphsim.OutageNone)
	c.wantStatus(d, 403) // the permission shows in new tokens only
	c.login(graphsim.DefaultTenantID)
	c.wantStatus(d, 204)
}

func TestOutageSecretExpired(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	s.SetOutage(graphsim.OutageSecretExpired)
	status, answer, _ := c.askToken(graphsim.DefaultTenantID, tokenForm())
	if status != 401 || answer["error"] != "invalid_client" || !strings.Contains(answer["error_description"].(string), "AADSTS7000222") {
		t.Errorf("token: %d %v", status, answer)
	}
	c.wantStatus(graphsim.GoodDevice(1), 401)
	s.SetOutage(graphsim.OutageNone)
	c.wantStatus(graphsim.GoodDevice(1), 401)
	c.login(graphsim.DefaultTenantID)
	c.wantStatus(graphsim.GoodDevice(1), 204)
}

func TestOutageTokenDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{})
		s.SetOutage(graphsim.OutageTokenDown)
		status, answer, header := c.askToken(graphsim.DefaultTenantID, tokenForm())
		if status != 503 || answer["error"] != "temporarily_unavailable" || header.Get("Retry-After") != "1" {
			t.Errorf("token: %d %v %v", status, answer, header)
		}
		time.Sleep(600 * time.Millisecond) // fake time
		c.askToken(graphsim.DefaultTenantID, tokenForm())
		c.wantStatus(graphsim.GoodDevice(1), 204) // Graph announced nothing
		calls := s.TokenCalls()
		if last := calls[len(calls)-1]; !last.SentDuringRetryAfter || last.Status != 503 || last.Error == "" {
			t.Errorf("%+v", last)
		}
		if lastCall(t, s).SentDuringRetryAfter {
			t.Error("Graph's calls are concerned")
		}
	})
}

func TestOutageRefuse(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		s := start(t, graphsim.Config{})
		c := newClient(t, s, h2)
		url := s.URL()
		for range 3 {
			// A call that is under way is cut off.
			posts := s.Status().Posts
			underWay := make(chan error, 1)
			go func() {
				_, err := c.send(c.request(context.Background(), http.MethodPost, resetPath(graphsim.FaultDevice(604, 0, 0, 1))))
				underWay <- err
			}()
			eventually(t, "the call", func() bool { return s.Status().Posts > posts })
			s.SetOutage(graphsim.OutageRefuse)
			if err := <-underWay; err == nil {
				t.Error("the call under way was answered")
			}
			if !refused(s.Addr()) {
				t.Error("the port is open")
			}
			before := len(s.Calls())
			if _, err := c.send(c.request(context.Background(), http.MethodPost, resetPath(graphsim.GoodDevice(1)))); err == nil {
				t.Error("a call was answered")
			}
			if len(s.Calls()) != before {
				t.Error("a call got through")
			}
			s.SetOutage(graphsim.OutageNone)
			if s.URL() != url {
				t.Errorf("the port is another one: %s", s.URL())
			}
			c.wantStatus(graphsim.GoodDevice(1), 204)
		}
		noViolations(t, s)
	})
}

func TestOutageSilence(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		s := start(t, graphsim.Config{})
		c := newClient(t, s, h2)
		s.SetOutage(graphsim.OutageSilence)
		for _, ask := range []func(ctx context.Context) error{
			func(ctx context.Context) error {
				_, err := c.send(c.request(ctx, http.MethodPost, resetPath(graphsim.GoodDevice(1))))
				return err
			},
			func(ctx context.Context) error {
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/"+graphsim.DefaultTenantID+"/oauth2/v2.0/token", nil)
				_, err := c.send(req)
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			if err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			cancel()
		}
		if last := lastCall(t, s); last.Status != 0 || last.Executed {
			t.Errorf("%+v", last)
		}
		s.SetOutage(graphsim.OutageNone)
		if s.Resets(graphsim.GoodDevice(1)) != 0 {
			t.Error("executed")
		}
		c.wantStatus(graphsim.GoodDevice(1), 204)
	})
}

func TestOutageNames(t *testing.T) {
	for o := graphsim.OutageNone; o <= graphsim.OutageWrongPath; o++ {
		if got, err := graphsim.ParseOutage(o.String()); err != nil || got != o {
			t.Errorf("%v: %v, %v", o, got, err)
		}
	}
	if _, err := graphsim.ParseOutage("no such"); err == nil {
		t.Error("no error")
	}
}

// admin asks the page for hand use.
func admin(t *testing.T, c *client, method, path string) (int, graphsim.Status) {
	t.Helper()
	req, err := http.NewRequest(method, c.root+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var st graphsim.Status
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == 200 {
		if err := json.Unmarshal(body, &st); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, st
}

func TestByHand(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	d := graphsim.GoodDevice(1)
	if code, st := admin(t, c, "POST", "/_sim/outage?kind=503"); code != 200 || st.Outage != "503" {
		t.Errorf("%d %+v", code, st)
	}
	c.wantStatus(d, 503)
	admin(t, c, "POST", "/_sim/outage?kind=none")
	c.wantStatus(d, 204)
	admin(t, c, "POST", "/_sim/outage?kind=500&for=50ms")
	c.wantStatus(d, 500)
	eventually(t, "the end of the outage", func() bool { return s.Status().Outage == "none" })
	admin(t, c, "POST", "/_sim/revoke?challenge=1")
	if a := c.wantStatus(d, 401); !strings.Contains(a.header.Get("WWW-Authenticate"), "claims=") {
		t.Errorf("%v", a.header)
	}
	c.login(graphsim.DefaultTenantID)
	if code, st := admin(t, c, "GET", "/_sim/status"); code != 200 || st.Executed != 1 || st.TokensIssued != 2 || st.Calls != len(s.Calls()) {
		t.Errorf("%d %+v", code, st)
	}
	for _, path := range []string{"?kind=x", "?kind=503&for=x", "?kind=503&for=-1s", "?kind=refuse", "?kind=503&tenant=x"} {
		if code, _ := admin(t, c, "POST", "/_sim/outage"+path); code != 400 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _ := admin(t, c, "GET", "/_sim/x"); code != 404 {
		t.Errorf("unknown page: %d", code)
	}
	admin(t, c, "POST", "/_sim/outage?kind=503&for=20ms&tenant="+graphsim.DefaultTenantID)
	eventually(t, "the end of the tenant's outage", func() bool { return c.post(d).status == 204 })
	// A refusal is answered first, and ends by itself.
	if code, _ := admin(t, c, "POST", "/_sim/outage?kind=refuse&for=200ms"); code != 200 {
		t.Errorf("refuse: %d", code)
	}
	eventually(t, "the refusal", func() bool { return refused(s.Addr()) })
	eventually(t, "the end of the refusal", func() bool { return !refused(s.Addr()) })
	c.wantStatus(d, 204)
	noViolations(t, s)
}

// A timed end does not end what was put in force after it.
func TestByHandTimedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{})
		d := graphsim.GoodDevice(1)
		admin(t, c, "POST", "/_sim/outage?kind=500&for=10s")
		time.Sleep(9 * time.Second) // fake time
		c.wantStatus(d, 500)
		time.Sleep(2 * time.Second) // fake time
		c.wantStatus(d, 204)
		admin(t, c, "POST", "/_sim/outage?kind=500&for=10s")
		s.SetOutage(graphsim.Outage503)
		time.Sleep(20 * time.Second) // fake time
		c.wantStatus(d, 503)
		admin(t, c, "POST", "/_sim/outage?kind=500&for=1h")
	})
}

// Nothing waits for ever, whatever is going on when the simulator is closed.
func TestCloseInTheMiddle(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		s := start(t, graphsim.Config{})
		c := newClient(t, s, h2)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				_, _ = c.send(c.request(context.Background(), http.MethodPost, resetPath(graphsim.FaultDevice(603+i%3, 0, 0, i))))
			})
		}
		eventually(t, "the calls", func() bool { return s.Status().Posts == 8 })
		admin(t, c, "POST", "/_sim/outage?kind=503&for=1h")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		s.SetOutage(graphsim.OutageRefuse)
		s.SetOutage(graphsim.OutageNone)
		if !refused(s.Addr()) {
			t.Error("a closed simulator listens")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
