package metrics

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/hold"
	"passcode-worker/internal/verdict"
)

func nth(i int) string { return fmt.Sprintf("tenant-%04d", i) }

// many are a worker of so many tenants, of which the last two are in trouble; worked: each
// has had a request.
func many(n int, worked bool) (*Metrics, State) {
	m := newTest()
	s := State{NATS: NATSState{Connected: true}}
	for i := range n {
		t := m.Tenant(nth(i))
		t.SetRate(10, 10)
		t.SetQueue(Queue{})
		for _, c := range hold.Causes() {
			t.SetHold(c, false)
		}
		state := TenantState{Tenant: nth(i), Bound: true}
		if worked {
			state.Active = true
			t.SetActive(true)
			t.Attempt(verdict.ResultAccepted)
			t.Request(OutcomeAccepted, time.Second)
			t.Verdict(Verdict{ID: "INC1", Device: "d", Outcome: "accepted", State: "accepted"})
		}
		switch i {
		case n - 1:
			t.SetHold(hold.Credentials, true)
			state.Holds = []Hold{{Cause: hold.Credentials, Since: time.Now(), Detail: "the secret has expired"}}
		case n - 2:
			state.Bound, state.Error = false, "consumer not found"
		}
		s.Tenants = append(s.Tenants, state)
	}
	return m, s
}

// told is what a path answers.
func told(tb testing.TB, m *Metrics, s State, path string) string {
	tb.Helper()
	w := httptest.NewRecorder()
	Handler(m, func() State { return s }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		tb.Fatalf("%s: status %d", path, w.Code)
	}
	return w.Body.String()
}

// TestManyTenantsCome with their first request, or their hold, and then with all of their
// series; few are there from the start.
func TestManyTenantsCome(t *testing.T) {
	of := func(m *Metrics, name string) (lines []string) {
		for line := range strings.Lines(exposition(t, m)) {
			if strings.Contains(line, `tenant="`+name+`"`) {
				series, _, _ := strings.Cut(line, "} ")
				lines = append(lines, strings.ReplaceAll(series, name, "NAME"))
			}
		}
		return lines
	}
	few, _ := many(fewTenants, false)
	all := of(few, nth(0))
	if len(all) < 80 {
		t.Fatalf("%d lines of one of few tenants", len(all))
	}
	m, _ := many(fewTenants+1, false)
	if got := of(m, nth(0)); len(got) != 0 {
		t.Errorf("an idle one of many has %q", got)
	}
	if got := of(m, nth(fewTenants)); !slices.Equal(got, all) {
		t.Errorf("a held one of many has %q", got)
	}
	for i, event := range []func(*Tenant){
		func(t *Tenant) { t.InFlight(1) },
		func(t *Tenant) { t.SetQueue(Queue{Messages: 1}) },
		func(t *Tenant) { t.SetActive(true) },
		func(t *Tenant) { t.DeadLetter(verdict.ReasonExpired) },
		func(t *Tenant) { t.Request(OutcomeDuplicate, 0) },
		func(t *Tenant) { t.TokenRequest(TokenRefused) },
		func(t *Tenant) { t.SetPausedUntil(time.Now()) },
		func(t *Tenant) { t.SetWaitingRetry(1) },
		func(t *Tenant) { t.NotFollowed() },
	} {
		event(m.Tenant(nth(i)))
		if got := of(m, nth(i)); !slices.Equal(got, all) {
			t.Errorf("after event %d: %q", i, got)
		}
	}
	// What was set before is told then, and stays when what it was for is over.
	m.Tenant(nth(0)).InFlight(-1)
	wantLines(t, m, `rate_limit{tenant="tenant-0000"} 10`, `in_flight{tenant="tenant-0000"} 0`)
	m.Tenant(nth(20)).TokenRequest(TokenOK)
	if got := of(m, nth(20)); len(got) != 0 {
		t.Errorf("a token alone brings %q", got)
	}
	// With one tenant less they are few again.
	m.Remove(nth(fewTenants))
	if got := of(m, nth(20)); !slices.Equal(got, all) {
		t.Errorf("one of few has %q", got)
	}
}

// TestManyTenantsAreBounded compares what is told of 2,000 tenants and of 5,000 with what
// is told of 200: no clock judges.
func TestManyTenantsAreBounded(t *testing.T) {
	smallMetrics, small := many(fewTenants, true)
	for _, n := range []int{2000, 5000} {
		idle, idleState := many(n, false)
		worked, state := many(n, true)
		for _, c := range []struct {
			what        string
			got, of     string
			most        float64 // as a multiple
			first, more string
		}{
			{"a scrape of idle ones", told(t, idle, idleState, "/metrics"), told(t, smallMetrics, small, "/metrics"), .1, "", ""},
			{"the page", told(t, worked, state, "/"), told(t, smallMetrics, small, "/"), 1.1, "", fmt.Sprintf("and %s more", thousands(n-mostRows))},
			{"/readyz", told(t, worked, state, "/readyz"), told(t, smallMetrics, small, "/readyz"), 1.1, "", fmt.Sprintf(`"notListed": %d`, n-mostListed)},
		} {
			if share := float64(len(c.got)) / float64(len(c.of)); share > c.most {
				t.Errorf("%d tenants: %s has %d bytes, of few %d", n, c.what, len(c.got), len(c.of))
			}
			if !strings.Contains(c.got, c.more) {
				t.Errorf("%d tenants: %s does not say %q", n, c.what, c.more)
			}
		}
		var ready State
		if err := json.Unmarshal([]byte(told(t, worked, state, "/readyz")), &ready); err != nil {
			t.Fatal(err)
		}
		if first, second := ready.Tenants[0], ready.Tenants[1]; first.Tenant != nth(n-1) || second.Tenant != nth(n-2) || !ready.Ready {
			t.Errorf("the first are %+v, %+v", first, second)
		}
		if page := told(t, worked, state, "/"); strings.Index(page, nth(n-2)) > strings.Index(page, nth(n-1)) || strings.Index(page, nth(n-1)) > strings.Index(page, nth(5)) {
			t.Error("the page does not begin with what is in trouble")
		}
	}
}

// TestEveryHoldIsListed also where more tenants are held than are listed otherwise.
func TestEveryHoldIsListed(t *testing.T) {
	m, s := many(2*mostListed, false)
	for i := range s.Tenants[:mostListed+50] {
		s.Tenants[i].Holds = []Hold{{Cause: hold.Paused}}
	}
	var ready State
	if err := json.Unmarshal([]byte(told(t, m, s, "/readyz")), &ready); err != nil {
		t.Fatal(err)
	}
	if len(ready.Tenants) != mostListed+51 || ready.NotListed != mostListed-51 {
		t.Errorf("%d listed, %d not", len(ready.Tenants), ready.NotListed)
	}
	for _, tenant := range ready.Tenants {
		if len(tenant.Holds) == 0 {
			t.Errorf("%s is listed", tenant.Tenant)
		}
	}
}

// BenchmarkManyTenants is a scrape, the status page and /readyz.
func BenchmarkManyTenants(b *testing.B) {
	for _, n := range []int{2000, 5000} {
		for _, worked := range []bool{false, true} {
			m, s := many(n, worked)
			for _, path := range []string{"/metrics", "/", "/readyz"} {
				b.Run(fmt.Sprintf("tenants=%d/worked=%t/path=%s", n, worked, path), func(b *testing.B) {
					size := 0
					for b.Loop() {
						size = len(told(b, m, s, path))
					}
					b.ReportMetric(float64(size), "bytes")
				})
			}
		}
	}
}
