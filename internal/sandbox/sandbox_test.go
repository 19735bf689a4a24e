package sandbox_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/sandbox"
)

// asProgram makes the test binary be a program that a test starts.
const asProgram = "SANDBOX_TEST_PROGRAM"

func TestMain(m *testing.M) {
	switch os.Getenv(asProgram) {
	case "stay": // until it is asked to end
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		_, _ = os.Stdout.WriteString("up\n")
		<-ctx.Done()
		os.Exit(0)
	case "graph":
		if err := sandbox.ServeGraph(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case "fail":
		_, _ = os.Stderr.WriteString("it does not work\n")
		os.Exit(3)
	}
	goleak.VerifyTestMain(m)
}

func program(t *testing.T, what string) *sandbox.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &sandbox.Process{Args: []string{self}, Env: map[string]string{asProgram: what}, Log: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(p.Kill)
	return p
}

func TestProcess(t *testing.T) {
	t.Parallel()
	p := program(t, "stay")
	if !p.Wait(0) || p.Signal(os.Interrupt) == nil {
		t.Error("it runs before it was started")
	}
	up := func(times int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; {
			log, err := os.ReadFile(p.Log)
			if err == nil && strings.Count(string(log), "up") == times {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("it is not up: %s", log)
			}
			p.Wait(5 * time.Millisecond)
		}
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	up(1)
	first := p.Pid()
	if err := p.Revive(); err != nil || p.Pid() != first {
		t.Errorf("a running program was started again: %v", err)
	}
	p.Kill()
	if !p.Wait(0) || p.ExitCode() != -1 {
		t.Errorf("killed: %d", p.ExitCode())
	}
	if err := p.Revive(); err != nil || p.Pid() == first {
		t.Errorf("a killed program was not started again: %v", err)
	}
	up(2)
	p.Freeze()
	if p.End(50*time.Millisecond) == nil {
		t.Error("a frozen program has ended")
	}
	p.Resume()
	if err := p.End(20 * time.Second); err != nil {
		t.Error(err)
	}
}

func TestProcessFails(t *testing.T) {
	t.Parallel()
	p := program(t, "fail")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.Wait(20 * time.Second)
	if err := p.End(time.Second); err == nil || !strings.Contains(err.Error(), "status 3") || !strings.Contains(err.Error(), "it does not work") {
		t.Errorf("%v", err)
	}
	none := &sandbox.Process{Args: []string{filepath.Join(t.TempDir(), "none")}}
	if none.Start() == nil {
		t.Error("a program that is not there was started")
	}
}

// TestWorld runs the worker in a world, and sees one request through.
func TestWorld(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := sandbox.New(sandbox.Options{NATS: &server.Options{}, Sim: graphsim.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		w.Close()
		if _, err := os.Stat(w.Dir); !os.IsNotExist(err) {
			t.Errorf("its temporary folder is there yet: %v", err)
		}
	}()
	if err := w.SetUp(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.JS.Publish(ctx, w.Names.Filter(), []byte(`{"id":"INC1","managedDeviceId":"`+graphsim.GoodDevice(1)+`"}`)); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Waiting(ctx); n != 1 || err != nil {
		t.Fatalf("%d waiting, %v", n, err)
	}
	log, err := w.FileLog(zap.InfoLevel)
	if err != nil {
		t.Fatal(err)
	}
	stop := w.Run(w.Config(pace.Rate{}, "127.0.0.1:0", log))
	for n := uint64(1); n > 0; {
		if err := sandbox.Pause(ctx, 10*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if n, err = w.Waiting(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := w.Sim.Resets(graphsim.GoodDevice(1)); n != 1 {
		t.Errorf("%d resets", n)
	}
	if log, err := os.ReadFile(w.LogFile()); err != nil || !strings.Contains(string(log), "accepted") {
		t.Errorf("the log: %v\n%s", err, log)
	}
}

// TestGraphProcess: the simulated Graph of another process does what it is told.
func TestGraphProcess(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func(cfg graphsim.Config) (*sandbox.Graph, error) {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), asProgram+"=graph")
		return sandbox.StartGraph(cfg, cmd)
	}
	if _, err := start(graphsim.Config{Addr: "192.0.2.1:1"}); err == nil {
		t.Error("it listens on another host's address")
	}
	g, err := start(graphsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(g.CAPEM()) {
		t.Fatalf("no certificate: %q", g.CAPEM())
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	post := func() int {
		t.Helper()
		resp, err := client.Post(g.URL()+"/v1.0/deviceManagement/managedDevices/"+graphsim.GoodDevice(1)+"/resetPasscode", "", nil)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	began := time.Now()
	if got := post(); got != http.StatusUnauthorized {
		t.Errorf("without a token: %d", got)
	}
	if err := g.SetOutage("", graphsim.Outage503); err != nil || post() != http.StatusServiceUnavailable {
		t.Errorf("no outage: %v", err)
	}
	if err := errors.Join(g.SetOutage("", graphsim.OutageNone), g.SetOutage(graphsim.DefaultTenantID, graphsim.OutageNoLicence), g.GrantNothing(graphsim.DefaultTenantID)); err != nil {
		t.Error(err)
	}
	s, err := g.Status()
	if err != nil || s.Posts != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	calls, err := g.Posts(began)
	if err != nil || len(calls) != 2 || calls[0].Device != graphsim.GoodDevice(1) || calls[0].Time.Before(began) {
		t.Errorf("%+v, %v", calls, err)
	}
	if calls, err := g.Posts(time.Now()); err != nil || len(calls) > 0 {
		t.Errorf("calls of the future: %+v, %v", calls, err)
	}
	if err := g.Forget(); err != nil {
		t.Error(err)
	}
	if s, err = g.Status(); err != nil || s.Posts != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestWorldFails leaves nothing behind.
func TestWorldFails(t *testing.T) {
	t.Parallel()
	if _, err := sandbox.New(sandbox.Options{Dir: t.TempDir(), URL: "nats://127.0.0.1:1"}); err == nil {
		t.Error("it is connected to nobody")
	}
}
