package deploy_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"crypto/tls"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// madeUpOnly are the alerts that no fault of the sandbox provokes. They are
// shown firing in deploy/prometheus/rules_test.yaml only.
var madeUpOnly = map[string]string{
	"PasscodeResetUndeliverable": "needs a fault of the worker's own code",
}

// A real Prometheus scrapes the sandbox and four more workers, with the rules of
// deploy/prometheus in quick motion. Each fault is a real one, and each alert
// is seen firing. Then the dashboard's queries are asked of the same Prometheus.
func TestFaultsRaiseTheirAlerts(t *testing.T) {
	slow(t)
	t.Parallel()
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		t.Skip("SSL_CERT_FILE has no effect here")
	}
	began := time.Now()
	s := startSandbox(t)
	second, third, fourth, fifth := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	p := startProm(t, quickRules(t), map[string]string{"first": s.http, "second": second, "third": third, "fourth": fourth, "fifth": fifth})
	p.watch()
	// An alert on a counter sees what happens after the first scrape.
	await(t, 30*time.Second, "the first scrape", func() bool { return p.value(`up{job="first"} == 1`) == 1 })

	var others sync.WaitGroup
	others.Go(func() { s.secondWorker(p, second) }) // Errorf is allowed there, Fatal is not
	others.Go(func() { s.thirdWorker(p, third) })
	others.Go(func() { s.fourthWorker(p, fourth) })
	others.Go(func() { s.fifthWorker(p, fifth) })
	s.firstWorker(p)
	others.Wait()
	if t.Failed() {
		return
	}
	t.Run("dashboard", func(t *testing.T) { checkDashboard(t, p, began) })
	s.process.kill()
	p.awaitAlerts(40*time.Second, "PasscodeResetWorkerAbsent")

	for _, a := range readRules(t).alerts() {
		_, madeUp := madeUpOnly[a.Alert]
		switch fired := p.hasFired(a.Alert); {
		case !fired && !madeUp:
			t.Errorf("%s has not fired", a.Alert)
		case fired && madeUp:
			t.Errorf("%s has fired, but is said not to", a.Alert)
		}
	}
}

// sandbox is a running `sandbox --serve`.
type sandbox struct {
	t               *testing.T
	process         *running
	nats, graph, ca string
	http            string
	js              jetstream.JetStream
	published       atomic.Int64
}

