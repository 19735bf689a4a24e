package topology

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// lookWait bounds the readings of [Weaknesses]. What may not be read is
// not answered at all, so each waits for itself.
const lookWait = 2 * time.Second

// Weaknesses tells what about the server, the streams and the consumer is
// weaker than the worker's promises need; keep is how long records have to last,
// see [Keep], and follows tells that accepted requests are followed. What may not be
// read is passed over.
func Weaknesses(ctx context.Context, js jetstream.JetStream, n Names, keep time.Duration, follows bool) []string {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	streams := []string{n.Stream, n.DeadStream, "KV_" + n.Bucket, "KV_" + n.StateBucket(), "KV_" + n.DeviceBucket()}
	steps := 0
	if follows {
		streams, steps = append(streams, "KV_"+n.OutcomeBucket(), n.FollowStream), FollowSteps
	}
	found := make([][]Weakness, len(streams)+1+steps)
	var readings sync.WaitGroup
	for i, name := range streams {
		readings.Go(func() {
			if s, err := js.Stream(ctx, name); err == nil {
				found[i] = StreamWeaknesses(s.CachedInfo().Config, n, keep)
			}
		})
	}
	readings.Go(func() {
		if c, err := js.Consumer(ctx, n.Stream, n.Consumer()); err == nil {
			found[len(streams)] = ConsumerWeaknesses(c.CachedInfo().Config, n)
		}
	})
	for step := range steps {
		readings.Go(func() {
			if c, err := js.Consumer(ctx, n.FollowStream, FollowConsumer(step)); err == nil {
				found[len(streams)+1+step] = FollowWeaknesses(c.CachedInfo().Config, n, step)
			}
		})
	}
	readings.Wait()
	var out []string
	if w := ServerWeakness(js.Conn().ConnectedServerVersion()); w != "" {
		out = append(out, w)
	}
	for _, w := range slices.Concat(found...) {
		out = append(out, w.String())
	}
	return out
}

// secondLook is how long after the first look [Unserved] looks again: a request
// wakes its worker within that.
const secondLook = time.Second

// Unserved tells the tenants that have requests on the stream which no worker takes: there
// is no consumer, or nobody asks it for messages and no replica is pinned. While a tenant is
// taken over, it is told, too: then another call, ten seconds later, does not tell it. A
// consumer that is paused says nothing about its workers. n.Tenant is not looked at. It
// fails where that may not be read, and where consumers do not answer; with what is
// known all the same, such as the tenants without a consumer.
func Unserved(ctx context.Context, js jetstream.JetStream, n Names) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	s, err := js.Stream(ctx, n.Stream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", n.Stream, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(n.Subject+".*"))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", n.Stream, err)
	}
	waiting := map[string]string{} // tenant by consumer
	for subject := range info.State.Subjects {
		other := n
		other.Tenant = strings.TrimPrefix(subject, n.Subject+".")
		waiting[other.Consumer()] = other.Tenant
	}
	var out []string
	without := maps.Clone(waiting)
	names := s.ConsumerNames(ctx)
	for name := range names.Name() {
		delete(without, name)
	}
	if names.Err() != nil {
		return nil, fmt.Errorf("consumers of stream %s: %w", n.Stream, names.Err())
	}
	for name, tenant := range without {
		out = append(out, tenant)
		delete(waiting, name)
	}
	left, err := untaken(ctx, js, n.Stream, waiting)
	for _, name := range left {
		out = append(out, waiting[name])
	}
	slices.Sort(out)
	return out, err
}

// untaken are those of some consumers from which nobody takes messages at two looks.
func untaken(ctx context.Context, js jetstream.JetStream, stream string, among map[string]string) ([]string, error) {
	var left []string
	for name := range among {
		left = append(left, name)
	}
	for look := 0; look < 2 && len(left) > 0; look++ {
		if look > 0 {
			select {
			case <-ctx.Done(): // the list fails with it
			case <-time.After(secondLook):
			}
		}
		list, err := Consumers(ctx, js, stream, 0)
		if err != nil {
			return nil, err
		}
		left = slices.DeleteFunc(left, func(name string) bool {
			info := list[name]
			return info == nil || info.Paused || info.NumWaiting > 0 || Pinned(info) != ""
		})
	}
	return left, nil
}
