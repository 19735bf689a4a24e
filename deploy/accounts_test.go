package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/follow"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
)

// names are the default names.
func names(tenant string) topology.Names {
	n := topology.DefaultNames()
	n.Tenant = tenant
	return n
}

// locked is a NATS server with the accounts of deploy/nats.
type locked struct {
	t       *testing.T
	url     string
	monitor string // address of its monitoring
}

// startLocked starts a server with deploy/nats/nats.conf. What is of the tenant
// default stands in it once more, for the tenant other, as the file itself says
// that it is to be done.
func startLocked(t *testing.T, edits ...func(accounts string) string) locked {
	t.Helper()
	accounts, places := twice(read(t, "nats/accounts.conf"))
	if places != 3 {
		t.Fatalf("the marks around a tenant stand at %d places, not 3", places)
	}
	for _, edit := range edits {
		accounts = edit(accounts)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "accounts.conf"), accounts)
	write(t, filepath.Join(dir, "nats.conf"), read(t, "nats/nats.conf"))
	opts, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	// What cannot be as in the file: its address and its folder.
	opts.Host, opts.Port, opts.HTTPPort, opts.StoreDir = "127.0.0.1", server.RANDOM_PORT, freePort(t), t.TempDir()
	s, err := natstest.StartWith(*opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return locked{t, s.URL(), fmt.Sprintf("http://%s:%d", opts.HTTPHost, opts.HTTPPort)}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // somebody else may take it meanwhile, but hardly does
	return l.Addr().(*net.TCPAddr).Port
}

// twice repeats what stands between the marks of the tenant default for the
// tenant other, and counts the places.
func twice(accounts string) (string, int) {
	const begin, end = "# --- tenant default: begin ---", "# --- tenant default: end ---"
	var out strings.Builder
	for places := 0; ; places++ {
		before, rest, ok := strings.Cut(accounts, begin)
		block, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			return out.String() + accounts, places
		}
		out.WriteString(before + begin + block + strings.ReplaceAll(block, "default", "other") + end)
		accounts = after
	}
}

func password(role string) string { return "not-secret-" + strings.ToLower(role) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// user is a connection that notices what it is refused.
type user struct {
	t       *testing.T
	nc      *nats.Conn
	js      jetstream.JetStream
	refused chan error
}

func (l locked) as(role, tenant string, opts ...nats.Option) user {
	l.t.Helper()
	name := role
	if tenant != "" {
		name += "-" + tenant
	}
	return l.login(name, password(role), opts...)
}

func (l locked) login(name, password string, opts ...nats.Option) user {
	l.t.Helper()
	u := user{t: l.t, refused: make(chan error, 100)}
	var err error
	u.nc, err = nats.Connect(l.url, append(opts, nats.UserInfo(name, password),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { u.refused <- err }))...)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(u.nc.Close)
	if u.js, err = jetstream.New(u.nc); err != nil {
		l.t.Fatal(err)
	}
	return u
}

// mayNotPublish checks that the server refuses each subject to the user.
func (u user) mayNotPublish(subjects ...string) {
	u.t.Helper()
	for _, subject := range subjects {
		u.refuses("publish to "+subject, func() error {
			return u.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: "_INBOX.x", Data: []byte("{}")})
		})
	}
}

func (u user) mayNotSubscribe(subjects ...string) {
	u.t.Helper()
	for _, subject := range subjects {
		u.refuses("subscribe to "+subject, func() error {
			_, err := u.nc.SubscribeSync(subject)
			return err
		})
	}
}

func (u user) refuses(what string, try func() error) {
	u.t.Helper()
	for len(u.refused) > 0 {
		u.t.Logf("before: %v", <-u.refused)
	}
	if err := errors.Join(try(), u.nc.Flush()); err != nil {
		u.t.Fatalf("%s: %v", what, err)
	}
	select {
	case err := <-u.refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			u.t.Errorf("%s: %v", what, err)
		}
	case <-time.After(5 * time.Second):
		u.t.Errorf("%s is allowed", what)
	}
}

// mayPublish checks that the server refuses none of them.
func (u user) mayPublish(subjects ...string) {
	u.t.Helper()
	for _, subject := range subjects {
		if err := errors.Join(u.nc.Publish(subject, nil), u.nc.Flush()); err != nil {
			u.t.Fatal(err)
		}
	}
	u.unrefused()
}

// unrefused checks that the user was refused nothing so far. The server
// reports a refusal before it answers the ping that follows.
func (u user) unrefused() {
	u.t.Helper()
	if err := u.nc.Flush(); err != nil {
		u.t.Fatal(err)
	}
	select {
	case err := <-u.refused:
		u.t.Errorf("it was refused: %v", err)
	case <-time.After(200 * time.Millisecond): // the client reports it from a goroutine of its own
	}
}

