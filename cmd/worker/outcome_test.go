package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/natstest"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
)

// accepted writes the record of an accepted request that is followed, as a worker does.
func accepted(t *testing.T, js jetstream.JetStream, id string, change func(*record.Record)) record.Record {
	t.Helper()
	now := time.Now().UTC()
	r := record.Record{
		ID: id, Tenant: "default", ManagedDeviceID: graphsim.GoodDevice(1), State: record.Accepted, Attempts: 1, Status: 204, Followed: true,
		ReceivedAt: now.Add(-3 * time.Second), AttemptedAt: now.Add(-2 * time.Second), FinishedAt: now.Add(-time.Second),
		Stream: names.Stream, ClientRequestID: uuid.NewString(),
	}
	change(&r)
	store, err := record.Open(t.Context(), js, names.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	key := record.Key(r.Tenant, request.EscapeID(id))
	_, revision, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), key, r, revision); err != nil {
		t.Fatal(err)
	}
	return r
}

// documentOf writes the outcome of a request that is accepted, pending unless it is changed.
func documentOf(t *testing.T, js jetstream.JetStream, id string, change func(*outcome.Document)) outcome.Document {
	t.Helper()
	d := outcome.Document{ID: id, Tenant: "default", ManagedDeviceID: graphsim.GoodDevice(1), Outcome: outcome.Pending, NextStep: outcome.Wake, Text: outcome.Wake.Text(),
		AcceptedAt: time.Now().UTC().Add(-time.Minute), ClientRequestID: uuid.NewString()}
	if store, err := record.Open(t.Context(), js, names.Bucket); err == nil {
		if r, _, err := store.Get(t.Context(), record.Key("default", request.EscapeID(id))); err == nil && r.State == record.Accepted {
			d.ManagedDeviceID, d.AcceptedAt, d.ClientRequestID, d.RequestedBy = r.ManagedDeviceID, r.FinishedAt, r.ClientRequestID, r.RequestedBy
		}
	}
	change(&d)
	if d.Final = d.Outcome.Final(); d.Final {
		d.DecidedAt = d.AcceptedAt.Add(41 * time.Second)
		d.DurationSeconds = 41
	}
	store, err := outcome.Open(t.Context(), js, names.OutcomeBucket())
	if err != nil {
		t.Fatal(err)
	}
	_, revision, err := store.Get(t.Context(), record.Key(d.Tenant, request.EscapeID(id)))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), d, revision); err != nil {
		t.Fatal(err)
	}
	return d
}

// is makes a document of an outcome and a next step, with its text.
func is(o outcome.Outcome, s outcome.NextStep) func(*outcome.Document) {
	return func(d *outcome.Document) { d.Outcome, d.NextStep, d.Text = o, s, s.Text() }
}

