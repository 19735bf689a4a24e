package topology

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of a server that cannot place replicas: it is not clustered, the
// account has no limits for so many, or the sizes of all are too much. Source:
// nats-server, server/errors.json.
const (
	errNoReplicas jetstream.ErrorCode = 10074
	errNoTier     jetstream.ErrorCode = 10120
	errNoStorage  jetstream.ErrorCode = 10047
	errNoMemory   jetstream.ErrorCode = 10028
)

// What a cluster answers in which too few servers can take a replica, or none leads. A
// server that has just started can take none until the others have heard its first
// statistics. Source: nats-server, server/errors.json and jetstream_cluster.go (selectable).
const (
	errNoPeers  jetstream.ErrorCode = 10005
	errNoLeader jetstream.ErrorCode = 10008
)

// errNoConsumers is how a server refuses one consumer more than a stream or an account
// allows, and a stream that asks for more than its account allows. Source: nats-server,
// server/errors.json (JSMaximumConsumersLimitErr).
const errNoConsumers jetstream.ErrorCode = 10026

// NoRoom reports whether an error is the server's refusal of one consumer more.
func NoRoom(err error) bool { return hasCode(err, errNoConsumers) }

// cures tell, for each way in which a server refuses what setup asks for, what
// cures it; SIZE stands for the flag of the size of the thing. Source of the codes:
// nats-server, server/errors.json.
func cures() map[jetstream.ErrorCode]string {
	return map[jetstream.ErrorCode]string{
		// Sizes and storage.
		10113: "the account requires a size for each stream: run worker setup --max-bytes N for all of them, or SIZE N for this one",
		10122: "the account does not allow so large a stream: run worker setup SIZE N with at most its max_stream_bytes",
		10002: "the account has too little storage for it, and each replica counts: run worker setup SIZE N with less, or --replicas 1, or give the account more storage",
		10047: "the account (max_file) or the servers (max_file_store) have too little storage left for it, and each replica counts: run worker setup SIZE N with less, or --replicas 1, or add storage",
		10028: "the account (max_mem) or the servers (max_memory_store) have too little memory left for it: run worker setup SIZE N with less, or --storage file",
		10023: "the servers have too little storage left for it: run worker setup SIZE N with less, or --replicas 1, or add storage to the servers",
		// Replicas.
		10074: "the server is not part of a cluster: run worker setup --replicas 1",
		10120: "no tier of the account allows that many replicas with this storage: run worker setup with --replicas N and --storage KIND that one of its tiers allows",
		// A cluster that has just started says the same as one that is too small: one
		// replica would be one for ever, so that nothing falls to it by itself.
		errNoPeers: "if the cluster has fewer JetStream servers than replicas, or too little storage on them: run worker setup --replicas N with fewer, or SIZE N with less",
		// Numbers.
		10027: "the account allows no further stream (a bucket is a stream, too): raise its limit (max_streams; worker setup creates 7), or remove streams that are not needed",
		10026: "no further consumer is allowed, but each tenant needs one, and following needs ten: run worker setup --update to raise max_consumers of the request stream; " +
			"if the account's max_consumers is lower, raise that, or remove consumers that are not needed",
		10121: "the account or the stream allows no consumer with so many acks pending: run worker setup --max-ack-pending N with a lower number",
		// Names.
		10065: "another stream takes these subjects: remove it, or set other subjects in WORKER_SUBJECT and WORKER_DEAD_SUBJECT",
		10100: "another consumer takes the tenant's requests: remove it, because only one consumer can take a request",
		10099: "another consumer takes all requests: remove it, because only one consumer can take a request",
		10058: "a stream of that name was created in the meantime with other settings: run worker setup again",
		// JetStream itself.
		10039:       "JetStream is off for the account: enable it there",
		10076:       "JetStream is off on the server: enable it, or set NATS_JS_DOMAIN to the right JetStream domain",
		errNoLeader: "the cluster has no leader at the moment: try again",
	}
}

// explain adds to a refusal of the server what cures it. size is the flag of the
// size of what was to be made; empty: it has none.
func explain(err error, size string) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) || cures()[api.ErrorCode] == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.ReplaceAll(cures()[api.ErrorCode], "SIZE", size))
}