// send publishes a request as the publisher does.
func (u user) send(tenant, id, device string) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), testTime)
	defer cancel()
	body := fmt.Sprintf(`{"id":%q,"managedDeviceId":%q}`, id, device)
	if _, err := u.js.Publish(ctx, "passcode.reset.requests."+tenant, []byte(body)); err != nil {
		u.t.Fatalf("publish %s: %v", id, err)
	}
}

// workerRun starts a real worker.
func workerRun(t *testing.T, env []string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program(t, "worker"), "run")
	log, err := os.Create(filepath.Join(t.TempDir(), "worker.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env, cmd.Stderr = env, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
		said := read(t, log.Name())
		_ = log.Close()
		if strings.Contains(strings.ToLower(said), "permissions violation") {
			t.Error("the worker was refused something")
		}
		if t.Failed() {
			t.Logf("the worker said:\n%s", said[max(0, len(said)-6000):])
		}
	})
	return cmd
}

// workerEnv is a worker's environment between a NATS server and a simulated Graph.
func workerEnv(t *testing.T, natsURL, tenant string, sim *graphsim.Sim, more ...string) []string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(sim.CAPEM()))
	return append([]string{
		"SSL_CERT_FILE=" + ca, "NATS_URL=" + natsURL, "WORKER_TENANT=" + tenant,
		"AZURE_TENANT_ID=" + graphsim.DefaultTenantID, "AZURE_CLIENT_ID=" + graphsim.DefaultClientID,
		"AZURE_CLIENT_SECRET=" + graphsim.DefaultClientSecret,
		"AZURE_AUTHORITY_HOST=" + sim.URL(), "GRAPH_ENDPOINT=" + sim.URL(),
		"WORKER_HTTP_ADDR=127.0.0.1:0", "WORKER_REQUEST_TIMEOUT=2s", "WORKER_VERIFY_AFTER=1s",
		"WORKER_BACKOFF_MIN=100ms", "WORKER_BACKOFF_MAX=1s", "WORKER_MAX_ATTEMPTS=3", "WORKER_MAX_PAUSE=3s",
	}, more...)
}

// Everybody can do their job with the accounts of deploy/nats.
func TestAccountsAreEnough(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		t.Skip("SSL_CERT_FILE has no effect here")
	}
	l := startLocked(t)
	sim, err := graphsim.Start(graphsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	setUp(t, l)
	env := workerEnv(t, l.url, "default", sim, "WORKER_SETUP=false", "NATS_USER=worker-default", "NATS_PASSWORD="+password("WORKER"),
		"WORKER_FUSE=1000/1h", "WORKER_DEVICE_COOLDOWN=1s")
	workerCheck(t, l, env)
	workerRun(t, env)

	publisher, helpdesk := l.as("publisher", "default"), l.as("helpdesk", "default")
	status, err := publisher.nc.SubscribeSync("passcode.reset.status.default.>")
	if err != nil {
		t.Fatal(err)
	}
	told, heard := publisher.hearsOutcomes(), helpdesk.hearsOutcomes()
	publisher.send("default", "good", graphsim.GoodDevice(1))
	publisher.send("default", "throttled", graphsim.FaultDevice(429, 1, 1, 2))
	publisher.send("default", "lost", graphsim.FaultDevice(602, 1, 0, 3)) // a look-up has to find it
	publisher.send("default", "again", graphsim.FaultDevice(500, 1, 0, 4))
	publisher.send("default", "missing", graphsim.FaultDevice(404, 0, 0, 5))
	publisher.send("default", "garbage", "no-guid")

	ends := map[string]string{}
	want := map[string]string{"good": "accepted", "throttled": "accepted", "lost": "accepted", "again": "accepted",
		"missing": "dead", "garbage": "dead"}
	for len(ends) < len(want) {
		m, err := status.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatalf("followed %v: %v", ends, err)
		}
		for _, state := range []string{"accepted", "dead"} {
			if strings.Contains(string(m.Data), `"state":"`+state+`"`) {
				ends[strings.TrimPrefix(m.Subject, "passcode.reset.status.default.")] = state
			}
		}
	}
	for id, state := range want {
		if ends[id] != state {
			t.Errorf("%s ended %s, not %s", id, ends[id], state)
		}
	}
	l.as("operator", "default").rings("good")
	for who, sub := range map[string]*nats.Subscription{"publisher": told, "help desk": heard} {
		if d := document(t, sub); d.Outcome != outcome.Done {
			t.Errorf("%s: the outcome of %s is %s: %s", who, d.ID, d.Outcome, d.Text)
		}
	}
	if d := helpdesk.looksUp("default", "good"); d.Outcome != outcome.Done || d.NextStep != outcome.ReadPasscode {
		t.Errorf("the help desk reads %+v", d)
	}
	helpdesk.unrefused()
	publisher.unrefused()
	publisher.isAnswered()
	publisherCommands(t, l)

	operator := l.as("operator", "default")
	s, err := operator.js.Stream(t.Context(), "PASSCODE_RESETS")
	if err != nil {
		t.Fatal(err)
	}
	await(t, testTime, "an empty stream", func() bool {
		info, err := s.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
	operator.doesItsJob()
	operator.unrefused()
	await(t, testTime, "the letter that was sent again to come back", func() bool {
		dead, err := operator.js.Stream(t.Context(), "PASSCODE_RESETS_DEAD")
		return err == nil && dead.CachedInfo().State.Msgs == 2
	})
	operatorCommands(t, l)
}

// checkLine is one line of `worker check -o json`.
type checkLine struct{ Status, What, Detail string }

func (l locked) check(env []string) ([]checkLine, error) {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), program(l.t, "worker"), "check", "-o", "json", "--nats-monitor", l.monitor)
	cmd.Env = env
	out, failed := cmd.Output()
	var lines []checkLine
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var line checkLine
		if err := d.Decode(&line); err != nil {
			l.t.Fatalf("%v in %s", err, out)
		}
		lines = append(lines, line)
	}
	return lines, failed
}

