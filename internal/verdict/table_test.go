package verdict

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/record"
)

// table is one table of docs/verdicts.md, whose last columns are what follows.
type table struct {
	columns []string // of conditions
	rows    []*row
}

type row struct {
	when map[string][]string // by column; a column that plays no part is absent
	then []string
	used bool
}

// readTable reads the table under a heading. The last n columns are what follows.
func readTable(t *testing.T, heading string, n int) table {
	t.Helper()
	doc, err := os.ReadFile("../../docs/verdicts.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var out table
	var header []string
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if header == nil {
			header = cells
			out.columns = header[:len(header)-n]
			continue
		}
		if len(cells) != len(header) {
			t.Fatalf("%d cells instead of %d: %s", len(cells), len(header), line)
		}
		r := &row{when: map[string][]string{}, then: cells[len(cells)-n:]}
		for i, c := range out.columns {
			if cells[i] != "" {
				r.when[c] = strings.Split(cells[i], ", ")
			}
		}
		out.rows = append(out.rows, r)
	}
	if len(out.rows) == 0 {
		t.Fatalf("no table under %q", heading)
	}
	return out
}

// match finds the one row for a combination of facts.
func (tb table) match(t *testing.T, facts map[string]string) *row {
	t.Helper()
	var found *row
	for _, r := range tb.rows {
		fits := true
		for column, values := range r.when {
			fits = fits && slices.Contains(values, facts[column])
		}
		if !fits {
			continue
		}
		if found != nil {
			t.Fatalf("%v: two rows: %v -> %v and %v -> %v", facts, found.when, found.then, r.when, r.then)
		}
		found = r
	}
	if found == nil {
		t.Fatalf("%v: no row", facts)
	}
	found.used = true
	return found
}

// each calls f for every combination of the values that the columns may have, and
// fails for a row that none of them has met.
func (tb table) each(t *testing.T, values map[string][]string, f func(facts map[string]string)) {
	t.Helper()
	for _, r := range tb.rows {
		for column, words := range r.when {
			for _, w := range words {
				if !slices.Contains(values[column], w) {
					t.Fatalf("the document says %q in column %q; known: %v", w, column, values[column])
				}
			}
		}
	}
	var next func(i int, facts map[string]string)
	next = func(i int, facts map[string]string) {
		if i == len(tb.columns) {
			f(facts)
			return
		}
		for _, v := range values[tb.columns[i]] {
			facts[tb.columns[i]] = v
			next(i+1, facts)
		}
	}
	next(0, map[string]string{})
	for _, r := range tb.rows {
		if !r.used {
			t.Errorf("no combination of facts meets %v -> %v", r.when, r.then)
		}
	}
}

var now = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

// policy has waits that can be told from each other.
var policy = Policy{RequestTimeout: 3 * time.Second, MaxAttempts: 4, BackoffMin: 17 * time.Second, BackoffMax: 17 * time.Second,
	VerifyAfter: 29 * time.Second, MaxAge: time.Hour}

