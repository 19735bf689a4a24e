package requesttest_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"passcode-worker/internal/request/requesttest"
)

func TestHostile(t *testing.T) {
	t.Parallel()
	all := requesttest.Hostile()
	if len(all) < 60 {
		t.Errorf("%d payloads, want at least 60", len(all))
	}
	for _, p := range all {
		if p.Field == "" || p.ID != "" {
			t.Errorf("%q: field %q, id %q", p.Name, p.Field, p.ID)
		}
	}
	checkPayloads(t, all)
}

func TestAccepted(t *testing.T) {
	t.Parallel()
	all := requesttest.Accepted()
	for _, p := range all {
		if p.Field != "" {
			t.Errorf("%q: field %q", p.Name, p.Field)
		}
	}
	checkPayloads(t, all)
}

// checkPayloads checks that all differ, and pass a NATS connection unchanged.
func checkPayloads(t *testing.T, all []requesttest.Payload) {
	t.Helper()
	names, messages, msgIDs := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, p := range all {
		if p.Name == "" || names[p.Name] {
			t.Errorf("%q: name empty, or not unique", p.Name)
		}
		names[p.Name] = true

		message, size := string(p.Data), 0
		for _, name := range slices.Sorted(maps.Keys(p.Header)) {
			for _, v := range p.Header[name] {
				message += "\n" + name + ": " + v
				size += len(name) + len(v) + 4
				if strings.ContainsAny(v, "\r\n") || v != strings.Trim(v, " \t\r\n") || v == "" {
					t.Errorf("%s: header %s does not pass the wire unchanged", p.Name, name)
				}
			}
		}
		if messages[message] {
			t.Errorf("%s: like another payload", p.Name)
		}
		messages[message] = true
		if size > 60<<10 || len(message) > 900<<10 {
			t.Errorf("%s: %d bytes of headers and %d in all", p.Name, size, len(message))
		}

		// Two alike would be one message to JetStream.
		if v := p.Header["Nats-Msg-Id"]; v != nil {
			if msgIDs[v[0]] {
				t.Errorf("%s: Nats-Msg-Id used before", p.Name)
			}
			msgIDs[v[0]] = true
		}
	}
}