// workerCheck runs `worker check` as the worker: nothing fails, and what it warns
// of is due to the server of this test, which is alone.
func workerCheck(t *testing.T, l locked, env []string) {
	t.Helper()
	lines, err := l.check(env)
	if err != nil {
		t.Errorf("worker check: %v", err)
	}
	rights, publishers := 0, 0
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line.What, "right to "):
			rights++
		case line.What == "publishers":
			publishers++
		}
		if line.Status != "ok" && !strings.Contains(line.Detail, "1 replica(s)") {
			t.Errorf("%s %s: %s", line.Status, line.What, line.Detail)
		}
	}
	if rights < 15 || publishers != 1 {
		t.Errorf("%d rights were tried, %d lines are about the publishers:\n%v", rights, publishers, lines)
	}
}

// operatorCommands runs the commands for operators as the operator.
func operatorCommands(t *testing.T, l locked) {
	t.Helper()
	help, sending := output(t, program(t, "worker"), "--help"), output(t, program(t, "worker"), "send", "--help")
	for _, args := range [][]string{
		{"send", "--device", graphsim.GoodDevice(50), "--id", "sent", "--wait"},
		{"send", "--device", graphsim.GoodDevice(51), "--id", "followed", "--follow", "--timeout", "60s"},
		{"status"}, {"status", "sent"},
		{"outcome", "list"}, {"outcome", "show", "good"}, {"outcome", "follow", "good"}, {"outcome", "follow", "--since", "1h"},
		{"pause"}, {"resume"},
		{"dead", "list"}, {"dead", "show", "missing"}, {"dead", "redrive", "missing", "--dry-run"}, {"dead", "remove", "missing"},
	} {
		if !strings.Contains(help, "\n  "+args[0]+" ") || slices.Contains(args, "--follow") && !strings.Contains(sending, "--follow ") {
			t.Logf("there is no command %s", args[0])
			continue
		}
		cmd := exec.CommandContext(t.Context(), program(t, "worker"), args...)
		cmd.Env = []string{"NATS_URL=" + l.url, "NATS_USER=operator-default", "NATS_PASSWORD=" + password("OPERATOR")}
		out, err := cmd.CombinedOutput()
		if text := strings.ToLower(string(out)); err != nil || strings.Contains(text, "permission") || strings.Contains(text, "a right is missing") {
			t.Errorf("worker %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// isAnswered publishes as programs do, and looks at what the account lets through:
// the PubAck, the message id, and the headers that say what is expected.
func (u user) isAnswered() {
	t := u.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	const subject = "passcode.reset.requests.default"
	body := fmt.Appendf(nil, `{"id":"once","managedDeviceId":%q}`, graphsim.GoodDevice(40))
	first, err := u.js.Publish(ctx, subject, body, jetstream.WithMsgID("once"), jetstream.WithExpectStream("PASSCODE_RESETS"))
	if err != nil || first.Stream != "PASSCODE_RESETS" || first.Sequence == 0 || first.Duplicate {
		t.Fatalf("the answer is %+v, %v", first, err)
	}
	again, err := u.js.Publish(ctx, subject, body, jetstream.WithMsgID("once"))
	if err != nil || !again.Duplicate || again.Sequence != first.Sequence {
		t.Errorf("the same message id again: %+v, %v", again, err)
	}
	_, err = u.js.Publish(ctx, subject, body, jetstream.WithExpectStream("ANOTHER"))
	if api := (*jetstream.APIError)(nil); !errors.As(err, &api) || !strings.Contains(api.Description, "expected stream does not match") {
		t.Errorf("another stream was expected: %v", err)
	}
	later, err := u.js.PublishAsync(subject, fmt.Appendf(nil, `{"id":"later","managedDeviceId":%q}`, graphsim.GoodDevice(41)))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case ack := <-later.Ok():
		if ack.Sequence <= first.Sequence {
			t.Errorf("the answer is %+v", ack)
		}
	case err := <-later.Err():
		t.Error(err)
	case <-ctx.Done():
		t.Error("a message that was not waited for is not answered")
	}
	u.unrefused()
}

// publisherCommands runs what a publisher can run of the worker's commands.
func publisherCommands(t *testing.T, l locked) {
	t.Helper()
	run := func(args ...string) (string, string, error) {
		var out, said bytes.Buffer
		cmd := exec.CommandContext(t.Context(), program(t, "worker"), args...)
		cmd.Env = []string{"NATS_URL=" + l.url, "NATS_USER=publisher-default", "NATS_PASSWORD=" + password("PUBLISHER")}
		cmd.Stdout, cmd.Stderr = &out, &said
		err := cmd.Run()
		return out.String(), said.String(), err
	}
	if out, said, err := run("send", "--device", graphsim.GoodDevice(42), "--id", "quick"); err != nil || out != "quick\n" || said != "" {
		t.Errorf("worker send: %v\n%s%s", err, out, said)
	}
	// It hears each change, but may not read what was before.
	out, said, err := run("send", "--device", graphsim.GoodDevice(43), "--id", "heard", "--wait", "--timeout", "20s")
	if err != nil || !strings.Contains(out, "heard  accepted") || !strings.Contains(said, "the command sees only changes from now on") {
		t.Errorf("worker send --wait: %v\n%s%s", err, out, said)
	}
	// A duplicate changes nothing, so there is nothing to hear.
	out, said, err = run("send", "--device", graphsim.GoodDevice(43), "--id", "heard", "--wait", "--timeout", "2s")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || out != "heard\n" ||
		!strings.Contains(said, "the command did not see the end of heard, which may have come earlier") {
		t.Errorf("worker send --wait of a duplicate: %v\n%s%s", err, out, said)
	}
	// The rest is for operators.
	for _, args := range [][]string{{"status"}, {"status", "heard"}, {"dead", "list"}, {"pause"}} {
		out, said, err := run(args...)
		if err == nil || !strings.Contains(said, "a right is missing: this account may not publish to $JS.API.") {
			t.Errorf("worker %v: %v\n%s%s", args, err, out, said)
		}
	}
}

// setUp makes everything with the command, as the user for it.
func setUp(t *testing.T, l locked) {
	t.Helper()
	for _, tenant := range []string{"default", "other"} {
		for _, args := range [][]string{{"setup"}, {"setup", "--update"}} {
			cmd := exec.CommandContext(t.Context(), program(t, "worker"), append(args, "--tenant", tenant)...)
			cmd.Env = []string{"NATS_URL=" + l.url, "NATS_USER=setup", "NATS_PASSWORD=" + password("SETUP")}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s for %s: %v\n%s", args, tenant, err, out)
			}
		}
	}
}

// doesItsJob does what the commands for operators do.
func (u user) doesItsJob() {
	t := u.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("operator: %s: %v", what, err)
		}
	}
	_, err := u.js.AccountInfo(ctx)
	must("account", err)
	c, err := u.js.Consumer(ctx, "PASSCODE_RESETS", "worker-default")
	must("consumer", err)
	if c.CachedInfo().NumPending != 0 {
		t.Error("requests wait")
	}
	_, err = u.js.PauseConsumer(ctx, "PASSCODE_RESETS", "worker-default", time.Now().Add(time.Hour))
	must("pause", err)
	_, err = u.js.ResumeConsumer(ctx, "PASSCODE_RESETS", "worker-default")
	must("resume", err)

	kv, err := u.js.KeyValue(ctx, "passcode-resets")
	must("bucket", err)
	_, err = u.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET.KV_passcode-resets", []byte(`{"last_by_subj":"$KV.passcode-resets.default.good"}`))
	must("record below an answer", err)
	_, err = kv.Get(ctx, "default.good")
	must("record", err)
	history, err := kv.History(ctx, "default.good")
	must("history", err)
	if len(history) < 2 {
		t.Errorf("the record has a history of %d", len(history))
	}

	dead, err := u.js.Stream(ctx, "PASSCODE_RESETS_DEAD")
	must("dead letters", err)
	if n := dead.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("%d dead letters, not 2", n)
	}
	reader, err := dead.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"passcode.reset.dead.default"}})
	must("reader of dead letters", err)
	m, err := reader.Next(jetstream.FetchMaxWait(5 * time.Second))
	must("read a dead letter", err)
	meta, err := m.Metadata()
	must("metadata", err)
	_, err = dead.GetMsg(ctx, meta.Sequence.Stream)
	must("get a dead letter", err)
	_, err = u.js.Publish(ctx, "passcode.reset.requests.default", m.Data())
	must("redrive", err)
	outcomes, err := u.js.KeyValue(ctx, "passcode-resets-outcomes")
	must("bucket of outcomes", err)
	_, err = outcomes.Get(ctx, "default.good")
	must("outcome", err)
	watch, err := outcomes.Watch(ctx, "default.*")
	must("list of outcomes", err)
	must("end of the list", watch.Stop())
	for step := range topology.FollowSteps {
		_, err = u.js.Consumer(ctx, "PASSCODE_RESETS_FOLLOW", topology.FollowConsumer(step))
		must("queue of alarms", err)
	}
	must("remove", dead.DeleteMsg(ctx, meta.Sequence.Stream))

	if _, err = u.js.Stream(ctx, "KV_passcode-resets-state"); err == nil {
		_, err = u.js.Publish(ctx, "$KV.passcode-resets-state.default.operator", []byte(`{}`))
		must("order", err)
	}
}

