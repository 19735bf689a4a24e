package consume

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// lookWait bounds the readings of [Queue.Weaknesses]. What may not be read is
// not answered at all, so each waits for itself.
const lookWait = 2 * time.Second

// Weaknesses tells what about the server, the streams and the consumer is
// weaker than the worker's promises need. What may not be read is passed over.
func (q *Queue) Weaknesses(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	n := q.cfg.Names
	streams := []string{n.Stream, n.DeadStream, "KV_" + n.Bucket, "KV_" + n.StateBucket()}
	found := make([][]string, 2+len(streams))
	if v := q.js.Conn().ConnectedServerVersion(); olderThan(v, 2, 12, 5) {
		found[0] = []string{fmt.Sprintf("the NATS server is %s; versions before 2.12.5 can lose messages of a replicated work queue", v)}
	}
	var readings sync.WaitGroup
	for i, name := range streams {
		readings.Go(func() {
			if s, err := q.js.Stream(ctx, name); err == nil {
				found[1+i] = streamWeaknesses(s.CachedInfo().Config, n)
			}
		})
	}
	readings.Go(func() {
		if c, err := q.js.Consumer(ctx, n.Stream, n.Consumer()); err == nil {
			found[1+len(streams)] = consumerWeaknesses(c.CachedInfo().Config, n)
		}
	})
	readings.Wait()
	return slices.Concat(found...)
}

func streamWeaknesses(cfg jetstream.StreamConfig, n Names) (found []string) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if kept := cfg.MaxMsgsPerSubject; strings.HasPrefix(cfg.Name, "KV_") && kept > 0 && kept < history {
		say("stream %s keeps only %d revision(s) of a key: a foreign value can push out a record, or that the fuse has blown; worker setup --update keeps %d", cfg.Name, kept, history)
	}
	if cfg.Replicas < maxReplicas {
		say("stream %s has %d replica(s): losing one server can lose requests or their records; three survive it", cfg.Name, cfg.Replicas)
	}
	if cfg.Storage != jetstream.FileStorage {
		say("stream %s is kept in memory: a restart of the server loses it", cfg.Name)
	}
	if cfg.Name == n.DeadStream && cfg.Discard != jetstream.DiscardNew && (cfg.MaxBytes > 0 || cfg.MaxMsgs > 0) {
		say("stream %s discards old dead letters when it is full; use discard new", cfg.Name)
	}
	if cfg.Name != n.Stream {
		return found
	}
	if cfg.Retention != jetstream.WorkQueuePolicy {
		say("stream %s has retention %s instead of work queue: requests stay in it after they are done", cfg.Name, cfg.Retention)
	}
	if cfg.Discard != jetstream.DiscardNew {
		say("stream %s discards old messages when it is full: requests can be lost without a word; use discard new", cfg.Name)
	}
	if cfg.MaxAge != 0 {
		say("stream %s drops requests after %s without a word; use no max age", cfg.Name, cfg.MaxAge)
	}
	if cfg.MaxMsgsPerSubject > 0 && !cfg.DiscardNewPerSubject {
		say("stream %s keeps only %d requests of a tenant and drops older ones without a word; use no limit per subject", cfg.Name, cfg.MaxMsgsPerSubject)
	}
	return found
}

func consumerWeaknesses(cfg jetstream.ConsumerConfig, n Names) (found []string) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if cfg.MaxDeliver > 0 {
		say("consumer %s delivers a message at most %d times: waiting requests can be lost; use -1", cfg.Durable, cfg.MaxDeliver)
	}
	if len(cfg.BackOff) > 0 {
		say("consumer %s has a back-off list, which adds to every delay; remove it", cfg.Durable)
	}
	if cfg.PriorityPolicy != jetstream.PriorityPolicyPinned {
		say("consumer %s has no pinned priority group, so that several replicas would all work and each keep the rate for itself; delete it and let worker setup make it", cfg.Durable)
	}
	if err := usable(cfg, n); err != nil {
		say("consumer %s cannot be used: %v", cfg.Durable, err)
	}
	return found
}

// Unserved tells the tenants that have requests waiting on the stream, but no
// consumer; n.Tenant is not looked at. It fails where that may not be read.
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
	waiting := map[string]string{}
	for subject := range info.State.Subjects {
		other := n
		other.Tenant = strings.TrimPrefix(subject, n.Subject+".")
		waiting[other.Consumer()] = other.Tenant
	}
	names := s.ConsumerNames(ctx)
	for name := range names.Name() {
		delete(waiting, name)
	}
	if names.Err() != nil {
		return nil, fmt.Errorf("consumers of stream %s: %w", n.Stream, names.Err())
	}
	var out []string
	for _, tenant := range waiting {
		out = append(out, tenant)
	}
	slices.Sort(out)
	return out, nil
}

// olderThan compares a version such as 2.15.2 or 2.12.0-RC.1. A version that
// cannot be read is not older.
func olderThan(version string, least ...int) bool {
	if end := strings.IndexAny(version, "-+"); end >= 0 {
		version = version[:end]
	}
	for i, part := range strings.Split(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || i >= len(least) {
			return false
		}
		if n != least[i] {
			return n < least[i]
		}
	}
	return false
}
