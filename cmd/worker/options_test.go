package main

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/verdict"
	"passcode-worker/internal/worker"
)

// option is one variable of worker run: its default, another value, and what
// either makes of the configuration.
type option struct {
	name, usual, other string
	get                func(worker.Config) any
	usualIs, otherIs   any
	with               []string // what the other value needs beside it, name by name
}

// noSecret takes the usual credential out of the way of another one.
var noSecret = []string{"AZURE_CLIENT_SECRET", ""}

func natsOptionTable(t *testing.T) []option {
	t.Helper()
	p := newPair(t)
	creds, nkey := write(t, "creds", natsCreds), write(t, "nkey", nkeySeed)
	cert, key := write(t, "cert.pem", p.cert), write(t, "key.pem", p.key)
	config := t.TempDir()
	if err := os.MkdirAll(filepath.Join(config, "nats", "context"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "nats", "context", "saved.json"), []byte(`{"user":"of the context"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CONFIG_HOME", config)
	return []option{
		{name: "NATS_URL", usual: "nats://127.0.0.1:4222", other: "tls://a.example:4222,b.example",
			get: func(c worker.Config) any { return c.NATS.URL }, usualIs: "nats://127.0.0.1:4222", otherIs: "tls://a.example:4222,b.example"},
		{name: "NATS_CREDS", other: creds, get: func(c worker.Config) any { return c.NATS.Creds }, usualIs: "", otherIs: creds},
		{name: "NATS_NKEY", other: nkey, get: func(c worker.Config) any { return c.NATS.NKey }, usualIs: "", otherIs: nkey},
		{name: "NATS_USER", other: "jo", get: func(c worker.Config) any { return c.NATS.User }, usualIs: "", otherIs: "jo"},
		{name: "NATS_PASSWORD", other: "-p w", with: []string{"NATS_USER", "jo"},
			get: func(c worker.Config) any { return c.NATS.Password }, usualIs: "", otherIs: "-p w"},
		{name: "NATS_TOKEN", other: "--t", get: func(c worker.Config) any { return c.NATS.Token }, usualIs: "", otherIs: "--t"},
		{name: "NATS_CONTEXT", other: "saved", get: func(c worker.Config) any { return c.NATS.User }, usualIs: "", otherIs: "of the context"},
		{name: "NATS_JWT", other: "a.b.c", get: func(c worker.Config) any { return c.NATS.JWT }, usualIs: "", otherIs: "a.b.c"},
		{name: "NATS_SEED", other: nkeySeed, with: []string{"NATS_JWT", "a.b.c"}, get: func(c worker.Config) any { return c.NATS.Seed }, usualIs: "", otherIs: nkeySeed},
		{name: "NATS_TIMEOUT", usual: "5s", other: "1m", get: func(c worker.Config) any { return c.NATS.Timeout }, usualIs: 5 * time.Second, otherIs: time.Minute},
		{name: "NATS_TLS_FIRST", usual: "false", other: "true", get: func(c worker.Config) any { return c.NATS.TLSFirst }, usualIs: false, otherIs: true},
		{name: "NATS_INBOX_PREFIX", other: "_INBOX_a.jo@b/c", get: func(c worker.Config) any { return c.NATS.InboxPrefix }, usualIs: "", otherIs: "_INBOX_a.jo@b/c"},
		{name: "NATS_JS_DOMAIN", other: "hub:eu/1", get: func(c worker.Config) any { return c.NATS.JSDomain }, usualIs: "", otherIs: "hub:eu/1"},
		{name: "NATS_JS_API_PREFIX", other: "$JS.hub.API.", get: func(c worker.Config) any { return c.NATS.JSAPIPrefix }, usualIs: "", otherIs: "$JS.hub.API"},
		{name: "NATS_CA", other: cert, get: func(c worker.Config) any { return c.NATS.CA }, usualIs: "", otherIs: cert},
		{name: "NATS_CERT", other: cert, with: []string{"NATS_KEY", key}, get: func(c worker.Config) any { return c.NATS.Cert }, usualIs: "", otherIs: cert},
		{name: "NATS_KEY", other: key, with: []string{"NATS_CERT", cert}, get: func(c worker.Config) any { return c.NATS.Key }, usualIs: "", otherIs: key},
	}
}

func azureOptionTable(t *testing.T) []option {
	t.Helper()
	p := newPair(t)
	secret, cert, federated := write(t, "secret", "s3cret\n"), write(t, "app.pem", p.cert+p.key), write(t, "federated", "a.b.c")
	tenants := write(t, "tenants.yaml", "- {name: contoso, tenantId: contoso.example}\n")
	const usual = "https://login.microsoftonline.com"
	return []option{
		{name: "AZURE_TENANT_ID", other: "contoso.example", get: func(c worker.Config) any { return c.Tenants[0].Credential.TenantID },
			usualIs: "7e4a17b0-0000-4000-8000-00000000a001", otherIs: "contoso.example"},
		{name: "AZURE_CLIENT_ID", other: "c11e4700-0000-4000-8000-00000000b002", get: func(c worker.Config) any { return c.Tenants[0].Credential.ClientID },
			usualIs: "c11e4700-0000-4000-8000-00000000b001", otherIs: "c11e4700-0000-4000-8000-00000000b002"},
		{name: "AZURE_CLIENT_SECRET", other: "-other~secret", get: func(c worker.Config) any { return c.Tenants[0].Credential.Secret },
			usualIs: "graphsim-not-a-real-client-secret", otherIs: "-other~secret"},
		{name: "AZURE_CLIENT_SECRET_FILE", other: secret, with: noSecret,
			get: func(c worker.Config) any { return c.Tenants[0].Credential.SecretFile }, usualIs: "", otherIs: secret},
		{name: "AZURE_CLIENT_CERTIFICATE_PATH", other: cert, with: noSecret,
			get: func(c worker.Config) any { return c.Tenants[0].Credential.CertificatePath }, usualIs: "", otherIs: cert},
		{name: "AZURE_CLIENT_CERTIFICATE_PASSWORD", other: "-pa ss", with: []string{"AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_CERTIFICATE_PATH", cert},
			get: func(c worker.Config) any { return c.Tenants[0].Credential.CertificatePassword }, usualIs: "", otherIs: "-pa ss"},
		{name: "AZURE_FEDERATED_TOKEN_FILE", other: federated, with: noSecret,
			get: func(c worker.Config) any { return c.Tenants[0].Credential.FederatedTokenFile }, usualIs: "", otherIs: federated},
		{name: "WORKER_MANAGED_IDENTITY", usual: "false", other: "true", with: noSecret,
			get: func(c worker.Config) any { return c.Tenants[0].Credential.ManagedIdentity }, usualIs: false, otherIs: true},
		{name: "AZURE_AUTHORITY_HOST", other: "https://login.example/", get: func(c worker.Config) any { return c.Tenants[0].Credential.Authority },
			usualIs: usual, otherIs: "https://login.example/"},
		{name: "WORKER_TENANTS_FILE", other: tenants, with: []string{"AZURE_TENANT_ID", ""},
			get: func(c worker.Config) any { return c.Tenants[0].Name }, usualIs: "default", otherIs: "contoso"},
		{name: "GRAPH_CLOUD", usual: "global", other: "dod",
			get: func(c worker.Config) any {
				return graph.Cloud{Endpoint: c.Endpoint, Authority: c.Tenants[0].Credential.Authority, Scope: c.Tenants[0].Credential.Scope}
			},
			usualIs: graph.Clouds()["global"], otherIs: graph.Clouds()["dod"]},
		{name: "GRAPH_ENDPOINT", other: "http://127.0.0.1:8080", get: func(c worker.Config) any { return c.Endpoint },
			usualIs: "https://graph.microsoft.com", otherIs: "http://127.0.0.1:8080"},
	}
}

func workOptionTable() []option {
	return []option{
		{name: "WORKER_TENANT", usual: "default", other: "contoso", get: func(c worker.Config) any { return c.Tenants[0].Name }, usualIs: "default", otherIs: "contoso"},
		{name: "WORKER_STREAM", usual: "PASSCODE_RESETS", other: "S", get: func(c worker.Config) any { return c.Names.Stream }, usualIs: "PASSCODE_RESETS", otherIs: "S"},
		{name: "WORKER_SUBJECT", usual: "passcode.reset.requests", other: "a.b", get: func(c worker.Config) any { return c.Names.Filter() },
			usualIs: "passcode.reset.requests.default", otherIs: "a.b.default"},
		{name: "WORKER_DEAD_STREAM", usual: "PASSCODE_RESETS_DEAD", other: "D", get: func(c worker.Config) any { return c.Names.DeadStream },
			usualIs: "PASSCODE_RESETS_DEAD", otherIs: "D"},
		{name: "WORKER_DEAD_SUBJECT", usual: "passcode.reset.dead", other: "a.d", get: func(c worker.Config) any { return c.Names.Dead() },
			usualIs: "passcode.reset.dead.default", otherIs: "a.d.default"},
		{name: "WORKER_BUCKET", usual: "passcode-resets", other: "b", get: func(c worker.Config) any { return c.Names.Bucket }, usualIs: "passcode-resets", otherIs: "b"},
		{name: "WORKER_SETUP", usual: "true", other: "false", get: func(c worker.Config) any { return c.Setup }, usualIs: true, otherIs: false},
		{name: "WORKER_CONCURRENCY", usual: "32", other: "1", get: func(c worker.Config) any { return c.Concurrency }, usualIs: 32, otherIs: 1},
		{name: "WORKER_RATE", usual: "200/20s", other: "0", get: func(c worker.Config) any { return c.Tenants[0].Rate },
			usualIs: pace.Rate{N: 200, W: 20 * time.Second}, otherIs: pace.Rate{}},
		{name: "WORKER_REQUEST_TIMEOUT", usual: "30s", other: "1s", get: func(c worker.Config) any { return c.Policy.RequestTimeout },
			usualIs: 30 * time.Second, otherIs: time.Second},
		{name: "WORKER_MAX_ATTEMPTS", usual: "8", other: "3", get: func(c worker.Config) any { return c.Policy.MaxAttempts }, usualIs: 8, otherIs: 3},
		{name: "WORKER_BACKOFF_MIN", usual: "2s", other: "100ms", get: func(c worker.Config) any { return c.Policy.BackoffMin },
			usualIs: 2 * time.Second, otherIs: 100 * time.Millisecond},
		{name: "WORKER_BACKOFF_MAX", usual: "5m", other: "1h30m", get: func(c worker.Config) any { return c.Policy.BackoffMax },
			usualIs: 5 * time.Minute, otherIs: 90 * time.Minute},
		{name: "WORKER_MAX_PAUSE", usual: "1h", other: "2s", get: func(c worker.Config) any { return c.MaxPause }, usualIs: time.Hour, otherIs: 2 * time.Second},
		{name: "WORKER_MAX_AGE", usual: "24h", other: "0", get: func(c worker.Config) any { return c.Policy.MaxAge }, usualIs: 24 * time.Hour, otherIs: time.Duration(0)},
		{name: "WORKER_VERIFY_AFTER", usual: "30s", other: "1s", get: func(c worker.Config) any { return c.Policy.VerifyAfter },
			usualIs: 30 * time.Second, otherIs: time.Second},
		{name: "WORKER_FUSE", usual: "0", other: "500/1h", get: func(c worker.Config) any { return c.Fuse },
			usualIs: pace.Rate{}, otherIs: pace.Rate{N: 500, W: time.Hour}},
		{name: "WORKER_DEVICE_COOLDOWN", usual: "0s", other: "15m", get: func(c worker.Config) any { return c.Cooldown },
			usualIs: time.Duration(0), otherIs: 15 * time.Minute},
		{name: "WORKER_FOLLOW", usual: "auto", other: "off", get: func(c worker.Config) any { return c.Follow }, usualIs: worker.FollowAuto, otherIs: worker.FollowOff},
		{name: "WORKER_FOLLOW_FOR", usual: "168h", other: "24h", get: func(c worker.Config) any { return c.FollowPlan.For }, usualIs: 168 * time.Hour, otherIs: 24 * time.Hour},
		{name: "WORKER_FOLLOW_STREAM", usual: "PASSCODE_RESETS_FOLLOW", other: "F", get: func(c worker.Config) any { return c.Names.FollowStream }, usualIs: "PASSCODE_RESETS_FOLLOW", otherIs: "F"},
		{name: "WORKER_FOLLOW_SUBJECT", usual: "passcode.reset.follow", other: "a.f", get: func(c worker.Config) any { return c.Names.FollowSubject }, usualIs: "passcode.reset.follow", otherIs: "a.f"},
		{name: "WORKER_ACTION_NAMES", other: "newPIN, Clear it", get: func(c worker.Config) any { return strings.Join(c.ActionNames, "|") },
			usualIs: "", otherIs: "newPIN|Clear it"},
		{name: "WORKER_ON_UNKNOWN", usual: "dead-letter", other: "retry", get: func(c worker.Config) any { return c.Policy.OnUnknown },
			usualIs: verdict.UnknownDeadLetter, otherIs: verdict.UnknownRetry},
		{name: "WORKER_HTTP_ADDR", usual: ":9090", other: "[::1]:0", get: func(c worker.Config) any { return c.HTTPAddr }, usualIs: ":9090", otherIs: "[::1]:0"},
		{name: "WORKER_LOG_LEVEL", usual: "info", other: "WARN", get: func(c worker.Config) any { return c.Log.Level().String() }, usualIs: "info", otherIs: "warn"},
		// The encoding is not to be seen from outside: TestLogFormat looks at it.
		{name: "WORKER_LOG_FORMAT", usual: "json", other: "console", get: func(c worker.Config) any { return c.Log.Level().String() }, usualIs: "info", otherIs: "info"},
		{name: "WORKER_DRAIN_TIMEOUT", usual: "25s", other: "1m", get: func(c worker.Config) any { return c.DrainTimeout }, usualIs: 25 * time.Second, otherIs: time.Minute},
	}
}

func optionTable(t *testing.T) []option {
	t.Helper()
	return slices.Concat(natsOptionTable(t), azureOptionTable(t), workOptionTable())
}

// configure reads a configuration as worker run does.
func configure(t *testing.T, env map[string]string, args ...string) (worker.Config, error) {
	t.Helper()
	setenv(t, env)
	var c cli
	p, err := newParser(&c, streams{io.Discard, io.Discard}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(append([]string{"run"}, args...)); err != nil {
		t.Fatal(err)
	}
	r := &reader{}
	cfg, _ := c.Run.config(r)
	return cfg, r.err()
}

func TestOptionTableIsComplete(t *testing.T) {
	var listed []string
	for _, o := range optionTable(t) {
		listed = append(listed, o.name)
	}
	known := variables(reflect.TypeFor[runCmd]())
	slices.Sort(listed)
	slices.Sort(known)
	if !slices.Equal(listed, known) {
		t.Errorf("tested variables: %q\nknown variables:  %q", listed, known)
	}
}

func TestOptions(t *testing.T) {
	env := credentials(t)
	delete(env, "WORKER_HTTP_ADDR")
	for _, o := range optionTable(t) {
		t.Run(o.name, func(t *testing.T) {
			check := func(how string, want any, env map[string]string, args ...string) {
				t.Helper()
				cfg, err := configure(t, env, args...)
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if got := o.get(cfg); !reflect.DeepEqual(got, want) {
					t.Errorf("%s: got %v, want %v", how, got, want)
				}
			}
			check("nothing set", o.usualIs, env)
			if o.usual != "" {
				check("default written out", o.usualIs, with(env, o.name, o.usual))
				check("empty variable", o.usualIs, with(env, o.name, ""))
			}
			rest := with(env, o.with...)
			check("variable", o.otherIs, with(rest, o.name, o.other))
			check("flag", o.otherIs, rest, flagOf(o.name)+"="+o.other)
			if !strings.HasPrefix(o.other, "-") {
				check("flag and its value apart", o.otherIs, rest, flagOf(o.name), o.other)
			}
			if env[o.name] != "" || o.usual != "" {
				usual := o.usual + env[o.name] // one of them is empty
				check("flag beside the variable", o.otherIs, with(rest, o.name, usual), flagOf(o.name)+"="+o.other)
			}
			if o.usual != "" {
				check("flag back to the default", o.usualIs, with(env, o.name, o.other), flagOf(o.name)+"="+o.usual)
			}
		})
	}
}

func TestBrief(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "100ms": 100 * time.Millisecond, "10s": 10 * time.Second, "5m": 5 * time.Minute, "20m": 20 * time.Minute, "1m10s": 70 * time.Second,
		"1h": time.Hour, "24h": 24 * time.Hour, "1h10m": 70 * time.Minute, "10h0m10s": 10*time.Hour + 10*time.Second,
	} {
		if got := brief(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
