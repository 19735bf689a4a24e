package consume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names are the names on NATS of one tenant's queue.
type Names struct {
	Tenant      string
	Stream      string
	Subject     string // without the tenant
	DeadStream  string
	DeadSubject string // without the tenant
	Bucket      string
}

// Filter is the subject of the tenant's requests.
func (n Names) Filter() string { return n.Subject + "." + n.Tenant }

// Dead is the subject of the tenant's dead letters.
func (n Names) Dead() string { return n.DeadSubject + "." + n.Tenant }

// Consumer is the name of the tenant's durable consumer.
func (n Names) Consumer() string { return "worker-" + n.Tenant }

// StateBucket is the key-value bucket of what the replicas hand on to each other.
func (n Names) StateBucket() string { return n.Bucket + "-state" }

// DeviceBucket is the key-value bucket of the devices that cool down.
func (n Names) DeviceBucket() string { return n.Bucket + "-devices" }

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
	// Update changes what exists already to what it should be.
	Update bool
}

// Sizes are the limits of the streams and buckets, in bytes; 0 means none.
type Sizes struct{ Requests, Dead, Records, State, Devices int64 }

const (
	ackWait       = 30 * time.Second
	maxAckPending = 1000
	dedupeWindow  = 10 * time.Minute
	retention     = 90 * 24 * time.Hour
	history       = 16
	maxReplicas   = 3
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
		return retention
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

// Requests is the configuration of the request stream. It never drops a
// request to make room, and forgets none by age.
func (l Layout) Requests(n Names) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        n.Stream,
		Description: "passcode resets to be done",
		Subjects:    []string{n.Subject + ".*"},
		Retention:   jetstream.WorkQueuePolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     l.storage(),
		Replicas:    l.replicas(),
		Duplicates:  dedupeWindow,
		MaxBytes:    limit(l.MaxBytes.Requests),
		AllowDirect: true,
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

// statusSubject is where each change of a record is published again.
const statusSubject = "passcode.reset.status"

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

// Done is what [Setup] did about one thing.
type Done struct {
	What   string // "stream PASSCODE_RESETS"
	Action string // "created", "exists", "updated"
}

// Setup creates the streams, the buckets and the consumer that are missing. It
// changes nothing that exists, unless Layout.Update says so.
func Setup(ctx context.Context, js jetstream.JetStream, n Names, l Layout) ([]Done, error) {
	done, err := SetupShared(ctx, js, n, l)
	if err != nil {
		return done, err
	}
	own, err := SetupConsumer(ctx, js, n, l)
	if err != nil {
		return done, err
	}
	return append(done, own), nil
}

// SetupConsumer does what [Setup] does for the tenant's consumer.
func SetupConsumer(ctx context.Context, js jetstream.JetStream, n Names, l Layout) (Done, error) {
	what := "consumer " + n.Consumer()
	action, err := ensureConsumer(ctx, js, n.Stream, l.Worker(n), l)
	if err != nil {
		return Done{}, fmt.Errorf("%s: %w", what, explain(err, ""))
	}
	return Done{what, action}, nil
}

// SetupShared does what [Setup] does for what all tenants share: everything but
// the consumer. What the server refuses does not keep it from the rest, so that its
// error names all that is missing.
func SetupShared(ctx context.Context, js jetstream.JetStream, n Names, l Layout) (done []Done, err error) {
	requests, letters, records, states, cooling := l.Requests(n), l.Letters(n), l.Records(n), l.State(n), l.Devices(n)
	var missing error
	for _, step := range []struct {
		what, size string
		ensure     func() (string, error)
	}{
		{"stream " + requests.Name, "--max-bytes-requests", func() (string, error) { return ensureStream(ctx, js, requests, n.Filter(), l) }},
		{"stream " + letters.Name, "--max-bytes-dead", func() (string, error) { return ensureStream(ctx, js, letters, n.Dead(), l) }},
		{"key-value bucket " + records.Bucket, "--max-bytes-records", func() (string, error) { return ensureBucket(ctx, js, records, l) }},
		{"key-value bucket " + states.Bucket, "--max-bytes-state", func() (string, error) { return ensureBucket(ctx, js, states, l) }},
		{"key-value bucket " + cooling.Bucket, "--max-bytes-devices", func() (string, error) { return ensureBucket(ctx, js, cooling, l) }},
	} {
		action, err := step.ensure()
		if err == nil {
			done = append(done, Done{step.what, action})
			continue
		}
		refused := errors.As(err, new(*jetstream.APIError))
		err = fmt.Errorf("%s: %w", step.what, explain(err, step.size))
		if missing != nil {
			err = fmt.Errorf("%w; %w", missing, err)
		}
		if missing = err; !refused {
			break
		}
	}
	return done, missing
}

// ensureStream makes a stream that is to take the subject, unless one of another
// domain takes it: two would each keep their own count of what was done.
func ensureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, subject string, l Layout) (string, error) {
	existing, err := js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := alone(ctx, js, subject); err != nil {
			return "", err
		}
		return create(l, single(js), &cfg.Replicas, jetstream.ErrStreamNameAlreadyInUse, func() error {
			_, err := js.CreateStream(ctx, cfg)
			return err
		})
	}
	if err != nil || !l.Update {
		return "exists", err
	}
	// What the layout does not speak of stays as the operator has set it:
	// placement, compression and the like.
	to := l.kept(existing.CachedInfo().Config)
	to.Description, to.Subjects, to.Storage = cfg.Description, cfg.Subjects, cfg.Storage
	to.Retention, to.Discard, to.AllowDirect = cfg.Retention, cfg.Discard, cfg.AllowDirect
	to.MaxAge, to.Duplicates = cfg.MaxAge, cfg.Duplicates
	if !to.DiscardNewPerSubject { // then a limit drops nothing
		to.MaxMsgsPerSubject = cfg.MaxMsgsPerSubject
	}
	if cfg.MaxBytes > 0 {
		to.MaxBytes = cfg.MaxBytes
	}
	to.AllowRollup, to.RePublish, to.SubjectDeleteMarkerTTL = cfg.AllowRollup, cfg.RePublish, cfg.SubjectDeleteMarkerTTL
	to.ConsumerLimits, to.MaxConsumers = cfg.ConsumerLimits, cfg.MaxConsumers
	mend(&to, leastMessage)
	_, err = js.UpdateStream(ctx, to)
	return "updated", err
}

