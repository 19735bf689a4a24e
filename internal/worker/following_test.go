package worker

import (
	"context"
	"strings"
	"testing"

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
