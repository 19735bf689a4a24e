package graphsim_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// However many come at once, the quota is granted in a window and no more.
func TestQuotaIsExact(t *testing.T) {
	s := start(t, graphsim.Config{Quota: 20, Window: time.Minute, QuotaUnknown: true})
	c := newClient(t, s, true)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if a := c.post(graphsim.GoodDevice(i)); a.status == 429 && a.header.Get("Retry-After") != "" {
				t.Error("an announcement without a style")
			}
		})
	}
	wg.Wait()
	if st := s.Status(); st.Executed != 20 || st.Throttled != 40 || len(st.ResetTwice) != 0 {
		t.Errorf("%+v", st)
	}
	if a := c.get(graphsim.GoodDevice(1)); a.status != 200 {
		t.Errorf("a GET is not of the quota: %d", a.status)
	}
	noViolations(t, s) // of an unknown quota
	s.SetQuota(0, 0)
	c.wantStatus(graphsim.GoodDevice(99), 204)
	s.SetQuota(-1, time.Second)
	c.wantStatus(graphsim.GoodDevice(99), 429)
	s.SetQuota(1, time.Minute)
	c.wantStatus(graphsim.GoodDevice(99), 204)
	c.wantStatus(graphsim.GoodDevice(99), 429)
	s.Forget()
	c.wantStatus(graphsim.GoodDevice(99), 204)
}

func TestQuotaIsAViolationWhereKnown(t *testing.T) {
	s := start(t, graphsim.Config{Quota: 3, Window: time.Minute})
	c := newClient(t, s, true)
	for i := range 3 {
		c.wantStatus(graphsim.GoodDevice(i), 204)
	}
	noViolations(t, s)
	c.wantStatus(graphsim.GoodDevice(3), 429)
	if v := s.Violations(); len(v) != 1 || !strings.HasPrefix(v[0], "quota: ") {
		t.Errorf("violations: %v", v)
	}
}

// A client that waits as long as it is told is let in at once then, and not
// noted as one that came too early.
func TestQuotaRetryAfter(t *testing.T) {
	const window, ahead = 1200 * time.Millisecond, 30 * time.Minute
	for _, tc := range []struct {
		style   graphsim.RetryAfterStyle
		latency time.Duration
		want    time.Duration
		text    string
	}{
		{graphsim.Seconds, 0, 2 * time.Second, "2"},
		{graphsim.Decimal, 0, 1200 * time.Millisecond, "1.2"},
		{graphsim.Date, 0, 1800 * time.Millisecond, "Sat, 01 Jan 2000 00:30:02 GMT"},
		// What passes before the answer comes is not waited for again.
		{graphsim.Decimal, 50 * time.Millisecond, 1050 * time.Millisecond, "1.05"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, c := newDirect(t, graphsim.Config{Quota: 2, Window: window, RetryAfter: tc.style, Latency: tc.latency, ClockOffset: ahead})
			time.Sleep(200 * time.Millisecond) // fake time
			c.wantStatus(graphsim.GoodDevice(1), 204)
			c.wantStatus(graphsim.GoodDevice(2), 204)
			a := c.wantStatus(graphsim.GoodDevice(3), 429)
			if got := a.header.Get("Retry-After"); got != tc.text {
				t.Errorf("style %d: %q, want %q", tc.style, got, tc.text)
			}
			time.Sleep(tc.want - time.Millisecond) // fake time
			c.get(graphsim.GoodDevice(3))
			if !lastCall(t, s).SentDuringRetryAfter {
				t.Errorf("style %d: a call 1 ms before the end is not noted", tc.style)
			}
			time.Sleep(time.Millisecond) // fake time
			c.wantStatus(graphsim.GoodDevice(3), 204)
			if lastCall(t, s).SentDuringRetryAfter {
				t.Errorf("style %d: a call at the end is noted", tc.style)
			}
		})
	}
}

// The window slides: what is older than it makes room, one by one.
func TestQuotaSlides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{Quota: 3, Window: 3 * time.Second})
		for i := range 30 {
			c.wantStatus(graphsim.GoodDevice(i), 204)
			time.Sleep(time.Second) // fake time
		}
		noViolations(t, s)
		for range 100 { // one call is 3 s old by now, two are in the window
			c.post(graphsim.GoodDevice(0))
		}
		if st := s.Status(); st.Executed != 31 || st.Throttled != 99 || st.ViolationCount != 99 {
			t.Errorf("%+v", st)
		}
	})
}

// With CountThrottled a client that never stops is never let in again.
func TestCountThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newDirect(t, graphsim.Config{Quota: 2, Window: time.Second, CountThrottled: true, QuotaUnknown: true, RetryAfter: graphsim.Decimal})
		c.wantStatus(graphsim.GoodDevice(0), 204)
		c.wantStatus(graphsim.GoodDevice(0), 204)
		for range 20 {
			time.Sleep(400 * time.Millisecond) // fake time
			c.wantStatus(graphsim.GoodDevice(1), 429)
		}
		// The refused calls of 0, 400 and 800 ms ago: two must go.
		if got := c.wantStatus(graphsim.GoodDevice(1), 429).header.Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After %q", got)
		}
		time.Sleep(time.Second) // fake time
		c.wantStatus(graphsim.GoodDevice(1), 204)
	})
}

func TestTenantsAreApart(t *testing.T) {
	const second = "7e4a17b0-0000-4000-8000-00000000a002"
	synctest.Test(t, func(t *testing.T) {
		s, one := newDirect(t, graphsim.Config{Tenants: []string{strings.ToUpper(second)}, RetryAfter: graphsim.Seconds, Quota: 9, Window: time.Minute})
		two := *one
		two.login(second)
		s.SetTenantQuota(second, -1, time.Minute)
		two.wantStatus(graphsim.GoodDevice(1), 429)
		time.Sleep(60 * time.Millisecond) // fake time
		one.wantStatus(graphsim.GoodDevice(1), 204)
		if last := lastCall(t, s); last.SentDuringRetryAfter || last.Tenant != graphsim.DefaultTenantID {
			t.Errorf("%+v", last)
		}
		two.wantStatus(graphsim.GoodDevice(1), 429)
		if last := lastCall(t, s); !last.SentDuringRetryAfter || last.Tenant != second {
			t.Errorf("%+v", last)
		}
		s.SetTenantQuota(second, 0, 0)
		for _, tc := range []struct {
			outage graphsim.Outage
			want   int
		}{{graphsim.Outage503, 503}, {graphsim.OutagePermission, 403}, {graphsim.OutageSecretExpired, 401}} {
			s.SetTenantOutage(second, tc.outage)
			two.wantStatus(graphsim.GoodDevice(2), tc.want)
			one.wantStatus(graphsim.GoodDevice(2), 204)
			if status, _, _ := two.askToken(graphsim.DefaultTenantID, tokenForm()); status != 200 {
				t.Errorf("the token endpoint of the first tenant: %d", status)
			}
		}
		if status, _, _ := two.askToken(second, tokenForm()); status != 401 {
			t.Errorf("the token endpoint of the second tenant: %d", status)
		}
		s.SetTenantOutage(second, graphsim.OutageNone)
		two.login(second)
		two.wantStatus(graphsim.GoodDevice(2), 204)
	})
}
