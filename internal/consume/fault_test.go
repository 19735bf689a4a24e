package consume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
	"passcode-worker/internal/topology"
)

// TestStrayMessages leaves pulls behind on the server: what answers them is
// given back at once where no slot is free.
func TestStrayMessages(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.times.heartbeat, r.times.expiry = usual.heartbeat, usual.expiry
	w := r.run(Config{Setup: true, Slots: 1, Handle: h.handle})
	w.awaitBound()
	r.publish("pins the worker") // its pulls from before the cuts are served, too
	take(r, h.calls, "the first message").answer <- Ack()
	r.await("a pull", func() bool { return r.info().NumWaiting > 0 })
	// The server drops the old pull of a connection that is gone if it looks at
	// the right moment.
	for r.info().NumWaiting < 3 {
		r.proxy.Cut()
		r.receive(r.down, "the end of the connection")
		r.receive(r.up, "a new connection")
		if err := r.nc.FlushTimeout(testTime); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	const n = 8
	for i := range n {
		r.publish(fmt.Sprint(i))
	}
	c := take(r, h.calls, "a message")
	r.await("the strays to be given back", func() bool { return r.info().NumWaiting == 0 })
	for i := range n {
		if i > 0 {
			c = take(r, h.calls, "a message")
		}
		c.answer <- Ack()
	}
	r.awaitEmpty()
	if took := time.Since(begun); took > atOnce || h.peak() != 1 {
		t.Errorf("it took %s, with %d in work at a time: a message aged", took, h.peak())
	}
}

func TestConnectionCut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.times.heartbeat, r.times.expiry = usual.heartbeat, usual.expiry // too slow to tell
	handled := make(chan string, 999)
	w := r.run(Config{Setup: true, Handle: func(_, _ context.Context, m Message) Disposition {
		handled <- string(m.Data)
		return Ack()
	}})
	w.awaitBound()
	begun := time.Now()
	for i := range 5 {
		r.publish(fmt.Sprint(i))
		if got := take(r, handled, "a message"); got != fmt.Sprint(i) {
			t.Errorf("message %q, want %d", got, i)
		}
		r.await("a pull", func() bool { return r.info().NumWaiting > 0 })
		r.proxy.Cut()
		r.receive(r.up, "a new connection")
	}
	r.awaitEmpty()
	if took := time.Since(begun); took > atOnce {
		t.Errorf("it took %s", took)
	}
	w.stop()
	for len(w.bound) > 0 {
		t.Errorf("Bound(%v), though only the connection was cut", <-w.bound)
	}
}

// TestAwayForLong is no loss of the consumer.
func TestAwayForLong(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.times.patience = 3 * r.times.heartbeat
	w := r.run(Config{Setup: true, Handle: h.handle})
	w.awaitBound()
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	noneFor(r, 2*r.times.patience, w.bound, "the queue is said to be bound or lost")
	r.proxy.Heal()
	r.publish("a")
	take(r, h.calls, "the message").answer <- Ack()
	r.awaitEmpty()
	w.stop()
	if len(w.bound) != 0 {
		t.Errorf("Bound(%v)", <-w.bound)
	}
}

// TestAnswerToEarlierPull says of an earlier pull that the consumer is gone.
func TestAnswerToEarlierPull(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	consumer, err := r.js.Consumer(r.ctx, spec.Stream, spec.Consumer())
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 9)
	p, err := newPuller(r.js, consumer.CachedInfo(), quick, make(chan struct{}, 1), callbacks{
		credit: func() (int, time.Time, <-chan struct{}) { return 1, time.Time{}, nil },
		begin: func(*nats.Msg) (func(*nats.Msg), func()) {
			return func(m *nats.Msg) { got <- string(m.Data) }, func() {}
		},
		alive:  func() {},
		wish:   func(time.Time) wish { return pulled },
		active: func(bool) {},
		stray:  func(m *nats.Msg) { t.Errorf("no slot for %q", m.Data) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := p.run(ctx)
		ended <- err
	}()
	defer func() {
		cancel()
		if err := take(r, ended, "the end"); err != nil {
			t.Error(err)
		}
		p.stop(r.ctx, false)
	}()
	r.await("a pull", func() bool { return r.info().NumWaiting == 1 })
	for _, status := range []string{"100", "404", "408", "409", "423", "503"} {
		m := &nats.Msg{Subject: p.inbox.subject("0"), Header: nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}}}
		if err := r.admin.Conn().PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.admin.Conn().FlushTimeout(testTime); err != nil {
		t.Fatal(err)
	}
	none(r, ended, "the pull is over")
	if n := r.info().NumWaiting; n != 1 {
		t.Errorf("%d pulls wait, want 1", n)
	}
	r.publish("a")
	if m := take(r, got, "the message"); m != "a" {
		t.Errorf("message %q", m)
	}
}

