package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// right is a subject that the worker publishes to, and how to try it without an
// effect.
type right struct {
	subject string
	// need is what the worker needs it for, and weight the status to report without it.
	need   string
	weight Status
	probe  *nats.Msg
}

// Bodies without an effect.
const (
	// broken is refused by every part of the JetStream API.
	broken = "{"
	// noVerb means nothing on the subject of an ack, where an empty body would be an
	// ack.
	noVerb = "check"
	// noStream is a stream that cannot exist: every stream refuses a message that
	// expects it.
	noStream = "-"
	noKey    = "=check"
)

// api is the subject of a call to the configured JetStream, and kv that of writing a
// key.
func (q *queue) api(call string) string       { return topology.API(q.js.Options(), call) }
func (q *queue) kv(bucket, key string) string { return topology.KV(q.js.Options(), bucket, key) }

// rights lists the subjects to which the worker of a tenant publishes. With Setup it
// needs more of them.
func (q *queue) rights() []right {
	n := q.names
	records, states := "KV_"+n.Bucket, "KV_"+n.StateBucket()
	setup := Warning
	if q.cfg.Setup {
		setup = Failed
	}
	call := func(subject, body, need string, weight Status) right {
		return right{subject: subject, need: need, weight: weight, probe: &nats.Msg{Subject: subject, Data: []byte(body)}}
	}
	store := func(subject, shown, need string, weight Status) right {
		return right{subject: shown, need: need, weight: weight, probe: &nats.Msg{
			Subject: subject, Header: nats.Header{jetstream.ExpectedStreamHeader: {noStream}},
		}}
	}
	consumer := n.Stream + "." + n.Consumer()
	const (
		look   = "to see what exists"
		before = "to learn, when it takes over a tenant, which calls were sent and which devices were reset before"
	)
	past := Warning // without it a new replica counts the calls from zero
	if q.cfg.Counts {
		past = Failed
	}
	rights := []right{
		call(q.api("CONSUMER.INFO."+consumer), "", "to bind to the consumer", Failed),
		call(q.api("CONSUMER.MSG.NEXT."+consumer), broken, "to take requests", Failed),
		{"$JS.ACK." + consumer + ".>", "to acknowledge", Failed,
			&nats.Msg{Subject: "$JS.ACK." + consumer + ".0.0.0.0.0", Data: []byte(noVerb)}},
		{"$JS.ACK.*.*." + consumer + ".>", "to acknowledge on servers that use the newer form of these subjects", Warning,
			&nats.Msg{Subject: "$JS.ACK._.check." + consumer + ".0.0.0.0.0.check", Data: []byte(noVerb)}},
		call(q.api("CONSUMER.UNPIN."+consumer), broken, "to hand over to another replica at once", Warning),
		call(q.api("STREAM.INFO."+records), "", "to find the records", Failed),
		{q.api("DIRECT.GET."+records) + ".>", "to read records", Failed,
			&nats.Msg{Subject: q.api("DIRECT.GET."+records) + ".$KV." + n.Bucket + "." + n.Tenant + "." + noKey}},
		call(q.api("STREAM.MSG.GET."+records), broken, "to find out whether a write took effect, and what a record was before somebody overwrote it", Failed),
		store(q.kv(n.Bucket, n.Tenant+"."+noKey), q.kv(n.Bucket, n.Tenant+".>"), "to write records", Failed),
		store(n.Dead(), n.Dead(), "to write dead letters", Failed),
		call(q.api("STREAM.MSG.GET."+n.Stream), broken, "to check whether an earlier message of a request still exists", Failed),
		call(q.api("STREAM.INFO."+n.Stream), "", look, setup),
		call(q.api("STREAM.INFO."+n.DeadStream), "", look, setup),
		call(q.api("CONSUMER.NAMES."+n.Stream), broken, "to name tenants that no worker serves", Warning),
		call(q.api("CONSUMER.LIST."+n.Stream), broken, "to bind to the consumers of many tenants at once, and to name tenants that no worker serves", Warning),
		{q.beats(), "to get its share of the tenants from the other replicas", Warning, &nats.Msg{Subject: q.beats(), Data: []byte(noVerb)}},
		{q.api("CONSUMER.CREATE."+records) + ".*.$KV." + n.Bucket + "." + n.Tenant + ".*", before, past,
			&nats.Msg{Subject: q.api("CONSUMER.CREATE."+records) + ".check.$KV." + n.Bucket + "." + n.Tenant + ".*", Data: []byte(broken)}},
		call(q.api("CONSUMER.MSG.NEXT."+records)+".*", broken, before, past).at(q.api("CONSUMER.MSG.NEXT."+records) + ".check"),
		call(q.api("STREAM.INFO."+states), "", "to hand on holds, pauses and the fuse", setup),
		call(q.api("STREAM.MSG.GET."+states), broken, "to hand on holds, pauses and the fuse", Warning),
		store(q.kv(n.StateBucket(), n.Tenant+".worker"), q.kv(n.StateBucket(), n.Tenant+".worker"),
			"to hand on holds, pauses and the fuse", Warning),
	}
	cooling := "KV_" + n.DeviceBucket()
	switch {
	case q.cfg.Cools:
		const why = "to know which devices cool down; without it the worker makes no calls"
		rights = append(rights,
			call(q.api("STREAM.INFO."+cooling), "", why, Failed),
			call(q.api("STREAM.MSG.GET."+cooling), broken, why, Failed),
			store(q.kv(n.DeviceBucket(), n.Tenant+"."+noKey), q.kv(n.DeviceBucket(), n.Tenant+".>"), why, Failed))
	case q.cfg.Setup: // it is needed only if something is missing
		rights = append(rights, call(q.api("STREAM.INFO."+cooling), "", look, Warning))
	}
	if q.cfg.Follows {
		rights = append(rights, q.followRights()...)
	}
	return rights
}

