package graph

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// oddSecret has what JSON, URLs and a single line write otherwise than it stands.
const oddSecret = `k~8Q"<a>&b/c+d%20=é` + "\u2028x  y"

// entra is a token service of which a test writes the token endpoint.
func entra(t testing.TB, token http.HandlerFunc) (*httptest.Server, Credential) {
	t.Helper()
	s, _ := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration") {
			token(w, r)
			return
		}
		root := "https://" + r.Host + "/tenant"
		_ = json.NewEncoder(w).Encode(map[string]string{
			"issuer": root + "/v2.0", "authorization_endpoint": root + "/authorize", "token_endpoint": root + "/token",
		})
	})
	return s, Credential{Authority: s.URL, TenantID: "tenant", ClientID: "client", Scope: "https://graph.microsoft.com/.default",
		Secret: oddSecret, RootCAs: roots(s)}
}

func TestTokenFailures(t *testing.T) {
	t.Parallel()
	answer := func(status int, header, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const refused = `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret. Trace ID: 1 Correlation ID: 2"}`
	for name, tc := range map[string]struct {
		do   http.HandlerFunc
		want Error
	}{
		"refused": {answer(401, "", refused),
			Error{Kind: TokenRefused, Status: 401, Code: "invalid_client", Message: "AADSTS7000215: Invalid client secret."}},
		"refused, in lines": {answer(400, "", `{"error":"unauthorized_client","error_description":"AADSTS700016: No such\tapplication.\r\nTrace ID: 1"}`),
			Error{Kind: TokenRefused, Status: 400, Code: "unauthorized_client", Message: "AADSTS700016: No such application."}},
		"refused without words": {answer(403, "", ""), Error{Kind: TokenRefused, Status: 403}},
		"throttled":             {answer(429, "60", "{}"), Error{Kind: TokenUnavailable, Status: 429, RetryAfter: time.Minute}},
		"throttled, twice":      {answer(429, "0, 60,5", "{}"), Error{Kind: TokenUnavailable, Status: 429, RetryAfter: time.Minute}},
		"throttled, silently":   {answer(429, "", "{}"), Error{Kind: TokenUnavailable, Status: 429}},
		"busy": {answer(503, "2.5", `{"error":"temporarily_unavailable"}`),
			Error{Kind: TokenUnavailable, Status: 503, Code: "temporarily_unavailable", RetryAfter: 2500 * time.Millisecond}},
		"busy for long":   {answer(503, "86400", ""), Error{Kind: TokenUnavailable, Status: 503, RetryAfter: mostTokenWait}},
		"broken":          {answer(500, "", "<html>500</html>"), Error{Kind: TokenUnavailable, Status: 500}},
		"time-out":        {answer(408, "", ""), Error{Kind: TokenUnavailable, Status: 408}},
		"HTML":            {answer(200, "", "<html>Log in to the network</html>"), Error{Kind: TokenUnavailable, Message: "the token service's answer is not JSON, or not a token"}},
		"no token":        {answer(200, "", `{"expires_in":3600}`), Error{Kind: TokenUnavailable, Message: "response is missing access_token"}},
		"no life":         {answer(200, "", `{"access_token":"`+testSecret+`"}`), Error{Kind: TokenUnavailable, Message: "the token service's answer is not JSON, or not a token"}},
		"a success of no": {answer(204, "", ""), Error{Kind: TokenUnavailable, Status: 204}},
		"huge": {answer(200, "", `{"access_token":"`+strings.Repeat("x", 8<<20)+`"}`),
			Error{Kind: TokenUnavailable, Message: "the token service's answer is not JSON, or not a token"}},
		"huge refusal": {answer(400, "", strings.Repeat(refused, 1<<17)), Error{Kind: TokenRefused, Status: 400}},
		"not HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_, _ = io.WriteString(conn, `{"access_token":"`+testSecret+`"}`+"\r\n\r\n")
				conn.Close()
			}
		}, Error{Kind: TokenUnavailable, Message: "the connection failed, or the answer is not HTTP"}},
	} {
		_, c := entra(t, tc.do)
		_, err := acquire(t, c, "")
		if e := asError(t, err); *e != tc.want {
			t.Errorf("%s: %#v, want %#v", name, *e, tc.want)
		}
		checkText(t, asError(t, err), oddSecret)
		noTrace(t, err, testSecret)
	}
}

