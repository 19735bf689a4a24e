package ops

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/pace"
)

// TestForgedLetters lists, removes and redrives letters that bear headers of the
// server's, or what are no headers at all, and counts the queue behind such ones.
func TestForgedLetters(t *testing.T) {
	tools, js := rig(t)
	var want []string // bodies, in their order
	send := func(subject string, h nats.Header, body string) {
		t.Helper()
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: h, Data: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	letter := func(h nats.Header, body string) {
		t.Helper()
		send(names.Dead(), h, body)
		want = append(want, body)
	}
	for name, value := range map[string]string{
		"Nats-Time-Stamp": "2001-01-01T00:00:00Z", "Nats-Sequence": "1", "Nats-Subject": "a", "Nats-Stream": "S", "Nats-Last-Sequence": "0",
		"Nats-Num-Pending": "0", "Status": "404", "Description": "EOB",
	} {
		for _, body := range []string{"", name} {
			letter(nats.Header{name: {value}}, body)
			letter(nats.Header{name: {value, "x"}, strings.ToLower(name): {"y"}}, body)
		}
	}
	for _, status := range []string{"100", "204", "408", "503"} {
		letter(nats.Header{"Status": {status}}, "")
		letter(nats.Header{"Status": {status}}, status)
	}
	for i, h := range []string{"NATS/1.0\r\nno colon\r\n\r\n", "NATS/1.0 4\r\n\r\n", "NATS/1.0 503\r\n\r\n", "NATS/1.0 404 EOB\r\n\r\n"} {
		for _, body := range []string{"", fmt.Sprint("raw", i)} {
			if err := natstest.PublishRaw(tools.nc.ConnectedUrl(), names.Dead(), h, body); err != nil {
				t.Fatal(err)
			}
			want = append(want, body)
			letter(nil, "between")
		}
	}
	list := func() (found []DeadLetter) {
		t.Helper()
		if err := tools.Letters(t.Context(), Selection{}, func(l DeadLetter) error {
			found = append(found, l)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	found := list()
	var bodies []string
	for i, l := range found {
		bodies = append(bodies, string(l.Data))
		if l.Sequence != uint64(i+1) || time.Since(l.Time) > time.Hour {
			t.Errorf("letter %d of %s, want %d", l.Sequence, l.Time, i+1)
		}
	}
	if !slices.Equal(bodies, want) {
		t.Fatalf("%q, want %q", bodies, want)
	}
	for _, l := range found {
		if out, err := tools.Redrive(t.Context(), l, true, false); err != nil || out.Action != Refused {
			t.Errorf("letter %d: %+v, %v", l.Sequence, out, err)
		}
		if removed, err := tools.Remove(t.Context(), l); err != nil || !removed {
			t.Errorf("letter %d: removed %t, %v", l.Sequence, removed, err)
		}
	}
	if left := list(); len(left) != 0 {
		t.Errorf("%d letters are left", len(left))
	}

	send(names.Filter(), nats.Header{"Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}, "Status": {"503"}}, "")
	q, err := tools.Queue(t.Context(), pace.Rate{}, 0)
	if err != nil || !q.Knows(PartOldest) || q.Oldest <= 0 || q.Oldest > time.Hour.Seconds() {
		t.Errorf("%+v, %v", q, err)
	}
}
