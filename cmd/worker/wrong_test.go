package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// wrong is a configuration that is not usable for one reason.
type wrong struct {
	name  string   // of the variable that is to be named
	value string   // of it
	also  []string // what else is set, name by name
	says  string   // what is to be done about it
}

func wrongTable(t *testing.T) []wrong {
	t.Helper()
	p, other := newPair(t), newPair(t)
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	text, empty := write(t, "text", "hello"), write(t, "empty", " \n")
	cert, key, otherKey := write(t, "cert", p.cert), write(t, "key", p.key), write(t, "other", other.key)
	mixed := write(t, "mixed", p.cert+other.key)
	const (
		unread = "it cannot be read: "
		server = "like nats://host:4222"
		plain  = "a name of letters, digits, - and _"
		time   = "write it like 30s, 5m or 24h"
		short  = "is too short: it must be at least "
	)
	list := []wrong{
		{name: "NATS_URL", value: "http://h:4222", says: "its scheme is none of: nats, tls, ws, wss"},
		{name: "NATS_URL", value: "nats://", says: server},
		{name: "NATS_URL", value: "a b,c d", says: server},
		{name: "NATS_URL", value: "nats://h:99999", says: server},
		{name: "NATS_URL", value: "nats://h:4222,", says: server},
		{name: "NATS_URL", value: "nats://h:4222,wss://h:443", says: "they cannot be mixed"},
		{name: "NATS_CREDS", value: missing, says: unread},
		{name: "NATS_CREDS", value: text, says: "is not a NATS credentials file"},
		{name: "NATS_NKEY", value: dir, says: unread},
		{name: "NATS_NKEY", value: text, says: "is not a file with the nkey seed of a user"},
		{name: "NATS_CREDS, NATS_USER", value: "", also: []string{"NATS_CREDS", write(t, "creds", natsCreds), "NATS_USER", "jo"}, says: "give one of them"},
		{name: "NATS_PASSWORD", value: "pw", says: "it needs NATS_USER"},
		{name: "NATS_SEED", value: nkeySeed, says: "it needs NATS_JWT"},
		{name: "NATS_SEED", value: text, also: []string{"NATS_JWT", "a.b.c"}, says: "it is not the seed of a user"},
		{name: "NATS_JWT", value: text, says: "it is not a JWT; if it is a file, give it in NATS_CREDS"},
		{name: "NATS_TOKEN, NATS_JWT", also: []string{"NATS_TOKEN", "t", "NATS_JWT", "a.b.c"}, says: "give one of them"},
		{name: "NATS_TIMEOUT", value: "5", says: "is not a duration: write it like 30s, 5m or 24h"},
		{name: "NATS_TIMEOUT", value: "0s", says: "it must be at least 100ms"},
		{name: "NATS_TLS_FIRST", value: "first", says: "is neither true nor false"},
		{name: "NATS_INBOX_PREFIX", value: "_INBOX.", says: "is not a subject without wildcards and without a dot at the end"},
		{name: "NATS_INBOX_PREFIX", value: "_INBOX.>", says: "is not a subject without wildcards"},
		{name: "NATS_JS_DOMAIN", value: "a.b", says: "is not a name without spaces, dots or wildcards"},
		{name: "NATS_JS_API_PREFIX", value: "JS.*", says: "is not a subject without wildcards"},
		{name: "NATS_JS_DOMAIN, NATS_JS_API_PREFIX", also: []string{"NATS_JS_DOMAIN", "a", "NATS_JS_API_PREFIX", "b"}, says: "give one of them"},
		{name: "NATS_CONTEXT", value: "../x", says: "is not the name of a context"},
		{name: "NATS_CONTEXT", value: "none-of-that-name", says: "it cannot be read"},
		{name: "NATS_CA", value: missing, says: unread},
		{name: "NATS_CA", value: write(t, "wide", utf16le(p.cert)), says: "it is UTF-16 text"},
		{name: "NATS_NKEY", value: write(t, "wide", utf16le(nkeySeed)), says: "it is UTF-16 text"},
		{name: "NATS_CREDS", value: write(t, "wide", utf16le(natsCreds)), says: "it is UTF-16 text"},
		{name: "NATS_CA", value: text, says: "is not a PEM file with certificates"},
		{name: "NATS_CERT, NATS_KEY", also: []string{"NATS_CERT", cert}, says: "give both or neither"},
		{name: "NATS_CERT, NATS_KEY", also: []string{"NATS_CERT", cert, "NATS_KEY", text}, says: "PEM files with a certificate and its unencrypted key"},
		{name: "NATS_CERT, NATS_KEY", also: []string{"NATS_CERT", cert, "NATS_KEY", otherKey}, says: "PEM files with a certificate and its unencrypted key"},
		{name: "NATS_KEY", value: missing, also: []string{"NATS_CERT", cert}, says: unread},

		{name: "AZURE_TENANT_ID", value: "", says: "it is missing: give the directory's GUID"},
		{name: "AZURE_TENANT_ID", value: "a/b", says: "give the directory's GUID"},
		{name: "AZURE_CLIENT_ID", value: "", says: "it is missing: give the application's GUID"},
		{name: "AZURE_CLIENT_ID", value: "a~b", says: "give the application's GUID"},
		{name: "AZURE_CLIENT_SECRET", value: "", says: "there is no credential: give AZURE_CLIENT_SECRET, AZURE_CLIENT_SECRET_FILE, AZURE_CLIENT_CERTIFICATE_PATH, " +
			"AZURE_FEDERATED_TOKEN_FILE or WORKER_MANAGED_IDENTITY=true"},
		{name: "AZURE_CLIENT_SECRET, AZURE_FEDERATED_TOKEN_FILE, WORKER_MANAGED_IDENTITY", says: "give one credential, not 3",
			also: []string{"AZURE_FEDERATED_TOKEN_FILE", text, "WORKER_MANAGED_IDENTITY", "true"}},
		{name: "WORKER_MANAGED_IDENTITY", value: "maybe", says: "neither true nor false"},
		{name: "AZURE_AUTHORITY_HOST", value: "login.example", says: "write it like https://login.microsoftonline.com"},
		{name: "AZURE_AUTHORITY_HOST", value: "http://login.example", says: "write it like https://login.microsoftonline.com"},
		{name: "AZURE_AUTHORITY_HOST", value: "https://login.example/contoso.com", says: "AZURE_TENANT_ID names the directory"},
		{name: "AZURE_AUTHORITY_HOST", value: "https://jo:pw@login.example", says: "it holds a user: write it like"},
		{name: "GRAPH_CLOUD", value: "mars", says: "none of: china, dod, global, usgov"},
		{name: "GRAPH_ENDPOINT", value: "graph.example", says: "https"},
		{name: "GRAPH_ENDPOINT", value: "http://graph.example", says: "would send tokens unencrypted: use https"},
		{name: "GRAPH_ENDPOINT", value: "http://10.0.0.1:80", says: "would send tokens unencrypted: use https"},
		{name: "GRAPH_ENDPOINT", value: "https://graph.microsoft.com/v1.0", says: "write the address of Graph without it"},
		{name: "GRAPH_ENDPOINT", value: "https://graph.microsoft.com/v1.0/", says: "write the address of Graph without it"},
		{name: "GRAPH_ENDPOINT", value: "https://graph.microsoft.com/beta", says: "write the address of Graph without it"},
		{name: "GRAPH_ENDPOINT", value: "https://jo:pw@graph.example", says: "it holds a user: write the address"},
		{name: "GRAPH_ENDPOINT", value: "https://graph.example?x=1", says: "write it like https://graph.microsoft.com"},

		{name: "WORKER_TENANT", value: "a.b", says: plain},
		{name: "WORKER_STREAM", value: "a b", says: plain},
		{name: "WORKER_SUBJECT", value: "a.*", says: "a subject without wildcards"},
		{name: "WORKER_SUBJECT", value: "a..b", says: "a subject without wildcards"},
		{name: "WORKER_DEAD_STREAM", value: "a.b", says: plain},
		{name: "WORKER_DEAD_SUBJECT", value: ">", says: "a subject without wildcards"},
		{name: "WORKER_BUCKET", value: "a/b", says: plain},
		{name: "WORKER_STREAM, WORKER_DEAD_STREAM", also: []string{"WORKER_STREAM", "PASSCODE_RESETS_DEAD"}, says: "they must differ"},
		{name: "WORKER_SUBJECT, WORKER_DEAD_SUBJECT", also: []string{"WORKER_SUBJECT", "passcode.reset.dead"}, says: "they must differ"},
		{name: "WORKER_SETUP", value: "perhaps", says: "neither true nor false"},

		{name: "WORKER_CONCURRENCY", value: "0", says: "not a whole number from 1 to 1000"},
		{name: "WORKER_CONCURRENCY", value: "1001", says: "not a whole number from 1 to 1000"},
		{name: "WORKER_RATE", value: "200", says: "write calls/window, for example 200/20s, or 0 for no limit"},
		{name: "WORKER_RATE", value: "x/20s", says: "a whole number above 0"},
		{name: "WORKER_RATE", value: "200/20", says: "a duration such as 20s"},
		{name: "WORKER_REQUEST_TIMEOUT", value: "30", says: time},
		{name: "WORKER_REQUEST_TIMEOUT", value: "1ms", says: short + "100ms"},
		{name: "WORKER_MAX_ATTEMPTS", value: "many", says: "not a whole number from 1 to 1000"},
		{name: "WORKER_BACKOFF_MIN", value: "2 s", says: time},
		{name: "WORKER_BACKOFF_MAX", value: "5min", says: time},
		{name: "WORKER_BACKOFF_MAX", value: "-1s", says: short + "1ms"},
		{name: "WORKER_BACKOFF_MAX", value: "1s", says: "is shorter than WORKER_BACKOFF_MIN"},
		{name: "WORKER_MAX_PAUSE", value: "0", says: short + "1s"},
		{name: "WORKER_MAX_AGE", value: "1d", says: time},
		{name: "WORKER_ACTION_NAMES", value: "a,,b", says: "holds an empty name"},
		{name: "WORKER_ACTION_NAMES", value: "wipe", says: "the name of an action that is not a reset"},
		{name: "WORKER_VERIFY_AFTER", value: "-1s", says: short + "1s"},
		{name: "WORKER_VERIFY_AFTER", value: "0s", says: short + "1s. Graph does not show a reset at once"},
		{name: "WORKER_VERIFY_AFTER", value: "999ms", says: short + "1s"},
		{name: "WORKER_ON_UNKNOWN", value: "ignore", says: "none of: dead-letter, retry"},
		{name: "WORKER_HTTP_ADDR", value: "9090", says: "like :9090 or 127.0.0.1:9090"},
		{name: "WORKER_HTTP_ADDR", value: ":99999", says: "like :9090 or 127.0.0.1:9090"},
		{name: "WORKER_LOG_LEVEL", value: "fatal", says: "none of: debug, info, warn, error"},
		{name: "WORKER_LOG_FORMAT", value: "xml", says: "none of: json, console"},
		{name: "WORKER_DRAIN_TIMEOUT", value: "1", says: time},
	}
	for name, values := range map[string][]string{
		"AZURE_CLIENT_SECRET_FILE":      {missing, dir, empty},
		"AZURE_CLIENT_CERTIFICATE_PATH": {missing, dir, text, cert, key, mixed},
		"AZURE_FEDERATED_TOKEN_FILE":    {missing, dir, empty},
	} {
		for _, value := range values {
			list = append(list, wrong{name: name, value: value, also: noSecret, says: value})
		}
	}
	return list
}

