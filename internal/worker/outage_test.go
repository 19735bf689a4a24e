package worker

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
)

// TestOutages: a fault of the whole system dead-letters nothing, is named, and
// everything is done soon after its end, no device twice.
func TestOutages(t *testing.T) {
	t.Parallel()
	const requests = 60
	for _, row := range []struct {
		outage graphsim.Outage
		cause  metrics.Cause
		hold   time.Duration // how long the outage lasts once it is noticed
	}{
		{graphsim.OutageSecretExpired, metrics.CauseCredentials, 2 * time.Second},
		{graphsim.OutageTokenDown, metrics.CauseCredentials, 2 * time.Second},
		{graphsim.OutagePermission, metrics.CausePermission, 2 * time.Second},
		{graphsim.Outage503, metrics.CauseGraphUnavailable, 2 * time.Second},
		{graphsim.Outage503RetryAfter, metrics.CauseGraphUnavailable, 2 * time.Second},
		{graphsim.Outage500, metrics.CauseGraphUnavailable, 2 * time.Second},
		{graphsim.OutageRefuse, metrics.CauseGraphUnavailable, 2 * time.Second},
		{graphsim.OutageSilence, metrics.CauseGraphUnavailable, 2 * time.Second},
	} {
		t.Run(row.outage.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graphsim.Config{}, func(c *Config) { c.Policy.RequestTimeout = time.Second })
			r.start()
			if row.outage != graphsim.OutagePermission && row.outage != graphsim.OutageTokenDown {
				// The fault comes in the middle of good work. (A permission that
				// is taken away shows in new tokens only, and so does a token
				// service that is away.)
				r.publish(reset("before", graphsim.GoodDevice(0)), nil)
				r.awaitState("before", record.Accepted)
			}
			r.sim.SetOutage(row.outage)
			for i := 1; i <= requests; i++ {
				r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
			}
			gauge := fmt.Sprintf(`hold{cause=%q,tenant="default"}`, row.cause)
			r.await("the hold", func() bool { return r.metric(gauge) == 1 })
			if code, body := r.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, string(row.cause)) {
				t.Errorf("/readyz %d: %s", code, body)
			}
			if code, _ := r.get("/livez"); code != http.StatusOK {
				t.Errorf("/livez %d", code)
			}
			<-time.After(row.hold)
			if n := len(r.letters()); n > 0 {
				t.Errorf("%d dead letters during the outage", n)
			}
			r.sim.SetOutage(graphsim.OutageNone)
			over := time.Now()
			r.awaitEmpty()
			if took := time.Since(over); took > 30*time.Second {
				t.Errorf("all was done only %s after the end", took)
			}
			for i := 1; i <= requests; i++ {
				rec := r.record(fmt.Sprint("r", i))
				if rec.State != record.Accepted || r.sim.Resets(graphsim.GoodDevice(i)) != 1 {
					t.Errorf("r%d: %+v, resets %d", i, rec, r.sim.Resets(graphsim.GoodDevice(i)))
				}
				if used := rec.Attempts - rec.HeldAttempts; used > 2 {
					t.Errorf("r%d: %d attempts used up", i, used)
				}
			}
			if n := len(r.letters()); n > 0 {
				t.Errorf("%d dead letters", n)
			}
			r.await("the hold to be over", func() bool { return r.metric(gauge) == 0 })
			if code, body := r.get("/readyz"); code != http.StatusOK {
				t.Errorf("/readyz %d: %s", code, body)
			}
		})
	}
}

// TestHoldTellsTenantFromDevice: nothing was accepted yet, and the first
// requests are refused for their devices' own sake. A good one must be found
// among them, and then they are dead.
func TestHoldTellsTenantFromDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Concurrency = 1 })
	r.start()
	for i := range 3 {
		r.publish(reset(fmt.Sprint("bad", i), graphsim.FaultDevice(403, 0, 0, i)), nil)
	}
	dev := graphsim.GoodDevice(1)
	r.publish(reset("good", dev), nil)
	r.awaitState("good", record.Accepted)
	for i := range 3 {
		if rec := r.awaitState(fmt.Sprint("bad", i), record.Dead); rec.Reason != string(metrics.ReasonForbidden) {
			t.Errorf("bad%d: %+v", i, rec)
		}
	}
	r.awaitEmpty()
}

// TestHoldExpires: a request that nobody can help waits until its deadline,
// and its dead letter tells what kept it.
func TestHoldExpires(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	r.sim.SetOutage(graphsim.OutagePermission)
	r.start()
	until := time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339Nano)
	r.publish(fmt.Sprintf(`{"id":"INC1","managedDeviceId":%q,"notAfter":%q}`, graphsim.GoodDevice(1), until), nil)
	rec := r.awaitState("INC1", record.Dead)
	if rec.Reason != string(metrics.ReasonExpired) || !strings.Contains(rec.Detail, "403") || rec.Attempts != 0 {
		t.Errorf("record: %+v", rec)
	}
	if !strings.Contains(rec.Detail, "PrivilegedOperations") {
		t.Errorf("the cause is not named: %s", rec.Detail)
	}
}

// TestRevoked: tokens that are revoked are replaced once for all that wait.
func TestRevoked(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{Latency: 20 * time.Millisecond}, nil)
	r.start()
	for i := range 200 {
		if i == 100 {
			r.await("half of the resets", func() bool { return len(r.sim.Ledger()) > 60 })
			r.sim.RevokeTokensWithChallenge()
		}
		r.publish(reset(fmt.Sprint("r", i), graphsim.GoodDevice(i)), nil)
	}
	r.awaitEmpty()
	for dev, n := range r.sim.Ledger() {
		if n != 1 {
			t.Errorf("%s was reset %d times", dev, n)
		}
	}
	calls := r.sim.TokenCalls()
	if len(calls) != 2 || calls[1].Claims == "" || !strings.Contains(calls[1].Claims, "nbf") && !strings.Contains(calls[1].Claims, "access_token") {
		t.Errorf("token calls: %+v", calls)
	}
	if n := len(r.letters()); n > 0 {
		t.Errorf("%d dead letters", n)
	}
}
