package state

import (
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"passcode-worker/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T) (*Store, jetstream.KeyValue) {
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
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "s"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), js, "s")
	if err != nil {
		t.Fatal(err)
	}
	return s, kv
}

func TestNothingIsKnownAtFirst(t *testing.T) {
	s, _ := open(t)
	w, err := s.Worker(t.Context(), "a")
	if err != nil || w != (Worker{}) {
		t.Errorf("worker %+v, %v", w, err)
	}
	o, err := s.Operator(t.Context(), "a")
	if err != nil || !o.ReleasedAt.IsZero() {
		t.Errorf("operator %+v, %v", o, err)
	}
}

func TestWhatIsHandedOnIsRead(t *testing.T) {
	s, _ := open(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := Worker{
		PausedUntil: at, Granted: 60, FuseBlownAt: at.Add(time.Hour), Worker: "host-1",
		Hold: &Hold{Cause: "credentials", Since: at, Detail: "the secret has expired"},
	}
	if err := s.SetWorker(t.Context(), "a", want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Worker(t.Context(), "a")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if other, err := s.Worker(t.Context(), "b"); err != nil || other != (Worker{}) {
		t.Errorf("of another tenant: %+v, %v", other, err)
	}
}

// A pause that is told late takes nothing away.
func TestPauseIsAdded(t *testing.T) {
	s, _ := open(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	check := func(want Worker) {
		t.Helper()
		if got, err := s.Worker(t.Context(), "a"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	if err := s.Pause(t.Context(), "a", at); err != nil {
		t.Fatal(err)
	}
	check(Worker{PausedUntil: at})
	other := Worker{Granted: 7, Worker: "other", PausedUntil: at.Add(time.Minute)}
	if err := s.SetWorker(t.Context(), "a", other); err != nil {
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
	s, kv := open(t)
	if err := s.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), "a.operator")
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Operator(t.Context(), "a")
	if err != nil || !first.ReleasedAt.Equal(entry.Created()) {
		t.Errorf("released at %v, %v; stored at %v", first.ReleasedAt, err, entry.Created())
	}
	if err := s.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if second, err := s.Operator(t.Context(), "a"); err != nil || !second.ReleasedAt.After(first.ReleasedAt) {
		t.Errorf("second release at %v, %v", second.ReleasedAt, err)
	}
}

func TestGarbageIsNamed(t *testing.T) {
	s, kv := open(t)
	if _, err := kv.PutString(t.Context(), "a.worker", "{"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Worker(t.Context(), "a"); err == nil {
		t.Error("garbage was taken for a state")
	}
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