// problems are the lines that tell what is wrong.
func problems(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "  - "); ok {
			out = append(out, strings.TrimSpace(rest))
		}
	}
	return out
}

func TestWrongOption(t *testing.T) {
	env := credentials(t)
	for i, w := range wrongTable(t) {
		t.Run(fmt.Sprintf("%d %s", i, w.name), func(t *testing.T) {
			check := func(how string, r result) {
				t.Helper()
				found := problems(r.err)
				if r.code != exitUsage || len(found) != 1 || !strings.HasPrefix(found[0], w.name+": ") || !strings.Contains(found[0], w.says) {
					t.Errorf("%s: status %d, want one line that names %s and says %q; got:\n%s", how, r.code, w.name, w.says, r.err)
				}
				if r.out != "" || !strings.HasPrefix(r.err, "worker: the configuration is not usable:\n") ||
					!strings.HasSuffix(r.err, "\nTry: worker run --help\n") || strings.Count(r.err, "\n") != len(found)+2 {
					t.Errorf("%s: standard output %q, standard error:\n%s", how, r.out, r.err)
				}
			}
			rest := with(env, w.also...)
			if strings.Contains(w.name, ",") {
				check("variables", call(t, rest, "run"))
				return
			}
			check("variable", call(t, with(rest, w.name, w.value), "run"))
			check("flag", call(t, rest, "run", flagOf(w.name)+"="+w.value))
		})
	}
}

