package worker

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
)

// TestBucketMadeAnew: the records are deleted, and made again, while a call is
// under way. What is known of it is written down.
func TestBucketMadeAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil).branch(t, 600)
	r.cfg.Policy.RequestTimeout = 10 * time.Second
	r.start()
	bucket := "KV_" + r.names.Bucket
	s, err := r.js.Stream(r.t.Context(), bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	dev := graphsim.FaultDevice(605, 1, 0, 3) // takes two seconds
	r.publish(reset("INC1", dev), nil)
	r.eventually("the call", func() bool { return r.sim.Resets(dev) == 1 })
	if err := r.js.DeleteStream(r.t.Context(), bucket); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.js.CreateStream(r.t.Context(), s.CachedInfo().Config); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		r.t.Fatal(err) // else the worker was faster
	}
	r.settled()
	r.accepted("INC1", dev, 1, false)
}
