package topology

import (
	"cmp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Layout is how what [Setup] makes is stored.
type Layout struct {
	// Replicas of streams and bucket; 0 means three where the server is part
	// of a cluster, else one.
	Replicas int
	Memory   bool // memory instead of files: for tests only, a restart loses all
	// Retention of dead letters and records; 0 means 90 days.
	Retention time.Duration
	// Cooldown is how long the key of a device that cools down is kept: the cooldown
	// and the time-out of a call. 0 means a day.
	Cooldown time.Duration
	// MaxBytes limits the sizes. Who writes to what is full is told; nothing is
	// dropped.
	MaxBytes Sizes
	// MaxAckPending is how many requests of a tenant may be delivered and not
	// settled at a time; 0 means 1,000.
	MaxAckPending int
	// Tenants is how many tenants have requests on the stream, each of which takes a
	// consumer; the stream is made with room for many more, and so 0 is enough for a few.
	Tenants int
	// Update changes what exists already to what it should be.
	Update bool
}

// Sizes are the limits of the streams and buckets, in bytes; 0 means none.
type Sizes struct{ Requests, Dead, Records, State, Devices, Outcomes, Follow int64 }

// Retention is how long dead letters, records and outcomes are kept, unless a [Layout] says
// otherwise.
const Retention = 90 * 24 * time.Hour

const (
	ackWait       = 30 * time.Second
	maxAckPending = 1000
	dedupeWindow  = 10 * time.Minute
	history       = 16
	maxReplicas   = 3
	// outcomeHistory is what the bucket of outcomes keeps of each key.
	outcomeHistory = 8
	// FollowSteps is how many queues the alarms wait in.
	FollowSteps      = 10
	followAckWait    = time.Minute
	followAckPending = 256
	// defaultConsumers is how many consumers a server allows a stream that names no number,
	// unless its default_max_consumers says otherwise; -1 is no number. Source: nats-server,
	// server/jetstream_api.go (JSDefaultMaxConsumersPerStream), server/consumer.go.
	defaultConsumers = 1000
	// spareConsumers is the room for tenants that are still to come, and for the consumers
	// of those that are served no more, which nobody but an operator removes.
	spareConsumers = 500
	// group is the consumer's priority group. The replica that is pinned in it
	// is the one that works; the others' pulls wait.
	group = "worker"
	// pinnedTTL is how long the server waits for a sign of life of the pinned
	// replica before it pins another.
	pinnedTTL = 5 * time.Second
)

func (l Layout) replicas() int {
	if l.Replicas == 0 {
		return maxReplicas
	}
	return l.Replicas
}

func (l Layout) storage() jetstream.StorageType {
	if l.Memory {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

func (l Layout) retention() time.Duration {
	if l.Retention == 0 {
		return Retention
	}
	return l.Retention
}

// limit is a size as the server knows it.
func limit(bytes int64) int64 {
	if bytes == 0 {
		return -1
	}
	return bytes
}

// roomFor is how many consumers the request stream is to allow: for as many tenants as
// one process serves, or those that there are, and for some more.
func roomFor(tenants int) int { return max(manyConsumers, tenants) + spareConsumers }

// Requests is the configuration of the request stream. It never drops a
// request to make room, and forgets none by age. It tells of each new request by its
// headers, so that a worker of many tenants need not ask for each all the time.
func (l Layout) Requests(n Names) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:         n.Stream,
		Description:  "passcode resets to be done",
		Subjects:     []string{n.Subject + ".*"},
		Retention:    jetstream.WorkQueuePolicy,
		Discard:      jetstream.DiscardNew,
		Storage:      l.storage(),
		Replicas:     l.replicas(),
		Duplicates:   dedupeWindow,
		MaxBytes:     limit(l.MaxBytes.Requests),
		AllowDirect:  true,
		MaxConsumers: roomFor(l.Tenants),
		// The tenant is the one wildcard of the source, however many tokens are before it.
		RePublish: &jetstream.RePublish{Source: n.Subject + ".*", Destination: n.wake() + "{{wildcard(1)}}", HeadersOnly: true},
	}
}

// Letters is the configuration of the dead-letter stream. Should an operator
// limit its size, a full one drops no letter: requests then stay in the queue.
func (l Layout) Letters(n Names) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        n.DeadStream,
		Description: "passcode resets that could not be done",
		Subjects:    []string{n.DeadSubject + ".*"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     l.storage(),
		Replicas:    l.replicas(),
		MaxAge:      l.retention(),
		Duplicates:  min(dedupeWindow, l.retention()),
		MaxBytes:    limit(l.MaxBytes.Dead),
		AllowDirect: true,
	}
}

