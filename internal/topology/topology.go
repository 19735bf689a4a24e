// Package topology is for what lies on the NATS server: the names of streams,
// consumers, buckets and subjects, how they are set up, and what about them is
// weaker than the worker's promises need. It moves no requests.
package topology

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// apiWait bounds one call to the server.
const apiWait = 5 * time.Second

// placeWait is the time between two tries to place something in a cluster whose servers
// have just started.
const placeWait = time.Second

// Names are the names on NATS of one tenant's queue.
type Names struct {
	Tenant      string
	Stream      string
	Subject     string // without the tenant
	DeadStream  string
	DeadSubject string // without the tenant
	Bucket      string
	// FollowStream and FollowSubject are of the alarms of accepted requests; the subject
	// is without step and tenant.
	FollowStream  string
	FollowSubject string
}

// DefaultNames are the names where no others are given.
func DefaultNames() Names {
	return Names{
		Tenant:      "default",
		Stream:      "PASSCODE_RESETS",
		Subject:     "passcode.reset.requests",
		DeadStream:  "PASSCODE_RESETS_DEAD",
		DeadSubject: "passcode.reset.dead",
		Bucket:      "passcode-resets",

		FollowStream:  "PASSCODE_RESETS_FOLLOW",
		FollowSubject: "passcode.reset.follow",
	}
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

// OutcomeBucket is the key-value bucket of what the devices did.
func (n Names) OutcomeBucket() string { return n.Bucket + "-outcomes" }

// Outcome is the subject on which each change of a request's outcome is published
// again; escapedID is the id as in its key, or a wildcard.
func (n Names) Outcome(escapedID string) string {
	return outcomeSubject + "." + n.Tenant + "." + escapedID
}

// FollowConsumer is the durable consumer of the alarms of a step; all tenants and
// replicas share it.
func FollowConsumer(step int) string { return "follow-" + strconv.Itoa(step) }

// Status is the subject on which each change of a request's record is published
// again; escapedID is the id as in its key, or a wildcard.
func (n Names) Status(escapedID string) string {
	return statusSubject + "." + n.Tenant + "." + escapedID
}

// Wake is the subject on which the server tells of each new request of the tenant: a copy
// of its headers, made when the request is stored. It is a hint to look at the queue, and
// no more: anybody who may publish there can send one, and none may ever come.
func (n Names) Wake() string { return n.wake() + n.Tenant }

// Wakes are the subjects of the wake-ups of all tenants of the stream.
func (n Names) Wakes() string { return n.wake() + "*" }

// Woken is the tenant that a wake-up on a subject is for; false: it is none of the stream.
func (n Names) Woken(subject string) (tenant string, is bool) {
	tenant, is = strings.CutPrefix(subject, n.wake())
	return tenant, is && tenant != "" && !strings.Contains(tenant, ".")
}

// wake names the stream, so that two of one account do not wake each other's workers.
func (n Names) wake() string { return wakeSubject + "." + n.Stream + "." }

// Replicas is the subject on which the replicas that serve some tenants tell each other
// that they live, so that they can share them.
func (n Names) Replicas(tenants []string) string {
	name := "many"
	if len(tenants) == 1 {
		name = tenants[0]
	}
	return replicaSubject + "." + n.Stream + "." + name
}

// replicaSubject is where the replicas tell that they live.
const replicaSubject = "passcode.reset.replicas"

// wakeSubject is where the server tells of new requests.
const wakeSubject = "passcode.reset.wake"

// outcomeSubject is where each change of an outcome is published again.
const outcomeSubject = "passcode.reset.outcome"

// statusSubject is where each change of a record is published again.
const statusSubject = "passcode.reset.status"

// bucketKey is where a consumer's metadata name the bucket of its requests'
// records.
const bucketKey = "passcode-worker.bucket"

func (n Names) metadata() map[string]string { return map[string]string{bucketKey: n.Bucket} }

// withMetadata are the metadata that are there, the server's own among them, with
// ours over them.
func withMetadata(there, ours map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, there)
	maps.Copy(all, ours)
	return all
}

// Wakes reports whether a request stream tells of each new request on [Names.Wakes].
func Wakes(cfg jetstream.StreamConfig, n Names) bool {
	want := Layout{}.Requests(n).RePublish
	return cfg.RePublish != nil && cfg.RePublish.Source == want.Source && cfg.RePublish.Destination == want.Destination
}