// TestDeliveryTable holds Next to the document.
func TestDeliveryTable(t *testing.T) {
	t.Parallel()
	tb := readTable(t, "A delivery", 1)
	steps := map[string]Step{
		"bury: outcome_unknown, without a call": StepGiveUp, "wait for its repair": StepAwaitRepair, "bury: expired": StepExpire,
		"attempt": StepAttempt, "acknowledge": StepAck, "acknowledge: duplicate": StepDuplicate, "wait for the other": StepWaitForOther,
		"mark the call's outcome unknown": StepOrphan, "bury: go on": StepBury, "wait": StepWait, "look": StepLook,
	}
	self := record.Record{Stream: "S", Sequence: 7, ReceivedAt: now.Add(-time.Hour)}
	// Where the numbers and the instants of two messages are in one order, it is one
	// stream, and the number names the message.
	origins := map[string][]record.Record{
		"same": {{Stream: "S", Sequence: 7, ReceivedAt: self.ReceivedAt.In(time.FixedZone("", 3600)), Ended: []uint64{1}}},
		"other": {
			{Stream: "S", Sequence: 8, ReceivedAt: self.ReceivedAt.Add(time.Second)},
			{Stream: "S", Sequence: 6, ReceivedAt: self.ReceivedAt.Add(-time.Second), Ended: []uint64{6, 8}},
			{Stream: "T", Sequence: 7, ReceivedAt: self.ReceivedAt, Ended: []uint64{7}},
			{Stream: "S", Sequence: 7, ReceivedAt: self.ReceivedAt.Add(1), Ended: []uint64{7}},
			{Stream: "S", Sequence: 8, ReceivedAt: self.ReceivedAt.Add(-time.Second), Ended: []uint64{7, 8}},
		},
		"ended": {
			{Stream: "S", Sequence: 8, ReceivedAt: self.ReceivedAt.Add(time.Second), Ended: []uint64{7}},
			{Stream: "S", Sequence: 6, ReceivedAt: self.ReceivedAt.Add(-time.Second), Ended: []uint64{1, 7, 9}},
		},
	}
	values := map[string][]string{
		"record":  {"garbled", "none", "attempting", "retrying", "verifying", "being buried", "accepted", "dead"},
		"message": {"same", "other", "ended"}, "id": {"given", "made"}, "calls": {"answered", "unknown"},
		"next": {"due", "later"}, "time": {"open", "over"},
	}
	tb.each(t, values, func(facts map[string]string) {
		for _, r := range origins[facts["message"]] {
			for _, next := range map[string][]time.Duration{"due": {-time.Hour, -1, 0}, "later": {1, time.Second, 10 * time.Second, 10 * time.Minute}}[facts["next"]] {
				for _, state := range states(facts["record"]) {
					d := Delivery{Self: self, IDGiven: facts["id"] == "given", Now: now, Expires: now.Add(time.Hour)}
					if facts["time"] == "over" {
						d.Expires = now.Add(-1)
					}
					r := r
					r.State, r.Burying, r.NextAt = state, facts["record"] == "being buried", now.Add(next)
					if facts["calls"] == "unknown" {
						r.UnknownSince = now.Add(-time.Minute)
					}
					if state == record.None {
						r = record.Record{}
					}
					d.Record, d.Garbled = r, facts["record"] == "garbled"
					want := tb.match(t, facts).then[0]
					got := Next(d)
					if steps[want] == 0 || got.Step != steps[want] {
						t.Fatalf("%v, %+v: step %d, want %q", facts, r, got.Step, want)
					}
					until := time.Time{}
					switch got.Step {
					case StepWait:
						until = r.NextAt
					case StepAwaitRepair:
						until = now.Add(repairWait)
					case StepWaitForOther: // half a second after that one's turn, within bounds
						until = now.Add(min(max(next+otherMin/2, otherMin), otherMax))
					}
					if !got.Until.Equal(until) {
						t.Fatalf("%v, %+v: until %s, want %s", facts, r, got.Until, until)
					}
				}
			}
		}
	})
}

// states are those in which a record may be that is called so.
func states(name string) []record.State {
	switch name {
	case "garbled", "none":
		return []record.State{record.None}
	case "being buried":
		return []record.State{record.Attempting, record.Retrying, record.Verifying}
	}
	return []record.State{record.State(name)}
}

// TestNextOddities holds what the table does not tell.
func TestNextOddities(t *testing.T) {
	t.Parallel()
	self := record.Record{Stream: "S", Sequence: 7, ReceivedAt: now.Add(-time.Hour)}
	// What died before records knew since when a call was unknown is looked at all
	// the same; what died without a call is not.
	for reason, want := range map[Reason]Step{ReasonOutcomeUnknown: StepLook, ReasonUndeliverable: StepLook, ReasonForbidden: StepAttempt} {
		r := record.Record{Stream: "S", Sequence: 6, State: record.Dead, Reason: string(reason), AttemptedAt: now.Add(-time.Minute)}
		if got := Next(Delivery{Record: r, Self: self, IDGiven: true, Now: now}); got.Step != want {
			t.Errorf("dead of %s: %+v", reason, got)
		}
		r.AttemptedAt = time.Time{}
		if got := Next(Delivery{Record: r, Self: self, IDGiven: true, Now: now}); got.Step != StepAttempt {
			t.Errorf("dead of %s without a call: %+v", reason, got)
		}
	}
	// A garbled record is not waited for longer than the request's time lasts.
	at := now.Add(time.Second)
	if got := Next(Delivery{Self: self, Garbled: true, Expires: at, Now: now}); got != (Plan{StepAwaitRepair, at}) {
		t.Errorf("garbled, with a second left: %+v", got)
	}
}

// Waits that can be told from each other.
const (
	paused    = 7 * time.Second
	longPause = 23 * time.Second
	probe     = 11 * time.Second
	refused   = "why it was refused"
)

