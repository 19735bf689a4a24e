package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/backlog"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// garble has the server store PubAcks over the record of each id, whether there is
// one or not, and waits until they are stored.
func (r *rig) garble(ids ...string) {
	r.t.Helper()
	last := func() uint64 {
		s, err := r.js.Stream(context.Background(), "KV_"+r.names.Bucket)
		if err != nil {
			r.t.Fatal(err)
		}
		return s.CachedInfo().State.LastSeq
	}
	subject, before := "$KV."+r.names.Bucket+".", last()
	for _, id := range ids {
		if err := r.nc.PublishRequest(subject+"none.x", subject+"default."+id, nil); err != nil {
			r.t.Fatal(err)
		}
	}
	r.await("the PubAcks to be stored", func() bool { return last() >= before+uint64(2*len(ids)) })
}

// write writes the record of a request that was published as message seq, as a
// worker leaves it that is gone.
func (r *rig) write(id, device string, seq uint64, state record.State, change func(*record.Record)) {
	r.t.Helper()
	s, err := r.js.Stream(context.Background(), r.names.Stream)
	if err != nil {
		r.t.Fatal(err)
	}
	received := time.Now()
	if m, err := s.GetMsg(context.Background(), seq); err == nil {
		received = m.Time
	}
	rec := record.Record{ID: id, Tenant: "default", ManagedDeviceID: device, State: state, Attempts: 1, ReceivedAt: received.UTC(),
		AttemptedAt: received.UTC(), Stream: r.names.Stream, Sequence: seq, Worker: "gone", ClientRequestID: "c"}
	if change != nil {
		change(&rec)
	}
	value, err := json.Marshal(rec)
	if err != nil {
		r.t.Fatal(err)
	}
	kv, err := r.js.KeyValue(context.Background(), r.names.Bucket)
	if err == nil {
		_, err = kv.Put(context.Background(), "default."+id, value)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestThousandGarbledRecords has a publisher name the records of a thousand
// tickets to come as the subjects of its replies. A good request is done meanwhile,
// and the thousand end without a call when their time is over.
func TestThousandGarbledRecords(t *testing.T) {
	t.Parallel()
	const n = 1000
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Policy.MaxAge = 30 * time.Second })
	r.start()
	for i := range n {
		m := &nats.Msg{Subject: r.names.Filter(), Reply: fmt.Sprint("$KV.", r.names.Bucket, ".default.INC", i), Data: []byte("no request")}
		if err := r.nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := r.js.PublishMsgAsync(&nats.Msg{Subject: r.names.Filter(), Data: []byte(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)))}); err != nil {
			t.Fatal(err)
		}
	}
	<-r.js.PublishAsyncComplete()
	r.publish(reset("GOOD", graphsim.GoodDevice(n)), nil)
	r.awaitState("GOOD", record.Accepted)
	// It has not waited for the end of the others, however slow the machine is.
	if waiting := r.waiting(); waiting < backlog.Most/2 {
		t.Errorf("the good request was done when only %d still waited", waiting)
	}
	r.awaitEmpty()
	reasons := map[string]int{}
	for _, m := range r.letters() {
		reasons[m.Header.Get(deadletter.HeaderReason)]++
	}
	if reasons["outcome_unknown"] != n || reasons["invalid_request"] != n || len(reasons) != 2 {
		t.Errorf("dead letters: %v", reasons)
	}
	if s := r.sim.Status(); s.Posts != 1 || s.Executed != 1 {
		t.Errorf("%d calls, %d resets", s.Posts, s.Executed)
	}
	if rec := r.record("INC0"); rec.State != record.Dead || rec.Reason != "outcome_unknown" || rec.Attempts != 0 || !strings.Contains(rec.Detail, "overwritten") {
		t.Errorf("%+v", rec)
	}
}

// states are what a record can say that was written for a request's own message,
// and what then becomes of the request: was it looked up, called.
var garbledStates = map[record.State]struct {
	change      func(*record.Record)
	looks, call bool
	ends        record.State
}{
	// Nobody knows what became of the call; the device was not reset.
	record.Attempting: {looks: true, call: true, ends: record.Accepted},
	record.Verifying:  {func(r *record.Record) { r.NextAt, r.UnknownSince = r.AttemptedAt, r.AttemptedAt }, true, true, record.Accepted},
	record.Retrying:   {func(r *record.Record) { r.NextAt, r.Status = r.AttemptedAt, 503 }, false, true, record.Accepted},
	record.Accepted:   {func(r *record.Record) { r.FinishedAt, r.Status = r.AttemptedAt, 204 }, false, false, record.Accepted},
	record.Dead:       {func(r *record.Record) { r.FinishedAt, r.Reason = r.AttemptedAt, "not_found" }, false, false, record.Dead},
}

