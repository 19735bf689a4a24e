package worker

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"passcode-worker/internal/follow"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// TestFollowingHarmsNoReset: what following needs is missing, full or refused; requests
// are accepted as if it were off, and each that is not followed is counted.
func TestFollowingHarmsNoReset(t *testing.T) {
	t.Parallel()
	const n = 40
	for name, test := range map[string]struct {
		setup bool
		spoil func(r *rig)
		lost  float64
	}{
		"stream missing": {false, func(r *rig) { r.drop(r.names.FollowStream) }, n},
		"stream full":    {true, func(r *rig) { r.limit(r.names.FollowStream, true) }, n},
		"bucket missing": {false, func(r *rig) { r.drop("KV_" + r.names.OutcomeBucket()) }, 0},
		"consumer missing": {false, func(r *rig) {
			if err := r.js.DeleteConsumer(r.t.Context(), r.names.FollowStream, topology.FollowConsumer(0)); err != nil {
				r.t.Fatal(err)
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := followRig(t, graphsim.Config{}, func(c *Config) { c.Setup = test.setup })
			if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
				t.Fatal(err)
			}
			test.spoil(r)
			r.start()
			begun := time.Now()
			for i := range n {
				r.publish(reset(fmt.Sprint("a", i), graphsim.GoodDevice(i)), nil)
			}
			r.awaitEmpty()
			// The first ones may have waited for a second; nobody else has.
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("%d requests took %s", n, took)
			}
			for i := range n {
				r.awaitState(fmt.Sprint("a", i), record.Accepted)
			}
			r.await("the requests that are not followed to be counted", func() bool {
				return r.metric(`follow_lost_total{tenant="default"}`) == test.lost
			})
		})
	}
}

// drop deletes a stream.
func (r *rig) drop(stream string) {
	r.t.Helper()
	if err := r.js.DeleteStream(r.t.Context(), stream); err != nil {
		r.t.Fatal(err)
	}
}

