package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf16"

	"passcode-worker/internal/graph/graphsim"
)

const mark = "\uFEFF"

// utf16le is a text as Windows PowerShell's > writes it.
func utf16le(s string) string {
	out := []byte{0xFF, 0xFE}
	for _, u := range utf16.Encode([]rune(s)) {
		out = append(out, byte(u), byte(u>>8))
	}
	return string(out)
}

// TestSecretsWithUnseenBytes gets a token with the right secret, given as
// editors, shells and base64 leave it, and with what cannot be meant.
func TestSecretsWithUnseenBytes(t *testing.T) {
	t.Parallel()
	const secret, federated = graphsim.DefaultClientSecret, "eyJ.federated.token"
	w := newGraph(t, graphsim.Config{FederatedToken: federated})
	for name, changes := range map[string][]string{
		"line break":      {"AZURE_CLIENT_SECRET", secret + "\n"},
		"space before":    {"AZURE_CLIENT_SECRET", " " + secret},
		"mark":            {"AZURE_CLIENT_SECRET", mark + secret},
		"tab at an id":    {"AZURE_TENANT_ID", graphsim.DefaultTenantID + "\t", "AZURE_CLIENT_ID", " " + graphsim.DefaultClientID + "\r\n"},
		"blank variables": {"AZURE_CLIENT_SECRET_FILE", " ", "GRAPH_CLOUD", "\n", "WORKER_RATE", " 10/1s "},
		"file":            {"AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_SECRET_FILE", write(t, "secret", mark+secret+"\r\n") + "\n"},
		"federated token": {"AZURE_CLIENT_SECRET", "", "AZURE_FEDERATED_TOKEN_FILE", write(t, "token", mark+federated+"\r\n")},
	} {
		r := runFor(t, w.env(changes...), "check", "-o", "json")
		if !strings.Contains(r.out, `"status":"ok","what":"token"`) {
			t.Errorf("%s: status %d\n%s%s", name, r.code, r.out, r.err)
		}
	}
	for name, c := range map[string]struct {
		env  []string
		want []string // every problem, and nothing else
	}{
		"UTF-16 file":             {[]string{"AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_SECRET_FILE", write(t, "wide", utf16le(secret+"\r\n"))}, []string{"AZURE_CLIENT_SECRET_FILE: ", "UTF-16"}},
		"UTF-16 token":            {[]string{"AZURE_CLIENT_SECRET", "", "AZURE_FEDERATED_TOKEN_FILE", write(t, "wide", utf16le(federated))}, []string{"AZURE_FEDERATED_TOKEN_FILE: ", "UTF-16"}},
		"control character":       {[]string{"AZURE_CLIENT_SECRET", secret[:3] + "\x1b" + secret[3:]}, []string{"AZURE_CLIENT_SECRET: ", "control character, at byte 4"}},
		"two lines":               {[]string{"AZURE_CLIENT_SECRET", secret + "\n" + secret}, []string{"AZURE_CLIENT_SECRET: ", "more than one line"}},
		"a mark inside a file":    {[]string{"AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_SECRET_FILE", write(t, "two", secret+mark+secret)}, []string{"AZURE_CLIENT_SECRET_FILE: ", "byte order mark in the middle"}},
		"NATS password":           {[]string{"NATS_USER", "jo", "NATS_PASSWORD", "hunter2\x07"}, []string{"NATS_PASSWORD: ", "control character"}},
		"NATS user of a password": {[]string{"NATS_USER", "j\x01o", "NATS_PASSWORD", "hunter2"}, []string{"NATS_USER: ", "control character"}},
		"not UTF-8":               {[]string{"NATS_TOKEN", "hunter2\xE4"}, []string{"NATS_TOKEN: ", "not UTF-8"}},
	} {
		r := runFor(t, w.env(c.env...), "run")
		found := problems(r.err)
		if r.code != exitUsage || len(found) != 1 || !strings.HasPrefix(found[0], c.want[0]) || !strings.Contains(found[0], c.want[1]) {
			t.Errorf("%s: status %d, want one problem with %q\n%s", name, r.code, c.want, r.err)
		}
		if strings.Contains(r.err, secret[:10]) || strings.Contains(r.err, "hunter2") {
			t.Errorf("%s: quoted: %s", name, r.err)
		}
	}
	r := runFor(t, w.env("AZURE_TENANT_ID", "a\x01b", "AZURE_CLIENT_ID", "a\nb", "AZURE_CLIENT_SECRET", "a\x7fb", "WORKER_RATE", "1\t/1s"), "run")
	if names := strings.Join(problemNames(r.err), " "); r.code != exitUsage || names != "AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET WORKER_RATE" {
		t.Errorf("all at once: status %d, %s", r.code, names)
	}
}

