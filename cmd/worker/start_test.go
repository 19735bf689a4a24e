package main

import (
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
)

func TestNATSAwayAtTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	env := w.env()
	w.nats.Stop()
	p := launch(t, env, "run")
	if code, text := p.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s", code, text)
	}
	if code, text := p.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, `"connected": false`) {
		t.Errorf("/readyz: %d %s", code, text)
	}
	if m := p.metrics(); m["nats_connected"] != 0 {
		t.Error("nats_connected is not 0")
	}
	if err := w.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	p.awaitReady()
	w.publish(body("INC1", graphsim.GoodDevice(1)), nil)
	w.awaitState("INC1", record.Accepted)
	if m := p.metrics(); m["nats_connected"] != 1 {
		t.Error("nats_connected is not 1")
	}
	p.stop()
	w.checkSim()
}

// TestStopWithoutNATS stops a worker that has never had a server.
func TestStopWithoutNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	p := launch(t, w.env("NATS_URL", "nats://127.0.0.1:1"), "run")
	if code, _ := p.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d", code)
	}
	p.stop()
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld(t, graphsim.Config{})
	r := runFor(t, w.env("WORKER_HTTP_ADDR", l.Addr().String()), "run")
	want := "worker: WORKER_HTTP_ADDR: listen tcp " + l.Addr().String() + ": bind: address already in use\n"
	if r.code != exitFailed || !strings.HasSuffix(r.err, "\n"+want) || strings.Count(r.err, "address already in use") != 1 {
		t.Errorf("status %d, standard error:\n%s", r.code, r.err)
	}
}

// TestWithoutSetup starts a worker that may create nothing where there is
// nothing.
func TestWithoutSetup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	p := launch(t, w.env("WORKER_SETUP", "false"), "run")
	line := p.awaitLine("the queue cannot be worked on; trying again")
	code, text := p.get("/readyz")
	for _, said := range []string{line["error"].(string), text} {
		if !strings.Contains(said, "worker-default") || !strings.Contains(said, "PASSCODE_RESETS") || !strings.Contains(said, "not found") {
			t.Errorf("it is not said what is missing: %s", said)
		}
	}
	if code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", code)
	}
	if n := strings.Count(p.err.String(), "the queue cannot be worked on"); n != 1 {
		t.Errorf("the same is told %d times", n)
	}
	if r := runFor(t, w.env(), "setup"); r.code != exitDone {
		t.Fatalf("setup: status %d\n%s", r.code, r.err)
	}
	p.awaitReady()
	w.publish(body("INC1", graphsim.GoodDevice(1)), nil)
	w.awaitState("INC1", record.Accepted)
	p.stop()
	w.checkSim()
}

// TestCredentials works with each kind of credential, and looks for what it is
// made of in all that is to be seen.
func TestCredentials(t *testing.T) {
	t.Parallel()
	app := newPair(t)
	const federated = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJmZWRlcmF0ZWQtaHVudGVyMiJ9.c2lnbmF0dXJlLWh1bnRlcjI"
	keyText := strings.Split(app.key, "\n")[5]
	for name, c := range map[string]struct {
		variable, file, kind string
		secret               string
	}{
		"secret":      {kind: "client secret"},
		"secret file": {"AZURE_CLIENT_SECRET_FILE", graphsim.DefaultClientSecret + "\n", "client secret from a file", graphsim.DefaultClientSecret},
		"certificate": {"AZURE_CLIENT_CERTIFICATE_PATH", app.cert + app.key, "certificate", keyText},
		"federated":   {"AZURE_FEDERATED_TOKEN_FILE", federated + "\n", "federated token", federated},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A password in the address of NATS as well, with what has to be escaped.
			w := newWorldWith(t, graphsim.Config{ClientCert: app.leaf, FederatedToken: federated},
				server.Options{Username: "jo", Password: "p@ss/hunter2"})
			env := w.env("NATS_URL", strings.Replace(w.nats.URL(), "nats://", "nats://jo:p%40ss%2Fhunter2@", 1), "WORKER_NO_SUCH", "hunter3")
			if c.variable != "" {
				env = with(env, "AZURE_CLIENT_SECRET", "", c.variable, write(t, "credential", c.file))
			}
			p := launch(t, env, "run")
			p.awaitReady()
			w.publish(body("INC1", graphsim.GoodDevice(1)), nil)
			w.awaitState("INC1", record.Accepted)
			start := p.awaitLine("starting")
			if start["credential"] != c.kind || start["graph"] != w.sim.URL() || start["rate"] != "0" {
				t.Errorf("the start is told as %v", start)
			}
			if p.line("the environment variable WORKER_NO_SUCH is unknown and has no effect; see worker run --help") == nil {
				t.Error("the unknown variable is not told")
			}
			more := []string{"hunter2", "hunter3"}
			if c.secret != "" {
				more = append(more, c.secret)
			}
			w.checkSecrets(p, more...)
			p.stop()
			w.checkSim()
		})
	}
}

func TestLogFormat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	p := launch(t, w.env("WORKER_LOG_FORMAT", "console", "WORKER_LOG_LEVEL", "info"), "run")
	await(t, "a line for people", func() bool { return strings.Contains(p.err.String(), "\tbound to the queue\t") })
	p.stop()
	if s := p.err.String(); strings.HasPrefix(s, "{") || strings.Contains(s, "\tdebug\t") || p.out.String() != "" {
		t.Errorf("standard output %q, standard error:\n%s", p.out.String(), s)
	}
}

func TestDependencies(t *testing.T) {
	t.Parallel()
	command, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go command is not there")
	}
	out, err := exec.CommandContext(t.Context(), command, "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	for _, p := range packages {
		for _, stray := range []string{"testing", "nats-server", "natstest", "graphsim", "requesttest", "tracetest", "goleak", "sandbox"} {
			if strings.Contains("/"+p+"/", "/"+stray+"/") {
				t.Errorf("the worker holds %s", p)
			}
		}
	}
	if len(packages) < 50 {
		t.Errorf("only %d packages", len(packages))
	}
}
