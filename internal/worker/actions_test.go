package worker

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// TestLookUp plays the lists of actions that a device may have after a call
// whose answer was lost, with the call executed and not: what is no reset does
// not pass for one, and a reset is not repeated for what surrounds it.
func TestLookUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	lists := []graphsim.ActionList{graphsim.ListPlain, graphsim.ListRenamed, graphsim.ListOthers, graphsim.ListSeveral}
	for _, l := range lists {
		for id, code := range map[string]int{"lost": 701, "done": 702} {
			r.publish(reset(id+string(rune('a'+l)), graphsim.FaultDevice(code, 1, int(l), 1)), nil)
		}
	}
	for _, l := range lists {
		for id, code := range map[string]int{"lost": 701, "done": 702} {
			device := graphsim.FaultDevice(code, 1, int(l), 1)
			rec := r.awaitState(id+string(rune('a'+l)), record.Accepted)
			if n := r.sim.Resets(device); n != 1 || rec.Verified != (code == 702) {
				t.Errorf("%s: %d resets, record %+v", device, n, rec)
			}
		}
	}
	r.noSecrets()
}

// TestLookUpInDoubt: what leaves a doubt allows no further call, holds nobody,
// and is looked up again until the doubt is gone.
func TestLookUpInDoubt(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	lists := []graphsim.ActionList{graphsim.ListStartNull, graphsim.ListStartZero, graphsim.ListStartOdd, graphsim.ListNull,
		graphsim.ListMissing, graphsim.ListUnknownName}
	each := func(f func(id, device string, executed bool)) {
		for _, l := range lists {
			f("lost"+string(rune('a'+l)), graphsim.FaultDevice(701, 1, int(l), 1), false)
			f("done"+string(rune('a'+l)), graphsim.FaultDevice(702, 1, int(l), 1), true)
		}
	}
	good := 0
	each(func(id, device string, _ bool) {
		r.publish(reset(id, device), nil)
		r.awaitState(id, record.Verifying)
		good++ // so that the lost calls in a row are no outage
		r.publish(reset(fmt.Sprint("good", good), graphsim.GoodDevice(good)), nil)
		r.awaitState(fmt.Sprint("good", good), record.Accepted)
	})
	each(func(id, device string, _ bool) {
		r.await("three looks at "+device, func() bool { return r.calls(http.MethodGet, device) >= 3 })
	})
	each(func(id, device string, _ bool) {
		if rec := r.record(id); rec.State != record.Verifying || r.calls(http.MethodPost, device) != 1 {
			t.Errorf("%s: %d calls, record %+v", device, r.calls(http.MethodPost, device), rec)
		}
	})
	// The last of them is counted a little after Graph was asked.
	r.await("the looks to be counted", func() bool {
		return r.metric(`verifications_total{result="failed",tenant="default"}`) >= float64(6*len(lists)) && r.metric("unknown_action_names_total") >= 6
	})
	if n := strings.Count(r.log.String(), `\"renewDevicePin\"`); n != 1 {
		t.Errorf("the unknown name is in the log %d times", n)
	}
	if strings.Contains(r.log.String(), "hold:") {
		t.Error("the doubt of some held everybody")
	}
	each(func(_, device string, _ bool) { r.sim.ShowActions(device, graphsim.ListPlain) })
	each(func(id, device string, executed bool) {
		if rec := r.awaitState(id, record.Accepted); r.sim.Resets(device) != 1 || rec.Verified != executed {
			t.Errorf("%s: %d resets, record %+v", device, r.sim.Resets(device), rec)
		}
	})
	r.noSecrets()
}

// TestConfiguredActionName: a name that is configured is a reset's.
func TestConfiguredActionName(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.ActionNames = []string{"RenewDevicePIN"} })
	r.start()
	device := graphsim.FaultDevice(702, 1, int(graphsim.ListUnknownName), 1)
	r.publish(reset("INC1", device), nil)
	if rec := r.awaitState("INC1", record.Accepted); !rec.Verified || r.sim.Resets(device) != 1 {
		t.Errorf("%d resets, record %+v", r.sim.Resets(device), rec)
	}
	if n := r.metric("unknown_action_names_total"); n != 0 {
		t.Errorf("%v unknown names", n)
	}
}

// TestExpiredInDoubt: a request that expires while its outcome is in doubt is
// one that a person has to decide.
func TestExpiredInDoubt(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Policy.MaxAge = 6 * time.Second })
	r.start()
	device := graphsim.FaultDevice(702, 1, int(graphsim.ListNull), 1)
	r.publish(reset("INC1", device), nil)
	rec := r.awaitState("INC1", record.Dead)
	if rec.Reason != string(verdict.ReasonOutcomeUnknown) || !strings.Contains(rec.Detail, "list of actions is missing") || r.calls(http.MethodPost, device) != 1 {
		t.Errorf("record %+v", rec)
	}
}

// noSecrets fails where a secret of the simulator's is in the log, in a record
// or in a dead letter.
func (r *rig) noSecrets() {
	r.t.Helper()
	texts := []string{r.log.String()}
	for _, name := range []string{"KV_" + r.names.Bucket, r.names.DeadStream} {
		s, err := r.js.Stream(r.t.Context(), name)
		if err != nil {
			r.t.Fatal(err)
		}
		info := s.CachedInfo().State
		for seq := info.FirstSeq; seq <= info.LastSeq; seq++ {
			if m, err := s.GetMsg(r.t.Context(), seq); err == nil {
				texts = append(texts, string(m.Data), headerText(m))
			}
		}
	}
	_, metrics := r.get("/metrics")
	_, ready := r.get("/readyz")
	for _, secret := range r.sim.Secrets() {
		for _, text := range append(texts, metrics, ready) {
			if strings.Contains(text, secret) {
				r.t.Errorf("%q is told", secret)
			}
		}
	}
}

func headerText(m *jetstream.RawStreamMsg) string {
	var b strings.Builder
	for _, values := range m.Header {
		b.WriteString(strings.Join(values, "\n"))
	}
	return b.String()
}
