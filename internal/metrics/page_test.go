package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/verdict"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// get fetches the page at / of a worker in a state.
func get(t *testing.T, m *Metrics, s State, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(m, func() State { return s }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%s: status %d: %s", target, w.Code, w.Body)
	}
	return w
}

var tags = regexp.MustCompile(`(?s)<(style|script|noscript)>.*?</(style|script|noscript)>|<[^>]*>`)

// words is the page's text without its markup.
func words(html string) string {
	return strings.Join(strings.Fields(tags.ReplaceAllString(html, " ")), " ")
}

func wantWords(t *testing.T, html string, want ...string) {
	t.Helper()
	have := words(html)
	for _, w := range want {
		if !strings.Contains(have, w) {
			t.Errorf("not on the page: %q\n%s", w, have)
		}
	}
}

func up(tenants ...TenantState) State {
	return State{NATS: NATSState{Connected: true, Server: "127.0.0.1:4222"}, Tenants: tenants}
}

func working(name string) TenantState { return TenantState{Tenant: name, Active: true, Bound: true} }

func held(name string, causes ...hold.Cause) TenantState {
	t := working(name)
	for _, c := range causes {
		t.Holds = append(t.Holds, Hold{Cause: c})
	}
	return t
}

func TestHeadline(t *testing.T) {
	at := time.Now()
	later := at.Add(time.Minute)
	pausing, standby, unbound, over := working("p"), working("s"), working("u"), working("o")
	pausing.PausedUntil, over.PausedUntil = &later, &at
	standby.Active, standby.ActiveElsewhere, unbound.Bound, unbound.Error = false, true, false, "stream not found"
	fresh := working("f") // no request has come yet
	fresh.Active = false
	was := standby // it was told to pause while it worked
	was.PausedUntil = &later

	for _, c := range []struct {
		name  string
		state State
		tone  tone
		want  string
	}{
		{"NATS away", State{Tenants: []TenantState{working("a")}}, toneBad, "NATS is away"},
		{"no tenant", up(), toneBad, "No tenant is served"},
		{"working", up(working("a")), toneGood, "Working"},
		{"a pause that is over", up(over), toneGood, "Working"},
		{"pausing", up(pausing), toneWarn, "Working, but Graph asked for a pause"},
		{"standby", up(standby), toneCalm, "Standing by"},
		{"unbound", up(unbound), toneBad, "The queue was not found"},
		{"credentials", up(held("a", hold.Credentials)), toneBad, "Held because the credentials are not accepted, or no token is available"},
		{"permission", up(held("a", hold.Permission)), toneBad, "Held because Graph refuses everything: a permission is missing"},
		{"refused", up(held("a", hold.Refused)), toneBad, "Held because Graph refuses everything: no Intune licence, or a wrong address"},
		{"outage", up(held("a", hold.GraphUnavailable)), toneBad, "Held because Graph is down or cannot be reached"},
		{"fuse", up(held("a", hold.Fuse)), toneBad, "Held because the fuse has blown: too many devices"},
		{"operator", up(held("a", hold.Paused)), toneWarn, "Paused by an operator"},
		{"operator and fault", up(held("a", hold.Paused, hold.Credentials)), toneBad, "Held because the credentials are not accepted, or no token is available"},
		{"many working", up(working("a"), working("b")), toneGood, "Working"},
		{"working and standby", up(working("a"), standby), toneGood, "Working"},
		{"working and paused", up(working("a"), held("b", hold.Paused)), toneGood, "Working"},
		{"one of many pausing", up(working("a"), pausing), toneGood, "Working"},
		{"all standing by", up(standby, standby), toneCalm, "Standing by"},
		{"standby that was pausing", up(was), toneCalm, "Standing by"},
		{"fresh", up(fresh), toneCalm, "Ready"},
		{"all fresh", up(fresh, fresh), toneCalm, "Ready"},
		{"none works here", up(standby, held("b", hold.Paused), fresh), toneCalm, "Standing by"},
		{"held, and none works here", up(standby, held("b", hold.Fuse)), toneWarn, "1 of 2 tenants held"},
		{"one of many held", up(working("a"), held("b", hold.Fuse), unbound), toneWarn, "Working, but 2 of 3 tenants held"},
		{"all held", up(held("a", hold.Fuse), unbound), toneBad, "Held: every tenant"},
	} {
		gotTone, got, _ := overall(c.state, at)
		if got != c.want || gotTone != c.tone {
			t.Errorf("%s: %s %q, want %s %q", c.name, gotTone, got, c.tone, c.want)
		}
		if bad := gotTone == toneBad; bad == Ready(c.state) {
			t.Errorf("%s: the page looks %s, but ready is %t", c.name, gotTone, !bad)
		}
	}
	_, _, why := overall(up(standby, held("b", hold.Paused), fresh), at)
	if want := "Tenants: 1 with another replica, 1 without a request so far, 1 paused by an operator."; why != want {
		t.Errorf("%q, want %q", why, want)
	}
}

func TestPageOfOneTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTest()
		a := m.Tenant("acme")
		a.SetRate(5, 10)
		a.SetQueue(Queue{Messages: 12_345, AckPending: 40, Oldest: 90 * time.Second, Drain: 26 * time.Hour})
		a.InFlight(3)
		a.SetWaitingRetry(42)
		for range 120 {
			a.Attempt(verdict.ResultAccepted)
			a.Request(OutcomeAccepted, time.Second)
		}
		for range 60 {
			a.Attempt(verdict.ResultThrottled)
		}
		a.Request(OutcomeDead, time.Second)
		a.Verdict(Verdict{ID: "INC7", Device: "d-1", Outcome: "accepted", State: "accepted", Attempt: 2, Status: 204})
		a.Verdict(Verdict{ID: "INC8", Device: "d-2", Outcome: "dead letter", State: "dead", Reason: "not_found", Detail: "refused: HTTP 404", Attempt: 1, Status: 404})
		time.Sleep(15 * time.Second) // fake time

		s := up(held("acme", hold.GraphUnavailable))
		s.NATS.Since = time.Now().Add(-time.Hour)
		s.Tenants[0].Holds[0] = Hold{Cause: hold.GraphUnavailable, Since: time.Now().Add(-5 * time.Minute),
			Detail: "no answer", NextProbe: time.Now().Add(8 * time.Second)}
		html := get(t, m, s, "/").Body.String()
		wantWords(t, html,
			"Held because Graph is down or cannot be reached",
			"(5 min), next probe in 8 s no answer",
			"NATS connected to 127.0.0.1:4222 for 1 h",
			"Tenant acme held: graph_unavailable",
			"in the queue 12,345", "waiting for their turn 12,300", "in flight 3", "waiting for a retry 42",
			"oldest 1 min 30 s", "empty in (estimate) 1 d 2 h",
			"calls per second; 5.0 allowed now 9.0 of 10.0",
			"120 accepted", "1 dead letters", "60 answered 429",
			"15 s ago INC7 d-1 accepted 2 204",
			"15 s ago INC8 d-2 dead letter not_found refused: HTTP 404 1 404",
			"passcode-worker v1.2.3",
		)
		if n := strings.Count(html, "INC8"); n != 2 {
			t.Errorf("the dead letter is there %d times; want it among the verdicts and the dead letters", n)
		}
		if strings.Contains(html, "<form") {
			t.Error("there is nothing to search for, but a form")
		}

		time.Sleep(time.Hour) // fake time
		wantWords(t, get(t, m, up(working("acme")), "/").Body.String(),
			"0 accepted", "0 dead letters", "0.0 of 10.0", "1 h ago INC7")
	})
}

func TestPageOfFollowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTest()
		a, b := m.Tenant("a"), m.Tenant("b")
		s := up(working("a"), working("b"))
		if html := get(t, m, s, "/").Body.String(); strings.Contains(html, "Followed") || strings.Contains(html, "On the devices") {
			t.Error("nothing is followed, but the page says something of it")
		}
		m.SetFollow(FollowDepth{})
		wantWords(t, get(t, m, s, "/").Body.String(), "Followed to the device: none open")
		for range 1200 {
			a.DeviceOutcome(outcome.Done)
		}
		a.DeviceOutcome(outcome.Failed)
		b.DeviceOutcome(outcome.Removed)
		b.DeviceOutcome(outcome.TimedOut)
		m.SetFollow(FollowDepth{Open: 1234, Oldest: 2 * time.Hour, Lag: 20 * time.Second})
		wantWords(t, get(t, m, s, "/").Body.String(),
			"Followed to the device: 1,234 open, oldest 2 h", "On the devices: 1,200 done, 1 failed, 2 with another outcome")
		wantWords(t, get(t, m, s, "/?tenant=b").Body.String(), "1,234 open", "On the devices: 0 done, 0 failed, 2 with another outcome")
		m.SetFollow(FollowDepth{Open: 1, Oldest: -time.Second, Lag: 6 * time.Minute})
		wantWords(t, get(t, m, s, "/").Body.String(), "Followed to the device: 1 open, looks 6 min late")

		time.Sleep(20 * time.Minute) // fake time
		html := get(t, m, s, "/").Body.String()
		wantWords(t, html, "Followed to the device: not known for the last 20 min")
		if strings.Contains(html, "On the devices") {
			t.Error("the outcomes are older than the chart")
		}
	})
}

