package graphsim

import (
	"net/http"
	"time"
)

// ending is how a call ends.
type ending int

const (
	endAnswer ending = iota
	endCut
	endSilence
)

// reply is what one Graph call gets. The zero value is no reply.
type reply struct {
	status     int // 0 if it never gets one
	ending     ending
	streamOnly bool // a cut of the HTTP/2 stream, not of the connection
	execute    bool // do the reset, whatever is answered
	redirect   bool // with a Location
	delay      time.Duration
	retry      retryAfter
	auth       authHeader
	form       bodyForm
	code       string // of the error; empty: the usual one of the status
	message    string // of the error; empty: the usual one of the status
	nested     bool   // Intune's JSON document inside the message
	look       *look  // of a device that is found
}

// refusal is a reply that says why.
func refusal(status int, code, message string) reply {
	return reply{status: status, code: code, message: message}
}

func (s *Sim) serveGraph(w http.ResponseWriter, r *http.Request) {
	rt := parseRoute(r)
	x := examine(r, rt)

	s.mu.Lock()
	now := time.Now()
	tk := s.tokens[x.auth]
	tn := s.first
	if tk != nil {
		tn = tk.tenant
	}
	early := tn.early(r.Method, now)
	a := s.settle(rt, tk, tn, now)
	if a.execute {
		s.execute(rt.device, now)
	}
	s.requests++
	m := meta{request: s.requestID(s.requests), client: x.id, device: rt.device}
	m.date = s.date.at(now.Add(s.cfg.ClockOffset))
	s.examineIDs(r, x, tn, now)
	slot := s.record(r, x, rt, a, tn, now, early, m.request)
	s.mu.Unlock()

	switch a.ending {
	case endCut:
		s.hangUp(r, a.streamOnly)
	case endSilence:
		s.silence(r)
	}
	if wait := a.delay + s.cfg.Latency; wait > 0 {
		if s.wait(r, wait) != nil {
			s.unanswered(slot)
			panic(http.ErrAbortHandler)
		}
		s.mu.Lock()
		now = time.Now()
		m.date = s.date.at(now.Add(s.cfg.ClockOffset))
		s.mu.Unlock()
	}
	if a.retry.style != None {
		s.mu.Lock()
		now = time.Now()
		text, wait := a.retry.header(now.Add(s.cfg.ClockOffset))
		tn.announce(r.Method, now, wait)
		s.mu.Unlock()
		w.Header()["Retry-After"] = []string{text}
	}
	s.answer(w, r, rt, a, m, now.Add(s.cfg.ClockOffset))
}

// settle decides what becomes of a call. Call with mu held.
func (s *Sim) settle(rt route, tk *token, tn *tenant, now time.Time) reply {
	outage := s.outageOf(tn)
	switch outage {
	case OutageRefuse:
		return reply{ending: endCut}
	case OutageSilence:
		return reply{ending: endSilence}
	case Outage500:
		return reply{status: http.StatusInternalServerError, nested: true}
	case Outage503:
		return reply{status: http.StatusServiceUnavailable}
	case Outage503RetryAfter:
		return reply{status: http.StatusServiceUnavailable, retry: retryAfter{Seconds, outageWait}}
	case OutageThrottle:
		return reply{status: http.StatusTooManyRequests, retry: retryAfter{Seconds, outageWait}}
	case OutageWrongPath:
		return refusal(http.StatusNotFound, "ResourceNotFound", "Invalid version: oops")
	}
	switch {
	case rt.status == http.StatusMethodNotAllowed:
		return refusal(rt.status, "", "The HTTP method is not allowed for this resource.")
	case rt.status != 0:
		return refusal(rt.status, "BadRequest", "Resource not found for the segment, or malformed request.")
	case tk == nil:
		a := refusal(http.StatusUnauthorized, "InvalidAuthenticationToken", "Access token is empty or not known.")
		a.auth = authPlain
		return a
	case tk.revoked && tk.challenge:
		return challenge()
	case tk.revoked:
		a := refusal(http.StatusUnauthorized, "InvalidAuthenticationToken", "Access token has been revoked.")
		a.auth = authPlain
		return a
	case !now.Before(tk.expires):
		a := refusal(http.StatusUnauthorized, "InvalidAuthenticationToken", "Lifetime validation failed, the token is expired.")
		a.auth = authPlain
		return a
	}
	if outage == OutageNoLicence {
		return refusal(http.StatusBadRequest, "BadRequest", "Request not applicable to target tenant.")
	}
	if !rt.reset {
		return s.settleGet(rt, tk, tn, now)
	}
	if !tk.reset || outage == OutagePermission {
		return forbidden(RoleReset)
	}
	return s.settlePost(rt, tn, now)
}

