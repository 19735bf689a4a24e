package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// queue checks what belongs to one tenant on NATS.
type queue struct {
	*checker
	nc    *nats.Conn
	js    jetstream.JetStream
	names topology.Names
	may   map[string]bool // subjects that may be published to

	// clock is the time by the server's clock when it was asked by this machine's.
	clock, asked time.Time
}

func (q *queue) check(ctx context.Context) {
	n := q.names
	q.try(ctx)
	q.hears(ctx)
	q.of("")
	q.stream(ctx, "stream "+n.Stream, n.Stream, Failed)
	q.of(n.Tenant)
	q.consumer(ctx)
	q.of("")
	q.stream(ctx, "stream "+n.DeadStream, n.DeadStream, Failed)
	q.stream(ctx, "bucket "+n.Bucket, "KV_"+n.Bucket, Failed)
	q.stream(ctx, "bucket "+n.StateBucket(), "KV_"+n.StateBucket(), Warning)
	// If anything is missing, the worker sets up everything, this bucket too.
	if q.cfg.Cools || q.cfg.Setup && len(q.lacking) > 0 {
		q.stream(ctx, "bucket "+n.DeviceBucket(), "KV_"+n.DeviceBucket(), Failed)
	}
	if q.cfg.Follows {
		q.following(ctx)
	}
}

// hears checks whether the worker may hear of new requests, and of other replicas.
func (q *queue) hears(ctx context.Context) {
	q.of(q.names.Tenant)
	for _, may := range []struct{ subject, without string }{
		{q.wakes(), "a worker must keep polling empty queues, which costs more with many tenants"},
		{q.beats(), "a replica does not notice the others, and the tenants are not shared evenly"},
	} {
		what := "right to subscribe to " + may.subject
		switch err := listens(ctx, q.nc, may.subject); {
		case errors.Is(err, nats.ErrPermissionViolation):
			q.say(Warning, what, "missing", "grant it to the account: without it "+may.without)
		case err != nil:
			q.say(Failed, what, fmt.Sprintf("could not be checked: %v", err), "check the connection to NATS")
		default:
			q.ok(what, "granted")
		}
	}
}

// wakes is the subject on which the worker hears of new requests.
func (q *queue) wakes() string {
	if len(q.cfg.Tenants) > 1 {
		return q.names.Wakes()
	}
	return q.names.Wake()
}

// beats is the subject of the heartbeats between replicas.
func (q *queue) beats() string {
	var tenants []string
	for _, t := range q.cfg.Tenants {
		tenants = append(tenants, t.Names.Tenant)
	}
	return q.names.Replicas(tenants)
}

// withoutFollowing is what it means that something is missing that following needs.
const withoutFollowing = "resets go on, but accepted requests are not followed"

// following checks what following accepted requests needs. Without it resets go on.
func (q *queue) following(ctx context.Context) {
	n := q.names
	q.stream(ctx, "bucket "+n.OutcomeBucket(), "KV_"+n.OutcomeBucket(), Warning)
	q.stream(ctx, "stream "+n.FollowStream, n.FollowStream, Warning)
	q.followConsumers(ctx)
}

