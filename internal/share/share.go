// Package share divides the tenants among the replicas, without anybody who decides it
// for all: each replica tells the others that it lives, and reckons for itself whose a
// tenant is. Views that differ for a moment do no harm: that only one replica works on a
// tenant is seen to by the server's pin.
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
	// Every is how often a replica tells that it lives.
	Every = time.Second
	// gone is after how long without a beat it counts as gone.
	gone = 4 * time.Second
)

// most bounds the replicas that are remembered: whoever may publish can invent some.
// Further ones are not counted.
const most = 64

// Owner is the one of some replicas that is to work on a tenant: the same one by
// everybody's reckoning. Where a replica comes or goes, only its own share changes hands.
// It is empty if there are no replicas.
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
	// Tenants is a digest of the tenants that it serves. Replicas that do not serve the
	// same ones do not share them: a tenant could be somebody's who does not serve it.
	Tenants string `json:"tenants"`
	// Since is when it began, in nanoseconds since 1970 by its own clock.
	Since  int64 `json:"since"`
	Leaves bool  `json:"leaves,omitempty"`
}

// parse reads a beat; false: it is none.
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

// members are the replicas that live, as one of them knows it. It is pure; the functions
// are told the present instant.
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

// owns reports whether a tenant is this replica's. An only tenant cannot be shared: it
// stays with the replica that has been there for longest, whoever comes.
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

// heard takes a beat, and reports whether it is the first of a replica: it does not
// know of us yet.
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

// live are the replicas that share the tenants, this one among them, in order.
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
