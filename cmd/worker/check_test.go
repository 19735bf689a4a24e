package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// preconditions are the lines of a check, by what they are about.
type preconditions map[string][]map[string]any

// runCheck runs the check, once for programs and once for people, and holds
// them to each other.
func runCheck(t *testing.T, env map[string]string, code int, args ...string) preconditions {
	t.Helper()
	began := time.Now()
	r := runFor(t, env, append([]string{"check", "-o", "json"}, args...)...)
	took := time.Since(began)
	out, failed := preconditions{}, 0
	for _, l := range objects(t, r.out) {
		what := fmt.Sprint(l["what"])
		out[what] = append(out[what], l)
		switch {
		case l["status"] == "failed":
			failed++
			fallthrough
		case l["status"] == "warning":
			if l["do"] == nil && !strings.Contains(fmt.Sprint(l["detail"]), "without the right above") {
				t.Errorf("nothing is said of what to do about %v", l)
			}
		case l["status"] != "ok" || l["do"] != nil:
			t.Errorf("a line of another form: %v", l)
		}
	}
	if r.code != code || (code == exitFailed) != (failed > 0) || strings.Contains(r.out+r.err, graphsim.DefaultClientSecret) {
		t.Errorf("status %d, %d failed:\n%s%s", r.code, failed, r.out, r.err)
	}
	if took > 40*time.Second {
		t.Errorf("it took %s", took)
	}
	return out
}

// is compares the worst status of what a line is about.
func (p preconditions) is(t *testing.T, what, status, detail string) {
	t.Helper()
	for _, l := range p[what] {
		if l["status"] == status && strings.Contains(fmt.Sprint(l["detail"]), detail) {
			return
		}
	}
	t.Errorf("%s: got %v, want %s: …%s…", what, p[what], status, detail)
}

func (p preconditions) not(t *testing.T, status string, except ...string) {
	t.Helper()
	for what, lines := range p {
		for _, l := range lines {
			if l["status"] == status && !slices.Contains(except, what) {
				t.Errorf("%s: %v", what, l)
			}
		}
	}
}

// touched is everything on the server that a check could change.
func (w *world) touched() string {
	w.t.Helper()
	var b strings.Builder
	for _, name := range []string{names.Stream, names.DeadStream, "KV_" + names.Bucket, "KV_" + names.StateBucket(), names.FollowStream, "KV_" + names.OutcomeBucket()} {
		s, err := w.js.Stream(w.ctx, name)
		if err != nil {
			w.t.Fatal(err)
		}
		i := s.CachedInfo()
		fmt.Fprintln(&b, name, i.Config.Subjects, i.State.Msgs, i.State.LastSeq, i.State.Consumers)
	}
	c, err := w.js.Consumer(w.ctx, names.Stream, names.Consumer())
	if err != nil {
		w.t.Fatal(err)
	}
	i := c.CachedInfo()
	fmt.Fprintln(&b, i.NumPending, i.NumAckPending, i.NumRedelivered, i.NumWaiting, i.Delivered.Consumer, i.AckFloor.Consumer)
	return b.String()
}

func TestCheckChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	w.publish(body("A", graphsim.GoodDevice(1)), nil)
	w.publish(body("B", graphsim.GoodDevice(2)), nil)
	// One request is in somebody's hands.
	c, err := w.js.Consumer(w.ctx, names.Stream, names.Consumer())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Next(jetstream.FetchPriorityGroup("worker")); err != nil {
		t.Fatal(err)
	}
	// The server counts what waits a little after it has stored it.
	await(t, "the server to count the other as waiting", func() bool {
		i, err := c.Info(w.ctx)
		return err == nil && i.NumPending == 1
	})
	before := w.touched()
	p := runCheck(t, w.env(), exitDone)
	if after := w.touched(); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	p.not(t, "failed")
	p.not(t, "warning", "sync to disk", "publishers", "stream PASSCODE_RESETS", "stream PASSCODE_RESETS_DEAD", "bucket passcode-resets", "bucket passcode-resets-state",
		"bucket passcode-resets-outcomes", "stream PASSCODE_RESETS_FOLLOW")
	p.is(t, "stream PASSCODE_RESETS", "warning", "has 1 replica(s)")
	p.is(t, "consumer worker-default", "ok", "1 waiting, 1 in flight")
	p.is(t, "token", "ok", "by client secret, valid for ")
	p.is(t, "Graph", "ok", "devices can be read")
	p.is(t, "clock of NATS", "ok", "")
	p.is(t, "clock of Graph", "ok", "")
	if n := w.sim.Status(); n.Executed != 0 || n.Posts != 0 {
		t.Errorf("Graph was called: %+v", n)
	}
	w.checkSim()
	r := runFor(t, w.env(), "check")
	if r.code != exitDone || !strings.HasPrefix(r.out, "ok      NATS: ") || !strings.Contains(r.out, "\nwarning sync to disk: ") || strings.Contains(r.out, "\x1b") ||
		r.err != "worker: nothing failed, 8 warnings: worker run would work\n" {
		t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
	}
}

