package graphsim

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Call is one Graph call, in order of arrival.
type Call struct {
	Time   time.Time // of arrival, by our clock
	Method string
	Path   string // as sent, without the query
	Tenant string
	Device string // lower case; empty if the path names none
	// Status of the answer that was written; 0 if none was. Whether it reached
	// the client is not known here.
	Status          int
	Executed        bool
	ClientRequestID string
	RequestID       string // Graph's request-id
	Protocol        string // HTTP/2.0 or HTTP/1.1
	Remote          string // the client's address; differs per connection
	// SentDuringRetryAfter tells that the call came while a Retry-After that
	// its tenant was told with a 429 or 503 had not passed: to a POST, or where
	// this is a GET, to either; calls within 50 ms of the announcement may have
	// been under way and do not count.
	SentDuringRetryAfter bool
}

// TokenCall is one call of the token endpoint.
type TokenCall struct {
	Time       time.Time
	Tenant     string // as in the path
	Status     int    // 0: never answered
	GrantType  string
	ClientID   string
	Credential string // "secret", "assertion", "federated" or "none"
	Scope      string
	Claims     string // the claims parameter
	Error      string // the AADSTS code of a refusal
	Protocol   string
	// SentDuringRetryAfter is as in [Call], for the token endpoint's own 503.
	SentDuringRetryAfter bool
}

// callLog is what came in. Guarded by Sim.mu.
type callLog struct {
	calls      []Call
	tokenCalls []TokenCall
	violations []string // the first of them
	generation int      // counts Forget

	posts, gets, executed, throttled, early int
	issued, violationCount                  int
}

// maxViolations is how many are kept in words.
const maxViolations = 1000

func (l *callLog) violate(what string) {
	l.violationCount++
	if len(l.violations) < maxViolations {
		l.violations = append(l.violations, what)
	}
}

// slot finds a logged call again, unless the log was cleared since.
type slot struct{ generation, index int }

// record logs a call. Call with mu held.
func (s *Sim) record(r *http.Request, x examined, rt route, a reply, tn *tenant, now time.Time, early bool, requestID string) slot {
	l := &s.log
	if r.Method == http.MethodGet {
		l.gets++
	} else {
		l.posts++
	}
	if a.status == http.StatusTooManyRequests {
		l.throttled++
	}
	if early {
		l.early++
	}
	if s.cfg.NoCallLog {
		return slot{index: -1}
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	name := ""
	if rt.named {
		name = rt.device.String()
	}
	l.calls = append(l.calls, Call{
		Time: now, Method: r.Method, Path: path, Tenant: tn.id, Device: name,
		Status: a.status, Executed: a.execute, ClientRequestID: x.id, RequestID: requestID,
		Protocol: r.Proto, Remote: r.RemoteAddr, SentDuringRetryAfter: early,
	})
	return slot{l.generation, len(l.calls) - 1}
}

// unanswered corrects a logged call whose client did not wait.
func (s *Sim) unanswered(at slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.index >= 0 && at.generation == s.log.generation {
		s.log.calls[at.index].Status = 0
	}
}

// examined is what a Graph request shows before its tenant is known.
type examined struct {
	auth  string // the Authorization header
	id    string // the client-request-id
	key   guid   // the same, if it is a GUID
	keyed bool
	bad   []string // violations
}

// examine reads a request as a correct client's. It reads the body.
func examine(r *http.Request, rt route) examined {
	h := r.Header
	var x examined
	if rt.problem != "" {
		x.bad = append(x.bad, rt.problem)
	}
	switch ids := h["Client-Request-Id"]; len(ids) {
	case 0:
		x.bad = append(x.bad, "client-request-id: missing")
	case 1:
		x.id = ids[0]
		if x.key, x.keyed = parseGUID(x.id); !x.keyed {
			x.bad = append(x.bad, "client-request-id: not a GUID")
		}
	default:
		x.id = ids[0]
		x.bad = append(x.bad, "client-request-id: more than one")
	}
	if a := h["Authorization"]; len(a) == 1 && strings.HasPrefix(a[0], "Bearer ") {
		x.auth = a[0]
	} else {
		x.bad = append(x.bad, "authorization: no single bearer token")
	}
	if ua := h["User-Agent"]; len(ua) == 0 || ua[0] == "" || strings.HasPrefix(ua[0], "Go-http-client") {
		x.bad = append(x.bad, "user-agent: missing, or that of Go's default client")
	}
	if a := h["Accept"]; len(a) == 0 || !strings.Contains(a[0], "application/json") {
		x.bad = append(x.bad, "accept: not application/json")
	}
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key", "Retry-Attempt"} {
		if len(h[name]) > 0 {
			x.bad = append(x.bad, strings.ToLower(name)+": sent")
		}
	}
	if r.ContentLength != 0 {
		// A body of unknown length may turn out to be none.
		if n, _ := io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20)); n > 0 {
			x.bad = append(x.bad, "body: sent with "+r.Method)
		}
	}
	return x
}

// examineIDs notes the violations of a call. Call with mu held.
func (s *Sim) examineIDs(r *http.Request, x examined, tn *tenant, now time.Time) {
	if x.keyed {
		if _, again := s.seen[x.key]; again {
			x.bad = append(x.bad, "client-request-id: the same on two calls")
		}
		s.seen[x.key] = struct{}{}
	}
	for _, what := range x.bad {
		s.log.violate(what + " (" + r.Method + " " + r.URL.Path + ", client-request-id " + x.id + ")")
	}
}

// Calls is each Graph call in order of arrival; none with [Config.NoCallLog].
func (s *Sim) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log.calls)
}

// TokenCalls is each call of the token endpoint in the order of the answers.
func (s *Sim) TokenCalls() []TokenCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log.tokenCalls)
}

// Violations is what came in that a correct client never sends, each as
// "kind: what (where)"; at most the first 1000. The kinds are path, method,
// body, client-request-id, authorization, user-agent, accept, idempotency-key,
// x-idempotency-key, retry-attempt and quota.
func (s *Sim) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log.violations)
}
