package verdict

import (
	"time"

	"passcode-worker/internal/record"
)

// Step is what is to be done next about a delivered message.
type Step int

const (
	// StepAttempt calls Graph.
	StepAttempt Step = iota + 1
	// StepLook reads from Graph what became of the last call.
	StepLook
	// StepOrphan notes that the outcome of a call whose worker is gone is unknown.
	StepOrphan
	// StepWait gives the message back until Plan.Until.
	StepWait
	// StepWaitForOther does so because another message of the same id is at work.
	StepWaitForOther
	// StepAwaitRepair does so because nothing that the record's key holds is a record.
	StepAwaitRepair
	// StepAck acknowledges: the message has come to its end before.
	StepAck
	// StepDuplicate acknowledges: the request was accepted by another message.
	StepDuplicate
	// StepExpire makes a dead letter: the request's time is over.
	StepExpire
	// StepGiveUp makes a dead letter: the request's time is over, and whether it
	// was done before cannot be told.
	StepGiveUp
	// StepBury goes on with a dead letter that was begun.
	StepBury
)

// Plan is the next step.
type Plan struct {
	Step  Step
	Until time.Time // of the steps that wait
}

// Delivery is all that a plan depends on.
type Delivery struct {
	// Record is the request's record, and Self what the record of this message
	// says of its origin.
	Record, Self record.Record
	// Garbled: the record's key holds values, but none is a record.
	Garbled bool
	// IDGiven: the publisher named the request itself.
	IDGiven bool
	// Expires is when the request's time is over; zero: never.
	Expires time.Time
	Now     time.Time
}

// Expired reports whether a request's time is over. The zero instant never is.
func Expired(expires, now time.Time) bool { return !expires.IsZero() && now.After(expires) }

// How long a message waits for another one with the same id.
const (
	otherMin = time.Second
	otherMax = 30 * time.Second
)

// repairWait is how often a record is read again of which nothing can be read.
const repairWait = time.Minute

// Next decides, from the record of the request and from this delivery, what
// comes next.
func Next(d Delivery) Plan {
	r, same := d.Record, d.Record.Same(d.Self)
	expired := Expired(d.Expires, d.Now)
	switch {
	case d.Garbled && expired:
		return Plan{Step: StepGiveUp}
	case d.Garbled:
		at := d.Now.Add(repairWait)
		if !d.Expires.IsZero() && d.Expires.Before(at) {
			at = d.Expires
		}
		return Plan{StepAwaitRepair, at}
	case !same && !d.IDGiven && !r.State.InProgress():
		// The id is <stream>-<sequence> and the stream was made anew: this is
		// another request under an old name.
		r, same = record.Record{}, true
	case r.HasEnded(d.Self):
		return Plan{Step: StepAck}
	}
	switch {
	case r.State == record.Accepted && !same:
		return Plan{Step: StepDuplicate}
	case r.State == record.Accepted, r.State == record.Dead && same:
		return Plan{Step: StepAck}
	case r.State == record.Dead && !r.UnknownFrom().IsZero():
		// It may have been reset; find out before anything else.
		return Plan{Step: StepLook}
	case r.State.InProgress() && !same:
		return Plan{StepWaitForOther, d.Now.Add(min(max(r.NextAt.Sub(d.Now)+otherMin/2, otherMin), otherMax))}
	case r.State.InProgress() && r.Burying:
		return Plan{Step: StepBury}
	case r.State == record.Attempting:
		return Plan{Step: StepOrphan}
	case r.State == record.Verifying || r.State == record.Retrying && !r.UnknownFrom().IsZero():
		if d.Now.Before(r.NextAt) {
			return Plan{StepWait, r.NextAt}
		}
		return Plan{Step: StepLook}
	case expired:
		return Plan{Step: StepExpire}
	case r.State == record.Retrying && d.Now.Before(r.NextAt):
		return Plan{StepWait, r.NextAt}
	}
	return Plan{Step: StepAttempt}
}
