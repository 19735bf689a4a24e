package main

import (
	"bytes"
	"flag"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
)

// asWorker makes the test binary be the worker: the tests run themselves as
// the command in a process of its own. Its name must not look like one of ours.
const asWorker = "PASSCODE_TEST_AS_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(asWorker) != "" {
		main()
	}
	natstest.Main()
	// Most of the tests wait for a process of their own, and more of them than
	// there are processors may do so.
	if err := flag.Set("test.parallel", "10"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// testTime bounds every wait for something.
const testTime = 90 * time.Second

// await waits until a condition holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(testTime)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

// setenv makes the given variables the only ones of ours in the environment.
func setenv(t *testing.T, env map[string]string) {
	t.Helper()
	for _, name := range variables(reflect.TypeFor[cli]()) {
		t.Setenv(name, "")
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
}

// result is what a command has done.
type result struct {
	code     int
	out, err string
}

// call runs a command in this process.
func call(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	setenv(t, env)
	var out, errs bytes.Buffer
	code := run(args, &out, &errs)
	return result{code, out.String(), errs.String()}
}

// credentials is the least that worker run needs. Its address is in use, so
// that a configuration which is taken ends at once as well, by status 1.
func credentials(t *testing.T) map[string]string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return map[string]string{
		"AZURE_TENANT_ID":     graphsim.DefaultTenantID,
		"AZURE_CLIENT_ID":     graphsim.DefaultClientID,
		"AZURE_CLIENT_SECRET": graphsim.DefaultClientSecret,
		"WORKER_HTTP_ADDR":    l.Addr().String(),
	}
}

// with is env with some variables changed; an empty value takes one away.
func with(env map[string]string, changes ...string) map[string]string {
	out := maps.Clone(env)
	for pair := range slices.Chunk(changes, 2) {
		out[pair[0]] = pair[1]
	}
	return out
}

// flagOf is the flag of a variable.
func flagOf(variable string) string {
	return "--" + strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(variable, "WORKER_"), "_", "-"))
}

// write puts a file into a folder of the test's.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
