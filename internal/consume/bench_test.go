package consume

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// BenchmarkQueue is the way of a message through the queue, with a handler that
// does nothing and a confirmed ack, beside a server in the same process.
func BenchmarkQueue(b *testing.B) {
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
	if _, err := topology.Setup(b.Context(), js, spec, topology.Layout{}); err != nil {
		b.Fatal(err)
	}
	for range b.N {
		if _, err := js.PublishAsync(spec.Filter(), []byte(`{"managedDeviceId":"600d0000-0000-4000-8000-000000000001"}`)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	ctx, cancel := context.WithCancel(b.Context())
	var handled atomic.Int64
	q := New(js, Config{
		Names: spec,
		Slots: 32,
		Handle: func(context.Context, context.Context, Message) Disposition {
			if handled.Add(1) == int64(b.N) {
				cancel()
			}
			return Ack()
		},
		Bound: func(error) {},
		Log:   zap.NewNop(),
	})
	b.ReportAllocs()
	b.ResetTimer()
	q.Run(ctx, b.Context())
	b.StopTimer()
	if handled.Load() < int64(b.N) {
		b.Errorf("%d of %d messages", handled.Load(), b.N)
	}
}

// BenchmarkReceive is what the queue does with a message before its work begins.
func BenchmarkReceive(b *testing.B) {
	p := &puller{hand: make(chan struct{}, 32), wake: make(chan struct{}, 1), health: health{alive: func() {}}}
	p.tenure.take = func(*nats.Msg) { <-p.hand }
	m := &nats.Msg{Subject: spec.Filter(), Reply: "$JS.ACK.PASSCODE_RESETS.worker-default.1.1.1.1.1"}
	b.ReportAllocs()
	for b.Loop() {
		p.pull.left = 32
		p.receive(m)
	}
}