// rings has the device of an accepted request looked at now, as an operator does.
func (u user) rings(id string) {
	t := u.t
	t.Helper()
	records, err := record.Open(t.Context(), u.js, "passcode-resets")
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := records.Get(t.Context(), record.Key("default", request.EscapeID(id)))
	if err != nil || !r.Followed {
		t.Fatalf("the request is not followed: %+v, %v", r, err)
	}
	a := outcome.Of(r)
	a.DueAt, a.Order, a.Until = time.Now().Add(time.Second), "now", time.Now().Add(time.Hour) // a simulated device takes a second
	n := names("default")
	if err := follow.Publish(t.Context(), u.js, n.FollowSubject, n.FollowStream, a); err != nil {
		t.Fatal(err)
	}
}

func (u user) hearsOutcomes() *nats.Subscription {
	u.t.Helper()
	sub, err := u.nc.SubscribeSync("passcode.reset.outcome.default.>")
	if err != nil {
		u.t.Fatal(err)
	}
	return sub
}

// document is the next outcome that is final.
func document(t *testing.T, sub *nats.Subscription) outcome.Document {
	t.Helper()
	for {
		m, err := sub.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatalf("no outcome is heard: %v", err)
		}
		d, ok := outcome.Decode(strings.TrimPrefix(m.Subject, "passcode.reset.outcome."), nil, m.Data)
		if !ok {
			t.Errorf("%s: %s", m.Subject, m.Data)
		}
		if d.Final {
			return d
		}
	}
}

