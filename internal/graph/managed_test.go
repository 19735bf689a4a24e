package graph

import (
	"context"
	"crypto/sha1" //nolint:gosec // Service Fabric's thumbprints are SHA-1
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

const identityHeader = "header-secret-of-this-machine"

// identity runs the identity service of App Service, as far as the library
// needs it. These tests set the environment, so they are not parallel.
func identity(t *testing.T, answer http.HandlerFunc) *atomic.Int32 {
	t.Helper()
	var requests atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if r.Header.Get("X-IDENTITY-HEADER") != identityHeader || r.FormValue("resource") != "https://graph.microsoft.com" {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	t.Setenv("IDENTITY_ENDPOINT", s.URL+"/msi/token")
	t.Setenv("IDENTITY_HEADER", identityHeader)
	t.Setenv("IDENTITY_SERVER_THUMBPRINT", "")
	return &requests
}

// managed is a credential of its own in the library's cache, which is one for
// the whole process.
func managed(client string) Credential {
	return Credential{ManagedIdentity: true, ClientID: client, Scope: "https://graph.microsoft.com/.default"}
}

func TestManagedIdentity(t *testing.T) {
	issued, client := 0, uuid.NewString()
	requests := identity(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("client_id") != client {
			t.Errorf("%s", r.URL)
		}
		issued++
		_, _ = fmt.Fprintf(w, `{"access_token":"token-%d","expires_on":"%d","resource":"r","token_type":"Bearer","client_id":"c"}`,
			issued, time.Now().Add(24*time.Hour).Unix())
	})
	f, err := managed(client).Acquire()
	if err != nil {
		t.Fatal(err)
	}
	get := func(fresh bool, claims string) string {
		value, expires, refresh, err := f(t.Context(), claims, fresh)
		if err != nil || time.Until(expires) < 23*time.Hour || fresh && time.Until(refresh) < 11*time.Hour {
			t.Errorf("%v, %v, %v", expires, refresh, err)
		}
		return value
	}
	for n, tc := range []struct {
		fresh  bool
		claims string
		want   string
	}{
		{false, "", "token-1"},
		{false, "", "token-1"}, // from the library's cache
		{true, "", "token-2"},
		{false, "", "token-2"},
		{true, `{"access_token":{"nbf":{"essential":true}}}`, "token-3"},
	} {
		if got := get(tc.fresh, tc.claims); got != tc.want {
			t.Errorf("%d: %s, want %s", n, got, tc.want)
		}
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests", n)
	}
}

func TestSystemAssignedIdentity(t *testing.T) {
	identity(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("client_id") != "" {
			t.Errorf("%s", r.URL)
		}
		_, _ = fmt.Fprintf(w, `{"access_token":"system","expires_on":"%d","token_type":"Bearer"}`, time.Now().Add(time.Hour).Unix())
	})
	if value, err := acquire(t, managed(""), ""); err != nil || value != "system" {
		t.Error(value, err)
	}
}

func TestManagedIdentityFailures(t *testing.T) {
	var answer http.HandlerFunc
	requests := identity(t, func(w http.ResponseWriter, r *http.Request) { answer(w, r) })
	plain := func(status int, header http.Header, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range header {
				w.Header()[k] = v
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, tc := range map[string]struct {
		do   http.HandlerFunc
		want Error
	}{
		"no such identity": {plain(400, nil, `{"error":"invalid_request","error_description":"Identity not found"}`),
			Error{Kind: TokenRefused, Status: 400, Code: "invalid_request", Message: "Identity not found"}},
		"echo": {plain(403, nil, `{"error":"invalid_request","error_description":"bad header `+identityHeader+`"}`),
			Error{Kind: TokenRefused, Status: 403, Code: "invalid_request", Message: "bad header [secret]"}},
		"throttled": {plain(429, http.Header{"Retry-After": {"7"}}, ""), Error{Kind: TokenUnavailable, Status: 429, RetryAfter: 7 * time.Second}},
		"broken":    {plain(500, nil, "oops"), Error{Kind: TokenUnavailable, Status: 500}},
		"redirect":  {plain(307, http.Header{"Location": {"http://127.0.0.1:1/"}}, ""), Error{Kind: TokenUnavailable, Status: 307}},
		"HTML":      {plain(200, nil, "<html>"), Error{Kind: TokenUnavailable, Message: "the token service's answer is not JSON, or not a token"}},
	} {
		answer = tc.do
		requests.Store(0)
		_, err := acquire(t, managed("failing"), "")
		if e := asError(t, err); *e != tc.want {
			t.Errorf("%s: %#v, want %#v", name, *e, tc.want)
		}
		noTrace(t, err, identityHeader)
		if n := requests.Load(); n != 1 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

// TestManagedIdentityPassesProxies checks that no proxy is asked: it would not
// reach this machine's service.
func TestManagedIdentityPassesProxies(t *testing.T) {
	for managed, want := range map[bool]bool{true: false, false: true} {
		c := Credential{Authority: "https://login.microsoftonline.com", TenantID: "t", ClientID: "c", Secret: "s", ManagedIdentity: managed}
		if got := c.transport().Proxy != nil; got != want {
			t.Errorf("managed %t: a proxy may be used: %t", managed, got)
		}
	}
}

// TestServiceFabric pins the certificate that the environment names.
func TestServiceFabric(t *testing.T) {
	var secret atomic.Value
	s, _ := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		secret.Store(r.Header.Get("Secret"))
		_, _ = fmt.Fprintf(w, `{"access_token":"fabric","expires_on":"%d","token_type":"Bearer"}`, time.Now().Add(time.Hour).Unix())
	})
	thumbprint := sha1.Sum(s.Certificate().Raw) //nolint:gosec // as above
	t.Setenv("IDENTITY_ENDPOINT", s.URL+"/metadata/identity/oauth2/token")
	t.Setenv("IDENTITY_HEADER", identityHeader)
	t.Setenv("IDENTITY_SERVER_THUMBPRINT", hex.EncodeToString(thumbprint[:]))
	value, err := acquire(t, managed(""), "")
	if err != nil || value != "fabric" || secret.Load() != identityHeader {
		t.Error(value, err, secret.Load())
	}
	if _, err := managed("user-assigned").Acquire(); err == nil || !strings.Contains(err.Error(), "managed identity") {
		t.Error(err)
	}
	t.Setenv("IDENTITY_SERVER_THUMBPRINT", strings.Repeat("00", 20))
	f, err := managed("").Acquire()
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, err = f(context.Background(), "", true)
	wantKind(t, err, TokenUnavailable)
}