// TestEmptyFlag tells a flag that was given empty, which is a mistake where
// the option has a default, from an empty variable, which is none.
func TestEmptyFlag(t *testing.T) {
	env := credentials(t)
	for _, o := range optionTable(t) {
		if o.usual == "" {
			continue
		}
		r := call(t, env, "run", flagOf(o.name)+"=")
		if found := problems(r.err); r.code != exitUsage || len(found) == 0 || !strings.HasPrefix(found[0], o.name+": ") {
			t.Errorf("%s empty: status %d\n%s", flagOf(o.name), r.code, r.err)
		}
	}
}

func TestEverythingWrong(t *testing.T) {
	env := map[string]string{}
	for _, w := range wrongTable(t) {
		if !strings.Contains(w.name, ",") && env[w.name] == "" {
			env[w.name] = w.value
		}
	}
	delete(env, "NATS_NKEY") // two ways to log in are a problem of their own
	delete(env, "NATS_JWT")
	delete(env, "AZURE_CLIENT_SECRET_FILE")
	delete(env, "AZURE_CLIENT_CERTIFICATE_PATH")
	r := call(t, env, "run")
	found := problems(r.err)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		n := 0
		for _, p := range found {
			if strings.HasPrefix(p, name+": ") {
				n++
			}
		}
		if n != 1 && env[name] != "" {
			t.Errorf("%s=%q is told %d times", name, env[name], n)
		}
	}
	if r.code != exitUsage || len(slices.Compact(slices.Sorted(slices.Values(found)))) != len(found) {
		t.Errorf("status %d, problems:\n%s", r.code, strings.Join(found, "\n"))
	}
}
