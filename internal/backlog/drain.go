package backlog

import "time"

// Flow measures how fast a queue shrinks. The zero Flow has measured nothing.
type Flow struct {
	at       time.Time
	messages int
	rate     float64 // smoothed, messages per second; below 0 while it grows
}

// PerSecond takes a measurement, and returns by how many messages the queue shrinks
// per second; below 0 while it grows.
func (f *Flow) PerSecond(messages int, now time.Time) float64 {
	if !f.at.IsZero() && now.After(f.at) {
		rate := float64(f.messages-messages) / now.Sub(f.at).Seconds()
		f.rate += (rate - f.rate) / 4
	}
	f.at, f.messages = now, messages
	return f.rate
}

// Queue is what the time depends on that it takes to empty a queue.
type Queue struct {
	Messages int
	// Flow is how fast it shrinks, in messages per second; below 0 while it grows.
	Flow float64
	// Held: something holds it, of which nobody knows when it ends.
	Held bool
	// Standby: another replica works on it. What that one has sent and was granted is
	// not known here, so the flow counts, or the limit that is configured.
	Standby bool
	// Limit is how many calls per second are granted; 0: there is no limit.
	Limit float64
	// Free is how many calls may go at once.
	Free int
	// Pause is what is left of a pause.
	Pause time.Duration
}

// Drain estimates how long it takes to empty the queue; below 0 means that no end
// is in sight.
func (q Queue) Drain() time.Duration {
	take := func(messages, perSecond float64) time.Duration {
		return time.Duration(messages / perSecond * float64(time.Second))
	}
	switch backlog := float64(q.Messages); {
	case q.Messages == 0:
		return 0
	case q.Held:
		return -1
	case q.Standby && q.Flow > 0:
		return take(backlog, q.Flow)
	case q.Standby && q.Limit > 0:
		return take(backlog, q.Limit)
	case q.Limit > 0: // what is left of the window goes at once
		return take(max(0, backlog-float64(q.Free)), q.Limit) + q.Pause
	case q.Flow > 0:
		return take(backlog, q.Flow) + q.Pause
	}
	return -1
}
