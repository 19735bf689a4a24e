package graphsim

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Status is a summary, also served at /_sim/status.
type Status struct {
	Calls        int      `json:"calls"` // of Graph
	Posts        int      `json:"posts"`
	Gets         int      `json:"gets"`
	Executed     int      `json:"executed"`     // resets
	Devices      int      `json:"devices"`      // reset at least once
	ResetTwice   []string `json:"resetTwice"`   // devices reset more than once
	Throttled    int      `json:"throttled"`    // 429s
	DuringRetry  int      `json:"duringRetry"`  // calls inside an announced Retry-After
	TokenCalls   int      `json:"tokenCalls"`   // of the token endpoint
	TokensIssued int      `json:"tokensIssued"` // since the start or Forget
	Outage       string   `json:"outage"`       // of the whole system
	// ViolationCount counts all; Violations holds the first in words.
	ViolationCount int      `json:"violationCount"`
	Violations     []string `json:"violations"`
}

// Status sums up what came in since the start or [Sim.Forget].
func (s *Sim) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.log
	out := Status{
		Calls: l.posts + l.gets, Posts: l.posts, Gets: l.gets, Executed: l.executed,
		ResetTwice: []string{}, Throttled: l.throttled, DuringRetry: l.early,
		TokenCalls: len(l.tokenCalls), TokensIssued: l.issued, Outage: s.outage.String(),
		ViolationCount: l.violationCount, Violations: append([]string{}, l.violations...),
	}
	for g, d := range s.devices {
		if len(d.actions) > 0 {
			out.Devices++
		}
		if len(d.actions) > 1 {
			out.ResetTwice = append(out.ResetTwice, g.String())
		}
	}
	slices.Sort(out.ResetTwice)
	return out
}

// Resets is how many resets of a device were executed.
func (s *Sim) Resets(deviceID string) int {
	g, ok := parseGUID(deviceID)
	if !ok {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.devices[g]; d != nil {
		return len(d.actions)
	}
	return 0
}

// Ledger is how many resets were executed, per device in lower case.
func (s *Sim) Ledger() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]int, len(s.devices))
	for g, d := range s.devices {
		if len(d.actions) > 0 {
			out[g.String()] = len(d.actions)
		}
	}
	return out
}

// Secrets is every secret that the simulator accepts, issued, was sent or
// generated: the client secret, the federated token, accepted assertions,
// access tokens and passcodes, and what else a device may hold that nobody may
// see: a PIN, a place, a name. Of these, and of passcodes that no POST has
// generated, it is the beginning, which is the same for all devices. A test looks
// for them where none may be.
func (s *Sim) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []string{s.cfg.ClientSecret}
	if s.cfg.FederatedToken != "" {
		out = append(out, s.cfg.FederatedToken)
	}
	out = append(append(out, s.secrets...), s.canaries()...)
	for n := range s.passcodes {
		out = append(out, s.passcode(n+1))
	}
	return out
}

// serveAdmin is the page for hand use. Its calls are not logged.
func (s *Sim) serveAdmin(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, why string) {
		http.Error(w, why, status)
	}
	q := r.URL.Query()
	switch r.Method + " " + r.URL.Path {
	case "GET /_sim/status":
	case "POST /_sim/revoke":
		s.revoke(q.Get("challenge") == "1")
	case "POST /_sim/outage":
		o, err := ParseOutage(q.Get("kind"))
		if err != nil {
			refuse(http.StatusBadRequest, err.Error())
			return
		}
		var d time.Duration
		if text := q.Get("for"); text != "" {
			if d, err = time.ParseDuration(text); err != nil || d <= 0 {
				refuse(http.StatusBadRequest, "for is not a duration such as 20s")
				return
			}
		}
		if problem := s.outageByHand(o, d, strings.ToLower(q.Get("tenant"))); problem != "" {
			refuse(http.StatusBadRequest, problem)
			return
		}
	default:
		refuse(http.StatusNotFound, "GET /_sim/status, POST /_sim/outage?kind=…&for=20s, POST /_sim/revoke")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(marshal(s.Status()), '\n')) // a client that has gone does not read it
}

// refuseAfter lets the answer reach the client that asked for a refusal.
const refuseAfter = 50 * time.Millisecond

// outageByHand is SetOutage for a while; d of 0 is until further notice.
func (s *Sim) outageByHand(o Outage, d time.Duration, tenantID string) (problem string) {
	if tenantID != "" {
		s.mu.Lock()
		_, ok := s.tenants[tenantID]
		s.mu.Unlock()
		if !ok {
			return "the tenant is not known here"
		}
		s.SetTenantOutage(tenantID, o)
		if d > 0 {
			s.later(d, func() { s.SetTenantOutage(tenantID, OutageNone) })
		}
		return ""
	}
	if o == OutageRefuse {
		if d == 0 {
			return "kind refuse needs for=…, because nothing can be told to a closed port"
		}
		s.later(refuseAfter, func() {
			turn := s.setOutage(o)
			s.later(d, func() { s.endOutage(turn) })
		})
		return ""
	}
	turn := s.setOutage(o)
	if d > 0 {
		s.later(d, func() { s.endOutage(turn) })
	}
	return ""
}
