package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/request/requesttest"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// TestVerdicts sends one request per row of the verdict table.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	type want struct {
		state    record.State
		reason   verdict.Reason
		resets   int
		attempts int
		verified bool
	}
	type row struct {
		name, device string
		want         want
	}
	rows := []*row{}
	for i, cells := range documentRows(t, "../../docs/verdicts.md", "Seen from outside") {
		r := &row{name: cells[0], device: graphsim.GoodDevice(i + 1)}
		if cells[1] != "none" {
			var code, times, variant int
			if _, err := fmt.Sscanf(cells[1], "%d, %d, %d", &code, &times, &variant); err != nil {
				t.Fatalf("%q: %v", cells[1], err)
			}
			r.device = graphsim.FaultDevice(code, times, variant, i)
		}
		state, reason, _ := strings.Cut(cells[2], ": ")
		r.want = want{state: record.State(state), reason: verdict.Reason(reason), verified: cells[5] == "yes"}
		if _, err := fmt.Sscan(cells[3]+" "+cells[4], &r.want.resets, &r.want.attempts); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	if len(rows) < 25 {
		t.Fatalf("only %d rows", len(rows))
	}
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	// Graph must have accepted something: else a 403 might be everybody's.
	r.publish(reset("first", graphsim.GoodDevice(0)), nil)
	r.awaitState("first", record.Accepted)

	devices := map[string]string{}
	sequences := map[string]uint64{}
	for i, row := range rows {
		devices[row.name] = row.device
		sequences[row.name] = r.publish(reset(fmt.Sprintf("r%d", i), devices[row.name]), nil)
	}
	r.awaitEmpty()
	letters := r.letters()
	for i, row := range rows {
		rec := r.record(fmt.Sprintf("r%d", i))
		got := want{rec.State, verdict.Reason(rec.Reason), r.sim.Resets(devices[row.name]), rec.Attempts, rec.Verified}
		if row.want.reason == verdict.ReasonAttemptsExhausted {
			// So many unknown outcomes in a row are taken for an outage.
			got.attempts -= rec.HeldAttempts
		}
		if got != row.want {
			t.Errorf("%s: got %+v, want %+v (%s)", row.name, got, row.want, rec.Detail)
		}
		letter := letters[strconv.FormatUint(sequences[row.name], 10)]
		if (letter != nil) != (row.want.state == record.Dead) {
			t.Errorf("%s: a dead letter: %v", row.name, letter != nil)
		}
		if letter != nil && letter.Header.Get(deadletter.HeaderReason) != string(row.want.reason) {
			t.Errorf("%s: headers %v", row.name, letter.Header)
		}
	}
	pauses := r.pauses()
	var told time.Time // when Graph asked for a pause last
	for _, c := range r.sim.Calls() {
		if c.SentDuringRetryAfter && !sentBefore(c.Time, told, pauses) {
			t.Errorf("a call inside an announced Retry-After: %+v, asked for at %s, pauses %+v", c, told, pauses)
		}
		if c.Status == http.StatusTooManyRequests || c.Status == http.StatusServiceUnavailable {
			told = c.Time
		}
	}
	if v := r.sim.Violations(); len(v) > 0 {
		t.Errorf("violations: %v", v)
	}
}

// pauses are the instants at which the worker has logged one.
func (r *rig) pauses() (logged []time.Time) {
	for line := range strings.Lines(r.log.String()) {
		var l struct {
			Msg string
			TS  float64
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "pause" {
			logged = append(logged, time.UnixMicro(int64(l.TS*1e6)))
		}
	}
	return logged
}

// sentBefore reports whether a call that Graph saw although it had asked for a pause before
// was sent before the worker had read that: at most a little after it logged the pause.
func sentBefore(at, told time.Time, pauses []time.Time) bool {
	const little = 50 * time.Millisecond
	for _, p := range pauses {
		if !p.Before(told) {
			return at.Before(p.Add(little))
		}
	}
	return false
}

// documentRows are the cells of the table under a heading of a document.
func documentRows(t *testing.T, path, heading string) (rows [][]string) {
	t.Helper()
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("no section %q in %s", heading, path)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows[min(1, len(rows)):] // the first is the head
}

// TestExpired covers both deadlines, and that neither makes a call.
func TestExpired(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Policy.MaxAge = 300 * time.Millisecond })
	// Published before there is a worker, so that it is too old when one comes.
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	old := graphsim.GoodDevice(1)
	r.publish(reset("old", old), nil)
	<-time.After(400 * time.Millisecond)
	r.start()
	past := graphsim.GoodDevice(2)
	r.publish(fmt.Sprintf(`{"id":"past","managedDeviceId":%q,"notAfter":"2020-01-01T00:00:00Z"}`, past), nil)
	for _, id := range []string{"old", "past"} {
		rec := r.awaitState(id, record.Dead)
		if rec.Reason != string(verdict.ReasonExpired) || rec.Attempts != 0 || !rec.AttemptedAt.IsZero() {
			t.Errorf("%s: %+v", id, rec)
		}
	}
	r.awaitEmpty()
	if calls := r.sim.Calls(); len(calls) > 0 {
		t.Errorf("calls were made: %+v", calls)
	}
}