// TestSecretIsItsID warns of the secret's id in place of its value, once.
func TestSecretIsItsID(t *testing.T) {
	t.Parallel()
	const guid, says = "5ec7e700-0000-4000-8000-00000000d001", "the secret is a GUID, so it is probably the secret's id"
	w := newWorld(t, graphsim.Config{ClientSecret: guid, Tenants: []string{"7e4a17b0-0000-4000-8000-00000000a002"}})
	w.setUp()
	p := runCheck(t, w.env("AZURE_CLIENT_SECRET", guid+"\n"), exitDone)
	p.is(t, "configuration", "warning", "AZURE_CLIENT_SECRET: "+says)
	p.is(t, "token", "ok", "by client secret")

	file := write(t, "secret", guid+"\r\n")
	tenants := write(t, "tenants.yaml", fmt.Sprintf("- {name: default, tenantId: %s}\n- {name: other, tenantId: 7e4a17b0-0000-4000-8000-00000000a002}\n", graphsim.DefaultTenantID))
	for name, env := range map[string]map[string]string{
		"AZURE_CLIENT_SECRET":      w.env("AZURE_CLIENT_SECRET", guid),
		"AZURE_CLIENT_SECRET_FILE": w.env("AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_SECRET_FILE", file, "WORKER_TENANTS_FILE", tenants, "AZURE_TENANT_ID", ""),
	} {
		running := launch(t, env, "run")
		running.awaitReady()
		running.stop()
		if log := running.out.String() + running.err.String(); strings.Count(log, name+": "+says) != 1 || strings.Contains(log, guid) {
			t.Errorf("%s: not told just once, or quoted:\n%s", name, log)
		}
	}
}

// TestSecretInQuotes warns of quotes that an env file or a manifest has kept.
func TestSecretInQuotes(t *testing.T) {
	t.Parallel()
	w := newGraph(t, graphsim.Config{})
	for _, quote := range []string{`"`, `'`} {
		r := runFor(t, w.env("AZURE_CLIENT_SECRET", quote+graphsim.DefaultClientSecret+quote), "check")
		if r.code != exitFailed || !strings.Contains(r.out, "AZURE_CLIENT_SECRET: the secret is in quotes") || strings.Contains(r.out+r.err, graphsim.DefaultClientSecret) {
			t.Errorf("%s: status %d\n%s%s", quote, r.code, r.out, r.err)
		}
	}
	if r := runFor(t, w.env(), "check"); strings.Contains(r.out, "in quotes") {
		t.Error(r.out)
	}
}

// TestSecretIsReadAgain holds each reading of a file to the same rules: one that
// cannot be meant any more stops the tenant, and its repair ends that.
func TestSecretIsReadAgain(t *testing.T) {
	t.Parallel()
	const secret = graphsim.DefaultClientSecret
	w := newWorld(t, graphsim.Config{})
	file := write(t, "secret", secret)
	p := launch(t, w.env("AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_SECRET_FILE", file), "run")
	p.awaitReady()
	if err := os.WriteFile(file, []byte(utf16le(secret)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.publish(body("1", graphsim.GoodDevice(1)), nil)
	await(t, "the hold", func() bool { _, ready := p.get("/readyz"); return strings.Contains(ready, "UTF-16") })
	replace(t, file, mark+secret+"\r\n")
	w.awaitState("1", "accepted")
	p.stop()
	w.checkSecrets(p)
}