// Records is the configuration of the bucket.
func (l Layout) Records(n Names) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:      n.Bucket,
		Description: "one record per passcode reset",
		History:     history,
		TTL:         l.retention(),
		MaxBytes:    limit(l.MaxBytes.Records),
		Storage:     l.storage(),
		Replicas:    l.replicas(),
		RePublish:   &jetstream.RePublish{Source: "$KV." + n.Bucket + ".>", Destination: statusSubject + ".>"},
	}
}

// Devices is the configuration of the bucket of devices that cool down.
func (l Layout) Devices(n Names) jetstream.KeyValueConfig {
	ttl := l.Cooldown
	if ttl == 0 {
		ttl = 24 * time.Hour
	}
	return jetstream.KeyValueConfig{
		Bucket:      n.DeviceBucket(),
		Description: "devices that cool down after a reset",
		History:     history,
		TTL:         ttl,
		MaxBytes:    limit(l.MaxBytes.Devices),
		Storage:     l.storage(),
		Replicas:    l.replicas(),
	}
}

// State is the configuration of the bucket of what the replicas of a worker hand
// on to each other.
func (l Layout) State(n Names) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:      n.StateBucket(),
		Description: "what the workers of a tenant hand on to each other",
		// So that what others store under a key does not push out what it should hold.
		History:  history,
		MaxBytes: limit(l.MaxBytes.State),
		Storage:  l.storage(),
		Replicas: l.replicas(),
	}
}

// Outcomes is the configuration of the bucket of what the devices did.
func (l Layout) Outcomes(n Names) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:      n.OutcomeBucket(),
		Description: "what became of each accepted passcode reset on its device",
		History:     outcomeHistory,
		TTL:         l.retention(),
		MaxBytes:    limit(l.MaxBytes.Outcomes),
		Storage:     l.storage(),
		Replicas:    l.replicas(),
		RePublish:   &jetstream.RePublish{Source: "$KV." + n.OutcomeBucket() + ".>", Destination: outcomeSubject + ".>"},
	}
}

// Follow is the configuration of the stream of alarms: a clock. Should an operator
// limit its size, a full one takes no further alarm, and resets go on.
func (l Layout) Follow(n Names) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        n.FollowStream,
		Description: "when the devices of accepted passcode resets are looked at",
		Subjects:    []string{n.FollowSubject + ".*.*"},
		Retention:   jetstream.WorkQueuePolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     l.storage(),
		Replicas:    l.replicas(),
		Duplicates:  dedupeWindow,
		MaxBytes:    limit(l.MaxBytes.Follow),
		AllowDirect: true,
	}
}

// FollowStep is the configuration of the consumer of a step. In each step all alarms
// wait equally long, so that the one at the head is due first; those that are not due
// are sent back until they are, so that their number bounds what the server watches.
func (l Layout) FollowStep(n Names, step int) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:     FollowConsumer(step),
		Description: "looks at devices, step " + strconv.Itoa(step),
		AckPolicy:   jetstream.AckExplicitPolicy,
		AckWait:     followAckWait,
		MaxDeliver:  -1,
		// No more than an account may allow, which the operator says of the worker's.
		MaxAckPending: min(followAckPending, cmp.Or(l.MaxAckPending, followAckPending)),
		FilterSubject: n.FollowSubject + "." + strconv.Itoa(step) + ".*",
	}
}

// Worker is the configuration of the tenant's consumer. Waiting, holds and
// drains raise a message's delivery count without any fault of its own, so
// there is no limit of deliveries.
func (l Layout) Worker(n Names) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       n.Consumer(),
		Description:   "worker of the tenant " + n.Tenant,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		MaxAckPending: cmp.Or(l.MaxAckPending, maxAckPending),
		FilterSubject: n.Filter(),
		// So that one replica at a time works on the tenant, and its quota is kept.
		PriorityPolicy: jetstream.PriorityPolicyPinned,
		PriorityGroups: []string{group},
		PinnedTTL:      pinnedTTL,
		Metadata:       n.metadata(),
	}
}