const directGet = "$JS.API.DIRECT.GET.KV_passcode-resets-outcomes.$KV.passcode-resets-outcomes."

// looksUp reads an outcome as a help desk does, by one message.
func (u user) looksUp(tenant, id string) outcome.Document {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), testTime)
	defer cancel()
	m, err := u.nc.RequestWithContext(ctx, directGet+tenant+"."+id, nil)
	if err != nil {
		u.t.Fatal(err)
	}
	d, _ := outcome.Decode(tenant+"."+id, nil, m.Data)
	return d
}

// A worker that may make what is missing makes all that following needs, and follows.
func TestAccountsAreEnoughToSetUp(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		t.Skip("SSL_CERT_FILE has no effect here")
	}
	l := startLocked(t, func(accounts string) string {
		// The lines of setup besides its own.
		_, lines, _ := strings.Cut(accounts, "user: setup,")
		lines, _, _ = strings.Cut(lines[strings.Index(lines, "publish: { allow: [")+len("publish: { allow: ["):], "] }")
		// With the last one it finds out whether a stream of another domain takes the requests.
		return strings.Replace(accounts, "            # Take requests, and settle them.", lines+`"passcode.reset.requests.default"`, 1)
	})
	sim, err := graphsim.Start(graphsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	workerRun(t, workerEnv(t, l.url, "default", sim, "WORKER_SETUP=true", "NATS_USER=worker-default", "NATS_PASSWORD="+password("WORKER")))
	operator := l.as("operator", "default")
	await(t, testTime, "the last queue of alarms", func() bool {
		_, err := operator.js.Consumer(t.Context(), "PASSCODE_RESETS_FOLLOW", topology.FollowConsumer(topology.FollowSteps-1))
		return err == nil
	})
	heard := operator.hearsOutcomes()
	publisher := l.as("publisher", "default")
	status, err := publisher.nc.SubscribeSync("passcode.reset.status.default.good")
	if err != nil {
		t.Fatal(err)
	}
	if err := publisher.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	publisher.send("default", "good", graphsim.GoodDevice(1))
	for accepted := false; !accepted; {
		m, err := status.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		accepted = strings.Contains(string(m.Data), `"state":"accepted"`)
	}
	operator.rings("good")
	if d := document(t, heard); d.Outcome != outcome.Done {
		t.Errorf("the outcome is %s", d.Outcome)
	}
	operator.unrefused()
}