// lieOver stores, over what is there, what is no document.
func lieOver(t *testing.T, js jetstream.JetStream, bucket, key string) {
	t.Helper()
	for _, value := range []string{`{"stream":"PASSCODE_RESETS","seq":7}`, "\x1b]0;x\a", `{"id":"other","tenant":"default","outcome":"done","final":true,"acceptedAt":"2026-01-01T00:00:00Z"}`} {
		if _, err := js.Publish(t.Context(), "$KV."+bucket+"."+key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
}

// publishesAndAccepts sends with --follow, and plays the worker up to the record.
func (w *world) publishesAndAccepts(id string, change func(*record.Record), args ...string) *process {
	w.t.Helper()
	p := launch(w.t, w.env(), append([]string{"send", "--id", id, "--device", graphsim.GoodDevice(1), "--follow"}, args...)...)
	await(w.t, "it to be sent", func() bool { return p.out.String() != "" })
	sequence := w.stream(names.Stream).State.LastSeq
	accepted(w.t, w.js, id, func(r *record.Record) {
		r.Sequence = sequence
		change(r)
	})
	return p
}

func TestSendFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	nothing := func(*record.Record) {}
	ends := func(p *process, code int, out, errs string) {
		t.Helper()
		if got := p.wait(); got != code || !regexp.MustCompile(`(?s)^`+out+`$`).MatchString(p.out.String()) || !regexp.MustCompile(`(?s)^`+errs+`$`).MatchString(p.err.String()) {
			t.Errorf("status %d, standard output:\n%s\nstandard error:\n%s", got, p.out.String(), p.err.String())
		}
	}

	p := w.publishesAndAccepts("A", nothing)
	await(t, "the first news", func() bool {
		return strings.Contains(p.out.String(), "the worker first looks at the device 15s after that")
	})
	documentOf(t, w.js, "A", is(outcome.Pending, outcome.Wake))
	await(t, "the second", func() bool {
		return strings.Contains(p.out.String(), "A  pending since 20") && strings.Contains(p.out.String(), "switched on")
	})
	lieOver(t, w.js, names.OutcomeBucket(), "default.A")
	documentOf(t, w.js, "A", is(outcome.Active, outcome.Wake))
	await(t, "the third", func() bool { return strings.Contains(p.out.String(), "A  active since 20") })
	documentOf(t, w.js, "A", is(outcome.Done, outcome.ReadPasscode))
	ends(p, exitDone, "A\nA  accepted: .*\nA  pending .*\nA  pending .*\nA  active .*\nA  done since \\S+ \\S+Z, 41s after it was accepted: The device has reset .*\n", "")

	// It is known already.
	expect(t, w.env(), exitDone, "A\nA  was accepted before, .*\nA  done since .*\n", "", "send", "--id", "A", "--device", graphsim.GoodDevice(1), "--follow")
	r := expect(t, w.env(), exitDone, ".*", "", "send", "--id", "A", "--device", graphsim.GoodDevice(1), "--follow", "-o", "json")
	if l := objects(t, r.out); len(l) != 3 || l[2]["outcome"] != "done" || l[2]["nextStep"] != "read_passcode" {
		t.Errorf("documents:\n%s", r.out)
	}

	p = w.publishesAndAccepts("B", nothing)
	documentOf(t, w.js, "B", is(outcome.Failed, outcome.CheckPolicy))
	ends(p, exitFailed, ".*B  failed since .*", "")

	// A document of an earlier call says nothing of this one.
	documentOf(t, w.js, "C", func(d *outcome.Document) {
		is(outcome.Done, outcome.ReadPasscode)(d)
		d.AcceptedAt = d.AcceptedAt.Add(-time.Hour)
	})
	p = w.publishesAndAccepts("C", nothing, "--timeout", "12s")
	ends(p, exitFailed, "C\nC  accepted: .*\nC  pending since .*15s after that\n", "worker: C is accepted, and pending on its device; the worker goes on following it, and worker status C shows its state\n")

	began := time.Now()
	p = w.publishesAndAccepts("D", func(r *record.Record) { r.Followed = false })
	ends(p, exitFailed, "D\nD  accepted: .*\n", "worker: D is accepted but not followed, so its result on the device stays unknown: .*\n")
	if took := time.Since(began); took > 14*time.Second {
		t.Errorf("to say that nothing is followed took %s", took)
	}
	// An operator had it looked at.
	documentOf(t, w.js, "D", is(outcome.Done, outcome.Unlocked))
	expect(t, w.env(), exitDone, "D\nD  was accepted before, .*\nD  done since .*\n", "", "send", "--id", "D", "--device", graphsim.GoodDevice(1), "--follow")

	// A list, of which one is not followed, one failed, and one is done.
	list := body("A", graphsim.GoodDevice(1)) + "\n" + body("B", graphsim.GoodDevice(1)) + "\n" + body("D", graphsim.GoodDevice(1)) + "\n"
	accepted(t, w.js, "E", func(r *record.Record) { r.Followed = false })
	r = pipe(t, w.env(), list+body("E", graphsim.GoodDevice(1)), "send", "--file", "-", "--follow")
	if r.code != exitFailed || !strings.Contains(r.err, "worker: E is accepted but not followed") || !strings.HasSuffix(r.err, "worker: 2 done, 2 not done, 0 still followed\n") {
		t.Errorf("a list: status %d\n%s%s", r.code, r.out, r.err)
	}

	p = w.publishesAndAccepts("F", nothing)
	await(t, "the first news", func() bool { return strings.Contains(p.out.String(), "F  pending") })
	p.signal(os.Interrupt)
	ends(p, exitFailed, ".*", "worker: F is accepted, and pending on its device; the worker goes on .*\n")

	before := w.stream(names.Stream).State.LastSeq
	if err := w.js.DeleteKeyValue(w.ctx, names.OutcomeBucket()); err != nil {
		t.Fatal(err)
	}
	expect(t, w.env(), exitFailed, "", "worker: nothing was published: key-value bucket passcode-resets-outcomes: it was not found, so accepted requests are not followed; .*--wait.*\n",
		"send", "--id", "G", "--device", graphsim.GoodDevice(1), "--follow")
	if w.stream(names.Stream).State.LastSeq != before {
		t.Error("it was published all the same")
	}
}

// TestSendFollowRights follows with no more rights than a publisher can be given.
func TestSendFollowRights(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, graphsim.Config{}, server.Options{NoAuthUser: "admin", Users: []*server.User{{Username: "admin", Password: "p"},
		{Username: "publisher", Password: "p", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"passcode.reset.requests.default"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>", "passcode.reset.status.default.>", "passcode.reset.outcome.default.>"}},
		}}}})
	w.setUp()
	p := launch(t, w.env("NATS_USER", "publisher", "NATS_PASSWORD", "p"), "send", "--id", "A", "--device", graphsim.GoodDevice(1), "--follow")
	await(t, "it to be sent", func() bool { return p.out.String() != "" })
	accepted(t, w.js, "A", func(r *record.Record) { r.Sequence = 1 })
	await(t, "the first news", func() bool { return strings.Contains(p.out.String(), "A  pending") })
	documentOf(t, w.js, "A", is(outcome.Done, outcome.Unlocked))
	if code := p.wait(); code != exitDone || !strings.Contains(p.out.String(), "\nA  done since ") || !strings.Contains(p.err.String(), "the command sees only changes of the devices from now on") {
		t.Errorf("status %d\n%s%s", code, p.out.String(), p.err.String())
	}
}

func TestStatusOfOutcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	env := w.env()
	accepted(t, w.js, "A", func(*record.Record) {})
	expect(t, env, exitDone, ".*\noutcome   pending since .*; the worker first looks at the device 15s after that\n\n.*", "", "status", "A")
	sync := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	documentOf(t, w.js, "A", func(d *outcome.Document) {
		is(outcome.Pending, outcome.Away)(d)
		d.LastSyncAt, d.Text = sync, "call\x1b[31m them"
	})
	lieOver(t, w.js, names.OutcomeBucket(), "default.A")
	expect(t, env, exitDone, `.*\noutcome   pending since \S+ \S+Z, last check-in 2026-11-20 08:00:00Z\nnext step away: call\\u001b\[31m them\n.*`, "", "status", "A")
	r := expect(t, env, exitDone, ".*", "", "status", "A", "-o", "json")
	l := objects(t, r.out)
	if d, ok := l[len(l)-1]["outcome"].(map[string]any); !ok || d["outcome"] != "pending" || d["nextStep"] != "away" || l[len(l)-1]["state"] != "accepted" {
		t.Errorf("the last line:\n%s", r.out)
	}
	accepted(t, w.js, "N", func(r *record.Record) { r.Followed = false })
	expect(t, env, exitDone, ".*\noutcome   not followed, so its result on the device is not known; worker outcome follow N orders a look at the device\n.*", "", "status", "N")
	// Of a dead one there is nothing to say.
	accepted(t, w.js, "X", func(r *record.Record) { r.State, r.Reason = record.Dead, "not_found" })
	if r := expect(t, env, exitDone, ".*", "", "status", "X"); strings.Contains(r.out, "outcome ") {
		t.Errorf("of a dead request:\n%s", r.out)
	}

	// The queue: those that are open, by age.
	for i, age := range []time.Duration{time.Minute, 10 * time.Minute, 3 * time.Hour, 9 * time.Hour, 100 * time.Hour} {
		documentOf(t, w.js, fmt.Sprint("Q", i), func(d *outcome.Document) { d.AcceptedAt = time.Now().UTC().Add(-age) })
	}
	documentOf(t, w.js, "Q-done", is(outcome.Done, outcome.Unlocked))
	for _, key := range []string{"default.garbled", "other.A"} {
		lieOver(t, w.js, names.OutcomeBucket(), key)
	}
	documentOf(t, w.js, "foreign", func(d *outcome.Document) { d.Tenant = "other" })
	r = expect(t, env, exitDone, ".*followed    6: 2 under 2m, 1 under 15m, 1 under 8h, 2 older\n\n +AGE  ID .*\n +100h.*Q4.*wake.*Q3.*Q2.*Q1.*", "", "status")
	if strings.Contains(r.out, "Q-done") || strings.Contains(r.out, "foreign") {
		t.Errorf("what is not open, or not the tenant's:\n%s", r.out)
	}
	r = expect(t, env, exitDone, ".*", "", "status", "-o", "json")
	if f, ok := objects(t, r.out)[0]["following"].(map[string]any); !ok || f["open"] != 6.0 || f["older"] != 2.0 || len(f["oldest"].([]any)) != 6 {
		t.Errorf("following:\n%s", r.out)
	}
	// What was accepted longer ago than requests are followed is none of it.
	expect(t, env, exitDone, ".*followed    5: .*", "", "status", "--follow-for", "50h")

	if err := w.js.DeleteKeyValue(w.ctx, names.OutcomeBucket()); err != nil {
		t.Fatal(err)
	}
	expect(t, env, exitDone, ".*followed    nothing: the bucket of outcomes is missing; worker setup creates it\n", "", "status")
	expect(t, env, exitDone, ".*outcome   not followed: outcome default.A: key-value bucket .*worker setup creates it\n.*", "", "status", "A")
}