// TestPullForgotten loses a pull without a word: the missing heartbeats tell.
func TestPullForgotten(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Handle: h.handle})
	w.awaitBound()
	r.await("a pull", func() bool { return r.info().NumWaiting == 1 })
	r.proxy.Swallow()
	none(r, w.done, "Run ended")
	none(r, w.done, "Run ended")
	r.proxy.Heal()
	r.publish("a")
	take(r, h.calls, "the message").answer <- Ack()
	r.awaitEmpty()
}

func TestServerRestarts(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.setup(topology.Layout{}) // on file
	w := r.run(Config{Handle: h.handle})
	w.awaitBound()
	r.publish("a", "b")
	first, second := take(r, h.calls, "a message"), take(r, h.calls, "a message")
	created := r.info().Created
	r.server.Stop()
	r.receive(r.down, "the end of the connection")
	first.answer <- Ack()
	if err := r.server.Restart(); err != nil {
		t.Fatal(err)
	}
	if now := r.info().Created; !now.Equal(created) {
		t.Errorf("the same consumer is said to be made at %s and at %s", created, now)
	}
	r.await("the ack", func() bool { return r.left(spec.Stream) == 1 })
	r.publish("c")
	c := take(r, h.calls, "a message after the restart")
	if string(c.Data) != "c" {
		t.Errorf("message %q, want c: a is done and b in work", c.Data)
	}
	c.answer <- Ack()
	second.answer <- Ack()
	r.awaitEmpty()
}

func TestServerAwayAtTheStart(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	// A connection that was never there.
	nc := r.connect(r.proxy.URL(), "")
	r.js = newJetStream(t, nc)
	w := r.run(Config{Setup: true, Handle: h.handle})
	for range 3 {
		if err := take(r, w.bound, "a try"); err == nil {
			t.Fatal("bound to nothing")
		}
	}
	r.proxy.Heal()
	w.awaitBound()
	r.publish("a")
	take(r, h.calls, "the message").answer <- Ack()
	r.awaitEmpty()
}

func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	for _, setup := range []bool{true, false} {
		t.Run(fmt.Sprint("Setup ", setup), func(t *testing.T) {
			t.Parallel()
			r, h := newRig(t), newHandler()
			r.setup(topology.Layout{Memory: true})
			w := r.run(Config{Setup: setup, Slots: 2, Handle: h.handle})
			w.awaitBound()
			remove := func() {
				if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
					t.Fatal(err)
				}
				err := w.awaitLost()
				if !errors.Is(err, errDeleted) && !errors.Is(err, jetstream.ErrConsumerNotFound) {
					t.Errorf("Bound(%v)", err)
				}
				if !setup {
					if err := w.awaitLost(); !errors.Is(err, jetstream.ErrConsumerNotFound) {
						t.Errorf("Bound(%v)", err)
					}
					r.setup(topology.Layout{})
				}
				w.awaitBound()
			}
			r.await("a pull", func() bool { return r.info().NumWaiting == 1 })
			remove()
			// Made anew by another before anybody could look.
			r.await("a pull", func() bool { return r.info().NumWaiting == 1 })
			if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
				t.Fatal(err)
			}
			r.setup(topology.Layout{})
			if err := w.awaitLost(); !errors.Is(err, errDeleted) {
				t.Errorf("Bound(%v)", err)
			}
			w.awaitBound()
			// Once more while a slot is taken: its message comes again from the new
			// consumer, and the old verdict is not taken.
			r.publish("a")
			old := take(r, h.calls, "the message")
			remove()
			again := take(r, h.calls, "the message again")
			old.answer <- Ack()
			r.await("the old verdict", func() bool { return len(w.warnings()) == 1 })
			if left := r.left(spec.Stream); left != 1 {
				t.Errorf("%d messages left, want 1", left)
			}
			again.answer <- Ack()
			r.awaitEmpty()
		})
	}
}

