package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// everyTool are the commands that connect, beside run and check.
var everyTool = [][]string{
	{"setup"}, {"status"}, {"dead", "list"}, {"pause"}, {"resume"}, {"send", "--device", graphsim.GoodDevice(9), "--id", "T9"},
}

// tlsServer is a server that wants TLS, and the file of its authority.
func tlsServer(t *testing.T, first bool) (url, ca string) {
	t.Helper()
	p := newPair(t)
	both, err := tls.X509KeyPair([]byte(p.cert), []byte(p.key))
	if err != nil {
		t.Fatal(err)
	}
	s := startNATS(t, server.Options{TLS: true, TLSHandshakeFirst: first, TLSTimeout: 30,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{both}, MinVersion: tls.VersionTLS12}})
	_, host, _ := strings.Cut(s.URL(), "://")
	return "nats://" + host, write(t, "ca.pem", p.cert)
}

func TestTLSFirst(t *testing.T) {
	t.Parallel()
	w := newGraph(t, graphsim.Config{})
	var ca string
	w.url, ca = tlsServer(t, true)
	env := w.env("NATS_CA", ca, "NATS_TLS_FIRST", "true")
	for _, args := range everyTool {
		if r := runFor(t, env, args...); r.code != exitDone {
			t.Errorf("%q: status %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	runCheck(t, env, exitDone).is(t, "NATS", "ok", "")
	p := launch(t, env, "run")
	p.awaitReady()
	await(t, "the reset", func() bool { return w.sim.Resets(graphsim.GoodDevice(9)) == 1 })
	p.stop()

	// Without the variable the error names it, at once and in the log.
	without := with(env, "NATS_TLS_FIRST", "")
	r := runFor(t, without, "status")
	if r.code != exitFailed || !strings.Contains(r.err, "NATS_TLS_FIRST=true") {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
	runCheck(t, without, exitFailed).is(t, "NATS", "failed", "NATS_TLS_FIRST=true")
	p = launch(t, without, "run")
	await(t, "the log to name the variable", func() bool { return strings.Contains(p.err.String(), "NATS_TLS_FIRST=true") })
	p.stop()

	// And where the server is not one of those.
	url, ca := tlsServer(t, false)
	r = runFor(t, map[string]string{"NATS_URL": url, "NATS_CA": ca, "NATS_TLS_FIRST": "true"}, "status")
	if r.code != exitFailed || !strings.Contains(r.err, "remove NATS_TLS_FIRST") {
		t.Errorf("status %d\n%s", r.code, r.err)
	}

	// And where it has no TLS.
	plain := startNATS(t, server.Options{})
	r = runFor(t, map[string]string{"NATS_URL": strings.Replace(plain.URL(), "nats://", "tls://", 1)}, "status")
	if r.code != exitFailed || !strings.Contains(r.err, "write nats:// in NATS_URL") {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
}

// TestSlowLink holds back what the server says first.
func TestSlowLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	proxy, err := natstest.StartProxy(w.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	proxy.DelayFirst(2100 * time.Millisecond) // longer than the library waits
	env := w.env("NATS_URL", proxy.URL())
	if r := runFor(t, env, "setup"); r.code != exitDone {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
	p := launch(t, env, "run")
	p.awaitReady()
	p.stop()
	r := runFor(t, with(env, "NATS_TIMEOUT", "500ms"), "status")
	if r.code != exitFailed || !strings.Contains(r.err, "NATS_TIMEOUT") {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
	proxy.DelayFirst(6 * time.Second)
	if r := runFor(t, with(env, "NATS_TIMEOUT", "30s"), "status"); r.code != exitDone {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
}

// TestInboxPrefix lets the user listen to its own inboxes only.
func TestInboxPrefix(t *testing.T) {
	t.Parallel()
	const inbox = "_INBOX_worker-default"
	w := newGraph(t, graphsim.Config{})
	w.url = startNATS(t, server.Options{Users: []*server.User{
		{Username: "worker", Password: "pw", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Allow: []string{inbox + ".>", "passcode.reset.status.>", "passcode.reset.wake.>", "passcode.reset.replicas.>"}},
		}},
	}}).URL()
	env := w.env("NATS_USER", "worker", "NATS_PASSWORD", "pw", "NATS_INBOX_PREFIX", inbox)
	for _, args := range everyTool {
		if r := runFor(t, env, args...); r.code != exitDone {
			t.Errorf("%q: status %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	runCheck(t, env, exitDone).is(t, "right to subscribe to "+inbox+".>", "ok", "granted")
	p := launch(t, env, "run")
	p.awaitReady()
	await(t, "the reset", func() bool { return w.sim.Resets(graphsim.GoodDevice(9)) == 1 })
	p.stop()
	if strings.Contains(p.err.String(), "Permissions Violation") {
		t.Error("something was not allowed")
	}
	// A prefix that is not allowed is named.
	other := with(env, "NATS_INBOX_PREFIX", "_INBOX_other")
	runCheck(t, other, exitFailed).is(t, "right to subscribe to _INBOX_other.>", "failed", "_INBOX_other")
	if r := runFor(t, other, "status"); r.code != exitFailed || !strings.Contains(r.err, "may not subscribe to _INBOX_other.>") {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
}

// TestJWTWithoutFile logs in to a server in operator mode.
func TestJWTWithoutFile(t *testing.T) {
	t.Parallel()
	o := newOperator(t, nil)
	env := map[string]string{"NATS_URL": o.url, "NATS_JWT": o.jwt, "NATS_SEED": o.seed}
	for _, args := range everyTool {
		if r := runFor(t, env, args...); r.code != exitDone || strings.Contains(r.out+r.err, o.seed) {
			t.Errorf("%q: status %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	if r := runFor(t, with(env, "NATS_SEED", o.seed+"\n", "NATS_JWT", o.jwt+"\n"), "status"); r.code != exitDone {
		t.Errorf("with a line break: status %d\n%s", r.code, r.err)
	}
	if r := runFor(t, with(env, "NATS_SEED", ""), "status"); r.code != exitFailed {
		t.Errorf("without the seed: status %d\n%s", r.code, r.err)
	}
}

// operator is a server in operator mode, and a user of its account.
type operator struct{ url, jwt, seed string }

// newOperator runs a server whose account has the given limits of JetStream; nil:
// none.
func newOperator(t *testing.T, tiers jwt.JetStreamTieredLimits) operator {
	t.Helper()
	o, opts := operatorMode(t, tiers)
	o.url = startNATS(t, opts).URL()
	return o
}

// operatorMode makes the options of such a server, and its user.
func operatorMode(t *testing.T, tiers jwt.JetStreamTieredLimits) (operator, server.Options) {
	t.Helper()
	pair := func(kp nkeys.KeyPair, err error) (nkeys.KeyPair, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		public, err := kp.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return kp, public
	}
	signed := func(c interface {
		Encode(nkeys.KeyPair) (string, error)
	}, by nkeys.KeyPair) string {
		t.Helper()
		s, err := c.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	op, opID := pair(nkeys.CreateOperator())
	_, sysID := pair(nkeys.CreateAccount())
	account, accountID := pair(nkeys.CreateAccount())
	user, userID := pair(nkeys.CreateUser())
	operatorClaims := jwt.NewOperatorClaims(opID)
	operatorClaims.SystemAccount = sysID
	claims := jwt.NewAccountClaims(accountID)
	if claims.Limits.JetStreamLimits = (jwt.JetStreamLimits{DiskStorage: 1 << 30, MemoryStorage: 1 << 30}); tiers != nil {
		claims.Limits.JetStreamLimits, claims.Limits.JetStreamTieredLimits = jwt.JetStreamLimits{}, tiers
	}
	resolver := &server.MemAccResolver{}
	for id, token := range map[string]string{sysID: signed(jwt.NewAccountClaims(sysID), op), accountID: signed(claims, op)} {
		if err := resolver.Store(id, token); err != nil {
			t.Fatal(err)
		}
	}
	trusted, err := jwt.DecodeOperatorClaims(signed(operatorClaims, op))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return operator{jwt: signed(jwt.NewUserClaims(userID), account), seed: string(seed)},
		server.Options{TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: resolver, SystemAccount: sysID}
}

// TestContext takes everything from a saved context of the nats tool.
func TestContext(t *testing.T) {
	t.Parallel()
	o := newOperator(t, nil)
	plain := startNATS(t, server.Options{Username: "jo", Password: "p@ss"})
	config := t.TempDir()
	save := func(dir, name, text string) {
		t.Helper()
		dir = filepath.Join(dir, "nats", "context")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// As `nats context save` writes it.
	save(config, "jwt", fmt.Sprintf(`{"description":"","url":%q,"socks_proxy":"","token":"","user":"","password":"","creds":"","nkey":"","cert":"","key":"","ca":"","nsc":"",`+
		`"jetstream_domain":"","jetstream_api_prefix":"","jetstream_event_prefix":"","inbox_prefix":"_INBOX_c","user_jwt":%q,"user_seed":%q,"color_scheme":"","tls_first":false}`, o.url, o.jwt, o.seed))
	save(config, "jo", fmt.Sprintf(`{"url":%q,"user":"jo","password":"p@ss"}`, plain.URL()))
	save(config, "wrong", fmt.Sprintf(`{"url":%q,"user":"jo","password":"hunter2"}`, plain.URL()))
	save(config, "proxy", `{"url":"nats://127.0.0.1:1","socks_proxy":"socks5://127.0.0.1:1"}`)
	save(config, "vault", `{"url":"nats://127.0.0.1:1","user":"jo","password":"op://vault/hunter2"}`)
	save(config, "broken", `{"url":`)
	save(config, "mark", mark+fmt.Sprintf(`{"url":%q,"user":"jo\t","password":"p@ss\n"}`, plain.URL()))
	save(config, "wide", utf16le(`{"url":"nats://127.0.0.1:1"}`))
	if err := os.WriteFile(filepath.Join(config, "nats", "context.txt"), []byte("jo"), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	save(elsewhere, "jo", fmt.Sprintf(`{"url":%q,"user":"jo","password":"p@ss"}`, plain.URL()))
	env := map[string]string{"XDG_CONFIG_HOME": config}
	for _, args := range everyTool {
		for _, name := range []string{"jwt", "jo"} {
			if r := runFor(t, with(env, "NATS_CONTEXT", name), args...); r.code != exitDone {
				t.Errorf("%s, %q: status %d\n%s%s", name, args, r.code, r.out, r.err)
			}
		}
	}
	for name, c := range map[string]struct {
		env  map[string]string
		code int
		says string
	}{
		"elsewhere":                  {map[string]string{"XDG_CONFIG_HOME": elsewhere, "NATS_CONTEXT": "jo"}, exitDone, ""},
		"password before it":         {with(env, "NATS_CONTEXT", "wrong", "NATS_PASSWORD", "p@ss"), exitDone, ""},
		"address before it":          {with(env, "NATS_CONTEXT", "jo", "NATS_URL", "nats://127.0.0.1:1"), exitFailed, "connect to 127.0.0.1:1"},
		"the usual address before":   {with(env, "NATS_CONTEXT", "jo", "NATS_URL", "nats://"+usualAddress), exitFailed, usualAddress},
		"a login before it":          {with(env, "NATS_CONTEXT", "jo", "NATS_JWT", o.jwt, "NATS_SEED", o.seed, "NATS_URL", o.url), exitDone, ""},
		"a selected one is not used": {with(env, "NATS_URL", plain.URL()), exitFailed, "Authorization Violation"},
		"a line break behind":        {with(env, "NATS_CONTEXT", "jo\n"), exitDone, ""},
		"a mark before":              {with(env, "NATS_CONTEXT", "mark"), exitDone, ""},
		"in UTF-16":                  {with(env, "NATS_CONTEXT", "wide"), exitUsage, "wide.json: it is UTF-16 text"},
		"no name":                    {with(env, "NATS_CONTEXT", "j\x01o"), exitUsage, "NATS_CONTEXT: it holds a control character"},
		"unknown":                    {with(env, "NATS_CONTEXT", "none"), exitUsage, "NATS_CONTEXT: it cannot be read"},
		"a path":                     {with(env, "NATS_CONTEXT", "../jo"), exitUsage, `NATS_CONTEXT: "../jo" is not the name of a context`},
		"broken":                     {with(env, "NATS_CONTEXT", "broken"), exitUsage, "is not a context as the nats tool saves it"},
		"proxy":                      {with(env, "NATS_CONTEXT", "proxy"), exitUsage, "socks_proxy"},
		"vault":                      {with(env, "NATS_CONTEXT", "vault"), exitUsage, "gives password as a reference"},
	} {
		if c.says == usualAddress && listens(usualAddress) {
			continue // somebody's own server is there
		}
		r := runFor(t, c.env, "status")
		if r.code != c.code || !strings.Contains(r.err, c.says) || strings.Contains(r.err, "hunter2") {
			t.Errorf("%s: status %d\n%s", name, r.code, r.err)
		}
	}
}

// TestContextOfTheTool takes everything from a context that the nats tool itself has saved.
func TestContextOfTheTool(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("nats")
	switch {
	case err == nil:
	case os.Getenv("REQUIRE_NATS_TOOL") != "":
		t.Fatal(err)
	default:
		t.Skip("the nats tool is not installed")
	}
	plain, config := startNATS(t, server.Options{Username: "jo", Password: "p@ss"}), t.TempDir()
	save := exec.CommandContext(t.Context(), tool, "context", "save", "help desk", "--server", plain.URL(), "--user", "jo", "--password", "p@ss", "--inbox-prefix", "_INBOX_d")
	save.Env = []string{"XDG_CONFIG_HOME=" + config}
	if out, err := save.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, args := range everyTool {
		if r := runFor(t, map[string]string{"XDG_CONFIG_HOME": config, "NATS_CONTEXT": "help desk"}, args...); r.code != exitDone {
			t.Errorf("%q: status %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
}

// usualAddress is where a command looks for NATS that is told nothing.
const usualAddress = "127.0.0.1:4222"

func listens(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// hubAndLeaf are two servers with JetStream of their own, and a Graph.
func hubAndLeaf(t *testing.T) (w *world, hub, leaf string) {
	t.Helper()
	h, l, err := natstest.StartLeaf(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Stop)
	t.Cleanup(l.Stop)
	w = newGraph(t, graphsim.Config{})
	w.js = connect(t, h.URL())
	return w, h.URL(), l.URL()
}

// streamsAt are the streams on a server.
func streamsAt(t *testing.T, url string) (names []string) {
	t.Helper()
	js := connect(t, url)
	for name := range js.StreamNames(t.Context()).Name() {
		names = append(names, name)
	}
	return names
}

// TestDomain works through a leaf node with what is on its hub.
func TestDomain(t *testing.T) {
	t.Parallel()
	w, _, leaf := hubAndLeaf(t)
	env := w.env("NATS_URL", leaf, "NATS_JS_DOMAIN", "hub")
	for _, args := range everyTool {
		if r := runFor(t, env, args...); r.code != exitDone {
			t.Errorf("%q: status %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	check := runCheck(t, env, exitDone)
	check.is(t, "streams that take requests", "ok", "PASSCODE_RESETS")
	check.is(t, "right to publish to $JS.hub.API.$KV.passcode-resets.default.>", "ok", "granted")
	p := launch(t, env, "run")
	p.awaitReady()
	w.publish(body("T1", graphsim.GoodDevice(1)), nil)
	w.publish("nonsense", nil)
	w.awaitEmpty()
	if n := w.sim.Resets(graphsim.GoodDevice(1)); n != 1 || w.records()["T1"].State != "accepted" {
		t.Errorf("%d resets, %v", n, w.records())
	}
	p.stop()
	if found := streamsAt(t, leaf); len(found) > 0 {
		t.Errorf("on the leaf: %q", found)
	}
	// Every tool that reads or changes what is there.
	id := fmt.Sprintf("PASSCODE_RESETS-%d", 3)
	for _, c := range [][2]string{{"status T1", "accepted"}, {"dead list", "invalid_request"}, {"dead show " + id, "nonsense"}, {"dead remove " + id, ""}} {
		if r := runFor(t, env, strings.Fields(c[0])...); r.code != exitDone || !strings.Contains(r.out, c[1]) {
			t.Errorf("%s: status %d\n%s%s", c[0], r.code, r.out, r.err)
		}
	}
	if n := w.stream(names.DeadStream).State.Msgs; n != 0 {
		t.Errorf("%d letters are left", n)
	}
}

// TestUnknownDomain names the variable wherever nobody answers.
func TestUnknownDomain(t *testing.T) {
	t.Parallel()
	w, _, leaf := hubAndLeaf(t)
	for variable, value := range map[string]string{"NATS_JS_DOMAIN": "hob", "NATS_JS_API_PREFIX": "$JS.hob.API"} {
		env := w.env("NATS_URL", leaf, variable, value)
		for _, args := range [][]string{{"setup"}, {"status"}, {"status", "T1"}, {"dead", "list"}, {"pause"}} {
			if r := runFor(t, env, args...); r.code != exitFailed || !strings.Contains(r.err, "answers") || !strings.Contains(r.err, "check "+variable) {
				t.Errorf("%s, %q: status %d\n%s%s", variable, args, r.code, r.out, r.err)
			}
		}
		runCheck(t, env, exitFailed).is(t, "stream PASSCODE_RESETS", "failed", "check "+variable)
		for _, setup := range []string{"true", "false"} {
			p := launch(t, with(env, "WORKER_SETUP", setup), "run")
			await(t, "the log to name the variable", func() bool { return strings.Contains(p.err.String(), "check "+variable) })
			p.stop()
		}
	}
}

// TestSecondDomain keeps a worker at a leaf node from making streams for what the
// hub stores already.
func TestSecondDomain(t *testing.T) {
	t.Parallel()
	w, hub, leaf := hubAndLeaf(t)
	a := launch(t, w.env("NATS_URL", hub), "run")
	a.awaitReady()
	b := launch(t, w.env("NATS_URL", leaf), "run")
	await(t, "the log to name the variable", func() bool { return strings.Contains(b.err.String(), "NATS_JS_DOMAIN") })
	if r := runFor(t, map[string]string{"NATS_URL": leaf}, "setup"); r.code != exitFailed || !strings.Contains(r.err, "NATS_JS_DOMAIN") {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
	runCheck(t, w.env("NATS_URL", leaf), exitFailed).is(t, "streams that take requests", "failed", "PASSCODE_RESETS")
	// Whoever publishes at the leaf node reaches the hub.
	if r := runFor(t, map[string]string{"NATS_URL": leaf}, "send", "--device", graphsim.GoodDevice(1), "--id", "T1"); r.code != exitDone {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
	w.awaitEmpty()
	if n := w.sim.Resets(graphsim.GoodDevice(1)); n != 1 {
		t.Errorf("%d resets", n)
	}
	if code, _ := b.get("/readyz"); code == http.StatusOK {
		t.Error("the worker at the leaf node is ready")
	}
	if found := streamsAt(t, leaf); len(found) > 0 {
		t.Errorf("on the leaf: %q", found)
	}
	a.stop()
	b.stop()
}

// TestTwoDomains finds what an earlier version let be made.
func TestTwoDomains(t *testing.T) {
	t.Parallel()
	w, hub, leaf := hubAndLeaf(t)
	w.setUp()
	for _, cfg := range []jetstream.StreamConfig{{Name: names.Stream, Subjects: []string{"passcode.reset.requests.*"}, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew},
		{Name: names.DeadStream, Subjects: []string{"passcode.reset.dead.*"}}} {
		if _, err := connect(t, leaf).CreateStream(w.ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	for where, env := range map[string]map[string]string{
		"of another domain or account": w.env("NATS_URL", hub),
		"of the domain leaf":           w.env("NATS_URL", leaf, "NATS_JS_DOMAIN", "hub"),
	} {
		check := runCheck(t, env, exitDone)
		check.is(t, "streams that take requests", "warning", "stream PASSCODE_RESETS "+where)
		check.is(t, "streams that take dead letters", "warning", "stream PASSCODE_RESETS_DEAD "+where)
	}
	p := launch(t, w.env("NATS_URL", hub), "run")
	await(t, "the log to name the other stream", func() bool { return strings.Contains(p.err.String(), "of another JetStream domain or account") })
	p.stop()

	// The nearest answers first, but for chance, and it is not the one that is meant.
	for n := range 10 {
		r := runFor(t, map[string]string{"NATS_URL": leaf, "NATS_JS_DOMAIN": "hub"}, "send", "--device", graphsim.GoodDevice(1), "--id", fmt.Sprint("T", n))
		if r.code == exitFailed && strings.Contains(r.err, `of the domain "leaf"`) {
			return
		}
		if r.code != exitDone {
			t.Fatalf("status %d\n%s", r.code, r.err)
		}
	}
	t.Error("the answer of another domain passes for the one that is meant")
}

// TestFIPS works with nothing but approved cryptography.
func TestFIPS(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][]string{
		"secret":      nil,
		"certificate": {"AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_CERTIFICATE_PATH", "cert"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entra := newPair(t)
			w := newGraph(t, graphsim.Config{ClientCert: entra.leaf})
			var ca string
			w.url, ca = tlsServer(t, false)
			env := with(w.env(change...), "NATS_URL", strings.Replace(w.url, "nats://", "tls://", 1), "NATS_CA", ca, "GODEBUG", "fips140=only")
			if name == "certificate" {
				env["AZURE_CLIENT_CERTIFICATE_PATH"] = write(t, "entra.pem", entra.cert+entra.key)
			}
			if r := runFor(t, env, "setup"); r.code != exitDone {
				t.Fatalf("status %d\n%s", r.code, r.err)
			}
			p := launch(t, env, "run")
			p.awaitReady()
			if r := runFor(t, env, "send", "--device", graphsim.GoodDevice(1), "--id", "T1", "--wait"); r.code != exitDone {
				t.Errorf("status %d\n%s", r.code, r.err)
			}
			p.stop()
			runCheck(t, env, exitDone)
		})
	}
	short := pairOf(t, 1024)
	env := with(newGraph(t, graphsim.Config{}).env("AZURE_CLIENT_SECRET", "", "GODEBUG", "fips140=only"),
		"AZURE_CLIENT_CERTIFICATE_PATH", write(t, "short.pem", short.cert+short.key))
	for _, command := range []string{"run", "check"} {
		if r := runFor(t, env, command); r.code != exitUsage || !strings.Contains(r.err, "its RSA key has 1024 bits, and FIPS 140 requires 2048") {
			t.Errorf("%s with a short key: status %d\n%s", command, r.code, r.err)
		}
	}
	for _, url := range []string{"ws://127.0.0.1:1", "wss://127.0.0.1:1"} {
		for _, args := range append(everyTool, []string{"run"}, []string{"check"}) {
			r := runFor(t, map[string]string{"NATS_URL": url, "GODEBUG": "fips140=only"}, args...)
			if r.code != exitUsage || !strings.Contains(r.err, "NATS_URL: ws and wss do not work with GODEBUG=fips140=only") {
				t.Errorf("%s, %q: status %d\n%s", url, args, r.code, r.err)
			}
		}
	}
}

// TestOtherAccount works with JetStream that another account exports, under a
// prefix.
func TestOtherAccount(t *testing.T) {
	t.Parallel()
	w := newGraph(t, graphsim.Config{})
	w.url = startConfigured(t, `
accounts {
  OWNER {
    jetstream: enabled
    users: [{user: owner, password: pw}]
    exports: [
      {service: "$JS.API.>", response_type: stream}, {service: "$JS.ACK.>"}, {service: "$KV.>"}
      {service: "passcode.reset.>"}
    ]
  }
  WORKER {
    users: [{user: worker, password: pw}]
    imports: [
      {service: {account: OWNER, subject: "$JS.API.INFO"}, to: "JS.owner.INFO"}
      {service: {account: OWNER, subject: "$JS.API.STREAM.>"}, to: "JS.owner.STREAM.>"}
      {service: {account: OWNER, subject: "$JS.API.CONSUMER.>"}, to: "JS.owner.CONSUMER.>"}
      {service: {account: OWNER, subject: "$JS.API.DIRECT.>"}, to: "JS.owner.DIRECT.>"}
      {service: {account: OWNER, subject: "$KV.>"}, to: "JS.owner.$KV.>"}
      {service: {account: OWNER, subject: "$JS.ACK.>"}}
      {service: {account: OWNER, subject: "passcode.reset.>"}}
    ]
  }
}`)
	w.js = connect(t, w.url, nats.UserInfo("owner", "pw"))
	env := w.env("NATS_USER", "worker", "NATS_PASSWORD", "pw", "NATS_JS_API_PREFIX", "JS.owner")
	for _, args := range everyTool {
		if r := runFor(t, env, args...); r.code != exitDone {
			t.Errorf("%q: status %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	runCheck(t, env, exitDone).is(t, "right to publish to JS.owner.$KV.passcode-resets.default.>", "ok", "granted")
	p := launch(t, env, "run")
	p.awaitReady()
	w.publish("nonsense", nil)
	w.awaitEmpty()
	if n, letters := w.sim.Resets(graphsim.GoodDevice(9)), w.stream(names.DeadStream).State.Msgs; n != 1 || letters != 1 || w.records()["T9"].State != "accepted" {
		t.Errorf("%d resets, %d letters, %v", n, letters, w.records())
	}
	p.stop()
}

// startConfigured runs a server with a configuration of its own.
func startConfigured(t *testing.T, config string) (url string) {
	t.Helper()
	opts, err := server.ProcessConfigFile(write(t, "nats.conf", config))
	if err != nil {
		t.Fatal(err)
	}
	return startNATS(t, *opts).URL()
}

// TestLimitedAccounts sets up where the account demands or forbids something: each
// refusal names what cures it, and with that all is made.
func TestLimitedAccounts(t *testing.T) {
	t.Parallel()
	limited := func(limits string) string {
		return startConfigured(t, `accounts {A {users: [{user: w, password: w}], jetstream: {`+limits+`}}}`)
	}
	env := func(url string) map[string]string {
		return map[string]string{"NATS_URL": url, "NATS_USER": "w", "NATS_PASSWORD": "w"}
	}
	tiered := func(tiers jwt.JetStreamTieredLimits) map[string]string {
		o := newOperator(t, tiers)
		return map[string]string{"NATS_URL": o.url, "NATS_JWT": o.jwt, "NATS_SEED": o.seed}
	}
	all := []string{"stream PASSCODE_RESETS:", "stream PASSCODE_RESETS_DEAD:", "bucket passcode-resets:", "bucket passcode-resets-state:", "bucket passcode-resets-devices:"}
	for name, c := range map[string]struct {
		env  map[string]string
		args string // without the cure
		says []string
		cure string // arguments; empty: none of setup's
	}{
		"max bytes required": {env(limited("max_file: 10GB, max_bytes_required: true")), "",
			append(all, "err_code=10113", "--max-bytes N", "--max-bytes-state N"), "--max-bytes=1073741824"},
		"max bytes of each": {env(limited("max_file: 10GB, max_bytes_required: true")), "--max-bytes-requests=1000000 --max-bytes-dead=1000000 --max-bytes-records=1000000",
			[]string{"key-value bucket passcode-resets-state: ", "--max-bytes-state N"}, "--max-bytes-state=1000000 --max-bytes-devices=1000000 --max-bytes-outcomes=1000000 --max-bytes-follow=1000000"},
		"a stream too large": {env(limited("max_file: 10GB, max_bytes_required: true, store_max_stream_bytes: 1MB")), "--max-bytes=2000000",
			[]string{"err_code=10122", "max_stream_bytes"}, "--max-bytes=1000000"},
		"too little storage": {env(limited("max_file: 8MB, max_bytes_required: true")), "--max-bytes=3000000",
			[]string{"err_code=10047", "bucket passcode-resets:", "--max-bytes-records N with less"}, "--max-bytes=1000000 --update"},
		"acks pending": {env(limited("max_file: 1GB, max_ack_pending: 100")), "",
			[]string{"consumer worker-default:", "err_code=10121", "limit of 100", "--max-ack-pending N"}, "--max-ack-pending=100"},
		"replicas without a cluster": {env(limited("max_file: 1GB")), "--replicas=3", append(all, "err_code=10074", "--replicas 1"), "--replicas=1"},
		"a tier of one only": {tiered(jwt.JetStreamTieredLimits{"R1": {DiskStorage: 1 << 30, MemoryStorage: 1 << 20}}), "--replicas=3",
			append(all, "err_code=10120", "--replicas N", "tiers"), ""},
		"memory not granted": {tiered(jwt.JetStreamTieredLimits{"R1": {DiskStorage: 1 << 30}}), "--storage=memory --max-bytes=1000000",
			[]string{"err_code=", "--storage"}, "--storage=file"},
		"streams":   {env(limited("max_file: 1GB, max_streams: 3")), "", []string{"bucket passcode-resets-state:", "err_code=10027", "max_streams"}, ""},
		"consumers": {env(limited("max_file: 1GB, max_consumers: 1")), "--tenants-file=" + write(t, "tenants.yaml", "- {name: a, tenantId: contoso.com}\n- {name: b, tenantId: fabrikam.com}\n"), []string{"consumer worker-b:", "err_code=10026", "max_consumers"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := runFor(t, c.env, append([]string{"setup"}, strings.Fields(c.args)...)...)
			if r.code != exitFailed {
				t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
			}
			for _, says := range c.says {
				if !strings.Contains(r.err, says) {
					t.Errorf("nothing about %q in\n%s", says, r.err)
				}
			}
			if strings.Contains(r.err, "SIZE") {
				t.Error(r.err)
			}
			if c.cure != "" {
				r := runFor(t, c.env, append([]string{"setup"}, strings.Fields(c.args+" "+c.cure)...)...)
				if r.code != exitDone || strings.Count(r.out, "\n") != 18 {
					t.Errorf("%s: status %d\n%s%s", c.cure, r.code, r.out, r.err)
				}
			}
		})
	}
	t.Run("check", func(t *testing.T) {
		t.Parallel()
		w := newGraph(t, graphsim.Config{})
		check := func(limits string) preconditions {
			w.url = limited(limits)
			return runCheck(t, w.env("NATS_USER", "w", "NATS_PASSWORD", "w"), exitFailed)
		}
		found := check("max_file: 10GB, max_bytes_required: true")
		found.is(t, "stream PASSCODE_RESETS", "failed", "worker run cannot create it: the account requires a size")
		found.is(t, "bucket passcode-resets-state", "failed", "requires a size")
		found = check("max_file: 10GB, max_streams: 3")
		found.is(t, "bucket passcode-resets", "warning", "worker run will create it")
		found.is(t, "bucket passcode-resets-state", "failed", "no further stream")
		found = check("max_file: 10GB, max_streams: 4")
		found.is(t, "bucket passcode-resets-state", "warning", "worker run will create it")
		found.is(t, "bucket passcode-resets-devices", "failed", "no further stream")
		found = check("max_file: 10GB, max_ack_pending: 100")
		found.is(t, "stream PASSCODE_RESETS", "warning", "worker run will create it")
		found.is(t, "consumer worker-default", "failed", "more than 100 acks pending")
		found.is(t, "consumers follow-0 to follow-9", "warning", "more than 100 acks pending")
		// What tenants are too many for is named, and what to raise.
		two := write(t, "two.yaml", "- {name: a, tenantId: contoso.com}\n- {name: b, tenantId: fabrikam.com}\n")
		few := func(limits string, max int) map[string]string {
			w.url = limited(limits)
			e := w.env("NATS_USER", "w", "NATS_PASSWORD", "w", "WORKER_TENANTS_FILE", two)
			nc, err := nats.Connect(w.url, nats.UserInfo("w", "w"))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			cfg := topology.Layout{Replicas: 1}.Requests(topology.DefaultNames())
			cfg.MaxConsumers = max
			if _, err := js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			return e
		}
		e := few("max_file: 10GB", 1)
		if r := runFor(t, e, "setup"); r.code != exitFailed || !strings.Contains(r.err, "consumer worker-b:") || !strings.Contains(r.err, "run worker setup --update to raise max_consumers") {
			t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
		}
		found = runCheck(t, e, exitFailed)
		found.is(t, "stream PASSCODE_RESETS", "warning", "room for 1 consumers")
		found.is(t, "consumer worker-b", "failed", "worker run cannot create it: stream PASSCODE_RESETS has room for 1 consumers")
		r := runFor(t, e, "setup", "--update")
		if r.code != exitDone || r.err != "" {
			t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
		}
		runCheck(t, e, exitFailed).is(t, "consumer worker-b", "ok", "0 waiting")
		e = few("max_file: 10GB, max_consumers: 1", -1)
		found = runCheck(t, e, exitFailed)
		found.is(t, "stream PASSCODE_RESETS", "warning", "account that allows 1 consumers for each stream, but 2 are needed")
		if r := runFor(t, e, "setup", "--update"); !strings.Contains(r.err, "worker: stream PASSCODE_RESETS: it has room for fewer consumers") &&
			!strings.Contains(r.err, "the account's max_consumers is lower") {
			t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
		}
		// What is for following alone is in nobody's way.
		w.url = limited("max_file: 10GB, max_streams: 6, max_consumers: 9")
		found = runCheck(t, w.env("NATS_USER", "w", "NATS_PASSWORD", "w"), exitDone)
		found.is(t, "bucket passcode-resets-outcomes", "warning", "worker run will create it")
		found.is(t, "stream PASSCODE_RESETS_FOLLOW", "warning", "worker run cannot create it: the account allows no further stream")
		found.is(t, "consumers follow-0 to follow-9", "warning", "fewer than the 10 consumers of a stream that following needs: resets go on")
	})
	t.Run("tier of one by itself", func(t *testing.T) {
		t.Parallel()
		r := runFor(t, tiered(jwt.JetStreamTieredLimits{"R1": {DiskStorage: 1 << 30, MemoryStorage: 1 << 20}}), "setup")
		if r.code != exitDone || r.out != made("created ") {
			t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
		}
	})
	t.Run("run", func(t *testing.T) {
		t.Parallel()
		w := newGraph(t, graphsim.Config{})
		w.url = limited("max_file: 10GB, max_bytes_required: true")
		env := w.env("NATS_USER", "w", "NATS_PASSWORD", "w")
		p := launch(t, env, "run")
		await(t, "the log to name the flag", func() bool { return strings.Contains(p.err.String(), "worker setup --max-bytes N") })
		if r := runFor(t, env, "setup", "--max-bytes=1000000"); r.code != exitDone {
			t.Errorf("status %d\n%s", r.code, r.err)
		}
		p.awaitReady()
		p.stop()
	})
}

// TestTooManyTenants says once that the server allows no further consumer, and what to do,
// however many tenants it is refused for, and serves all of them once that is done.
func TestTooManyTenants(t *testing.T) {
	t.Parallel()
	w := newGraph(t, graphsim.Config{})
	w.url = startNATS(t, server.Options{}).URL()
	nc, err := nats.Connect(w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	cfg := topology.Layout{Replicas: 1}.Requests(topology.DefaultNames())
	cfg.MaxConsumers = 1
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	list := ""
	for _, name := range []string{"a", "b", "c", "d"} {
		list += "- {name: " + name + ", tenantId: " + name + ".example.com}\n"
	}
	env := w.env("WORKER_TENANTS_FILE", write(t, "tenants.yaml", list))
	p := launch(t, env, "run")
	await(t, "the log to name the cure", func() bool {
		return strings.Contains(p.err.String(), "run worker setup --update to raise max_consumers")
	})
	await(t, "the one that has a place", func() bool { return strings.Contains(p.err.String(), "bound to the queue") })
	if r := runFor(t, env, "setup", "--update"); r.code != exitDone {
		t.Fatalf("status %d\n%s", r.code, r.err)
	}
	await(t, "all tenants", func() bool { return strings.Count(p.err.String(), "bound to the queue") == 4 })
	if n := strings.Count(p.err.String(), "the server allows no further consumer"); n != 1 {
		t.Errorf("it says so %d times:\n%s", n, p.err.String())
	}
	p.stop()
}

// TestTierOfThree works in a cluster for an account that grants three replicas and
// nothing else: also what is read once, when a replica takes over, has to keep to
// that.
func TestTierOfThree(t *testing.T) {
	t.Parallel()
	o, opts := operatorMode(t, jwt.JetStreamTieredLimits{"R3": {DiskStorage: 1 << 30, MemoryStorage: 1 << 20}})
	c, err := natstest.StartClusterWith(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	w := newGraph(t, graphsim.Config{})
	w.url = c.Servers[0].URL()
	env := w.env("NATS_JWT", o.jwt, "NATS_SEED", o.seed, "WORKER_FUSE", "500/1h")
	if r := runFor(t, env, "setup"); r.code != exitDone || r.out != made("created ") {
		t.Fatalf("status %d\n%s%s", r.code, r.out, r.err)
	}
	for _, id := range []string{"T1", "T2"} { // the second worker takes over from the first
		p := launch(t, env, "run")
		p.awaitReady()
		if r := runFor(t, env, "send", "--device", graphsim.GoodDevice(1), "--id", id, "--wait"); r.code != exitDone {
			t.Errorf("status %d\n%s", r.code, r.err)
		}
		p.stop()
		if r := runFor(t, env, "status", id); r.code != exitDone || !strings.Contains(r.out, "accepted") {
			t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
		}
	}
}
