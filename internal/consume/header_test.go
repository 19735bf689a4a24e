package consume

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"passcode-worker/internal/natstest"

	"github.com/nats-io/nats.go"
)

// forged are headers that the server or a library writes, as a publisher may
// have written them: in one case or the other, once or twice.
func forged() map[string]nats.Header {
	out := map[string]nats.Header{}
	for name, value := range map[string]string{
		"Nats-Pin-Id": "x", "Nats-Time-Stamp": "2001-01-01T00:00:00Z", "Nats-Sequence": "1", "Nats-Subject": "a", "Nats-Stream": "S",
		"Nats-Last-Sequence": "0", "Nats-Num-Pending": "0", "Status": "404", "Description": "Consumer Deleted",
	} {
		out[name] = nats.Header{name: {value}}
		out[name+", twice"] = nats.Header{name: {value, "y"}}
		out[name+", in lower case"] = nats.Header{strings.ToLower(name): {value}}
	}
	for _, status := range []string{"100", "204", "409", "423", "503"} {
		out["Status "+status] = nats.Header{"Status": {status}, "Description": {"Message Size Exceeds MaxBytes"}}
	}
	return out
}

// send publishes a message as it stands.
func (r *rig) send(h nats.Header, body string) {
	r.t.Helper()
	if _, err := r.admin.PublishMsg(r.ctx, &nats.Msg{Subject: spec.Filter(), Header: h, Data: []byte(body)}); err != nil {
		r.t.Fatal(err)
	}
}

// unreadable are blocks of headers that the server stores, and that are none.
var unreadable = []string{"NATS/1.0\r\nno colon\r\n\r\n", "NATS/1.0 4\r\n\r\n"}

// sendRaw publishes a message whose headers no library would send.
func (r *rig) sendRaw(subject, header, body string) {
	r.t.Helper()
	if err := natstest.PublishRaw(r.server.URL(), subject, header, body); err != nil {
		r.t.Fatal(err)
	}
}

// TestForgedHeaders works on good requests, among them some that bear the
// server's headers: each is done, and none ends the term.
func TestForgedHeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setupPin()
	count := 0
	send := func(h nats.Header, body string) {
		r.send(h, body)
		count++
	}
	send(nats.Header{headerPin: {"first"}}, "pins")
	for i := range 400 {
		switch {
		case i == 100:
			send(nats.Header{headerPin: {"x"}}, "good")
		case i == 200:
			send(nats.Header{"nats-pin-id": {"x"}, headerPin: {"y", "z"}}, "good")
		case i == 300:
			for _, h := range forged() {
				send(h, "good")
				send(h, "")
			}
			for _, h := range unreadable {
				r.sendRaw(spec.Filter(), h, "good")
				r.sendRaw(spec.Filter(), h, "")
				count += 2
			}
		}
		send(nil, "good")
	}
	var handled, terms atomic.Int32
	begun := time.Now()
	w := r.run(Config{
		Slots: 8, Begin: func(context.Context, bool) { terms.Add(1) },
		Handle: func(_, _ context.Context, m Message) Disposition {
			handled.Add(1)
			return Ack()
		},
	})
	w.awaitBound()
	r.awaitEmpty()
	if terms.Load() != 1 || int(handled.Load()) != count {
		t.Errorf("%d terms for %d of %d messages, in %s", terms.Load(), handled.Load(), count, time.Since(begun))
	}
	if lost := w.warnings(); len(lost) > 0 || len(w.bound) > 0 {
		t.Errorf("%q, and %d times bound anew", lost, len(w.bound))
	}
}

// TestUnreadablePin has nothing but messages whose headers cannot be read: the
// pin comes with such a one, and has to be asked for.
func TestUnreadablePin(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 4} {
		t.Run(fmt.Sprint(slots), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.setupPin()
			for range 3 {
				for _, h := range unreadable {
					r.sendRaw(spec.Filter(), h, "body")
				}
			}
			var terms atomic.Int32
			bodies := make(chan string, 99)
			r.run(Config{
				Slots: slots, Begin: func(context.Context, bool) { terms.Add(1) },
				Handle: func(_, _ context.Context, m Message) Disposition {
					bodies <- string(m.Data)
					return Ack()
				},
			})
			for range 3 * len(unreadable) {
				if body := take(r, bodies, "a message"); body != "body" {
					t.Errorf("%q", body)
				}
			}
			r.awaitEmpty()
			if terms.Load() != 1 {
				t.Errorf("%d terms", terms.Load())
			}
			none(r, bodies, "one more message")
		})
	}
}
