package scenario

import (
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// toldDay is a made-up day on which everything was told as it was.
func toldDay() ([]*Request, Ledger) {
	at := time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC)
	l := Ledger{
		Stream: "S", Records: map[string]record.Record{}, Resets: map[string]int{},
		Outcomes: map[string]Telling{}, Devices: map[string]graphsim.DeviceState{},
	}
	var requests []*Request
	for _, c := range []struct {
		told  outcome.Outcome
		state graphsim.DeviceState
	}{
		{outcome.Done, graphsim.DeviceState{Resets: []graphsim.Reset{{State: "done"}}}},
		{outcome.Failed, graphsim.DeviceState{Resets: []graphsim.Reset{{State: "failed", ErrorCode: graphsim.FailureCode}}}},
		{outcome.NotSupported, graphsim.DeviceState{Resets: []graphsim.Reset{{State: "notSupported"}}}},
		{outcome.Canceled, graphsim.DeviceState{Resets: []graphsim.Reset{{State: "canceled"}}}},
		{outcome.Superseded, graphsim.DeviceState{Resets: []graphsim.Reset{{State: "pending"}, {State: "done", Foreign: true}}}},
		{outcome.Removed, graphsim.DeviceState{Resets: []graphsim.Reset{{State: "pending"}}, Gone: true}},
		{outcome.TimedOut, graphsim.DeviceState{Resets: []graphsim.Reset{{State: "pending"}}}},
	} {
		id, device := string(c.told), "d-"+string(c.told)
		requests = append(requests, &Request{Kind: plain, ID: id, Device: device, Copies: 1, Want: Accepted(), Resets: 1, Told: c.told, Sequences: []uint64{uint64(len(requests) + 1)}})
		r := &c.state.Resets[0]
		if r.Ordered = at; r.State != "pending" {
			r.Taken, r.Ended = at.Add(time.Second), at.Add(2*time.Second)
		}
		d := outcome.Document{Outcome: c.told, Final: true, ClientRequestID: "call", StartedAt: at, DecidedAt: at.Add(3 * time.Second), ErrorCode: int32(r.ErrorCode)}
		l.Records[id], l.Resets[device], l.Devices[device] = record.Record{State: record.Accepted, ClientRequestID: "call"}, 1, c.state
		l.Outcomes[id] = Telling{Last: d, Finals: 1}
	}
	requests = append(requests, &Request{Kind: "404", ID: "gone", Device: "d-gone", Copies: 1, Want: Dead(verdict.ReasonNotFound), Told: outcome.Done, Sequences: []uint64{99}})
	l.Records["gone"] = record.Record{State: record.Dead, Reason: string(verdict.ReasonNotFound)}
	l.Letters = []Letter{{99, "gone", verdict.ReasonNotFound, nil}}
	return requests, l
}

