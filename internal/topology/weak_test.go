package topology

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// odd is a setting that is not what Setup would make.
type odd[T any] struct {
	field  string
	change func(*T)
	says   string // part of the weakness; empty: there is nothing to say
	stays  bool   // where the server does not let Setup change it
}

// oddSettings are of each stream, by what it is for.
func oddSettings() map[string][]odd[jetstream.StreamConfig] {
	type cfg = jetstream.StreamConfig
	again := &jetstream.RePublish{Source: ">", Destination: "copies.>"}
	whole := &jetstream.SubjectTransformConfig{Source: ">", Destination: "copies.>"}
	any := []odd[cfg]{
		{"NoAck", func(c *cfg) { c.NoAck = true }, "does not acknowledge messages", false},
		{"Sealed", func(c *cfg) { c.Sealed = true }, "is sealed", true},
		{"Storage", func(c *cfg) { c.Storage = jetstream.MemoryStorage }, "kept in memory", true},
		{"PersistMode", func(c *cfg) { c.PersistMode = jetstream.AsyncPersistMode }, "before they are on disk", true},
		{"SubjectTransform", func(c *cfg) { c.SubjectTransform = whole }, "under other subjects", false},
		{"Mirror", func(c *cfg) {
			c.Subjects, c.Duplicates, c.Mirror = nil, 0, &jetstream.StreamSource{Name: "ORIGIN"}
		}, "is a mirror of ORIGIN", false},
		{"Sources", func(c *cfg) { c.Sources = []*jetstream.StreamSource{{Name: "ORIGIN"}} }, "copies the messages of ORIGIN", true},
		{"MaxMsgSize", func(c *cfg) { c.MaxMsgSize = 4096 }, "of more than 4096 bytes", false},
		{"MaxMsgSize", func(c *cfg) { c.MaxMsgSize = 1 << 20 }, "", true},
		{"MaxBytes", func(c *cfg) { c.MaxBytes, c.Discard = 1<<20, jetstream.DiscardNew }, "", true},
		{"Description", func(c *cfg) { c.Description = "ours" }, "", false},
		{"MaxMsgs", func(c *cfg) { c.MaxMsgs, c.Discard = 1000, jetstream.DiscardNew }, "", true},
		{"DenyPurge", func(c *cfg) { c.DenyPurge, c.AllowRollup = true, false }, "", true},
		{"Compression", func(c *cfg) { c.Compression = jetstream.S2Compression }, "", true},
		{"FirstSeq", func(c *cfg) { c.FirstSeq = 1000 }, "", true},
		{"Metadata", func(c *cfg) { c.Metadata = map[string]string{"a": "b"} }, "", true},
		{"AllowBatchPublish", func(c *cfg) { c.AllowBatchPublish = true }, "", true},
	}
	both := append([]odd[cfg]{
		{"Subjects", func(c *cfg) { c.Subjects = []string{c.Name + ".elsewhere"} }, "so it stores no", false},
		{"Duplicates", func(c *cfg) { c.Duplicates = time.Minute }, "remembers message ids for 1m0s", false},
		{"AllowRollup", func(c *cfg) { c.AllowRollup = true }, "Nats-Rollup", false},
		{"RePublish", func(c *cfg) { c.RePublish = again }, "on copies.>", false},
		{"AllowMsgSchedules", func(c *cfg) { c.AllowMsgSchedules, c.Discard = true, jetstream.DiscardOld }, "Nats-Schedule", true},
		{"AllowMsgCounter", func(c *cfg) {
			c.AllowMsgCounter, c.Discard, c.Retention = true, jetstream.DiscardOld, jetstream.LimitsPolicy
		}, "only counters", true},
		{"SubjectDeleteMarkerTTL", func(c *cfg) { c.SubjectDeleteMarkerTTL, c.AllowMsgTTL, c.AllowRollup = time.Minute, true, true }, "by a marker", false},
		{"MaxMsgsPerSubject", func(c *cfg) { c.MaxMsgsPerSubject = 10 }, "keeps only 10", false},
		{"DiscardNewPerSubject", func(c *cfg) { c.MaxMsgsPerSubject, c.DiscardNewPerSubject = 10, true }, "", true},
		{"AllowAtomicPublish", func(c *cfg) { c.AllowAtomicPublish = true }, "", true},
	}, any...)
	bucket := append([]odd[cfg]{
		{"Subjects", func(c *cfg) { c.Subjects = []string{c.Name + ".elsewhere"} }, "nothing can be written", false},
		{"Retention", func(c *cfg) { c.Retention = jetstream.InterestPolicy }, "instead of limits", false},
		{"Discard", func(c *cfg) { c.Discard, c.MaxBytes = jetstream.DiscardOld, 1<<20 }, "drops old values", false},
		{"AllowDirect", func(c *cfg) { c.AllowDirect = false }, "does not allow direct reads", false},
		{"AllowMsgTTL", func(c *cfg) { c.AllowMsgTTL = true }, "", true},
	}, any...)
	return map[string][]odd[cfg]{
		"requests": append([]odd[cfg]{
			{"Retention", func(c *cfg) { c.Retention = jetstream.LimitsPolicy }, "instead of work queue", true},
			{"Discard", func(c *cfg) { c.Discard = jetstream.DiscardOld }, "discards old messages", false},
			{"MaxAge", func(c *cfg) { c.MaxAge = time.Hour }, "drops requests after 1h0m0s", false},
			{"AllowMsgTTL", func(c *cfg) { c.AllowMsgTTL = true }, "Nats-TTL", true},
			{"ConsumerLimits", func(c *cfg) { c.ConsumerLimits.InactiveThreshold = time.Hour }, "when nobody has pulled from it for 1h0m0s", false},
			{"ConsumerLimits", func(c *cfg) { c.ConsumerLimits.MaxAckPending = 10 }, "at most 10 acks pending", false},
			{"MaxConsumers", func(c *cfg) { c.MaxConsumers = 5 }, "room for 5 consumers", false},
			{"RePublish", func(c *cfg) { c.RePublish = again }, "does not wake workers by passcode.reset.wake.R", false},
			{"RePublish", func(c *cfg) { c.RePublish = nil }, "does not wake workers by passcode.reset.wake.R", false},
			{"RePublish", func(c *cfg) { c.RePublish.HeadersOnly = false }, "with whole requests", false},
			{"RePublish", func(c *cfg) { c.RePublish.Source = "other.*" }, "wakes workers for other.*", false},
			{"DenyDelete", func(c *cfg) { c.DenyDelete = true }, "", true},
			{"AllowDirect", func(c *cfg) { c.AllowDirect = false }, "", false},
		}, both...),
		"letters": append([]odd[cfg]{
			{"Retention", func(c *cfg) { c.Retention = jetstream.InterestPolicy }, "instead of limits", false},
			{"Discard", func(c *cfg) { c.Discard, c.MaxMsgs = jetstream.DiscardOld, 10 }, "discards old dead letters", false},
			{"MaxAge", func(c *cfg) { c.MaxAge = time.Hour }, "drops dead letters after 1h0m0s", false},
			{"DenyDelete", func(c *cfg) { c.DenyDelete = true }, "does not allow letters to be removed", true},
			{"AllowDirect", func(c *cfg) { c.AllowDirect = false }, "direct reads", false},
			{"AllowMsgTTL", func(c *cfg) { c.AllowMsgTTL = true }, "", true},
		}, both...),
		"records": append([]odd[cfg]{
			{"MaxAge", func(c *cfg) { c.MaxAge = 47 * time.Hour }, "keeps records for 47h0m0s instead of 48h0m0s", false},
			{"MaxAge", func(c *cfg) { c.MaxAge = 48 * time.Hour }, "", false},
			{"MaxMsgsPerSubject", func(c *cfg) { c.MaxMsgsPerSubject = 2 }, "keeps 2 states of a request instead of 16", false},
			{"RePublish", func(c *cfg) { c.RePublish = nil }, "does not publish its changes on passcode.reset.status.default.*", false},
		}, bucket...),
		"alarms": append([]odd[cfg]{
			{"Retention", func(c *cfg) { c.Retention = jetstream.LimitsPolicy }, "instead of work queue", true},
			{"Discard", func(c *cfg) { c.Discard = jetstream.DiscardOld }, "discards old messages", false},
			{"MaxAge", func(c *cfg) { c.MaxAge = time.Hour }, "drops alarms after 1h0m0s", false},
			{"AllowMsgTTL", func(c *cfg) { c.AllowMsgTTL = true }, "Nats-TTL", true},
			{"ConsumerLimits", func(c *cfg) { c.ConsumerLimits.InactiveThreshold = time.Hour }, "when nobody has pulled from it for 1h0m0s", false},
			{"ConsumerLimits", func(c *cfg) { c.ConsumerLimits.MaxAckPending = 10 }, "at most 10 acks pending", false},
			{"MaxConsumers", func(c *cfg) { c.MaxConsumers = 5 }, "room for 5 consumers", false},
			{"DenyDelete", func(c *cfg) { c.DenyDelete = true }, "", true},
			{"AllowDirect", func(c *cfg) { c.AllowDirect = false }, "", false},
		}, both...),
		"outcomes": append([]odd[cfg]{
			{"MaxAge", func(c *cfg) { c.MaxAge = days90 - time.Hour }, "keeps outcomes for 2159h0m0s instead of 2160h0m0s", false},
			{"MaxAge", func(c *cfg) { c.MaxAge = 0 }, "", false},
			{"MaxMsgsPerSubject", func(c *cfg) { c.MaxMsgsPerSubject = 2 }, "keeps 2 states of an outcome instead of 8", false},
			{"RePublish", func(c *cfg) { c.RePublish = nil }, "does not publish its changes on passcode.reset.outcome.default.*", false},
		}, bucket...),
		"state": append([]odd[cfg]{
			{"MaxAge", func(c *cfg) { c.MaxAge = 10 * 365 * 24 * time.Hour }, "such as a blown fuse", false},
			{"RePublish", func(c *cfg) { c.RePublish = again }, "", false},
		}, bucket...),
	}
}