// settlePost decides on a reset that authorization lets through.
func (s *Sim) settlePost(rt route, tn *tenant, now time.Time) reply {
	if q := tn.limit; q.n != 0 {
		if n := tn.arrive(now); q.n > 0 && n > q.n && !s.cfg.QuotaUnknown {
			s.log.violate("quota: more than the quota's POSTs in its window")
		}
		if ok, wait := q.take(&tn.throttle, now, s.cfg.CountThrottled); !ok {
			return s.throttled(wait)
		}
	}
	if f, ok := parseFault(rt.device); ok {
		if d := s.device(rt.device); f.due(d) {
			d.faulted++
			return f.reply()
		}
	}
	d := s.devices[rt.device]
	story := s.storyOf(rt.device, d)
	if story.refused() {
		return reply{status: http.StatusBadRequest, nested: true}
	}
	if d != nil && len(d.actions) > 0 && story.gone.passed(now.Add(s.shift).Sub(d.actions[0].at)) {
		return notFound()
	}
	return reply{status: http.StatusNoContent, execute: true}
}

// throttled is the answer to a call above a quota.
func (s *Sim) throttled(wait time.Duration) reply {
	// The latency passes before the answer is written.
	return reply{status: http.StatusTooManyRequests, retry: retryAfter{s.cfg.RetryAfter, max(0, wait-s.cfg.Latency)}}
}

// notFound is the answer where there is no such device.
func notFound() reply { return reply{status: http.StatusNotFound, nested: true} }

// settleGet decides on a read of a device, or of the list of them.
func (s *Sim) settleGet(rt route, tk *token, tn *tenant, now time.Time) reply {
	if !tk.read {
		return forbidden(RoleRead + ", " + RoleReadWrite)
	}
	if rt.named {
		s.device(rt.device).gets++
	}
	if q := tn.readable; q.n != 0 {
		if ok, wait := q.take(&tn.reads, now, s.cfg.CountThrottled); !ok {
			return s.throttled(wait)
		}
	}
	if rt.list {
		return reply{status: http.StatusOK}
	}
	return s.settleLook(rt.device, now)
}

// settleLook decides on the read of a device. Call with mu held.
func (s *Sim) settleLook(g guid, now time.Time) reply {
	d := s.device(g)
	if f, ok := parseFault(g); ok && f.code == http.StatusNotFound && f.due(d) {
		return f.reply()
	}
	l := s.look(g, d, now)
	if l.gone() {
		return notFound()
	}
	if l.begun() {
		if d.found++; d.found == l.story.absent {
			return notFound()
		}
	}
	return reply{status: http.StatusOK, look: &l}
}

// forbidden is the answer to a token without a role.
func forbidden(roles string) reply {
	a := refusal(http.StatusForbidden, "Forbidden",
		"Application is not authorized to perform this operation. Application must have one of the following scopes: "+roles)
	a.nested = true
	return a
}

// challenge is the answer of continuous access evaluation to a revoked token.
func challenge() reply {
	a := refusal(http.StatusUnauthorized, "InvalidAuthenticationToken",
		"Continuous access evaluation resulted in challenge with result: InteractionRequired and code: TokenIssuedBeforeRevocationTimestamp")
	a.auth = authChallenge
	return a
}

func (s *Sim) device(g guid) *device {
	d := s.devices[g]
	if d == nil {
		d = new(device)
		d.actions = d.one[:0]
		s.devices[g] = d
	}
	return d
}

// execute resets the device's passcode.
func (s *Sim) execute(g guid, now time.Time) {
	s.passcodes++
	s.log.executed++
	d := s.device(g)
	d.actions = append(d.actions, action{number: s.passcodes, started: now.Add(s.cfg.ClockOffset), at: now.Add(s.shift)})
}
