package graphsim_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	msalerrors "github.com/AzureAD/microsoft-authentication-library-for-go/apps/errors"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"

	"passcode-worker/internal/graph/graphsim"
)

var scopes = []string{"https://graph.microsoft.com/.default"}

func msal(t *testing.T, s *graphsim.Sim, host string, cred confidential.Credential, options ...confidential.Option) confidential.Client {
	t.Helper()
	options = append(options, confidential.WithHTTPClient(newHTTP(t, s, true)), confidential.WithInstanceDiscovery(false))
	c, err := confidential.New(strings.Replace(s.URL(), "127.0.0.1", host, 1)+"/"+graphsim.DefaultTenantID, graphsim.DefaultClientID, cred, options...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func secretCred(t *testing.T, secret string) confidential.Credential {
	t.Helper()
	cred, err := confidential.NewCredFromSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

func TestMSALSecret(t *testing.T) {
	ctx := context.Background()
	s := start(t, graphsim.Config{})
	for _, host := range []string{"127.0.0.1", "localhost"} {
		s.Forget()
		m := msal(t, s, host, secretCred(t, graphsim.DefaultClientSecret), confidential.WithClientCapabilities([]string{"CP1"}))
		first, err := m.AcquireTokenByCredential(ctx, scopes)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, s, true)
		c.token = first.AccessToken
		c.wantStatus(graphsim.GoodDevice(1), 204)

		// Revoked: the cache gives the same token again, claims get a new one.
		s.RevokeTokensWithChallenge()
		challenge := c.wantStatus(graphsim.GoodDevice(1), 401).header.Get("WWW-Authenticate")
		again, err := m.AcquireTokenByCredential(ctx, scopes)
		if err != nil || again.AccessToken != first.AccessToken {
			t.Fatalf("cached: %v", err)
		}
		_, rest, _ := strings.Cut(challenge, `claims="`)
		claims, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(rest, `"`))
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := m.AcquireTokenByCredential(ctx, scopes, confidential.WithClaims(string(claims)))
		if err != nil || fresh.AccessToken == first.AccessToken {
			t.Fatalf("fresh: %v", err)
		}
		c.token = fresh.AccessToken
		c.wantStatus(graphsim.GoodDevice(1), 204)
		var asked []string
		for _, call := range s.TokenCalls() {
			asked = append(asked, call.Claims)
		}
		if !contains(asked, `"xms_cc"`) || !contains(asked, `"nbf"`) {
			t.Errorf("claims %q", asked)
		}
	}
}

func TestMSALRefused(t *testing.T) {
	s := start(t, graphsim.Config{})
	ctx := context.Background()
	check := func(want int, part string) {
		t.Helper()
		_, err := msal(t, s, "127.0.0.1", secretCred(t, "wrong")).AcquireTokenByCredential(ctx, scopes)
		var call msalerrors.CallErr
		if !errors.As(err, &call) || call.Resp.StatusCode != want {
			t.Fatalf("%v", err)
		}
		if body, _ := io.ReadAll(call.Resp.Body); !strings.Contains(string(body), part) {
			t.Errorf("%s", body)
		}
	}
	check(401, "AADSTS7000215")
	s.SetOutage(graphsim.OutageTokenDown)
	check(503, "temporarily_unavailable")
}

func TestMSALFederated(t *testing.T) {
	s := start(t, graphsim.Config{FederatedToken: "header.payload.federated"})
	for token, ok := range map[string]bool{"header.payload.federated": true, "header.payload.other": false} {
		cred := confidential.NewCredFromAssertionCallback(func(context.Context, confidential.AssertionRequestOptions) (string, error) { return token, nil })
		if _, err := msal(t, s, "127.0.0.1", cred).AcquireTokenByCredential(context.Background(), scopes); (err == nil) != ok {
			t.Errorf("%s: %v", token, err)
		}
	}
	if calls := s.TokenCalls(); !slices.ContainsFunc(calls, func(c graphsim.TokenCall) bool { return c.Credential == "federated" && c.Status == 200 }) {
		t.Errorf("%+v", calls)
	}
}

func newCert(t *testing.T) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "worker"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestMSALCertificate(t *testing.T) {
	cert, key := newCert(t)
	other, otherKey := newCert(t)
	s := start(t, graphsim.Config{ClientCert: cert})
	for _, tc := range []struct {
		cert *x509.Certificate
		key  *rsa.PrivateKey
		ok   bool
	}{{cert, key, true}, {other, otherKey, false}} {
		cred, err := confidential.NewCredFromCert([]*x509.Certificate{tc.cert}, tc.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := msal(t, s, "127.0.0.1", cred).AcquireTokenByCredential(context.Background(), scopes); (err == nil) != tc.ok {
			t.Errorf("want %v: %v", tc.ok, err)
		}
	}
}

// What is signed is looked at, whatever the library would send.
func TestAssertions(t *testing.T) {
	cert, key := newCert(t)
	_, otherKey := newCert(t)
	s := start(t, graphsim.Config{ClientCert: cert})
	c := newClient(t, s, true)
	type claims map[string]any
	good := func() claims {
		return claims{"aud": s.URL() + "/" + graphsim.DefaultTenantID + "/oauth2/v2.0/token", "iss": graphsim.DefaultClientID,
			"sub": graphsim.DefaultClientID, "jti": "1", "exp": time.Now().Add(time.Minute).Unix(), "nbf": time.Now().Unix()}
	}
	sign := func(alg string, key *rsa.PrivateKey, cl claims) string {
		enc := base64.RawURLEncoding.EncodeToString
		h, _ := json.Marshal(map[string]string{"alg": alg, "typ": "JWT"})
		p, _ := json.Marshal(cl)
		text := enc(h) + "." + enc(p)
		digest := sha256.Sum256([]byte(text))
		sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
		if alg == "PS256" {
			sig, err = rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + enc(sig)
	}
	change := func(name string, value any) claims {
		cl := good()
		cl[name] = value
		return cl
	}
	for name, tc := range map[string]struct {
		text   string
		status int
	}{
		"PS256":        {sign("PS256", key, good()), 200},
		"RS256":        {sign("RS256", key, good()), 200},
		"other alg":    {sign("none", key, good()), 401},
		"other key":    {sign("RS256", otherKey, good()), 401},
		"audience":     {sign("PS256", key, change("aud", "https://example.org")), 401},
		"issuer":       {sign("PS256", key, change("iss", graphsim.GoodDevice(1))), 401},
		"subject":      {sign("PS256", key, change("sub", graphsim.GoodDevice(1))), 401},
		"no id":        {sign("PS256", key, change("jti", "")), 401},
		"expired":      {sign("PS256", key, change("exp", time.Now().Add(-time.Second).Unix())), 401},
		"not yet":      {sign("PS256", key, change("nbf", time.Now().Add(time.Hour).Unix())), 401},
		"no signature": {"a.b", 401},
		"not base64":   {"*.*.*", 401},
	} {
		f := tokenForm()
		f.Del("client_secret")
		f.Set("client_assertion", tc.text)
		f.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		status, answer, _ := c.askToken(graphsim.DefaultTenantID, f)
		if status != tc.status {
			t.Errorf("%s: %d %v", name, status, answer["error_description"])
		}
		if slices.Contains(s.Secrets(), tc.text) != (status == 200) {
			t.Errorf("%s: Secrets", name)
		}
	}
}