// TestHostile publishes every hostile payload there is: each becomes a dead
// letter with its bytes untouched, and nothing of it gets out unescaped.
func TestHostile(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	payloads := requesttest.Hostile()
	if len(payloads) < 60 {
		t.Fatalf("only %d payloads", len(payloads))
	}
	sequences := map[uint64]requesttest.Payload{}
	for _, p := range payloads {
		ack, err := r.js.PublishMsg(t.Context(), &nats.Msg{Subject: r.names.Filter(), Data: p.Data, Header: p.Header})
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		sequences[ack.Sequence] = p
	}
	good := graphsim.GoodDevice(1)
	r.publish(reset("after", good), nil)
	r.awaitState("after", record.Accepted)
	r.awaitEmpty()
	letters := r.letters()
	for seq, p := range sequences {
		letter := letters[strconv.FormatUint(seq, 10)]
		if letter == nil {
			t.Errorf("%s: no dead letter", p.Name)
			continue
		}
		if !bytes.Equal(letter.Data, p.Data) {
			t.Errorf("%s: the dead letter is not what was published", p.Name)
		}
		detail := letter.Header.Get(deadletter.HeaderDetail)
		if letter.Header.Get(deadletter.HeaderReason) != string(verdict.ReasonInvalidRequest) || !strings.HasPrefix(detail, p.Field+":") {
			t.Errorf("%s: %v", p.Name, letter.Header)
		}
	}
	if n := r.metric(`dead_letters_total{reason="invalid_request",tenant="default"}`); int(n) != len(payloads) {
		t.Errorf("counted %v invalid requests, published %d", n, len(payloads))
	}
	if calls := r.sim.Calls(); len(calls) != 1 {
		t.Errorf("%d calls were made", len(calls))
	}
	for i, line := range strings.Split(strings.TrimSpace(r.log.String()), "\n") {
		if !strings.HasPrefix(line, "{") || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
			t.Fatalf("log line %d is broken up: %q", i, line)
		}
	}
}

