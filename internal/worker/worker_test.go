package worker

import (
	"testing"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
)

func TestAccepted(t *testing.T) {
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	dev := graphsim.GoodDevice(1)
	r.publish(reset("INC1", dev), nil)
	rec := r.awaitState("INC1", record.Accepted)
	r.awaitEmpty()
	if got := r.sim.Resets(dev); got != 1 {
		t.Errorf("the device was reset %d times", got)
	}
	if rec.Status != 204 || rec.Attempts != 1 || rec.ManagedDeviceID != dev || rec.Sequence != 1 || rec.FinishedAt.IsZero() {
		t.Errorf("record: %+v", rec)
	}
	if v := r.sim.Violations(); len(v) > 0 {
		t.Errorf("violations: %v", v)
	}
}
