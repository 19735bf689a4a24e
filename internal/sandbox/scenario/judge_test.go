package scenario

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// held is a made-up day on which every promise held.
func held() ([]*Request, Ledger) {
	const ack = `{"stream":"S","seq":9}`
	requests := []*Request{
		{Kind: plain, ID: "good", Device: "d1", Data: "1", Copies: 1, Want: Accepted(), Resets: 1, Sequences: []uint64{1}},
		{Kind: "404", ID: "gone", Device: "d2", Data: "2", Copies: 1, Want: Dead(verdict.ReasonNotFound), Sequences: []uint64{2}},
		{Kind: "garbage", Data: "{", Copies: 1, Want: Dead(verdict.ReasonInvalidRequest), Sequences: []uint64{3}},
		{Kind: "twice", ID: "twice", Device: "d4", Data: "4", Copies: 2, Want: Dead(verdict.ReasonNotFound), Sequences: []uint64{4, 5}},
		{Kind: "own", ID: "own", Device: "d6", Data: "6", Copies: 1, Want: Dead(verdict.ReasonOutcomeUnknown), Unknowable: true, Sequences: []uint64{6}},
		{Kind: "to the requests", ID: "echo", Device: "d7", Data: "7", Copies: 1, Want: Accepted(), Resets: 1, Reply: neighbourReply, Sequences: []uint64{7}},
		{Kind: "to the dead", ID: "stray", Device: "d8", Data: "8", Copies: 1, Want: Accepted(), Resets: 1, Reply: deadReply, Sequences: []uint64{8}},
		{Kind: "never published", ID: "never", Device: "d10", Copies: 1, Want: Accepted(), Resets: 1},
	}
	gone, invalid := verdict.ReasonNotFound, verdict.ReasonInvalidRequest
	done := record.Record{State: record.Accepted}
	died := func(r verdict.Reason) record.Record { return record.Record{State: record.Dead, Reason: string(r)} }
	return requests, Ledger{
		Stream: "S",
		Records: map[string]record.Record{"good": done, "gone": died(gone), "S-3": died(invalid), "twice": died(gone),
			"own": died(verdict.ReasonOutcomeUnknown), "echo": done, "stray": done},
		Letters: []Letter{
			{2, "gone", gone, []byte("2")}, {3, "S-3", invalid, []byte("{")},
			{4, "twice", gone, []byte("4")}, {0, "twice", gone, []byte("4")}, // of a copy whose PubAck was lost
			{6, "own", verdict.ReasonOutcomeUnknown, []byte("6")}, {10, "S-10", invalid, []byte(ack)},
		},
		Resets: map[string]int{"d1": 1, "d7": 1, "d8": 1},
		Strays: 1,
	}
}

// notFound lets the good request die because its device was not found, after the reset.
func notFound(l *Ledger) {
	l.Records["good"] = record.Record{State: record.Dead, Reason: string(verdict.ReasonNotFound)}
	l.Letters = append(l.Letters, Letter{1, "good", verdict.ReasonNotFound, []byte("1")})
}

