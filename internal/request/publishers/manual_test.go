package publishers_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/request"
)

// The pages of the manual that show how to publish and how to follow a request.
const (
	publishing = "../../../docs/publishing.md"
	records    = "../../../docs/records.md"
)

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// snippets returns the pieces of code of one language that a page of the manual has; there must be n.
// Those without a language are commands or what these print.
func snippets(t *testing.T, page, language string, n int) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		if m[1] == language {
			all = append(all, m[2])
		}
	}
	if len(all) != n {
		t.Fatalf("%d snippets of %s in %s, want %d", len(all), language, page, n)
	}
	return all
}

// TestManualGo runs what the manual shows in Go: how to publish, and how to follow a request.
func TestManualGo(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds a program")
	}
	q := newQueue(t)
	kv, err := q.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "passcode-resets"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), "default.INC0012345", `{"state":"accepted","reason":"none"}`); err != nil {
		t.Fatal(err)
	}
	publish, follow := snippets(t, publishing, "go", 1)[0], snippets(t, records, "go", 1)[0]
	program := `package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	nc, err := nats.Connect(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	if err := publish(context.Background(), js); err != nil {
		log.Fatal(err)
	}
	if err := follow(context.Background(), js, "INC0012345"); err != nil {
		log.Fatal(err)
	}
}

func report(state, reason string) error {
	_, err := fmt.Println(state, reason)
	return err
}

func publish(ctx context.Context, js jetstream.JetStream) error {
` + publish + `
	log.Print(ack.Sequence)
	return nil
}

func follow(ctx context.Context, js jetstream.JetStream, id string) error {
` + follow + `
	return nil
}
`
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, ".", nil, "go", "run", file, q.url); err != nil || out != "accepted none\n" {
		t.Fatalf("%v\n%s", err, out)
	}
	same(t, "Go", q.next("Go"), request.Request{ID: "INC0012345", DeviceID: device, RequestedBy: "jo"})
	q.end()
}

// TestManualCommands runs the commands of the nats tool with which the manual publishes: with the tool
// itself where it is installed, else with natsTool.
func TestManualCommands(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sh"); err != nil {
		missing(t, "there is no shell")
	}
	q := newQueue(t)
	dir := t.TempDir()
	if _, err := exec.LookPath("nats"); err != nil {
		if os.Getenv("REQUIRE_NATS_TOOL") != "" {
			t.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(self, filepath.Join(dir, "nats")); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"NATS_URL=" + q.url, "HOME=" + dir, "PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")}
	text, err := os.ReadFile(publishing)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		if m[1] != "" || !strings.HasPrefix(m[2], "nats req passcode.reset.requests.") {
			continue
		}
		for _, command := range strings.Split(m[2], "\n\n") {
			n++
			out, err := run(t, dir, env, "sh", "-ec", command)
			if err != nil || !strings.Contains(out, fmt.Sprintf(`{"stream":%q, "seq":%d`, stream, n)) && !strings.Contains(out, fmt.Sprintf(`{"stream":%q,"seq":%d`, stream, n)) {
				t.Errorf("%s: %v\n%s", command, err, out)
			}
		}
	}
	desk := func(id, n string) request.Request {
		return request.Request{ID: id, DeviceID: strings.TrimSuffix(device, "1") + n, RequestedBy: "jo"}
	}
	for _, want := range []request.Request{
		desk("INC0012345", "1"), desk("/servicedesk INC0012346", "2"), desk("/servicedesk INC0012347", "3"),
	} {
		same(t, want.ID, q.next(want.ID), want)
	}
	q.end()
}

// natsTool does what the nats tool does of "nats req SUBJECT [-H NAME:VALUE]... BODY".
func natsTool(args []string) int {
	if err := natsRequest(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func natsRequest(args []string) error {
	msg := &nats.Msg{Header: nats.Header{}}
	var words []string
	for i := 0; i < len(args); i++ {
		if args[i] != "-H" {
			words = append(words, args[i])
			continue
		}
		i++
		if i == len(args) {
			return fmt.Errorf("-H wants a header")
		}
		name, value, ok := strings.Cut(args[i], ":")
		if !ok {
			return fmt.Errorf("%q is no header", args[i])
		}
		msg.Header[name] = append(msg.Header[name], strings.TrimSpace(value))
	}
	if len(words) != 3 || words[0] != "req" {
		return fmt.Errorf("cannot do %q", args)
	}
	msg.Subject, msg.Data = words[1], []byte(words[2])
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer nc.Close()
	answer, err := nc.RequestMsg(msg, 10*time.Second)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%s\n", answer.Data)
	return err
}

// TestManualPython runs what the manual shows in Python: the two ways to write an event, and the whole
// program where nats-py is installed.
func TestManualPython(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	code := snippets(t, publishing, "python", 2)
	t.Run("events", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t)
		const id = "INC/7 50% Gerät"
		imports, both, _ := strings.Cut(code[1], "# binary\n")
		binary, structured, ok := strings.Cut(both, "# structured\n")
		if !ok {
			t.Fatal("the snippet shows no two modes")
		}
		for mode, part := range map[string]string{"binary": binary, "structured": structured} {
			program := "import json\n" + imports + fmt.Sprintf("id, device, requested_by = %q, %q, 'jo'\n", id, device) + part +
				"print(json.dumps([headers, json.dumps(body)]))\n"
			out, err := run(t, ".", nil, "python3", "-c", program)
			if err != nil {
				t.Fatalf("%s: %v", mode, err)
			}
			var header map[string]string
			var body string
			if err := json.Unmarshal([]byte(out), &[]any{&header, &body}); err != nil {
				t.Fatalf("%s printed %q: %v", mode, out, err)
			}
			msg := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}}
			for name, value := range header {
				msg.Header[name] = []string{value}
			}
			if _, err := q.js.PublishMsg(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
			same(t, mode, q.next(mode), request.Request{ID: "/servicedesk " + id, DeviceID: device, RequestedBy: "jo"})
		}
	})
	t.Run("program", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "publish.py")
		if _, err := run(t, ".", nil, "python3", "-c", "import sys; compile(sys.argv[1], 'manual', 'exec')", code[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t, ".", nil, "python3", "-c", "import nats"); err != nil {
			t.Skip("nats-py is not installed: the program has only been compiled")
		}
		q := newQueue(t)
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(code[0], "nats://127.0.0.1:4222", q.url)), 0o600); err != nil {
			t.Fatal(err)
		}
		// The program waits for the end, which the worker would tell.
		end := `{"state":"accepted","reason":"","detail":""}`
		if _, err := q.nc.Subscribe(subject, func(*nats.Msg) {
			_ = q.nc.Publish("passcode.reset.status.default.INC=2F1", []byte(end))
		}); err != nil {
			t.Fatal(err)
		}
		out, err := run(t, ".", nil, "python3", file, "INC/1", device, "jo")
		if err != nil || !strings.HasPrefix(out, "accepted") {
			t.Errorf("%v\n%s", err, out)
		}
		same(t, "Python", q.next("Python"), request.Request{ID: "INC/1", DeviceID: device, RequestedBy: "jo"})
	})
}
