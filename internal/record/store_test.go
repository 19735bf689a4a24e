package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
)

const (
	// testTime bounds every wait of a test.
	testTime = 120 * time.Second
	// shortReply is how long a test waits for a reply that never comes.
	shortReply = time.Second
)

// place is where a bucket is kept.
type place struct {
	url      string // of the server, or of one of the three
	replicas int
	code     jetstream.ErrorCode // of a conflict
	direct   bool                // the store goes round the proxy
}

// everywhere runs a test on one server and on a cluster of three.
func everywhere(t *testing.T, tests map[string]func(*testing.T, place)) {
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		s, err := natstest.Start(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Stop)
		inParallel(t, place{url: s.URL(), replicas: 1, code: 10071}, tests)
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		c, err := natstest.StartCluster(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Stop)
		inParallel(t, place{url: c.Servers[0].URL(), replicas: 3, code: 10164}, tests)
	})
}

func inParallel(t *testing.T, p place, tests map[string]func(*testing.T, place)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// rig is a bucket, a store that reaches it through a proxy, and an
// administrator who does not.
type rig struct {
	t      *testing.T
	ctx    context.Context
	proxy  *natstest.Proxy
	nc     *nats.Conn
	direct *nats.Conn
	store  *Store
	admin  jetstream.KeyValue
	stream string
	// failed counts the vain attempts to connect.
	failed chan struct{}
}

func newRig(t *testing.T, p place, change func(*jetstream.KeyValueConfig)) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	t.Cleanup(cancel)
	cfg := jetstream.KeyValueConfig{
		Bucket:   strings.NewReplacer("/", "-", " ", "_").Replace(t.Name()),
		History:  16,
		Replicas: p.replicas,
	}
	if change != nil {
		change(&cfg)
	}
	r := &rig{t: t, ctx: ctx, stream: "KV_" + cfg.Bucket, failed: make(chan struct{}, 100)}
	var err error
	r.direct, err = nats.Connect(p.url, nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.direct.Close)
	js := newJetStream(t, r.direct)
	if err := natstest.UntilAnswered(ctx, func(ctx context.Context) (err error) {
		r.admin, err = js.CreateKeyValue(ctx, cfg)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.proxy, err = natstest.StartProxy(p.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.proxy.Close)
	url := r.proxy.URL()
	if p.direct {
		url = p.url
	}
	r.nc, err = nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.CustomReconnectDelay(func(int) time.Duration {
			select {
			case r.failed <- struct{}{}:
			default:
			}
			return 20 * time.Millisecond
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	for r.store == nil {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		r.store, err = Open(try, newJetStream(t, r.nc), cfg.Bucket)
		cancel()
		if err != nil && try.Err() == nil || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	r.store.bucket.ReplyTimeout = shortReply
	return r
}

func newJetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// result is what Put returned.
type result struct {
	revision uint64
	err      error
}

func (r *rig) put(key string, rec Record, revision uint64) uint64 {
	r.t.Helper()
	rec.ID = strings.TrimPrefix(key, "default.")
	got, err := r.store.Put(r.ctx, key, rec, revision)
	if err != nil {
		r.t.Fatalf("Put: %v", err)
	}
	return got
}

func (r *rig) putLater(key string, rec Record, revision uint64) <-chan result {
	rec.ID = strings.TrimPrefix(key, "default.")
	done := make(chan result, 1)
	go func() {
		got, err := r.store.Put(r.ctx, key, rec, revision)
		done <- result{got, err}
	}()
	return done
}

// last is the revision of a key and the number of all its revisions, as the
// stream's leader has them.
func (r *rig) last(key string) (revision uint64, writes int) {
	r.t.Helper()
	subject := "$KV." + r.admin.Bucket() + "." + key
	msg, err := r.direct.Request("$JS.API.STREAM.MSG.GET."+r.stream, fmt.Appendf(nil, `{"last_by_subj":%q}`, subject), testTime)
	if err != nil {
		r.t.Fatal(err)
	}
	var last struct {
		Message struct {
			Seq uint64 `json:"seq"`
		} `json:"message"`
	}
	if err := json.Unmarshal(msg.Data, &last); err != nil || last.Message.Seq == 0 {
		r.t.Fatalf("no message on %s: %s (%v)", subject, msg.Data, err)
	}
	stream, err := newJetStream(r.t, r.direct).Stream(r.ctx, r.stream)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := stream.Info(r.ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		r.t.Fatal(err)
	}
	return last.Message.Seq, int(info.State.Subjects[subject])
}

func (r *rig) awaitClosed(c <-chan struct{}, what string) {
	r.t.Helper()
	select {
	case <-c:
	case <-r.ctx.Done():
		r.t.Fatalf("waited in vain for: %s", what)
	}
}

// awaitDown waits until the store's connection is lost and was tried anew.
func (r *rig) awaitDown() {
	r.t.Helper()
	for range 2 {
		r.awaitClosed(r.failed, "a vain attempt to connect")
	}
}

// sample is a record of the key default.a.
func sample(call string) Record {
	return Record{
		ID: "a", Tenant: "default", State: Attempting, Attempts: 1, ReceivedAt: time.Unix(1, 5).UTC(),
		Stream: "S", Sequence: 1, Worker: "host", ClientRequestID: call,
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	everywhere(t, map[string]func(*testing.T, place){
		"compare and set":                  testCompareAndSet,
		"many writers":                     testManyWriters,
		"reply of create lost":             testCreateReplyLost,
		"reply of update lost":             testUpdateReplyLost,
		"reply lost and written by other":  testReplyLostOtherWriter,
		"reply of refusal lost":            testRefusalLost,
		"reply lost and record removed":    testReplyLostRecordRemoved,
		"replies lost at random":           testRepliesLost,
		"away before the write":            testAwayBefore,
		"away after the write":             testAwayAfter,
		"end of the context":               testContextEnds,
		"removed key":                      testRemovedKey,
		"full bucket":                      testFullBucket,
		"hopeless":                         testHopeless,
		"value of another form":            testUndecodable,
		"PubAcks over a record":            testGarbled,
		"changes since":                    testSince,
		"reply lost under a PubAck":        testReplyLostGarbled,
		"answers over a record":            testAnswers,
		"reading where there is no answer": testGetAway,
	})
}

func testCompareAndSet(t *testing.T, p place) {
	r := newRig(t, p, nil)
	if rec, rev, err := r.store.Get(r.ctx, "default.a"); err != nil || rev != 0 || rec.State != None {
		t.Fatalf("Get of no record: %+v, %d, %v", rec, rev, err)
	}
	first := r.put("default.a", sample("1"), 0)
	second := r.put("default.a", sample("2"), first)
	if second <= first {
		t.Errorf("revisions %d, %d do not grow", first, second)
	}
	for what, revision := range map[string]uint64{"create again": 0, "update of an old revision": first, "update of a revision to come": second + 7} {
		if _, err := r.store.Put(r.ctx, "default.a", sample("3"), revision); !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", what, err)
		}
	}
	if rec, rev, err := r.store.Get(r.ctx, "default.a"); err != nil || rev != second || !reflect.DeepEqual(rec, sample("2")) {
		t.Errorf("Get: %+v, %d, %v, want the second record", rec, rev, err)
	}
	// Another key is another record, and its revision is not that of its neighbour.
	if rev := r.put("default.b", sample("1"), 0); rev <= second {
		t.Errorf("revision %d of a new key, want more than %d", rev, second)
	}

	// What the server says differs; both must be known as a conflict.
	_, err := r.admin.Update(r.ctx, "default.a", []byte("{}"), first)
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != p.code && api.ErrorCode != 10071 {
		t.Errorf("the server refuses an old revision with %v, want code %d", err, p.code)
	}
}

func testManyWriters(t *testing.T, p place) {
	r := newRig(t, p, nil)
	r.store.bucket.ReplyTimeout = testTime
	const writers = 8
	var wg sync.WaitGroup
	won := make(chan int, writers)
	for i := range writers {
		wg.Go(func() {
			_, err := r.store.Put(r.ctx, "default.a", sample(fmt.Sprint(i)), 0)
			switch {
			case err == nil:
				won <- i
			case !errors.Is(err, ErrConflict):
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	close(won)
	if len(won) != 1 {
		t.Fatalf("%d writers created the record, want 1", len(won))
	}
	rec, _, err := r.store.Get(r.ctx, "default.a")
	if winner := fmt.Sprint(<-won); err != nil || rec.ClientRequestID != winner {
		t.Errorf("the record is of %q, the winner is %q (%v)", rec.ClientRequestID, winner, err)
	}
}

func testCreateReplyLost(t *testing.T, p place) {
	r := newRig(t, p, nil)
	lost := r.proxy.SwallowNext(1, natstest.PubAck(r.stream))
	got := r.put("default.a", sample("1"), 0)
	r.awaitClosed(lost, "the loss of the reply")
	if want, writes := r.last("default.a"); got != want || writes != 1 {
		t.Errorf("Put returned revision %d after %d writes, want %d after 1", got, writes, want)
	}
}

func testUpdateReplyLost(t *testing.T, p place) {
	r := newRig(t, p, nil)
	first := r.put("default.a", sample("1"), 0)
	// The first repetition is refused, as the first write was stored; even when
	// that is lost too, Put finds out.
	r.proxy.SwallowNext(1, natstest.PubAck(r.stream))
	got := r.put("default.a", sample("2"), first)
	if want, writes := r.last("default.a"); got != want || writes != 2 {
		t.Errorf("Put returned revision %d after %d writes, want %d after 2", got, writes, want)
	}
	if next := r.put("default.a", sample("3"), got); next <= got {
		t.Errorf("revision %d after %d", next, got)
	}
}

func testReplyLostOtherWriter(t *testing.T, p place) {
	r := newRig(t, p, nil)
	r.store.bucket.ReplyTimeout = time.Second // in which the other one writes
	first := r.put("default.a", sample("1"), 0)
	lost := r.proxy.SwallowNext(1, natstest.PubAck(r.stream))
	done := r.putLater("default.a", sample("2"), first)
	r.awaitClosed(lost, "the loss of the reply")
	ours, _ := r.last("default.a")
	if _, err := r.admin.Update(r.ctx, "default.a", []byte(`{"id":"a","tenant":"default","worker":"other","state":"retrying"}`), ours); err != nil {
		t.Fatal(err)
	}
	if got := <-done; !errors.Is(got.err, ErrConflict) {
		t.Errorf("Put: %d, %v, want ErrConflict", got.revision, got.err)
	}
	if rec, _, err := r.store.Get(r.ctx, "default.a"); err != nil || rec.Worker != "other" {
		t.Errorf("the other's record was overwritten by %+v (%v)", rec, err)
	}
}

func testRefusalLost(t *testing.T, p place) {
	r := newRig(t, p, nil)
	first := r.put("default.a", sample("1"), 0)
	r.put("default.a", sample("2"), first)
	refused := func(m natstest.Message) bool { return bytes.HasPrefix(m.Data, []byte(`{"error":`)) }
	for _, revision := range []uint64{0, first} {
		lost := r.proxy.SwallowNext(1, refused)
		if got, err := r.store.Put(r.ctx, "default.a", sample("3"), revision); !errors.Is(err, ErrConflict) {
			t.Errorf("Put at revision %d: %d, %v, want ErrConflict", revision, got, err)
		}
		r.awaitClosed(lost, "the loss of the refusal")
	}
}

func testReplyLostRecordRemoved(t *testing.T, p place) {
	r := newRig(t, p, nil)
	r.store.bucket.ReplyTimeout = time.Second
	first := r.put("default.a", sample("1"), 0)
	lost := r.proxy.SwallowNext(1, natstest.PubAck(r.stream))
	done := r.putLater("default.a", sample("2"), first)
	r.awaitClosed(lost, "the loss of the reply")
	if err := r.admin.Purge(r.ctx, "default.a"); err != nil {
		t.Fatal(err)
	}
	// Nothing can be read of the write any more, so there is no certainty to
	// wait for.
	if got := <-done; !errors.Is(got.err, ErrConflict) {
		t.Errorf("Put: %d, %v, want ErrConflict", got.revision, got.err)
	}
}

// testRepliesLost takes steps in two places at once, while every third reply to
// one of them is lost: each step is in the record once.
func testRepliesLost(t *testing.T, p place) {
	r := newRig(t, p, func(c *jetstream.KeyValueConfig) { c.History = 64 })
	r.store.bucket.ReplyTimeout = 150 * time.Millisecond
	ack, n := natstest.PubAck(r.stream), 0
	const steps, losses = 8, 5
	r.proxy.SwallowNext(losses, func(m natstest.Message) bool {
		if !ack(m) {
			return false
		}
		n++
		return n%3 == 0
	})
	other, err := Open(r.ctx, newJetStream(t, r.direct), r.admin.Bucket())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, s := range []*Store{r.store, other} {
		wg.Go(func() {
			for step := 0; step < steps && r.ctx.Err() == nil; {
				mark := fmt.Sprintf("%d.%d;", i, step)
				rec, rev, err := s.Get(r.ctx, "default.a")
				if err == nil && !strings.Contains(rec.Detail, mark) {
					rec.ID, rec.Tenant = "a", "default"
					rec.State, rec.ReceivedAt = Retrying, time.Unix(1, 0).UTC()
					rec.Detail += mark
					_, err = s.Put(r.ctx, "default.a", rec, rev)
				}
				// A conflict may also mean that the step was taken and the other
				// went on from there: that is what the mark is for.
				if err == nil {
					step++
				}
			}
		})
	}
	wg.Wait()
	if r.ctx.Err() != nil {
		t.Fatal("the writers did not come to their end")
	}
	revision, writes := r.last("default.a")
	e, err := r.admin.GetRevision(r.ctx, "default.a", revision)
	if err != nil {
		t.Fatal(err)
	}
	marks := strings.Count(string(e.Value()), ";")
	if marks != 2*steps || writes != 2*steps {
		t.Errorf("%d steps in %d writes, want %d in as many: %s", marks, writes, 2*steps, e.Value())
	}
}

func testAwayBefore(t *testing.T, p place) {
	r := newRig(t, p, nil)
	first := r.put("default.a", sample("1"), 0)
	r.proxy.Away()
	r.awaitDown()
	update, create := r.putLater("default.a", sample("2"), first), r.putLater("default.b", sample("1"), 0)
	r.awaitDown()
	r.proxy.Heal()
	for key, done := range map[string]<-chan result{"default.a": update, "default.b": create} {
		got := <-done
		if want, _ := r.last(key); got.err != nil || got.revision != want {
			t.Errorf("Put of %s: %d, %v, want %d", key, got.revision, got.err, want)
		}
	}
}

func testAwayAfter(t *testing.T, p place) {
	r := newRig(t, p, nil)
	r.store.bucket.ReplyTimeout = time.Second // the connection ends before
	first := r.put("default.a", sample("1"), 0)
	lost := r.proxy.SwallowNext(1, natstest.PubAck(r.stream))
	done := r.putLater("default.a", sample("2"), first)
	r.awaitClosed(lost, "the loss of the reply")
	r.proxy.Away()
	r.awaitDown()
	r.proxy.Heal()
	got := <-done
	if want, writes := r.last("default.a"); got.err != nil || got.revision != want || writes != 2 {
		t.Errorf("Put: %d, %v after %d writes, want %d after 2", got.revision, got.err, writes, want)
	}
}

func testContextEnds(t *testing.T, p place) {
	r := newRig(t, p, nil)
	ended, cancel := context.WithCancel(r.ctx)
	cancel()
	if _, err := r.store.Put(ended, "default.a", sample("1"), 0); !errors.Is(err, context.Canceled) || errors.Is(err, ErrConflict) {
		t.Errorf("Put in an ended context: %v", err)
	}
	if _, err := r.admin.Get(r.ctx, "default.a"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("an ended context wrote: %v", err)
	}

	why := errors.New("the time is over")
	running, cut := context.WithCancelCause(r.ctx)
	r.proxy.Swallow()
	done := make(chan error, 1)
	go func() {
		_, err := r.store.Put(running, "default.b", sample("1"), 0)
		done <- err
	}()
	// The write takes effect; that it did cannot be found out.
	for stored := false; !stored; {
		_, err := r.admin.Get(r.ctx, "default.b")
		stored = err == nil
		if r.ctx.Err() != nil {
			t.Fatal("the write did not take effect")
		}
	}
	cut(why)
	if err := <-done; !errors.Is(err, why) || errors.Is(err, ErrConflict) {
		t.Errorf("Put: %v, want the cause of the end", err)
	}
}

func testRemovedKey(t *testing.T, p place) {
	r := newRig(t, p, nil)
	for key, remove := range map[string]func(key string) error{
		"default.deleted": func(key string) error { return r.admin.Delete(r.ctx, key) },
		"default.purged":  func(key string) error { return r.admin.Purge(r.ctx, key) },
	} {
		first := r.put(key, sample("1"), 0)
		if err := remove(key); err != nil {
			t.Fatal(err)
		}
		for {
			_, rev, err := r.store.Get(r.ctx, key)
			if err != nil {
				t.Fatalf("Get of %s: %v", key, err)
			}
			if rev == 0 {
				break // a replica may still show what was there
			}
		}
		if _, err := r.store.Put(r.ctx, key, sample("2"), first); !errors.Is(err, ErrConflict) {
			t.Errorf("%s: Put at the old revision: %v, want ErrConflict", key, err)
		}
		r.proxy.SwallowNext(1, natstest.PubAck(r.stream))
		got := r.put(key, sample("3"), 0)
		if want, _ := r.last(key); got != want {
			t.Errorf("%s: created anew at %d, want %d", key, got, want)
		}
	}
}

func testFullBucket(t *testing.T, p place) {
	const size = 8 << 10
	r := newRig(t, p, func(c *jetstream.KeyValueConfig) { c.MaxBytes = size })
	r.store.bucket.ReplyTimeout = testTime
	ballast := []string{}
	for i := range size {
		key := fmt.Sprint("ballast.", i)
		if _, err := r.admin.Put(r.ctx, key, make([]byte, 256)); err != nil {
			break
		}
		ballast = append(ballast, key)
	}
	short, cancel := context.WithTimeout(r.ctx, shortReply)
	defer cancel()
	_, err := r.store.Put(short, "default.a", sample("1"), 0)
	if err == nil || errors.Is(err, ErrConflict) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Put into a full bucket: %v, want the end of the context", err)
	}
	if !strings.Contains(err.Error(), "maximum bytes") {
		t.Errorf("%q does not tell that the bucket is full", err)
	}
	done := r.putLater("default.a", sample("1"), 0)
	for _, key := range ballast[:4] {
		if err := r.admin.Purge(r.ctx, key); err != nil && !strings.Contains(err.Error(), "maximum bytes") {
			t.Fatal(err)
		}
	}
	js := newJetStream(t, r.nc)
	stream, err := js.Stream(r.ctx, r.stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(r.ctx, jetstream.WithPurgeKeep(4)); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.err != nil {
		t.Errorf("Put once there was room: %v", got.err)
	}
}

// testHopeless looks for an error at once: to try for ever would keep a slot
// for ever.
func testHopeless(t *testing.T, p place) {
	r := newRig(t, p, func(c *jetstream.KeyValueConfig) { c.MaxValueSize = 1024 })
	r.store.bucket.ReplyTimeout = testTime
	large := sample("1")
	large.Detail = strings.Repeat("x", 2048)
	huge := sample("1")
	huge.Detail = strings.Repeat("x", 2<<20)
	wrong := sample("1")
	wrong.ReceivedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for what, c := range map[string]struct {
		key string
		rec Record
	}{
		"larger than the bucket takes": {"default.a", large},
		"larger than the server takes": {"default.a", huge},
		"a key that cannot be":         {"default.a b", sample("1")},
		"a time that cannot be":        {"default.a", wrong},
	} {
		for _, revision := range []uint64{0, 1} {
			if _, err := r.store.Put(r.ctx, c.key, c.rec, revision); err == nil || errors.Is(err, ErrConflict) || r.ctx.Err() != nil {
				t.Errorf("%s, revision %d: %v, want an error of its own", what, revision, err)
			}
		}
	}
	r.nc.Close()
	if _, err := r.store.Put(r.ctx, "default.a", sample("1"), 0); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("Put on a closed connection: %v", err)
	}
}

// foreign are values that are no record of the key default.a.
var foreign = []string{
	"", "no JSON", `{"attempts":"three"}`, `[]`, `{}`, `null`, `{"stream":"REQ","seq":1}`, `{"stream":"REQ","domain":"hub","seq":1,"duplicate":true}`,
	`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"stream":"REQ","seq":0}`,
	`{"id":"a","tenant":"default","state":"done"}`, `{"id":"a","tenant":"default"}`,
	`{"id":"b","tenant":"default","state":"accepted"}`, `{"id":"a","tenant":"other","state":"accepted"}`,
}

func testUndecodable(t *testing.T, p place) {
	r := newRig(t, p, nil)
	for i, value := range foreign {
		key := fmt.Sprint("default.", i)
		rev, err := r.admin.Put(r.ctx, key, []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		rec, got, err := r.store.Get(r.ctx, key)
		for err == nil && reflect.DeepEqual(rec, Record{}) && got == 0 && r.ctx.Err() == nil { // a replica that lags behind
			rec, got, err = r.store.Get(r.ctx, key)
		}
		if !errors.Is(err, ErrGarbled) || !reflect.DeepEqual(rec, Record{}) || got != rev || !strings.Contains(err.Error(), fmt.Sprintf("%s: revision %d", key, rev)) {
			t.Errorf("Get of %q: %+v, %d, %v, want ErrGarbled with key and revision %d", value, rec, got, err, rev)
		}
		// It may have pushed out a record that another has just written.
		if _, err := r.store.Put(r.ctx, key, sample("1"), 0); !errors.Is(err, ErrConflict) {
			t.Errorf("Put over %q: %v, want ErrConflict", value, err)
		}
		r.put(key, sample("1"), rev)
	}
}

// garble stores a foreign value as any publisher can: as a server's answer.
func (r *rig) garble(key string) uint64 {
	r.t.Helper()
	before, _ := r.last(key)
	if err := r.direct.PublishMsg(&nats.Msg{Subject: "$KV." + r.admin.Bucket() + ".none.x", Reply: "$KV." + r.admin.Bucket() + "." + key}); err != nil {
		r.t.Fatal(err)
	}
	for r.ctx.Err() == nil {
		if now, _ := r.last(key); now > before {
			return now
		}
	}
	r.t.Fatal("no answer was stored over the record")
	return 0
}

// testGarbled stores PubAcks over a record: it is read and written all the same,
// until they have pushed it out.
func testGarbled(t *testing.T, p place) {
	r := newRig(t, p, nil)
	first := r.put("default.a", sample("1"), 0)
	last := r.garble("default.a")
	read := func(want string, at uint64) {
		t.Helper()
		rec, rev, err := r.store.Get(r.ctx, "default.a")
		for err == nil && rev < at && r.ctx.Err() == nil { // a replica that lags behind
			rec, rev, err = r.store.Get(r.ctx, "default.a")
		}
		if err != nil || !reflect.DeepEqual(rec, sample(want)) || rev != at {
			t.Errorf("read %+v, %d, %v; want call %s at revision %d", rec, rev, err, want, at)
		}
	}
	read("1", last)
	// At what was read, and at what was known before.
	second := r.put("default.a", sample("2"), last)
	r.garble("default.a")
	third := r.put("default.a", sample("3"), second)
	read("3", third)
	// Another's record below a PubAck is no less a conflict.
	r.garble("default.a")
	for _, revision := range []uint64{0, first, last, second} {
		if _, err := r.store.Put(r.ctx, "default.a", sample("4"), revision); !errors.Is(err, ErrConflict) {
			t.Errorf("Put at revision %d: %v, want ErrConflict", revision, err)
		}
	}
	// What an operator has deleted stays so.
	if err := r.admin.Delete(r.ctx, "default.a"); err != nil {
		t.Fatal(err)
	}
	r.garble("default.a")
	for {
		rec, rev, err := r.store.Get(r.ctx, "default.a")
		if err != nil || r.ctx.Err() != nil {
			t.Fatalf("read %+v, %d, %v where the key was deleted", rec, rev, err)
		}
		if rev == 0 {
			break
		}
	}
	fourth := r.put("default.a", sample("5"), 0)
	for range 15 {
		last = r.garble("default.a")
	}
	read("5", last)
	last = r.garble("default.a")
	rec, rev, err := r.store.Get(r.ctx, "default.a")
	for err == nil && r.ctx.Err() == nil {
		rec, rev, err = r.store.Get(r.ctx, "default.a")
	}
	if !errors.Is(err, ErrGarbled) || rev != last {
		t.Errorf("read %+v, %d, %v; want ErrGarbled at revision %d", rec, rev, err, last)
	}
	// Who knew the record cannot know that nobody else has written one since.
	if _, err := r.store.Put(r.ctx, "default.a", sample("6"), fourth); !errors.Is(err, ErrConflict) {
		t.Errorf("Put after a flood: %v, want ErrConflict", err)
	}
	read("7", r.put("default.a", sample("7"), last))
}

// testReplyLostGarbled loses the reply to a write, over which a PubAck is stored
// before it is read back: it was made, once, and no other has changed it.
func testReplyLostGarbled(t *testing.T, p place) {
	r := newRig(t, p, nil)
	r.store.bucket.ReplyTimeout = time.Second // in which it is garbled
	revision := uint64(0)
	for i, call := range []string{"1", "2"} { // create, update
		lost := r.proxy.SwallowNext(1, natstest.PubAck(r.stream))
		done := r.putLater("default.a", sample(call), revision)
		r.awaitClosed(lost, "the loss of the reply")
		over := r.garble("default.a")
		got := <-done
		if _, writes := r.last("default.a"); got.err != nil || got.revision != over || writes != 2*(i+1) {
			t.Errorf("Put: %d, %v after %d writes, want %d after %d", got.revision, got.err, writes, over, 2*(i+1))
		}
		revision = got.revision
	}
	if rec, _, err := r.store.Get(r.ctx, "default.a"); err != nil || !reflect.DeepEqual(rec, sample("2")) {
		t.Errorf("read %+v, %v", rec, err)
	}
}

// testAnswers has servers' answers to readings stored over a record. One says
// that there is nothing, and one is an earlier record of the very key.
func testAnswers(t *testing.T, p place) {
	r := newRig(t, p, nil)
	// By hand: what was written by compare-and-set bears its condition with it, so
	// that no server stores it a second time.
	value, err := json.Marshal(sample("1"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := r.admin.Put(r.ctx, "default.a", value)
	if err != nil {
		t.Fatal(err)
	}
	second := r.put("default.a", sample("2"), first)
	subject := "$KV." + r.admin.Bucket() + ".default.a"
	for what, request := range map[string]nats.Msg{
		"not found":         {Subject: "$JS.API.DIRECT.GET." + r.stream + ".$KV." + r.admin.Bucket() + ".none"},
		"bad request":       {Subject: "$JS.API.DIRECT.GET." + r.stream, Data: []byte("{")},
		"an earlier record": {Subject: "$JS.API.DIRECT.GET." + r.stream, Data: fmt.Appendf(nil, `{"seq":%d}`, first)},
	} {
		before, _ := r.last("default.a")
		request.Reply = subject
		if err := r.direct.PublishMsg(&request); err != nil {
			t.Fatal(err)
		}
		over := before
		for over == before && r.ctx.Err() == nil {
			over, _ = r.last("default.a")
		}
		if over == before {
			t.Fatalf("%s: the answer was not stored", what)
		}
		rec, rev, err := r.store.Get(r.ctx, "default.a")
		for err == nil && rec.State != None && rev < over && r.ctx.Err() == nil { // a replica that lags behind
			rec, rev, err = r.store.Get(r.ctx, "default.a")
		}
		if err != nil || !reflect.DeepEqual(rec, sample("2")) || rev != over {
			t.Errorf("%s: read %+v, %d, %v; want the second record at revision %d", what, rec, rev, err, over)
		}
	}
	if got := r.put("default.a", sample("3"), second); got <= second {
		t.Errorf("revision %d after %d", got, second)
	}
	n := 0
	for {
		n = 0
		if err := r.store.Since(r.ctx, "default", time.Unix(1, 0), func(Record, time.Time) { n++ }); err != nil {
			t.Fatal(err)
		}
		if n >= 3 || r.ctx.Err() != nil { // a replica that lags behind shows fewer
			break
		}
	}
	if n != 3 {
		t.Errorf("%d changes of the record, want 3", n)
	}
}

func testGetAway(t *testing.T, p place) {
	r := newRig(t, p, nil)
	r.put("default.a", sample("1"), 0)
	r.proxy.Swallow()
	if _, _, err := r.store.Get(r.ctx, "default.a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get without an answer: %v", err)
	}
	r.proxy.Away()
	r.awaitDown()
	if _, _, err := r.store.Get(r.ctx, "default.a"); err == nil {
		t.Error("Get without a connection says that there is no record")
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := Open(t.Context(), newJetStream(t, nc), "none"); !errors.Is(err, jetstream.ErrBucketNotFound) || !strings.Contains(err.Error(), "none") {
		t.Errorf("Open of no bucket: %v", err)
	}
}

// TestServerRestarts stops the only server while a record is written.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	r := newRig(t, place{url: s.URL(), replicas: 1}, nil)
	first := r.put("default.a", sample("1"), 0)
	lost := r.proxy.SwallowNext(1, natstest.PubAck(r.stream))
	done := r.putLater("default.a", sample("2"), first)
	r.awaitClosed(lost, "the loss of the reply")
	s.Stop()
	r.awaitDown()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	got := <-done
	if want, writes := r.last("default.a"); got.err != nil || got.revision != want || writes != 2 {
		t.Errorf("Put: %d, %v after %d writes, want %d after 2", got.revision, got.err, writes, want)
	}
}

// TestLeaderStops takes the bucket's leader away while records are written.
func TestLeaderStops(t *testing.T) {
	t.Parallel()
	c, err := natstest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	r := newRig(t, place{url: c.URL(), replicas: 3, direct: true}, nil)
	r.store.bucket.ReplyTimeout = time.Second
	revision := r.put("default.a", sample("0"), 0)
	wrote, stop, done := make(chan struct{}, 1000), make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for ; ; n++ {
			next, err := r.store.Put(r.ctx, "default.a", sample(fmt.Sprint(n+1)), revision)
			if err != nil || next <= revision {
				t.Errorf("Put after revision %d: %d, %v", revision, next, err)
				return
			}
			revision = next
			select {
			case wrote <- struct{}{}:
			case <-stop:
				n++
				return
			}
		}
	}()
	r.awaitClosed(wrote, "a write")
	leader, err := c.StreamLeader(r.stream)
	if err != nil {
		t.Fatal(err)
	}
	leader.Stop()
	for range len(wrote) + 20 { // what was written before, and what is after
		r.awaitClosed(wrote, "a write without the old leader")
	}
	close(stop)
	for len(wrote) > 0 {
		<-wrote
	}
	writes := <-done
	rec, rev, err := r.store.Get(r.ctx, "default.a")
	for err == nil && rev < revision && r.ctx.Err() == nil { // a replica that lags behind
		rec, rev, err = r.store.Get(r.ctx, "default.a")
	}
	if err != nil || rev != revision || rec.ClientRequestID != fmt.Sprint(writes) {
		t.Errorf("Get: %+v, %d, %v, want call %d at revision %d", rec, rev, err, writes, revision)
	}
	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
}

// testSince reads a tenant's changes since each of them, since long before, and since
// after the last.
func testSince(t *testing.T, p place) {
	r := newRig(t, p, nil)
	r.store.bucket.ReplyTimeout = testTime
	stream, err := newJetStream(t, r.direct).Stream(r.ctx, r.stream)
	if err != nil {
		t.Fatal(err)
	}
	var stored []time.Time
	for i, key := range []string{"default.a", "other.a", "default.b", "default.a", "other.b"} {
		switch {
		case strings.HasPrefix(key, "other."):
			if _, err := r.admin.Put(r.ctx, key, nil); err != nil {
				t.Fatal(err)
			}
		case i == 3:
			r.put(key, sample("2"), 1)
		default:
			r.put(key, sample("1"), 0)
		}
		m, err := stream.GetMsg(r.ctx, uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, m.Time)
	}
	ours := []time.Time{stored[0], stored[2], stored[3]}
	for _, c := range []struct {
		since time.Time
		want  []time.Time
	}{
		{time.Unix(1, 0), ours}, {stored[0], ours}, {stored[1], ours[1:]}, {stored[3], ours[2:]},
		{stored[3].Add(1), nil}, {stored[4], nil}, {stored[4].Add(time.Hour), nil},
	} {
		var got []time.Time
		for got = nil; ; got = nil { // a consumer on a replica that lags behind shows fewer
			if err := r.store.Since(r.ctx, "default", c.since, func(_ Record, stored time.Time) { got = append(got, stored) }); err != nil {
				t.Fatal(err)
			}
			if len(got) >= len(c.want) || r.ctx.Err() != nil {
				break
			}
		}
		if !slices.EqualFunc(got, c.want, time.Time.Equal) {
			t.Errorf("since %s: %v, want %v", c.since, got, c.want)
		}
	}
}
