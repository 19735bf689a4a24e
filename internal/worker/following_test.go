package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
)

// faster is how much faster than in life devices are looked at in these tests: the
// first look is after a quarter of a second.
const faster = 60

// followRig is a rig that follows accepted requests.
func followRig(t *testing.T, sim graphsim.Config, change func(*Config)) *rig {
	t.Helper()
	return newRig(t, sim, func(c *Config) {
		c.Follow, c.FollowPlan = FollowOn, outcome.Plan{For: outcome.DefaultFor / faster, Faster: faster}
		if change != nil {
			change(c)
		}
	})
}

// outcome reads the outcome of an id; empty: there is none.
func (r *rig) outcome(id string) outcome.Document {
	r.t.Helper()
	store, err := outcome.Open(context.Background(), r.js, r.names.OutcomeBucket())
	if err != nil {
		if outcome.IsMissing(err) {
			return outcome.Document{}
		}
		r.t.Fatal(err)
	}
	d, _, err := store.Get(context.Background(), record.Key("default", id))
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// awaitOutcome waits for the end of a request on its device.
func (r *rig) awaitOutcome(id string, want outcome.Outcome) outcome.Document {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			_, m := r.get("/metrics")
			for line := range strings.Lines(m) {
				if strings.Contains(line, "passcode_reset_follow") {
					r.t.Log(line)
				}
			}
			r.t.Logf("outcome of %s: %+v, %d alarms", id, r.outcome(id), r.alarms())
		}
	}()
	r.await("outcome "+string(want)+" of "+id, func() bool { return r.outcome(id).Outcome == want })
	return r.outcome(id)
}

// alarms is how many alarms there are.
func (r *rig) alarms() uint64 {
	s, err := r.js.Stream(context.Background(), r.names.FollowStream)
	if err != nil {
		return 0
	}
	return s.CachedInfo().State.Msgs
}

func TestFollow(t *testing.T) {
	t.Parallel()
	r := followRig(t, graphsim.Config{}, nil)
	r.start()
	device := graphsim.GoodDevice(1)
	r.publish(reset("a", device), nil)
	r.awaitState("a", record.Accepted)
	d := r.awaitOutcome("a", outcome.Done)
	rec := r.record("a")
	if !d.Final || !d.AcceptedAt.Equal(rec.FinishedAt) || d.ClientRequestID != rec.ClientRequestID || !rec.Followed || d.ManagedDeviceID != device {
		t.Errorf("%+v\nof %+v", d, rec)
	}
	r.await("no alarm", func() bool { return r.alarms() == 0 })
	if got := r.metric(`outcomes_total{outcome="done",tenant="default"}`); got != 1 {
		t.Errorf("%v outcomes are counted", got)
	}
}

// TestFollowStories follows a device of each kind that the simulator plays, and holds
// the outcome to what the device was told to come to.
func TestFollowStories(t *testing.T) {
	t.Parallel()
	const length = 25 * time.Second
	r := followRig(t, graphsim.Config{}, func(c *Config) { c.FollowPlan.For = length })
	r.start()
	stories := map[string]string{} // id: device
	add := func(name string, story, seconds, variant int) {
		stories[name] = graphsim.StoryDevice(story, seconds, variant, len(stories)+1)
	}
	iPhone := graphsim.StoryVariant(graphsim.IOS, graphsim.Personal, "")
	for story, name := range []string{
		graphsim.StoryDone: "done", graphsim.StoryFailed: "failed", graphsim.StoryUnsupported: "unsupported", graphsim.StoryCanceled: "canceled",
		graphsim.StoryStuck: "stuck", graphsim.StoryAway: "away", graphsim.StoryLost: "lost", graphsim.StoryWiped: "wiped", graphsim.StoryRetired: "retired",
		graphsim.StoryRemoved: "removed", graphsim.StoryAbsentOnce: "absent", graphsim.StoryMoved: "moved", graphsim.StoryHidden: "hidden",
		graphsim.StoryTwice: "twice", graphsim.StorySuperseded: "superseded", graphsim.StoryDropped: "dropped", graphsim.StoryNewWord: "word",
		graphsim.StoryNewEnd: "end", graphsim.StoryNone: "none", graphsim.StoryActive: "active", graphsim.StoryRenamed: "renamed",
	} {
		add(name, story, 2, 0)
		add(name+"-ios", story, 1, iPhone)
	}
	for list := range 11 {
		add(fmt.Sprintf("list%d", list), graphsim.StoryList+list, 1, 0)
	}
	told := r.toldTwice()
	for id, device := range stories {
		r.publish(reset(id, device), nil)
	}
	for id, device := range stories {
		want := outcome.Outcome(graphsim.Told(device))
		d := r.awaitFinal(id)
		if d.Outcome != want {
			t.Errorf("%s, device %s: %s, it was told %s: %+v", id, device, d.Outcome, want, d)
		}
		if d.Text == "" || !slices.Contains(outcome.NextSteps(), d.NextStep) || strings.ContainsAny(d.Text, "{}") {
			t.Errorf("%s: next step %q, %q", id, d.NextStep, d.Text)
		}
		if state := r.sim.Device(device); len(state.Resets) == 0 || state.Resets[0].Foreign {
			t.Errorf("%s: %+v", id, state)
		}
	}
	r.await("no alarm", func() bool { return r.alarms() == 0 })
	for id, n := range told() {
		if n != 1 {
			t.Errorf("%s was told %d ends", id, n)
		}
	}
	r.secrets()
}

// awaitFinal waits for any end of a request on its device.
func (r *rig) awaitFinal(id string) outcome.Document {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			r.t.Logf("outcome of %s: %+v, %d alarms", id, r.outcome(id), r.alarms())
			s, _ := r.js.Stream(context.Background(), r.names.FollowStream)
			for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
				if m, err := s.GetMsg(context.Background(), seq); err == nil {
					r.t.Log(m.Subject, m.Time, m.Header, string(m.Data))
				}
			}
		}
	}()
	r.await("an outcome of "+id, func() bool { return r.outcome(id).Final })
	return r.outcome(id)
}

// toldTwice counts how often each request was told an end, by the events.
func (r *rig) toldTwice() (ends func() map[string]int) {
	r.t.Helper()
	var mu sync.Mutex
	count, last := map[string]int{}, map[string]outcome.Outcome{}
	sub, err := r.nc.Subscribe("passcode.reset.outcome.>", func(m *nats.Msg) {
		var d outcome.Document
		if json.Unmarshal(m.Data, &d) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if d.Final && last[d.ID] != d.Outcome {
			count[d.ID]++
		}
		last[d.ID] = d.Outcome
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = sub.Unsubscribe() })
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(count)
	}
}

// secrets fails where anything that a device's answer holds besides has come out: in a
// log, a record, an outcome, a letter, a metric or a page.
func (r *rig) secrets() {
	r.t.Helper()
	var all strings.Builder
	all.WriteString(r.log.String())
	for _, path := range []string{"/metrics", "/readyz", "/"} {
		_, body := r.get(path)
		all.WriteString(body)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	defer cancel()
	for info := range r.js.ListStreams(ctx).Info() {
		s, err := r.js.Stream(ctx, info.Config.Name)
		if err != nil {
			r.t.Fatal(err)
		}
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
			if m, err := s.GetMsg(ctx, seq); err == nil {
				fmt.Fprintln(&all, m.Header, string(m.Data))
			}
		}
	}
	for _, secret := range r.sim.Secrets() {
		if strings.Contains(all.String(), secret) {
			r.t.Errorf("%q has come out", secret)
		}
	}
}
