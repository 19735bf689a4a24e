package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/handover"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// objects reads JSON lines.
func objects(t *testing.T, text string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(text) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%q is not a line of JSON: %v", line, err)
		}
		out = append(out, o)
	}
	return out
}

// expect runs a command and compares its status and, as regular expressions,
// what it wrote.
func expect(t *testing.T, env map[string]string, code int, out, errs string, args ...string) result {
	t.Helper()
	r := runFor(t, env, args...)
	if r.code != code || !regexp.MustCompile(`(?s)^`+out+`$`).MatchString(r.out) || !regexp.MustCompile(`(?s)^(worker: so far: [^\n]*\n)*`+errs+`$`).MatchString(r.err) {
		t.Errorf("worker %q: status %d, standard output:\n%s\nstandard error:\n%s", args, r.code, r.out, r.err)
	}
	return r
}

// pipe runs a command with a standard input.
func pipe(t *testing.T, env map[string]string, in string, args ...string) result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	for name, value := range with(env, asWorker, "1") {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out, errs output
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errs
	_ = cmd.Run() // how it ended is read from its state
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func TestSendAndStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	env := w.env()
	p := launch(t, env, "run")
	p.awaitReady()

	good := graphsim.GoodDevice(1)
	expect(t, env, exitDone, "INC1\n(INC1  attempt 1: Graph is called\n)?INC1  accepted: Graph has accepted the reset\n", "",
		"send", "--device", strings.ToUpper(good), "--id", "INC1", "--requested-by", "jo", "--reason", "forgot", "--wait")
	expect(t, env, exitDone, "INC1\nINC1  was accepted before, as message 1: this one is a duplicate\n", "", "send", "--device", good, "--id", "INC1", "--wait")
	r := expect(t, env, exitFailed, ".*", "", "send", "--device", graphsim.FaultDevice(404, 0, 0, 1), "--wait", "-o", "json", "--timeout", "1m")
	lines := objects(t, r.out)
	last := lines[len(lines)-1]
	if id := lines[0]["id"]; len(fmt.Sprint(id)) != 36 || last["id"] != id || last["state"] != "dead" || last["reason"] != "not_found" {
		t.Errorf("sent and followed:\n%s", r.out)
	}
	expect(t, env, exitFailed, "D2\n.*D2  dead: not_found: .*", "", "send", "--device", graphsim.FaultDevice(404, 0, 0, 2), "--id", "D2", "--wait")

	r = expect(t, env, exitDone, "request   INC1\ndevice    "+good+"\nwanted    by jo: forgot\n.*now       accepted: Graph has accepted the reset\noutcome   pending since .*\n\nWRITTEN .*", "", "status", "INC1")
	if n := strings.Count(r.out, "\n20"); n != 2 || strings.Contains(r.out, "\x1b") {
		t.Errorf("%d states:\n%s", n, r.out)
	}
	r = expect(t, env, exitDone, ".*", "", "status", "INC1", "-o", "json")
	if l := objects(t, r.out); len(l) != 2 || l[0]["state"] != "attempting" || l[1]["state"] != "accepted" || l[1]["writtenAt"] == nil {
		t.Errorf("history:\n%s", r.out)
	}
	expect(t, env, exitFailed, "", `worker: no\\u001bpe: there is no record: .*\n`, "status", "no\x1bpe")

	r = expect(t, env, exitDone, ".*", "", "status", "-o", "json")
	if q := objects(t, r.out)[0]; q["tenant"] != "default" || q["waiting"] != 0.0 || q["dead"] != 2.0 || q["paused"] != false || q["rate"] != "0" {
		t.Errorf("queue:\n%s", r.out)
	}
	p.stop()
	w.checkSim()
}