func TestJudgeTold(t *testing.T) {
	t.Parallel()
	change := func(id string, how func(*Telling)) func(*Ledger) {
		return func(l *Ledger) {
			telling := l.Outcomes[id]
			how(&telling)
			l.Outcomes[id] = telling
		}
	}
	// say lets a device's end be told otherwise.
	say := func(id string, o outcome.Outcome) func(*Ledger) {
		return change(id, func(t *Telling) { t.Last.Outcome, t.Last.Final = o, o.Final() })
	}
	device := func(id string, how func(*graphsim.DeviceState)) func(*Ledger) {
		return func(l *Ledger) {
			s := l.Devices["d-"+id]
			how(&s)
			l.Devices["d-"+id] = s
		}
	}
	for _, c := range []struct {
		name   string
		change func(*Ledger)
		// What must be found, and of whom; nothing else may be.
		untold, mistold, retold string
	}{
		{name: "as it should be", change: func(*Ledger) {}},
		{name: "nobody follows", change: func(l *Ledger) { l.Outcomes = nil }},
		{name: "no outcome", change: func(l *Ledger) { delete(l.Outcomes, "done") }, untold: "done"},
		{name: "no outcome at all", change: func(l *Ledger) { l.Outcomes = map[string]Telling{"x": {}}; clear(l.Records) }},
		{name: "never final", change: change("timed_out", func(t *Telling) { *t = Telling{}; t.Add(outcome.Document{Outcome: outcome.Pending}) }), untold: "timed_out"},
		{name: "told twice", change: change("failed", func(t *Telling) { t.Add(t.Last) }), retold: "failed"},
		{name: "taken back", change: change("failed", func(t *Telling) { t.Add(outcome.Document{Outcome: outcome.Pending}) }), retold: "failed"},
		{name: "told twice, and wrong", change: change("failed", func(t *Telling) {
			d := t.Last
			d.Outcome = outcome.Done
			t.Add(d)
		}), retold: "failed", mistold: "failed"},
		{name: "done, but it failed", change: say("failed", outcome.Done), mistold: "failed"},
		{name: "failed, but it was done", change: say("done", outcome.Failed), mistold: "done"},
		{name: "given up too early", change: say("done", outcome.TimedOut), mistold: "done"},
		{name: "nobody could look", change: say("timed_out", outcome.Undetermined), mistold: "timed_out"},
		{name: "done, but it never was", change: say("timed_out", outcome.Done), mistold: "timed_out"},
		{name: "another call", change: change("done", func(t *Telling) { t.Last.ClientRequestID = "another" }), mistold: "done"},
		{name: "another reset", change: change("done", func(t *Telling) { t.Last.StartedAt = t.Last.StartedAt.Add(time.Second) }), mistold: "done"},
		{name: "another error code", change: change("failed", func(t *Telling) { t.Last.ErrorCode = 1 }), mistold: "failed"},
		{name: "told before it was so", change: change("canceled", func(t *Telling) { t.Last.DecidedAt = t.Last.StartedAt }), mistold: "canceled"},
		{name: "the device's word is another", change: device("not_supported", func(s *graphsim.DeviceState) { s.Resets[0].State = "done" }), mistold: "not_supported"},
		{name: "the device has not ended", change: device("done", func(s *graphsim.DeviceState) { s.Resets[0].Ended = time.Time{} }), mistold: "done"},
		{name: "the device was never reset", change: device("done", func(s *graphsim.DeviceState) { s.Resets = nil }), mistold: "done"},
		{name: "the device is there", change: device("removed", func(s *graphsim.DeviceState) { s.Gone = false }), mistold: "removed"},
		{name: "nobody else's reset", change: device("superseded", func(s *graphsim.DeviceState) { s.Resets = s.Resets[:1] }), mistold: "superseded"},
		{name: "an outcome of a dead one", change: func(l *Ledger) { l.Outcomes["gone"] = l.Outcomes["done"] }, mistold: "gone"},
	} {
		requests, l := toldDay()
		c.change(&l)
		v := Judge(requests, l)
		for what, w := range map[string]struct {
			got  []string
			want string
		}{"untold": {v.Untold, c.untold}, "mistold": {v.Mistold, c.mistold}, "told twice": {v.Retold, c.retold}} {
			switch {
			case w.want == "" && len(w.got) > 0:
				t.Errorf("%s: %s: %q", c.name, what, w.got)
			case w.want != "" && (len(w.got) != 1 || !strings.HasPrefix(w.got[0], w.want+" ")):
				t.Errorf("%s: %s: %q, want one of %s", c.name, what, w.got, w.want)
			}
		}
	}
}

// TestPending: what is accepted and has no end is pending, the earliest first.
func TestPending(t *testing.T) {
	t.Parallel()
	_, l := toldDay()
	if got := l.Pending(); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	delete(l.Outcomes, "done")
	l.Outcomes["failed"] = Telling{Last: outcome.Document{Outcome: outcome.Active}}
	done := l.Records["done"]
	done.ID, done.FinishedAt = "done", time.Unix(2, 0)
	failed := l.Records["failed"]
	failed.ID, failed.FinishedAt = "failed", time.Unix(1, 0)
	l.Records["done"], l.Records["failed"] = done, failed
	if got := l.Pending(); len(got) != 2 || got[0].ID != "failed" || got[1].ID != "done" {
		t.Errorf("%+v", got)
	}
}
