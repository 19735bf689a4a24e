package graphsim

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// What a [Config] that leaves them empty stands for.
const (
	DefaultTenantID     = "7e4a17b0-0000-4000-8000-00000000a001"
	DefaultClientID     = "c11e4700-0000-4000-8000-00000000b001"
	DefaultClientSecret = "graphsim-not-a-real-client-secret"
)

// The application permissions that the simulator knows.
const (
	RoleReset     = "DeviceManagementManagedDevices.PrivilegedOperations.All"
	RoleRead      = "DeviceManagementManagedDevices.Read.All"
	RoleReadWrite = "DeviceManagementManagedDevices.ReadWrite.All"
)

// RetryAfterStyle is how a 429 for the quota announces when to come back.
type RetryAfterStyle int

const (
	// None sends no Retry-After, as Intune often does.
	None RetryAfterStyle = iota
	// Seconds sends whole seconds, rounded up, at least 1.
	Seconds
	// Decimal sends seconds with three decimals, rounded up, such as 2.128.
	Decimal
	// Date sends an HTTP-date by Graph's clock, rounded up to a second.
	Date
)

// Config of a [Sim]. The zero value is a Graph without a quota and without
// faults for one tenant with the default names.
type Config struct {
	// TenantID and ClientID are GUIDs; empty means [DefaultTenantID] and
	// [DefaultClientID].
	TenantID, ClientID string
	// Tenants are further tenants in which the same application may log in.
	// Each has a quota, a Retry-After and an outage of its own.
	Tenants []string
	// ClientSecret is the accepted secret; empty means [DefaultClientSecret].
	ClientSecret string
	// ClientCert, if set, makes assertions signed by its key (RSA; PS256 or
	// RS256) accepted as well.
	ClientCert *x509.Certificate
	// FederatedToken, if set, is accepted as an assertion as it stands.
	FederatedToken string
	// Roles is the roles claim of issued tokens; nil means [RoleReset] and
	// [RoleRead], an empty slice means a token without the claim.
	Roles []string
	// RefuseClaims refuses every token request with other claims than the
	// client's capabilities, such as those of a challenge.
	RefuseClaims bool
	// TokenLifetime of issued tokens; zero means 1 h. MSAL does not cache one
	// of 5 minutes or less.
	TokenLifetime time.Duration

	// Quota is the greatest number of POSTs granted to a tenant in any sliding
	// Window. Zero means no limit, a negative number that none is granted.
	Quota int
	// Window of the quota; zero means 20 s.
	Window time.Duration
	// CountThrottled makes refused calls count against the quota as well, as
	// Microsoft's documentation says they do.
	CountThrottled bool
	// QuotaUnknown says that the client was not told the quota, so that going
	// over it is no violation.
	QuotaUnknown bool
	// ReadQuota is the greatest number of GETs granted to a tenant in any sliding
	// Window; zero means no limit.
	ReadQuota int
	// RetryAfter is how 429s for a quota announce the next chance.
	RetryAfter RetryAfterStyle

	// Work is how long a reset takes once the device has taken it, where its story does
	// not say; zero means 1 s.
	Work time.Duration
	// Latency of every Graph answer, after the call was settled.
	Latency time.Duration
	// ClockOffset is Graph's clock minus ours, shown in Date headers and in
	// startDateTime.
	ClockOffset time.Duration
	// Addr to listen on, on 127.0.0.1, ::1 or localhost; empty means 127.0.0.1:0.
	Addr string
	// NoHTTP2 leaves only HTTP/1.1.
	NoHTTP2 bool
	// NoCallLog keeps no [Call]; counters, ledger and violations stay.
	NoCallLog bool
}

// Sim is the simulated service. It is an [http.Handler]; [Start] also gives it
// a listener. Its methods are safe for concurrent use.
type Sim struct {
	cfg    Config
	roles  []string
	seed   [16]byte  // of request ids and passcodes
	born   time.Time // by Graph's clock
	server server    // empty without Start

	closing   chan struct{} // closed when Close begins
	closeOnce sync.Once
	gate      sync.RWMutex // held for reading by each handler, for ever by Close

	mu         sync.Mutex // guards all below
	tenants    map[string]*tenant
	first      *tenant // of Config.TenantID
	outage     Outage
	outageTurn int // counts SetOutage, so that a timed end finds its own
	tokens     map[string]*token
	secrets    []string // tokens issued and assertions accepted
	devices    map[guid]*device
	shift      time.Duration     // of the devices' clock
	seen       map[guid]struct{} // client-request-ids
	passcodes  uint64            // generated so far, never reset
	requests   uint64            // request ids given, never reset
	log        callLog
	date       dateCache
}

// tenant is what Graph keeps per tenant. Guarded by Sim.mu.
type tenant struct {
	id       string
	outage   Outage
	limit    quota
	readable quota     // what may be read
	graph    announced // Retry-After of Graph to a POST: no call may come
	reading  announced // Retry-After of Graph to a GET: no GET may come
	entra    announced // Retry-After of the token endpoint
	throttle timeline  // what counts against the quota
	reads    timeline  // what counts against the quota of reads
	arrivals timeline  // all authorized POSTs, for the violation
}

// device is what Graph keeps per device. Guarded by Sim.mu.
type device struct {
	faulted int      // POSTs that got the fault of the device's id
	actions []action // one for each executed reset
	one     [1]action
	list    *ActionList // nil: as the id or the story says
	story   *Story      // nil: as the id says
	gets    int         // authorized reads
	found   int         // reads that were answered since the first reset
}