// TestStreamMadeAnew has an old message in work whose sequence is that of a new
// one: the ack of the old must not take the new away.
func TestStreamMadeAnew(t *testing.T) {
	t.Parallel()
	for _, setup := range []bool{true, false} {
		t.Run(fmt.Sprint("Setup ", setup), func(t *testing.T) {
			t.Parallel()
			r, h := newRig(t), newHandler()
			r.setup(topology.Layout{Memory: true})
			w := r.run(Config{Setup: setup, Slots: 2, Handle: h.handle})
			w.awaitBound()
			r.publish("old")
			old := take(r, h.calls, "the message")
			if err := r.admin.DeleteStream(r.ctx, spec.Stream); err != nil {
				t.Fatal(err)
			}
			if err := w.awaitLost(); err == nil {
				t.Error("the loss was not reported")
			}
			if !setup {
				if err := w.awaitLost(); !errors.Is(err, jetstream.ErrStreamNotFound) {
					t.Errorf("Bound(%v)", err)
				}
				r.setup(topology.Layout{Memory: true})
			}
			w.awaitBound()
			r.publish("new")
			c := take(r, h.calls, "the new message")
			if c.Sequence != old.Sequence || c.Published.Equal(old.Published) {
				t.Fatalf("%+v and %+v", c.Message, old.Message)
			}
			old.answer <- Ack()
			r.await("the old verdict", func() bool { return len(w.warnings()) == 1 })
			if left := r.left(spec.Stream); left != 1 {
				t.Errorf("%d messages left, want 1", left)
			}
			c.answer <- Nak(0)
			take(r, h.calls, "the new message again").answer <- Ack()
			r.awaitEmpty()
		})
	}
}