// describe says in the document's words what a verdict does.
func describe(v Verdict) string {
	switch v.Do {
	case DoAck:
		return "accepted"
	case DoBury:
		return "bury: " + v.Record.Reason
	case DoAgain:
		return "at once"
	case DoCall:
		return "attempt at once"
	case DoNak:
		return fmt.Sprint("in ", v.Until.Sub(now))
	}
	return "nothing"
}

// TestCallTable holds OfCall to the document.
func TestCallTable(t *testing.T) {
	t.Parallel()
	tb := readTable(t, "A call", 2)
	kinds := map[string]graph.Kind{
		"204": 0, "throttled (429)": graph.Throttled, "unavailable (503)": graph.Unavailable, "not sent": graph.NotSent,
		"unknown outcome": graph.Unknown, "refused (4xx)": graph.Refused, "forbidden (403)": graph.Forbidden, "unauthorized (401)": graph.Unauthorized,
	}
	values := map[string][]string{"answer": keys(kinds), "everybody's": {"yes", "no", "nobody can tell"}, "token": {"kept", "renewed"}, "earlier calls": {"answered", "unknown"}}
	tb.each(t, values, func(facts map[string]string) {
		if facts["everybody's"] == "nobody can tell" && facts["answer"] != "refused (4xx)" {
			return // cannot be
		}
		if facts["token"] == "renewed" && facts["everybody's"] != "no" {
			facts = map[string]string{"answer": facts["answer"], "token": "renewed", "everybody's": "no", "earlier calls": facts["earlier calls"]}
		}
		for _, pause := range []time.Duration{paused, longPause} {
			checkCall(t, tb, facts, kinds, pause)
		}
	})
}

// checkCall holds OfCall to the document for one combination. Graph has asked for a
// pause.
func checkCall(t *testing.T, tb table, facts map[string]string, kinds map[string]graph.Kind, pause time.Duration) {
	t.Helper()
	before := record.Record{ID: "INC1", State: record.Retrying, Attempts: 1, AttemptedAt: now.Add(-time.Hour), ClientRequestID: "first"}
	if facts["earlier calls"] == "unknown" {
		before.State, before.UnknownSince, before.AbsentSince = record.Verifying, now.Add(-2*time.Hour), now.Add(-time.Minute)
	}
	r := Attempt(before, "second", now.Add(-time.Second))
	a := Answer{Kind: kinds[facts["answer"]], Status: 418, RequestID: "g", Detail: refused, Now: now, Row: 2, NextProbe: now.Add(probe),
		Everybody: facts["everybody's"] == "yes", NotKnown: facts["everybody's"] == "nobody can tell",
		Renewed: facts["token"] == "renewed", Paused: now.Add(pause)}
	v := policy.OfCall(before, r, a)
	want := tb.match(t, facts)
	says := describe(v)
	wanted := map[string]string{
		"accepted": "accepted", "again after the pause": fmt.Sprint("in ", pause), "again after the back-off": "in 17s",
		"again after the back-off, and the pause": fmt.Sprint("in ", max(pause, 17*time.Second)), "again with a probe": "in 11s",
		"again at once": "at once", "look once more, then bury": "at once", "look after WORKER_VERIFY_AFTER": "in 29s",
		"bury": "bury: " + string(refusalOf(a)),
	}[want.then[0]]
	if says != wanted {
		t.Fatalf("%v: %s, want %s", facts, says, want.then[0])
	}
	if counts := v.Record.Attempts == 2; counts != (want.then[1] == "yes") {
		t.Fatalf("%v: %d attempts", facts, v.Record.Attempts)
	}
	checkRecord(t, facts, v, before)
	if v.Record.Status != 418 || v.Record.GraphRequestID != "g" {
		t.Fatalf("%v: %+v", facts, v.Record)
	}
	switch want.then[0] {
	case "look once more, then bury":
		if v.Record.State != record.Verifying || v.Record.Refusal != string(refusalOf(a)) || !v.Record.NextAt.IsZero() {
			t.Fatalf("%v: %+v", facts, v.Record)
		}
	case "look after WORKER_VERIFY_AFTER":
		if v.Record.State != record.Verifying || !v.Record.AbsentSince.IsZero() || v.Record.UnknownSince.IsZero() {
			t.Fatalf("%v: %+v", facts, v.Record)
		}
	case "bury", "accepted":
	default: // the attempt does not count: what was known before is known again
		if facts["earlier calls"] == "unknown" && (v.Record.State != record.Verifying || !v.Record.AttemptedAt.Equal(before.AttemptedAt) ||
			!v.Record.AbsentSince.Equal(before.AbsentSince)) || facts["earlier calls"] == "answered" && v.Record.State != record.Retrying {
			t.Fatalf("%v: %+v", facts, v.Record)
		}
	}
}

