package graphsim_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

func tokenClaims(t *testing.T, token string) map[string]any {
	t.Helper()
	part := strings.Split(token, ".")
	if len(part) != 3 || part[2] == "" {
		t.Fatalf("token %q", token)
	}
	payload, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func tokenRoles(t *testing.T, token string) []string {
	t.Helper()
	var out []string
	list, _ := tokenClaims(t, token)["roles"].([]any)
	for _, r := range list {
		out = append(out, r.(string))
	}
	return out
}

func TestToken(t *testing.T) {
	s := start(t, graphsim.Config{TokenLifetime: 20 * time.Minute})
	c := newClient(t, s, true)
	first := c.token
	claims := tokenClaims(t, first)
	if claims["tid"] != graphsim.DefaultTenantID || claims["appid"] != graphsim.DefaultClientID || claims["jti"] == "" ||
		claims["aud"] != "https://graph.microsoft.com" || !slices.Equal(tokenRoles(t, first), []string{graphsim.RoleReset, graphsim.RoleRead}) {
		t.Errorf("claims %v", claims)
	}
	if left := time.Until(time.Unix(int64(claims["exp"].(float64)), 0)); left < 19*time.Minute || left > 20*time.Minute {
		t.Errorf("expires in %v", left)
	}
	form := tokenForm()
	form.Set("claims", `{"access_token":{}}`)
	_, answer, _ := c.askToken(strings.ToUpper(graphsim.DefaultTenantID), form)
	if answer["access_token"] == first || answer["token_type"] != "Bearer" || answer["expires_in"] != 1200. {
		t.Errorf("answer %v", answer)
	}
	calls := s.TokenCalls()
	if len(calls) != 2 || calls[1].Claims != `{"access_token":{}}` || calls[1].Credential != "secret" || calls[1].Status != 200 ||
		calls[1].ClientID != graphsim.DefaultClientID || calls[1].GrantType != "client_credentials" || calls[1].Tenant != graphsim.DefaultTenantID {
		t.Errorf("calls %+v", calls)
	}
	c.token = first[:len(first)-1] // not one of ours
	c.wantStatus(graphsim.GoodDevice(1), 401)
	if v := s.Violations(); len(v) != 0 {
		t.Errorf("violations %v", v)
	}

	bare := start(t, graphsim.Config{Roles: []string{}})
	if _, ok := tokenClaims(t, newClient(t, bare, true).token)["roles"]; ok {
		t.Error("an empty roles claim")
	}
}

func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newDirect(t, graphsim.Config{})
		time.Sleep(time.Hour - time.Nanosecond) // fake time
		c.wantStatus(graphsim.GoodDevice(1), 204)
		time.Sleep(time.Nanosecond) // fake time
		if e := graphError(t, c.wantStatus(graphsim.GoodDevice(1), 401)); e.Code != "InvalidAuthenticationToken" {
			t.Errorf("%+v", e)
		}
	})
}

func TestTokenRefusals(t *testing.T) {
	s := start(t, graphsim.Config{FederatedToken: "federated-token"})
	c := newClient(t, s, true)
	with := func(key, value string) url.Values {
		f := maps.Clone(tokenForm())
		f.Set(key, value)
		return f
	}
	assertion := func(value, kind string) url.Values {
		f := with("client_assertion", value)
		f.Del("client_secret")
		f.Set("client_assertion_type", kind)
		return f
	}
	const jwtBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	none := tokenForm()
	none.Del("client_secret")
	for _, tc := range []struct {
		tenant string
		form   url.Values
		status int
		kind   string
		code   string
	}{
		{graphsim.DefaultTenantID, with("client_secret", "wrong"), 401, "invalid_client", "AADSTS7000215"},
		{graphsim.DefaultTenantID, none, 401, "invalid_client", "AADSTS7000216"},
		{graphsim.DefaultTenantID, with("client_id", graphsim.GoodDevice(1)), 400, "unauthorized_client", "AADSTS700016"},
		{graphsim.DefaultTenantID, with("grant_type", ""), 400, "invalid_request", "AADSTS900144"},
		{graphsim.DefaultTenantID, with("grant_type", "password"), 400, "unsupported_grant_type", "AADSTS70003"},
		{graphsim.DefaultTenantID, with("scope", "https://graph.microsoft.com/User.Read"), 400, "invalid_scope", "AADSTS70011"},
		{graphsim.DefaultTenantID, with("scope", ""), 400, "invalid_scope", "AADSTS70011"},
		{graphsim.GoodDevice(1), tokenForm(), 400, "invalid_tenant", "AADSTS90002"},
		{graphsim.DefaultTenantID, assertion("federated-token", ""), 400, "invalid_request", "AADSTS900144"},
		{graphsim.DefaultTenantID, assertion("other-token", jwtBearer), 401, "invalid_client", "AADSTS700027"},
		{graphsim.DefaultTenantID, assertion("federated-token", jwtBearer), 200, "", ""},
	} {
		status, answer, _ := c.askToken(tc.tenant, tc.form)
		if status != tc.status {
			t.Errorf("%v: %d %v", tc.form, status, answer)
			continue
		}
		calls := s.TokenCalls()
		if last := calls[len(calls)-1]; last.Status != status || last.Error != tc.code {
			t.Errorf("%v: logged %+v", tc.form, last)
		}
		if status == 200 {
			continue
		}
		text := answer["error_description"].(string)
		if answer["error"] != tc.kind || !strings.HasPrefix(text, tc.code+":") || !strings.Contains(text, "Trace ID") ||
			answer["correlation_id"] == "" || len(answer["error_codes"].([]any)) != 1 {
			t.Errorf("%v: %v", tc.form, answer)
		}
	}
	resp, err := c.http.Get(s.URL() + "/" + graphsim.DefaultTenantID + "/oauth2/v2.0/token")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", resp.StatusCode)
	}
	if !slices.Contains(s.Secrets(), "federated-token") {
		t.Error("Secrets lacks the federated token")
	}
}
