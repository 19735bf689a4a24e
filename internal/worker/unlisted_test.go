package worker

import (
	"context"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// TestRecordsComeLater starts a worker that may set nothing up while the consumer is there
// and the bucket of the records is not, looks at the queue meanwhile, and makes the bucket.
func TestRecordsComeLater(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Setup = false })
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	if err := r.js.DeleteKeyValue(t.Context(), r.names.Bucket); err != nil {
		t.Fatal(err)
	}
	r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, r.cfg) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for over := time.After(3 * pollInterval); over != nil; { // some looks
		select {
		case err := <-done:
			done <- nil // for the end of the test
			t.Fatalf("it has ended: %v", err)
		case <-over:
			over = nil
		}
	}
	if code, body := r.get("/readyz"); code == 200 {
		t.Errorf("it is ready without the records: %s", body)
	}
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	r.awaitState("INC1", record.Accepted)
	r.awaitEmpty()
}
