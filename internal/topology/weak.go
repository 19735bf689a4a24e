package topology

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Weakness is what about a stream or a consumer is weaker than the worker's
// promises need.
type Weakness struct {
	What string // "stream PASSCODE_RESETS"
	Text string // "is sealed: …", goes on from What
	Do   string // what to do about it
}

func (w Weakness) String() string { return w.What + " " + w.Text + "; " + w.Do }

// What to do about a weakness.
const (
	doUpdate = "run worker setup --update"
	doAnew   = "the server cannot change that: remove it while it is empty, and run worker setup"
	// doConsumeStep is for the consumers of alarms, which any of them may be made from.
	doConsumeStep = "the server cannot change that: remove the consumer and run worker setup; the alarms stay"
	doRetention   = "run worker setup --update, without a shorter --retention"
	fewConsumers  = "has room for %d consumers: each tenant needs one"
	doConsume     = "the server cannot change that: remove the consumer and run worker setup; the requests stay"
)

const (
	// graceRecords is how much longer than all that asks for them records are to
	// be kept: clocks differ, and a request is not taken the moment it comes.
	graceRecords = 24 * time.Hour
	// Least sizes of a message with its headers: a request is at most 64 KiB, and
	// its letter is that with headers of its own; a record is a few KiB.
	leastMessage = 128 << 10
	leastValue   = 16 << 10
	// An alarm is at most 4 KiB.
	leastAlarm = 8 << 10
	// ackWaitMost is how long a request may wait whose worker is gone.
	ackWaitMost = 5 * time.Minute
	// The server forgets a replica that has fallen silent within these.
	pinnedLeast, pinnedMost = time.Second, 2 * pinnedTTL
	// manyConsumers are enough for the tenants that one process serves.
	manyConsumers = 2000
	// waitingLeast is how many pulls of several replicas wait at a time.
	waitingLeast = 32
	// pullLeast is for how long a pull is to wait at least.
	pullLeast = time.Second
	// pullExpiry and pullBatch are how long a pull for alarms waits, and for how many.
	pullExpiry, pullBatch = 30 * time.Second, 32
)

// Keep is how long records have to last: as long as a message of the same request
// can come, or a device counts as reset lately, and a day. Of an age limit of 0,
// which is none, it is the usual retention.
func Keep(maxAge, cooldown, fuse time.Duration) time.Duration {
	if maxAge == 0 {
		maxAge = Retention - graceRecords
	}
	return max(maxAge, dedupeWindow, cooldown, fuse) + graceRecords
}

// weaknesses gathers what is wrong with one thing.
type weaknesses struct {
	what  string
	found []Weakness
}

// add notes a weakness if it is there.
func (w *weaknesses) add(there bool, do, format string, args ...any) {
	if there {
		w.found = append(w.found, Weakness{w.what, fmt.Sprintf(format, args...), do})
	}
}