// followRights lists what following needs; without it resets go on. The consumers of
// alarms are alike, so one of them is tried for all.
func (q *queue) followRights() []right {
	const why = "to follow accepted requests"
	n := q.names
	bucket, consumer := "KV_"+n.OutcomeBucket(), n.FollowStream+"."+topology.FollowConsumer(0)
	ask := func(shown, probe, body string) right {
		return right{subject: q.api(shown), need: why, weight: Warning, probe: &nats.Msg{Subject: q.api(probe), Data: []byte(body)}}
	}
	store := func(shown, probe string) right {
		return right{subject: shown, need: why, weight: Warning, probe: &nats.Msg{Subject: probe, Header: nats.Header{jetstream.ExpectedStreamHeader: {noStream}}}}
	}
	ack := func(shown, probe string) right {
		return right{subject: shown, need: why, weight: Warning, probe: &nats.Msg{Subject: probe, Data: []byte(noVerb)}}
	}
	return []right{
		ask("CONSUMER.INFO."+n.FollowStream+".*", "CONSUMER.INFO."+consumer, ""),
		ask("CONSUMER.MSG.NEXT."+n.FollowStream+".*", "CONSUMER.MSG.NEXT."+consumer, broken),
		ack("$JS.ACK."+n.FollowStream+".>", "$JS.ACK."+consumer+".0.0.0.0.0"),
		ack("$JS.ACK.*.*."+n.FollowStream+".>", "$JS.ACK._.check."+consumer+".0.0.0.0.0.check"),
		ask("STREAM.INFO."+bucket, "STREAM.INFO."+bucket, ""),
		ask("STREAM.MSG.GET."+bucket, "STREAM.MSG.GET."+bucket, broken),
		store(q.kv(n.OutcomeBucket(), n.Tenant+".>"), q.kv(n.OutcomeBucket(), n.Tenant+"."+noKey)),
		store(n.FollowSubject+".*."+n.Tenant, n.FollowSubject+".0."+n.Tenant),
		ask("STREAM.INFO."+n.FollowStream, "STREAM.INFO."+n.FollowStream, ""),
		ask("STREAM.MSG.GET."+n.FollowStream, "STREAM.MSG.GET."+n.FollowStream, broken),
	}
}

// at tries the right by another subject than the one that is shown.
func (r right) at(subject string) right {
	r.probe.Subject = subject
	return r
}

// try tries each right and notes which the account has.
func (q *queue) try(ctx context.Context) {
	q.may = map[string]bool{}
	for _, r := range q.rights() {
		q.tryOne(ctx, r)
	}
}

func (q *queue) tryOne(ctx context.Context, r right) bool {
	if may, done := q.tried[r.probe.Subject]; done {
		q.may[r.subject] = may
		return may
	}
	if q.of(""); q.own(r.probe.Subject) {
		q.of(q.names.Tenant)
	}
	what := "right to publish to " + r.subject
	ok, err := allowed(ctx, q.nc, r.probe)
	q.tried[r.probe.Subject] = ok && err == nil
	q.may[r.subject] = ok && err == nil
	switch {
	case err != nil:
		q.say(Failed, what, fmt.Sprintf("could not be checked: %v", err), "check the connection to NATS")
	case !ok:
		q.say(r.weight, what, "missing", "grant it to the account: the worker needs it "+r.need)
	default:
		q.ok(what, "granted")
	}
	return q.may[r.subject]
}

// own reports whether a subject belongs to this tenant alone.
func (q *queue) own(subject string) bool {
	return slices.ContainsFunc(strings.Split(subject, "."), func(token string) bool { return token == q.names.Tenant || token == q.names.Consumer() })
}
