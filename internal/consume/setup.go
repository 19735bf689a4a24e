package consume

import (
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

// Layout is how what [Setup] makes is stored.
type Layout struct {
	// Replicas of streams and bucket; 0 means three where the server is part
	// of a cluster, else one.
	Replicas int
	Memory   bool // memory instead of files: for tests only, a restart loses all
	// Retention of dead letters and records; 0 means 90 days.
	Retention time.Duration
	// MaxBytes of the request stream; 0 means no limit. A publisher is told
	// when it is full.
	MaxBytes int64
	// Update changes what exists already to what it should be.
	Update bool
}

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

func (l Layout) maxBytes() int64 {
	if l.MaxBytes == 0 {
		return -1
	}
	return l.MaxBytes
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
		MaxBytes:    l.maxBytes(),
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
		Storage:  l.storage(),
		Replicas: l.replicas(),
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
		MaxAckPending: maxAckPending,
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
		return Done{}, fmt.Errorf("%s: %w", what, err)
	}
	return Done{what, action}, nil
}

// SetupShared does what [Setup] does for what all tenants share: everything but
// the consumer.
func SetupShared(ctx context.Context, js jetstream.JetStream, n Names, l Layout) (done []Done, err error) {
	for _, cfg := range []jetstream.StreamConfig{l.Requests(n), l.Letters(n)} {
		action, err := ensureStream(ctx, js, cfg, l)
		if done, err = appendDone(done, "stream "+cfg.Name, action, err); err != nil {
			return done, err
		}
	}
	for _, cfg := range []jetstream.KeyValueConfig{l.Records(n), l.State(n)} {
		action, err := ensureBucket(ctx, js, cfg, l)
		if done, err = appendDone(done, "key-value bucket "+cfg.Bucket, action, err); err != nil {
			return done, err
		}
	}
	return done, nil
}

func appendDone(done []Done, what, action string, err error) ([]Done, error) {
	if err != nil {
		return done, fmt.Errorf("%s: %w", what, err)
	}
	return append(done, Done{what, action}), nil
}

func ensureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, l Layout) (string, error) {
	existing, err := js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return create(l, &cfg.Replicas, jetstream.ErrStreamNameAlreadyInUse, func() error {
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
		return create(l, &cfg.Replicas, jetstream.ErrBucketExists, func() error {
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
		return create(l, new(int), jetstream.ErrConsumerExists, func() error {
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

// kept is an existing configuration with the number of replicas that was asked for.
func (l Layout) kept(existing jetstream.StreamConfig) jetstream.StreamConfig {
	if l.Replicas != 0 {
		existing.Replicas = l.Replicas
	}
	return existing
}

// create tries three replicas where none were asked for, and falls to one on a
// server that is not part of a cluster. taken is the error that another worker
// was faster.
func create(l Layout, replicas *int, taken error, try func() error) (string, error) {
	err := try()
	if l.Replicas == 0 && hasCode(err, errNoReplicas) {
		*replicas = 1
		err = try()
	}
	switch {
	case errors.Is(err, taken):
		return "exists", nil
	case l.Replicas == 0 && hasCode(err, errNoPeers):
		// A cluster that has just started says the same as one that is too
		// small: one replica here would be one for ever.
		err = fmt.Errorf("%w; if the cluster has fewer than %d servers with JetStream, ask for fewer replicas", err, maxReplicas)
	}
	return "created", err
}

// Error codes of a server that cannot place replicas: it is not clustered, or
// knows of too few peers. Source: nats-server, server/errors.json.
const (
	errNoReplicas jetstream.ErrorCode = 10074
	errNoPeers    jetstream.ErrorCode = 10005
)

func hasCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}