// TestDuplicates publishes one id often, at once and later.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 50 * time.Millisecond}, nil)
	var naks atomic.Int64
	if _, err := r.nc.Subscribe("$JS.ACK.>", func(m *nats.Msg) {
		if bytes.HasPrefix(m.Data, []byte("-NAK")) {
			naks.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	r.start()
	dev := graphsim.GoodDevice(1)
	for range 20 {
		r.publish(reset("same", dev), nil)
	}
	r.awaitEmpty()
	// Each of 19 is sent away about once, not all of them until each had its turn.
	if n := naks.Load(); n == 0 || n > 60 {
		t.Errorf("20 messages were sent away %d times", n)
	}
	r.publish(reset("same", dev), nil) // after its end
	r.awaitEmpty()
	if got := r.sim.Resets(dev); got != 1 {
		t.Errorf("reset %d times", got)
	}
	if a, d := r.metric(`requests_total{outcome="accepted",tenant="default"}`), r.metric(`requests_total{outcome="duplicate",tenant="default"}`); a != 1 || d != 20 {
		t.Errorf("accepted %v, duplicates %v", a, d)
	}

	// A dead id is attempted anew by a new message.
	bad := graphsim.FaultDevice(404, 1, 0, 7)
	r.publish(reset("again", bad), nil)
	r.awaitState("again", record.Dead)
	r.awaitEmpty()
	r.publish(reset("again", bad), nil)
	rec := r.awaitState("again", record.Accepted)
	if rec.Attempts != 1 || rec.Sequence == 0 || r.sim.Resets(bad) != 1 {
		t.Errorf("record %+v, resets %d", rec, r.sim.Resets(bad))
	}
}

// TestInvalidKeepsGoodRecord: a broken request under the id of a good one
// becomes a dead letter, and the good one's record stays.
func TestInvalidKeepsGoodRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	dev := graphsim.GoodDevice(1)
	r.publish(reset("INC1", dev), nil)
	r.awaitState("INC1", record.Accepted)
	seq := r.publish(`{"id":"INC1","managedDeviceId":"x"}`, nil)
	r.awaitEmpty()
	if r.letters()[strconv.FormatUint(seq, 10)] == nil {
		t.Error("no dead letter")
	}
	if rec := r.record("INC1"); rec.State != record.Accepted {
		t.Errorf("record: %+v", rec)
	}
}

// TestFallbackIDAfterNewStream: a stream made anew begins its sequences anew.
// Requests without an id must not be taken for those of the old stream.
func TestFallbackIDAfterNewStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	first, second := graphsim.GoodDevice(1), graphsim.GoodDevice(2)
	r.publish(fmt.Sprintf(`{"managedDeviceId":%q}`, first), nil)
	r.await("the first reset", func() bool { return r.sim.Resets(first) == 1 })
	r.awaitEmpty()
	if err := r.js.DeleteStream(t.Context(), r.names.Stream); err != nil {
		t.Fatal(err)
	}
	r.await("the stream to be made again", func() bool {
		_, err := r.js.Consumer(t.Context(), r.names.Stream, r.names.Consumer())
		return err == nil
	})
	if seq := r.publish(fmt.Sprintf(`{"managedDeviceId":%q}`, second), nil); seq != 1 {
		t.Fatalf("sequence %d", seq)
	}
	r.await("the second reset", func() bool { return r.sim.Resets(second) == 1 })
	r.awaitEmpty()
	if rec := r.record("PASSCODE_RESETS-1"); rec.State != record.Accepted || rec.ManagedDeviceID != second {
		t.Errorf("record: %+v", rec)
	}
}

// TestOutcomeUnknown: where the outcome may not be read, a person has to look,
// and a later message with the same id does not reset the device either.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Roles: []string{graphsim.RoleReset}}, nil)
	r.start()
	dev := graphsim.FaultDevice(602, 1, 0, 1) // executed, reply lost
	r.publish(reset("INC1", dev), nil)
	rec := r.awaitState("INC1", record.Dead)
	if rec.Reason != string(verdict.ReasonOutcomeUnknown) || rec.AttemptedAt.IsZero() {
		t.Errorf("record: %+v", rec)
	}
	r.awaitEmpty()
	for range 2 {
		r.publish(reset("INC1", dev), nil)
		r.awaitEmpty()
	}
	if got := r.sim.Resets(dev); got != 1 {
		t.Errorf("reset %d times", got)
	}
	if rec := r.record("INC1"); rec.Reason != string(verdict.ReasonOutcomeUnknown) || rec.AttemptedAt.IsZero() {
		t.Errorf("record: %+v", rec)
	}
	if len(r.letters()) != 3 {
		t.Errorf("%d dead letters", len(r.letters()))
	}
}

// TestOutcomeUnknownRetry: the operator may choose otherwise.
func TestOutcomeUnknownRetry(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Roles: []string{graphsim.RoleReset}}, func(c *Config) { c.Policy.OnUnknown = verdict.UnknownRetry })
	r.start()
	dev := graphsim.FaultDevice(601, 1, 0, 1)
	r.publish(reset("INC1", dev), nil)
	if rec := r.awaitState("INC1", record.Accepted); rec.Attempts != 2 || rec.Verified {
		t.Errorf("record: %+v", rec)
	}
}

// TestIDs: where the id comes from, and how it stands in the key.
func TestIDs(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	id := "REQ/1 é*.>"
	dev := graphsim.GoodDevice(1)
	r.publish(fmt.Sprintf(`{"id":%q,"managedDeviceId":%q,"requestedBy":"Jo","reason":"lost it"}`, id, strings.ToUpper(dev)), nil)
	rec := r.awaitState(request.EscapeID(id), record.Accepted)
	if rec.ID != id || rec.ManagedDeviceID != dev || rec.RequestedBy != "Jo" || rec.RequestReason != "lost it" {
		t.Errorf("record: %+v", rec)
	}
	r.publish(fmt.Sprintf(`{"managedDeviceId":%q}`, graphsim.GoodDevice(2)), nats.Header{"Nats-Msg-Id": {"T-2"}})
	r.awaitState("T-2", record.Accepted)
}
