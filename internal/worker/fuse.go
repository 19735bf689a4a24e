package worker

import (
	"maps"
	"sync"
	"time"

	"passcode-worker/internal/pace"
)

// fuse guards a tenant's devices: against a flood of resets, which no quota
// stops, and against a second reset of a device that has just had one. What it
// counts is read from the records when a replica begins to work, so that it
// holds over restarts and replicas. It is pure in time.
type fuse struct {
	limit    pace.Rate // distinct devices in a window; zero: off
	cooldown time.Duration

	mu sync.Mutex
	// begun are the devices for which a reset was begun, and when last.
	begun map[string]time.Time
	// reset are the devices that were reset, by which request, and when last.
	reset map[string]lastReset
	// blownAt is when the fuse blew; zero while it has not, or was released
	// since. Devices that were begun before releasedAt do not count.
	blownAt, releasedAt time.Time
}

type lastReset struct {
	request string
	at      time.Time
}

func newFuse(limit pace.Rate, cooldown time.Duration) *fuse {
	return &fuse{limit: limit, cooldown: cooldown, begun: map[string]time.Time{}, reset: map[string]lastReset{}}
}

// horizon is how far back the fuse has to know; 0 where it is off.
func (f *fuse) horizon() time.Duration {
	if f.limit.N == 0 {
		return f.cooldown
	}
	return max(f.limit.W, f.cooldown)
}

// admit notes that a reset of the device is about to begin, unless that is one
// device too many: then the fuse blows. It is false while the fuse is blown, and
// news tells that it has just happened.
func (f *fuse) admit(device string, now time.Time) (ok, news bool) {
	if f.limit.N == 0 {
		return true, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.blownAt.IsZero() {
		return false, false
	}
	if at, known := f.begun[device]; !known || now.Sub(at) >= f.limit.W {
		maps.DeleteFunc(f.begun, func(_ string, at time.Time) bool { return now.Sub(at) >= f.limit.W })
		if len(f.begun) >= f.limit.N {
			f.blownAt = now
			return false, true
		}
	}
	f.begun[device] = now
	return true, false
}

// began records a reset that was begun before this replica worked.
func (f *fuse) began(device string, at, now time.Time) {
	if f.limit.N == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(at) < f.limit.W && at.After(f.releasedAt) && at.After(f.begun[device]) {
		f.begun[device] = at
	}
}

// accepted records that a request has reset a device.
func (f *fuse) accepted(device, request string, at time.Time) {
	if f.cooldown == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.Before(f.reset[device].at) {
		return
	}
	maps.DeleteFunc(f.reset, func(_ string, r lastReset) bool { return at.Sub(r.at) >= f.cooldown })
	f.reset[device] = lastReset{request, at}
}

// cooling tells since when a device cools down after another request; zero if
// it does not.
func (f *fuse) cooling(device, request string, now time.Time) time.Time {
	if f.cooldown == 0 {
		return time.Time{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.reset[device]
	if !ok || r.request == request || now.Sub(r.at) >= f.cooldown {
		return time.Time{}
	}
	return r.at
}

// blown is when the fuse blew; zero while it has not.
func (f *fuse) blown() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blownAt
}

// settle takes over when the fuse blew and was released last, and tells whether
// that has changed anything. A release counts anew from its instant on.
func (f *fuse) settle(blownAt, releasedAt time.Time) (changed bool) {
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