// checkRecord holds what is true of the record of any verdict.
func checkRecord(t *testing.T, facts map[string]string, v Verdict, before record.Record) {
	t.Helper()
	r := v.Record
	if !before.UnknownSince.IsZero() && r.State != record.None && !r.UnknownSince.Equal(before.UnknownSince) {
		t.Fatalf("%v: unknown since %s, before %s", facts, r.UnknownSince, before.UnknownSince)
	}
	switch v.Do {
	case DoAck:
		if r.State != record.Accepted || r.Reason != "" || r.Detail != "" || r.Refusal != "" || r.Burying || !r.FinishedAt.Equal(now) || !r.NextAt.IsZero() {
			t.Fatalf("%v: %+v", facts, r)
		}
	case DoBury:
		if !r.Burying || r.Detail == "" || r.Refusal != "" || !r.NextAt.IsZero() || r.State == record.None {
			t.Fatalf("%v: %+v", facts, r)
		}
	case DoNak:
		if !r.NextAt.Equal(v.Until) || r.Burying {
			t.Fatalf("%v: %+v", facts, r)
		}
	}
}

// TestRefusalOf: what a refusal is called.
func TestRefusalOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   graph.Kind
		status int
		want   Reason
	}{
		{graph.Unauthorized, 401, ReasonUnauthorized}, {graph.Forbidden, 403, ReasonForbidden}, {graph.Refused, 404, ReasonNotFound},
		{graph.Refused, 409, ReasonConflict}, {graph.Refused, 400, ReasonRejected}, {graph.Refused, 405, ReasonRejected},
		{graph.Refused, 410, ReasonRejected}, {graph.Refused, 422, ReasonRejected}, {graph.Refused, 451, ReasonRejected},
	} {
		if got := refusalOf(Answer{Kind: c.kind, Status: c.status}); got != c.want {
			t.Errorf("%d: %s, want %s", c.status, got, c.want)
		}
	}
}

// TestRefusalTable holds to the document when a refusal is whose.
func TestRefusalTable(t *testing.T) {
	t.Parallel()
	const me = 1000
	values := map[string][]string{"held": {"no", "another cause", "refused"}, "probe": {"no", "yes"}, "list": {"not known", "may not read"},
		"tenant": {"not known", "served"}, "refused": {"few", "20"}}
	tb := readTable(t, "A refusal", 1)
	tb.each(t, values, func(facts map[string]string) {
		is := func(column, value string) bool { return facts[column] == value }
		if is("probe", "yes") && is("held", "no") {
			return // cannot be
		}
		h := hold.New()
		if is("list", "may not read") {
			h.Observe(1, hold.Signal{Kind: hold.Listed, Serves: hold.Unreadable}, now)
		}
		if is("tenant", "served") {
			h.RestoreServed(now)
		}
		n := uint64(18)
		if is("refused", "20") {
			n++
		}
		for m := range n {
			h.Serves(m+1, now)
		}
		if cause := map[string]hold.Cause{"another cause": hold.Permission, "refused": hold.Refused}[facts["held"]]; cause != "" {
			h.Restore(cause, "why", now, now)
		}
		if is("probe", "yes") {
			h.Admit(me, now)
		}
		got := h.Serves(me, now)
		want := map[string][]hold.Serves{"everybody's": {hold.Unserved}, "its own": {hold.Served, hold.Unreadable}, "as the list tells": {hold.NotKnown}}
		if says := tb.match(t, facts).then[0]; !slices.Contains(want[says], got) {
			t.Fatalf("%v: %d, want %s", facts, got, says)
		}
	})
}

