package bucket

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"passcode-worker/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// good is the form of values in these tests.
func good(v Revision) bool { return v.Deleted() || strings.HasPrefix(string(v.Value), "good") }

func connect(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// open makes a bucket on a server of its own.
func open(t *testing.T, cfg jetstream.KeyValueConfig) (*Bucket, jetstream.KeyValue, *nats.Conn) {
	t.Helper()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, js := connect(t, s.URL())
	kv, err := js.CreateKeyValue(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), js, cfg.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	return b, kv, nc
}

func TestStanding(t *testing.T) {
	at := func(seq uint64, value string) Revision { return Revision{Sequence: seq, Value: []byte(value)} }
	deleted := func(seq uint64) Revision {
		return Revision{Sequence: seq, Header: nats.Header{"KV-Operation": {"DEL"}}}
	}
	none := Revision{}
	const mine = "mine"
	for name, c := range map[string]struct {
		newest, last Revision
		revision     uint64
		want         stand
	}{
		"nothing, as it was":                         {none, none, 0, unchanged},
		"as it was":                                  {at(3, "before"), at(3, "before"), 3, unchanged},
		"mine":                                       {at(4, mine), at(4, mine), 3, ours},
		"mine, created":                              {at(4, mine), at(4, mine), 0, ours},
		"mine below garbage":                         {at(4, mine), at(6, "x"), 3, ours},
		"the same value, but from before":            {at(3, mine), at(3, mine), 3, unchanged},
		"another's":                                  {at(4, "other"), at(4, "other"), 3, changed},
		"another's below garbage":                    {at(4, "other"), at(6, "x"), 3, changed},
		"another created it":                         {at(4, "other"), at(4, "other"), 0, changed},
		"garbage above":                              {at(3, "before"), at(6, "x"), 3, unchanged},
		"garbage above what was garbage":             {at(3, "before"), at(6, "x"), 5, unchanged},
		"nothing but the garbage that was read":      {none, at(5, "x"), 5, unchanged},
		"nothing but garbage, newer":                 {none, at(6, "x"), 5, changed},
		"garbage where nothing was":                  {none, at(6, "x"), 0, changed},
		"deleted since":                              {deleted(4), deleted(4), 3, changed},
		"deleted before it is created":               {deleted(4), deleted(4), 0, unchanged},
		"deleted before it is created, then garbage": {deleted(4), at(6, "x"), 0, unchanged},
		"removed":                                    {none, none, 3, changed},
		"the bucket is another":                      {at(2, "before"), at(2, "before"), 3, changed},
	} {
		if got := standing(c.newest, c.last, c.revision, []byte(mine)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestFalseRefusal lets a relay refuse the first writes for their revision, which
// is right, as a leader of three sometimes does.
func TestFalseRefusal(t *testing.T) {
	b, _, nc := open(t, jetstream.KeyValueConfig{Bucket: "b", History: 16})
	first, err := b.Set(t.Context(), "k", []byte("good 1"), 0, good)
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int32
	_, err = nc.Subscribe("relay.>", func(m *nats.Msg) {
		if refused.Add(1) <= 3 {
			_ = m.Respond([]byte(`{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"},"stream":"KV_b","seq":0}`))
			return
		}
		_ = nc.PublishMsg(&nats.Msg{Subject: b.Subject + strings.TrimPrefix(m.Subject, "relay."), Reply: m.Reply, Header: m.Header, Data: m.Data})
	})
	if err != nil {
		t.Fatal(err)
	}
	b.publish = "relay."
	for _, c := range []struct {
		key      string
		revision uint64
	}{{"k", first}, {"new", 0}} {
		refused.Store(0)
		got, err := b.Set(t.Context(), c.key, []byte("good 2"), c.revision, good)
		if err != nil || got <= first || refused.Load() != 4 {
			t.Errorf("%s: %d, %v after %d tries; want a revision after 4", c.key, got, err, refused.Load())
		}
	}
}

// TestSetAsksTheLeader: what any replica may answer is not even asked
// for, so the write goes on where only the leader can be read, and only there.
func TestSetAsksTheLeader(t *testing.T) {
	b, kv, _ := open(t, jetstream.KeyValueConfig{Bucket: "b", History: 16})
	first, err := b.Set(t.Context(), "k", []byte("good 1"), 0, good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "k", []byte("good 2")); err != nil {
		t.Fatal(err)
	}
	b.direct = "nobody."
	if _, err := b.Set(t.Context(), "k", []byte("good 3"), first, good); !errors.Is(err, ErrConflict) {
		t.Errorf("%v, want ErrConflict", err)
	}
	b.Stream = "KV_nobody"
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := b.Set(ctx, "k", []byte("good 3"), first, good); errors.Is(err, ErrConflict) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the end of the context", err)
	}
}

func TestNewest(t *testing.T) {
	b, kv, _ := open(t, jetstream.KeyValueConfig{Bucket: "b", History: 4})
	put := func(value string) {
		t.Helper()
		if _, err := kv.PutString(t.Context(), "k", value); err != nil {
			t.Fatal(err)
		}
	}
	check := func(newest, last uint64) {
		t.Helper()
		n, l, err := b.Newest(t.Context(), "k", good)
		if err != nil || n.Sequence != newest || l.Sequence != last {
			t.Errorf("newest %d, last %d, %v; want %d, %d", n.Sequence, l.Sequence, err, newest, last)
		}
	}
	check(0, 0)
	put("x")
	check(0, 1)
	put("good a")
	put("good b")
	check(3, 3)
	put("x")
	check(3, 4)
	put("x")
	put("x")
	check(3, 6)
	put("x")
	check(0, 7)
}

func TestDeletedAndAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		header          nats.Header
		deleted, answer bool
	}{
		"nothing":         {nil, false, false},
		"deleted":         {nats.Header{"KV-Operation": {"DEL"}}, true, false},
		"purged":          {nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}, true, false},
		"aged":            {nats.Header{"Nats-Marker-Reason": {"MaxAge"}}, true, false},
		"something else":  {nats.Header{"KV-Operation": {"PUT"}}, false, false},
		"compare-and-set": {nats.Header{"Nats-Expected-Last-Subject-Sequence": {"4"}}, false, false},
		// A publisher's message that says so, read with the key as the reply's subject.
		"a copied deletion": {nats.Header{"KV-Operation": {"DEL"}, "Nats-Sequence": {"4"}, "Nats-Stream": {"S"}}, false, true},
	} {
		v := Revision{Header: c.header}
		if v.Deleted() != c.deleted || v.Answer() != c.answer {
			t.Errorf("%s: deleted %t, answer %t", name, v.Deleted(), v.Answer())
		}
	}
}

