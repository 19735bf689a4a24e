package publishers_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	cejs "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/client"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/protocol"

	"passcode-worker/internal/request"
)

// TestGoSDK publishes with the CloudEvents SDK for Go and its protocol for JetStream. In binary mode it
// encodes no value; in structured mode it sets no Content-Type.
func TestGoSDK(t *testing.T) {
	t.Parallel()
	q := newQueue(t)
	sender, err := cejs.NewSenderFromConn(q.nc, stream, subject, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(sender)
	if err != nil {
		t.Fatal(err)
	}
	data := map[string]string{"managedDeviceId": strings.ToUpper(device), "reason": "für >>>???"}
	encoded, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"INC0012345", "INC/7 50% Gerät", "INC%2F7"} {
		for name, given := range map[string]any{"a map": data, "bytes": encoded, "raw JSON": json.RawMessage(encoded)} {
			ev := event.New()
			ev.SetID(id)
			ev.SetSource("/go")
			ev.SetType("reset")
			ev.SetTime(time.Now())
			ev.SetSubject("50% of fleet locked")
			ev.SetExtension("sequence", 7)
			if err := ev.SetData(event.ApplicationJSON, given); err != nil {
				t.Fatal(err)
			}
			for _, mode := range []string{"binary", "structured"} {
				ctx := binding.WithForceBinary(t.Context())
				if mode == "structured" {
					ctx = binding.WithForceStructured(t.Context())
				}
				if err := c.Send(ctx, ev); protocol.IsUndelivered(err) {
					t.Fatal(err)
				}
				want := request.Request{ID: "/go " + id, DeviceID: device, Reason: data["reason"]}
				if mode == "binary" && id == "INC%2F7" {
					want.ID = "/go INC/7" // as the manual warns
				}
				what := fmt.Sprintf("%s, %s, %q", mode, name, id)
				same(t, what, q.next(what), want)
			}
		}
	}
	q.end()
}