// The worker of a tenant hears that a request has come, and neither the worker of another
// one nor anybody else does. It binds by one list.
func TestOnlyTheWorkerIsWoken(t *testing.T) {
	t.Parallel()
	l := startLocked(t)
	setup := l.as("setup", "")
	for _, tenant := range []string{"default", "other"} {
		if _, err := topology.Setup(t.Context(), setup.js, names(tenant), topology.Layout{}); err != nil {
			t.Fatal(err)
		}
	}
	heard := map[string]*nats.Subscription{}
	for _, tenant := range []string{"default", "other"} {
		worker := l.as("worker", tenant)
		if found, err := topology.Consumers(t.Context(), worker.js, names(tenant).Stream, 0); err != nil || len(found) != 2 {
			t.Errorf("the consumers are %v, %v", found, err)
		}
		sub, err := worker.nc.SubscribeSync(names(tenant).Wake())
		if err != nil {
			t.Fatal(err)
		}
		worker.unrefused()
		heard[tenant] = sub
	}
	for _, tenant := range []string{"default", "other"} {
		if _, err := l.as("publisher", tenant).js.Publish(t.Context(), names(tenant).Filter(), []byte("{}")); err != nil {
			t.Fatal(err)
		}
		m, err := heard[tenant].NextMsg(5 * time.Second)
		if err != nil || len(m.Data) != 0 {
			t.Fatalf("%s: %v", tenant, err)
		}
	}
	for tenant, sub := range heard {
		if left, _, err := sub.Pending(); left != 0 || err != nil {
			t.Errorf("%s was woken %d times more, %v", tenant, left, err)
		}
	}
}

// A help desk cannot have an answer sent to where it would count for something else.
func TestHelpDeskReachesNothingElse(t *testing.T) {
	l := startLocked(t)
	setUp(t, l)
	worker := l.as("worker", "default")
	n := names("default")
	outcomes, err := outcome.Open(t.Context(), worker.js, n.OutcomeBucket())
	if err != nil {
		t.Fatal(err)
	}
	d := outcome.Document{ID: "A", Tenant: "default", ManagedDeviceID: graphsim.GoodDevice(1), Outcome: outcome.Pending, AcceptedAt: time.Now()}
	if err := outcomes.Put(t.Context(), d, 0); err != nil {
		t.Fatal(err)
	}
	helpdesk := l.as("helpdesk", "default")
	if d := helpdesk.looksUp("default", "A"); d.ID != "A" {
		t.Fatalf("it reads %+v", d)
	}
	// An outcome names a device, and would be a request.
	for _, reply := range []string{"passcode.reset.requests.default", "passcode.reset.requests.other", "$KV.passcode-resets.default.A",
		"$KV.passcode-resets-outcomes.default.B", "passcode.reset.follow.0.default"} {
		if err := helpdesk.nc.PublishRequest(directGet+"default.A", reply, nil); err != nil {
			t.Fatal(err)
		}
	}
	// What one connection sends is dealt with in its order.
	helpdesk.looksUp("default", "A")
	setup := l.as("setup", "")
	for name, want := range map[string]uint64{n.Stream: 0, "KV_" + n.Bucket: 0, "KV_" + n.OutcomeBucket(): 1, n.FollowStream: 0} {
		s, err := setup.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.CachedInfo().State.Msgs; got != want {
			t.Errorf("%s holds %d messages, not %d", name, got, want)
		}
	}
	// Others of a stream that is read by a key of one's own.
	for _, body := range []string{`{"seq":1}`, `{"last_by_subj":"$KV.passcode-resets-outcomes.other.A"}`, `{"multi_last":["$KV.passcode-resets-outcomes.other.A"]}`} {
		m, err := helpdesk.nc.Request(directGet+"default.A", []byte(body), testTime)
		if err != nil || m.Header.Get("Status") != "408" {
			t.Errorf("%s: %v, %v", body, m, err)
		}
	}
}

