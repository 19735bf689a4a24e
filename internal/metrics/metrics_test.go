package metrics

import (
	"fmt"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/verdict"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestGraphRequest(t *testing.T) {
	m := newTest()
	for _, status := range []int{-1, 0, 42, 99, 600, 1000} {
		m.GraphRequest("POST", status, 0)
	}
	for _, status := range []int{100, 204, 418, 418, 599} {
		m.GraphRequest("GET", status, 2*time.Second)
	}
	m.GraphRequest("GET", 204, -time.Second)
	wantLines(t, m,
		`graph_requests_total{code="none",method="POST"} 6`,
		`graph_requests_total{code="none",method="GET"} 0`,
		`graph_requests_total{code="100",method="GET"} 1`,
		`graph_requests_total{code="204",method="GET"} 2`,
		`graph_requests_total{code="418",method="GET"} 2`,
		`graph_requests_total{code="599",method="GET"} 1`,
		`graph_request_duration_seconds_count{method="POST"} 6`,
		`graph_request_duration_seconds_sum{method="GET"} 10`,
	)
	if have := exposition(t, m); strings.Contains(have, `code="418",method="POST"`) {
		t.Error("a code seen on GET appeared on POST")
	}
}

func TestTenant(t *testing.T) {
	m := newTest()
	a := m.Tenant("a")
	if m.Tenant("a") != a {
		t.Error("Tenant made a second one")
	}
	m.SetConnected(true)
	m.Reconnected()
	a.Request(OutcomeAccepted, 90*time.Second)
	a.Request(OutcomeDead, -time.Minute) // clocks differ
	a.Request(OutcomeDuplicate, time.Hour)
	a.DeadLetter(verdict.ReasonCooldown)
	a.Attempt(verdict.ResultThrottled)
	a.Verification(verdict.VerificationExecuted)
	a.TokenRequest(TokenUnavailable)
	a.SetRate(2.5, 10)
	a.SetPausedUntil(time.UnixMilli(1_500_000_000_250))
	a.AddPause(1500 * time.Millisecond)
	a.AddPause(-time.Second)
	a.SetHold(hold.Fuse, true)
	a.InFlight(3)
	a.InFlight(-1)
	a.SetWaitingRetry(7)
	a.SetQueue(Queue{Messages: 1, AckPending: 2, Redelivered: 3, Oldest: 4 * time.Second, Drain: 5 * time.Second})
	a.SetActive(true)
	wantLines(t, m,
		`nats_connected 1`,
		`nats_reconnects_total 1`,
		`requests_total{outcome="accepted",tenant="a"} 1`,
		`requests_total{outcome="duplicate",tenant="a"} 1`,
		`requests_total{outcome="dead",tenant="a"} 1`,
		`request_duration_seconds_sum{outcome="accepted",tenant="a"} 90`,
		`request_duration_seconds_sum{outcome="dead",tenant="a"} 0`,
		`request_duration_seconds_count{outcome="dead",tenant="a"} 1`,
		`dead_letters_total{reason="cooldown",tenant="a"} 1`,
		`attempts_total{result="throttled",tenant="a"} 1`,
		`verifications_total{result="executed",tenant="a"} 1`,
		`token_requests_total{result="unavailable",tenant="a"} 1`,
		`rate_limit{tenant="a"} 2.5`,
		`rate_limit_configured{tenant="a"} 10`,
		`paused_until_timestamp_seconds{tenant="a"} 1.50000000025e+09`,
		`pause_seconds_total{tenant="a"} 1.5`,
		`hold{cause="fuse",tenant="a"} 1`,
		`hold{cause="paused",tenant="a"} 0`,
		`in_flight{tenant="a"} 2`,
		`waiting_retry{tenant="a"} 7`,
		`queue_messages{tenant="a"} 1`,
		`queue_ack_pending{tenant="a"} 2`,
		`queue_redelivered{tenant="a"} 3`,
		`queue_oldest_seconds{tenant="a"} 4`,
		`queue_drain_seconds{tenant="a"} 5`,
		`active{tenant="a"} 1`,
	)
	if have := exposition(t, m); strings.Contains(have, `request_duration_seconds_count{outcome="duplicate"`) {
		t.Error("duplicates have a duration")
	}

	m.SetConnected(false)
	a.SetPausedUntil(time.Time{})
	a.SetHold(hold.Fuse, false)
	a.SetActive(false)
	a.SetQueue(Queue{Oldest: -time.Second, Drain: -1})
	wantLines(t, m,
		`nats_connected 0`,
		`paused_until_timestamp_seconds{tenant="a"} 0`,
		`hold{cause="fuse",tenant="a"} 0`,
		`active{tenant="a"} 0`,
		`queue_messages{tenant="a"} 0`,
		`queue_oldest_seconds{tenant="a"} 0`,
		`queue_drain_seconds{tenant="a"} +Inf`,
	)
}

func TestRemove(t *testing.T) {
	m := newTest()
	before := exposition(t, m)
	old := m.Tenant("a")
	old.DeadLetter(verdict.ReasonExpired)
	m.Tenant("b")
	m.Remove("a")
	m.Remove("never seen")
	old.DeadLetter(verdict.ReasonExpired) // harmless
	have := exposition(t, m)
	if strings.Contains(have, `tenant="a"`) {
		t.Error("series of a removed tenant remain")
	}
	if !strings.Contains(have, `tenant="b"`) {
		t.Error("another tenant's series went too")
	}
	m.Remove("b")
	if exposition(t, m) != before {
		t.Error("a tenant left a trace")
	}
	if m.Tenant("a") == old {
		t.Error("a removed tenant came back with its old series")
	}
	wantLines(t, m, `dead_letters_total{reason="expired",tenant="a"} 0`)
}

func TestUnknownLabelValuePanics(t *testing.T) {
	m := newTest()
	a := m.Tenant("a")
	before := exposition(t, m)
	for name, call := range map[string]func(){
		"outcome":                  func() { a.Request("x", 0) },
		"reason":                   func() { a.DeadLetter("x") },
		"result of an attempt":     func() { a.Attempt("x") },
		"result of a verification": func() { a.Verification("x") },
		"result of a token":        func() { a.TokenRequest("x") },
		"cause of a hold":          func() { a.SetHold("x", true) },
		"method":                   func() { m.GraphRequest("x", 204, 0) },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, name) || !strings.Contains(got, `"x"`) {
					t.Errorf("%s: panic %s", name, got)
				}
			}()
			call()
		}()
	}
	if exposition(t, m) != before {
		t.Error("a refused call changed a series")
	}
}

func TestConcurrent(t *testing.T) {
	m := newTest()
	const goroutines, rounds = 8, 100
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			for n := range rounds {
				a := m.Tenant("a")
				a.Request(OutcomeAccepted, time.Second)
				a.InFlight(1)
				a.SetQueue(Queue{Messages: n})
				a.SetHold(hold.Paused, n%2 == 0)
				a.InFlight(-1)
				m.GraphRequest("POST", 100+n, time.Second)
				m.Tenant("b").AddPause(time.Second)
				if i == 0 {
					m.Remove("b")
				}
				if n%50 == 0 {
					exposition(t, m)
				}
			}
		})
	}
	wg.Wait()
	wantLines(t, m,
		`requests_total{outcome="accepted",tenant="a"} 800`,
		`in_flight{tenant="a"} 0`,
		`graph_requests_total{code="199",method="POST"} 8`,
	)
}
