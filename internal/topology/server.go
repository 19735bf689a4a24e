package topology

import (
	"fmt"
	"strconv"
	"strings"
)

// ServerWeakness tells what about a server's version is weaker than the
// worker's promises need; empty: nothing.
func ServerWeakness(version string) string {
	if olderThan(version, 2, 12, 5) {
		return fmt.Sprintf("the NATS server is version %s; versions before 2.12.5 can lose messages of a replicated work queue", version)
	}
	return ""
}

// olderThan compares a version such as 2.15.2 or 2.12.0-RC.1. A version that
// cannot be read is not older.
func olderThan(version string, least ...int) bool {
	if end := strings.IndexAny(version, "-+"); end >= 0 {
		version = version[:end]
	}
	for i, part := range strings.Split(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || i >= len(least) {
			return false
		}
		if n != least[i] {
			return n < least[i]
		}
	}
	return false
}
