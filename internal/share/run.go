package share

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Replica is this process among the replicas.
type Replica struct {
	nc      *nats.Conn
	subject string
	changed func()

	mu      sync.Mutex
	members *members
	shown   []string // whom changed was called for last
}

// New makes this process a replica that tells the others on a subject that it lives.
// changed is called each time the shares may have changed; it must not call the Replica.
func New(nc *nats.Conn, subject string, changed func()) *Replica {
	return &Replica{nc: nc, subject: subject, changed: changed, members: newMembers(rand.Text(), time.Now())}
}

// Serve says which tenants this process serves. Those that serve the same share them.
func (r *Replica) Serve(tenants []string) {
	r.mu.Lock()
	r.members.serve(tenants)
	r.mu.Unlock()
	r.say(false)
}

// Owns reports whether a tenant is in this replica's share.
func (r *Replica) Owns(tenant string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members.owns(tenant, time.Now())
}

// Run tells the others that this replica lives, and hears them, until ctx ends; then it
// tells that it leaves. Where neither may be said or heard, the replica takes itself to
// be alone, and all tenants to be its own.
func (r *Replica) Run(ctx context.Context) error {
	sub, err := r.nc.Subscribe(r.subject, func(m *nats.Msg) {
		if b, ok := parse(m.Data); ok {
			r.heard(b)
		}
	})
	if err != nil {
		return fmt.Errorf("share the tenants with other replicas: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails on a closed connection only
	defer r.say(true)
	ticker := time.NewTicker(Every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		r.say(false)
		r.reckon()
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

func (r *Replica) heard(b beat) {
	r.mu.Lock()
	first := r.members.heard(b, time.Now())
	r.mu.Unlock()
	if first {
		r.say(false)
	}
	r.reckon()
}

// reckon calls changed if the replicas that live are no longer the same.
func (r *Replica) reckon() {
	r.mu.Lock()
	live := append(r.members.live(time.Now()), r.members.self.Tenants)
	same := slices.Equal(live, r.shown)
	r.shown = live
	r.mu.Unlock()
	if !same {
		r.changed()
	}
}

// say publishes a beat. One that is lost is no harm: the next one follows.
func (r *Replica) say(leaves bool) {
	r.mu.Lock()
	b := r.members.self
	r.mu.Unlock()
	b.Leaves = leaves
	if data, err := json.Marshal(b); err == nil {
		_ = r.nc.Publish(r.subject, data)
	}
}