// TestLeaderStops takes the server that leads the consumer out of a cluster, at
// its usual times, and brings it back.
func TestLeaderStops(t *testing.T) {
	t.Parallel()
	c, err := natstest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	r := newRigAt(t, c.Servers[0].URL(), "")
	r.js = newJetStream(t, r.connect(c.URL(), ""))
	r.admin = newJetStream(t, r.connect(c.URL(), ""))
	// What was on its way through the server that stops comes after that.
	r.setupAckWait(topology.Layout{}, 2*time.Second)
	handled := make(chan string, 9999)
	w := r.run(Config{Setup: true, Slots: 8, Handle: func(_, _ context.Context, m Message) Disposition {
		handled <- string(m.Data)
		return Ack()
	}})
	w.awaitBound()
	seen := map[string]bool{}
	n := 0
	flow := func() {
		for range 20 {
			for { // until it is certain that it is stored
				ctx, cancel := context.WithTimeout(r.ctx, time.Second)
				_, err := r.admin.Publish(ctx, spec.Filter(), []byte(fmt.Sprint(n)), jetstream.WithMsgID(fmt.Sprint(n)))
				cancel()
				if err == nil {
					break
				}
				if r.ctx.Err() != nil {
					t.Fatal(err)
				}
			}
			n++
		}
	}
	flow()
	leader, err := c.ConsumerLeader(spec.Stream, spec.Consumer())
	if err != nil {
		t.Fatal(err)
	}
	created := r.info().Created
	leader.Stop()
	flow()
	if _, err := c.ConsumerLeader(spec.Stream, spec.Consumer()); err != nil {
		t.Fatal(err)
	}
	if now := r.info().Created; !now.Equal(created) {
		t.Errorf("the same consumer is said to be made at %s and at %s", created, now)
	}
	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	flow()
	for len(seen) < n {
		seen[take(r, handled, "the messages, each at least once")] = true
	}
	r.await("an empty stream", func() bool {
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		s, err := r.admin.Stream(ctx, spec.Stream)
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
}

// locked is what a worker with Setup false needs to be allowed.
var locked = []string{
	"$JS.API.CONSUMER.INFO.PASSCODE_RESETS.worker-default",
	"$JS.API.CONSUMER.MSG.NEXT.PASSCODE_RESETS.worker-default",
	"$JS.API.CONSUMER.UNPIN.PASSCODE_RESETS.worker-default",
	"$JS.ACK.PASSCODE_RESETS.worker-default.>",
}

// newLockedRig runs a server on which the worker may publish what is allowed,
// and subscribe as given.
func newLockedRig(t *testing.T, publish, subscribe []string) *rig {
	t.Helper()
	s, err := natstest.StartWith(server.Options{ServerName: "test", StoreDir: t.TempDir(), Users: []*server.User{
		{Username: "admin", Password: "admin"},
		{Username: "worker", Password: "worker", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: publish},
			Subscribe: &server.SubjectPermission{Allow: subscribe},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	r := newRigAt(t, s.URL(), "worker")
	r.setup(topology.Layout{Memory: true})
	return r
}

func TestLockedDown(t *testing.T) {
	t.Parallel()
	r, h := newLockedRig(t, locked, []string{"_INBOX.>"}), newHandler()
	w := r.run(Config{Handle: h.handle})
	w.awaitBound()
	r.publish("a", "b")
	for range 2 {
		c := take(r, h.calls, "a message")
		c.answer <- Ack()
	}
	r.awaitEmpty()
	w.stop()
	if len(r.errs) > 0 {
		t.Errorf("the server refused something: %v", <-r.errs)
	}
}

func TestMissingRight(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		publish, subscribe []string
		setup              bool
		refused            string // part of what the server says
	}{
		"to look at the consumer": {locked[1:], []string{"_INBOX.>"}, false, locked[0]},
		"to pull":                 {append([]string{locked[0]}, locked[2:]...), []string{"_INBOX.>"}, false, locked[1]},
		"to set up":               {locked, []string{"_INBOX.>"}, true, "$JS.API.STREAM.INFO.PASSCODE_RESETS"},
		"to anything":             {[]string{"else"}, []string{"_INBOX.>"}, false, locked[0]},
		"to hear an answer":       {locked, []string{"else"}, false, "_INBOX."},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newLockedRig(t, c.publish, c.subscribe)
			r.times.api, r.times.patience = 150*time.Millisecond, 300*time.Millisecond
			w := r.run(Config{Setup: c.setup, Handle: newHandler().handle})
			err := w.awaitLost()
			if err == nil {
				t.Fatal("Bound(nil)")
			}
			for said := take(r, r.errs, "what the server says"); !errors.Is(said, nats.ErrPermissionViolation) || !strings.Contains(said.Error(), c.refused); {
				said = take(r, r.errs, "what the server says")
			}
			// It stays lost, and is not said to be bound between the tries.
			for range 2 {
				if err := take(r, w.bound, "another try"); err == nil {
					t.Error("Bound(nil) without the right")
				}
			}
			w.stop()
		})
	}
}

// TestSilenceEnds takes the right to pull away and gives it back: Bound(nil)
// follows the first answer.
func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	r, h := newRig(t), newHandler()
	w := r.run(Config{Setup: true, Handle: h.handle})
	w.awaitBound()
	toPulls := func(m natstest.Message) bool {
		return strings.Contains(string(m.Header), "Heartbeat") || strings.Contains(string(m.Header), "Timeout")
	}
	r.proxy.SwallowNext(1<<30, toPulls)
	for range 2 {
		if err := take(r, w.bound, "being lost"); !errors.Is(err, errSilent) {
			t.Errorf("Bound(%v)", err)
		}
	}
	r.proxy.Heal()
	w.awaitBound()
	r.publish("a")
	take(r, h.calls, "the message").answer <- Ack()
}

// TestStandstill has a consumer that gives out nothing for good reasons: it is
// paused, or as much is out as may be. The queue is bound all the same.
func TestStandstill(t *testing.T) {
	t.Parallel()
	for name, still := range map[string]func(*rig) (on func()){
		"paused": func(r *rig) func() {
			if _, err := r.admin.PauseConsumer(r.ctx, spec.Stream, spec.Consumer(), time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			return func() {
				if _, err := r.admin.ResumeConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil {
					t.Fatal(err)
				}
			}
		},
		"as much out as may be": func(r *rig) func() {
			cfg := r.info().Config
			cfg.MaxAckPending = 1
			if _, err := r.admin.UpdateConsumer(r.ctx, spec.Stream, cfg); err != nil {
				t.Fatal(err)
			}
			r.publish("first")
			c, err := r.admin.Consumer(r.ctx, spec.Stream, spec.Consumer())
			if err != nil {
				t.Fatal(err)
			}
			m, err := c.Next(jetstream.FetchPriorityGroup(group))
			if err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := m.DoubleAck(r.ctx); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, h := newRig(t), newHandler()
			r.setup(topology.Layout{Memory: true})
			goOn := still(r)
			w := r.run(Config{Handle: h.handle})
			w.awaitBound()
			r.publish("a")
			for begun := time.Now(); time.Since(begun) < r.times.patience+2*r.times.heartbeat; {
				none(r, w.bound, "the queue is not bound")
			}
			if len(h.calls) != 0 {
				t.Error("a message was delivered")
			}
			goOn()
			take(r, h.calls, "the message").answer <- Ack()
			r.awaitEmpty()
		})
	}
}

// TestUnusableConsumer binds to no consumer that would lose requests, or hand
// out those of another tenant.
func TestUnusableConsumer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.admin.CreateStream(r.ctx, jetstream.StreamConfig{Name: spec.Stream, Subjects: []string{"passcode.reset.requests.*"}}); err != nil {
		t.Fatal(err)
	}
	w := r.run(Config{Handle: newHandler().handle})
	remake := func(change func(*jetstream.ConsumerConfig)) {
		cfg := topology.Layout{}.Worker(spec)
		change(&cfg)
		if err := r.admin.DeleteConsumer(r.ctx, spec.Stream, spec.Consumer()); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Fatal(err)
		}
		if _, err := r.admin.CreateConsumer(r.ctx, spec.Stream, cfg); err != nil {
			t.Fatal(err)
		}
	}
	for want, change := range map[string]func(*jetstream.ConsumerConfig){
		"ack policy AckNone instead":          func(c *jetstream.ConsumerConfig) { c.AckPolicy = jetstream.AckNonePolicy },
		"ack policy AckAll instead":           func(c *jetstream.ConsumerConfig) { c.AckPolicy = jetstream.AckAllPolicy },
		"so earlier requests are":             func(c *jetstream.ConsumerConfig) { c.DeliverPolicy = jetstream.DeliverNewPolicy },
		"a dead letter without its body":      func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true },
		`takes ["passcode.reset.requests.*"]`: func(c *jetstream.ConsumerConfig) { c.FilterSubject = "passcode.reset.requests.*" },
		`takes ["passcode.reset.requests.x"]`: func(c *jetstream.ConsumerConfig) { c.FilterSubject = "passcode.reset.requests.x" },
		`takes [] instead of "passcode.reset`: func(c *jetstream.ConsumerConfig) { c.FilterSubject = "" },
	} {
		remake(change)
		r.await(want, func() bool {
			err := take(r, w.bound, "a try")
			return err != nil && strings.Contains(err.Error(), want)
		})
	}
	// The same filter, written as a list.
	remake(func(c *jetstream.ConsumerConfig) { c.FilterSubject, c.FilterSubjects = "", []string{spec.Filter()} })
	w.awaitBound()
	if got := r.info().Config.FilterSubjects; !slices.Equal(got, []string{spec.Filter()}) {
		t.Errorf("filters %q", got)
	}
}