func TestSendList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	env := w.env()
	p := launch(t, env, "run")
	p.awaitReady()

	bad := body("A", graphsim.GoodDevice(1)) + "\n\n" + `{"managedDeviceId":"x"}` + "\n" + body("A", graphsim.GoodDevice(2)) + "\nnonsense\n"
	r := pipe(t, env, bad, "send", "--file", "-")
	want := "worker: nothing was published: \n  - line 3: managedDeviceId: not a GUID of 8-4-4-4-12 hex digits\n" +
		"  - line 4: it has the same id as line 1, so it is the same request\n  - line 5: body: not valid JSON, at byte offset 1\nTry: worker send --help\n"
	if r.code != exitUsage || r.out != "" || r.err != want || w.stream(names.Stream).State.LastSeq != 0 {
		t.Errorf("a bad list: status %d\n%s%s", r.code, r.out, r.err)
	}
	const n = 300
	var list strings.Builder
	for i := range n {
		fmt.Fprintln(&list, body(fmt.Sprint("L", i), graphsim.GoodDevice(100+i)))
	}
	fmt.Fprintln(&list, body("", graphsim.GoodDevice(1)))
	fmt.Fprintln(&list, body("L-dead", graphsim.FaultDevice(404, 0, 0, 1)))
	path := write(t, "list.jsonl", list.String())
	r = runFor(t, env, "send", "--file", path, "--wait", "-o", "json")
	var ids []string
	ends := map[any]int{}
	for _, o := range objects(t, r.out) {
		if o["state"] == nil {
			ids = append(ids, fmt.Sprint(o["id"]))
		} else if o["finishedAt"] != nil {
			ends[o["state"]]++
		}
	}
	slices.Sort(ids)
	if r.code != exitFailed || len(slices.Compact(ids)) != n+2 || ends["accepted"] != n+1 || ends["dead"] != 1 ||
		!strings.Contains(r.err, "1 of 302 requests have no id") || !strings.HasSuffix(r.err, "worker: 301 accepted, 1 dead, 0 still open\n") {
		t.Errorf("status %d, %d ids, ends %v\n%s", r.code, len(ids), ends, r.err)
	}
	if r := pipe(t, env, "\ufeff"+body("BOM", graphsim.GoodDevice(999))+"\r\n", "send", "--file", "-"); r.code != exitDone || r.out != "BOM\n" {
		t.Errorf("a list that begins with a mark: status %d\n%s", r.code, r.err)
	}
	if r := pipe(t, env, "", "send", "--file", "-"); r.code != exitUsage || !strings.Contains(r.err, "--file: it holds no requests") {
		t.Errorf("an empty list: status %d\n%s", r.code, r.err)
	}
	p.stop()
	w.checkSim()
}