func TestOutcomeListAndShow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	env := w.env()
	expect(t, env, exitDone, "", "worker: no outcome\n", "outcome", "list")
	other := graphsim.GoodDevice(2)
	ago := func(d time.Duration) time.Time { return time.Now().UTC().Add(-d) }
	documentOf(t, w.js, "OLD", func(d *outcome.Document) {
		is(outcome.Failed, outcome.CheckPolicy)(d)
		d.AcceptedAt, d.ManagedDeviceID, d.ErrorCode, d.ErrorCodeHex, d.Platform = ago(50*time.Hour), other, -2147023728, "0x80070490", outcome.Android
	})
	documentOf(t, w.js, "a b", func(d *outcome.Document) { d.AcceptedAt, d.RequestedBy = ago(2*time.Hour), "jo\x1b]0;x\a\u202e" })
	documentOf(t, w.js, "NEW", is(outcome.Active, outcome.Wake))
	documentOf(t, w.js, "NEW", is(outcome.Done, outcome.Unlocked)) // replaces it
	lieOver(t, w.js, names.OutcomeBucket(), "default.NEW")
	lieOver(t, w.js, names.OutcomeBucket(), "default.garbled")
	documentOf(t, w.js, "foreign", func(d *outcome.Document) { d.Tenant = "other" })
	documentOf(t, w.js, "gone", func(*outcome.Document) {})
	kv, err := w.js.KeyValue(w.ctx, names.OutcomeBucket())
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(w.ctx, "default.gone"); err != nil {
		t.Fatal(err)
	}

	r := expect(t, env, exitDone, "ACCEPTED .*failed .*OLD .*check_policy.*Android .*0x80070490\n.*pending .*a b .*\n.*done .*NEW .*unlocked.*\n", "", "outcome", "list")
	if strings.Count(r.out, "\n") != 4 {
		t.Errorf("other lines:\n%s", r.out)
	}
	for _, c := range []struct {
		args []string
		ids  string
	}{
		{nil, "OLD a b NEW"},
		{[]string{"--open"}, "a b"},
		{[]string{"--outcome", "done"}, "NEW"},
		{[]string{"--outcome", "active"}, ""},
		{[]string{"--since", "3h"}, "a b NEW"},
		{[]string{"--device", strings.ToUpper(other)}, "OLD"},
		{[]string{"--limit", "1"}, "OLD"},
		{[]string{"--limit", "1", "--since", "3h"}, "a b"},
		{[]string{"a b", "NEW"}, "a b NEW"},
	} {
		r := expect(t, env, exitDone, ".*", "", append([]string{"outcome", "list", "-o", "json"}, c.args...)...)
		var ids []string
		for _, o := range objects(t, r.out) {
			ids = append(ids, fmt.Sprint(o["id"]))
		}
		if got := strings.Join(ids, " "); got != c.ids {
			t.Errorf("%q: %q, want %q", c.args, got, c.ids)
		}
	}
	expect(t, env, exitFailed, ".*NEW.*", `worker: foreign: no such outcome\nworker: no\\u001bpe: no such outcome\n`, "outcome", "list", "NEW", "foreign", "no\x1bpe")

	expect(t, env, exitDone, "request    OLD\ndevice     "+other+", Android\noutcome    failed\nnext step  check_policy\ntext       .*decided    .*, 41s after it was accepted\nerror      0x80070490 \\(-2147023728\\)\n.*",
		"", "outcome", "show", "OLD")
	r = expect(t, env, exitDone, `.*wanted by  jo\\u001b\]0;x\\u0007\\u202e\n.*`, "", "outcome", "show", "a b")
	if strings.ContainsAny(r.out, "\x1b\a") {
		t.Errorf("raw: %q", r.out)
	}
	r = expect(t, env, exitDone, ".*", "", "outcome", "show", "a b", "-o", "json")
	if strings.ContainsAny(r.out, "\x1b\a\u202e") || objects(t, r.out)[0]["requestedBy"] != "jo\x1b]0;x\a\u202e" {
		t.Errorf("raw, or lost: %q", r.out)
	}
	// What lies over it is passed over; what was never there, or is another tenant's, is not.
	expect(t, env, exitDone, "request    NEW\n.*outcome    done\n.*", "", "outcome", "show", "NEW")
	expect(t, env, exitFailed, "request    NEW\n.*", "worker: nope has no outcome; worker status nope shows the request\n", "outcome", "show", "nope", "NEW")
	expect(t, env, exitFailed, "", "worker: foreign has no outcome; .*", "outcome", "show", "foreign")
	expect(t, env, exitFailed, "", "worker: garbled has no outcome; .*", "outcome", "show", "garbled")

	if err := w.js.DeleteKeyValue(w.ctx, names.OutcomeBucket()); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"list"}, {"show", "NEW"}} {
		expect(t, env, exitFailed, "", "worker: .*key-value bucket passcode-resets-outcomes: it was not found, so accepted requests are not followed; worker setup creates it\n",
			append([]string{"outcome"}, args...)...)
	}
}

