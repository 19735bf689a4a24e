package topology

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
)

const days90 = 90 * 24 * time.Hour

// made is what the server says about all that Setup makes.
type made struct {
	requests, letters, records jetstream.StreamConfig
	worker                     jetstream.ConsumerConfig
}

func (r *rig) made() made {
	r.t.Helper()
	stream := func(name string) jetstream.StreamConfig {
		s, err := r.admin.Stream(r.ctx, name)
		if err != nil {
			r.t.Fatalf("stream %s: %v", name, err)
		}
		cfg := s.CachedInfo().Config
		cfg.Metadata = nil // the server's own
		return cfg
	}
	m := made{stream("PASSCODE_RESETS"), stream("PASSCODE_RESETS_DEAD"), stream("KV_passcode-resets"), r.info().Config}
	m.worker.Metadata = nil
	return m
}

// contract is the layout of the contract on one server.
func contract() made {
	return made{
		requests: jetstream.StreamConfig{
			Name: "PASSCODE_RESETS", Description: "passcode resets to be done",
			Subjects: []string{"passcode.reset.requests.*"}, Retention: jetstream.WorkQueuePolicy,
			Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, Duplicates: 10 * time.Minute, Replicas: 1,
			MaxAge: 0, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: 2500, AllowDirect: true,
			RePublish: &jetstream.RePublish{Source: "passcode.reset.requests.*", Destination: "passcode.reset.wake.PASSCODE_RESETS.{{wildcard(1)}}", HeadersOnly: true},
		},
		letters: jetstream.StreamConfig{
			Name: "PASSCODE_RESETS_DEAD", Description: "passcode resets that could not be done",
			Subjects: []string{"passcode.reset.dead.*"}, Retention: jetstream.LimitsPolicy,
			Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, Duplicates: 10 * time.Minute, Replicas: 1,
			MaxAge: days90, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1, AllowDirect: true,
		},
		records: jetstream.StreamConfig{
			Name: "KV_passcode-resets", Description: "one record per passcode reset",
			Subjects: []string{"$KV.passcode-resets.>"}, Retention: jetstream.LimitsPolicy,
			Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, Duplicates: 2 * time.Minute, Replicas: 1,
			MaxAge: days90, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: 16, MaxMsgSize: -1, MaxConsumers: -1,
			AllowDirect: true, AllowRollup: true, DenyDelete: true,
			RePublish: &jetstream.RePublish{Source: "$KV.passcode-resets.>", Destination: "passcode.reset.status.>"},
		},
		worker: jetstream.ConsumerConfig{
			Name: "worker-default", Durable: "worker-default", Description: "worker of the tenant default",
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: 1000,
			FilterSubject: "passcode.reset.requests.default", DeliverPolicy: jetstream.DeliverAllPolicy,
			ReplayPolicy: jetstream.ReplayInstantPolicy, MaxWaiting: 512,
			PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"worker"}, PinnedTTL: 5 * time.Second,
		},
	}
}

func compare(t *testing.T, got, want made) {
	t.Helper()
	for what, pair := range map[string][2]any{
		"requests": {got.requests, want.requests}, "letters": {got.letters, want.letters},
		"records": {got.records, want.records}, "worker": {got.worker, want.worker},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			g, err1 := json.Marshal(pair[0])
			w, err2 := json.Marshal(pair[1])
			t.Errorf("%s:\n%s\nwant\n%s %v %v", what, g, w, err1, err2)
		}
	}
}

func actions(done []Done) (out string) {
	for _, d := range done {
		out += d.Action + " " + d.What + "; "
	}
	return strings.TrimSuffix(out, "; ")
}

const things = "ACTION stream PASSCODE_RESETS; ACTION stream PASSCODE_RESETS_DEAD; ACTION key-value bucket passcode-resets; ACTION key-value bucket passcode-resets-state; ACTION key-value bucket passcode-resets-devices; ACTION consumer worker-default; " +
	"ACTION stream PASSCODE_RESETS_FOLLOW; ACTION key-value bucket passcode-resets-outcomes"

func all(action string) string {
	out := things
	for step := range FollowSteps {
		out += "; ACTION consumer " + FollowConsumer(step)
	}
	return strings.ReplaceAll(out, "ACTION", action)
}

func TestSetup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, action := range []string{"created", "exists", "exists"} {
		done, err := Setup(r.ctx, r.js, spec, Layout{})
		if err != nil || actions(done) != all(action) {
			t.Fatalf("%s: %s, %v", action, actions(done), err)
		}
		compare(t, r.made(), contract())
	}
	done, err := Setup(r.ctx, r.js, spec, Layout{Update: true})
	if err != nil || actions(done) != all("updated") {
		t.Fatalf("%s, %v", actions(done), err)
	}
	compare(t, r.made(), contract())

	// A second tenant shares all but the consumer.
	other := spec
	other.Tenant = "other"
	done, err = Setup(r.ctx, r.js, other, Layout{})
	if err != nil || actions(done) != strings.Replace(all("exists"), "exists consumer worker-default", "created consumer worker-other", 1) {
		t.Fatalf("%s, %v", actions(done), err)
	}
}

