package worker

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natsconn"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// TestGauges shows the pause and what waits, whatever the oldest request says of
// itself, and also where it cannot be read.
func TestGauges(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header nats.Header
		denied []string
		oldest bool // is known
	}{
		"a good request":      {nil, nil, true},
		"a time that is none": {nats.Header{"Nats-Time-Stamp": {"x"}}, nil, true},
		"a time long ago":     {nats.Header{"Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}}, nil, true},
		"a sequence":          {nats.Header{"Nats-Sequence": {"x"}}, nil, true},
		"not found":           {nats.Header{"Status": {"404"}}, nil, true},
		"nobody there":        {nats.Header{"Status": {"503"}}, nil, true},
		"it may not be read":  {nil, []string{"$JS.API.STREAM.MSG.GET.>"}, false},
		"nor directly":        {nil, []string{"$JS.API.STREAM.MSG.GET.>", "$JS.API.DIRECT.GET.PASSCODE_RESETS"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{}, nil)
			s, err := natstest.StartWith(server.Options{ServerName: "test", StoreDir: t.TempDir(), NoAuthUser: "admin", Users: []*server.User{
				{Username: "admin", Password: "p"},
				{Username: "worker", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: c.denied}}},
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Stop)
			nc, err := nats.Connect(s.URL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			if r.js, err = jetstream.New(nc); err != nil {
				t.Fatal(err)
			}
			r.cfg.NATS = natsconn.Config{URL: s.URL(), User: "worker", Password: "p"}
			ctx := context.Background()
			if _, err := topology.Setup(ctx, r.js, r.names, topology.Layout{}); err != nil {
				t.Fatal(err)
			}
			if _, err := r.js.PauseConsumer(ctx, r.names.Stream, r.names.Consumer(), topology.Forever()); err != nil {
				t.Fatal(err)
			}
			r.publish("", c.header)
			r.publish(reset("INC1", graphsim.GoodDevice(1)), nil)
			r.start()
			r.await("the pause to be seen", func() bool { return r.metric(`hold{cause="paused",tenant="default"}`) == 1 })
			r.await("what waits to be counted", func() bool { return r.metric(`queue_messages{tenant="default"}`) == 2 })
			const oldest = `queue_oldest_seconds{tenant="default"}`
			if c.oldest {
				r.await("the oldest to be seen", func() bool { return r.metric(oldest) > 0 })
			}
			if age := r.metric(oldest); age > time.Hour.Seconds() {
				t.Errorf("the oldest is %g s old", age)
			}
		})
	}
}
