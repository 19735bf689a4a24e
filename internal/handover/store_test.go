package handover

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"passcode-worker/internal/bucket"
	"passcode-worker/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) (*Store, jetstream.KeyValue, *nats.Conn) {
	t.Helper()
	server, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "s", History: 16})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), js, "s")
	if err != nil {
		t.Fatal(err)
	}
	return s, kv, nc
}

func TestNothingIsKnownAtFirst(t *testing.T) {
	s, _, _ := open(t)
	w, revision, err := s.Snapshot(t.Context(), "a")
	if err != nil || w != (Snapshot{}) || revision != 0 {
		t.Errorf("worker %+v, %d, %v", w, revision, err)
	}
	at, err := s.ReleasedAt(t.Context(), "a")
	if err != nil || !at.IsZero() {
		t.Errorf("released at %s, %v", at, err)
	}
}

func TestWhatIsHandedOnIsRead(t *testing.T) {
	s, _, _ := open(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := Snapshot{
		PausedUntil: at, Granted: 60, FuseBlownAt: at.Add(time.Hour), ServedAt: at.Add(time.Minute), Worker: "host-1",
		Hold: &Hold{Cause: "credentials", Since: at, Detail: "the secret has expired"},
	}
	wrote, err := s.SetSnapshot(t.Context(), "a", want)
	if err != nil {
		t.Fatal(err)
	}
	got, revision, err := s.Snapshot(t.Context(), "a")
	if err != nil || !reflect.DeepEqual(got, want) || revision != wrote {
		t.Errorf("%+v, %d, %v; written at %d", got, revision, err, wrote)
	}
	if other, _, err := s.Snapshot(t.Context(), "b"); err != nil || other != (Snapshot{}) {
		t.Errorf("of another tenant: %+v, %v", other, err)
	}
}

// A pause that is told late takes nothing away.
func TestPauseIsAdded(t *testing.T) {
	s, _, _ := open(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	check := func(want Snapshot) {
		t.Helper()
		if got, _, err := s.Snapshot(t.Context(), "a"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	if err := s.Pause(t.Context(), "a", at); err != nil {
		t.Fatal(err)
	}
	check(Snapshot{PausedUntil: at})
	other := Snapshot{Granted: 7, Worker: "other", PausedUntil: at.Add(time.Minute)}
	if _, err := s.SetSnapshot(t.Context(), "a", other); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(t.Context(), "a", at.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	check(other)
	if err := s.Pause(t.Context(), "a", at.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	other.PausedUntil = at.Add(time.Hour)
	check(other)
	// Many at once: the latest wins.
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := s.Pause(t.Context(), "a", at.Add(time.Hour+time.Duration(i)*time.Second)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	other.PausedUntil = at.Add(time.Hour + 7*time.Second)
	check(other)
}

// The release counts by the server's clock, as does what it releases.
func TestReleaseIsDatedByTheServer(t *testing.T) {
	s, kv, _ := open(t)
	if err := s.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), "a.operator")
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.ReleasedAt(t.Context(), "a")
	if err != nil || !first.Equal(entry.Created()) {
		t.Errorf("released at %v, %v; stored at %v", first, err, entry.Created())
	}
	if err := s.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if second, err := s.ReleasedAt(t.Context(), "a"); err != nil || !second.After(first) {
		t.Errorf("second release at %v, %v", second, err)
	}
}

// answered makes a server store an answer under a key, which is the way that is
// open to any publisher, and waits for it.
func answered(t *testing.T, s *Store, kv jetstream.KeyValue, nc *nats.Conn, key string, request *nats.Msg) {
	t.Helper()
	before, err := s.bucket.Last(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	request.Reply = "$KV." + kv.Bucket() + "." + key
	if err := nc.PublishMsg(request); err != nil {
		t.Fatal(err)
	}
	for {
		now, err := s.bucket.Last(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if now.Sequence > before.Sequence {
			return
		}
	}
}

func pubAck(t *testing.T, s *Store, kv jetstream.KeyValue, nc *nats.Conn, key string) {
	t.Helper()
	answered(t, s, kv, nc, key, &nats.Msg{Subject: "$KV." + kv.Bucket() + ".none.x"})
}

// TestOnlyAReleaseReleases stores everything else that comes to mind.
func TestOnlyAReleaseReleases(t *testing.T) {
	s, kv, nc := open(t)
	check := func(what string, want time.Time) {
		t.Helper()
		if at, err := s.ReleasedAt(t.Context(), "a"); err != nil || !at.Equal(want) {
			t.Errorf("%s: released at %s, %v; want %s", what, at, err, want)
		}
	}
	forge := func(want time.Time) {
		t.Helper()
		for range 3 {
			pubAck(t, s, kv, nc, "a.operator")
			check("a PubAck", want)
		}
		for _, value := range []string{"", "true", "{}", `{"release":true} `, `{"release":true,"stream":"S","seq":1}`, `{"release":false}`, `{"stream":"S","seq":1}`} {
			if _, err := kv.PutString(t.Context(), "a.operator", value); err != nil {
				t.Fatal(err)
			}
			check(value, want)
		}
	}
	forge(time.Time{})
	if err := s.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), "a.operator")
	if err != nil {
		t.Fatal(err)
	}
	check("the release", entry.Created())
	forge(entry.Created())
	// The release itself, read again: it was told then, and not now.
	answered(t, s, kv, nc, "a.operator", &nats.Msg{Subject: "$JS.API.DIRECT.GET.KV_s", Data: fmt.Appendf(nil, `{"seq":%d}`, entry.Revision())})
	check("a copy of the release", entry.Created())
	if err := kv.Delete(t.Context(), "a.operator"); err != nil {
		t.Fatal(err)
	}
	check("a deletion", entry.Created())
}

// TestStateIsReadBelowForeignValues: what was handed on holds under whatever lies
// above it, and where it was pushed out the fuse counts as blown.
func TestStateIsReadBelowForeignValues(t *testing.T) {
	s, kv, nc := open(t)
	want := Snapshot{Worker: "host-1", FuseBlownAt: time.Now().UTC().Add(-time.Minute), Granted: 7}
	if _, err := s.SetSnapshot(t.Context(), "a", want); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		got, revision, err := s.Snapshot(t.Context(), "a")
		last, lastErr := s.bucket.Last(t.Context(), "a.worker")
		if err != nil || lastErr != nil || !reflect.DeepEqual(got, want) || revision != last.Sequence {
			t.Errorf("%s: %+v, %d, %v", what, got, revision, err)
		}
	}
	pubAck(t, s, kv, nc, "a.worker")
	check("a PubAck")
	if err := kv.Delete(t.Context(), "a.worker"); err != nil {
		t.Fatal(err)
	}
	check("a deletion")
	for range 13 {
		pubAck(t, s, kv, nc, "a.worker")
	}
	check("15 foreign values")
	pubAck(t, s, kv, nc, "a.worker")
	last, err := s.bucket.Last(t.Context(), "a.worker")
	if err != nil {
		t.Fatal(err)
	}
	want = Snapshot{FuseBlownAt: last.Time}
	check("a flood")
	// The pause takes nothing of that away.
	want.PausedUntil = time.Now().UTC().Add(time.Hour)
	if err := s.Pause(t.Context(), "a", want.PausedUntil); err != nil {
		t.Fatal(err)
	}
	check("a pause after a flood")
	pubAck(t, s, kv, nc, "a.worker")
	want.PausedUntil = want.PausedUntil.Add(time.Hour)
	if err := s.Pause(t.Context(), "a", want.PausedUntil); err != nil {
		t.Fatal(err)
	}
	check("a pause over a PubAck")
	// So does who takes everything away in a way that leaves a mark.
	if err := kv.Purge(t.Context(), "a.worker"); err != nil {
		t.Fatal(err)
	}
	last, err = s.bucket.Last(t.Context(), "a.worker")
	if err != nil {
		t.Fatal(err)
	}
	want = Snapshot{FuseBlownAt: last.Time}
	check("a purge")
}

func TestFormOfAWorkersState(t *testing.T) {
	stored := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]bool{
		`{"worker":"h"}`: true,
		`{"worker":""}`:  true,
		`{"granted":3,"worker":"h","pausedUntil":"2026-01-02T03:05:05Z"}`:       true,
		`{"worker":"h","hold":{"cause":"fuse","since":"2026-01-02T03:04:05Z"}}`: true,
		``:                              false,
		`null`:                          false,
		`{}`:                            false,
		`[]`:                            false,
		`"worker"`:                      false,
		`{"worker":null}`:               false,
		`{"worker":7}`:                  false,
		`{"granted":3}`:                 false,
		`{"stream":"S","seq":1}`:        false,
		`{"worker":"h","seq":1}`:        false,
		`{"worker":"h"}{"worker":"h"}`:  false,
		`{"worker":"h"} x`:              false,
		`{"worker":"h","granted":-1}`:   false,
		`{"worker":"h","granted":"x"}`:  false,
		`{"worker":"h","hold":{"x":1}}`: false,
		`{"worker":"h","fuseBlownAt":"9999-01-02T03:05:05Z"}`:                false,
		`{"worker":"h","pausedUntil":"9999-01-02T03:05:05Z"}`:                false,
		`{"worker":"h","servedAt":"9999-01-02T03:05:05Z"}`:                   false,
		`{"worker":"h","servedAt":"2026-01-02T03:04:00Z"}`:                   true,
		`{"worker":"h","hold":{"cause":"x","since":"0002-01-01T00:00:00Z"}}`: false,
	} {
		if _, got := decodeSnapshot(bucket.Revision{Time: stored, Value: []byte(value)}); got != want {
			t.Errorf("%s: %t", value, got)
		}
	}
	plain := []byte(`{"worker":"h","fuseBlownAt":"2027-01-01T00:00:00Z"}`)
	for name, want := range map[string]bool{jetstream.ExpectedLastSubjSeqHeader: true, "Nats-Sequence": false, "KV-Operation": false, "X": false, "": false} {
		if _, got := decodeSnapshot(bucket.Revision{Time: stored, Header: nats.Header{name: {"1"}}, Value: plain}); got != want {
			t.Errorf("with header %q: %t", name, got)
		}
	}
	// A release after it was stored must come after it blew.
	if w, _ := decodeSnapshot(bucket.Revision{Time: stored, Value: plain}); !w.FuseBlownAt.Equal(stored) {
		t.Errorf("blown at %s, stored at %s", w.FuseBlownAt, stored)
	}
	// Nobody vouches for the time to come.
	if w, _ := decodeSnapshot(bucket.Revision{Time: stored, Value: []byte(`{"worker":"h","servedAt":"2027-01-01T00:00:00Z"}`)}); !w.ServedAt.Equal(stored) {
		t.Errorf("served at %s, stored at %s", w.ServedAt, stored)
	}
	// A replica of an earlier version knows no such member.
	if value, err := json.Marshal(Snapshot{Worker: "h"}); err != nil || string(value) != `{"worker":"h"}` {
		t.Errorf("%s, %v", value, err)
	}
}

// FuzzDecodeWorker: what is taken for a state can be written, and is then read as
// the same.
func FuzzDecodeWorker(f *testing.F) {
	stored := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Add([]byte(`{"worker":"h","granted":1,"hold":{"cause":"c","since":"2026-01-02T03:04:05Z","detail":"d"}}`))
	f.Add([]byte(`{"stream":"S","seq":1}`))
	f.Add([]byte(`{"WORKER":"h","fuseBlownAt":"2026-01-02T03:04:05.5+01:00"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		w, ok := decodeSnapshot(bucket.Revision{Time: stored, Value: value})
		if !ok {
			return
		}
		again, err := json.Marshal(w)
		if err != nil {
			t.Fatalf("%q cannot be written again: %v", value, err)
		}
		got, ok := decodeSnapshot(bucket.Revision{Time: stored, Value: again})
		if !ok || got.Granted != w.Granted || got.Worker != w.Worker || !got.FuseBlownAt.Equal(w.FuseBlownAt) || !got.PausedUntil.Equal(w.PausedUntil) ||
			!got.ServedAt.Equal(w.ServedAt) || (got.Hold == nil) != (w.Hold == nil) {
			t.Errorf("%q: %+v is read again as %+v, %t", value, w, got, ok)
		}
	})
}

func TestMissingBucket(t *testing.T) {
	server, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), js, "none"); err == nil {
		t.Error("a bucket that is not there was opened")
	}
}
