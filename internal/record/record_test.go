package record

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// A NATS server that is stopped while it opens a stream leaves the stream's
	// store behind, and the clock of all stores with it.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

func TestCanBecome(t *testing.T) {
	t.Parallel()
	states := []State{None, Attempting, Retrying, Verifying, Accepted, Dead}
	// The contract says what may follow what. Beyond it a state may follow
	// itself where a detail changes; a record may begin with the end of an
	// attempt, where it was lost meanwhile; what another worker took for lost
	// may yet be seen refused; a new message leads out of dead.
	allowed := map[State]string{
		None:       "attempting accepted retrying verifying dead",
		Attempting: "attempting accepted retrying verifying dead",
		Retrying:   "attempting accepted retrying verifying dead",
		Verifying:  "attempting accepted retrying verifying dead",
		Dead:       "attempting accepted retrying dead",
		Accepted:   "",
	}
	for _, from := range states {
		for _, to := range states {
			want := to != None && strings.Contains(" "+allowed[from]+" ", " "+string(to)+" ")
			if got := from.CanBecome(to); got != want {
				t.Errorf("%q.CanBecome(%q) = %v, want %v", from, to, got, want)
			}
		}
	}
	if State("else").CanBecome(Attempting) || Attempting.CanBecome("else") {
		t.Error("an unknown state can follow or be followed")
	}
}

// A record remembers the last messages of its id that died, and knows them again
// on the same stream only.
func TestEnded(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	message := func(n uint64) Record {
		return Record{Stream: "S", Sequence: n, ReceivedAt: at.Add(time.Duration(n) * time.Second)}
	}
	var r Record
	for n := uint64(1); n <= 20; n++ {
		ended := r.Ended
		r = message(n)
		r.Ended = ended
		r.End()
		r.End() // written again
	}
	if len(r.Ended) != MaxEnded || r.Ended[0] != 5 || r.Ended[MaxEnded-1] != 20 {
		t.Errorf("ended: %v", r.Ended)
	}
	late, anew, elsewhere := message(7), message(7), message(7)
	anew.ReceivedAt, elsewhere.Stream = at.Add(time.Hour), "T"
	for name, c := range map[string]struct {
		r    Record
		want bool
	}{
		"an earlier one": {late, true}, "the last one": {message(20), true}, "a later one": {message(21), false}, "too long ago": {message(3), false},
		"of a stream that was made anew": {anew, false}, "of another stream": {elsewhere, false},
	} {
		if got := r.HasEnded(c.r); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	before := Record{Sequence: 2, Ended: make([]uint64, 1, 8)}
	after := before
	after.End()
	if len(before.Ended) != 1 || before.Ended[:2][1] != 0 {
		t.Error("the list that was before is written to")
	}
}

func TestInProgress(t *testing.T) {
	t.Parallel()
	for state, want := range map[State]bool{
		None: false, Attempting: true, Retrying: true, Verifying: true, Accepted: false, Dead: false,
	} {
		if got := state.InProgress(); got != want {
			t.Errorf("%q.InProgress() = %v, want %v", state, got, want)
		}
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 8, 0, 0, 1, time.UTC)
	r := Record{ID: "a", Stream: "S", Sequence: 7, ReceivedAt: at}
	for name, c := range map[string]struct {
		other Record
		want  bool
	}{
		"the same message":          {Record{ID: "b", State: Dead, Stream: "S", Sequence: 7, ReceivedAt: at}, true},
		"in another time zone":      {Record{Stream: "S", Sequence: 7, ReceivedAt: at.In(time.FixedZone("", 3600))}, true},
		"another sequence":          {Record{Stream: "S", Sequence: 8, ReceivedAt: at}, false},
		"another stream":            {Record{Stream: "T", Sequence: 7, ReceivedAt: at}, false},
		"a stream made anew":        {Record{Stream: "S", Sequence: 7, ReceivedAt: at.Add(1)}, false},
		"nothing is no message":     {Record{}, false},
		"read back from the bucket": {readBack(t, r), true},
	} {
		if got := r.Same(c.other); got != c.want {
			t.Errorf("%s: Same = %v, want %v", name, got, c.want)
		}
	}
}

func readBack(t *testing.T, r Record) Record {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var out Record
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestKey(t *testing.T) {
	t.Parallel()
	if got := Key("default", "INC=2F1"); got != "default.INC=2F1" {
		t.Errorf("Key = %q", got)
	}
}

// full is the record of the golden file: every field has a value.
func full() Record {
	at := func(s int) time.Time { return time.Date(2026, 11, 22, 8, 0, s, 0, time.UTC) }
	return Record{
		ID: "INC0012345", Tenant: "default", ManagedDeviceID: "2e6f8c1a-3b4d-4e5f-8a9b-0c1d2e3f4a5b",
		State: Dead, Attempts: 3, HeldAttempts: 2, Burying: true, Panics: 1,
		ReceivedAt: at(0).Add(1), AttemptedAt: at(1), UnknownSince: at(1), AbsentSince: at(1).Add(time.Second / 2), Refusal: "conflict",
		NextAt: at(2), FinishedAt: at(3),
		Stream: "PASSCODE_RESETS", Sequence: 42, Ended: []uint64{40, 42}, Redrives: 1, Worker: "host-1",
		ClientRequestID: "c5f1a0f2-0000-4000-8000-000000000001", GraphRequestID: "c5f1a0f2-0000-4000-8000-000000000002",
		Status: 404, Reason: "not_found", Detail: "the device is gone", Verified: true, Followed: true,
		RequestedBy: "help desk", RequestReason: "forgotten",
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
}

// TestJSON holds the form of a record, which others read.
func TestJSON(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile("testdata/record.golden.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(full(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(golden), got) {
		t.Errorf("a record is written as\n%s\nwant\n%s", got, golden)
	}
	v := reflect.ValueOf(full())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("the golden record has no %s", v.Type().Field(i).Name)
		}
	}
	if got := readBack(t, full()); !reflect.DeepEqual(got, full()) {
		t.Errorf("read back: %+v, want %+v", got, full())
	}
}

// TestJSONContract compares with the record as the contract shows it.
func TestJSONContract(t *testing.T) {
	t.Parallel()
	const contract = `{"id":"INC0012345","tenant":"default","managedDeviceId":"…","state":"attempting","attempts":1,
 "receivedAt":"2026-11-22T08:00:00Z","attemptedAt":"2026-11-22T08:00:00Z","finishedAt":"2026-11-22T08:00:00Z","stream":"PASSCODE_RESETS","sequence":42,
 "worker":"host-1","clientRequestId":"…","graphRequestId":"…","status":204,
 "reason":"","detail":"","verified":false,"requestedBy":"…","traceparent":"…"}`
	var r Record
	strict := json.NewDecoder(strings.NewReader(contract))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&r); err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := json.Unmarshal([]byte(contract), &want); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	// Fields beyond the contract are absent where they say nothing.
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestJSONZeroTimesAbsent(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(Record{ReceivedAt: time.Unix(1, 0).UTC()})
	if err != nil {
		t.Fatal(err)
	}
	for _, absent := range []string{"attemptedAt", "nextAt", "finishedAt", "0001-01-01", "heldAttempts", "burying", "panics", "requestReason"} {
		if strings.Contains(string(b), absent) {
			t.Errorf("%s is in %s", absent, b)
		}
	}
	for _, present := range []string{"receivedAt", "attempts", "status", "verified", "reason", "detail"} {
		if !strings.Contains(string(b), `"`+present+`":`) {
			t.Errorf("%s is not in %s", present, b)
		}
	}
}
