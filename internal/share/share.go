// Package share divides the tenants among the replicas without a coordinator:
// each replica tells the others that it is running, and works out for itself
// which replica each tenant belongs to. Views that differ for a moment do
// no harm: the server's pin makes sure that only one replica works on a tenant.
package share

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Times of the replicas' beats.
const (
	// Every is how often a replica tells the others that it is running.
	Every = time.Second
	// gone is how long a replica may send no beat before it counts as gone.
	gone = 4 * time.Second
)

// most bounds how many replicas are remembered, because anyone
// who may publish can invent some. Further ones are ignored.
const most = 64

// Owner is the replica that should work on a tenant; every replica
// gets the same result. If a replica comes or goes, only its
// own share changes hands. Owner is empty if there are no replicas.
func Owner(tenant string, replicas []string) string {
	var owner string
	var highest uint64
	for _, r := range replicas {
		sum := sha256.Sum256([]byte(r + "\x00" + tenant))
		if score := binary.BigEndian.Uint64(sum[:]); owner == "" || score > highest || score == highest && r > owner {
			owner, highest = r, score
		}
	}
	return owner
}

// beat is what a replica tells the others.
type beat struct {
	Replica string `json:"replica"`
	// Tenants is a digest of the tenants that it serves. Only replicas that serve the same
	// tenants share them: otherwise a tenant could belong to a replica that does not serve it.
	Tenants string `json:"tenants"`
	// Since is when it started, in nanoseconds since 1970 by its own clock.
	Since  int64 `json:"since"`
	Leaves bool  `json:"leaves,omitempty"`
}

// parse reads a beat; false means that it is not one.
func parse(data []byte) (b beat, ok bool) {
	const longest = 128
	if len(data) > 4*longest || json.Unmarshal(data, &b) != nil {
		return beat{}, false
	}
	return b, b.Replica != "" && len(b.Replica) <= longest && b.Tenants != "" && len(b.Tenants) <= longest
}

// digest is the same for the same tenants, whatever their order.
func digest(tenants []string) string {
	h := sha256.New()
	for _, t := range slices.Sorted(slices.Values(tenants)) {
		h.Write([]byte(t + "\x00")) // never fails
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// members is the set of running replicas as one of them
// sees it. It is pure; its functions get the present instant.
type members struct {
	self   beat
	single bool // there is one tenant only
	others map[string]member
}

type member struct {
	beat
	seen time.Time
}

func newMembers(self string, since time.Time) *members {
	return &members{self: beat{Replica: self, Tenants: digest(nil), Since: since.UnixNano()}, others: map[string]member{}}
}

// serve says which tenants this replica serves.
func (m *members) serve(tenants []string) {
	m.self.Tenants, m.single = digest(tenants), len(tenants) == 1
}

// owns reports whether a tenant belongs to this replica. A single tenant
// cannot be shared: it stays with the replica that has been running longest.
func (m *members) owns(tenant string, now time.Time) bool {
	live := m.live(now)
	if !m.single {
		return Owner(tenant, live) == m.self.Replica
	}
	for _, id := range live {
		if o := m.others[id]; id != m.self.Replica && (o.Since < m.self.Since || o.Since == m.self.Since && id < m.self.Replica) {
			return false
		}
	}
	return true
}

// heard takes a beat, and reports whether it is the first
// of a replica, which then does not know about us yet.
func (m *members) heard(b beat, now time.Time) (first bool) {
	if b.Replica == m.self.Replica {
		return false
	}
	if b.Leaves {
		delete(m.others, b.Replica)
		return false
	}
	before, known := m.others[b.Replica]
	first = !known || now.Sub(before.seen) >= gone
	if !known && len(m.others) >= most {
		maps.DeleteFunc(m.others, func(_ string, o member) bool { return now.Sub(o.seen) >= gone })
		if len(m.others) >= most {
			return false
		}
	}
	m.others[b.Replica] = member{b, now}
	return first
}

// live returns the replicas that share the tenants, including this one, in order.
func (m *members) live(now time.Time) []string {
	live := []string{m.self.Replica}
	for id, o := range m.others {
		if now.Sub(o.seen) < gone && o.Tenants == m.self.Tenants {
			live = append(live, id)
		}
	}
	slices.Sort(live)
	return live
}