// StreamWeaknesses tells what about a stream of the given names, or a bucket's
// stream, is weaker than the worker's promises need. keep is how long records
// have to last; 0 is any time.
func StreamWeaknesses(cfg jetstream.StreamConfig, n Names, keep time.Duration) []Weakness {
	w := &weaknesses{what: "stream " + cfg.Name}
	lost := "requests or their records"
	if cfg.Name == n.FollowStream || cfg.Name == "KV_"+n.OutcomeBucket() {
		lost = "what devices did, and which to look at"
	}
	w.add(cfg.Replicas < maxReplicas, "run worker setup --update --replicas 3, in a cluster of three servers",
		"has %d replica(s), so the loss of one server can lose %s; three replicas survive it", cfg.Replicas, lost)
	w.add(cfg.Storage != jetstream.FileStorage, doAnew, "is kept in memory: a restart of the server loses it")
	w.add(cfg.Sealed, doAnew, "is sealed: nothing can be written to it")
	w.add(cfg.NoAck, doUpdate, "does not acknowledge messages: a publisher never learns whether its message is stored")
	w.add(cfg.PersistMode == jetstream.AsyncPersistMode, doAnew, "acknowledges messages before they are on disk: a crash of the server loses them")
	w.add(cfg.AllowMsgCounter, doAnew, "accepts only counters")
	w.add(cfg.SubjectTransform != nil, doUpdate, "stores messages under other subjects than those they were sent to, so they may reach another tenant, or nobody")
	if m := cfg.Mirror; m != nil {
		w.add(true, doUpdate, "is a mirror of %s: it does not store messages sent to its own subjects", m.Name)
	}
	if names := sourceNames(cfg); names != "" {
		w.add(true, "remove its sources, unless they are intended", "copies the messages of %s: anyone who may write there needs no right here", names)
	}
	l := Layout{}
	switch cfg.Name {
	case n.Stream:
		w.requests(cfg, l.Requests(n), n)
	case n.DeadStream:
		w.letters(cfg, l.Letters(n), n, keep)
	case "KV_" + n.Bucket:
		want := l.Records(n)
		w.bucket(cfg, want)
		w.add(cfg.MaxMsgsPerSubject < int64(want.History), doUpdate, "keeps %d states of a request instead of %d", cfg.MaxMsgsPerSubject, want.History)
		w.add(cfg.RePublish == nil || cfg.RePublish.Destination != want.RePublish.Destination, doUpdate,
			"does not publish its changes on %s, so nobody sees them without a right on the bucket", n.Status("*"))
		w.add(cfg.MaxAge > 0 && cfg.MaxAge < keep, "run worker setup --update with a --retention of at least "+keep.String(),
			"keeps records for %s instead of %s: a request can be done again once its record is gone", cfg.MaxAge, keep)
	case n.FollowStream:
		w.alarms(cfg, l.Follow(n), n)
	case "KV_" + n.OutcomeBucket():
		want := l.Outcomes(n)
		w.bucket(cfg, want)
		w.add(cfg.MaxMsgsPerSubject < int64(want.History), doUpdate, "keeps %d states of an outcome instead of %d", cfg.MaxMsgsPerSubject, want.History)
		w.add(cfg.RePublish == nil || cfg.RePublish.Destination != want.RePublish.Destination, doUpdate,
			"does not publish its changes on %s, so nobody sees an outcome without a right on the bucket", n.Outcome("*"))
		w.add(cfg.MaxAge > 0 && cfg.MaxAge < Retention, doRetention,
			"keeps outcomes for %s instead of %s: an outcome can be gone while its request is still followed", cfg.MaxAge, Retention)
	case "KV_" + n.DeviceBucket():
		want := l.Devices(n)
		w.bucket(cfg, want)
		w.add(cfg.MaxMsgsPerSubject < int64(want.History), doUpdate, "keeps %d values of a key instead of %d", cfg.MaxMsgsPerSubject, want.History)
	case "KV_" + n.StateBucket():
		want := l.State(n)
		w.bucket(cfg, want)
		w.add(cfg.MaxMsgsPerSubject < int64(want.History), doUpdate, "keeps %d values of a key instead of %d", cfg.MaxMsgsPerSubject, want.History)
		w.add(cfg.MaxAge > 0, doUpdate, "forgets what replicas hand on, such as a blown fuse, after %s", cfg.MaxAge)
	}
	return w.found
}