// TestFollowStreamComesBack: following begins once what it needs is there, also what was
// accepted before and has an alarm.
func TestFollowStreamComesBack(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, func(c *Config) { c.Setup = false })
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	r.drop("KV_" + r.names.OutcomeBucket())
	r.start()
	r.publish(reset("a", graphsim.GoodDevice(1)), nil)
	r.awaitState("a", record.Accepted)
	if !strings.Contains(r.log.String(), "accepted requests are not followed at present") {
		t.Error("nothing is said of what is missing")
	}
	if _, err := topology.SetupFollow(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	r.awaitOutcome("a", outcome.Done)
	// The consumers go while it works.
	for step := range topology.FollowSteps {
		if err := r.js.DeleteConsumer(t.Context(), r.names.FollowStream, topology.FollowConsumer(step)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := topology.SetupFollow(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	r.publish(reset("b", graphsim.GoodDevice(2)), nil)
	r.awaitOutcome("b", outcome.Done)
}

// TestForgedAlarms: what others store on the follow stream, or over an outcome, stops no
// look and changes no outcome.
func TestForgedAlarms(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	r.start()
	r.await("the follow stream", func() bool { _, err := r.js.Stream(t.Context(), r.names.FollowStream); return err == nil })
	now := time.Now().UTC()
	good := outcome.Alarm{
		Tenant: "default", ID: "nobody", Device: graphsim.GoodDevice(9), ClientRequestID: "c11e4700-0000-4000-8000-000000000001",
		AttemptedAt: now, AcceptedAt: now, DueAt: now.Add(1000 * time.Hour),
	}
	value, err := outcome.MarshalAlarm(good)
	if err != nil {
		t.Fatal(err)
	}
	old := good
	old.ID, old.AcceptedAt, old.AttemptedAt = "old", now.Add(-1000*time.Hour), now.Add(-1000*time.Hour)
	over, err := outcome.MarshalAlarm(old)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 { // more than may be away at a time
		for tokens, body := range map[string]string{
			"0.default": "no alarm", "99.default": string(value), "x.default": string(value), "0.other": string(value), "1.other": `{"tenant":"other"}`,
			"2.default": strings.Replace(string(value), "default", "other", 1),
		} {
			if _, err := r.js.Publish(t.Context(), r.names.FollowSubject+"."+tokens, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for step, body := range map[int][]byte{0: value, 3: over} {
		if _, err := r.js.Publish(t.Context(), fmt.Sprintf("%s.%d.default", r.names.FollowSubject, step), body); err != nil {
			t.Fatal(err)
		}
	}
	told := r.toldTwice()
	for i := range 20 {
		// The server stores its answer to this publisher over the outcome.
		m := &nats.Msg{Subject: r.names.Filter(), Reply: "$KV." + r.names.OutcomeBucket() + ".default.a" + fmt.Sprint(i),
			Data: []byte(reset(fmt.Sprint("a", i), graphsim.StoryDevice(graphsim.StoryDone, 1, 0, i)))}
		if err := r.nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		r.awaitOutcome(fmt.Sprint("a", i), outcome.Done)
	}
	for id, n := range told() {
		if n != 1 {
			t.Errorf("%s was told %d ends", id, n)
		}
	}
	if got := r.metric("follow_stray_alarms_total"); got < 900 {
		t.Errorf("%v stray alarms are counted", got)
	}
	r.await("the one without a record to be given up", func() bool { return r.metric(`follow_lost_total{tenant="default"}`) == 1 })
	if d := r.outcome("nobody"); d.Outcome != "" {
		t.Errorf("a request that never was has an outcome: %+v", d)
	}
	// An end that was told stays, whatever is stored over it.
	for range 3 {
		if _, err := r.js.Publish(t.Context(), "$KV."+r.names.OutcomeBucket()+".default.a0", []byte(`{"outcome":"failed"}`)); err != nil {
			t.Fatal(err)
		}
	}
	rec := r.record("a0")
	a := outcome.Of(rec)
	a.DueAt = now
	if err := follow.Publish(t.Context(), r.js, r.names.FollowSubject, r.names.FollowStream, a); err != nil {
		t.Fatal(err)
	}
	if d := r.outcome("a0"); d.Outcome != outcome.Done {
		t.Errorf("%+v", d)
	}
}

// TestFollowHeld: no device is looked at while the tenant is held and requests wait; all
// go on after.
func TestFollowHeld(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	r.start()
	for i := range 5 {
		r.publish(reset(fmt.Sprint("a", i), graphsim.StoryDevice(graphsim.StoryDone, 3, 0, i)), nil)
	}
	for i := range 5 {
		r.awaitState(fmt.Sprint("a", i), record.Accepted)
	}
	r.sim.SetOutage(graphsim.Outage503)
	for i := range 8 {
		r.publish(reset(fmt.Sprint("held", i), graphsim.GoodDevice(7+i)), nil)
	}
	r.await("a hold", r.held)
	// What the hold was is read once a second.
	<-time.After(2 * time.Second)
	before := r.sim.Status().Gets
	<-time.After(2 * time.Second)
	if n := r.sim.Status().Gets - before; n > 0 {
		t.Errorf("%d looks in a hold", n)
	}
	r.sim.SetOutage(graphsim.OutageNone)
	for i := range 5 {
		r.awaitOutcome(fmt.Sprint("a", i), outcome.Done)
	}
	for i := range 8 {
		r.awaitOutcome(fmt.Sprint("held", i), outcome.Done)
	}
}

// TestFollowThrottled: Graph grants few looks. They come late, none comes while Graph has
// asked for a pause, and resets go on.
func TestFollowThrottled(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{ReadQuota: 5, Window: 2 * time.Second, RetryAfter: graphsim.Seconds}, nil)
	r.start()
	const n = 30
	for i := range n {
		r.publish(reset(fmt.Sprint("a", i), graphsim.GoodDevice(i)), nil)
	}
	r.awaitEmpty()
	for i := range n {
		r.awaitOutcome(fmt.Sprint("a", i), outcome.Done)
	}
	if got := r.metric(`follow_looks_total{result="throttled"}`); got == 0 {
		t.Error("no look was throttled")
	}
	for _, v := range r.sim.Violations() {
		t.Error(v)
	}
}

// TestFollowNotPermitted: a token without the right to read devices.
func TestFollowNotPermitted(t *testing.T) {
	t.Parallel()
	t.Run("auto", func(t *testing.T) {
		t.Parallel()
		r := followRig(t, graphsim.Config{Roles: []string{graphsim.RoleReset}}, func(c *Config) { c.Follow = FollowAuto })
		r.start()
		for i := range 3 {
			r.publish(reset(fmt.Sprint("a", i), graphsim.GoodDevice(i)), nil)
			r.awaitState(fmt.Sprint("a", i), record.Accepted)
		}
		if rec := r.record("a1"); rec.Followed || r.alarms() > 0 {
			t.Errorf("it is followed: %+v", rec)
		}
		if n := strings.Count(r.log.String(), "accepted requests are not followed, so it stays unknown"); n != 1 {
			t.Errorf("it was said %d times", n)
		}
		if got := r.metric(`follow_lost_total{tenant="default"}`); got != 0 {
			t.Errorf("%v are counted as lost", got)
		}
	})
	t.Run("on", func(t *testing.T) {
		t.Parallel()
		r := followRig(t, graphsim.Config{Roles: []string{graphsim.RoleReset}}, func(c *Config) { c.FollowPlan.For = 3 * time.Second })
		r.start()
		r.publish(reset("a", graphsim.GoodDevice(1)), nil)
		d := r.awaitOutcome("a", outcome.Undetermined)
		if d.NextStep != outcome.LookItUp {
			t.Errorf("%+v", d)
		}
		if got := r.metric(`follow_looks_total{result="not_permitted"}`); got == 0 {
			t.Error("no look was refused")
		}
	})
}

// TestFollowOrdered: a device does it after the time was over. An operator's order to look
// again replaces the outcome, once.
func TestFollowOrdered(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, func(c *Config) { c.FollowPlan.For = time.Second })
	told := r.toldTwice()
	r.start()
	device := graphsim.StoryDevice(graphsim.StoryDone, 3600, 0, 1)
	r.publish(reset("a", device), nil)
	first := r.awaitOutcome("a", outcome.TimedOut)
	r.sim.Advance(2 * time.Hour)
	order := func() {
		now := time.Now().UTC()
		a := outcome.Of(r.record("a"))
		a.Order, a.Until, a.DueAt = nuid.Next(), now.Add(time.Hour), now
		if err := follow.Publish(t.Context(), r.js, r.names.FollowSubject, r.names.FollowStream, a); err != nil {
			t.Fatal(err)
		}
	}
	order()
	d := r.awaitOutcome("a", outcome.Done)
	if d.DecidedAt.Equal(first.DecidedAt) || d.StartedAt.IsZero() {
		t.Errorf("%+v", d)
	}
	order()
	r.await("no alarm", func() bool { return r.alarms() == 0 })
	if again := r.outcome("a"); again != d {
		t.Errorf("an end that the device told changed: %+v", again)
	}
	if n := told()["a"]; n != 2 {
		t.Errorf("%d ends were told: one of time, one of the device", n)
	}
}

// TestRefusalExplained: the kind of device that Graph refuses to reset is told in the dead
// letter, and nothing is refused beforehand.
func TestRefusalExplained(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	r.start()
	for id, test := range map[string]struct {
		variant int
		says    string
	}{
		"windows": {graphsim.StoryVariant(graphsim.Windows, graphsim.Company, ""), "it is a Windows device"},
		"user":    {graphsim.StoryVariant(graphsim.IOS, graphsim.Personal, "appleUserEnrollment"), "Apple User Enrollment"},
	} {
		device := graphsim.StoryDevice(graphsim.StoryDone, 1, test.variant, len(id))
		r.publish(reset(id, device), nil)
		r.awaitState(id, record.Dead)
		r.died(id, verdict.ReasonRejected, 1)
		if rec := r.record(id); !strings.Contains(rec.Detail, test.says) || r.calls(http.MethodPost, device) != 1 || r.calls(http.MethodGet, device) != 1 {
			t.Errorf("%s: %q after %d calls and %d looks", id, rec.Detail, r.calls(http.MethodPost, device), r.calls(http.MethodGet, device))
		}
	}
	// One that is not explained keeps its own words.
	plain := graphsim.FaultDevice(409, 0, 0, 1)
	r.publish(reset("plain", plain), nil)
	r.awaitState("plain", record.Dead)
	if rec := r.record("plain"); strings.Contains(rec.Detail, "it is ") {
		t.Errorf("%q", rec.Detail)
	}
	r.secrets()
}

// TestFollowAcrossReplicas: one of two replicas is stopped after the other; each request
// comes to one end.
func TestFollowAcrossReplicas(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	told := r.toldTwice()
	stop := r.start()
	const n = 30
	for i := range n {
		r.publish(reset(fmt.Sprint("a", i), graphsim.StoryDevice(graphsim.StoryDone, 1+i%5, 0, i)), nil)
	}
	r.awaitEmpty()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	second := r.cfg
	second.HTTPAddr = ""
	done := make(chan error, 1)
	go func() { done <- Run(ctx, second) }()
	stop()
	for i := range n {
		r.awaitOutcome(fmt.Sprint("a", i), outcome.Done)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for id, ends := range told() {
		if ends != 1 {
			t.Errorf("%s was told %d ends", id, ends)
		}
	}
}
