package publishers_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"passcode-worker/internal/request"
)

// TestJavaScript publishes with the CloudEvents SDK for JavaScript, and as the manual says. The SDK has
// no binding for NATS, so people take the one for HTTP, or the event as JSON.
func TestJavaScript(t *testing.T) {
	t.Parallel()
	dir := packages(t)
	t.Run("sdk", func(t *testing.T) {
		q := newQueue(t)
		if out, err := run(t, dir, nil, "node", "publish.mjs", q.url, subject, device); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, id := range []string{
			"plain",
			"/js binary", "/js binary Gerät/7 50%", "/js binary bytes", "/js binary text",
			"/js structured", "/js structured Gerät/7 50%", "/js structured bytes", "/js structured alone", "/js structured string",
		} {
			same(t, id, q.next(id), request.Request{ID: id, DeviceID: device, Reason: "für >>>???"})
		}
		q.end()
	})
	t.Run("manual", func(t *testing.T) {
		q := newQueue(t)
		for i, want := range []request.Request{
			{ID: "INC0012345", DeviceID: device, RequestedBy: "jo"},
			{ID: "/servicedesk INC0012347", DeviceID: strings.Replace(device, "01", "03", 1), RequestedBy: "jo"},
		} {
			snippet := strings.ReplaceAll(snippets(t, publishing, "js", 2)[i], "nats://127.0.0.1:4222", q.url)
			if err := os.WriteFile(filepath.Join(dir, "snippet.mjs"), []byte(snippet), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := run(t, dir, nil, "node", "snippet.mjs"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			same(t, snippet, q.next(snippet), want)
		}
		q.end()
	})
}

// packages returns a folder with what is in testdata/js, and the packages that it names.
func packages(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("installs packages")
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, program+" is not installed: nothing is published in JavaScript")
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "js"))); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, dir, nil, "npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund",
		"--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")
	if err != nil {
		missing(t, "npm could not install the packages: nothing is published in JavaScript: "+err.Error()+out)
	}
	return dir
}