// TestSendWrong gives wrong options; none of them reaches for NATS.
func TestSendWrong(t *testing.T) {
	good := graphsim.GoodDevice(1)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"send"}, "--device: it is missing"},
		{[]string{"send", "--device", "x"}, "--device: not a GUID"},
		{[]string{"send", "--device", good, "--user", "x"}, "--user: neither a GUID nor a UPN"},
		{[]string{"send", "--device", good, "--app", "x y"}, "--app: not 1 to 128"},
		{[]string{"send", "--device", good, "--id", "a\nb"}, "--id: holds a control character"},
		{[]string{"send", "--device", good, "--not-after", "tomorrow"}, "--not-after: not an RFC 3339 time"},
		{[]string{"send", "--device", good, "--id", ""}, "--id: it is empty"},
		{[]string{"send", "--device", good, "--id="}, "--id: it is empty"},
		{[]string{"send", "--device", good, "--not-after", ""}, "--not-after: it is empty"},
		{[]string{"status", ""}, "id: it is empty"},
		{[]string{"send", "--device", good, "--file", "-"}, "--file: give it alone"},
		{[]string{"send", "--device", good, "--timeout", "1s"}, "--timeout: it needs --wait or --follow"},
		{[]string{"outcome", "list", "--outcome", "x"}, `--outcome: "x" is none of: pending, `},
		{[]string{"outcome", "list", "--since", "x"}, "--since: "},
		{[]string{"outcome", "list", "--device", "x"}, "--device: "},
		{[]string{"outcome", "list", "--limit=-1"}, "--limit: "},
		{[]string{"outcome", "show", ""}, "id: it is empty"},
		{[]string{"outcome", "follow"}, "requests: none is selected: give ids, or --since"},
		{[]string{"outcome", "follow", ""}, "id: it is empty"},
		{[]string{"outcome", "follow", "X", "--for", "2161h"}, `--for: "2161h" is too long: outcomes are kept for 2160h`},
		{[]string{"outcome", "follow", "X", "--rate", "1"}, "--rate: "},
		{[]string{"status", "--follow-for", "x"}, "WORKER_FOLLOW_FOR: "},
		{[]string{"send", "--file", "/does/not/exist"}, "--file: it cannot be read"},
		{[]string{"send", "--device", good, "-o", "yaml"}, `--output: "yaml" is none of: text, json`},
		{[]string{"status", "--rate", "x"}, "WORKER_RATE: "},
		{[]string{"status", "--tenant", "a.b"}, "WORKER_TENANT: "},
		{[]string{"dead", "show"}, "letters: none is selected"},
		{[]string{"dead", "redrive"}, "letters: none is selected"},
		{[]string{"dead", "remove"}, "letters: none is selected"},
		{[]string{"dead", "list", "--reason", "x"}, `--reason: "x" is none of: invalid_request, `},
		{[]string{"dead", "list", "--since", "x"}, "--since: "},
		{[]string{"dead", "list", "--device", "x"}, "--device: "},
		{[]string{"dead", "list", "--sequence", "1,x"}, "--sequence: "},
		{[]string{"dead", "list", "--limit=-1"}, "--limit: "},
		{[]string{"dead", "redrive", "--all", "--rate", "1"}, "--rate: "},
		{[]string{"pause", "--for", "1"}, "--for: "},
		{[]string{"pause", "--until", "1"}, "--until: "},
	} {
		r := call(t, map[string]string{"NATS_URL": "nats://127.0.0.1:1"}, c.args...)
		if r.code != exitUsage || r.out != "" || strings.Count(r.err, "\n") != 2 || !strings.Contains(r.err, ": "+c.says) ||
			!strings.Contains(r.err, "\nTry: worker "+c.args[0]) {
			t.Errorf("%q: status %d, standard error:\n%s", c.args, r.code, r.err)
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	env := w.env()
	p := launch(t, env, "run")
	p.awaitReady()
	expect(t, env, exitDone, "tenant default is paused until resumed\n", "", "pause")
	expect(t, env, exitFailed, "P1\n", "worker: P1 has not ended yet; worker status P1 shows its state\n",
		"send", "--id", "P1", "--device", graphsim.GoodDevice(1), "--wait", "--timeout", "4s")
	r := expect(t, env, exitDone, ".*waiting     1\n.*paused      until resumed\n.*", "", "status")
	if strings.Contains(r.out, "\x1b") {
		t.Errorf("colour in a pipe: %q", r.out)
	}
	r = expect(t, env, exitDone, ".*", "", "status", "-o", "json")
	if q := objects(t, r.out)[0]; q["paused"] != true || q["pausedUntil"] != nil || q["waiting"] != 1.0 || q["drainSeconds"] != -1.0 || q["oldestSeconds"] == 0.0 {
		t.Errorf("queue:\n%s", r.out)
	}
	expect(t, env, exitDone, `tenant default is paused until \d{4}-\S+ \S+Z\n`, "", "pause", "--for", "1h")
	r = expect(t, env, exitDone, ".*", "", "pause", "--until", "2100-01-01T00:00:00Z", "-o", "json")
	if o := objects(t, r.out)[0]; o["pausedUntil"] != "2100-01-01T00:00:00Z" || o["paused"] != true {
		t.Errorf("paused: %s", r.out)
	}
	expect(t, env, exitFailed, "", "worker: pause consumer worker-default: .*the server did not pause it.*\n", "pause", "--until", "2000-01-01T00:00:00Z")
	expect(t, env, exitDone, "tenant default is paused until resumed\n", "", "pause")
	expect(t, env, exitDone, "tenant default is resumed\n", "", "resume")
	w.awaitState("P1", record.Accepted)
	p.stop()

	// A fuse that has blown. The worker that would write its own state over it is gone.
	store, err := handover.Open(w.ctx, w.js, names.StateBucket())
	if err != nil {
		t.Fatal(err)
	}
	blown := time.Now().UTC()
	_, err = store.SetSnapshot(w.ctx, "default", handover.Snapshot{FuseBlownAt: blown, Worker: "h\x1b[31m",
		Hold: &handover.Hold{Cause: "fuse", Since: blown, Detail: "\x1b]0;x\a more than 500 devices in 1h"}, Granted: 3})
	if err != nil {
		t.Fatal(err)
	}
	r = expect(t, env, exitDone, `.*hold        fuse since .*: \\u001b\]0;x\\u0007 more than.*fuse        blown since .*; worker resume releases it\n.*`, "", "status")
	if !strings.Contains(r.out, "rate        3/20s (learned; configured: 0)") {
		t.Errorf("rate:\n%s", r.out)
	}
	expect(t, env, exitDone, "tenant default is resumed, and its fuse is released\n", "", "resume")
	expect(t, env, exitDone, `\{"tenant":"default","paused":false\}\n`, "", "resume", "-o", "json")
	at, err := store.ReleasedAt(w.ctx, "default")
	if err != nil || !at.After(blown) {
		t.Errorf("released at %s, blown at %s: %v", at, blown, err)
	}
}

// TestToolsWithoutNATS runs each command where nothing listens, and where
// somebody takes the connection and says nothing.
func TestToolsWithoutNATS(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, address := range []string{"127.0.0.1:1", silent.Addr().String()} {
		for _, args := range [][]string{
			{"send", "--device", graphsim.GoodDevice(1)}, {"status"}, {"status", "X"}, {"dead", "list"}, {"dead", "show", "X"},
			{"dead", "redrive", "--all"}, {"dead", "remove", "X"}, {"pause"}, {"resume"},
			{"outcome", "list"}, {"outcome", "show", "X"}, {"outcome", "follow", "X"}, {"outcome", "follow", "--since", "1h"},
		} {
			t.Run(address+strings.Join(args, " "), func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				r := runFor(t, map[string]string{"NATS_URL": "nats://jo:hunter2@" + address}, args...)
				if r.code != exitFailed || r.out != "" || !strings.HasPrefix(r.err, "worker: connect to "+address+": ") ||
					strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, "hunter2") {
					t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
				}
				if took := time.Since(began); took > 25*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		}
	}
}

// TestToolsBeforeSetup runs each command where nothing was set up.
func TestToolsBeforeSetup(t *testing.T) {
	t.Parallel()
	s := startNATS(t, server.Options{})
	for _, args := range [][]string{
		{"send", "--device", graphsim.GoodDevice(1)}, {"status"}, {"status", "X"}, {"dead", "list"}, {"dead", "show", "X"},
		{"dead", "redrive", "--all"}, {"dead", "remove", "X"}, {"pause"}, {"resume"},
		{"outcome", "list"}, {"outcome", "show", "X"}, {"outcome", "follow", "X"}, {"outcome", "follow", "--since", "1h"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			r := runFor(t, map[string]string{"NATS_URL": s.URL()}, args...)
			if r.code != exitFailed || r.out != "" || !strings.Contains(r.err, "not found") && !strings.Contains(r.err, "no stream takes") {
				t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// operator is what each command needs, and no more; docs/tools.md lists it.
func operatorRights() map[string][]string {
	const stream, dead, records, states = "PASSCODE_RESETS", "PASSCODE_RESETS_DEAD", "KV_passcode-resets", "KV_passcode-resets-state"
	get := []string{"$JS.API.STREAM.INFO." + dead, "$JS.API.DIRECT.GET." + dead}
	one := []string{"$JS.API.STREAM.MSG.GET." + dead, "$JS.API.STREAM.MSG.DELETE." + dead}
	info := "$JS.API.CONSUMER.INFO." + stream + ".worker-default"
	fuse := []string{"$JS.API.STREAM.INFO." + states, "$JS.API.STREAM.MSG.GET." + states}
	record := []string{"$JS.API.STREAM.INFO." + records, "$JS.API.DIRECT.GET." + records + ".$KV.passcode-resets.default.>", "$JS.API.STREAM.MSG.GET." + records}
	const outcomes = "KV_passcode-resets-outcomes"
	documents := []string{"$JS.API.CONSUMER.CREATE." + outcomes + ".*.$KV.passcode-resets-outcomes.default.>", "$JS.API.CONSUMER.MSG.NEXT." + outcomes + ".*"}
	document := []string{"$JS.API.STREAM.INFO." + outcomes, "$JS.API.DIRECT.GET." + outcomes + ".$KV.passcode-resets-outcomes.default.>"}
	changes := []string{"$JS.API.CONSUMER.CREATE." + records + ".*.$KV.passcode-resets.default.>", "$JS.API.CONSUMER.MSG.NEXT." + records + ".*"}
	alarm := "passcode.reset.follow.0.default"
	return map[string][]string{
		"outcome list":         documents,
		"outcome show":         document,
		"outcome follow":       slices.Concat(record[:2], document, []string{alarm}),
		"outcome follow since": slices.Concat(changes, document, []string{alarm}),

		"send":         {"passcode.reset.requests.default"},
		"status":       append([]string{info, "$JS.API.STREAM.INFO." + stream, "$JS.API.STREAM.MSG.GET." + stream, "$JS.API.STREAM.INFO." + dead, "$JS.API.CONSUMER.NAMES." + stream, "$JS.API.CONSUMER.LIST." + stream}, append(fuse, documents...)...),
		"status X":     {"$JS.API.CONSUMER.CREATE." + records + ".*.$KV.passcode-resets.default.>", "$JS.API.CONSUMER.MSG.NEXT." + records + ".*"},
		"dead list":    get,
		"dead redrive": slices.Concat(get, one, record, []string{"passcode.reset.requests.default"}),
		"dead remove":  slices.Concat(get, one),
		"pause":        {"$JS.API.CONSUMER.PAUSE." + stream + ".worker-default"},
		"pause for":    {info, "$JS.API.CONSUMER.PAUSE." + stream + ".worker-default"},
		"resume":       append([]string{"$JS.API.CONSUMER.PAUSE." + stream + ".worker-default", "$KV.passcode-resets-state.default.operator"}, fuse...),
	}
}

// TestToolsRights runs each command with exactly the rights that it is said to
// need, and then without each of them.
func TestToolsRights(t *testing.T) {
	t.Parallel()
	commands := map[string][]string{
		"send": {"send", "--device", graphsim.GoodDevice(1)}, "status": {"status"}, "status X": {"status", "X"}, "dead list": {"dead", "list"},
		"outcome list": {"outcome", "list"}, "outcome show": {"outcome", "show", "Y"}, "outcome follow": {"outcome", "follow", "Y"},
		"outcome follow since": {"outcome", "follow", "--since", "1h"},
		"dead redrive":         {"dead", "redrive", "--all"}, "dead remove": {"dead", "remove", "--reason", "not_found"},
		"pause": {"pause"}, "pause for": {"pause", "--for", "1h"}, "resume": {"resume"},
	}
	users := []*server.User{{Username: "admin", Password: "p"}}
	user := func(name string, rights []string) {
		users = append(users, &server.User{Username: name, Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: rights}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}})
	}
	for name, rights := range operatorRights() {
		user(name, rights)
		for i := range rights {
			user(fmt.Sprint(name, i), slices.Delete(slices.Clone(rights), i, i+1))
		}
	}
	s := startNATS(t, server.Options{Users: users})
	js := connect(t, s.URL(), nats.UserInfo("admin", "p"))
	if _, err := topology.Setup(t.Context(), js, names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	// A record, and for each run a letter of its own kind.
	kv, err := js.KeyValue(t.Context(), names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	// What lies over the record is none.
	for _, value := range []string{`{"id":"X","tenant":"default","state":"dead","reason":"not_found"}`, `{"stream":"PASSCODE_RESETS","seq":7}`} {
		if _, err := kv.Put(t.Context(), "default.X", []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	accepted(t, js, "Y", func(*record.Record) {})
	documentOf(t, js, "Y", func(*outcome.Document) {})
	put := func() {
		t.Helper()
		if _, err := js.PublishMsg(t.Context(), letter("X", "not_found", 0)); err != nil {
			t.Fatal(err)
		}
	}
	env := func(name string) map[string]string {
		return map[string]string{"NATS_URL": s.URL(), "NATS_USER": name, "NATS_PASSWORD": "p"}
	}
	if _, err := js.Publish(t.Context(), names.Filter(), []byte("in an empty queue there is no oldest request to be read")); err != nil {
		t.Fatal(err)
	}
	for name, rights := range operatorRights() {
		put()
		if r := runFor(t, env(name), commands[name]...); r.code != exitDone || strings.Contains(r.err, "not known") {
			t.Errorf("%s with its rights: status %d\n%s%s", name, r.code, r.out, r.err)
		}
		for i, right := range rights {
			put()
			began := time.Now()
			r := runFor(t, env(fmt.Sprint(name, i)), commands[name]...)
			// Of one with a key in it the very key is told.
			want := "a right is missing: this account may not publish to " + strings.TrimSuffix(strings.TrimSuffix(right, ">"), "default.")
			if name == "status X" && i == 0 {
				want += "default.X\n" // the very record
			}
			optional := name == "status" && i > 0
			if (r.code != exitFailed) != optional || !strings.Contains(r.err, want) {
				t.Errorf("%s without %s: status %d\n%s%s", name, right, r.code, r.out, r.err)
			}
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("%s without %s took %s", name, right, took)
			}
		}
	}
}

// TestSendWaitRights follows requests with no more rights than a publisher has.
func TestSendWaitRights(t *testing.T) {
	t.Parallel()
	user := func(name string, subscribe ...string) *server.User {
		return &server.User{Username: name, Password: "p", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"passcode.reset.requests.default"}},
			Subscribe: &server.SubjectPermission{Allow: subscribe},
		}}
	}
	w := newWorldWith(t, graphsim.Config{}, server.Options{NoAuthUser: "admin", Users: []*server.User{{Username: "admin", Password: "p"},
		user("publisher", "_INBOX.>", "passcode.reset.status.default.>"), user("sender", "_INBOX.>"), user("deaf", "passcode.reset.status.default.>")}})
	w.setUp()
	p := launch(t, w.env(), "run")
	p.awaitReady()
	as := func(name string) map[string]string { return w.env("NATS_USER", name, "NATS_PASSWORD", "p") }
	const blind = "worker: the command sees only changes from now on, and nothing of requests that were accepted before: record default.A: a right is missing: this account may not publish to " +
		`\$JS\.API\.STREAM\.INFO\.KV_passcode-resets\n`
	expect(t, as("publisher"), exitDone, "A\nA  attempt 1: .*\nA  accepted: .*\n", "("+blind+")?", "send", "--id", "A", "--device", graphsim.GoodDevice(1), "--wait")
	// That it was accepted before is not to be seen without reading.
	expect(t, as("publisher"), exitFailed, "A\n", blind+"worker: the command did not see the end of A, which may have come earlier; .*\n", "send", "--id", "A", "--device", graphsim.GoodDevice(1), "--wait", "--timeout", "3s")
	expect(t, as("sender"), exitFailed, "", "worker: listen on passcode.reset.status.default.B: a right is missing: this account may not subscribe to passcode.reset.status.default.B\n",
		"send", "--id", "B", "--device", graphsim.GoodDevice(2), "--wait")
	expect(t, as("deaf"), exitFailed, "", "worker: it may be stored nevertheless: send it again with --id C\nworker: publish to .*: a right is missing: this account may not subscribe to _INBOX.>\n",
		"send", "--id", "C", "--device", graphsim.GoodDevice(3))
	if r := w.record("B"); r.State != record.None {
		t.Error("it was sent though it could not be followed")
	}
	p.stop()
}

// TestSendFollowsOverReconnect loses the connection while a request waits.
func TestSendFollowsOverReconnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	proxy, err := natstest.StartProxy(w.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	s := launch(t, w.env("NATS_URL", proxy.URL()), "send", "--id", "A", "--device", graphsim.GoodDevice(1), "--wait")
	await(t, "it to be sent", func() bool { return strings.HasPrefix(s.out.String(), "A\n") })
	proxy.Away()
	p := launch(t, w.env(), "run")
	w.awaitState("A", record.Accepted)
	proxy.Heal()
	if code := s.wait(); code != exitDone || !strings.HasSuffix(s.out.String(), "A  accepted: Graph has accepted the reset\n") {
		t.Errorf("status %d", code)
	}
	p.awaitReady()
	p.stop()
}

// letter is a dead letter as the worker writes it.
func letter(id, reason string, redrives int) *nats.Msg {
	return &nats.Msg{Subject: names.Dead(), Data: []byte(body(id, graphsim.GoodDevice(7))), Header: nats.Header{
		deadletter.HeaderReason: {reason}, deadletter.HeaderRequestID: {id}, deadletter.HeaderRedrives: {fmt.Sprint(redrives)},
		deadletter.HeaderStream: {names.Stream}, deadletter.HeaderSequence: {"0"}, deadletter.HeaderDetail: {"it was so"},
		jetstream.MsgIDHeader: {nats.NewInbox()},
	}}
}