// TestListTable holds OfList, and what the hold makes of it, to the document.
func TestListTable(t *testing.T) {
	t.Parallel()
	tb := readTable(t, "The list", 2)
	kinds := map[string]graph.Kind{"200": 0, "refused (4xx)": graph.Refused, "forbidden (403)": graph.Forbidden, "throttled (429)": graph.Throttled,
		"unavailable (503)": graph.Unavailable, "unauthorized (401)": graph.Unauthorized, "no answer": graph.Unknown}
	values := map[string][]string{"answer to the list": keys(kinds), "token": {"names a right to read", "else"}}
	tb.each(t, values, func(facts map[string]string) {
		serves := OfList(kinds[facts["answer to the list"]], facts["token"] == "names a right to read")
		for _, held := range []hold.Cause{"", hold.Refused} {
			h := hold.New()
			h.Restore(held, "before", now, now)
			h.Admit(1, now)
			h.Observe(1, hold.Signal{Kind: hold.Listed, Serves: serves, Detail: "why"}, now)
			got := []string{map[hold.Serves]string{hold.Served: "its own", hold.Unreadable: "its own", hold.Unserved: "everybody's", hold.NotKnown: "nobody can tell"}[serves]}
			s := h.State()
			switch {
			case s.Cause != "" && held != "" && s.Detail == "before" && s.NextProbe.After(now), s.Cause == "" && held == "" && serves == hold.NotKnown:
				got = append(got, "a hold that is there goes on, and its next probe waits longer")
			case s.Cause == hold.Refused && s.Detail == "why":
				got = append(got, "the tenant is held for `refused`")
			case s.Cause == "" && h.ServedAt().Equal(now):
				got = append(got, "the tenant is served; a hold for `refused` is over")
			case s.Cause == "" && h.ServedAt().IsZero():
				got = append(got, "the application may not read; a hold for `refused` is over")
			}
			if want := tb.match(t, facts).then; !slices.Equal(got, want) {
				t.Fatalf("%v, held for %q: %q, want %q; %+v", facts, held, got, want, s)
			}
		}
	})
	for _, k := range []graph.Kind{graph.NotSent, graph.TokenRefused, graph.TokenUnavailable} {
		if got := OfList(k, true); got != hold.NotKnown {
			t.Errorf("%v: %d", k, got)
		}
	}
}

// TestLookTable holds OfLook to the document.
func TestLookTable(t *testing.T) {
	t.Parallel()
	tb := readTable(t, "A look", 1)
	kinds := map[string]graph.Kind{
		"a reset": 0, "no reset": 0, "a doubt": 0, "no device (404)": graph.Refused, "throttled (429)": graph.Throttled,
		"unavailable (503)": graph.Unavailable, "unauthorized (401)": graph.Unauthorized, "forbidden (403)": graph.Forbidden,
		"refused (4xx)": graph.Refused, "no answer": graph.Unknown,
	}
	sights := map[string]graph.Sight{"a reset": graph.SightReset, "no reset": graph.SightNone}
	values := map[string][]string{
		"answer": keys(kinds), "everybody's": {"no", "yes", "nobody can tell"}, "token": {"kept", "renewed"}, "looks": {"first", "agreeing"},
		"refusal": {"no", "yes"}, "time": {"open", "over", "long over"}, "attempts": {"left", "spent"}, "back-off": {"due", "later"},
		"unread": {"dead-letter", "retry"},
	}
	tb.each(t, values, func(facts map[string]string) {
		is := func(column, value string) bool { return facts[column] == value }
		refusal := is("answer", "no device (404)") || is("answer", "refused (4xx)")
		if is("everybody's", "nobody can tell") && !refusal || is("token", "renewed") && !is("answer", "unauthorized (401)") {
			return // cannot be
		}
		p := policy
		p.OnUnknown = OnUnknown(facts["unread"])
		r := record.Record{ID: "INC1", State: record.Verifying, Attempts: 3, AttemptedAt: now.Add(-20 * time.Second), Detail: "what failed",
			Status: 500, ClientRequestID: "first", UnknownSince: now.Add(-time.Hour)}
		if is("back-off", "later") {
			r.AttemptedAt = now.Add(-10 * time.Second)
		}
		if is("attempts", "spent") {
			r.Attempts = 4
		}
		if is("looks", "agreeing") {
			r.AbsentSince = now.Add(-p.lookAgain())
		}
		if is("refusal", "yes") {
			r.Refusal, r.Detail = string(ReasonConflict), refused
		}
		l := Look{Sight: sights[facts["answer"]], Expires: now.Add(time.Hour), Expiry: "too late", Answer: Answer{
			Kind: kinds[facts["answer"]], Status: 400, Detail: "what Graph said", Now: now, Row: 1, NextProbe: now.Add(probe),
			Everybody: is("everybody's", "yes"), NotKnown: is("everybody's", "nobody can tell"), Renewed: is("token", "renewed"), Paused: now.Add(paused)}}
		if is("answer", "no device (404)") {
			l.Status = 404
		}
		switch {
		case is("time", "over"):
			l.Expires = now.Add(-1)
		case is("time", "long over"):
			l.Expires = now.Add(-1)
			r.AttemptedAt = r.AttemptedAt.Add(-p.RequestTimeout - 3*p.VerifyAfter)
			if is("back-off", "later") {
				return // it is over by then
			}
		}
		v := p.OfLook(r, l)
		want := tb.match(t, facts).then[0]
		retry := r.AttemptedAt.Add(17 * time.Second).Sub(now)
		wanted := map[string]string{
			"accepted": "accepted", "bury: the refusal": "bury: conflict", "look for a second time": "in 58s", "look when it is over": fmt.Sprint("in ", retry),
			"look after the pause": "in 7s", "look after the back-off, and the pause": "in 17s", "look with a probe": "in 11s", "look again": "in 17s", "look at once": "at once", "attempt at once": "attempt at once",
			"bury: expired": "bury: expired", "bury: not_found": "bury: not_found", "bury: attempts_exhausted": "bury: attempts_exhausted",
			"bury: outcome_unknown": "bury: outcome_unknown",
		}[want]
		if is("answer", "a doubt") && want == "look again" {
			wanted = "in 29s" // a doubt that Graph has to clear up
		}
		if says := describe(v); says != wanted {
			t.Fatalf("%v: %s, want %s", facts, says, want)
		}
		checkRecord(t, facts, v, r)
		if v.Record.Attempts != r.Attempts && v.Record.State != record.None || v.Record.Verified != (v.Do == DoAck) {
			t.Fatalf("%v: %+v", facts, v.Record)
		}
		first := v.Record.AbsentSince
		if want == "look for a second time" && !first.Equal(now) || want != "look for a second time" && v.Record.State != record.None && !first.Equal(r.AbsentSince) {
			t.Fatalf("%v: absent since %s", facts, first)
		}
		verification := map[string]Verification{"a reset": VerificationExecuted, "no reset": VerificationNotExecuted, "no device (404)": VerificationNotExecuted,
			"a doubt": VerificationFailed, "no answer": VerificationFailed, "refused (4xx)": VerificationFailed, "throttled (429)": VerificationFailed,
			"unavailable (503)": VerificationFailed, "unauthorized (401)": VerificationNotPermitted, "forbidden (403)": VerificationNotPermitted}[facts["answer"]]
		if is("everybody's", "yes") && verification == VerificationNotPermitted || !is("everybody's", "no") && refusal {
			verification = VerificationFailed
		}
		if is("token", "renewed") {
			verification = ""
		}
		if v.Verification != verification {
			t.Fatalf("%v: counted as %q, want %q", facts, v.Verification, verification)
		}
	})
}

