package check

import (
	"passcode-worker/internal/topology"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestWhereRequestsComeFrom(t *testing.T) {
	service := func(subjects ...string) (out []crossing) {
		for _, s := range subjects {
			out = append(out, crossing{Subject: s, Type: "service"})
		}
		return out
	}
	for _, c := range []struct {
		name     string
		account  account
		subjects []string
		status   Status
		says     string
	}{
		{"one service for each tenant", account{Exports: service("r.a", "r.b")}, []string{"r.a", "r.b"}, OK, "exports r.a, r.b as a service"},
		{"one service for all", account{Exports: service("r.*")}, []string{"r.a", "r.b"}, OK, ""},
		{"nothing", account{}, []string{"r.a"}, Warning, "does not export r.a as a service"},
		{"one of two", account{Exports: service("r.a")}, []string{"r.a", "r.b"}, Warning, "does not export r.b as"},
		{"many", account{}, []string{"r.a", "r.b", "r.c", "r.d", "r.e"}, Warning, "does not export r.a, r.b, r.c and 2 more as"},
		{"another subject", account{Exports: service("s.*", "r", "r.a.b", "r.a.>")}, []string{"r.a"}, Warning, "does not export"},
		{"exported as a stream", account{Exports: []crossing{{Subject: "r.a", Type: "stream"}}}, []string{"r.a"}, Warning, "does not export"},
		{"imported as a stream", account{Exports: service("r.a"), Imports: []crossing{{Subject: "r.a", Type: "stream"}}}, []string{"r.a"},
			Warning, "imports r.a as a stream"},
		{"imported under another name", account{Imports: []crossing{{Subject: "tickets.*", Local: "r.$1", Type: "stream"}}}, []string{"r.a"},
			Warning, "imports r.a as a stream"},
		{"another stream", account{Exports: service("r.a"), Imports: []crossing{{Subject: "r.a", Local: "copy.a", Type: "stream"}}}, []string{"r.a"}, OK, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, detail, do := c.account.judge(c.subjects)
			if status != c.status || !strings.Contains(detail, c.says) || (do == "") != (status == OK) {
				t.Errorf("%s: %s. %s", status, detail, do)
			}
		})
	}
}

// A pattern covers what the server says that it covers.
func FuzzCovers(f *testing.F) {
	for _, pattern := range []string{"a.b.c", "a.b", "a.b.c.d", "a.*.c", "*.*.*", "a.>", ">", "a.b.c.>", "a.b.*", "x", ""} {
		f.Add(pattern, "a.b.c")
	}
	f.Fuzz(func(t *testing.T, pattern, subject string) {
		if !server.IsValidSubject(pattern) || !server.IsValidLiteralSubject(subject) {
			t.Skip()
		}
		for token := range strings.SplitSeq(pattern, ".") {
			if len(token) > 1 && strings.ContainsAny(token, "*>") {
				t.Skip() // no wildcard, and nothing that a stream or an account has
			}
		}
		if got, want := topology.Covers([]string{pattern}, subject), server.SubjectMatchesFilter(subject, pattern); got != want {
			t.Errorf("%q covers %q: %t, not %t", pattern, subject, got, want)
		}
	})
}