// TestGetTellsWhatIsStored reads values that bear the headers of an answer.
func TestGetTellsWhatIsStored(t *testing.T) {
	for _, direct := range []bool{true, false} {
		b, _, nc := open(t, jetstream.KeyValueConfig{Bucket: "b", History: 16})
		if !direct {
			b.direct = ""
		}
		if v, err := b.Get(t.Context(), "k"); err != nil || v.Sequence != 0 {
			t.Fatalf("%+v, %v where there is nothing", v, err)
		}
		for i, header := range []nats.Header{
			nil, {"X": {"1"}}, {"Nats-Sequence": {"77"}}, {"Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}}, {"Status": {"404"}},
		} {
			if _, err := nc.RequestMsg(&nats.Msg{Subject: "$KV.b.k", Header: header}, time.Minute); err != nil {
				t.Fatal(err)
			}
			v, err := b.Get(t.Context(), "k")
			if err != nil || v.Sequence != uint64(i+1) || time.Since(v.Time) > time.Minute || len(v.Header) != len(header) {
				t.Errorf("with %v: %+v, %v", header, v, err)
			}
		}
	}
}

func TestKeysThatCannotBe(t *testing.T) {
	b, _, _ := open(t, jetstream.KeyValueConfig{Bucket: "b"})
	for _, key := range []string{"", ".", ".a", "a.", "a..b", "a b", "a.*", "a.>", "ä"} {
		_, getErr := b.Get(t.Context(), key)
		_, lastErr := b.Last(t.Context(), key)
		_, putErr := b.Put(t.Context(), key, nil)
		_, setErr := b.Set(t.Context(), key, nil, 0, good)
		for _, err := range []error{getErr, lastErr, putErr, setErr} {
			if !errors.Is(err, jetstream.ErrInvalidKey) {
				t.Errorf("%q: %v", key, err)
			}
		}
	}
}

// TestOnlyWriterIsNeverRefused on three servers that write each message to their
// disks: each of many keys has one writer, whose every write takes effect, once.
func TestOnlyWriterIsNeverRefused(t *testing.T) {
	const keys = 64
	writes := 800 // of each key
	if testing.Short() {
		writes = 40
	}
	c, err := natstest.StartClusterWith(t.TempDir(), server.Options{SyncAlways: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	nc, js := connect(t, c.URL())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", History: 16, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	b, err := Open(ctx, js, "b")
	if err != nil {
		t.Fatal(err)
	}
	refused := countRefusals(t, nc)
	began := time.Now()
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			key, revision := fmt.Sprint("k.", i), uint64(0)
			for n := range writes {
				next, err := b.Set(ctx, key, fmt.Appendf(nil, "good %d", n), revision, good)
				if err != nil || next <= revision {
					t.Errorf("write %d of %s after revision %d: %d, %v", n, key, revision, next, err)
					return
				}
				revision = next
			}
			last, err := b.Last(ctx, key)
			if want := fmt.Sprint("good ", writes-1); err != nil || last.Sequence != revision || string(last.Value) != want {
				t.Errorf("%s: %q at revision %d, %v; want %q at %d", key, last.Value, last.Sequence, err, want, revision)
			}
		})
	}
	all.Wait()
	s, err := js.Stream(ctx, b.Stream)
	if err != nil {
		t.Fatal(err)
	}
	// Each write was stored once.
	if n := s.CachedInfo().State.LastSeq; n != uint64(keys*writes) {
		t.Errorf("%d writes were stored, want %d", n, keys*writes)
	}
	t.Logf("%d writes in %s, %d of them refused at first", keys*writes, time.Since(began).Round(time.Millisecond), refused())
}

// countRefusals listens to what the server answers to writes.
func countRefusals(t *testing.T, nc *nats.Conn) func() int {
	t.Helper()
	var n atomic.Int64
	sub, err := nc.Subscribe("_INBOX.>", func(m *nats.Msg) {
		if strings.HasPrefix(string(m.Data), `{"error":`) {
			n.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	return func() int { return int(n.Load()) }
}
