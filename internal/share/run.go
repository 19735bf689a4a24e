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
	changed func()
	moved   chan struct{} // the subject is another one

	mu      sync.Mutex
	subject string
	members *members
	shown   []string // whom changed was called for last
}

// New makes this process a replica that tells the others on a subject that it is running.
// changed is called each time the shares may have changed; it must not call the Replica.
func New(nc *nats.Conn, subject string, changed func()) *Replica {
	return &Replica{nc: nc, subject: subject, changed: changed, moved: make(chan struct{}, 1), members: newMembers(rand.Text(), time.Now())}
}

// Serve sets which tenants this process serves, and on which subject
// it says so from now on. Replicas that serve the same tenants share them.
func (r *Replica) Serve(subject string, tenants []string) {
	r.mu.Lock()
	r.subject = subject
	r.members.serve(tenants)
	r.mu.Unlock()
	select {
	case r.moved <- struct{}{}:
	default:
	}
	r.say(false)
}

// Owns reports whether a tenant is in this replica's share.
func (r *Replica) Owns(tenant string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members.owns(tenant, time.Now())
}

// Run tells the others that this replica is running, and listens to them,
// until ctx ends; then it tells them that it leaves. If it may not publish
// or subscribe, the replica treats itself as alone and all tenants as its own.
func (r *Replica) Run(ctx context.Context) error {
	ticker := time.NewTicker(Every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := r.beat(ctx, ticker.C); err != nil {
			return err
		}
	}
	r.say(true)
	return nil
}

// beat publishes and listens on the present subject until the subject changes or ctx ends.
func (r *Replica) beat(ctx context.Context, ticks <-chan time.Time) error {
	r.mu.Lock()
	subject := r.subject
	r.mu.Unlock()
	sub, err := r.nc.Subscribe(subject, func(m *nats.Msg) {
		if b, ok := parse(m.Data); ok {
			r.heard(b)
		}
	})
	if err != nil {
		return fmt.Errorf("share the tenants with other replicas: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails on a closed connection only
	for ctx.Err() == nil {
		r.say(false)
		r.reckon()
		select {
		case <-ctx.Done():
		case <-ticks:
		case <-r.moved:
			return nil
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

// reckon calls changed if the set of running replicas has changed.
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

// say publishes a beat. A lost beat does no harm: the next one follows.
func (r *Replica) say(leaves bool) {
	r.mu.Lock()
	b, subject := r.members.self, r.subject
	r.mu.Unlock()
	b.Leaves = leaves
	if data, err := json.Marshal(b); err == nil {
		_ = r.nc.Publish(subject, data)
	}
}