// TestEcho lets a token service repeat what it was sent.
func TestEcho(t *testing.T) {
	t.Parallel()
	k := keys()
	const federated = "ZmVkZXJhdGVkIGhlYWRlcg.ZmVkZXJhdGVk.c2lnbmF0dXJl"
	certificate := file(t, block("CERTIFICATE", k.cert.Raw)+pkcs8(k.rsa))
	for status, say := range map[int]func(proof string) any{
		400: func(proof string) any {
			return map[string]string{"error": proof, "error_description": "AADSTS1: not " + proof + " nor " + url.QueryEscape(proof)}
		},
		500: func(proof string) any {
			return map[string]string{"error_description": strings.Repeat(" ", 250) + proof}
		},
		200: func(proof string) any {
			return map[string]any{"error": "e", "error_description": proof, "expires_in": 3600}
		},
		201: func(proof string) any { return proof },
	} {
		for kind, set := range map[string]func(*Credential){
			"secret":      func(*Credential) {},
			"certificate": func(c *Credential) { c.Secret, c.CertificatePath = "", certificate },
			"federated":   func(c *Credential) { c.Secret, c.FederatedTokenFile = "", file(t, federated) },
		} {
			proofs := make(chan string, 1)
			_, c := entra(t, func(w http.ResponseWriter, r *http.Request) {
				proof := r.FormValue("client_secret") + r.FormValue("client_assertion")
				proofs <- proof
				w.WriteHeader(status)
				_ = json.NewEncoder(w).Encode(say(proof))
			})
			set(&c)
			_, err := acquire(t, c, "")
			proof := <-proofs
			if len(proof) < 10 || strings.Count(proof, ".") != 2 && proof != oddSecret {
				t.Fatalf("%s: %q", kind, proof)
			}
			parts := strings.Split(proof, ".")
			if kind == "certificate" {
				parts = parts[1:] // the header is the same for everybody
			}
			for i := range parts {
				parts[i] = parts[i][:min(len(parts[i]), 10)] // no piece of it either
			}
			noTrace(t, err, append(parts, url.QueryEscape(parts[0]))...)
		}
	}
}

// TestTokenRedirect checks that a credential is not sent elsewhere.
func TestTokenRedirect(t *testing.T) {
	t.Parallel()
	elsewhere, _ := serve(t, false, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("redirected: %s %s, %q", r.Method, r.URL, r.FormValue("client_secret"))
	})
	for _, status := range []int{301, 302, 303, 307, 308} {
		s, c := entra(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/token", status)
		})
		c.RootCAs.AddCert(s.Certificate())
		c.RootCAs.AddCert(elsewhere.Certificate())
		_, err := acquire(t, c, "")
		if e := wantKind(t, err, TokenUnavailable); e.Status != status {
			t.Error(e)
		}
	}
}

func TestTokenServiceAway(t *testing.T) {
	t.Parallel()
	s, c := entra(t, nil)
	s.Close()
	_, err := acquire(t, c, "")
	if e := wantKind(t, err, TokenUnavailable); !strings.Contains(e.Message, "refused") || e.Status != 0 {
		t.Errorf("%#v", e)
	}
	noTrace(t, err, oddSecret)

	live, c := entra(t, nil)
	c.RootCAs = nil
	_, err = acquire(t, c, "")
	if e := wantKind(t, err, TokenUnavailable); !strings.Contains(e.Message, "certificate") {
		t.Errorf("%#v", e)
	}
	c.RootCAs = roots(live)
	c.Authority = strings.Replace(live.URL, "127.0.0.1", "graph.invalid", 1)
	_, err = acquire(t, c, "")
	wantKind(t, err, TokenUnavailable)
}