func ensureBucket(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, l Layout) (string, error) {
	existing, err := js.Stream(ctx, "KV_"+cfg.Bucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return create(l, single(js), &cfg.Replicas, jetstream.ErrBucketExists, func() error {
			_, err := js.CreateKeyValue(ctx, cfg)
			return err
		})
	}
	if err != nil || !l.Update {
		return "exists", err
	}
	to := l.kept(existing.CachedInfo().Config)
	to.Description, to.Storage, to.MaxMsgsPerSubject = cfg.Description, cfg.Storage, int64(cfg.History)
	to.MaxAge, to.RePublish = cfg.TTL, cfg.RePublish
	if cfg.MaxBytes > 0 {
		to.MaxBytes = cfg.MaxBytes
	}
	if cfg.TTL > 0 {
		to.Duplicates = min(to.Duplicates, cfg.TTL)
	}
	to.Subjects, to.Retention, to.Discard, to.AllowDirect = []string{"$KV." + cfg.Bucket + ".>"}, jetstream.LimitsPolicy, jetstream.DiscardNew, true
	mend(&to, leastValue)
	_, err = js.UpdateStream(ctx, to)
	return "updated", err
}

// mend takes away what keeps a stream from storing what is sent to it. What the
// server does not let go of stays: [StreamWeaknesses] says so.
func mend(to *jetstream.StreamConfig, least int32) {
	to.NoAck, to.SubjectTransform, to.Mirror = false, nil, nil
	if tooSmall(*to, least) {
		to.MaxMsgSize = -1
	}
}

func ensureConsumer(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig, l Layout) (string, error) {
	existing, err := js.Consumer(ctx, stream, cfg.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return create(l, false, new(int), jetstream.ErrConsumerExists, func() error {
			_, err := js.CreateConsumer(ctx, stream, cfg)
			return err
		})
	}
	if err != nil || !l.Update {
		return "exists", err
	}
	// Kept as well: a pause.
	to := existing.CachedInfo().Config
	to.Description, to.AckPolicy, to.AckWait = cfg.Description, cfg.AckPolicy, cfg.AckWait
	to.MaxDeliver, to.BackOff, to.MaxAckPending = cfg.MaxDeliver, nil, cfg.MaxAckPending
	to.FilterSubject, to.FilterSubjects = cfg.FilterSubject, nil
	to.Metadata = withMetadata(to.Metadata, cfg.Metadata)
	to.HeadersOnly, to.RateLimit, to.InactiveThreshold, to.Replicas = false, 0, 0, cfg.Replicas
	to.MaxRequestBatch, to.MaxRequestExpires, to.MaxRequestMaxBytes = 0, 0, 0
	if to.PriorityPolicy == cfg.PriorityPolicy {
		to.PinnedTTL = cfg.PinnedTTL
	}
	_, err = js.UpdateConsumer(ctx, stream, to)
	return "updated", err
}

// single tells that the server which answers is certainly not part of a cluster.
func single(js jetstream.JetStream) bool {
	nc, o := js.Conn(), js.Options()
	own, _ := nc.ConnectedServerJetStream()
	return own && nc.ConnectedClusterName() == "" && API(o, "") == jetstream.DefaultAPIPrefix
}

// kept is an existing configuration with the number of replicas that was asked for.
func (l Layout) kept(existing jetstream.StreamConfig) jetstream.StreamConfig {
	if l.Replicas != 0 {
		existing.Replicas = l.Replicas
	}
	return existing
}

// create tries three replicas where none were asked for, and falls to one on a
// server that is not part of a cluster, or for an account that has no tier of
// three. Such a server says first that three times the size is too much, so it
// has to be known that it is single. taken is the error that another worker was
// faster.
func create(l Layout, single bool, replicas *int, taken error, try func() error) (string, error) {
	err := try()
	tooLarge := hasCode(err, errNoStorage) || hasCode(err, errNoMemory)
	if l.Replicas == 0 && (hasCode(err, errNoReplicas) || hasCode(err, errNoTier) || single && tooLarge) {
		*replicas = 1
		err = try()
	}
	if errors.Is(err, taken) {
		return "exists", nil
	}
	return "created", err
}

func hasCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}
