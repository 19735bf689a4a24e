package graphsim

import (
	"fmt"
	"strings"
	"time"
)

// Outage is a fault that is nobody's in particular. Those of HTTP concern
// Graph alone; [OutageRefuse] and [OutageSilence] the token endpoint as well.
type Outage int

const (
	// OutageNone is none.
	OutageNone Outage = iota
	// Outage503 answers 503 without Retry-After. Nothing is executed.
	Outage503
	// Outage503RetryAfter answers 503 with Retry-After: 1.
	Outage503RetryAfter
	// Outage500 answers 500. Nothing is executed.
	Outage500
	// OutageRefuse closes the listener and cuts all connections. The same port
	// is opened when it ends. For one tenant it only cuts that tenant's calls.
	OutageRefuse
	// OutageSilence executes and answers nothing. A request that came in its
	// time stays without an answer for as long as its client waits.
	OutageSilence
	// OutageSecretExpired lets the token endpoint answer 401 invalid_client
	// (AADSTS7000222). Tokens issued before are revoked and stay so.
	OutageSecretExpired
	// OutageTokenDown lets the token endpoint answer 503 with Retry-After: 1.
	OutageTokenDown
	// OutagePermission refuses every reset with 403, and issues tokens without
	// [RoleReset]; those lack it after the end as well, as a permission that is
	// granted late shows in new tokens only.
	OutagePermission
	// OutageThrottle answers 429 with Retry-After: 1 to every call.
	OutageThrottle
	// OutageNoLicence answers 400 to every call that has a good token, as for a
	// tenant without Intune.
	OutageNoLicence
	// OutageWrongPath answers 404 to every call, as where the address of Graph has
	// a path.
	OutageWrongPath
)

var outageNames = []string{
	OutageNone:          "none",
	Outage503:           "503",
	Outage503RetryAfter: "503-retry-after",
	Outage500:           "500",
	OutageRefuse:        "refuse",
	OutageSilence:       "silence",
	OutageSecretExpired: "secret-expired",
	OutageTokenDown:     "token-down",
	OutagePermission:    "permission",
	OutageThrottle:      "throttle",
	OutageNoLicence:     "no-licence",
	OutageWrongPath:     "wrong-path",
}

// String is the kind as [ParseOutage] and /_sim/outage take it.
func (o Outage) String() string {
	if o < 0 || int(o) >= len(outageNames) {
		return fmt.Sprintf("graphsim.Outage(%d)", int(o))
	}
	return outageNames[o]
}

// ParseOutage is the reverse of [Outage.String].
func ParseOutage(kind string) (Outage, error) {
	for o, name := range outageNames {
		if name == kind {
			return Outage(o), nil
		}
	}
	return OutageNone, fmt.Errorf("unknown kind of outage %q: it is one of %s", kind, strings.Join(outageNames, ", "))
}

// outageWait is what the outages with a Retry-After announce.
const outageWait = time.Second

// SetOutage puts a fault of the whole system in force in place of the one
// before; [OutageNone] ends it. When it returns, the fault is there, or gone.
func (s *Sim) SetOutage(o Outage) { s.setOutage(o) }

// setOutage returns the number of this change.
func (s *Sim) setOutage(o Outage) int {
	s.server.life.Lock()
	defer s.server.life.Unlock()
	s.mu.Lock()
	s.outage = o
	s.outageTurn++
	turn := s.outageTurn
	if o == OutageSecretExpired {
		s.revokeLocked(false, nil)
	}
	s.mu.Unlock()
	if o == OutageRefuse {
		s.server.refuse()
	} else {
		s.server.listenAgain(s.closing)
	}
	return turn
}

// SetTenantOutage puts a fault in force for one tenant; an unknown one is
// ignored. A fault of the whole system goes before it.
func (s *Sim) SetTenantOutage(tenantID string, o Outage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[strings.ToLower(tenantID)]
	if t == nil {
		return
	}
	t.outage = o
	if o == OutageSecretExpired {
		s.revokeLocked(false, t)
	}
}

// outageOf is the fault that a tenant's calls meet now. Call with mu held.
func (s *Sim) outageOf(t *tenant) Outage {
	if s.outage != OutageNone {
		return s.outage
	}
	return t.outage
}

// endOutage ends the fault that a change put in force, if it still is.
// Call it from a task.
func (s *Sim) endOutage(turn int) {
	s.mu.Lock()
	mine := s.outageTurn == turn
	s.mu.Unlock()
	if mine {
		s.setOutage(OutageNone)
	}
}