// checkState looks at what became of the request whose record said so.
func (r *rig) checkState(s record.State, id, device string) {
	r.t.Helper()
	want := garbledStates[s]
	posts, gets := 0, 0
	for _, c := range r.sim.Calls() {
		switch {
		case !strings.Contains(c.Path, device):
		case c.Method == "POST":
			posts++
		default:
			gets++
		}
	}
	store, err := record.Open(context.Background(), r.js, r.names.Bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	rec, _, err := store.Get(context.Background(), "default."+id)
	if err != nil || rec.State != want.ends || (posts == 1) != want.call || posts > 1 || (gets > 0) != want.looks {
		r.t.Errorf("%s: %d calls, %d looks, %v, %+v", s, posts, gets, err, rec)
	}
}

// TestPubAckOverEachState stores PubAcks over a record in each of its states before
// the request is delivered: it goes on as if they were not there.
func TestPubAckOverEachState(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	devices := map[record.State]string{}
	for s, c := range garbledStates {
		id := "INC-" + string(s)
		devices[s] = graphsim.GoodDevice(len(devices))
		r.write(id, devices[s], r.publish(reset(id, devices[s]), nil), s, c.change)
		r.garble(id, id, id)
	}
	// Half of the history is left to the record at most.
	r.start()
	r.awaitEmpty()
	for s, device := range devices {
		r.checkState(s, "INC-"+string(s), device)
	}
	if n := len(r.letters()); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// TestRepairedRecord has requests wait because nothing that their keys hold is a
// record. It is written again, in each state, or the key deleted: they go on.
func TestRepairedRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	devices, sequences := map[record.State]string{}, map[record.State]uint64{}
	for s := range garbledStates {
		devices[s] = graphsim.GoodDevice(len(devices))
	}
	devices[record.None] = graphsim.GoodDevice(len(devices))
	for s, device := range devices {
		r.garble("INC-" + string(s))
		sequences[s] = r.publish(reset("INC-"+string(s), device), nil)
	}
	r.await("all to wait", func() bool {
		return strings.Count(r.log.String(), "waits until its record is repaired") == len(devices)
	})
	if s := r.sim.Status(); s.Posts+s.Gets != 0 {
		t.Errorf("%d calls, %d looks", s.Posts, s.Gets)
	}
	for s, c := range garbledStates {
		r.write("INC-"+string(s), devices[s], sequences[s], s, c.change)
	}
	kv, err := r.js.KeyValue(t.Context(), r.names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(t.Context(), "default.INC-"); err != nil {
		t.Fatal(err)
	}
	// Each is read again after a minute.
	for deadline := time.Now().Add(2 * testTime); r.waiting() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d still wait", r.waiting())
		}
		select {
		case <-t.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	for s := range garbledStates {
		r.checkState(s, "INC-"+string(s), devices[s])
	}
	if rec := r.record("INC-"); rec.State != record.Accepted || r.sim.Resets(devices[record.None]) != 1 {
		t.Errorf("the deleted one: %+v", rec)
	}
	if n := len(r.letters()); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// TestGarbledAfterLetter: the letter is stored, and before the record can say so,
// nothing is left of the record. The request has ended, for the reason of its letter.
func TestGarbledAfterLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	w := newWire(r)
	r.start()
	r.publish(reset("good", graphsim.GoodDevice(1)), nil)
	r.awaitEmpty()
	hit := w.set(before, func(m said) bool { return write(`"state":"dead"`)(r.names, m) })
	seq := r.publish(reset("INC1", graphsim.FaultDevice(409, 0, 0, 1)), nil)
	<-hit
	r.garble(slices.Repeat([]string{"INC1"}, 16)...)
	r.awaitEmpty()
	letters := r.letters()
	if letter := letters[fmt.Sprint(seq)]; len(letters) != 1 || letter == nil || letter.Header.Get(deadletter.HeaderReason) != "conflict" {
		t.Errorf("%d letters, this one's %+v", len(letters), letter)
	}
	if n := r.metric(`dead_letters_total{reason="conflict",tenant="default"}`); n != 1 {
		t.Errorf("%v letters are counted", n)
	}
	if strings.Contains(r.log.String(), "panic") {
		t.Error("it panicked")
	}
}
