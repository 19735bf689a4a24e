package consume

import "fmt"

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