// followConsumers checks the consumers of alarms, all at once.
func (q *queue) followConsumers(ctx context.Context) {
	n := q.names
	what := fmt.Sprintf("consumers %s to %s", topology.FollowConsumer(0), topology.FollowConsumer(topology.FollowSteps-1))
	if q.followed || !q.may[q.api("CONSUMER.INFO."+n.FollowStream+".*")] {
		return // reported already
	}
	q.followed = true
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	var found [topology.FollowSteps]*jetstream.ConsumerInfo
	var errs [topology.FollowSteps]error
	var asking sync.WaitGroup
	for step := range topology.FollowSteps {
		asking.Go(func() {
			c, err := q.js.Consumer(ctx, n.FollowStream, topology.FollowConsumer(step))
			if errs[step] = err; err == nil {
				found[step] = c.CachedInfo()
			}
		})
	}
	asking.Wait()
	var missing []string
	fine, open := true, uint64(0)
	for step := range topology.FollowSteps {
		name := topology.FollowConsumer(step)
		switch err := errs[step]; {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			missing = append(missing, name)
			continue
		case err != nil:
			fine = false
			q.say(Warning, "consumer "+name, fmt.Sprintf("could not be read: %v", topology.Unheard(q.js.Options(), err)), "check that the cluster has a leader and that enough of its servers are running")
			continue
		}
		info := found[step]
		open += info.NumPending + uint64(info.NumAckPending)
		for _, w := range topology.FollowWeaknesses(info.Config, n, step) {
			fine = false
			q.say(Warning, "consumer "+name, w.Text, w.Do)
		}
		if info.Paused {
			fine = false
			q.say(Warning, "consumer "+name, "an operator has paused it, so the looks of its step are not made", "nats consumer resume "+n.FollowStream+" "+name)
		}
	}
	switch {
	case len(missing) > 0:
		q.missing(ctx, what, Warning, q.api("CONSUMER.CREATE."+n.FollowStream+"."+missing[0]+"."+n.FollowSubject+"."+strings.TrimPrefix(missing[0], "follow-")+".*"),
			func(a *jetstream.AccountInfo) *topology.Weakness { return topology.BeyondFollow(a, n) })
	case fine:
		q.ok(what, fmt.Sprintf("%d alarms of accepted requests", open))
	}
}

// stream checks that a stream exists, and its settings. weight is the status to report
// if it is missing and the worker does not create it.
func (q *queue) stream(ctx context.Context, what, name string, weight Status) {
	if !q.may[q.api("STREAM.INFO."+name)] {
		q.say(Warning, what, "its settings cannot be read without the right above", "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	info, err := q.found[name], error(nil)
	if info == nil {
		var s jetstream.Stream
		if s, err = q.js.Stream(ctx, name); err == nil {
			info = s.CachedInfo()
			q.found[name] = info
		}
	}
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		q.lacking[name] = true
		q.missing(ctx, what, weight, q.api("STREAM.CREATE."+name), func(a *jetstream.AccountInfo) *topology.Weakness {
			return topology.BeyondStreams(a, len(q.lacking))
		})
		return
	case err != nil:
		q.trouble(what, err)
		return
	}
	cfg := info.Config
	found := topology.StreamWeaknesses(cfg, q.names, q.cfg.Keep)
	if name == q.names.Stream {
		found = q.room(ctx, info, found)
	}
	for _, w := range found {
		q.say(Warning, what, w.Text, w.Do)
	}
	if len(found) == 0 {
		q.ok(what, fmt.Sprintf("%d replicas, %s storage, %s retention", cfg.Replicas, cfg.Storage, cfg.Retention))
	}
	if info.Cluster != nil && cfg.Replicas > 1 {
		q.replicas(what, info.Cluster)
	}
}

// room adds a weakness if the request stream, or the account, allows fewer consumers than
// there are tenants.
func (q *queue) room(ctx context.Context, requests *jetstream.StreamInfo, found []topology.Weakness) []topology.Weakness {
	tenants, there := len(q.cfg.Tenants), requests.State.Consumers
	var a *jetstream.AccountInfo
	if max(tenants, there) > 1 {
		a = q.account(ctx)
	}
	if w := topology.RoomWeakness(requests.Config, there, tenants, a); w != nil && !slices.Contains(found, *w) {
		found = append(found, *w)
	}
	return found
}

// replicas reports the replicas that are not up to date.
func (q *queue) replicas(what string, info *jetstream.ClusterInfo) {
	for _, peer := range info.Replicas {
		if peer.Offline || !peer.Current {
			q.say(Warning, what, fmt.Sprintf("the replica on %s is offline or lags behind", peer.Name), "check that server")
		}
	}
}

// missing reports that something does not exist. The worker creates it if it is
// configured to, has the right create, and the account's limits leave room; beyond says
// which limit stands in the way.
func (q *queue) missing(ctx context.Context, what string, weight Status, create string, beyond func(*jetstream.AccountInfo) *topology.Weakness) {
	do, worst, means := "run worker setup", Failed, ""
	if q.follows(create) {
		worst, means = Warning, ": "+withoutFollowing
	}
	if !q.cfg.Setup {
		q.say(weight, what, "does not exist, and the worker may not create it (WORKER_SETUP=false)"+means, do)
		return
	}
	if a := q.account(ctx); a != nil {
		if w := beyond(a); w != nil {
			q.say(worst, what, "does not exist, and worker run cannot create it: "+w.Text+means, w.Do)
			return
		}
	}
	q.say(Warning, what, "does not exist yet; worker run will create it", do+", or let worker run create it")
	q.tryOne(ctx, right{create, "to create what is missing", worst, &nats.Msg{Subject: create, Data: []byte(broken)}})
}

// follows reports whether a call that creates something creates it for following.
func (q *queue) follows(create string) bool {
	return strings.HasPrefix(create, q.api("CONSUMER.CREATE."+q.names.FollowStream+".")) ||
		create == q.api("STREAM.CREATE."+q.names.FollowStream) || create == q.api("STREAM.CREATE.KV_"+q.names.OutcomeBucket())
}

// account reads what the account may store; nil if that cannot be read.
func (q *queue) account(ctx context.Context) *jetstream.AccountInfo {
	if q.limitsAsked {
		return q.limits
	}
	q.limitsAsked = true
	if may, err := allowed(ctx, q.nc, &nats.Msg{Subject: q.api("INFO")}); !may || err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	// If it fails, what the worker needs is still checked, only without the limits.
	q.limits, _ = q.js.AccountInfo(ctx)
	return q.limits
}

func (q *queue) trouble(what string, err error) {
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		q.say(Failed, what, err.Error(), "enable JetStream on the servers and for the account")
	default:
		q.say(Failed, what, fmt.Sprintf("could not be read: %v", topology.Unheard(q.js.Options(), err)), "check that the cluster has a leader and that enough of its servers are running")
	}
}