// BeyondStreams says why an account's limits refuse the streams that worker run
// makes by itself, without a size, and so many more of them; nil: nothing is seen
// that does.
func BeyondStreams(a *jetstream.AccountInfo, more int) *Weakness {
	const what = "the account's limits"
	if everyTier(a, func(t jetstream.Tier) bool { return t.Limits.MaxBytesRequired }) {
		return &Weakness{what, "the account requires a size for each stream, and the worker sets none by itself", "run worker setup --max-bytes N"}
	}
	if everyTier(a, func(t jetstream.Tier) bool { return t.Limits.MaxStreams > 0 && t.Streams+more > t.Limits.MaxStreams }) {
		return &Weakness{what, "the account allows no further stream (a bucket is a stream, too)", "raise its limit (max_streams; worker setup creates 7), or remove streams that are not needed"}
	}
	return nil
}

// RoomWeakness tells that a request stream has no room for the consumers of so many
// tenants, or for those that are there; nil: it has. a is what the account allows; nil:
// it is not known.
func RoomWeakness(cfg jetstream.StreamConfig, there, tenants int, a *jetstream.AccountInfo) *Weakness {
	need, allowed, what := max(there, tenants), 0, "stream "+cfg.Name
	capped := a != nil && everyTier(a, func(t jetstream.Tier) bool {
		allowed = max(allowed, t.Limits.MaxConsumers)
		return t.Limits.MaxConsumers > 0
	})
	switch room := cfg.MaxConsumers; {
	case capped && allowed < need:
		return &Weakness{what, fmt.Sprintf("is in an account that allows %d consumers for each stream, but %d are needed, one for each tenant", allowed, need),
			"raise the account's max_consumers"}
	case room > 0 && room < need:
		return &Weakness{what, fmt.Sprintf(fewConsumers, room), doUpdate}
	case room <= 0 && !capped && need > defaultConsumers:
		return &Weakness{what, fmt.Sprintf("sets no max_consumers, so a server allows %d unless its default_max_consumers says otherwise, but %d are needed, one for each tenant",
			defaultConsumers, need), doUpdate}
	}
	return nil
}

// BeyondRoom is [BeyondStreams] for one consumer more on a request stream that has so many.
func BeyondRoom(cfg jetstream.StreamConfig, there int, a *jetstream.AccountInfo) *Weakness {
	return RoomWeakness(cfg, there, there+1, a)
}

// BeyondConsumer is [BeyondStreams] for a tenant's consumer.
func BeyondConsumer(a *jetstream.AccountInfo, n Names) *Weakness {
	return beyondPending(a, Layout{}.Worker(n).MaxAckPending)
}

// BeyondFollow is [BeyondStreams] for the consumers of alarms.
func BeyondFollow(a *jetstream.AccountInfo, n Names) *Weakness {
	// The limit is one of the consumers of each stream. Source: nats-server, server/consumer.go.
	if everyTier(a, func(t jetstream.Tier) bool { return t.Limits.MaxConsumers > 0 && t.Limits.MaxConsumers < FollowSteps }) {
		return &Weakness{"the account's limits", fmt.Sprintf("the account allows fewer than the %d consumers of a stream that following needs", FollowSteps),
			"raise its limit (max_consumers)"}
	}
	return beyondPending(a, Layout{}.FollowStep(n, 0).MaxAckPending)
}

func beyondPending(a *jetstream.AccountInfo, pending int) *Weakness {
	most := 0
	if everyTier(a, func(t jetstream.Tier) bool {
		most = max(most, t.Limits.MaxAckPending)
		return t.Limits.MaxAckPending > 0 && t.Limits.MaxAckPending < pending
	}) {
		return &Weakness{"the account's limits", fmt.Sprintf("the account allows no consumer with more than %d acks pending", most),
			fmt.Sprintf("run worker setup --max-ack-pending %d", most)}
	}
	return nil
}

// everyTier reports whether something holds for each way in which the account may
// store: for each tier of replicas, or for the account as a whole.
func everyTier(a *jetstream.AccountInfo, holds func(jetstream.Tier) bool) bool {
	for _, t := range a.Tiers {
		if !holds(t) {
			return false
		}
	}
	return len(a.Tiers) > 0 || holds(a.Tier)
}