// TestOddStreams makes each stream with one setting that is not as it should be:
// what is said of it, and what Setup makes of it when it is to update it.
func TestOddStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.admin.CreateStream(r.ctx, jetstream.StreamConfig{Name: "ORIGIN", Subjects: []string{"origin"}}); err != nil {
		t.Fatal(err)
	}
	keep := Keep(24*time.Hour, 0, 0)
	seen := map[string]bool{"Name": true}
	// Replicas need a cluster, a placement servers with tags; the rest means nothing.
	for _, field := range []string{"Replicas", "Placement", "MirrorDirect", "Template"} {
		seen[field] = true
	}
	number := 0
	for role, rows := range oddSettings() {
		for _, o := range rows {
			seen[o.field] = true
			number++
			n := spec
			n.Stream, n.DeadStream, n.Bucket = fmt.Sprintf("R%d", number), fmt.Sprintf("D%d", number), fmt.Sprintf("b%d", number)
			n.Subject, n.DeadSubject = "r."+n.Stream, "d."+n.Stream
			n.FollowStream, n.FollowSubject = fmt.Sprintf("F%d", number), "f."+n.Stream
			name := map[string]string{"requests": n.Stream, "letters": n.DeadStream, "records": "KV_" + n.Bucket, "state": "KV_" + n.StateBucket(),
				"alarms": n.FollowStream, "outcomes": "KV_" + n.OutcomeBucket()}[role]
			what := fmt.Sprintf("%s, %s (%s)", role, o.field, o.says)
			setup, made := SetupShared, []string{n.Stream, n.DeadStream, "KV_" + n.Bucket, "KV_" + n.StateBucket()}
			if role == "alarms" || role == "outcomes" {
				setup, made = SetupFollow, []string{n.FollowStream, "KV_" + n.OutcomeBucket()}
			}
			if _, err := setup(r.ctx, r.admin, n, Layout{}); err != nil {
				t.Fatal(err)
			}
			config := func() jetstream.StreamConfig {
				s, err := r.admin.Stream(r.ctx, name)
				if err != nil {
					t.Fatal(err)
				}
				return s.CachedInfo().Config
			}
			cfg := config()
			if err := r.admin.DeleteStream(r.ctx, name); err != nil {
				t.Fatal(err)
			}
			o.change(&cfg)
			if sealed := cfg.Sealed; sealed { // not at once
				cfg.Sealed = false
				if _, err := r.admin.CreateStream(r.ctx, cfg); err != nil {
					t.Fatal(what, err)
				}
				cfg.Sealed = true
				if _, err := r.admin.UpdateStream(r.ctx, cfg); err != nil {
					t.Fatal(what, err)
				}
			} else if _, err := r.admin.CreateStream(r.ctx, cfg); err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			said := func() string { return weak(StreamWeaknesses(config(), n, keep)) }
			if got := said(); (got == "") != (o.says == "") || !strings.Contains(got, o.says) {
				t.Errorf("%s: %q", what, got)
			}
			before := config()
			_, err := setup(r.ctx, r.admin, n, Layout{Update: true})
			same := reflect.DeepEqual(before, config())
			switch got := said(); {
			case o.says == "" && (err != nil || got != ""):
				t.Errorf("%s: after the update %q, %v", what, got, err)
			case o.says == "" && o.stays && !same:
				t.Errorf("%s: the update changed it", what)
			case o.says != "" && o.stays && !strings.Contains(got, o.says):
				t.Errorf("%s: the update has mended it", what)
			case o.says != "" && !o.stays && (err != nil || strings.Contains(got, o.says)):
				t.Errorf("%s: after the update %q, %v", what, got, err)
			}
			for _, s := range made {
				if err := r.admin.DeleteStream(r.ctx, s); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	everyField(t, reflect.TypeFor[jetstream.StreamConfig](), seen)
}

// weak joins what is said, but for what a single server cannot mend.
func weak(found []Weakness) string {
	var out []string
	for _, w := range found {
		if !strings.Contains(w.Text, "replica(s)") {
			out = append(out, w.String())
		}
	}
	return strings.Join(out, "\n")
}

func everyField(t *testing.T, of reflect.Type, seen map[string]bool) {
	t.Helper()
	for i := range of.NumField() {
		if name := of.Field(i).Name; !seen[name] {
			t.Errorf("%s: nothing is known of the field %s", of, name)
		}
	}
}

// TestOddConsumers does the same for the consumer.
func TestOddConsumers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// The server removes the folder of all streams after the last one, and may do so
	// while it makes the next.
	r.setup(Layout{})
	type cfg = jetstream.ConsumerConfig
	seen := map[string]bool{"Name": true, "Durable": true, "DeliverGroup": true, "FlowControl": true, "IdleHeartbeat": true} // of a push consumer
	for i, o := range []odd[cfg]{
		// Refused.
		{"HeadersOnly", func(c *cfg) { c.HeadersOnly = true }, "a dead letter without its body", false},
		{"AckPolicy", func(c *cfg) { c.AckPolicy, c.MaxAckPending, c.AckWait = jetstream.AckNonePolicy, 0, 0 }, "instead of explicit", true},
		{"DeliverPolicy", func(c *cfg) { c.DeliverPolicy = jetstream.DeliverNewPolicy }, "are never delivered", true},
		{"OptStartSeq", func(c *cfg) { c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, 5 }, "are never delivered", true},
		{"OptStartTime", func(c *cfg) {
			at := time.Now()
			c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &at
		}, "are never delivered", true},
		{"FilterSubject", func(c *cfg) { c.FilterSubject = "" }, "takes []", false},
		{"FilterSubjects", func(c *cfg) { c.FilterSubjects, c.FilterSubject = []string{c.FilterSubject, "x"}, "" }, `"x"]`, false},
		// Weaker.
		{"AckWait", func(c *cfg) { c.AckWait = time.Second }, "delivered again while a worker is handling it", false},
		{"AckWait", func(c *cfg) { c.AckWait = time.Hour }, "wait that long", false},
		{"MaxDeliver", func(c *cfg) { c.MaxDeliver = 5 }, "at most 5 times", false},
		{"BackOff", func(c *cfg) { c.BackOff = []time.Duration{ackWait} }, "back-off list", false},
		{"MaxAckPending", func(c *cfg) { c.MaxAckPending = 10 }, "at most 10 acks", false},
		{"InactiveThreshold", func(c *cfg) { c.InactiveThreshold = time.Hour }, "nobody has pulled from it for 1h0m0s", false},
		{"MaxRequestExpires", func(c *cfg) { c.MaxRequestExpires = time.Millisecond }, "wait for only 1ms", false},
		{"MaxWaiting", func(c *cfg) { c.MaxWaiting = 2 }, "lets only 2 pulls wait", true},
		{"ReplayPolicy", func(c *cfg) { c.ReplayPolicy = jetstream.ReplayOriginalPolicy }, "as slowly as they were sent", true},
		{"Replicas", func(c *cfg) { c.Replicas = 1 }, "kept on 1 server(s)", false},
		{"MemoryStorage", func(c *cfg) { c.MemoryStorage = true }, "kept in memory", true},
		{"PriorityPolicy", func(c *cfg) { c.PriorityPolicy, c.PriorityGroups, c.PinnedTTL = 0, nil, 0 }, "no pinned priority group", true},
		{"PriorityPolicy", func(c *cfg) { c.PriorityPolicy, c.PinnedTTL = jetstream.PriorityPolicyOverflow, 0 }, "no pinned priority group", true},
		{"PinnedTTL", func(c *cfg) { c.PinnedTTL = 0 }, "waits 2m0s", false}, // the server's default
		{"PinnedTTL", func(c *cfg) { c.PinnedTTL = 100 * time.Millisecond }, "can lose its pin", false},
		// As good.
		{"MaxRequestBatch", func(c *cfg) { c.MaxRequestBatch = 1 }, "", false},
		{"MaxRequestMaxBytes", func(c *cfg) { c.MaxRequestMaxBytes = 10 }, "", false},
		{"SampleFrequency", func(c *cfg) { c.SampleFrequency = "50" }, "", true},
		{"Description", func(c *cfg) { c.Description = "ours" }, "", false},
		{"Metadata", func(c *cfg) { c.Metadata["a"] = "b" }, "", true},
		{"Metadata", func(c *cfg) { c.Metadata[bucketKey] = "elsewhere" }, "keeps its records in the bucket elsewhere", false},
		{"PriorityGroups", func(c *cfg) { c.PriorityGroups = []string{"ours"} }, "", true},
		{"PauseUntil", func(c *cfg) {
			until := time.Now().Add(time.Hour).UTC()
			c.PauseUntil = &until
		}, "", true},
	} {
		seen[o.field] = true
		n := spec
		n.Stream, n.Subject = fmt.Sprintf("R%d", i), fmt.Sprintf("r.%d", i)
		what := fmt.Sprintf("%s (%s)", o.field, o.says)
		// A work queue would not take each of these.
		if _, err := r.admin.CreateStream(r.ctx, jetstream.StreamConfig{Name: n.Stream, Subjects: []string{n.Subject + ".*", "x"}}); err != nil {
			t.Fatal(err)
		}
		odd := Layout{}.Worker(n)
		o.change(&odd)
		if _, err := r.admin.CreateConsumer(r.ctx, n.Stream, odd); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		config := func() cfg {
			c, err := r.admin.Consumer(r.ctx, n.Stream, n.Consumer())
			if err != nil {
				t.Fatal(err)
			}
			return c.CachedInfo().Config
		}
		said := func() string { return weak(ConsumerWeaknesses(config(), n)) }
		if got := said(); (got == "") != (o.says == "") || !strings.Contains(got, o.says) {
			t.Errorf("%s: %q", what, got)
		}
		before := config()
		_, err := SetupConsumer(r.ctx, r.admin, n, Layout{Update: true})
		got, same := said(), reflect.DeepEqual(before, config())
		switch {
		case o.says == "" && (err != nil || got != "") || o.says == "" && o.stays && !same:
			t.Errorf("%s: after the update %q, %v, the same %t", what, got, err, same)
		case o.says != "" && o.stays && !strings.Contains(got, o.says):
			t.Errorf("%s: the update has mended it", what)
		case o.says != "" && !o.stays && (err != nil || got != ""):
			t.Errorf("%s: after the update %q, %v", what, got, err)
		}
		if err := r.admin.DeleteStream(r.ctx, n.Stream); err != nil {
			t.Fatal(err)
		}
	}
	// A server does not take these of a consumer that is pulled from, which a
	// library may still be told.
	for _, o := range []odd[cfg]{
		{"DeliverSubject", func(c *cfg) { c.DeliverSubject = "x" }, "pushes requests to x", true},
		{"RateLimit", func(c *cfg) { c.RateLimit = 1024 }, "at most 1024 bits per second", true},
	} {
		seen[o.field] = true
		odd := Layout{}.Worker(spec)
		o.change(&odd)
		if got := weak(ConsumerWeaknesses(odd, spec)); !strings.Contains(got, o.says) {
			t.Errorf("%s: %q", o.field, got)
		}
	}
	everyField(t, reflect.TypeFor[cfg](), seen)
}

// TestOddFollowConsumers does the same for the consumers of alarms.
func TestOddFollowConsumers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{})
	type cfg = jetstream.ConsumerConfig
	const step = 3
	for i, o := range []odd[cfg]{
		{"HeadersOnly", func(c *cfg) { c.HeadersOnly = true }, "would drop every alarm", false},
		{"AckPolicy", func(c *cfg) { c.AckPolicy, c.MaxAckPending, c.AckWait = jetstream.AckNonePolicy, 0, 0 }, "instead of explicit", true},
		{"DeliverPolicy", func(c *cfg) { c.DeliverPolicy = jetstream.DeliverNewPolicy }, "are never delivered", true},
		{"FilterSubject", func(c *cfg) { c.FilterSubject = "" }, "takes []", false},
		{"AckWait", func(c *cfg) { c.AckWait = time.Second }, "looked at twice", false},
		{"AckWait", func(c *cfg) { c.AckWait = time.Hour }, "wait that long", false},
		{"MaxDeliver", func(c *cfg) { c.MaxDeliver = 5 }, "at most 5 times", false},
		{"BackOff", func(c *cfg) { c.BackOff = []time.Duration{ackWait} }, "back-off list", false},
		{"MaxAckPending", func(c *cfg) { c.MaxAckPending = 10 }, "at most 10 acks", false},
		{"MaxAckPending", func(c *cfg) { c.MaxAckPending = 100_000 }, "put a load on the server", false},
		{"InactiveThreshold", func(c *cfg) { c.InactiveThreshold = time.Hour }, "nobody has pulled from it for 1h0m0s", false},
		{"MaxRequestExpires", func(c *cfg) { c.MaxRequestExpires = time.Second }, "wait for only 1s", false},
		{"MaxRequestBatch", func(c *cfg) { c.MaxRequestBatch = 1 }, "at most 1 alarms to a pull", false},
		{"MaxWaiting", func(c *cfg) { c.MaxWaiting = 2 }, "lets only 2 pulls wait", true},
		{"ReplayPolicy", func(c *cfg) { c.ReplayPolicy = jetstream.ReplayOriginalPolicy }, "as slowly as they were stored", true},
		{"Replicas", func(c *cfg) { c.Replicas = 1 }, "kept on 1 server(s)", false},
		{"MemoryStorage", func(c *cfg) { c.MemoryStorage = true }, "kept in memory", true},
		{"PriorityPolicy", func(c *cfg) {
			c.PriorityPolicy, c.PriorityGroups, c.PinnedTTL = jetstream.PriorityPolicyPinned, []string{group}, pinnedTTL
		}, "has a priority group", true},
		{"SampleFrequency", func(c *cfg) { c.SampleFrequency = "50" }, "", true},
		{"FilterSubjects", func(c *cfg) { c.FilterSubjects, c.FilterSubject = []string{c.FilterSubject}, "" }, "", false},
	} {
		n := spec
		n.FollowStream, n.FollowSubject = fmt.Sprintf("F%d", i), fmt.Sprintf("f.%d", i)
		what := fmt.Sprintf("%s (%s)", o.field, o.says)
		// A work queue would not take each of these.
		if _, err := r.admin.CreateStream(r.ctx, jetstream.StreamConfig{Name: n.FollowStream, Subjects: []string{n.FollowSubject + ".*.*"}}); err != nil {
			t.Fatal(err)
		}
		odd := Layout{}.FollowStep(n, step)
		o.change(&odd)
		if _, err := r.admin.CreateConsumer(r.ctx, n.FollowStream, odd); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		said := func() string {
			c, err := r.admin.Consumer(r.ctx, n.FollowStream, FollowConsumer(step))
			if err != nil {
				t.Fatal(err)
			}
			return weak(FollowWeaknesses(c.CachedInfo().Config, n, step))
		}
		if got := said(); (got == "") != (o.says == "") || !strings.Contains(got, o.says) {
			t.Errorf("%s: %q", what, got)
		}
		_, err := ensureConsumer(r.ctx, r.admin, n.FollowStream, Layout{}.FollowStep(n, step), Layout{Update: true})
		switch got := said(); {
		case o.says == "" && (err != nil || got != ""), o.says != "" && !o.stays && (err != nil || got != ""):
			t.Errorf("%s: after the update %q, %v", what, got, err)
		case o.says != "" && o.stays && !strings.Contains(got, o.says):
			t.Errorf("%s: the update has mended it", what)
		}
	}
}

