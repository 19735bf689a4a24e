package graph

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
	"github.com/google/uuid"

	"passcode-worker/internal/setting"
)

// Cloud is one of Microsoft's clouds.
// Source: Microsoft Graph "national cloud deployments".
type Cloud struct{ Endpoint, Authority, Scope string }

// Clouds are the clouds by the name that configuration uses.
func Clouds() map[string]Cloud {
	return map[string]Cloud{
		"global": {"https://graph.microsoft.com", "https://login.microsoftonline.com", "https://graph.microsoft.com/.default"},
		"usgov":  {"https://graph.microsoft.us", "https://login.microsoftonline.us", "https://graph.microsoft.us/.default"},
		"dod":    {"https://dod-graph.microsoft.us", "https://login.microsoftonline.us", "https://dod-graph.microsoft.us/.default"},
		"china": {"https://microsoftgraph.chinacloudapi.cn", "https://login.partner.microsoftonline.cn",
			"https://microsoftgraph.chinacloudapi.cn/.default"},
	}
}

// Credential is how the application proves who it is: exactly one of Secret,
// SecretFile, CertificatePath, FederatedTokenFile and ManagedIdentity. Files
// are read again for each token, so that a rotated one is used without a restart.
type Credential struct {
	// Authority is the token service's root, for example
	// https://login.microsoftonline.com. TenantID and ClientID are the
	// directory's and the application's ids.
	Authority, TenantID, ClientID string
	// Scope is Graph's .default scope in the cloud.
	Scope string

	Secret             string
	SecretFile         string
	CertificatePath    string // PEM or PFX: certificate chain and RSA key
	FederatedTokenFile string
	// CertificatePassword is that of a PFX file; most have an empty one or need it.
	CertificatePassword string
	// ManagedIdentity uses the machine's identity; a ClientID then chooses a
	// user-assigned one.
	ManagedIdentity bool

	// RootCAs are trusted for TLS; nil means the system's.
	RootCAs *x509.CertPool
}

const (
	secretKind      = "client secret"
	secretFileKind  = "client secret from a file"
	certificateKind = "certificate"
)

// Kind names the sort of credential; empty where none is given.
func (c Credential) Kind() string {
	switch {
	case c.ManagedIdentity:
		return "managed identity"
	case c.FederatedTokenFile != "":
		return "federated token"
	case c.CertificatePath != "":
		return certificateKind
	case c.SecretFile != "":
		return secretFileKind
	case c.Secret != "":
		return secretKind
	}
	return ""
}

// Check reads what the credential is made of, and says what is wrong with it.
func (c Credential) Check() error {
	if c.ManagedIdentity {
		return nil
	}
	_, _, err := c.read()
	return err
}

// Acquire returns the function that gets tokens by this credential.
func (c Credential) Acquire() (Acquire, error) {
	client := &http.Client{
		Timeout:   acquireTimeout,
		Transport: c.transport(),
		// A redirect would take the credential to another address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if c.ManagedIdentity {
		return c.managed(client)
	}
	u, err := url.Parse(strings.TrimRight(c.Authority, "/"))
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("%q is not the address of a token service: write it like https://login.microsoftonline.com", c.Authority)
	}
	authority := u.String() + "/" + url.PathEscape(c.TenantID)
	// Only Microsoft's own hosts are known to instance discovery; for any
	// other, the library would ask login.microsoftonline.com about it.
	discovery := isMicrosoft(u.Hostname())
	return func(ctx context.Context, claims string, _ bool) (string, time.Time, time.Time, error) {
		cred, secret, err := c.read()
		if err != nil {
			return "", time.Time{}, time.Time{}, &Error{Kind: TokenRefused, Err: err}
		}
		s := &session{http: client, secrets: []string{secret}}
		// A client for each request: its cache would give a rejected token
		// again, and a rotated credential could not be put into it.
		app, err := confidential.New(authority, c.ClientID, cred,
			confidential.WithHTTPClient(s),
			confidential.WithInstanceDiscovery(discovery),
			confidential.WithClientCapabilities([]string{"CP1"}))
		if err != nil {
			return "", time.Time{}, time.Time{}, &Error{Kind: TokenRefused, Message: clean(err.Error(), maxText, secret)}
		}
		var opts []confidential.AcquireByCredentialOption
		if claims != "" {
			opts = append(opts, confidential.WithClaims(claims))
		}
		r, err := app.AcquireTokenByCredential(ctx, []string{c.Scope}, opts...)
		if err != nil {
			return "", time.Time{}, time.Time{}, s.failure(err)
		}
		return r.AccessToken, r.ExpiresOn, r.Metadata.RefreshOn, nil
	}, nil
}