// Nobody can do more than their job.
func TestAccountsAreNotMoreThanEnough(t *testing.T) {
	l := startLocked(t)
	setUp(t, l)
	wiping := []string{
		"$JS.API.STREAM.DELETE.PASSCODE_RESETS", "$JS.API.STREAM.PURGE.PASSCODE_RESETS", "$JS.API.STREAM.UPDATE.PASSCODE_RESETS",
		"$JS.API.STREAM.DELETE.KV_passcode-resets", "$JS.API.STREAM.PURGE.KV_passcode-resets",
		"$JS.API.STREAM.DELETE.PASSCODE_RESETS_DEAD", "$JS.API.STREAM.PURGE.PASSCODE_RESETS_DEAD",
		"$JS.API.STREAM.MSG.DELETE.PASSCODE_RESETS", "$JS.API.STREAM.MSG.DELETE.KV_passcode-resets",
		"$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.SNAPSHOT.PASSCODE_RESETS", "$JS.API.STREAM.SNAPSHOT.KV_passcode-resets",
		"$JS.API.CONSUMER.DELETE.PASSCODE_RESETS.worker-default", "$JS.API.CONSUMER.DURABLE.CREATE.PASSCODE_RESETS.x",
		"$JS.API.CONSUMER.CREATE.PASSCODE_RESETS.x.passcode.reset.requests.default",
		"$SYS.REQ.SERVER.PING",
		"$JS.API.STREAM.DELETE.KV_passcode-resets-outcomes", "$JS.API.STREAM.PURGE.KV_passcode-resets-outcomes",
		"$JS.API.STREAM.MSG.DELETE.KV_passcode-resets-outcomes", "$JS.API.STREAM.PURGE.PASSCODE_RESETS_FOLLOW",
		"$JS.API.STREAM.DELETE.PASSCODE_RESETS_FOLLOW", "$JS.API.CONSUMER.DELETE.PASSCODE_RESETS_FOLLOW.follow-0",
	}
	reading := []string{
		"$JS.API.DIRECT.GET.KV_passcode-resets", // by sequence: anybody's
		"$JS.API.DIRECT.GET.KV_passcode-resets.$KV.passcode-resets.other.x",
		"$JS.API.CONSUMER.CREATE.KV_passcode-resets.x", "$JS.API.CONSUMER.CREATE.KV_passcode-resets.x.$KV.passcode-resets.other.>",
		directGet + "other.x", "$JS.API.CONSUMER.CREATE.KV_passcode-resets-outcomes.x",
		"$JS.API.CONSUMER.CREATE.KV_passcode-resets-outcomes.x.$KV.passcode-resets-outcomes.other.>",
	}
	working := []string{
		"$JS.API.CONSUMER.MSG.NEXT.PASSCODE_RESETS.worker-default", "$JS.ACK.PASSCODE_RESETS.worker-default.1.1.1.1.0",
		"$JS.ACK._.hash.PASSCODE_RESETS.worker-default.1.1.1.1.0.x", "passcode.reset.dead.default",
		"$KV.passcode-resets.default.x", "$KV.passcode-resets-state.default.worker",
		"$JS.API.CONSUMER.MSG.NEXT.PASSCODE_RESETS_FOLLOW.follow-0", "$JS.ACK.PASSCODE_RESETS_FOLLOW.follow-0.1.1.1.1.0",
		"$KV.passcode-resets-outcomes.default.x", "$KV.passcode-resets-state.default.reads",
	}
	others := []string{
		"passcode.reset.requests.other", "passcode.reset.dead.other", "$KV.passcode-resets.other.x",
		"$KV.passcode-resets-state.other.worker", "$KV.passcode-resets-state.other.operator",
		"$JS.ACK.PASSCODE_RESETS.worker-other.1.1.1.1.0", "$JS.API.CONSUMER.MSG.NEXT.PASSCODE_RESETS.worker-other",
		"$JS.API.CONSUMER.PAUSE.PASSCODE_RESETS.worker-other", "$JS.API.CONSUMER.UNPIN.PASSCODE_RESETS.worker-other",
		"passcode.reset.status.default.x", "passcode.reset.outcome.default.x",
		"passcode.reset.follow.0.other", "$KV.passcode-resets-outcomes.other.x", "$KV.passcode-resets-state.other.reads",
		"passcode.reset.wake.PASSCODE_RESETS.default", "passcode.reset.wake.PASSCODE_RESETS.other",
	}
	everything := []string{">", "$JS.>", "$KV.>", "$KV.passcode-resets.default.x", "passcode.reset.requests.>", "passcode.reset.dead.>",
		"passcode.reset.status.other.>", "passcode.reset.outcome.other.>", "passcode.reset.follow.>", "$JS.EVENT.>",
		"passcode.reset.wake.>", names("default").Wakes(), names("other").Wake()}

	publisher := l.as("publisher", "default")
	publisher.mayNotPublish(wiping...)
	publisher.mayNotPublish(reading...)
	publisher.mayNotPublish(working...)
	publisher.mayNotPublish(others...)
	publisher.mayNotPublish("$JS.API.CONSUMER.LIST.PASSCODE_RESETS", "$JS.API.STREAM.MSG.GET.KV_passcode-resets", "$JS.API.STREAM.MSG.GET.KV_passcode-resets-state",
		"$JS.API.STREAM.INFO.PASSCODE_RESETS", "$JS.API.STREAM.MSG.GET.PASSCODE_RESETS", "$JS.API.DIRECT.GET.PASSCODE_RESETS", "$JS.API.STREAM.MSG.DELETE.PASSCODE_RESETS_DEAD",
		"$JS.API.CONSUMER.PAUSE.PASSCODE_RESETS.worker-default", "$KV.passcode-resets-state.default.operator",
		"$JS.API.DIRECT.GET.KV_passcode-resets.$KV.passcode-resets.default.x", "$JS.API.DIRECT.GET.PASSCODE_RESETS_DEAD",
		directGet+"default.x", "passcode.reset.follow.0.default", "$JS.API.STREAM.MSG.GET.KV_passcode-resets-outcomes",
		"_INBOX.x", "_INBOX_publisher-other.x")
	publisher.mayNotSubscribe(everything...)
	publisher.mayNotSubscribe(names("default").Wake(), "_INBOX_publisher-other.>", "passcode.reset.requests.default", "_R_.>")

	worker := l.as("worker", "default")
	worker.mayPublish(working...)
	worker.mayNotPublish(wiping...)
	worker.mayNotPublish(reading...)
	worker.mayNotPublish(others...)
	worker.mayNotPublish("$JS.API.CONSUMER.DELETE.KV_passcode-resets.x", // of another reader
		"passcode.reset.requests.default", "$KV.passcode-resets-state.default.operator",
		"$JS.API.CONSUMER.PAUSE.PASSCODE_RESETS.worker-default", "$JS.API.STREAM.MSG.DELETE.PASSCODE_RESETS_DEAD",
		"$JS.API.DIRECT.GET.PASSCODE_RESETS_DEAD", "$JS.API.DIRECT.GET.PASSCODE_RESETS")
	worker.mayNotSubscribe(everything...)
	worker.mayNotSubscribe("_INBOX_publisher-default.>")

	operator := l.as("operator", "default")
	operator.mayNotPublish(wiping...)
	operator.mayNotPublish(reading...)
	operator.mayNotPublish(working...)
	operator.mayNotPublish(others...)
	operator.mayNotSubscribe(everything...)
	operator.mayNotSubscribe(names("default").Wake())

	helpdesk := l.as("helpdesk", "default")
	helpdesk.mayNotPublish(wiping...)
	helpdesk.mayNotPublish(reading...)
	helpdesk.mayNotPublish(working...)
	helpdesk.mayNotPublish(others...)
	helpdesk.mayNotPublish(directGet+"other.x", "$JS.API.DIRECT.GET.KV_passcode-resets-outcomes", "$JS.API.STREAM.MSG.GET.KV_passcode-resets-outcomes",
		"$JS.API.STREAM.INFO.KV_passcode-resets-outcomes", "$JS.API.CONSUMER.CREATE.KV_passcode-resets-outcomes.x",
		"$JS.API.CONSUMER.CREATE.KV_passcode-resets-outcomes.x.$KV.passcode-resets-outcomes.default.>",
		"$JS.API.CONSUMER.CREATE.KV_passcode-resets-outcomes.x.$KV.passcode-resets-outcomes.other.>",
		"$JS.API.DIRECT.GET.KV_passcode-resets.$KV.passcode-resets.default.x", "passcode.reset.requests.default", "passcode.reset.outcome.default.x")
	helpdesk.mayNotSubscribe(everything...)
	helpdesk.mayNotSubscribe(names("default").Wake(), "passcode.reset.status.default.>", "passcode.reset.requests.default")

	setup := l.as("setup", "")
	setup.mayNotPublish(working...)
	setup.mayNotPublish(others...)
	setup.mayNotPublish("passcode.reset.requests.default", "$JS.API.STREAM.DELETE.PASSCODE_RESETS", "$JS.API.STREAM.PURGE.PASSCODE_RESETS",
		"$JS.API.STREAM.MSG.GET.PASSCODE_RESETS", "$JS.API.CONSUMER.DELETE.PASSCODE_RESETS.worker-default")

	if _, err := nats.Connect(l.url); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without a user: %v", err)
	}
}
