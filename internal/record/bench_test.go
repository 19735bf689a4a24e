package record

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
)

// BenchmarkPut is the two writes of a request, beside a server in the same
// process: what is measured is mostly the server.
func BenchmarkPut(b *testing.B) {
	s, err := natstest.Start(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	nc, err := nats.Connect(s.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "records", History: 16}); err != nil {
		b.Fatal(err)
	}
	store, err := Open(b.Context(), js, "records")
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now().UTC()
	attempting := Record{
		ID: "INC0012345", Tenant: "default", ManagedDeviceID: "600d0000-0000-4000-8000-000000000001", State: Attempting, Attempts: 1,
		ReceivedAt: now, AttemptedAt: now, Stream: "PASSCODE_RESETS", Sequence: 42, Worker: "host-1",
		ClientRequestID: "0a182382-4a9e-40fe-aee8-4c67ae04ecf9", RequestedBy: "jo",
	}
	accepted := attempting
	accepted.State, accepted.FinishedAt, accepted.Status = Accepted, now, 204
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key := fmt.Sprintf("default.B%d", i)
		revision, err := store.Put(b.Context(), key, attempting, 0)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := store.Put(b.Context(), key, accepted, revision); err != nil {
			b.Fatal(err)
		}
	}
}
