package graph

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

func TestClouds(t *testing.T) {
	t.Parallel()
	clouds := Clouds()
	if len(clouds) != 4 {
		t.Errorf("%d clouds", len(clouds))
	}
	for name, want := range map[string][2]string{ // hosts of Graph and of the token service
		"global": {"graph.microsoft.com", "login.microsoftonline.com"},
		"usgov":  {"graph.microsoft.us", "login.microsoftonline.us"},
		"dod":    {"dod-graph.microsoft.us", "login.microsoftonline.us"},
		"china":  {"microsoftgraph.chinacloudapi.cn", "login.partner.microsoftonline.cn"},
	} {
		c := clouds[name]
		if want := (Cloud{"https://" + want[0], "https://" + want[1], "https://" + want[0] + "/.default"}); c != want {
			t.Errorf("%s: %+v, want %+v", name, c, want)
		}
		if _, err := New(Config{Endpoint: c.Endpoint}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		cred := Credential{Authority: c.Authority, TenantID: "t", ClientID: "c", Scope: c.Scope, Secret: "s"}
		if _, err := cred.Acquire(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if u, err := url.Parse(c.Authority); err != nil || !isMicrosoft(u.Hostname()) {
			t.Errorf("%s: %s is not known", name, c.Authority)
		}
	}
	for _, host := range []string{"localhost", "evilmicrosoftonline.com", "microsoftonline.com.evil.example", "login.microsoft.com.evil.example", ""} {
		if isMicrosoft(host) {
			t.Errorf("%s is taken for Microsoft's", host)
		}
	}
}

func TestAuthority(t *testing.T) {
	t.Parallel()
	for _, authority := range []string{"", "login.microsoftonline.com", "http://login.microsoftonline.com", "https://", "https://:443", ":"} {
		if _, err := (Credential{Authority: authority, Secret: "s"}).Acquire(); err == nil || !strings.Contains(err.Error(), "token service") {
			t.Errorf("%q: %v", authority, err)
		}
	}
}

func TestCredentialKind(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]Credential{
		"":                          {},
		"client secret":             {Secret: "s"},
		"client secret from a file": {SecretFile: "f"},
		"certificate":               {CertificatePath: "f"},
		"federated token":           {FederatedTokenFile: "f"},
		"managed identity":          {ManagedIdentity: true},
	} {
		if got := c.Kind(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// keys are made once: it takes a while.
var keys = sync.OnceValue(func() (k struct {
	rsa  *rsa.PrivateKey
	ec   *ecdsa.PrivateKey
	cert *x509.Certificate // of the RSA key
	ecc  *x509.Certificate
}) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "worker"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.rsa.Public(), k.rsa)
	must(err)
	k.cert, err = x509.ParseCertificate(der)
	must(err)
	der, err = x509.CreateCertificate(rand.Reader, template, template, k.ec.Public(), k.ec)
	must(err)
	k.ecc, err = x509.ParseCertificate(der)
	must(err)
	return k
})

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(key any) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return block("PRIVATE KEY", der)
}

// file writes a file of a test's own.
func file(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	write(t, name, text)
	return name
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// acquire gets one token.
func acquire(t testing.TB, c Credential, claims string) (string, error) {
	t.Helper()
	f, err := c.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	value, expires, _, err := f(context.Background(), claims, true)
	if err == nil && (value == "" || !expires.After(time.Now())) {
		t.Errorf("a token of %d bytes that ends at %v", len(value), expires)
	}
	return value, err
}

// TestCredentials gets a token with each sort of credential, with the file
// rotated in between where there is one.
func TestCredentials(t *testing.T) {
	t.Parallel()
	k := keys()
	const federated = "eyJ.federated.token"
	s := simulate(t, graphsim.Config{ClientCert: k.cert, FederatedToken: federated})
	cert := block("CERTIFICATE", k.cert.Raw)
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k.rsa))
	for name, tc := range map[string]struct {
		content string // of the file; empty for a secret without one
		broken  string
		set     func(c *Credential, file string)
		want    string // as the simulator calls it
	}{
		"secret": {"", "", func(*Credential, string) {}, "secret"},
		"secret file": {" " + graphsim.DefaultClientSecret + "\r\n", "old-secret",
			func(c *Credential, file string) { c.Secret, c.SecretFile = "", file }, "secret"},
		"PKCS #1": {cert + pkcs1, cert,
			func(c *Credential, file string) { c.Secret, c.CertificatePath = "", file }, "assertion"},
		"PKCS #8": {"Bag Attributes\n" + pkcs8(k.rsa) + block("CERTIFICATE", k.ecc.Raw) + cert, pkcs8(k.rsa) + block("CERTIFICATE", k.ecc.Raw),
			func(c *Credential, file string) { c.Secret, c.CertificatePath = "", file }, "assertion"},
		"federated token": {federated + "\n", "eyJ.other.token",
			func(c *Credential, file string) { c.Secret, c.FederatedTokenFile = "", file }, "federated"},
	} {
		c := simCredential(s)
		name2 := file(t, tc.content)
		tc.set(&c, name2)
		if err := c.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f, err := c.Acquire()
		if err != nil {
			t.Fatal(err)
		}
		get := func(claims string) error {
			value, expires, refresh, err := f(t.Context(), claims, false)
			if err == nil && (testToken(value).Has(ResetPermission) != PermissionGranted || time.Until(expires) < 50*time.Minute || !refresh.IsZero()) {
				t.Errorf("%s: %q, %v, %v", name, value, expires, refresh)
			}
			return err
		}
		if err := get(""); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		calls := s.TokenCalls()
		if last := calls[len(calls)-1]; last.Credential != tc.want || last.Status != 200 || !strings.Contains(last.Claims, "CP1") {
			t.Errorf("%s: %+v", name, last)
		}
		if err := get(`{"access_token":{"nbf":{"essential":true,"value":"1"}}}`); err != nil {
			t.Errorf("%s, with claims: %v", name, err)
		}
		calls = s.TokenCalls()
		if last := calls[len(calls)-1]; !strings.Contains(last.Claims, "CP1") || !strings.Contains(last.Claims, `"nbf"`) {
			t.Errorf("%s: %+v", name, last)
		}
		if tc.content == "" {
			continue
		}
		write(t, name2, tc.broken)
		wantKind(t, get(""), TokenRefused)
		write(t, name2, tc.content)
		if err := get(""); err != nil {
			t.Errorf("%s, rotated: %v", name, err)
		}
	}
}