func (c Credential) transport() *http.Transport {
	t := &http.Transport{
		ForceAttemptHTTP2:   true,
		TLSClientConfig:     &tls.Config{RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout:     10 * time.Second,
	}
	if !c.ManagedIdentity {
		// The service of a managed identity is part of this machine: a proxy
		// would not reach it, or would reach its own.
		proxy := proxyFromEnvironment()
		t.Proxy = func(r *http.Request) (*url.URL, error) { return proxy(r.URL) }
		t.OnProxyConnectResponse = throughProxy
	}
	return t
}

func (c Credential) managed(client *http.Client) (Acquire, error) {
	id := managedidentity.SystemAssigned()
	if c.ClientID != "" {
		id = managedidentity.UserAssignedClientID(c.ClientID)
	}
	connect := func(s *session) (managedidentity.Client, error) {
		return managedidentity.New(id, managedidentity.WithHTTPClient(s), managedidentity.WithRetryPolicyDisabled())
	}
	if _, err := connect(&session{http: client}); err != nil {
		return nil, fmt.Errorf("managed identity: %w", err)
	}
	return func(ctx context.Context, claims string, fresh bool) (string, time.Time, time.Time, error) {
		s := &session{http: client}
		app, err := connect(s)
		if err != nil {
			return "", time.Time{}, time.Time{}, &Error{Kind: TokenRefused, Err: err}
		}
		var opts []managedidentity.AcquireTokenOption
		if fresh && claims == "" {
			// Claims are not sent for a managed identity; they make the
			// library pass its cache by.
			claims = `{"access_token":{}}`
		}
		if claims != "" {
			opts = append(opts, managedidentity.WithClaims(claims))
		}
		r, err := app.AcquireToken(ctx, c.Scope, opts...)
		if err != nil {
			return "", time.Time{}, time.Time{}, s.failure(err)
		}
		return r.AccessToken, r.ExpiresOn, r.Metadata.RefreshOn, nil
	}, nil
}

// read makes the library's credential, and returns the secret in it so that it
// can be kept out of error texts.
func (c Credential) read() (confidential.Credential, string, error) {
	none := confidential.Credential{}
	switch {
	case c.FederatedTokenFile != "":
		token, err := setting.File(c.FederatedTokenFile)
		if err != nil {
			return none, "", fmt.Errorf("AZURE_FEDERATED_TOKEN_FILE: %w", err)
		}
		return confidential.NewCredFromAssertionCallback(
			func(context.Context, confidential.AssertionRequestOptions) (string, error) { return token, nil }), token, nil
	case c.CertificatePath != "":
		password, err := c.certificatePassword()
		if err != nil {
			return none, "", err
		}
		cert, err := readCertificate(c.CertificatePath, password)
		if err != nil {
			return none, "", fmt.Errorf("AZURE_CLIENT_CERTIFICATE_PATH: %w", err)
		}
		cred, err := confidential.NewCredFromCert(cert.chain, cert.key)
		if err != nil {
			return none, "", fmt.Errorf("AZURE_CLIENT_CERTIFICATE_PATH: %s: %w", c.CertificatePath, err)
		}
		return cred, "", nil
	}
	secret, err := c.secret()
	if err != nil {
		return none, "", err
	}
	cred, err := confidential.NewCredFromSecret(secret)
	return cred, secret, err
}

// secret is the client secret.
func (c Credential) secret() (string, error) {
	if c.SecretFile != "" {
		secret, err := setting.File(c.SecretFile)
		if err != nil {
			return "", fmt.Errorf("AZURE_CLIENT_SECRET_FILE: %w", err)
		}
		return secret, nil
	}
	secret, err := setting.Text(c.Secret)
	if err != nil {
		return "", fmt.Errorf("AZURE_CLIENT_SECRET: %w", err)
	}
	return secret, nil
}

func (c Credential) certificatePassword() (string, error) {
	password, err := setting.Text(c.CertificatePassword)
	if err != nil {
		return "", fmt.Errorf("AZURE_CLIENT_CERTIFICATE_PASSWORD: %w", err)
	}
	return password, nil
}

// Doubt says what is odd about a credential that can be used, and what to do;
// both are empty where nothing is. What the credential is made of is not quoted.
func (c Credential) Doubt() (detail, do string) {
	if c.Kind() == certificateKind {
		password, _ := c.certificatePassword()
		cert, err := readCertificate(c.CertificatePath, password)
		if err != nil {
			return "", "" // no doubt, but an error: see Check
		}
		if detail, do = cert.doubt(time.Now()); detail != "" {
			detail = "AZURE_CLIENT_CERTIFICATE_PATH: " + detail
		}
		return detail, do
	}
	if c.Kind() != secretKind && c.Kind() != secretFileKind {
		return "", ""
	}
	name := "AZURE_CLIENT_SECRET"
	if c.SecretFile != "" {
		name = "AZURE_CLIENT_SECRET_FILE"
	}
	secret, err := c.secret()
	if err != nil {
		return "", "" // no doubt, but an error: see Check
	}
	if n := len(secret); n > 1 && strings.ContainsRune(`"'`, rune(secret[0])) && secret[0] == secret[n-1] {
		return name + ": the secret is in quotes, and they count as part of it", "remove the quotes: only a shell removes them; docker run --env-file and files do not"
	}
	const guid = 36 // bytes; the library also takes other forms
	if len(secret) == guid && uuid.Validate(secret) == nil {
		return name + ": the secret is a GUID, so it is probably the secret's id", "give the secret's value, which Entra shows once, when the secret is made"
	}
	return "", ""
}

// isMicrosoft reports whether a host is one of Microsoft's token services.
func isMicrosoft(host string) bool {
	for _, d := range []string{"microsoftonline.com", "microsoftonline.us", "microsoftonline.cn", "chinacloudapi.cn",
		"login.microsoft.com", "sts.windows.net", "login.windows.net", "usgovcloudapi.net"} {
		if host == d || strings.HasSuffix(host, "."+d) {
			return true
		}
	}
	return false
}