func TestPageBeforeAnythingIsKnown(t *testing.T) {
	wantWords(t, get(t, newTest(), up(working("a")), "/").Body.String(),
		"Tenant a working", "in the queue ?", "None yet by this worker.")
	wantWords(t, get(t, newTest(), State{}, "/").Body.String(), "NATS is away", "NATS away")
}

// manyTenants makes n tenants; the 100th is held and the 300th unbound.
func manyTenants(n int) (*Metrics, State) {
	m := newTest()
	s := up()
	for i := range n {
		name := fmt.Sprintf("tenant-%03d", i)
		t := m.Tenant(name)
		t.SetQueue(Queue{Messages: i, Oldest: time.Duration(i) * time.Second})
		t.Request(OutcomeAccepted, time.Second)
		for k := range 2 * keptVerdicts {
			t.Verdict(Verdict{ID: fmt.Sprintf("INC%d-%d", i, k), Outcome: "dead letter", State: "dead", Reason: "rejected"})
		}
		s.Tenants = append(s.Tenants, working(name))
	}
	s.Tenants[100] = held("tenant-100", hold.Credentials)
	s.Tenants[300].Bound, s.Tenants[300].Error = false, "consumer is gone"
	return m, s
}

func TestPageOfManyTenants(t *testing.T) {
	m, s := manyTenants(500)
	html := get(t, m, s, "/").Body.String()
	wantWords(t, html, "Working, but 2 of 500 tenants held", "500 tenants", "in the queue 124,750", "500 accepted",
		"and 450 more: search by part of the name.", "consumer is gone")
	var order []string
	for _, found := range regexp.MustCompile(`\?tenant=(tenant-\d+)"`).FindAllStringSubmatch(html, -1) {
		order = append(order, found[1])
	}
	if len(order) != mostRows || order[0] != "tenant-300" || order[1] != "tenant-100" || order[2] != "tenant-499" {
		t.Errorf("%d rows: %q", len(order), order)
	}
	if n := strings.Count(html, "INC"); n != mostLines+mostDead {
		t.Errorf("%d verdicts", n)
	}
	if len(html) > 100<<10 {
		t.Errorf("the page has %d bytes", len(html))
	}

	one := get(t, m, s, "/?tenant=tenant-100").Body.String()
	wantWords(t, one, "Working, but 2 of 500 tenants held", "Tenant tenant-100 held: credentials", "in the queue 100", "1 accepted",
		"the credentials are not accepted", "INC100-29")
	if strings.Contains(one, "INC99-") || strings.Contains(one, "tenant-300") {
		t.Error("the filter let another tenant through")
	}
	some := get(t, m, s, "/?tenant=ANT-49").Body.String()
	wantWords(t, some, "10 of 500 tenants have “ ANT-49 ” in their name", "in the queue 4,945", "tenant-495")
	none := get(t, m, s, "/?tenant=nobody").Body.String()
	wantWords(t, none, "0 of 500 tenants have “ nobody ” in their name", "None yet")
	get(t, m, s, "/?tenant="+strings.Repeat("x", 10_000))
}

func TestRemovedTenantLeavesThePage(t *testing.T) {
	m := newTest()
	old := m.Tenant("a")
	old.Verdict(Verdict{ID: "INC1", Outcome: "accepted", State: "accepted"})
	m.Remove("a")
	old.Verdict(Verdict{ID: "INC2", Outcome: "accepted", State: "accepted"}) // harmless
	m.Tenant("a").Verdict(Verdict{ID: "INC3", Outcome: "accepted", State: "accepted"})
	html := get(t, m, up(working("a")), "/").Body.String()
	if strings.Contains(html, "INC1") || strings.Contains(html, "INC2") || !strings.Contains(html, "INC3") {
		t.Errorf("the new tenant has the old one's verdicts:\n%s", words(html))
	}
}

func TestBoardIsBounded(t *testing.T) {
	m := newTest()
	a := m.Tenant("a")
	long := strings.Repeat("ä", 5000)
	for i := range 1000 {
		a.Verdict(Verdict{ID: fmt.Sprint(i) + long, Device: long, Outcome: long, Reason: long, Detail: long, State: "dead"})
	}
	g := a.board.glance(time.Now())
	if len(g.verdicts) != keptVerdicts || len(g.dead) != keptDead {
		t.Errorf("%d verdicts, %d dead letters are kept", len(g.verdicts), len(g.dead))
	}
	for i, v := range g.verdicts {
		if !strings.HasPrefix(v.ID, fmt.Sprint(999-i)+"ä") {
			t.Errorf("verdict %d is %.8q", i, v.ID)
		}
		for _, s := range []string{v.ID, v.Device, v.Outcome, v.Reason, v.Detail} {
			if len(s) > maxShownText+len("…") || strings.ContainsRune(s, '\uFFFD') {
				t.Errorf("a text of %d bytes", len(s))
			}
		}
	}
}

func TestSlotsFollowTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTest().Tenant("a")
		for i := range 3 * slots {
			for range i + 1 {
				a.Request(OutcomeAccepted, 0)
			}
			time.Sleep(slotTime) // fake time
		}
		g := a.board.glance(time.Now())
		if now := g.slots[slots-1]; now.accepted != 0 {
			t.Errorf("the slot under way has %d", now.accepted)
		}
		for i := range slots - 1 {
			if got, want := int(g.slots[i].accepted), 2*slots+i+2; got != want {
				t.Errorf("slot %d has %d, want %d", i, got, want)
			}
		}
		time.Sleep(slots * slotTime) // fake time
		if c := newChart(a.board.glance(time.Now()).slots); c.Accepted != "" || c.AcceptedN != "0" {
			t.Errorf("what is older than the chart is still in it: %+v", c)
		}
	})
}

func TestChart(t *testing.T) {
	var s [slots]slot
	s[0] = slot{accepted: 1000}
	s[1] = slot{accepted: 1, dead: 3, throttled: 1}
	s[slots-1] = slot{throttled: 4}
	c := newChart(s)
	for name, got := range map[string]string{
		"M0 4h8v96h-8zM10 96h8v4h-8z":       c.Accepted, // full height, and the least that can be seen
		"M10 100h8v30h-8z":                  c.Dead,
		"M10 130h8v10h-8zM890 100h8v40h-8z": c.Throttled,
		"1,001":                             c.AcceptedN,
		"3":                                 c.DeadN,
		"5":                                 c.ThrottledN,
		"1,000":                             c.Peak,
	} {
		if got != name {
			t.Errorf("got %s, want %s", got, name)
		}
	}
}

func TestSpell(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0 s", 0: "0 s", 900 * time.Millisecond: "0 s", 59*time.Second + 999*time.Millisecond: "59 s", time.Minute: "1 min",
		61 * time.Second: "1 min 1 s", time.Hour + 59*time.Second: "1 h", 90 * time.Minute: "1 h 30 min", 1234*24*time.Hour + 5*time.Hour: "1,234 d 5 h",
	} {
		if got := spell(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", -999: "-999", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestPageHeaders(t *testing.T) {
	w := get(t, newTest(), up(working("a")), "/")
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Content-Length": fmt.Sprint(w.Body.Len()),
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	policy := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'", "connect-src 'self'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("not in the policy: %s\n%s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is weak: %s", policy)
	}
	for _, element := range []string{"style", "script"} {
		found := regexp.MustCompile(`(?s)<`+element+`>(.*?)</`+element+`>`).FindAllStringSubmatch(w.Body.String(), -1)
		if len(found) != 1 || !strings.Contains(policy, element+"-src "+hashOf(found[0][1])+";") {
			t.Errorf("%d elements %s, or not the one that the policy allows", len(found), element)
		}
	}
	if outside := regexp.MustCompile(`(src|href|url)\s*[=(]\s*["']?(https?:)?//`).FindString(w.Body.String()); outside != "" {
		t.Errorf("something from elsewhere: %s", outside)
	}
}

func BenchmarkPage500(b *testing.B) {
	m, s := manyTenants(500)
	benchmark(b, Handler(m, func() State { return s }), "/")
}

func BenchmarkScrape500(b *testing.B) {
	m, s := manyTenants(500)
	for _, t := range m.tenants {
		for i := range 200 {
			t.Request(OutcomeAccepted, time.Duration(i*i)*time.Millisecond)
			t.Request(OutcomeDead, time.Duration(i*i)*time.Second)
		}
	}
	benchmark(b, Handler(m, func() State { return s }), "/metrics")
}

func benchmark(b *testing.B, h http.Handler, path string) {
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		size = w.Body.Len()
	}
	b.ReportMetric(float64(size), "bytes/page")
}

func BenchmarkVerdict(b *testing.B) {
	a := newTest().Tenant("a")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a.Attempt(verdict.ResultAccepted)
			a.Request(OutcomeAccepted, time.Second)
			a.Verdict(Verdict{ID: "INC1", Outcome: "accepted", State: "accepted"})
		}
	})
}