// action is one executed reset. The passcode is derived from its number when
// somebody asks, which keeps the plain path cheap.
type action struct {
	number  uint64
	started time.Time // by Graph's clock
	at      time.Time // the same instant by the devices' clock
}

// New makes a simulator without a listener: an [http.Handler] for a test that
// brings its own connections, or none. What needs a listener does nothing then,
// and a cut connection is a panic with [http.ErrAbortHandler], which net/http
// takes as one. Most callers want [Start].
func New(cfg Config) (*Sim, error) {
	if cfg.TenantID == "" {
		cfg.TenantID = DefaultTenantID
	}
	if cfg.ClientID == "" {
		cfg.ClientID = DefaultClientID
	}
	if cfg.ClientSecret == "" {
		cfg.ClientSecret = DefaultClientSecret
	}
	if cfg.TokenLifetime == 0 {
		cfg.TokenLifetime = time.Hour
	}
	if cfg.Roles == nil {
		cfg.Roles = []string{RoleReset, RoleRead}
	}
	if cfg.ClientCert != nil {
		if _, ok := cfg.ClientCert.PublicKey.(*rsa.PublicKey); !ok {
			return nil, fmt.Errorf("the client certificate's key is %T; only RSA is accepted", cfg.ClientCert.PublicKey)
		}
	}
	s := &Sim{
		cfg:     cfg,
		roles:   slices.Clone(cfg.Roles),
		born:    time.Now().Add(cfg.ClockOffset),
		closing: make(chan struct{}),
		tenants: make(map[string]*tenant),
		tokens:  make(map[string]*token),
		devices: make(map[guid]*device),
		seen:    make(map[guid]struct{}),
	}
	_, _ = rand.Read(s.seed[:]) // never fails
	for _, id := range append([]string{cfg.TenantID}, cfg.Tenants...) {
		id = strings.ToLower(id)
		if _, ok := parseGUID(id); !ok {
			return nil, fmt.Errorf("tenant %q is not a GUID", id)
		}
		t := &tenant{id: id}
		t.limit.set(cfg.Quota, cfg.Window)
		t.readable.set(cfg.ReadQuota, cfg.Window)
		s.tenants[id] = t
		if s.first == nil {
			s.first = t
		}
	}
	return s, nil
}

// ServeHTTP routes a request to Entra, Graph or the page for hand use.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Close waits for all that got through here and lets no other in.
	if !s.gate.TryRLock() {
		panic(http.ErrAbortHandler)
	}
	defer s.gate.RUnlock()
	switch {
	case strings.HasPrefix(r.URL.Path, "/_sim/"):
		s.serveAdmin(w, r)
	case isEntra(r.URL.Path):
		s.serveEntra(w, r)
	default:
		s.serveGraph(w, r)
	}
}

// RevokeTokens makes all tokens issued so far answer 401.
func (s *Sim) RevokeTokens() { s.revoke(false) }

// RevokeTokensWithChallenge is [Sim.RevokeTokens] with a claims challenge in
// WWW-Authenticate, as continuous access evaluation sends it.
func (s *Sim) RevokeTokensWithChallenge() { s.revoke(true) }

func (s *Sim) revoke(challenge bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revokeLocked(challenge, nil)
}

// revokeLocked revokes the tokens of one tenant, or of all.
func (s *Sim) revokeLocked(challenge bool, only *tenant) {
	for _, t := range s.tokens {
		if only == nil || t.tenant == only {
			t.revoked, t.challenge = true, challenge
		}
	}
}

// SetQuota changes the quota of every tenant; what was counted so far is
// forgotten. A window of zero means 20 s. See [Config.Quota].
func (s *Sim) SetQuota(n int, window time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tenants {
		t.setQuota(n, window)
	}
}

// SetTenantQuota is [Sim.SetQuota] for one tenant; an unknown one is ignored.
func (s *Sim) SetTenantQuota(tenantID string, n int, window time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tenants[strings.ToLower(tenantID)]; t != nil {
		t.setQuota(n, window)
	}
}

func (t *tenant) setQuota(n int, window time.Duration) {
	t.limit.set(n, window)
	t.throttle.reset()
	t.arrivals.reset()
}

// Forget clears the ledger, the calls, the violations, what was counted
// against the quotas and what was announced. Tokens stay good, and
// [Sim.Secrets] remembers them and the passcodes.
func (s *Sim) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.devices)
	clear(s.seen)
	s.log = callLog{generation: s.log.generation + 1}
	for _, t := range s.tenants {
		t.throttle.reset()
		t.arrivals.reset()
		t.reads.reset()
		t.graph, t.reading, t.entra = announced{}, announced{}, announced{}
	}
}

// URL is the root of both services, https://127.0.0.1:port. It is empty
// without a listener.
func (s *Sim) URL() string {
	if s.server.addr == "" {
		return ""
	}
	return "https://" + s.server.addr
}

// Addr is the host and port that the simulator listens on.
func (s *Sim) Addr() string { return s.server.addr }

// loopbackAddr gives the address to listen on, which must not be reachable
// from elsewhere: the page for hand use has no password. Nor would the
// certificate name another one.
func loopbackAddr(addr string) (string, error) {
	if addr == "" {
		return "127.0.0.1:0", nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("listen address: %w", err)
	}
	switch ip := net.ParseIP(host); {
	case host == "" || host == "localhost":
		host = "127.0.0.1"
	case ip == nil || !ip.Equal(net.IPv4(127, 0, 0, 1)) && !ip.Equal(net.IPv6loopback):
		return "", fmt.Errorf("listen address %q is not on 127.0.0.1, ::1 or localhost", addr)
	}
	return net.JoinHostPort(host, port), nil
}