// alarms reads the alarms on the follow stream.
func (w *world) alarms() (out []outcome.Alarm) {
	w.t.Helper()
	for _, m := range w.messages(names.FollowStream) {
		a, err := outcome.ParseAlarm(strings.TrimPrefix(m.Subject, names.FollowSubject+"."), m.Data, m.Time)
		if err != nil {
			w.t.Errorf("%s %s: %v", m.Subject, m.Data, err)
		}
		out = append(out, a)
	}
	return out
}

func TestOutcomeFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	env := w.env()
	expect(t, env, exitDone, "", "worker: no accepted request\n", "outcome", "follow", "--since", "24h")

	aged := func(d time.Duration) func(*record.Record) {
		return func(r *record.Record) {
			r.ReceivedAt, r.AttemptedAt, r.FinishedAt = r.ReceivedAt.Add(-d), r.AttemptedAt.Add(-d), r.FinishedAt.Add(-d)
		}
	}
	none := accepted(t, w.js, "none", func(r *record.Record) { aged(time.Hour)(r); r.Followed = false })
	accepted(t, w.js, "pending", aged(30*time.Minute))
	documentOf(t, w.js, "pending", is(outcome.Pending, outcome.Sync))
	accepted(t, w.js, "timed_out", aged(20*time.Minute))
	documentOf(t, w.js, "timed_out", is(outcome.TimedOut, outcome.GaveUp))
	accepted(t, w.js, "undetermined", func(r *record.Record) { aged(10 * time.Minute)(r); r.Verified = true })
	documentOf(t, w.js, "undetermined", is(outcome.Undetermined, outcome.LookItUp))
	accepted(t, w.js, "earlier", aged(5*time.Minute))
	documentOf(t, w.js, "earlier", func(d *outcome.Document) {
		is(outcome.Done, outcome.Unlocked)(d)
		d.ClientRequestID, d.AcceptedAt = uuid.NewString(), d.AcceptedAt.Add(-time.Hour)
	})
	// These have had their word, or will.
	accepted(t, w.js, "done", aged(4*time.Minute))
	documentOf(t, w.js, "done", is(outcome.Done, outcome.Unlocked))
	accepted(t, w.js, "later", aged(3*time.Minute))
	documentOf(t, w.js, "later", func(d *outcome.Document) {
		d.ClientRequestID, d.AcceptedAt = uuid.NewString(), d.AcceptedAt.Add(time.Minute)
	})
	// These are none of it.
	accepted(t, w.js, "dead", func(r *record.Record) { r.State, r.Reason = record.Dead, "not_found" })
	accepted(t, w.js, "old", aged(300*time.Hour))
	accepted(t, w.js, "foreign", func(r *record.Record) { r.Tenant = "other" })
	lieOver(t, w.js, names.Bucket, "default.none")
	lieOver(t, w.js, names.Bucket, "default.garbled")

	expect(t, env, exitDone, "would follow  none, until .*\n.*", "worker: 2 ended, 5 would follow\n", "outcome", "follow", "--since", "24h", "--dry-run")
	if n := len(w.alarms()); n != 0 {
		t.Errorf("%d alarms of a dry run", n)
	}
	r := expect(t, env, exitDone, ".*", "worker: 2 ended, 5 followed\n", "outcome", "follow", "--since", "24h", "-o", "json")
	got := map[string]map[string]any{}
	for _, o := range objects(t, r.out) {
		got[fmt.Sprint(o["id"])] = o
	}
	if len(got) != 5 || got["pending"]["outcome"] != "pending" || got["none"]["action"] != "followed" || got["none"]["outcome"] != nil {
		t.Errorf("results:\n%s", r.out)
	}
	alarms := map[string]outcome.Alarm{}
	for _, a := range w.alarms() {
		alarms[a.ID] = a
	}
	if len(alarms) != 5 {
		t.Errorf("alarms: %v", alarms)
	}
	a := alarms["none"]
	if a.Tenant != "default" || a.Device != none.ManagedDeviceID || a.ClientRequestID != none.ClientRequestID || !a.AcceptedAt.Equal(none.FinishedAt) ||
		!a.AttemptedAt.Equal(none.AttemptedAt) || a.Step != 0 || time.Since(a.DueAt).Abs() > time.Minute || a.Number != 8 {
		t.Errorf("the alarm: %+v", a)
	}
	if want := none.FinishedAt.Add(168 * time.Hour); !a.Until.Equal(want) {
		t.Errorf("until %s, want %s", a.Until, want)
	}
	// Each order has a message id of its own, so that none is taken for a copy.
	expect(t, env, exitDone, "followed      pending, until .*; so far it is pending\n", "worker: 1 followed\n", "outcome", "follow", "pending")
	if n := len(w.alarms()); n != 6 {
		t.Errorf("%d alarms after a second order", n)
	}
	expect(t, env, exitDone, "followed      old, until .*\n", "worker: 1 followed\n", "outcome", "follow", "old", "--for", "48h")
	for _, a := range w.alarms() {
		if left := time.Until(a.Until); a.ID == "old" && (left < 47*time.Hour || left > 49*time.Hour) {
			t.Errorf("an old one is followed for %s", left)
		}
	}
	r = expect(t, env, exitDone, ".*", "worker: 2 followed\n", "outcome", "follow", "--since", "24h", "--limit", "2", "--rate", "100/1s")
	if strings.Count(r.out, "\n") != 2 || !strings.HasPrefix(r.out, "followed      none, ") {
		t.Errorf("a limit of 2:\n%s", r.out)
	}
	// What was named and is not accepted.
	before := len(w.alarms())
	expect(t, env, exitFailed, `refused       dead: it is not accepted but dead, so there is nothing to follow\nrefused       no\\u001bpe: there is no record: .*\nrefused       garbled: .*\n`+
		`refused       foreign: there is no record: .*\nended         done: done\n`, "worker: 1 ended, 4 refused\n", "outcome", "follow", "dead", "no\x1bpe", "garbled", "foreign", "done")
	if n := len(w.alarms()); n != before {
		t.Errorf("%d alarms more", n-before)
	}
	if err := w.js.DeleteStream(w.ctx, names.FollowStream); err != nil {
		t.Fatal(err)
	}
	expect(t, env, exitFailed, "", "worker: no stream takes alarms: run worker setup if it has not been run, .*\n", "outcome", "follow", "none")
}