// TestBadFiles checks what is said of credentials that cannot be used, and that
// it holds nothing of them.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	k := keys()
	der, err := x509.MarshalECPrivateKey(k.ec)
	if err != nil {
		t.Fatal(err)
	}
	cert, ecc := block("CERTIFICATE", k.cert.Raw), block("CERTIFICATE", k.ecc.Raw)
	missing := filepath.Join(t.TempDir(), "missing")
	for name, tc := range map[string]struct {
		c    Credential
		want []string
	}{
		"nothing":                   {Credential{}, []string{"empty"}},
		"no secret file":            {Credential{SecretFile: missing}, []string{"AZURE_CLIENT_SECRET_FILE", missing}},
		"empty secret file":         {Credential{SecretFile: file(t, " \n")}, []string{"AZURE_CLIENT_SECRET_FILE", "is empty"}},
		"no federated token":        {Credential{FederatedTokenFile: missing}, []string{"AZURE_FEDERATED_TOKEN_FILE", missing}},
		"no certificate file":       {Credential{CertificatePath: missing}, []string{"AZURE_CLIENT_CERTIFICATE_PATH", missing}},
		"empty certificate file":    {Credential{CertificatePath: file(t, "")}, []string{"AZURE_CLIENT_CERTIFICATE_PATH", "neither a certificate nor a private key"}},
		"certificate alone":         {Credential{CertificatePath: file(t, cert)}, []string{"AZURE_CLIENT_CERTIFICATE_PATH", "a certificate, but no private key"}},
		"key alone":                 {Credential{CertificatePath: file(t, pkcs8(k.rsa))}, []string{"AZURE_CLIENT_CERTIFICATE_PATH", "a private key, but no certificate"}},
		"key of another":            {Credential{CertificatePath: file(t, ecc+pkcs8(k.rsa))}, []string{"does not belong to any of its certificates"}},
		"EC key in PKCS #8":         {Credential{CertificatePath: file(t, ecc+pkcs8(k.ec))}, []string{"its key is an EC key: Entra accepts only RSA keys"}},
		"EC key":                    {Credential{CertificatePath: file(t, ecc+block("EC PRIVATE KEY", der))}, []string{"its key is an EC key"}},
		"encrypted key":             {Credential{CertificatePath: file(t, cert+block("ENCRYPTED PRIVATE KEY", der))}, []string{"is encrypted: remove the encryption with openssl pkey -in "}},
		"DER":                       {Credential{CertificatePath: file(t, string(k.cert.Raw))}, []string{"a certificate, but no private key"}},
		"broken key":                {Credential{CertificatePath: file(t, cert+block("PRIVATE KEY", der[:20]))}, []string{"PEM block 2 is labelled as a private key but cannot be read"}},
		"directory as a file":       {Credential{SecretFile: t.TempDir()}, []string{"AZURE_CLIENT_SECRET_FILE"}},
		"directory as certificate":  {Credential{CertificatePath: t.TempDir()}, []string{"AZURE_CLIENT_CERTIFICATE_PATH"}},
		"directory as a federation": {Credential{FederatedTokenFile: t.TempDir()}, []string{"AZURE_FEDERATED_TOKEN_FILE"}},
	} {
		err := tc.c.Check()
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		tc.c.Authority, tc.c.TenantID, tc.c.ClientID = "https://127.0.0.1:1", "t", "c"
		_, acquired := acquire(t, tc.c, "")
		wantKind(t, acquired, TokenRefused)
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) || !strings.Contains(acquired.Error(), want) {
				t.Errorf("%s: %v; %v: no %q", name, err, acquired, want)
			}
		}
		for _, line := range strings.Split(pkcs8(k.rsa)+pkcs8(k.ec), "\n") {
			if len(line) > 20 && (strings.Contains(err.Error(), line) || strings.Contains(acquired.Error(), line)) {
				t.Errorf("%s: a part of the key is in %v", name, err)
			}
		}
		if bytes.ContainsAny([]byte(acquired.Error()), "\n\r") {
			t.Errorf("%s: more than one line: %v", name, acquired)
		}
	}
	if err := (Credential{ManagedIdentity: true}).Check(); err != nil {
		t.Error(err)
	}
}