// TestWeaknessesOfFollowing are told only where something is followed.
func TestWeaknessesOfFollowing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true})
	if _, err := r.admin.UpdateConsumer(r.ctx, spec.FollowStream, func() jetstream.ConsumerConfig {
		c := Layout{}.FollowStep(spec, 7)
		c.MaxDeliver = 5
		return c
	}()); err != nil {
		t.Fatal(err)
	}
	containsAll(t, Weaknesses(r.ctx, r.js, spec, 0, true), "stream "+spec.FollowStream+" is kept in memory", "stream KV_"+spec.OutcomeBucket()+" is kept in memory",
		"consumer follow-7 delivers an alarm at most 5 times", "can lose what devices did")
	for _, w := range Weaknesses(r.ctx, r.js, spec, 0, false) {
		if strings.Contains(w, "follow") || strings.Contains(w, "FOLLOW") || strings.Contains(w, "outcomes") {
			t.Errorf("nothing is followed, and yet: %s", w)
		}
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []struct{ maxAge, cooldown, fuse, want time.Duration }{
		{day, 0, 0, 2 * day},
		{time.Second, 0, 0, day + dedupeWindow},
		{day, 3 * day, 0, 4 * day},
		{day, 0, 5 * day, 6 * day},
		{0, 0, 0, days90},
		{0, days90, 0, 91 * day},
	} {
		if got := Keep(c.maxAge, c.cooldown, c.fuse); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
