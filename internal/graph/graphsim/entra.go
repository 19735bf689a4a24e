package graphsim

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	discoveryPath = "/v2.0/.well-known/openid-configuration"
	tokenPath     = "/oauth2/v2.0/token"
)

// assertionType is the only client_assertion_type: RFC 7523.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// token is an access token that was issued. Guarded by Sim.mu, but for what
// never changes: the tenant, the expiry and the roles.
type token struct {
	tenant      *tenant
	expires     time.Time
	reset, read bool // has the role
	revoked     bool
	challenge   bool // tell so with a claims challenge
}

func isEntra(path string) bool {
	return strings.HasSuffix(path, discoveryPath) || strings.HasSuffix(path, tokenPath)
}

// entraError is a refusal of the token endpoint. Microsoft tells clients to
// look at kind alone.
type entraError struct {
	status int
	kind   string // the OAuth error
	code   int    // AADSTS
	text   string
}

func (s *Sim) serveEntra(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutSuffix(r.URL.Path, discoveryPath)
	discovery := ok
	if !discovery {
		name = strings.TrimSuffix(r.URL.Path, tokenPath)
	}
	name = strings.TrimPrefix(name, "/")
	c := TokenCall{Time: time.Now(), Tenant: strings.ToLower(name), Protocol: r.Proto}
	s.mu.Lock()
	tn := s.tenants[c.Tenant]
	outage := s.outage
	if tn != nil {
		outage = s.outageOf(tn)
		c.SentDuringRetryAfter = tn.entra.covers(c.Time)
	}
	s.mu.Unlock()

	switch outage {
	case OutageRefuse:
		s.hangUp(r, false)
	case OutageSilence:
		if !discovery {
			s.recordToken(c, 0, nil)
		}
		s.silence(r)
	}
	var e *entraError
	switch {
	case tn == nil:
		e = &entraError{http.StatusBadRequest, "invalid_tenant", 90002, "Tenant '" + c.Tenant + "' not found."}
	case discovery:
		s.discover(w, r, tn)
		return
	default:
		e = s.checkToken(r, tn, &c)
	}
	if outage == OutageTokenDown && !discovery {
		e = &entraError{http.StatusServiceUnavailable, "temporarily_unavailable", 90033, "A transient error has occurred. Please try again."}
		text, wait := retryAfter{Seconds, outageWait}.header(c.Time)
		w.Header().Set("Retry-After", text)
		if tn != nil {
			s.mu.Lock()
			tn.entra.add(time.Now(), wait)
			s.mu.Unlock()
		}
	}
	if e == nil && outage == OutageSecretExpired {
		e = &entraError{http.StatusUnauthorized, "invalid_client", 7000222,
			"The provided client secret keys for app '" + c.ClientID + "' are expired."}
	}
	if e != nil {
		if !discovery {
			c.Error = fmt.Sprintf("AADSTS%d", e.code)
			s.recordToken(c, e.status, nil)
		}
		s.refuseToken(w, e)
		return
	}
	text := s.issue(r, tn, c)
	seconds := int(s.cfg.TokenLifetime / time.Second)
	writeJSON(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": text,
	})
}

// recordToken logs a call of the token endpoint, with the token it issued.
func (s *Sim) recordToken(c TokenCall, status int, issued func()) {
	c.Status = status
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.tokenCalls = append(s.log.tokenCalls, c)
	if issued != nil {
		s.log.issued++
		issued()
	}
}

// discover answers with the tenant's endpoints. They are on the host that the
// client asked, because MSAL compares the issuer's host with it.
func (s *Sim) discover(w http.ResponseWriter, r *http.Request, tn *tenant) {
	root := "https://" + r.Host + "/" + tn.id
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                root + "/v2.0",
		"authorization_endpoint":                root + "/oauth2/v2.0/authorize",
		"token_endpoint":                        root + tokenPath,
		"jwks_uri":                              root + "/discovery/v2.0/keys",
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"},
		"response_types_supported":              []string{"code", "id_token"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"tenant_region_scope":                   "EU",
		"cloud_instance_name":                   r.Host,
	})
}

