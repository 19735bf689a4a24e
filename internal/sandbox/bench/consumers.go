package bench

import (
	"context"
	"fmt"

	"passcode-worker/internal/topology"
)

// consumers measures what the other consumers of a stream cost a tenant, though they have
// nothing to do: for each ack on a work queue the server looks at all of them. A bare loop,
// whose only messages to NATS are pulls and acks, shows that alone; the worker, what it
// comes to.
func consumers(ctx context.Context, w *world) (out []sample, err error) {
	bare := &turns{name: floorName, start: func() (*process, error) { return w.floor("--bare") }}
	ours := &turns{name: workerName, start: func() (*process, error) { return w.work(noRate) }}
	n := max(1, w.N/2)
	if w.cluster {
		n = max(1, n/clusterShare)
	}
	// What a message costs in a cluster depends on how many of the leaders are at the server
	// that the client talks to, which it chooses at random.
	w.env["NATS_URL"] = w.nats[0].URL()
	there := 0
	// How many consumers are on the stream beside the one that has work.
	for _, crowd := range []int{0, 500, 1000, 2000} {
		err := each(crowd-there, func(i int) error {
			names := w.names
			names.Tenant = tenantName(there + i)
			_, err := topology.SetupConsumer(ctx, w.js, names, topology.Layout{})
			return err
		})
		if err != nil {
			return nil, err
		}
		there = crowd
		for _, t := range []*turns{bare, ours} {
			// The first run with so many pays for files and caches.
			for _, n := range []int{n/10 + 1, n} {
				if err := w.turn(ctx, t, n); err != nil {
					return nil, fmt.Errorf("%s beside %d consumers: %w", t.name, crowd, err)
				}
			}
		}
		beside := fmt.Sprintf("beside %d idle consumers: ", crowd)
		out = append(out,
			sample{what: beside + "bare loop", unit: "per s", value: bare.last.perSecond()},
			sample{what: beside + "processor time of NATS, bare loop", unit: "µs each", value: bare.last.each(bare.last.nats)},
			sample{what: beside + "worker", unit: "per s", value: ours.last.perSecond()},
			sample{what: beside + "processor time of NATS, worker", unit: "µs each", value: ours.last.each(ours.last.nats)})
	}
	return out, nil
}
