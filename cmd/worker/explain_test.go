package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"passcode-worker/internal/graph/graphsim"
)

// TestCheckExplains says what the words of Entra and Graph mean and what to do,
// and fails where they are about every call; it does not repeat them.
func TestCheckExplains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	p := runCheck(t, w.env("AZURE_CLIENT_SECRET", "5ec7e700-0000-4000-8000-00000000d001"), exitFailed)
	p.is(t, "token", "failed", "AADSTS7000215")
	p.is(t, "token", "failed", "often someone has given the secret's id instead of its value")
	p = runCheck(t, w.env("GRAPH_ENDPOINT", w.sim.URL()+"/oops"), exitFailed)
	p.is(t, "Graph", "failed", "the address is not Graph's")

	for _, c := range []struct {
		status        int
		code, message string
		says, detail  string
		exit          int
	}{
		{400, "BadRequest", "Request not applicable to target tenant.", "failed", "the tenant has no Intune, or its licence has lapsed", exitFailed},
		{400, "AuthenticationError", "Error authenticating with resource", "failed", "Intune does not let Graph in", exitFailed},
		{404, "ResourceNotFound", "Invalid version: oops", "failed", "the root of Graph is wrong", exitFailed},
		{401, "InvalidAuthenticationToken", "Access token validation failure. Invalid audience.", "failed", "the token is for another cloud's Graph", exitFailed},
		{400, "BadRequest", "passcode hunter2", "failed", "HTTP 400", exitFailed},
		{404, "ResourceNotFound", "passcode hunter2", "failed", "HTTP 404", exitFailed},
		{403, "Forbidden", "passcode hunter2", "failed", "HTTP 403", exitFailed}, // although the token names the right
		{403, "Forbidden", "Application must have one of the following scopes: hunter2", "failed", "lacks the permission that the text names", exitFailed},
		{429, "TooManyRequests", "passcode hunter2", "warning", "HTTP 429", exitDone},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(`{"error":{"code":"` + c.code + `","message":` + strconv.Quote(c.message) + `}}`)) // the client sees less
		}))
		p := runCheck(t, w.env("GRAPH_ENDPOINT", s.URL), c.exit)
		s.Close()
		p.is(t, "Graph", c.says, c.detail)
		if text := fmt.Sprint(p); strings.Contains(text, "hunter2") {
			t.Errorf("quoted: %s", text)
		}
	}
}