// checkToken reads a token request; nil means that a token is due.
func (s *Sim) checkToken(r *http.Request, tn *tenant, c *TokenCall) *entraError {
	if r.Method != http.MethodPost {
		return &entraError{http.StatusMethodNotAllowed, "invalid_request", 900561, "The endpoint only accepts POST requests."}
	}
	r.Body = http.MaxBytesReader(nil, r.Body, 256<<10)
	if err := r.ParseForm(); err != nil {
		return &entraError{http.StatusBadRequest, "invalid_request", 900144, "The request body cannot be read."}
	}
	f := r.PostForm
	c.GrantType, c.ClientID, c.Scope, c.Claims = f.Get("grant_type"), f.Get("client_id"), f.Get("scope"), f.Get("claims")
	c.Credential = "none"
	switch {
	case f.Has("client_secret"):
		c.Credential = "secret"
	case f.Has("client_assertion"):
		c.Credential = "assertion"
		if s.cfg.FederatedToken != "" && f.Get("client_assertion") == s.cfg.FederatedToken {
			c.Credential = "federated"
		}
	}
	switch {
	case c.GrantType == "":
		return &entraError{http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: 'grant_type'."}
	case c.GrantType != "client_credentials":
		return &entraError{http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type."}
	case !strings.EqualFold(c.ClientID, s.cfg.ClientID):
		return &entraError{http.StatusBadRequest, "unauthorized_client", 700016, "Application with this identifier was not found in the directory '" + tn.id + "'."}
	case !validScope(c.Scope):
		return &entraError{http.StatusBadRequest, "invalid_scope", 70011, "The provided value for the input parameter 'scope' is not valid: it must end in /.default."}
	}
	if s.cfg.RefuseClaims && challenged(c.Claims) {
		return &entraError{http.StatusBadRequest, "invalid_request", 9002313, "Invalid request. Request is malformed or invalid."}
	}
	return s.checkCredential(r.Host, tn, f, c)
}

// challenged reports whether claims hold more than the client's capabilities.
func challenged(claims string) bool {
	var doc map[string]map[string]any
	if json.Unmarshal([]byte(claims), &doc) != nil {
		return claims != ""
	}
	for where, what := range doc {
		delete(what, "xms_cc")
		if where != "access_token" || len(what) > 0 {
			return true
		}
	}
	return false
}

func (s *Sim) checkCredential(host string, tn *tenant, f url.Values, c *TokenCall) *entraError {
	switch c.Credential {
	case "secret":
		if subtle.ConstantTimeCompare([]byte(f.Get("client_secret")), []byte(s.cfg.ClientSecret)) != 1 {
			return &entraError{http.StatusUnauthorized, "invalid_client", 7000215, "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value."}
		}
		return nil
	case "none":
		return &entraError{http.StatusUnauthorized, "invalid_client", 7000216, "'client_assertion' or 'client_secret' is required for the 'client_credentials' grant type."}
	}
	if f.Get("client_assertion_type") != assertionType {
		return &entraError{http.StatusBadRequest, "invalid_request", 900144, "client_assertion_type is not " + assertionType + "."}
	}
	if c.Credential == "federated" {
		return nil
	}
	text := f.Get("client_assertion")
	audiences := []string{"https://" + host + "/" + tn.id + tokenPath, "https://" + host + "/" + tn.id + "/v2.0"}
	if e := checkAssertion(text, s.cfg.ClientCert, s.cfg.ClientID, audiences, time.Now()); e != nil {
		return e
	}
	s.mu.Lock()
	s.secrets = append(s.secrets, text)
	s.mu.Unlock()
	return nil
}

// validScope accepts one resource's /.default, and the OpenID scopes that MSAL
// adds to it.
func validScope(scope string) bool {
	defaults := 0
	for _, one := range strings.Fields(scope) {
		switch {
		case strings.HasSuffix(one, "/.default"):
			defaults++
		case one != "openid" && one != "offline_access" && one != "profile":
			return false
		}
	}
	return defaults == 1
}

// issue makes a token. Its signature is random: nobody is able to guess one,
// and nobody has a key to check it with.
func (s *Sim) issue(r *http.Request, tn *tenant, c TokenCall) string {
	now := time.Now()
	var id, signature [32]byte
	_, _ = rand.Read(id[:]) // never fails
	_, _ = rand.Read(signature[:])
	s.mu.Lock()
	roles := s.roles
	outage := s.outageOf(tn)
	s.mu.Unlock()
	if outage == OutagePermission {
		roles = slices.DeleteFunc(slices.Clone(roles), func(role string) bool { return role == RoleReset })
	}
	t := &token{
		tenant: tn, expires: now.Add(s.cfg.TokenLifetime),
		reset: slices.Contains(roles, RoleReset),
		read:  slices.Contains(roles, RoleRead) || slices.Contains(roles, RoleReadWrite),
	}
	resource := strings.TrimSuffix(strings.Fields(c.Scope)[0], "/.default")
	claims := map[string]any{
		"aud": resource, "iss": "https://" + r.Host + "/" + tn.id + "/", "tid": tn.id, "appid": s.cfg.ClientID,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": t.expires.Unix(), "idtyp": "app", "ver": "1.0",
		"jti": base64.RawURLEncoding.EncodeToString(id[:]),
	}
	if len(roles) > 0 {
		claims["roles"] = roles // absent, not empty, where nothing is granted
	}
	enc := base64.RawURLEncoding.EncodeToString
	text := enc([]byte(`{"typ":"JWT","alg":"RS256","kid":"graphsim"}`)) + "." + enc(marshal(claims)) + "." + enc(signature[:])
	s.recordToken(c, http.StatusOK, func() {
		// A request may have been under way when the secret expired.
		t.revoked = s.outageOf(tn) == OutageSecretExpired
		s.tokens["Bearer "+text] = t
		s.secrets = append(s.secrets, text)
	})
	return text
}

// refuseToken writes an error as Entra does.
func (s *Sim) refuseToken(w http.ResponseWriter, e *entraError) {
	s.mu.Lock()
	s.requests++
	trace := s.requestID(s.requests)
	s.mu.Unlock()
	now := time.Now().UTC()
	writeJSON(w, e.status, map[string]any{
		"error": e.kind,
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %[3]s Timestamp: %s",
			e.code, e.text, trace, now.Format("2006-01-02 15:04:05Z")),
		"error_codes": []int{e.code}, "timestamp": now.Format("2006-01-02 15:04:05Z"),
		"trace_id": trace, "correlation_id": trace,
		"error_uri": fmt.Sprintf("https://login.microsoftonline.com/error?code=%d", e.code),
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store, no-cache")
	w.WriteHeader(status)
	_, _ = w.Write(marshal(v)) // a client that has gone does not read it
}