// TestTokenSilence checks that a request which is not answered ends with its
// context, in the headers and in the body.
func TestTokenSilence(t *testing.T) {
	t.Parallel()
	for _, begin := range []string{"", `{"access_token":"`} {
		_, c := entra(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // so that the server notices the end of the connection
			if begin != "" {
				_, _ = io.WriteString(w, begin)
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // or the body would come to a proper end
		})
		f, err := c.Acquire()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := withTimeout(t, soon)
		_, _, _, err = f(ctx, "", false)
		cancel()
		if e := wantKind(t, err, TokenUnavailable); !strings.Contains(e.Message, "deadline exceeded") {
			t.Errorf("%#v", e)
		}
	}
}

// TestWrongSecret is the commonest mistake, against the simulator.
func TestWrongSecret(t *testing.T) {
	t.Parallel()
	s := simulate(t, graphsim.Config{})
	c := simCredential(s)
	c.Secret = oddSecret
	_, err := acquire(t, c, "")
	if e := wantKind(t, err, TokenRefused); e.Status != 401 || e.Code != "invalid_client" || !strings.HasPrefix(e.Message, "AADSTS7000215") || strings.Contains(e.Message, "Trace") {
		t.Errorf("%#v", e)
	}
	noTrace(t, err, oddSecret)

	c = simCredential(s)
	c.TenantID = "not-there"
	_, err = acquire(t, c, "")
	wantKind(t, err, TokenRefused)

	s.SetOutage(graphsim.OutageTokenDown)
	_, err = acquire(t, simCredential(s), "")
	if e := wantKind(t, err, TokenUnavailable); e.Status != 503 || e.RetryAfter != time.Second {
		t.Errorf("%#v", e)
	}
	for _, secret := range s.Secrets() {
		noTrace(t, err, secret)
	}
}

// TestTokensOfSimulator goes through the whole: token, revocation, challenge.
func TestTokensOfSimulator(t *testing.T) {
	t.Parallel()
	s := simulate(t, graphsim.Config{})
	f, err := simCredential(s).Acquire()
	if err != nil {
		t.Fatal(err)
	}
	var ends atomic.Int32
	tokens := NewTokens(f, func(err error) {
		if err != nil {
			t.Error(err)
		}
		ends.Add(1)
	})
	c := newTestClient(t, s.URL(), s.CAs())
	token := get(t, tokens)
	for n, revoke := range []func(){s.RevokeTokens, s.RevokeTokensWithChallenge} {
		revoke()
		call := within(longEnough)
		call.Token = token
		_, err := c.Reset(t.Context(), Target{Device: graphsim.GoodDevice(1)}, call)
		e := wantKind(t, err, Unauthorized)
		if challenged := e.Claims != ""; challenged != (n == 1) {
			t.Errorf("claims %q", e.Claims)
		}
		if token, err = tokens.Renew(t.Context(), token, e.Claims); err != nil {
			t.Fatal(err)
		}
		call = within(longEnough)
		call.Token = token
		if _, err := c.Reset(t.Context(), Target{Device: graphsim.GoodDevice(1)}, call); err != nil {
			t.Error(err)
		}
	}
	calls := s.TokenCalls()
	if len(calls) != 3 || strings.Contains(calls[1].Claims, "nbf") || !strings.Contains(calls[2].Claims, "nbf") || ends.Load() != 3 {
		t.Errorf("%d observed, %+v", ends.Load(), calls)
	}
	for _, secret := range s.Secrets() {
		if strings.Contains(fmt.Sprintf("%+v %#v %+v", token, tokens, c), secret) {
			t.Errorf("%q is printed", secret)
		}
	}
}