func TestJudge(t *testing.T) {
	t.Parallel()
	requests, l := held()
	v := Judge(requests, l)
	if n := len(v.Lost) + len(v.Doubled) + len(v.Twice) + len(v.Wrong); n != 0 || len(v.Fates) != len(requests)-1 || v.Echoes != 1 || v.Forged != 1 {
		t.Fatalf("%+v", v)
	}
	dead := func(l Ledger, id string, r verdict.Reason) {
		l.Records[id] = record.Record{State: record.Dead, Reason: string(r)}
	}
	for _, c := range []struct {
		name   string
		change func([]*Request, *Ledger)
		// What must be found, and of whom; nothing else may be.
		lost, doubled, twice, wrong string
	}{
		{name: "no record", change: func(_ []*Request, l *Ledger) { delete(l.Records, "good") }, lost: "good"},
		{name: "it did not end", change: func(_ []*Request, l *Ledger) { l.Records["good"] = record.Record{State: record.Verifying} }, lost: "good"},
		{name: "dead without a letter", change: func(_ []*Request, l *Ledger) { l.Letters = l.Letters[1:] }, lost: "gone"},
		{name: "dead without an id and a letter", change: func(_ []*Request, l *Ledger) { l.Letters = slices.Delete(l.Letters, 1, 2) }, lost: "S-3"},
		{name: "reset twice", change: func(_ []*Request, l *Ledger) { l.Resets["d1"] = 2 }, doubled: "good"},
		{name: "reset twice, and not ended", change: func(_ []*Request, l *Ledger) {
			l.Resets["d1"], l.Records["good"] = 2, record.Record{State: record.Retrying}
		}, lost: "good", doubled: "good"},
		{name: "reset, and nobody asked", change: func(_ []*Request, l *Ledger) { l.Resets["d9"] = 1 }, doubled: "d9"},
		{name: "without a PubAck, but reset", change: func(_ []*Request, l *Ledger) { l.Resets["d10"] = 1 }},
		{name: "without a PubAck, but reset twice", change: func(_ []*Request, l *Ledger) { l.Resets["d10"] = 2 }, doubled: "d10"},
		{name: "without a PubAck, but dead", change: func(_ []*Request, l *Ledger) {
			l.Letters = append(l.Letters, Letter{96, "never", verdict.ReasonExpired, []byte("10")})
		}},
		{name: "accepted and dead", change: func(_ []*Request, l *Ledger) {
			l.Letters = append(l.Letters, Letter{1, "good", verdict.ReasonExpired, []byte("1")})
		}, twice: "good"},
		{name: "accepted and dead by a lost copy", change: func(_ []*Request, l *Ledger) {
			l.Letters = append(l.Letters, Letter{99, "good", verdict.ReasonExpired, []byte("1")})
		}, twice: "good"},
		{name: "two letters for one message", change: func(_ []*Request, l *Ledger) { l.Letters = append(l.Letters, l.Letters[0]) }, twice: "gone"},
		{name: "accepted without a reset", change: func(_ []*Request, l *Ledger) { delete(l.Resets, "d1") }, wrong: "good"},
		{name: "reset, but dead, and the device is there", change: func(_ []*Request, l *Ledger) { notFound(l) }, wrong: "good"},
		{name: "reset, and gone before that was seen", change: func(r []*Request, l *Ledger) {
			r[0].Told = outcome.Removed
			notFound(l)
		}},
		{name: "refused, but reset", change: func(_ []*Request, l *Ledger) { l.Resets["d2"] = 1 }, wrong: "gone"},
		{name: "another reason", change: func(_ []*Request, l *Ledger) {
			dead(*l, "gone", verdict.ReasonConflict)
			l.Letters[0].Reason = verdict.ReasonConflict
		}, wrong: "gone"},
		{name: "good, but dead", change: func(_ []*Request, l *Ledger) {
			dead(*l, "good", verdict.ReasonExpired)
			delete(l.Resets, "d1")
			l.Letters = append(l.Letters, Letter{1, "good", verdict.ReasonExpired, []byte("1")})
		}, wrong: "good"},
		{name: "bad, but accepted", change: func(_ []*Request, l *Ledger) {
			l.Records["gone"], l.Letters = record.Record{State: record.Accepted}, l.Letters[1:]
		}, wrong: "gone"},
		{name: "the letter's reason is another", change: func(_ []*Request, l *Ledger) { l.Letters[0].Reason = verdict.ReasonExpired }, wrong: "gone"},
		{name: "the letter holds something else", change: func(_ []*Request, l *Ledger) { l.Letters[0].Data = []byte("x") }, wrong: "gone"},
		{name: "a letter of nobody's", change: func(_ []*Request, l *Ledger) {
			l.Letters = append(l.Letters, Letter{98, "S-98", verdict.ReasonInvalidRequest, []byte("x")})
		}, wrong: "98"},
		{name: "more PubAcks than were forged", change: func(_ []*Request, l *Ledger) {
			l.Letters = append(l.Letters, Letter{97, "S-97", verdict.ReasonInvalidRequest, []byte(`{"stream":"S","seq":3}`)})
		}, wrong: "PubAcks"},
		{name: "more strays than were forged", change: func(_ []*Request, l *Ledger) { l.Strays = 2 }, wrong: "no dead letters"},
		{name: "overwritten too late", change: func(_ []*Request, l *Ledger) {
			l.Records["own"], l.Resets["d6"] = record.Record{State: record.Accepted}, 1
			l.Letters = slices.Delete(l.Letters, 4, 5)
		}},
		{name: "overwritten too late, and twice", change: func(_ []*Request, l *Ledger) {
			l.Records["own"], l.Resets["d6"] = record.Record{State: record.Accepted}, 2
			l.Letters = slices.Delete(l.Letters, 4, 5)
		}, doubled: "own"},
		{name: "overwritten, accepted without a reset", change: func(_ []*Request, l *Ledger) {
			l.Records["own"] = record.Record{State: record.Accepted}
			l.Letters = slices.Delete(l.Letters, 4, 5)
		}, wrong: "own"},
		{name: "overwritten, expired", change: func(_ []*Request, l *Ledger) {
			dead(*l, "own", verdict.ReasonExpired)
			l.Letters[4].Reason = verdict.ReasonExpired
		}},
		{name: "overwritten, expired, but reset", change: func(_ []*Request, l *Ledger) {
			dead(*l, "own", verdict.ReasonExpired)
			l.Letters[4].Reason, l.Resets["d6"] = verdict.ReasonExpired, 1
		}, wrong: "own"},
		{name: "overwritten, and refused", change: func(_ []*Request, l *Ledger) {
			dead(*l, "own", verdict.ReasonRejected)
			l.Letters[4].Reason = verdict.ReasonRejected
		}, wrong: "own"},
		{name: "overwritten, and waiting for ever", change: func(_ []*Request, l *Ledger) { delete(l.Records, "own") }, lost: "own"},
		{name: "not overwritten, but given to a person", change: func(_ []*Request, l *Ledger) {
			dead(*l, "good", verdict.ReasonOutcomeUnknown)
			l.Letters = append(l.Letters, Letter{1, "good", verdict.ReasonOutcomeUnknown, []byte("1")})
		}, wrong: "good"},
	} {
		requests, l := held()
		resets := maps.Clone(l.Resets)
		c.change(requests, &l)
		changed := maps.Clone(l.Resets)
		v := Judge(requests, l)
		for what, w := range map[string]struct {
			got  []string
			want string
		}{"lost": {v.Lost, c.lost}, "doubled": {v.Doubled, c.doubled}, "ended twice": {v.Twice, c.twice}, "wrong": {v.Wrong, c.wrong}} {
			switch {
			case w.want == "" && len(w.got) > 0:
				t.Errorf("%s: %s: %q", c.name, what, w.got)
			case w.want != "" && (len(w.got) != 1 || !strings.Contains(w.got[0], w.want)):
				t.Errorf("%s: %s: %q, want one of %s", c.name, what, w.got, w.want)
			}
		}
		if !maps.Equal(l.Resets, changed) {
			t.Errorf("%s: the ledger was changed from %v", c.name, resets)
		}
	}
}
