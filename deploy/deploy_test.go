// Package deploy_test checks the files in deploy/ with the programs that are to
// read them: Prometheus, a NATS server, Kubernetes' schemas. It holds no code
// of its own beside the tests.
package deploy_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// requireTools makes a missing tool a failure instead of a skipped test. It is
// set where the tools have been installed on purpose.
const requireTools = "DEPLOY_REQUIRE_TOOLS"

// testTime bounds the wait for what a server or a worker does at once.
const testTime = time.Minute

// slowToo is set to run the tests that take minutes.
const slowToo = "DEPLOY_SLOW"

// slow skips the test unless slow ones are wanted.
func slow(t *testing.T) {
	t.Helper()
	if os.Getenv(slowToo) == "" {
		t.Skipf("it takes long: set %s=1", slowToo)
	}
}

// missing skips the test, or fails where nothing may be missing.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv(requireTools) != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// tool finds an installed program.
func tool(t *testing.T, name, from string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%s is not installed: %s", name, from)
	}
	return path
}

// output runs a program to its end and returns what it wrote.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// module is the folder of a Go module of which only files are read. It is
// fetched with the checks of the checksum database.
func module(t *testing.T, at string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", at)
	cmd.Dir = t.TempDir() // no module's go.mod is to decide about it
	out, err := cmd.Output()
	var m struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &m); errors.Join(err, jsonErr) != nil || m.Dir == "" {
		missing(t, "the module %s cannot be had: %v %s", at, err, m.Error)
	}
	return m.Dir
}

// built is the folder of the programs of this repository; build fills it once.
var (
	built string
	build = sync.OnceValue(func() error {
		out, err := exec.Command("go", "build", "-o", built+string(filepath.Separator), "../cmd/...").CombinedOutput()
		if err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		return nil
	})
)

// program is the path of one of them.
func program(t *testing.T, name string) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(built, name)
}

func TestMain(m *testing.M) {
	// Most of the tests wait for servers and workers of their own.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "passcode-deploy-")
	if err != nil {
		panic(err)
	}
	built = dir
	// deploy/nats/accounts.conf takes the passwords from the environment.
	for _, role := range []string{"SETUP", "PUBLISHER", "WORKER", "OPERATOR", "HELPDESK"} {
		if err := os.Setenv(role+"_PASSWORD", password(role)); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir) // a temporary folder
	os.Exit(code)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// decode reads YAML into a value. A field that the value does not have is an error.
func decode(t *testing.T, path string, into any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(read(t, path)))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// await waits until something is so, and fails after a limit.
func await(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(limit)
	for !is() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited %s in vain for %s", limit, what)
		}
	}
}

// loose reads those fields of a YAML file that the value has.
func loose(t *testing.T, path string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, path)), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