func TestCheckBeforeSetup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	p := runCheck(t, w.env(), exitDone)
	for _, what := range []string{"stream PASSCODE_RESETS", "stream PASSCODE_RESETS_DEAD", "bucket passcode-resets", "bucket passcode-resets-state", "consumer worker-default"} {
		p.is(t, what, "warning", "does not exist yet; worker run will create it")
	}
	p = runCheck(t, w.env("WORKER_SETUP", "false"), exitFailed)
	for _, what := range []string{"stream PASSCODE_RESETS", "stream PASSCODE_RESETS_DEAD", "bucket passcode-resets", "consumer worker-default"} {
		p.is(t, what, "failed", "WORKER_SETUP=false")
	}
	for _, what := range []string{"bucket passcode-resets-outcomes", "stream PASSCODE_RESETS_FOLLOW", "consumers follow-0 to follow-9"} {
		p.is(t, what, "warning", "resets go on, but accepted requests are not followed")
		if len(runCheck(t, w.env("WORKER_FOLLOW", "off"), exitDone)[what]) > 0 {
			t.Errorf("nothing is followed, and yet %s is looked at", what)
		}
	}
	for range w.js.StreamNames(w.ctx).Name() {
		t.Error("something was created")
	}
}

func TestCheckWeakness(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{Roles: []string{graphsim.RoleReset}})
	l := topology.Layout{}
	requests, letters, worker := l.Requests(names), l.Letters(names), l.Worker(names)
	requests.Replicas, letters.Replicas = 1, 1
	requests.Discard, requests.MaxAge, requests.Duplicates = jetstream.DiscardOld, time.Hour, time.Minute
	letters.Subjects, letters.AllowDirect = []string{"elsewhere.>"}, false
	worker.PriorityPolicy, worker.PriorityGroups, worker.PinnedTTL = jetstream.PriorityPolicyNone, nil, 0
	worker.MaxDeliver, worker.BackOff, worker.AckWait = 5, []time.Duration{time.Second}, 10*time.Second
	for _, s := range []jetstream.StreamConfig{requests, letters} {
		if _, err := w.js.CreateStream(w.ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.js.CreateConsumer(w.ctx, names.Stream, worker); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.CreateKeyValue(w.ctx, jetstream.KeyValueConfig{Bucket: names.Bucket, History: 2, Storage: jetstream.MemoryStorage, TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.PauseConsumer(w.ctx, names.Stream, names.Consumer(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.Publish(w.ctx, names.Subject+".other", []byte("x")); err != nil {
		t.Fatal(err)
	}
	p := runCheck(t, w.env(), exitDone)
	for what, details := range map[string][]string{
		"stream PASSCODE_RESETS":                             {"discards old messages", "drops requests after 1h0m0s", "remembers message ids for 1m0s"},
		"stream PASSCODE_RESETS_DEAD":                        {"so it stores no dead letter on passcode.reset.dead.default", "does not allow direct reads"},
		"consumer worker-default":                            {"at most 5 times", "back-off list", "paused", "no pinned priority group"},
		"bucket passcode-resets":                             {"keeps 2 states of a request", "does not publish its changes", "keeps records for 1h0m0s", "in memory"},
		"tenants with requests but no worker":                {`["other"]`},
		"permission DeviceManagementManagedDevices.Read.All": {"dead letter with reason outcome_unknown", "Accepted requests are not followed"},
	} {
		for _, detail := range details {
			p.is(t, what, "warning", detail)
		}
	}
	p.is(t, "Graph", "warning", "a refusal is taken for the request's own")
	p = runCheck(t, w.env("WORKER_ON_UNKNOWN", "retry"), exitDone)
	p.is(t, "permission DeviceManagementManagedDevices.Read.All", "warning", "may be reset twice")

	// A consumer of another tenant's requests would be the worker's end.
	worker.FilterSubject, worker.MaxDeliver, worker.BackOff = names.Subject+".contoso", -1, nil
	if err := w.js.DeleteConsumer(w.ctx, names.Stream, names.Consumer()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.CreateConsumer(w.ctx, names.Stream, worker); err != nil {
		t.Fatal(err)
	}
	p = runCheck(t, w.env(), exitFailed)
	p.is(t, "consumer worker-default", "failed", "contoso")
}

// lockedDown are the rights of a worker that sets nothing up, as deploy/nats/accounts.conf
// lists them, and whether each must be there.
func lockedDown() map[string]string {
	return map[string]string{
		"$JS.API.CONSUMER.INFO.PASSCODE_RESETS.worker-default":                       "failed",
		"$JS.API.CONSUMER.MSG.NEXT.PASSCODE_RESETS.worker-default":                   "failed",
		"$JS.ACK.PASSCODE_RESETS.worker-default.>":                                   "failed",
		"$JS.ACK.*.*.PASSCODE_RESETS.worker-default.>":                               "warning",
		"$JS.API.STREAM.INFO.KV_passcode-resets":                                     "failed",
		"$JS.API.DIRECT.GET.KV_passcode-resets.>":                                    "failed",
		"$JS.API.STREAM.MSG.GET.KV_passcode-resets":                                  "failed",
		"$KV.passcode-resets.default.>":                                              "failed",
		"passcode.reset.dead.default":                                                "failed",
		"$JS.API.STREAM.INFO.PASSCODE_RESETS":                                        "warning",
		"$JS.API.STREAM.MSG.GET.PASSCODE_RESETS":                                     "failed",
		"$JS.API.STREAM.INFO.PASSCODE_RESETS_DEAD":                                   "warning",
		"$JS.API.CONSUMER.NAMES.PASSCODE_RESETS":                                     "warning",
		"$JS.API.CONSUMER.LIST.PASSCODE_RESETS":                                      "warning",
		"passcode.reset.replicas.PASSCODE_RESETS.default":                            "warning",
		"$JS.API.STREAM.INFO.KV_passcode-resets-state":                               "warning",
		"$JS.API.STREAM.MSG.GET.KV_passcode-resets-state":                            "warning",
		"$KV.passcode-resets-state.default.worker":                                   "warning",
		"$JS.API.CONSUMER.UNPIN.PASSCODE_RESETS.worker-default":                      "warning",
		"$JS.API.CONSUMER.MSG.NEXT.KV_passcode-resets.*":                             "warning",
		"$JS.API.CONSUMER.CREATE.KV_passcode-resets.*.$KV.passcode-resets.default.*": "warning",

		"$JS.API.CONSUMER.INFO.PASSCODE_RESETS_FOLLOW.*":     "warning",
		"$JS.API.CONSUMER.MSG.NEXT.PASSCODE_RESETS_FOLLOW.*": "warning",
		"$JS.ACK.PASSCODE_RESETS_FOLLOW.>":                   "warning",
		"$JS.ACK.*.*.PASSCODE_RESETS_FOLLOW.>":               "warning",
		"$JS.API.STREAM.INFO.KV_passcode-resets-outcomes":    "warning",
		"$JS.API.STREAM.MSG.GET.KV_passcode-resets-outcomes": "warning",
		"$KV.passcode-resets-outcomes.default.>":             "warning",
		"passcode.reset.follow.*.default":                    "warning",
		"$JS.API.STREAM.INFO.PASSCODE_RESETS_FOLLOW":         "warning",
		"$JS.API.STREAM.MSG.GET.PASSCODE_RESETS_FOLLOW":      "warning",
	}
}

// TestCheckRights takes each right away from an account that has no more than
// it needs.
func TestCheckRights(t *testing.T) {
	t.Parallel()
	var all []string
	for right := range lockedDown() {
		all = append(all, right)
	}
	slices.Sort(all)
	users := []*server.User{{Username: "admin", Password: "p"}}
	user := func(name string, subscribe string, rights []string) {
		users = append(users, &server.User{Username: name, Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: rights}, Subscribe: &server.SubjectPermission{Allow: []string{subscribe}},
		}})
	}
	user("all", "_INBOX.>", all)
	user("deaf", "x", all)
	for i := range all {
		user(fmt.Sprint("without", i), "_INBOX.>", slices.Delete(slices.Clone(all), i, i+1))
	}
	w := newWorldWith(t, graphsim.Config{}, server.Options{Users: users, NoAuthUser: "admin"})
	w.setUp()
	env := func(name string) map[string]string {
		return w.env("NATS_USER", name, "NATS_PASSWORD", "p", "WORKER_SETUP", "false")
	}
	p := runCheck(t, env("all"), exitDone)
	p.not(t, "failed")
	for _, right := range all {
		p.is(t, "right to publish to "+right, "ok", "granted")
	}
	runCheck(t, env("deaf"), exitFailed).is(t, "right to subscribe to _INBOX.>", "failed", "_INBOX")
	for i, right := range all {
		want := lockedDown()[right]
		code := exitDone
		if want == "failed" {
			code = exitFailed
		}
		p := runCheck(t, env(fmt.Sprint("without", i)), code)
		p.is(t, "right to publish to "+right, want, "missing")
		p.not(t, "failed", "right to publish to "+right)
	}
	// What the worker would have to create, but may not.
	if err := w.js.DeleteConsumer(w.ctx, names.Stream, names.Consumer()); err != nil {
		t.Fatal(err)
	}
	p = runCheck(t, w.env("NATS_USER", "all", "NATS_PASSWORD", "p"), exitFailed)
	p.is(t, "right to publish to $JS.API.CONSUMER.CREATE.PASSCODE_RESETS.worker-default.passcode.reset.requests.default", "failed", "missing")
}

func TestCheckWithoutNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{Roles: []string{}})
	p := runCheck(t, w.env("NATS_URL", "nats://jo:hunter2@127.0.0.1:1"), exitFailed)
	p.is(t, "NATS", "failed", "no connection to 127.0.0.1:1: ")
	p.is(t, "permission DeviceManagementManagedDevices.PrivilegedOperations.All", "failed", "missing in the token")
	if len(p["stream PASSCODE_RESETS"]) > 0 {
		t.Error("what cannot be known is told")
	}
	p = runCheck(t, w.env("NATS_USER", "jo", "NATS_URL", startNATS(t, server.Options{Username: "x", Password: "y"}).URL()), exitFailed)
	p.is(t, "NATS", "failed", "Authorization Violation")
	if r := runFor(t, w.env("WORKER_RATE", "x"), "check"); r.code != exitUsage || !strings.Contains(r.err, "WORKER_RATE: ") || !strings.HasSuffix(r.err, "Try: worker check --help\n") {
		t.Errorf("a wrong configuration: status %d\n%s", r.code, r.err)
	}
	if r := runFor(t, w.env(), "check", "--nats-monitor", "n1:8222"); r.code != exitUsage || !strings.Contains(r.err, "--nats-monitor: ") {
		t.Errorf("a wrong address: status %d\n%s", r.code, r.err)
	}
}

func TestCheckGraph(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	p := runCheck(t, w.env("AZURE_CLIENT_SECRET", "wrong-hunter2"), exitFailed)
	p.is(t, "token", "failed", "by client secret: token refused")
	p.is(t, "Graph", "warning", "without a token nothing more can be checked")
	p = runCheck(t, w.env("GRAPH_ENDPOINT", "https://127.0.0.1:1"), exitFailed)
	p.is(t, "Graph", "failed", "https://127.0.0.1:1: not sent")
	p = runCheck(t, w.env("AZURE_AUTHORITY_HOST", "https://127.0.0.1:1"), exitFailed)
	p.is(t, "token", "failed", "token unavailable")
	w.sim.SetOutage(graphsim.Outage503)
	p = runCheck(t, w.env(), exitDone)
	p.is(t, "Graph", "warning", "HTTP 503")
	for outage, words := range map[graphsim.Outage]string{
		graphsim.OutageNoLicence: "the tenant has no Intune",
		graphsim.OutageWrongPath: "the root of Graph is wrong",
	} {
		w.sim.SetOutage(outage)
		p = runCheck(t, w.env(), exitFailed)
		p.is(t, "Graph", "failed", words)
		p.is(t, "clock of Graph", "ok", "")
	}
}

func TestCheckMonitor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	var urls, servers []string
	for _, always := range []bool{true, false} {
		l, err := net.Listen("tcp", "127.0.0.1:0") // a free port
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		servers = append(servers, startNATS(t, server.Options{HTTPHost: "127.0.0.1", HTTPPort: port, SyncAlways: always, NoJetStreamStrict: !always}).URL())
		urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d", port))
	}
	monitors := strings.Join(urls, ", ") + "/," + w.sim.URL() + ",http://127.0.0.1:1"
	p := runCheck(t, w.env(), exitDone, "--nats-monitor", monitors)
	p.is(t, "sync to disk, "+urls[0], "ok", "at once")
	p.is(t, "sync to disk, "+urls[1], "warning", "every 2m0s")
	p.is(t, "sync to disk, http://127.0.0.1:1", "warning", "could not be asked")
	p.is(t, "strict JetStream, "+urls[0], "ok", "refuses")
	p.is(t, "strict JetStream, "+urls[1], "warning", "it removes all records")
	if len(p["sync to disk"]) > 0 {
		t.Error("it is said not to be known")
	}
	// The server that it is connected to is none of these, and then one of them.
	p.is(t, "publishers", "warning", "none of the monitoring addresses belongs to server sandbox")
	p = runCheck(t, w.env("NATS_URL", servers[1]), exitDone, "--nats-monitor", monitors)
	p.is(t, "publishers", "warning", "account $G does not export passcode.reset.requests.default as a service")
}

// A server before 2.12 is lenient unless told otherwise, and one before 2.11 in any case:
// neither says so.
func TestCheckMonitorOfAnOldServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	old := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(out, `{"server_id":"X","server_name":"old","version":"2.10.29","jetstream":{"config":{"sync_always":true}}}`) // the check tells
	}))
	t.Cleanup(old.Close)
	p := runCheck(t, w.env(), exitDone, "--nats-monitor", old.URL)
	p.is(t, "sync to disk, "+old.URL, "ok", "server old")
	p.is(t, "strict JetStream, "+old.URL, "warning", "server old accepts any JSON")
}

