package worker

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

// BenchmarkTakeover is the time from the start of a worker to its first reset,
// with as many devices that cool down, and as many records of resets that have
// left the window of calls. The row of none is the floor.
func BenchmarkTakeover(b *testing.B) {
	for _, devices := range []int{0, 60_000} {
		b.Run(fmt.Sprint("cooling=", devices), func(b *testing.B) {
			const window = time.Second
			r := newRig(b, graphsim.Config{}, func(c *Config) {
				c.Cooldown, c.Tenants[0].Rate = time.Hour, pace.Rate{N: 100, W: window}
			})
			r.coolDown(devices)
			<-time.After(window + r.cfg.Policy.RequestTimeout) // they leave the window
			n := 0
			for b.Loop() {
				device := graphsim.GoodDevice(n)
				r.publish(reset(fmt.Sprint("next", n), device), nil)
				n++
				stop := r.start()
				r.await("the reset", func() bool { return r.sim.Resets(device) == 1 })
				b.StopTimer()
				stop()
				b.StartTimer()
			}
		})
	}
}

// coolDown stores what the resets of n other devices leave behind.
func (r *rig) coolDown(n int) {
	r.t.Helper()
	r.start()() // sets up
	now := time.Now().UTC()
	for i := range n {
		id, device := fmt.Sprint("old", i), graphsim.GoodDevice(1_000_000+i)
		values := map[string]any{
			r.names.DeviceBucket() + ".default." + device: map[string]any{"request": "default." + id, "message": i + 1, "until": now.Add(time.Hour)},
			r.names.Bucket + ".default." + id: record.Record{ID: id, Tenant: "default", ManagedDeviceID: device, State: record.Accepted,
				Attempts: 1, ReceivedAt: now, AttemptedAt: now.Add(-time.Hour), FinishedAt: now, Stream: r.names.Stream, Sequence: uint64(i + 1),
				ClientRequestID: "00000000-0000-4000-8000-000000000000", Status: 204},
		}
		for subject, v := range values {
			value, err := json.Marshal(v)
			if err != nil {
				r.t.Fatal(err)
			}
			if _, err := r.js.PublishAsync("$KV."+subject, value); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	select {
	case <-r.js.PublishAsyncComplete():
	case <-time.After(testTime):
		r.t.Fatal("the server did not store all")
	}
}