// TestLookOddities holds what the table does not tell.
func TestLookOddities(t *testing.T) {
	t.Parallel()
	r := record.Record{State: record.Verifying, Attempts: 4, AttemptedAt: now.Add(-time.Hour), UnknownSince: now.Add(-time.Hour)}
	none := Look{Sight: graph.SightNone, Answer: Answer{Now: now}}

	// The second look is made no sooner than the back-off is over, so that the
	// attempt can follow on it; but not after the request's time is.
	late := r
	late.AttemptedAt, late.Attempts = now, 1
	p := policy
	p.BackoffMin, p.BackoffMax = time.Hour, time.Hour
	if v := p.OfLook(late, none); !v.Until.Equal(now.Add(time.Hour)) {
		t.Errorf("look again in %s", v.Until.Sub(now))
	}
	short := none
	short.Expires = now.Add(time.Minute)
	if v := p.OfLook(late, short); !v.Until.Equal(now.Add(p.lookAgain())) {
		t.Errorf("look again in %s", v.Until.Sub(now))
	}
	// A look that comes too soon after the first says no more than that one.
	soon := r
	soon.AbsentSince = now.Add(-policy.lookAgain() + 1)
	if v := policy.OfLook(soon, none); v.Do != DoNak || !v.Until.Equal(now.Add(1)) || !v.Record.AbsentSince.Equal(soon.AbsentSince) {
		t.Errorf("%+v", v)
	}
	// A probe is never the attempt too many.
	agreeing := r
	agreeing.AbsentSince = now.Add(-time.Hour)
	asProbe := none
	asProbe.Probe = true
	if v := policy.OfLook(agreeing, asProbe); v.Do != DoCall {
		t.Errorf("%+v", v)
	}
	// What kept an expired request waiting is said.
	over := none
	over.Expires, over.Expiry = now.Add(-1), "too late"
	agreeing.Detail = "HTTP 500"
	if v := policy.OfLook(agreeing, over); v.Record.Detail != "too late; last: HTTP 500" {
		t.Errorf("%q", v.Record.Detail)
	}
	// A new message of a dead id has no state yet, and gets one.
	again := TakenUp(record.Record{Sequence: 9}, record.Record{State: record.Dead, Reason: string(ReasonOutcomeUnknown), AttemptedAt: now.Add(-time.Hour),
		Sequence: 4, ClientRequestID: "c", Status: 500, Detail: "nobody could read it", Ended: []uint64{3}, Redrives: 2})
	if again.Redrives != 3 || again.UnknownSince.IsZero() || again.State != record.None || !slices.Equal(again.Ended, []uint64{3, 4}) || again.Attempts != 0 {
		t.Errorf("%+v", again)
	}
	if v := policy.OfLook(again, none); v.Record.State != record.Verifying || v.Record.AbsentSince.IsZero() {
		t.Errorf("%+v", v)
	}
	closed := Look{Answer: Answer{Kind: graph.Forbidden, Now: now, Detail: "403"}}
	if v := policy.OfLook(again, closed); v.Record.Detail != "nobody could read it" || v.Record.State != record.Retrying || !v.Record.Burying {
		t.Errorf("%+v", v)
	}
}