// TestOutcomeFollowLostReply loses the PubAck of an ordered alarm: it is asked for again,
// and the alarm is stored once.
func TestOutcomeFollowLostReply(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	accepted(t, w.js, "a", func(*record.Record) {})
	proxy, err := natstest.StartProxy(w.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	lost := proxy.SwallowNext(1, natstest.PubAck(names.FollowStream))
	expect(t, w.env("NATS_URL", proxy.URL()), exitDone, "followed      a, until .*\n", "(worker: so far: .*\n)*worker: 1 followed\n", "outcome", "follow", "a")
	select {
	case <-lost:
	default:
		t.Error("no reply was lost")
	}
	if all := w.alarms(); len(all) != 1 {
		t.Errorf("%d alarms", len(all))
	}
}

// TestOutcomeFollowsToTheEnd has a request that was not followed looked at.
func TestOutcomeFollowsToTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	p := launch(t, w.env("WORKER_FOLLOW", "off"), "run")
	p.awaitReady()
	expect(t, w.env(), exitFailed, "A\n(A  attempt .*\n)?A  accepted: .*\n", "worker: A is accepted but not followed.*", "send", "--id", "A", "--device", graphsim.GoodDevice(1), "--follow")
	p.stop()
	p = launch(t, w.env("WORKER_FOLLOW", "on"), "run")
	p.awaitReady()
	expect(t, w.env(), exitDone, "followed      A, until .*\n", "worker: 1 followed\n", "outcome", "follow", "A")
	await(t, "the device's word", func() bool {
		return strings.Contains(runFor(t, w.env(), "outcome", "list", "-o", "json").out, `"outcome":"done"`)
	})
	expect(t, w.env(), exitDone, "A\nA  was accepted before, .*\nA  done since .*\n", "", "send", "--id", "A", "--device", graphsim.GoodDevice(1), "--follow")
	p.stop()
	w.checkSim()
}

func TestCheckDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	device := graphsim.GoodDevice(1)
	env := w.env("NATS_URL", "nats://127.0.0.1:1") // it is not needed
	shape := func(l graphsim.ActionList) (preconditions, string) {
		w.sim.ShowActions(device, l)
		r := runFor(t, env, "check", "--device", strings.ToUpper(device), "-o", "json")
		for _, s := range w.sim.Secrets() {
			if strings.Contains(r.out+r.err, s) {
				t.Errorf("it holds the secret %s:\n%s%s", s, r.out, r.err)
			}
		}
		out := preconditions{}
		for _, l := range objects(t, r.out) {
			what := fmt.Sprint(l["what"])
			out[what] = append(out[what], l)
		}
		if r.code != exitDone {
			t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
		}
		return out, r.out
	}
	p, _ := shape(graphsim.ListSeveral)
	p.is(t, "device", "ok", "operating system \"")
	p.is(t, "action 1", "ok", "takes it for")
	_, text := shape(graphsim.ListOthers)
	if !strings.Contains(text, "something other than a reset") {
		t.Errorf("other actions:\n%s", text)
	}
	_, text = shape(graphsim.ListUnknownName)
	if !strings.Contains(text, "WORKER_ACTION_NAMES") {
		t.Errorf("an unknown name:\n%s", text)
	}
	p, _ = shape(graphsim.ListNull)
	p.is(t, "actions", "warning", "missing or null")
	if strings.Contains(text, "right to publish") {
		t.Error("NATS was looked at, too")
	}
	expect(t, env, exitFailed, ".*failed  device: .*HTTP 404.*check that this is the Intune device id.*", "", "check", "--device", graphsim.FaultDevice(404, 0, 0, 1))
	expect(t, env, exitUsage, "", "worker: .*--device: .*is not a GUID.*", "check", "--device", "x")
}

func TestCheckFollowing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	p := runCheck(t, w.env(), exitDone)
	p.is(t, "consumers follow-0 to follow-9", "ok", "0 alarms")
	if err := w.js.DeleteConsumer(w.ctx, names.FollowStream, topology.FollowConsumer(3)); err != nil {
		t.Fatal(err)
	}
	cfg := topology.Layout{}.FollowStep(names, 4)
	cfg.MaxDeliver = 5
	if _, err := w.js.UpdateConsumer(w.ctx, names.FollowStream, cfg); err != nil {
		t.Fatal(err)
	}
	p = runCheck(t, w.env(), exitDone)
	p.is(t, "consumers follow-0 to follow-9", "warning", "does not exist yet; worker run will create it")
	p.is(t, "consumer follow-4", "warning", "at most 5 times")
	p = runCheck(t, w.env("WORKER_SETUP", "false"), exitDone)
	p.is(t, "consumers follow-0 to follow-9", "warning", "accepted requests are not followed")
}

// The JSON form of the document is a contract, which the tools do not change.
func TestOutcomeJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	d := documentOf(t, w.js, "A", is(outcome.Done, outcome.Unlocked))
	want, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if r := runFor(t, w.env(), "outcome", "show", "A", "-o", "json"); r.out != string(want)+"\n" {
		t.Errorf("%s\nwant %s", r.out, want)
	}
}
