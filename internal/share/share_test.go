package share

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"passcode-worker/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOwner: the shares are even, nobody's order counts, and who comes or goes changes
// the owner of no tenant but its own.
func TestOwner(t *testing.T) {
	t.Parallel()
	const tenants = 2000
	for n := 1; n <= 5; n++ {
		var replicas []string
		for i := range n {
			replicas = append(replicas, fmt.Sprint("replica-", i))
		}
		counts := map[string]int{}
		for i := range tenants {
			tenant := fmt.Sprint("tenant-", i)
			owner := Owner(tenant, replicas)
			counts[owner]++
			reversed := append([]string{}, replicas...)
			for a, b := 0, n-1; a < b; a, b = a+1, b-1 {
				reversed[a], reversed[b] = reversed[b], reversed[a]
			}
			if Owner(tenant, reversed) != owner {
				t.Fatal("the order counts")
			}
			if more := Owner(tenant, append(reversed, "another")); more != owner && more != "another" {
				t.Fatalf("%s goes from %s to %s where another comes", tenant, owner, more)
			}
		}
		for _, r := range replicas {
			if share := float64(counts[r]) * float64(n) / tenants; share < 0.8 || share > 1.2 {
				t.Errorf("%d replicas: %s has %.2f of its share", n, r, share)
			}
		}
	}
	if owner := Owner("x", nil); owner != "" {
		t.Errorf("without replicas it is %q's", owner)
	}
}

// TestMembers goes through what can become of a replica.
func TestMembers(t *testing.T) {
	t.Parallel()
	start := time.Unix(1e9, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	m := newMembers("b", start)
	m.self.Tenants = "x"
	live := func(s float64, want ...string) {
		t.Helper()
		if got := m.live(at(s)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("after %v s: %q, want %q", s, got, want)
		}
	}
	hear := func(s float64, b beat, first bool) {
		t.Helper()
		if got := m.heard(b, at(s)); got != first {
			t.Errorf("after %v s, %+v: first %t", s, b, got)
		}
	}
	live(0, "b")
	hear(0, beat{Replica: "c", Tenants: "x"}, true)
	hear(0, beat{Replica: "b", Tenants: "x"}, false) // its own
	hear(1, beat{Replica: "c", Tenants: "x"}, false)
	hear(1, beat{Replica: "a", Tenants: "x"}, true)
	hear(1, beat{Replica: "d", Tenants: "y"}, true) // serves other tenants
	live(4.9, "a", "b", "c")
	live(5, "b") // silent for too long
	hear(5, beat{Replica: "a", Tenants: "x"}, true)
	live(5, "a", "b")
	hear(5, beat{Replica: "a", Tenants: "x", Leaves: true}, false)
	live(5, "b")
	// A flood of invented ones does not fill the memory.
	for i := range 1000 {
		m.heard(beat{Replica: fmt.Sprint("ghost-", i), Tenants: "x"}, at(6))
	}
	if n := len(m.live(at(6))); n > most+1 {
		t.Errorf("%d replicas are counted", n)
	}
	hear(11, beat{Replica: "c", Tenants: "x"}, true)
	live(11, "b", "c")
}

// TestOnlyTenant stays with the one that has been there for longest.
func TestOnlyTenant(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	m := newMembers("b", now)
	m.serve([]string{"default"})
	owns := func(want bool) {
		t.Helper()
		if m.owns("default", now) != want {
			t.Errorf("owns: %t", !want)
		}
	}
	owns(true)
	hear := func(id string, since time.Time) {
		m.heard(beat{Replica: id, Tenants: digest([]string{"default"}), Since: since.UnixNano()}, now)
	}
	hear("a", now.Add(time.Second))
	hear("c", now)
	owns(true)
	hear("a", now) // the same instant
	owns(false)
	m.heard(beat{Replica: "a", Tenants: "x", Leaves: true}, now)
	owns(true)
	hear("z", now.Add(-time.Nanosecond))
	owns(false)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"replica":"a","tenants":"b"}`, `{"replica":"a","tenants":"b","leaves":true}`, `{}`, `[]`, "\x00", `{"replica":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if b, ok := parse(data); ok && (b.Replica == "" || b.Tenants == "" || len(b.Replica) > 128 || len(b.Tenants) > 128) {
			t.Errorf("%+v", b)
		}
	})
}

// TestReplicas: two on a real server know of each other at once, share the tenants so
// that each is exactly one's, and the one that is left has all of them.
func TestReplicas(t *testing.T) {
	t.Parallel()
	s, err := natstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var tenants []string
	for i := range 100 {
		tenants = append(tenants, fmt.Sprint("tenant-", i))
	}
	type running struct {
		*Replica
		nc      *nats.Conn
		changed chan struct{}
		end     context.CancelFunc
		done    chan error
	}
	run := func() *running {
		nc, err := nats.Connect(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		x := &running{nc: nc, changed: make(chan struct{}, 99), done: make(chan error, 1)}
		x.Replica = New(nc, "replicas", func() { x.changed <- struct{}{} })
		x.Serve("replicas", tenants)
		var soft context.Context
		soft, x.end = context.WithCancel(ctx)
		go func() { x.done <- x.Run(soft) }()
		return x
	}
	owned := func(x *running) (n int) {
		for _, tenant := range tenants {
			if x.Owns(tenant) {
				n++
			}
		}
		return n
	}
	await := func(x *running, what string, ok func() bool) {
		t.Helper()
		for !ok() {
			select {
			case <-x.changed:
			case <-ctx.Done():
				t.Fatalf("waited in vain for: %s", what)
			}
		}
	}
	a := run()
	await(a, "being alone", func() bool { return owned(a) == 100 })
	b := run()
	await(a, "the other", func() bool { return owned(a) < 100 })
	await(b, "the other", func() bool { return owned(b) < 100 })
	for _, tenant := range tenants {
		if a.Owns(tenant) == b.Owns(tenant) {
			t.Errorf("%s is owned by both, or by none", tenant)
		}
	}
	// One that serves other tenants does not share.
	b.Serve("replicas", tenants[:50])
	await(a, "sharing to end", func() bool { return owned(a) == 100 })
	b.Serve("replicas", tenants)
	await(a, "sharing again", func() bool { return owned(a) < 100 })
	b.end()
	if err := <-b.done; err != nil {
		t.Error(err)
	}
	await(a, "having all", func() bool { return owned(a) == 100 })
	// One that is gone without a word is missed after a while.
	c := run()
	await(a, "the third", func() bool { return owned(a) < 100 })
	c.nc.Close()
	await(a, "having all again", func() bool { return owned(a) == 100 })
	a.end()
	c.end()
	if err := <-a.done; err != nil {
		t.Error(err)
	}
	if err := <-c.done; err != nil {
		t.Error(err)
	}
}