func TestSetupLayout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := Setup(r.ctx, r.js, spec, Layout{Replicas: 1, Memory: true, Retention: time.Minute, MaxBytes: Sizes{Requests: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	want := contract()
	want.requests.Storage, want.letters.Storage, want.records.Storage = jetstream.MemoryStorage, jetstream.MemoryStorage, jetstream.MemoryStorage
	want.requests.MaxBytes = 1 << 20
	want.letters.MaxAge, want.records.MaxAge = time.Minute, time.Minute
	want.letters.Duplicates, want.records.Duplicates = time.Minute, time.Minute
	compare(t, r.made(), want)
}

// TestSetupKeeps changes what an operator may change: only Update undoes it,
// and only what the layout speaks of.
func TestSetupKeeps(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{})
	set := r.made()
	set.requests.Duplicates, set.requests.MaxBytes, set.requests.MaxMsgsPerSubject = time.Minute, 1<<30, 1000
	set.requests.Compression, set.requests.Description = jetstream.S2Compression, "ours"
	set.letters.MaxAge, set.letters.Discard, set.letters.MaxMsgs = time.Hour, jetstream.DiscardOld, 5
	set.records.MaxAge, set.records.RePublish, set.records.MaxMsgsPerSubject = time.Hour, nil, 1
	for _, cfg := range []jetstream.StreamConfig{set.requests, set.letters, set.records} {
		if _, err := r.admin.UpdateStream(r.ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	set.worker.AckWait, set.worker.MaxAckPending, set.worker.MaxDeliver = time.Second, 7, 5
	set.worker.BackOff, set.worker.SampleFrequency = []time.Duration{time.Second, 2 * time.Second}, "50"
	if _, err := r.admin.UpdateConsumer(r.ctx, spec.Stream, set.worker); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour)
	if _, err := r.admin.PauseConsumer(r.ctx, spec.Stream, spec.Consumer(), until); err != nil {
		t.Fatal(err)
	}
	set = r.made()
	done, err := Setup(r.ctx, r.js, spec, Layout{})
	if err != nil || actions(done) != all("exists") {
		t.Fatalf("%s, %v", actions(done), err)
	}
	compare(t, r.made(), set)

	done, err = Setup(r.ctx, r.js, spec, Layout{Update: true, MaxBytes: Sizes{Requests: 1 << 20}})
	if err != nil || actions(done) != all("updated") {
		t.Fatalf("%s, %v", actions(done), err)
	}
	want := contract()
	want.requests.Compression, want.requests.MaxBytes = jetstream.S2Compression, 1<<20
	want.letters.MaxMsgs = 5
	want.worker.SampleFrequency, want.worker.PauseUntil = "50", set.worker.PauseUntil
	compare(t, r.made(), want)
	if !r.info().Paused {
		t.Error("the update ended a pause")
	}
	// Without a limit of its own it leaves the one that is there.
	if _, err := Setup(r.ctx, r.js, spec, Layout{Update: true}); err != nil {
		t.Fatal(err)
	}
	compare(t, r.made(), want)
}

// TestSetupCannot names what cannot be changed.
func TestSetupCannot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.admin.CreateStream(r.ctx, jetstream.StreamConfig{Name: spec.DeadStream, Subjects: []string{"passcode.reset.dead.*"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	done, err := Setup(r.ctx, r.js, spec, Layout{Update: true})
	if err == nil || !strings.Contains(err.Error(), "stream PASSCODE_RESETS_DEAD") || strings.Contains(err.Error(), ";") ||
		actions(done) != "created stream PASSCODE_RESETS; created key-value bucket passcode-resets; created key-value bucket passcode-resets-state; created key-value bucket passcode-resets-devices" {
		t.Errorf("%s, %v", actions(done), err)
	}
	if _, err := Setup(r.ctx, r.js, spec, Layout{}); err != nil {
		t.Error(err)
	}
	// A single server has no place for three.
	other := Names{Tenant: "default", Stream: "A", Subject: "a", DeadStream: "B", DeadSubject: "b", Bucket: "c"}
	if done, err := Setup(r.ctx, r.js, other, Layout{Replicas: 3}); err == nil || len(done) != 0 {
		t.Errorf("%s, %v", actions(done), err)
	}
}

// TestSetupAtOnce lets workers start at the same time.
func TestSetupAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var wg sync.WaitGroup
	for i := range 8 {
		layout := Layout{MaxBytes: Sizes{Requests: int64(1+i%2) << 20}} // they need not be of one mind
		wg.Go(func() {
			if _, err := Setup(r.ctx, r.js, spec, layout); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestSetupCluster(t *testing.T) {
	t.Parallel()
	c, err := natstest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	r := newRigAt(t, c.Servers[0].URL(), "", "")
	want := contract()
	want.requests.Replicas, want.letters.Replicas, want.records.Replicas = 3, 3, 3
	r.setupInTime(Layout{})
	compare(t, r.made(), want)

	if got := r.weaknesses(); len(got) != 0 {
		t.Errorf("weaknesses: %q", got)
	}

	// The number of replicas is an operator's, until another is asked for.
	r.setupInTime(Layout{Update: true})
	compare(t, r.made(), want)
	r.setupInTime(Layout{Update: true, Replicas: 1})
	want.requests.Replicas, want.letters.Replicas, want.records.Replicas = 1, 1, 1
	compare(t, r.made(), want)
	r.setupInTime(Layout{Update: true})
	compare(t, r.made(), want)

	// With a server away it is still three, not one for ever.
	c.Servers[2].Stop()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	other := Names{Tenant: "default", Stream: "A", Subject: "a", DeadStream: "B", DeadSubject: "b", Bucket: "c"}
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	done, setupErr := Setup(ctx, r.js, other, Layout{})
	if s, err := r.admin.Stream(r.ctx, "A"); err == nil && s.CachedInfo().Config.Replicas != 3 || err != nil && setupErr == nil {
		t.Errorf("a stream with less than three replicas: %s, %v, %v", actions(done), setupErr, err)
	}
}

// TestCreate decides what a refusal means.
func TestCreate(t *testing.T) {
	t.Parallel()
	taken := errors.New("taken")
	code := func(c jetstream.ErrorCode) error { return fmt.Errorf("nats: %w", &jetstream.APIError{ErrorCode: c}) }
	for name, c := range map[string]struct {
		layout   Layout
		single   bool
		errs     []error // of the tries, one after another
		action   string
		replicas int
		hint     string
	}{
		"made":                          {Layout{}, false, []error{nil}, "created", 3, ""},
		"no cluster":                    {Layout{}, false, []error{code(10074), nil}, "created", 1, ""},
		"no cluster, and refused":       {Layout{}, false, []error{code(10074), code(10047)}, "", 1, "10047"},
		"no cluster, three asked for":   {Layout{Replicas: 3}, false, []error{code(10074)}, "", 3, "10074"},
		"too few peers":                 {Layout{}, false, []error{code(10005)}, "", 3, "10005"},
		"no tier of three":              {Layout{}, false, []error{code(10120), nil}, "created", 1, ""},
		"no tier of what is asked for":  {Layout{Replicas: 3}, false, []error{code(10120)}, "", 3, "10120"},
		"another was faster":            {Layout{}, false, []error{taken}, "exists", 3, ""},
		"another was faster in the end": {Layout{}, false, []error{code(10074), taken}, "exists", 1, ""},
		"too large for three":           {Layout{}, true, []error{code(10047), nil}, "created", 1, ""},
		"too large in memory":           {Layout{}, true, []error{code(10028), nil}, "created", 1, ""},
		"too large, of a cluster":       {Layout{}, false, []error{code(10047)}, "", 3, "10047"},
	} {
		replicas := c.layout.replicas()
		tries := 0
		action, err := create(c.layout, c.single, &replicas, taken, func() error {
			tries++
			return c.errs[tries-1]
		})
		if c.hint == "" && (err != nil || action != c.action) || c.hint != "" && (err == nil || !strings.Contains(fmt.Sprintf("%v %+v", err, errors.Unwrap(err)), c.hint)) {
			t.Errorf("%s: %s, %v", name, action, err)
		}
		if replicas != c.replicas || tries != len(c.errs) {
			t.Errorf("%s: %d replicas after %d tries", name, replicas, tries)
		}
	}
}

// setupInTime tries until a cluster that has just started or changed does it.
func (r *rig) setupInTime(l Layout) {
	r.t.Helper()
	r.await("the setup", func() bool {
		ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
		defer cancel()
		_, err := Setup(ctx, r.js, spec, l)
		return err == nil
	})
}

// TestStatus sees each change of a record as a plain subscriber.
func TestStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true})
	sub, err := r.nc.SubscribeSync("passcode.reset.status.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.FlushTimeout(testTime); err != nil {
		t.Fatal(err)
	}
	kv, err := r.admin.KeyValue(r.ctx, spec.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct{ key, value string }{
		{"default.INC1", "attempting"}, {"default.INC1", "accepted"}, {"other.a=20b", "dead"},
	} {
		if _, err := kv.Put(r.ctx, change.key, []byte(change.value)); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsg(testTime)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject != "passcode.reset.status."+change.key || string(m.Data) != change.value {
			t.Errorf("%s: %s, want %s: %s", m.Subject, m.Data, change.key, change.value)
		}
	}
	if _, err := sub.NextMsg(10 * time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("one more: %v", err)
	}
}

// TestDiscardNew tells the publisher that the queue is full.
func TestDiscardNew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true, MaxBytes: Sizes{Requests: 2048}})
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = r.admin.Publish(r.ctx, spec.Filter(), make([]byte, 512))
	}
	if err == nil || r.left(spec.Stream) != uint64(n-1) {
		t.Errorf("%d stored of %d: %v", r.left(spec.Stream), n, err)
	}
}

// A cluster that elects its leaders does not answer all that it is asked. What was made
// although the answer was lost is found by the next try.
func TestSetupWithLostAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, err := natstest.StartProxy(r.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	far := newRigAt(t, proxy.URL(), "", "")
	lost := proxy.SwallowNext(1, func(m natstest.Message) bool {
		return strings.Contains(string(m.Data), `stream_create_response","config"`)
	})
	done, err := Setup(far.ctx, far.js, spec, Layout{Memory: true})
	<-lost
	if want := strings.Replace(all("created"), "created", "exists", 1); err != nil || actions(done) != want {
		t.Errorf("%s, %v", actions(done), err)
	}
}

// TestUntilAnswered tries until there is an answer, whatever it is, or no time is left.
func TestUntilAnswered(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	noPeers := &jetstream.APIError{ErrorCode: errNoPeers}
	for name, c := range map[string]struct {
		limit   time.Duration // 0: none
		unheard int           // tries that nobody answers
		early   int           // tries after that, in which the cluster cannot place anything
		err     error
		want    error
		took    time.Duration
	}{
		"at once":            {12 * time.Second, 0, 0, nil, nil, 0},
		"at the third try":   {12 * time.Second, 2, 0, nil, nil, 2 * apiWait},
		"refused":            {12 * time.Second, 1, 0, refused, refused, apiWait},
		"until no time left": {12 * time.Second, 100, 0, nil, context.DeadlineExceeded, 12 * time.Second},
		// A follower whose account lacks a right would never say so.
		"once without a limit": {0, 100, 0, nil, context.DeadlineExceeded, apiWait},
		// A server that has just started cannot take a replica yet.
		"a cluster that gathers":          {12 * time.Second, 0, 3, nil, nil, 3 * placeWait},
		"silent, and then it gathers":     {12 * time.Second, 1, 3, nil, nil, apiWait + 3*placeWait},
		"a cluster that is too small":     {12 * time.Second, 0, 100, nil, noPeers, apiWait},
		"too small, less time":            {time.Second + placeWait/2, 0, 100, nil, noPeers, time.Second + placeWait/2},
		"too small, once without a limit": {0, 0, 100, nil, noPeers, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			if c.limit > 0 {
				ctx, cancel = context.WithTimeout(t.Context(), c.limit)
			}
			defer cancel()
			began, tries := time.Now(), 0
			action, err := untilAnswered(ctx, &grace{}, func(ctx context.Context) (string, error) {
				if tries++; tries <= c.unheard {
					<-ctx.Done()
					return "", fmt.Errorf("no answer: %w", ctx.Err())
				}
				if tries <= c.unheard+c.early {
					return "", fmt.Errorf("nats: %w", noPeers)
				}
				return "created", c.err
			})
			if !errors.Is(err, c.want) || err == nil && action != "created" || time.Since(began) != c.took {
				t.Errorf("%s: %q, %v after %s", name, action, err, time.Since(began))
			}
		})
	}
}

// TestGraceIsShared: a cluster that is too small is told of after one grace for all things,
// with all that is missing.
func TestGraceIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*apiWait)
		defer cancel()
		refuse := func(context.Context) (string, error) {
			return "", fmt.Errorf("nats: %w", &jetstream.APIError{ErrorCode: errNoPeers})
		}
		began := time.Now()
		_, err := ensureAll(ctx, &grace{}, []step{{"one", "", refuse}, {"two", "", refuse}, {"three", "", refuse}})
		if took := time.Since(began); took != apiWait || err == nil || !strings.Contains(err.Error(), "one: ") || !strings.Contains(err.Error(), "three: ") {
			t.Errorf("after %s: %v", took, err)
		}
	})
}
