// Package backlog knows what of a tenant's queue waits to be tried again, and
// estimates how long the whole queue takes. It is pure in time.
package backlog

import (
	"maps"
	"sync"
	"time"
)

// Most is how many messages wait for what may never come: half of those that the
// consumer lets be unacknowledged at a time.
const Most = 500

// Overdue is how long a message is waited for that should be back. Then another
// worker has it, or had it.
const Overdue = time.Minute

// Backlog is what this replica has given back, by the sequence of the message.
type Backlog struct {
	show func(waiting int)

	mu sync.Mutex
	// waiting are the messages that will be tried again, and when.
	waiting map[uint64]time.Time
	// parked are those of them that wait for what may never come: the repair of a
	// garbled record, or a device that another request may be resetting.
	parked map[uint64]time.Time
}

// New makes a Backlog that tells show how many messages will be tried again.
func New(show func(waiting int)) *Backlog {
	return &Backlog{show: show, waiting: map[uint64]time.Time{}, parked: map[uint64]time.Time{}}
}

// Wait notes when a message is going to be tried again.
func (b *Backlog) Wait(sequence uint64, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[sequence] = until
	b.show(len(b.waiting))
}

// Back notes that a message is back.
func (b *Backlog) Back(sequence uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, sequence)
	b.show(len(b.waiting))
}

// Forget drops the messages that should have been back for as long as patience.
func (b *Backlog) Forget(now time.Time, patience time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	forget(b.waiting, now, patience)
	b.show(len(b.waiting))
}

func forget(messages map[uint64]time.Time, now time.Time, patience time.Duration) {
	maps.DeleteFunc(messages, func(_ uint64, until time.Time) bool { return now.Sub(until) > patience })
}

// Park notes that a message waits for what may never come. It reports whether there
// is a place for it, and whether it has come for the first time.
func (b *Backlog) Park(sequence uint64, until, now time.Time) (waits, first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	forget(b.parked, now, Overdue)
	_, known := b.parked[sequence]
	if !known && len(b.parked) >= Most {
		return false, true
	}
	b.parked[sequence] = until
	return true, !known
}

// Unpark gives the place back of a message that need not wait any more.
func (b *Backlog) Unpark(sequence uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.parked, sequence)
}