// TestPanicTable holds OfPanic to the document.
func TestPanicTable(t *testing.T) {
	t.Parallel()
	tb := readTable(t, "A panic", 1)
	values := map[string][]string{"record": {"none", "retrying", "verifying", "attempting"}, "panics": {"few", "too many"}}
	tb.each(t, values, func(facts map[string]string) {
		r := record.Record{State: states(facts["record"])[0], AttemptedAt: now.Add(-time.Second)}
		if facts["panics"] == "too many" {
			r.Panics = policy.MaxAttempts - 1
		}
		v := policy.OfPanic(r, now)
		want := map[string]string{
			"bury: undeliverable": "bury: undeliverable", "again after the back-off": "in 17s", "look once the call must be over": "in 31s",
		}[tb.match(t, facts).then[0]]
		if says := describe(v); says != want || v.Record.Panics != r.Panics+1 {
			t.Fatalf("%v: %s, want %s", facts, says, want)
		}
		if r.State == record.Attempting && v.Record.UnknownSince.IsZero() {
			t.Errorf("%v: %+v", facts, v.Record)
		}
		checkRecord(t, facts, v, r)
	})
	// One that was to be looked at stays so.
	taken := record.Record{UnknownSince: now.Add(-time.Hour)}
	if v := policy.OfPanic(taken, now); v.Record.State != record.Verifying {
		t.Errorf("%+v", v)
	}
}

// TestDeviceTable holds OfDevice to the document.
func TestDeviceTable(t *testing.T) {
	t.Parallel()
	tb := readTable(t, "A device that cools down", 1)
	values := map[string][]string{
		"claim":  {"none", "lapsed", "own", "another's"},
		"holder": {"accepted", "accepted for another device", "dead", "dead and taken up anew", "dead of unknown outcome", "attempting", "retrying", "verifying", "not to be told"},
		"reset":  {"less than the cooldown ago", "longer ago"},
	}
	const cooldown = time.Minute
	tb.each(t, values, func(facts map[string]string) {
		d := Device{ID: "d", Message: 7, Claimed: facts["claim"] == "another's" || facts["claim"] == "lapsed", Until: now.Add(10 * time.Second), Cooldown: cooldown, Now: now}
		if facts["claim"] == "lapsed" {
			d.Until = now
		}
		d.Holder.FinishedAt = now.Add(-cooldown + 1)
		if facts["reset"] == "longer ago" {
			d.Holder.FinishedAt = now.Add(-cooldown)
		}
		switch facts["holder"] {
		case "not to be told":
		case "accepted for another device":
			d.Holder.State, d.Holder.ManagedDeviceID = record.Accepted, "e"
		case "dead and taken up anew":
			d.Holder.State, d.Holder.Ended = record.Dead, []uint64{6}
		case "dead of unknown outcome":
			d.Holder.State, d.Holder.UnknownSince, d.Holder.Ended = record.Dead, now, []uint64{6, 7}
		default:
			d.Holder.State, d.Holder.ManagedDeviceID, d.Holder.Ended = record.State(facts["holder"]), "D", []uint64{6, 7}
		}
		want := map[string]DeviceStep{"claim it and call": DeviceFree, "bury: cooldown": DeviceCools, "wait": DeviceWait}[tb.match(t, facts).then[0]]
		step, at := OfDevice(d)
		if step != want {
			t.Fatalf("%v: step %d, want %d", facts, step, want)
		}
		switch step {
		case DeviceFree:
		case DeviceCools:
			if !at.Equal(d.Holder.FinishedAt) {
				t.Fatalf("%v: reset at %s", facts, at)
			}
		case DeviceWait:
			for next, want := range map[time.Duration]time.Duration{-time.Hour: deviceWaitMin, 5 * time.Second: 5 * time.Second, time.Hour: 10 * time.Second} {
				d := d
				d.Holder.NextAt = now.Add(next)
				if _, at := OfDevice(d); !at.Equal(now.Add(want)) {
					t.Fatalf("%v, next %s: waits for %s", facts, next, at.Sub(now))
				}
			}
		}
	})
}

