package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/consume"
)

// queue checks what belongs to one tenant on NATS.
type queue struct {
	*checker
	nc    *nats.Conn
	js    jetstream.JetStream
	names consume.Names
	may   map[string]bool // subjects that may be published to

	// clock is what the server's clock said when ours said asked.
	clock, asked time.Time
}

const update = "worker setup --update changes it"

func (q *queue) check(ctx context.Context) {
	n := q.names
	q.try(ctx)
	layout := consume.Layout{}
	q.of("")
	q.stream(ctx, "stream "+n.Stream, n.Stream, Failed, func(cfg jetstream.StreamConfig) (found []string) {
		if !covers(cfg.Subjects, n.Filter()) {
			found = append(found, fmt.Sprintf("it takes %q, so that nothing on %s is stored", cfg.Subjects, n.Filter()))
		}
		return append(found, shared(cfg, layout.Requests(n))...)
	})
	// The consumer is looked at before what it leads to.
	q.of(n.Tenant)
	q.consumer(ctx, layout.Worker(n))
	q.of("")
	q.stream(ctx, "stream "+n.DeadStream, n.DeadStream, Failed, func(cfg jetstream.StreamConfig) (found []string) {
		if !covers(cfg.Subjects, n.Dead()) {
			found = append(found, fmt.Sprintf("it takes %q, so that no dead letter on %s is stored", cfg.Subjects, n.Dead()))
		}
		if cfg.Retention != jetstream.LimitsPolicy {
			found = append(found, fmt.Sprintf("its retention is %s instead of limits: letters can vanish when they are read", cfg.Retention))
		}
		return append(found, shared(cfg, layout.Letters(n))...)
	})
	q.stream(ctx, "bucket "+n.Bucket, "KV_"+n.Bucket, Failed, func(cfg jetstream.StreamConfig) (found []string) {
		want := layout.Records(n)
		if cfg.MaxMsgsPerSubject < int64(want.History) {
			found = append(found, fmt.Sprintf("it keeps %d states of a request instead of %d", cfg.MaxMsgsPerSubject, want.History))
		}
		if cfg.RePublish == nil || cfg.RePublish.Destination != want.RePublish.Destination {
			found = append(found, "changes are not published on "+n.Status("*")+", so that nobody hears them without a right on the bucket")
		}
		if cfg.MaxAge > 0 && cfg.MaxAge < want.TTL {
			found = append(found, fmt.Sprintf("records are kept for %s: an id that is used again after that is another request", cfg.MaxAge))
		}
		return append(found, full(cfg)...)
	})
	q.stream(ctx, "bucket "+n.StateBucket(), "KV_"+n.StateBucket(), Warning, full)
}

// shared is what both streams need.
func shared(cfg, want jetstream.StreamConfig) (found []string) {
	if cfg.Duplicates < want.Duplicates {
		found = append(found, fmt.Sprintf("it knows message ids for %s instead of %s: a copy may be stored after that", cfg.Duplicates, want.Duplicates))
	}
	if !cfg.AllowDirect {
		found = append(found, "it does not allow direct reads, which worker status and worker dead need")
	}
	return found
}

// full is what a bucket loses when it is full.
func full(cfg jetstream.StreamConfig) []string {
	if cfg.Discard != jetstream.DiscardNew && (cfg.MaxBytes > 0 || cfg.MaxMsgs > 0) {
		return []string{"it drops old values when it is full; use discard new"}
	}
	return nil
}

