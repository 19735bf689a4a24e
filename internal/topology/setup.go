package topology

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Done is what [Setup] did about one thing.
type Done struct {
	What   string // "stream PASSCODE_RESETS"
	Action string // "created", "exists", "updated"
	// Note is what is to be known about it all the same; empty: nothing.
	Note string
}

// Setup creates the streams, the buckets and the consumers that are missing. It
// changes nothing that exists, unless Layout.Update says so.
func Setup(ctx context.Context, js jetstream.JetStream, n Names, l Layout) ([]Done, error) {
	done, err := SetupQueue(ctx, js, n, l)
	if err != nil {
		return done, err
	}
	following, err := SetupFollow(ctx, js, n, l)
	return append(done, following...), err
}

// SetupQueue does what [Setup] does for what resets need: everything but what following
// needs, for which none of them waits.
func SetupQueue(ctx context.Context, js jetstream.JetStream, n Names, l Layout) ([]Done, error) {
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

// SetupFollow does what [Setup] does for following accepted requests. Resets need
// none of it.
func SetupFollow(ctx context.Context, js jetstream.JetStream, n Names, l Layout) ([]Done, error) {
	outcomes, alarms := l.Outcomes(n), l.Follow(n)
	g := &grace{}
	done, err := ensureAll(ctx, g, []step{
		// The stream first: where one of another domain takes its subjects, nothing is made.
		{"stream " + alarms.Name, "--max-bytes-follow", func(ctx context.Context) (string, error) {
			return justEnsure(ctx, js, alarms, n.FollowSubject+".0."+n.Tenant, l)
		}},
		{"key-value bucket " + outcomes.Bucket, "--max-bytes-outcomes", func(ctx context.Context) (string, error) { return ensureBucket(ctx, js, outcomes, l) }},
	})
	for s := 0; s < FollowSteps && err == nil; s++ {
		what, action := "consumer "+FollowConsumer(s), ""
		action, err = untilAnswered(ctx, g, func(ctx context.Context) (string, error) {
			return ensureConsumer(ctx, js, n.FollowStream, l.FollowStep(n, s), l)
		})
		if err != nil {
			return done, fmt.Errorf("%s: %w", what, explain(err, ""))
		}
		done = append(done, Done{What: what, Action: action})
	}
	return done, err
}

// SetupConsumer does what [Setup] does for the tenant's consumer.
func SetupConsumer(ctx context.Context, js jetstream.JetStream, n Names, l Layout) (Done, error) {
	what := "consumer " + n.Consumer()
	action, err := untilAnswered(ctx, &grace{}, func(ctx context.Context) (string, error) {
		return ensureConsumer(ctx, js, n.Stream, l.Worker(n), l)
	})
	if err != nil {
		return Done{}, fmt.Errorf("%s: %w", what, explain(err, ""))
	}
	return Done{What: what, Action: action}, nil
}

// SetupShared does what [Setup] does for what all tenants share: everything but
// the consumer, and what following needs.
func SetupShared(ctx context.Context, js jetstream.JetStream, n Names, l Layout) ([]Done, error) {
	requests, letters, records, states, cooling := l.Requests(n), l.Letters(n), l.Records(n), l.State(n), l.Devices(n)
	note := ""
	done, err := ensureAll(ctx, &grace{}, []step{
		{"stream " + requests.Name, "--max-bytes-requests", func(ctx context.Context) (string, error) { return ensureRequests(ctx, js, requests, n, l, &note) }},
		{"stream " + letters.Name, "--max-bytes-dead", func(ctx context.Context) (string, error) { return justEnsure(ctx, js, letters, n.Dead(), l) }},
		{"key-value bucket " + records.Bucket, "--max-bytes-records", func(ctx context.Context) (string, error) { return ensureBucket(ctx, js, records, l) }},
		{"key-value bucket " + states.Bucket, "--max-bytes-state", func(ctx context.Context) (string, error) { return ensureBucket(ctx, js, states, l) }},
		{"key-value bucket " + cooling.Bucket, "--max-bytes-devices", func(ctx context.Context) (string, error) { return ensureBucket(ctx, js, cooling, l) }},
	})
	if len(done) > 0 && done[0].What == "stream "+requests.Name {
		done[0].Note = note
	}
	return done, err
}

// step makes one thing where it is missing; size is the flag of its size.
type step struct {
	what, size string
	ensure     func(context.Context) (action string, err error)
}

// grace is how long it is tried again where a cluster cannot place anything yet: for
// [apiWait] from the first time that it says so. The zero grace has not begun. Several
// things share one, so that a cluster that is too small is told of at once.
type grace struct{ until time.Time }

// tries reports whether an error is a cluster's that may still gather its servers.
func (g *grace) tries(err error) bool {
	if !hasCode(err, errNoPeers) && !hasCode(err, errNoLeader) {
		return false
	}
	if g.until.IsZero() {
		g.until = time.Now().Add(apiWait)
	}
	return time.Now().Before(g.until)
}

// untilAnswered makes one thing where it is missing, and tries again where nobody
// answers, until the deadline of ctx. A cluster that elects its leaders loses what it is
// asked meanwhile, and what was made although the answer was lost is found by the next
// try. It tries again for some grace, too, where the cluster cannot place anything yet.
// Without a deadline there is one try: a missing right is silence, too, and a caller
// that has all the time has to say so before it comes back.
func untilAnswered(ctx context.Context, g *grace, ensure func(context.Context) (action string, err error)) (string, error) {
	_, limited := ctx.Deadline()
	for {
		try, cancel := context.WithTimeout(ctx, apiWait)
		action, err := ensure(try)
		cancel()
		gathers := limited && g.tries(err)
		if !limited || ctx.Err() != nil || !gathers && !errors.Is(err, context.DeadlineExceeded) {
			return action, err
		}
		if gathers {
			select {
			case <-time.After(placeWait):
			case <-ctx.Done():
				return action, err
			}
		}
	}
}

// ensureAll takes all steps. What the server refuses does not keep it from the rest,
// so that its error names all that is missing.
func ensureAll(ctx context.Context, g *grace, steps []step) (done []Done, missing error) {
	for _, step := range steps {
		action, err := untilAnswered(ctx, g, step.ensure)
		if err == nil {
			done = append(done, Done{What: step.what, Action: action})
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

// ensureRequests is [ensureStream] for the request stream. An account that allows fewer
// consumers than are asked for refuses the whole stream; without a number of its own the
// account's holds, which is the most that there can be.
func ensureRequests(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, n Names, l Layout, note *string) (string, error) {
	action, there, err := ensureStream(ctx, js, cfg, n.Filter(), l)
	if hasCode(err, errNoConsumers) {
		asked := cfg.MaxConsumers
		cfg.MaxConsumers = -1
		if action, there, err = ensureStream(ctx, js, cfg, n.Filter(), l); err == nil {
			*note = fmt.Sprintf("it has room for fewer than the requested %d consumers, and each tenant needs one: the account's max_consumers allows no more", asked)
		}
	}
	if err != nil || action != "exists" || there == nil {
		return action, err
	}
	if w := RoomWeakness(there.Config, there.State.Consumers, l.Tenants, nil); w != nil {
		*note = "it " + w.Text + "; " + w.Do
	}
	return action, nil
}

// justEnsure is [ensureStream] for who need not know what was there.
func justEnsure(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, subject string, l Layout) (string, error) {
	action, _, err := ensureStream(ctx, js, cfg, subject, l)
	return action, err
}

// ensureStream makes a stream that is to take the subject, unless one of another
// domain takes it: two would each keep their own count of what was done. there is what
// was found; nil: nothing.
func ensureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, subject string, l Layout) (action string, there *jetstream.StreamInfo, err error) {
	existing, err := js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := alone(ctx, js, subject); err != nil {
			return "", nil, err
		}
		action, err = create(l, single(js), &cfg.Replicas, jetstream.ErrStreamNameAlreadyInUse, func() error {
			_, err := js.CreateStream(ctx, cfg)
			return err
		})
		return action, nil, err
	}
	if err != nil {
		return "", nil, err
	}
	there = existing.CachedInfo()
	if !l.Update {
		return "exists", there, nil
	}
	// What the layout does not speak of stays as the operator has set it:
	// placement, compression and the like.
	to := l.kept(there.Config)
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
	if to.ConsumerLimits = cfg.ConsumerLimits; cfg.MaxConsumers > 0 {
		// Never less than there was, nor than what is there needs: what a server allows
		// where a stream names no number is not to be seen.
		cfg.MaxConsumers = max(cfg.MaxConsumers, to.MaxConsumers, there.State.Consumers+spareConsumers)
	}
	to.MaxConsumers = cfg.MaxConsumers
	mend(&to, leastMessage)
	_, err = js.UpdateStream(ctx, to)
	return "updated", there, err
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
