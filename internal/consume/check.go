package consume

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Weaknesses tells what about the server, the streams and the consumer is
// weaker than the worker's promises need. What may not be read is passed over.
func (q *Queue) Weaknesses(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	n := q.cfg.Names

	if v := q.js.Conn().ConnectedServerVersion(); olderThan(v, 2, 12, 5) {
		say("the NATS server is %s; versions before 2.12.5 can lose messages of a replicated work queue", v)
	}
	streams := []string{n.Stream, n.DeadStream, "KV_" + n.Bucket}
	for _, name := range streams {
		s, err := q.js.Stream(ctx, name)
		if err != nil {
			continue
		}
		cfg := s.CachedInfo().Config
		if cfg.Replicas < maxReplicas {
			say("stream %s has %d replica(s): losing one server can lose requests or their records; three survive it", name, cfg.Replicas)
		}
		if cfg.Storage != jetstream.FileStorage {
			say("stream %s is kept in memory: a restart of the server loses it", name)
		}
		if name != n.Stream {
			continue
		}
		if cfg.Retention != jetstream.WorkQueuePolicy {
			say("stream %s has retention %s instead of work queue: requests stay in it after they are done", name, cfg.Retention)
		}
		if cfg.Discard != jetstream.DiscardNew {
			say("stream %s discards old messages when it is full: requests can be lost without a word; use discard new", name)
		}
		if cfg.MaxAge != 0 {
			say("stream %s drops requests after %s without a word; use no max age", name, cfg.MaxAge)
		}
	}
	if c, err := q.js.Consumer(ctx, n.Stream, n.Consumer()); err == nil {
		cfg := c.CachedInfo().Config
		if cfg.MaxDeliver > 0 {
			say("consumer %s delivers a message at most %d times: waiting requests can be lost; use -1", cfg.Durable, cfg.MaxDeliver)
		}
		if len(cfg.BackOff) > 0 {
			say("consumer %s has a back-off list, which adds to every delay; remove it", cfg.Durable)
		}
		if cfg.AckPolicy != jetstream.AckExplicitPolicy {
			say("consumer %s does not have explicit acks: requests can be lost", cfg.Durable)
		}
		if cfg.FilterSubject != n.Filter() {
			say("consumer %s takes %q instead of %q", cfg.Durable, cfg.FilterSubject, n.Filter())
		}
	}
	return found
}

// Unserved tells the tenants that have requests waiting on the stream, but no
// consumer. It fails where that may not be read.
func (q *Queue) Unserved(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	n := q.cfg.Names
	s, err := q.js.Stream(ctx, n.Stream)
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
	version, _, _ = strings.Cut(version, "-")
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
