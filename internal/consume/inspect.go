package consume

import (
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Status is the subject on which each change of a request's record is published
// again; escapedID is the id as in its key, or a wildcard.
func (n Names) Status(escapedID string) string {
	return statusSubject + "." + n.Tenant + "." + escapedID
}

// ServerWeakness tells what about a server's version is weaker than the
// worker's promises need; empty: nothing.
func ServerWeakness(version string) string {
	if olderThan(version, 2, 12, 5) {
		return fmt.Sprintf("the NATS server is %s; versions before 2.12.5 can lose messages of a replicated work queue", version)
	}
	return ""
}

// StreamWeaknesses tells what about a stream of the given names, or a bucket's
// stream, is weaker than the worker's promises need.
func StreamWeaknesses(cfg jetstream.StreamConfig, n Names) []string { return streamWeaknesses(cfg, n) }

// ConsumerWeaknesses tells what about the tenant's consumer is weaker than the
// worker's promises need. What [Usable] refuses is not among it.
func ConsumerWeaknesses(cfg jetstream.ConsumerConfig, n Names) []string {
	if usable(cfg, n) != nil {
		return nil
	}
	return consumerWeaknesses(cfg, n)
}

// Usable refuses a consumer that the worker does not bind to.
func Usable(cfg jetstream.ConsumerConfig, n Names) error { return usable(cfg, n) }