// stream checks that a stream is there, and its settings. weight is how much its
// absence counts where the worker does not create it.
func (q *queue) stream(ctx context.Context, what, name string, weight Status, settings func(jetstream.StreamConfig) []string) {
	if !q.may[q.api("STREAM.INFO."+name)] {
		q.say(Warning, what, "its settings cannot be seen without the right above", "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	s, err := q.js.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		q.missing(ctx, what, weight, q.api("STREAM.CREATE."+name))
		return
	case err != nil:
		q.trouble(what, err)
		return
	}
	cfg := s.CachedInfo().Config
	found := append(consume.StreamWeaknesses(cfg, q.names), settings(cfg)...)
	for _, f := range found {
		do := update
		switch {
		case strings.Contains(f, "replica(s)"):
			do = "worker setup --update --replicas 3, in a cluster of three servers"
		case strings.Contains(f, "in memory"):
			do = "remove it while nothing is in it, and run worker setup"
		}
		q.say(Warning, what, strings.TrimPrefix(f, "stream "+name+" "), do)
	}
	if len(found) == 0 {
		q.ok(what, fmt.Sprintf("%d replicas, %s storage, %s retention", cfg.Replicas, cfg.Storage, cfg.Retention))
	}
	if info := s.CachedInfo().Cluster; info != nil && cfg.Replicas > 1 {
		q.replicas(what, info)
	}
}

// replicas names those that are not up to date.
func (q *queue) replicas(what string, info *jetstream.ClusterInfo) {
	for _, peer := range info.Replicas {
		if peer.Offline || !peer.Current {
			q.say(Warning, what, fmt.Sprintf("the replica on %s is away or lags behind", peer.Name), "look at that server")
		}
	}
}

// missing reports what does not exist: the worker creates it where it is
// configured to, and allowed to.
func (q *queue) missing(ctx context.Context, what string, weight Status, create string) {
	const do = "run worker setup"
	if !q.cfg.Setup {
		q.say(weight, what, "does not exist, and WORKER_SETUP=false lets the worker not create it", do)
		return
	}
	q.say(Warning, what, "does not exist yet; worker run would create it", do+", or let the worker do it")
	q.tryOne(ctx, right{create, "to create what is missing", Failed, &nats.Msg{Subject: create, Data: []byte(broken)}})
}

func (q *queue) trouble(what string, err error) {
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		q.say(Failed, what, err.Error(), "enable JetStream on the servers and for the account")
	default:
		q.say(Failed, what, fmt.Sprintf("could not be read: %v", err), "has the cluster a leader, are enough of its servers up?")
	}
}

func (q *queue) consumer(ctx context.Context, want jetstream.ConsumerConfig) {
	n := q.names
	what := "consumer " + n.Consumer()
	if !q.may[q.api("CONSUMER.INFO."+n.Stream+"."+n.Consumer())] {
		return // which is said above
	}
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	asked := time.Now()
	consumer, err := q.js.Consumer(ctx, n.Stream, n.Consumer())
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		q.missing(ctx, what, Failed, q.api("CONSUMER.CREATE."+n.Stream+"."+n.Consumer()+"."+n.Filter()))
		return
	case err != nil:
		q.trouble(what, err)
		return
	}
	info := consumer.CachedInfo()
	if !info.TimeStamp.IsZero() {
		q.clock, q.asked = info.TimeStamp, asked.Add(time.Since(asked)/2).Round(0)
	}
	if err := consume.Usable(info.Config, n); err != nil {
		q.say(Failed, what, err.Error(), update+", or remove it and run worker setup")
		return
	}
	found := append(consume.ConsumerWeaknesses(info.Config, n), apart(info.Config, want)...)
	for _, f := range found {
		q.say(Warning, what, strings.TrimPrefix(f, "consumer "+n.Consumer()+" "), update)
	}
	if info.Paused {
		q.say(Warning, what, "an operator has paused it", "worker resume ends that")
		return
	}
	if len(found) == 0 {
		q.ok(what, fmt.Sprintf("%d waiting, %d in flight", info.NumPending, info.NumAckPending))
	}
}

// apart tells where a consumer is weaker than the worker would make it.
func apart(cfg, want jetstream.ConsumerConfig) (found []string) {
	if cfg.AckWait < want.AckWait {
		found = append(found, fmt.Sprintf("its ack wait is %s instead of %s: a request may be delivered again while it is worked on", cfg.AckWait, want.AckWait))
	}
	if cfg.MaxAckPending > 0 && cfg.MaxAckPending < want.MaxAckPending {
		found = append(found, fmt.Sprintf("it has at most %d acks pending instead of %d: so few waiting requests block those behind them", cfg.MaxAckPending, want.MaxAckPending))
	}
	if cfg.PriorityPolicy != want.PriorityPolicy {
		found = append(found, "it has no pinned priority group like the one that setup makes: replicas would work at the same time, each at the full rate. "+
			"A group cannot be added: remove the consumer and run worker setup; requests stay")
	}
	if cfg.InactiveThreshold > 0 {
		found = append(found, fmt.Sprintf("it is removed when nobody has pulled for %s", cfg.InactiveThreshold))
	}
	return found
}

// covers tells whether one of a stream's subjects takes a subject without
// wildcards.
func covers(subjects []string, subject string) bool {
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