func startSandbox(t *testing.T) *sandbox {
	t.Helper()
	natsAddr, graphAddr := freeAddr(t), freeAddr(t)
	s := &sandbox{t: t, nats: "nats://" + natsAddr, graph: "https://" + graphAddr, http: freeAddr(t),
		ca: filepath.Join(t.TempDir(), "ca.pem")}
	_, port, err := net.SplitHostPort(natsAddr)
	if err != nil {
		t.Fatal(err)
	}
	s.process = start(t, os.Environ(), program(t, "sandbox"), "--serve", "--nats-port", port, "--graph-addr", graphAddr,
		"--http-addr", s.http, "--ca-file", s.ca)
	await(t, 30*time.Second, "the sandbox", func() bool {
		resp, err := http.Get("http://" + s.http + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	nc, err := nats.Connect(s.nats, nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if s.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return s
}

// outage puts a fault of the whole system in force.
func (s *sandbox) outage(kind string) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Post(s.graph+"/_sim/outage?kind="+kind, "", nil)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
	}
	if err != nil {
		s.t.Errorf("outage %s: %v", kind, err)
	}
	s.t.Logf("outage: %s", kind)
}

// publish sends a request with an id of its own.
func (s *sandbox) publish(tenant, device, more string) {
	body := fmt.Sprintf(`{"id":"R%d","managedDeviceId":%q%s}`, s.published.Add(1), device, more)
	if _, err := s.js.Publish(s.t.Context(), "passcode.reset.requests."+tenant, []byte(body)); err != nil {
		s.t.Errorf("publish: %v", err)
	}
}

// traffic publishes five requests a second until stop is closed.
func (s *sandbox) traffic(stop chan struct{}) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for i := 1; ; i++ {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		device := graphsim.GoodDevice(i)
		switch i % 20 {
		case 7:
			device = graphsim.FaultDevice(429, 1, 1, i)
		case 13:
			// Executed, the answer lost: a look-up follows. The connection stays: each
			// that is cut with five calls on it would begin a hold of its own.
			device = graphsim.FaultDevice(602, 1, 1, i)
		case 19:
			device = graphsim.FaultDevice(404, 0, 0, i)
		}
		s.publish("default", device, "")
	}
}

// firstWorker plays the faults of Graph, of the token service and of requests.
func (s *sandbox) firstWorker(p *prom) {
	released := func() {
		deadline := time.Now().Add(100 * time.Second)
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for p.value(`max(passcode_reset_hold{job="first"})+max(passcode_reset_queue_messages{job="first"} > bool 20)`) > 0 {
			if <-ticker.C; time.Now().After(deadline) {
				s.t.Error("the hold does not end")
				return
			}
		}
	}
	// One request alone is no outage for everybody: it expires unknown.
	s.outage("500")
	s.publish("default", graphsim.GoodDevice(0), fmt.Sprintf(`,"notAfter":%q`, time.Now().Add(6*time.Second).Format(time.RFC3339Nano)))
	p.awaitAlerts(testTime, "PasscodeResetOutcomeUnknown")
	s.outage("none")

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { defer close(stopped); s.traffic(stop) }()
	defer func() { close(stop); <-stopped }()
	p.awaitAlerts(30*time.Second, "PasscodeResetDeadLetters") // of devices that are unknown
	s.outage("permission")
	p.awaitAlerts(30*time.Second, "PasscodeResetHeldPermission")
	s.outage("none")
	released()
	s.outage("no-licence")
	p.awaitAlerts(30*time.Second, "PasscodeResetHeldRefused")
	s.outage("none")
	released()
	s.outage("secret-expired")
	p.awaitAlerts(40*time.Second, "PasscodeResetHeldCredentials", "PasscodeResetTokenFailures",
		"PasscodeResetOldestTooOld", "PasscodeResetExpirySoon")
	s.outage("none")
	p.awaitAlerts(70*time.Second, "PasscodeResetBudgetBurnsFast", "PasscodeResetBudgetBurns",
		"PasscodeResetBudgetBurnsSlowly", "PasscodeResetBudgetBurnsVerySlowly")
	released()
	s.outage("503")
	p.awaitAlerts(40*time.Second, "PasscodeResetHeldGraphUnavailable")
	s.outage("none")
	released()
	s.outage("throttle")
	p.awaitAlerts(70*time.Second, "PasscodeResetThrottled", "PasscodeResetStandsStill")
	s.outage("none")
}

// secondWorker plays the faults of a worker's process and of its connection.
func (s *sandbox) secondWorker(p *prom, addr string) {
	proxy, err := natstest.StartProxy(s.nats)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer proxy.Close()
	// A Graph of its own, which is well.
	sim, err := graphsim.Start(graphsim.Config{})
	if err != nil {
		s.t.Error(err)
		return
	}
	defer func() { _ = sim.Close() }()
	// What has been delivered comes again after 3 s instead of 30.
	cfg := (topology.Layout{}).Worker(names("second"))
	cfg.AckWait = 3 * time.Second
	if _, err := s.js.CreateConsumer(s.t.Context(), "PASSCODE_RESETS", cfg); err != nil {
		s.t.Error(err)
		return
	}
	env := workerEnv(s.t, proxy.URL(), "second", sim, "WORKER_REQUEST_TIMEOUT=30s", "WORKER_HTTP_ADDR="+addr, "WORKER_FOLLOW=off")
	run := func() *running { return start(s.t, env, program(s.t, "worker"), "run") }
	// Killed with twenty calls in flight, and once more when they have come again.
	for i := range 20 {
		s.publish("second", graphsim.FaultDevice(604, 0, 0, 900+i), "")
	}
	w := run()
	p.until("calls in flight", `passcode_reset_in_flight{job="second"} == 20`)
	w.kill()
	w = run()
	p.until("redeliveries", `passcode_reset_queue_redelivered{job="second"} == 20`)
	w.kill()
	w = run()
	p.awaitAlerts(60*time.Second, "PasscodeResetRedeliveries")
	// Linux tells the start of a process from that of the machine in whole seconds, so
	// it is compared with nothing but another one.
	const started = `process_start_time_seconds{job="second"}`
	for range 4 {
		before := p.value(started)
		w.kill()
		w = run()
		p.until("the next start", fmt.Sprintf("%s > %f", started, before))
	}
	p.awaitAlerts(30*time.Second, "PasscodeResetRestartLoop")
	p.until("the connection", `passcode_reset_nats_connected{job="second"} == 1`)
	proxy.Away()
	p.awaitAlerts(40*time.Second, "PasscodeResetNATSAway", "PasscodeResetNATSUnstable")
	proxy.Heal()
	p.until("the connection", `passcode_reset_nats_connected{job="second"} == 1`)
	defer w.kill()
}
