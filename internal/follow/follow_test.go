package follow

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPanic: a panic while a device is followed takes neither the process with it nor the
// alarms behind, and its own alarm stays.
func TestPanic(t *testing.T) {
	t.Parallel()
	n, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	nc, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	names, plan := topology.DefaultNames(), outcome.Plan{For: time.Hour}
	core, logged := observer.New(zapcore.ErrorLevel)
	var rings atomic.Int32
	second := make(chan struct{})
	tenant := &Tenant{Name: "default", Ahead: func() time.Duration { return 0 }, Known: func() bool { return true }}
	f := New(Config{
		JS: js, Names: names, Setup: true, Policy: outcome.Policy{Plan: plan},
		Records: func() *record.Store {
			switch rings.Add(1) {
			case 1:
				panic("the first one")
			case 2:
				close(second)
			}
			return nil
		},
		Tenant:  func(string) *Tenant { return tenant },
		Observe: Observer{Depth: func(Depth) {}, Stray: func() { t.Error("a stray alarm") }},
		Warn:    func(warning string, _ ...zap.Field) { t.Error(warning) },
		Log:     zap.New(core),
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx, t.Context())
	}()
	defer func() { stop(); <-done }()
	now := time.Now().UTC()
	for _, id := range []string{"a", "b"} {
		a := outcome.Alarm{
			Tenant: "default", ID: id, Device: "600d0000-0000-4000-8000-000000000001", ClientRequestID: "c11e4700-0000-4000-8000-000000000001",
			AttemptedAt: now, AcceptedAt: now, DueAt: now,
		}
		for { // the stream is made meanwhile
			err := Publish(ctx, js, names.FollowSubject, names.FollowStream, a)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case <-second:
	case <-time.After(30 * time.Second):
		t.Fatal("the second alarm was not dealt with")
	}
	if all := logged.FilterMessageSnippet("panic").All(); len(all) != 1 || !strings.Contains(all[0].ContextMap()["stack"].(string), "TestPanic") {
		t.Errorf("%+v", all)
	}
	s, err := js.Stream(ctx, names.FollowStream)
	if err != nil {
		t.Fatal(err)
	}
	if left := s.CachedInfo().State.Msgs; left != 2 {
		t.Errorf("%d alarms are left of two that were not dealt with", left)
	}
}