// TestCheckCluster checks three servers, and then two of them.
func TestCheckCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	cluster, err := natstest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Stop()
	env := w.env("NATS_URL", cluster.URL())
	if r := runFor(t, env, "setup"); r.code != exitDone {
		t.Fatal(r.err)
	}
	var p preconditions
	await(t, "the replicas to be up to date", func() bool {
		p = runCheck(t, env, exitDone)
		return !strings.Contains(fmt.Sprint(p), "lags behind")
	})
	p.not(t, "warning", "sync to disk", "publishers")
	p.is(t, "stream PASSCODE_RESETS", "ok", "3 replicas")
	there := &world{t: t, ctx: t.Context(), js: connect(t, cluster.URL())}
	there.publish(body("A", graphsim.GoodDevice(1)), nil)
	await(t, "the consumer's leader to know of it", func() bool {
		c, err := there.js.Consumer(there.ctx, names.Stream, names.Consumer())
		return err == nil && c.CachedInfo().NumPending == 1
	})
	before := there.touched()
	runCheck(t, env, exitDone)
	if after := there.touched(); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
	leader, err := cluster.StreamLeader(names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range cluster.Servers {
		if s != leader {
			s.Stop()
			break
		}
	}
	await(t, "the loss to be noticed", func() bool {
		return strings.Contains(fmt.Sprint(runCheck(t, env, exitDone)["stream PASSCODE_RESETS"]), "is offline or lags behind")
	})
}