func (q *queue) consumer(ctx context.Context) {
	n := q.names
	what := "consumer " + n.Consumer()
	if !q.may[q.api("CONSUMER.INFO."+n.Stream+"."+n.Consumer())] {
		return // reported already
	}
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	asked := time.Now()
	consumer, err := q.js.Consumer(ctx, n.Stream, n.Consumer())
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		if requests := q.found[n.Stream]; q.cfg.Setup && requests != nil {
			if w := topology.BeyondRoom(requests.Config, requests.State.Consumers, q.account(ctx)); w != nil {
				q.say(Failed, what, "does not exist, and worker run cannot create it: "+w.What+" "+w.Text, w.Do)
				return
			}
		}
		q.missing(ctx, what, Failed, q.api("CONSUMER.CREATE."+n.Stream+"."+n.Consumer()+"."+n.Filter()), func(a *jetstream.AccountInfo) *topology.Weakness {
			return topology.BeyondConsumer(a, n)
		})
		return
	case err != nil:
		q.trouble(what, err)
		return
	}
	info := consumer.CachedInfo()
	if !info.TimeStamp.IsZero() {
		q.clock, q.asked = info.TimeStamp, asked.Add(time.Since(asked)/2).Round(0)
	}
	if w := topology.Unusable(info.Config, n); w != nil {
		q.say(Failed, what, w.Text, w.Do)
		return
	}
	found := topology.ConsumerWeaknesses(info.Config, n)
	for _, w := range found {
		q.say(Warning, what, w.Text, w.Do)
	}
	if info.Paused {
		q.say(Warning, what, "an operator has paused it", "worker resume ends the pause")
		return
	}
	if len(found) == 0 {
		q.ok(what, fmt.Sprintf("%d waiting, %d in flight", info.NumPending, info.NumAckPending))
	}
}
