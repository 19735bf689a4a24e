// Package guard keeps a flood of resets from happening: an attack or a mistake
// that no quota stops. It is pure in time.
package guard

import (
	"maps"
	"sync"
	"time"

	"passcode-worker/internal/pace"
)

// Fuse blows when more distinct devices than its limit would be reset in the
// limit's window, and stays blown until it is released. What it counts is read
// from the records when a replica begins to work, so that it holds over restarts
// and replicas.
type Fuse struct {
	limit pace.Rate // zero: off

	mu sync.Mutex
	// begun are the devices for which a call was about to be made, and when last.
	begun map[string]time.Time
	// blownAt is when the fuse blew; zero while it has not, or was released
	// since. Devices that were begun before releasedAt do not count.
	blownAt, releasedAt time.Time
}

// NewFuse makes a fuse; the zero limit never blows.
func NewFuse(limit pace.Rate) *Fuse {
	return &Fuse{limit: limit, begun: map[string]time.Time{}}
}

// Limit is what the fuse was made with.
func (f *Fuse) Limit() pace.Rate { return f.limit }

// On reports whether the fuse can blow.
func (f *Fuse) On() bool { return f.limit.N > 0 }

// Horizon is how far back the fuse has to know; 0 where it is off.
func (f *Fuse) Horizon() time.Duration {
	if !f.On() {
		return 0
	}
	return f.limit.W
}

// Admit notes that a call is about to be made for the device, unless that is one
// device too many: then the fuse blows. It is false while the fuse is blown, and
// blew reports that it has just happened.
func (f *Fuse) Admit(device string, now time.Time) (ok, blew bool) {
	if !f.On() {
		return true, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.blownAt.IsZero() {
		return false, false
	}
	if at, known := f.begun[device]; !known || now.Sub(at) >= f.limit.W {
		if len(f.begun) >= f.limit.N {
			maps.DeleteFunc(f.begun, func(_ string, at time.Time) bool { return now.Sub(at) >= f.limit.W })
		}
		if len(f.begun) >= f.limit.N {
			f.blownAt = now
			return false, true
		}
	}
	f.begun[device] = now
	return true, false
}

// Began records a call that was made before this replica worked.
func (f *Fuse) Began(device string, at, now time.Time) {
	if !f.On() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(at) < f.limit.W && at.After(f.releasedAt) && at.After(f.begun[device]) {
		f.begun[device] = at
	}
}

// Blown is when the fuse blew; zero while it has not.
func (f *Fuse) Blown() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blownAt
}

// Settle takes over when the fuse blew and was released last, and reports whether
// that has changed anything. A release counts anew from its instant on.
func (f *Fuse) Settle(blownAt, releasedAt time.Time) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if releasedAt.After(f.releasedAt) {
		f.releasedAt = releasedAt
		maps.DeleteFunc(f.begun, func(_ string, at time.Time) bool { return !at.After(releasedAt) })
	}
	before := f.blownAt
	if blownAt.After(f.blownAt) {
		f.blownAt = blownAt
	}
	if !f.blownAt.After(f.releasedAt) || f.limit.N == 0 {
		f.blownAt = time.Time{}
	}
	return before.IsZero() != f.blownAt.IsZero()
}