// TestNobodysClaim: what counts as a claim, and is nobody's, is not asked for again soon.
func TestNobodysClaim(t *testing.T) {
	t.Parallel()
	for left, want := range map[time.Duration]time.Duration{time.Hour: deviceWaitMax, time.Second: time.Second} {
		step, at := OfDevice(Device{Claimed: true, Until: now.Add(left), Now: now})
		if step != DeviceWait || !at.Equal(now.Add(want)) {
			t.Errorf("%s left: step %d, waits for %s", left, step, at.Sub(now))
		}
	}
}

// TestHeldAttempts: what was tried for everybody's sake is not held against the
// request.
func TestHeldAttempts(t *testing.T) {
	t.Parallel()
	for _, a := range []Answer{{Everybody: true}, {Probe: true}, {}} {
		a.Kind, a.Now = graph.Unknown, now
		v := policy.OfCall(record.Record{}, Attempt(record.Record{}, "c", now), a)
		if got := v.Record.HeldAttempts == 1; got != (a.Everybody || a.Probe) {
			t.Errorf("%+v: %+v", a, v.Record)
		}
	}
}

// TestEarlierVersion: a record that does not name the first call of unknown outcome
// says by its state that there is one. That outlives what follows.
func TestEarlierVersion(t *testing.T) {
	t.Parallel()
	old := record.Record{State: record.Verifying, Attempts: 1, AttemptedAt: now.Add(-time.Hour)}
	further := Attempt(old, "c", now)
	if !further.UnknownSince.Equal(old.AttemptedAt) {
		t.Errorf("a further attempt: %+v", further)
	}
	v := policy.OfCall(old, further, Answer{Kind: graph.Refused, Status: 409, Now: now})
	if v.Do != DoAgain || v.Record.Refusal != string(ReasonConflict) {
		t.Errorf("a refusal of it: %+v", v)
	}
	if dead := Dead(Burying(old, ReasonExpired, "too late"), now); !dead.UnknownFrom().Equal(old.AttemptedAt) {
		t.Errorf("its end: %+v", dead)
	}
}

// TestAdopted: whoever takes a request over goes on with its own device.
func TestAdopted(t *testing.T) {
	t.Parallel()
	o := record.Record{Stream: "S", Sequence: 9, ReceivedAt: now, ManagedDeviceID: "b"}
	for _, s := range []record.State{record.Attempting, record.Retrying, record.Verifying} {
		r := policy.Adopted(record.Record{State: s, Sequence: 8, ManagedDeviceID: "a", AttemptedAt: now, Burying: true}, o)
		if !r.Same(o) || r.ManagedDeviceID != "b" || r.Burying || r.State == record.Attempting {
			t.Errorf("%s: %+v", s, r)
		}
	}
}

// TestVetoed: an attempt that was not made leaves the record as it was.
func TestVetoed(t *testing.T) {
	t.Parallel()
	for _, before := range []record.Record{
		{},
		{State: record.Retrying, Attempts: 2, AttemptedAt: now, ClientRequestID: "c", Detail: "d", Status: 429, GraphRequestID: "g"},
		{State: record.Verifying, Attempts: 2, AttemptedAt: now, UnknownSince: now, AbsentSince: now, ClientRequestID: "c", Detail: "d", Status: 500},
		{State: record.Verifying, Attempts: 1, AttemptedAt: now}, // of an earlier version
	} {
		got := Vetoed(before, Attempt(before, "new", now.Add(time.Hour)))
		want := before
		if want.State == record.None {
			want.State = record.Retrying
		}
		want.UnknownSince = before.UnknownFrom()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

func keys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