func sourceNames(cfg jetstream.StreamConfig) string {
	var names []string
	for _, s := range cfg.Sources {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

func (w *weaknesses) requests(cfg, want jetstream.StreamConfig, n Names) {
	w.ours(cfg, want)
	w.add(!Covers(cfg.Subjects, n.Filter()), doUpdate, "takes %q, so it stores nothing on %s", cfg.Subjects, n.Filter())
	w.add(cfg.Retention != want.Retention, doAnew, "has retention %s instead of work queue: requests stay in it after they are done", cfg.Retention)
	w.add(cfg.Discard != want.Discard, doUpdate, "discards old messages when it is full: requests can be lost silently; use discard new")
	w.add(cfg.MaxAge != 0, doUpdate, "silently drops requests after %s; use no max age", cfg.MaxAge)
	w.add(cfg.MaxMsgsPerSubject > 0 && !cfg.DiscardNewPerSubject, doUpdate,
		"keeps only %d requests of a tenant and silently drops older ones; use no limit per subject", cfg.MaxMsgsPerSubject)
	w.add(tooSmall(cfg, leastMessage), doUpdate, "accepts no message of more than %d bytes, so valid requests are refused", cfg.MaxMsgSize)
	w.add(cfg.AllowMsgTTL, doAnew, "lets a publisher give a request a time to live (Nats-TTL), after which the request disappears silently")
	w.add(cfg.ConsumerLimits.InactiveThreshold > 0, doUpdate, "removes a consumer when nobody has pulled from it for %s", cfg.ConsumerLimits.InactiveThreshold)
	w.add(cfg.ConsumerLimits.MaxAckPending > 0 && cfg.ConsumerLimits.MaxAckPending < maxAckPending, doUpdate,
		"lets a consumer have at most %d acks pending instead of %d", cfg.ConsumerLimits.MaxAckPending, maxAckPending)
	switch again := cfg.RePublish; {
	case again == nil, again.Destination != want.RePublish.Destination:
		w.add(true, doUpdate, "does not wake workers by %s: a worker with many tenants polls for new requests instead, which costs more and is a little slower", n.Wake())
	default:
		w.add(again.Source != want.RePublish.Source, doUpdate, "wakes workers for %s instead of %s", again.Source, want.RePublish.Source)
		w.add(!again.HeadersOnly, doUpdate, "wakes workers with whole requests on %s, although headers would do", n.Wake())
	}
	w.add(cfg.MaxConsumers > 0 && cfg.MaxConsumers < manyConsumers, doUpdate, fewConsumers, cfg.MaxConsumers)
}

// alarms are what following needs of its stream: a clock that no one may stop.
func (w *weaknesses) alarms(cfg, want jetstream.StreamConfig, n Names) {
	const lost = "requests are silently no longer followed"
	w.ours(cfg, want)
	w.add(!Covers(cfg.Subjects, n.FollowSubject+".0."+n.Tenant), doUpdate, "takes %q, so it stores no alarm on %s, and nothing is followed", cfg.Subjects, n.FollowSubject+".*.*")
	w.add(cfg.Retention != want.Retention, doAnew, "has retention %s instead of work queue: alarms stay in it after they are done", cfg.Retention)
	w.add(cfg.Discard != want.Discard, doUpdate, "discards old messages when it is full: %s; use discard new", lost)
	w.add(cfg.MaxAge != 0, doUpdate, "drops alarms after %s: %s; use no max age", cfg.MaxAge, lost)
	w.add(cfg.MaxMsgsPerSubject > 0 && !cfg.DiscardNewPerSubject, doUpdate,
		"keeps only %d alarms of a tenant and a step: %s; use no limit per subject", cfg.MaxMsgsPerSubject, lost)
	w.add(tooSmall(cfg, leastAlarm), doUpdate, "accepts no message of more than %d bytes, which may be too few for an alarm", cfg.MaxMsgSize)
	w.add(cfg.AllowMsgTTL, doAnew, "lets a publisher give an alarm a time to live (Nats-TTL), after which the alarm disappears silently")
	w.add(cfg.ConsumerLimits.InactiveThreshold > 0, doUpdate, "removes a consumer when nobody has pulled from it for %s", cfg.ConsumerLimits.InactiveThreshold)
	w.add(cfg.ConsumerLimits.MaxAckPending > 0 && cfg.ConsumerLimits.MaxAckPending < followAckPending, doUpdate,
		"lets a consumer have at most %d acks pending instead of %d", cfg.ConsumerLimits.MaxAckPending, followAckPending)
	w.add(cfg.MaxConsumers > 0 && cfg.MaxConsumers < FollowSteps, doUpdate, "has room for %d consumers instead of %d", cfg.MaxConsumers, FollowSteps)
}

// FollowWeaknesses tells what about the consumer of a step is weaker than following
// needs.
func FollowWeaknesses(cfg jetstream.ConsumerConfig, n Names, step int) []Weakness {
	want := Layout{}.FollowStep(n, step)
	w := &weaknesses{what: "consumer " + want.Durable}
	filters := cfg.FilterSubjects // a consumer's subjects are written either way
	if cfg.FilterSubject != "" {
		filters = []string{cfg.FilterSubject}
	}
	w.add(cfg.DeliverSubject != "", doConsumeStep, "pushes alarms to %s instead of letting workers pull them", cfg.DeliverSubject)
	w.add(cfg.AckPolicy != want.AckPolicy, doConsumeStep, "has the ack policy %s instead of explicit, so alarms would be lost", cfg.AckPolicy)
	w.add(cfg.DeliverPolicy != want.DeliverPolicy, doConsumeStep, "has the deliver policy %s instead of all, so earlier alarms are never delivered", cfg.DeliverPolicy)
	w.add(cfg.HeadersOnly, doUpdate, "delivers headers only, so the worker would drop every alarm")
	w.add(len(filters) != 1 || filters[0] != want.FilterSubject, doUpdate, "takes %q instead of %q", filters, want.FilterSubject)
	w.add(cfg.AckWait < want.AckWait, doUpdate, "has an ack wait of %s instead of %s: a device may be looked at twice", cfg.AckWait, want.AckWait)
	w.add(cfg.AckWait > ackWaitMost, doUpdate, "has an ack wait of %s instead of %s: if a worker is gone, its alarms wait that long", cfg.AckWait, want.AckWait)
	w.add(cfg.MaxDeliver > 0, doUpdate, "delivers an alarm at most %d times. Waiting counts as well, so requests would no longer be followed: use no limit (-1)", cfg.MaxDeliver)
	w.add(len(cfg.BackOff) > 0, doUpdate, "has a back-off list, which lengthens every delay; remove the list")
	w.add(cfg.MaxAckPending > 0 && cfg.MaxAckPending < want.MaxAckPending, doUpdate,
		"has at most %d acks pending instead of %d, so too few looks are made at a time", cfg.MaxAckPending, want.MaxAckPending)
	w.add(cfg.MaxAckPending <= 0 || cfg.MaxAckPending > 4*want.MaxAckPending, doUpdate,
		"has up to %d acks pending instead of %d: alarms that are not due yet put a load on the server", cfg.MaxAckPending, want.MaxAckPending)
	w.add(cfg.InactiveThreshold > 0, doUpdate, "is removed when nobody has pulled from it for %s", cfg.InactiveThreshold)
	w.add(cfg.RateLimit > 0, doUpdate, "delivers at most %d bits per second", cfg.RateLimit)
	w.add(cfg.MaxRequestExpires > 0 && cfg.MaxRequestExpires < pullExpiry, doUpdate, "lets a pull wait for only %s, less than the %s that workers ask for", cfg.MaxRequestExpires, pullExpiry)
	w.add(cfg.MaxRequestBatch > 0 && cfg.MaxRequestBatch < pullBatch, doUpdate, "delivers at most %d alarms to a pull, fewer than the %d that workers ask for", cfg.MaxRequestBatch, pullBatch)
	w.add(cfg.MaxWaiting > 0 && cfg.MaxWaiting < waitingLeast, doConsumeStep, "lets only %d pulls wait at a time; several replicas need more", cfg.MaxWaiting)
	w.add(cfg.ReplayPolicy != jetstream.ReplayInstantPolicy, doConsumeStep, "delivers alarms as slowly as they were stored (replay policy original)")
	w.add(cfg.Replicas > 0 && cfg.Replicas < maxReplicas, doUpdate, "is kept on %d server(s): losing one forgets which alarms were done", cfg.Replicas)
	w.add(cfg.MemoryStorage, doConsumeStep, "is kept in memory: a restart of the server forgets which alarms were done")
	w.add(cfg.PriorityPolicy != jetstream.PriorityPolicyNone, doConsumeStep, "has a priority group, so the server refuses the workers' pulls, which name none")
	return w.found
}

func (w *weaknesses) letters(cfg, want jetstream.StreamConfig, n Names, keep time.Duration) {
	w.ours(cfg, want)
	w.add(!Covers(cfg.Subjects, n.Dead()), doUpdate, "takes %q, so it stores no dead letter on %s", cfg.Subjects, n.Dead())
	w.add(cfg.Retention != want.Retention, doUpdate, "has retention %s instead of limits: letters can disappear when they are read", cfg.Retention)
	w.add(cfg.Discard != want.Discard && (cfg.MaxBytes > 0 || cfg.MaxMsgs > 0), doUpdate, "discards old dead letters when it is full; use discard new")
	w.add(cfg.MaxMsgsPerSubject > 0 && !cfg.DiscardNewPerSubject, doUpdate, "keeps only %d dead letters of a tenant and drops older ones", cfg.MaxMsgsPerSubject)
	w.add(cfg.MaxAge > 0 && cfg.MaxAge < keep, "run worker setup --update with a --retention of at least "+keep.String(),
		"drops dead letters after %s, possibly before anybody has seen them", cfg.MaxAge)
	w.add(tooSmall(cfg, leastMessage), doUpdate, "accepts no letter of more than %d bytes: a request with a larger letter stays in the queue for ever", cfg.MaxMsgSize)
	w.add(!cfg.AllowDirect, doUpdate, "does not allow direct reads, which worker dead needs")
	w.add(cfg.DenyDelete, doAnew, "does not allow letters to be removed, so worker dead redrive and worker dead remove fail")
}

// ours is what both streams of requests need: whatever lets a publisher do more
// than add a message is none of theirs.
func (w *weaknesses) ours(cfg, want jetstream.StreamConfig) {
	w.add(cfg.Duplicates < want.Duplicates, doUpdate, "remembers message ids for %s instead of %s: it may store a copy that comes later", cfg.Duplicates, want.Duplicates)
	w.add(cfg.AllowRollup, doUpdate, "lets a publisher remove existing messages with the header Nats-Rollup")
	w.add(cfg.AllowMsgSchedules, doAnew, "lets a publisher schedule messages (Nats-Schedule) on any of its subjects, including those of other tenants")
	w.add(cfg.SubjectDeleteMarkerTTL > 0, doUpdate, "replaces the last message that it drops by a marker, which is not a request")
	if again := cfg.RePublish; again != nil && (want.RePublish == nil || again.Destination != want.RePublish.Destination) {
		w.add(true, doUpdate, "republishes each message on %s: anyone who may subscribe there can read it, and a stream there stores it a second time", again.Destination)
	}
}

func (w *weaknesses) bucket(cfg jetstream.StreamConfig, want jetstream.KeyValueConfig) {
	subject := "$KV." + want.Bucket + ".>"
	w.add(!Covers(cfg.Subjects, "$KV."+want.Bucket+".a.b"), doAnew, "takes %q instead of %s, so nothing can be written to it", cfg.Subjects, subject)
	w.add(cfg.Retention != jetstream.LimitsPolicy, doUpdate, "has retention %s instead of limits: values can disappear when they are read", cfg.Retention)
	w.add(cfg.Discard != jetstream.DiscardNew && (cfg.MaxBytes > 0 || cfg.MaxMsgs > 0), doUpdate, "drops old values when it is full; use discard new")
	w.add(!cfg.AllowDirect, doUpdate, "does not allow direct reads, but the worker has rights only for those")
	w.add(tooSmall(cfg, leastValue), doUpdate, "accepts no value of more than %d bytes, which may be too few", cfg.MaxMsgSize)
}

// tooSmall tells that a stream limits messages to less than what is to be stored.
func tooSmall(cfg jetstream.StreamConfig, least int32) bool {
	return cfg.MaxMsgSize > 0 && cfg.MaxMsgSize < least
}

// ConsumerWeaknesses tells what about the tenant's consumer is weaker than the
// worker's promises need. Of one that is [Unusable] that is all.
func ConsumerWeaknesses(cfg jetstream.ConsumerConfig, n Names) []Weakness {
	if w := Unusable(cfg, n); w != nil {
		return []Weakness{*w}
	}
	w := &weaknesses{what: "consumer " + n.Consumer()}
	w.add(cfg.AckWait < ackWait, doUpdate, "has an ack wait of %s instead of %s: a request may be delivered again while a worker is handling it", cfg.AckWait, ackWait)
	w.add(cfg.AckWait > ackWaitMost, doUpdate, "has an ack wait of %s instead of %s: if a worker is gone, its requests wait that long", cfg.AckWait, ackWait)
	w.add(cfg.MaxDeliver > 0, doUpdate, "delivers a request at most %d times. Waiting counts as well, so requests can get stuck: use no limit (-1)", cfg.MaxDeliver)
	w.add(len(cfg.BackOff) > 0, doUpdate, "has a back-off list, which lengthens every delay; remove the list")
	w.add(cfg.MaxAckPending > 0 && cfg.MaxAckPending < maxAckPending, doUpdate,
		"has at most %d acks pending instead of %d: that many waiting requests block those behind them", cfg.MaxAckPending, maxAckPending)
	w.add(cfg.InactiveThreshold > 0, doUpdate, "is removed when nobody has pulled from it for %s", cfg.InactiveThreshold)
	w.add(cfg.RateLimit > 0, doUpdate, "delivers at most %d bits per second", cfg.RateLimit)
	w.add(cfg.MaxRequestExpires > 0 && cfg.MaxRequestExpires < pullLeast, doUpdate, "lets a pull wait for only %s, so workers keep asking", cfg.MaxRequestExpires)
	w.add(cfg.MaxWaiting > 0 && cfg.MaxWaiting < waitingLeast, doConsume, "lets only %d pulls wait at a time; several replicas need more", cfg.MaxWaiting)
	w.add(cfg.ReplayPolicy != jetstream.ReplayInstantPolicy, doConsume, "delivers requests as slowly as they were sent (replay policy original)")
	w.add(cfg.Replicas > 0 && cfg.Replicas < maxReplicas, doUpdate, "is kept on %d server(s): losing one forgets which requests were delivered and done", cfg.Replicas)
	w.add(cfg.MemoryStorage, doConsume, "is kept in memory: a restart of the server forgets which requests were delivered")
	if cfg.PriorityPolicy != jetstream.PriorityPolicyPinned {
		w.add(true, "a group cannot be added: remove the consumer and run worker setup; the requests stay",
			"has no pinned priority group like the one that worker setup creates: all replicas would work, each at the full rate")
	} else {
		w.add(cfg.PinnedTTL > pinnedMost, doUpdate, "waits %s before it replaces a silent replica by another; %s is enough", cfg.PinnedTTL, pinnedTTL)
		w.add(cfg.PinnedTTL < pinnedLeast, doUpdate, "pins another replica after only %s of silence: a healthy replica can lose its pin", cfg.PinnedTTL)
	}
	return w.found
}

// Unusable tells why the worker does not bind to a consumer; nil: it does. Such a
// one would lose requests, or hand out another tenant's: the tenant comes from
// the subject alone.
func Unusable(cfg jetstream.ConsumerConfig, n Names) *Weakness {
	w := &weaknesses{what: "consumer " + n.Consumer()}
	filters := cfg.FilterSubjects // a consumer's subjects are written either way
	if cfg.FilterSubject != "" {
		filters = []string{cfg.FilterSubject}
	}
	w.add(cfg.DeliverSubject != "", doConsume, "pushes requests to %s instead of letting the worker pull them", cfg.DeliverSubject)
	w.add(cfg.AckPolicy != jetstream.AckExplicitPolicy, doConsume, "has the ack policy %s instead of explicit, so requests would be lost", cfg.AckPolicy)
	w.add(cfg.DeliverPolicy != jetstream.DeliverAllPolicy, doConsume, "has the deliver policy %s instead of all, so earlier requests are never delivered", cfg.DeliverPolicy)
	w.add(cfg.HeadersOnly, doUpdate, "delivers headers only, so every request would become a dead letter without its body")
	w.add(len(filters) != 1 || filters[0] != n.Filter(), doUpdate, "takes %q instead of %q", filters, n.Filter())
	// Two workers with buckets of their own that share a consumer would know nothing
	// of what the other has reset. A consumer that names no bucket, such as one that
	// an operator has made, is taken as it is.
	if bucket := cfg.Metadata[bucketKey]; bucket != "" && bucket != n.Bucket {
		w.add(true, fmt.Sprintf("set WORKER_BUCKET=%s; or, once no worker uses that bucket and no request waits, run worker setup --update", bucket),
			"keeps its records in the bucket %s, not in %s, which knows nothing of the requests that were reset already", bucket, n.Bucket)
	}
	if len(w.found) == 0 {
		return nil
	}
	return &w.found[0]
}

// Covers reports whether one of a stream's subjects takes a subject without
// wildcards.
func Covers(subjects []string, subject string) bool {
	tokens := strings.Split(subject, ".")
	for _, s := range subjects {
		pattern := strings.Split(s, ".")
		fits := true
		for i, p := range pattern {
			if p == ">" {
				fits = fits && i < len(tokens)
				pattern = tokens // as long as the subject
				break
			}
			fits = fits && i < len(tokens) && (p == "*" || p == tokens[i])
		}
		if fits && len(pattern) == len(tokens) {
			return true
		}
	}
	return false
}
