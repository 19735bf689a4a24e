// Package record keeps one record per request, in a JetStream key-value bucket.
// Every change is a compare-and-set on the revision that was read, so that two
// workers can never both believe that they may go on with a request.
package record

import (
	"cmp"
	"slices"
	"time"
)

// State is where a request stands.
type State string

const (
	// None is the state of a request that has no record yet.
	None State = ""
	// Attempting is written before a call is sent: from here on the call may
	// have had its effect.
	Attempting State = "attempting"
	// Retrying means that the last call had no effect, and another will follow.
	Retrying State = "retrying"
	// Verifying means that the outcome of the last call is unknown and will be
	// read from Graph.
	Verifying State = "verifying"
	// Accepted means that Graph took the reset. It is final.
	Accepted State = "accepted"
	// Dead means that the request is on the dead-letter stream. Only a new
	// message for the same id leads out of it.
	Dead State = "dead"
)

// next lists the states that may follow a state. Attempting, Retrying and
// Verifying follow themselves when a detail changes. None is followed by the
// end of an attempt where the record was lost while the attempt was made,
// Verifying by Retrying where another worker took an attempt for lost whose own
// worker then saw it refused, and Retrying by Verifying where a dead letter of
// unknown outcome was not finished because its message is gone.
var next = map[State][]State{
	None:       {Attempting, Accepted, Retrying, Verifying, Dead},
	Attempting: {Attempting, Accepted, Retrying, Verifying, Dead},
	Retrying:   {Attempting, Accepted, Retrying, Verifying, Dead},
	Verifying:  {Attempting, Accepted, Retrying, Verifying, Dead},
	Dead:       {Attempting, Accepted, Retrying, Dead},
	Accepted:   {},
}

// CanBecome reports whether a record in state s may be written in state t.
func (s State) CanBecome(t State) bool { return slices.Contains(next[s], t) }

// known reports whether a record can be in this state.
func (s State) known() bool {
	_, ok := next[s]
	return ok && s != None
}

// InProgress reports whether a request in this state will be worked on again.
func (s State) InProgress() bool { return s == Attempting || s == Retrying || s == Verifying }

// Record is the value in the bucket. Its JSON form is a contract with whoever
// watches the bucket. All instants are by the clock of the NATS server, because
// workers on several machines read what each other wrote.
type Record struct {
	ID              string `json:"id"`
	Tenant          string `json:"tenant"`
	ManagedDeviceID string `json:"managedDeviceId"`
	State           State  `json:"state"`
	// Attempts counts the calls that may have had an effect, or were refused
	// for the request's own sake.
	Attempts int `json:"attempts"`
	// HeldAttempts is how many of these were made while the whole tenant was
	// held. They do not count towards the limit of attempts.
	HeldAttempts int `json:"heldAttempts,omitzero"`
	// Burying tells that the request is as good as dead, for Reason: its dead
	// letter is being published. It is written before the letter, so that no
	// other end can come between.
	Burying bool `json:"burying,omitzero"`
	// Panics counts how often the handling of the request panicked.
	Panics int `json:"panics,omitzero"`
	// ReceivedAt is when the stream stored the request's message. With Stream
	// and Sequence it identifies the message.
	ReceivedAt time.Time `json:"receivedAt"`
	// AttemptedAt is just before the last call was sent; absent before the first.
	AttemptedAt time.Time `json:"attemptedAt,omitzero"`
	// UnknownSince is when the first call began whose outcome was never seen;
	// absent without one. It outlives refusals, dead letters and redrives: a reset
	// that shows late may be that call's, so a look counts from here on.
	UnknownSince time.Time `json:"unknownSince,omitzero"`
	// AbsentSince is when a look first showed no reset after the last call of
	// unknown outcome; absent before. A later look has to agree.
	AbsentSince time.Time `json:"absentSince,omitzero"`
	// Refusal is the reason of the dead letter that awaits one more look: Graph
	// has refused a call after one of unknown outcome. Absent otherwise.
	Refusal string `json:"refusal,omitzero"`
	// NextAt is when the request is looked at again; absent where that is at
	// once, or never.
	NextAt time.Time `json:"nextAt,omitzero"`
	// FinishedAt is when the request came to its end; absent before.
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	Stream     string    `json:"stream"`
	Sequence   uint64    `json:"sequence"`
	// Ended are the sequences of the messages of this id that died, the last
	// [MaxEnded] of them. A late copy of such a message is only acknowledged.
	Ended []uint64 `json:"ended,omitzero"`
	// Redrives counts the messages that took the id up again after it had died.
	Redrives int `json:"redrives,omitzero"`
	// Worker is the host name of the worker that wrote the record.
	Worker string `json:"worker"`
	// ClientRequestID names the last call, and so the attempt.
	ClientRequestID string `json:"clientRequestId"`
	GraphRequestID  string `json:"graphRequestId"`
	// Status is the HTTP status of the last answer to a call; 0 where there was none.
	Status int `json:"status"`
	// Reason is the reason of a dead letter; before that, of the wait.
	Reason string `json:"reason"`
	Detail string `json:"detail"`
	// Verified tells that Accepted was found out by reading the device's actions.
	Verified bool `json:"verified"`
	// Followed tells of an accepted request that its device is followed; its outcome then
	// stands under the same key in the bucket of outcomes.
	Followed bool `json:"followed,omitzero"`
	// RequestedBy and RequestReason are the requester's own words.
	RequestedBy   string `json:"requestedBy"`
	RequestReason string `json:"requestReason,omitzero"`
	Traceparent   string `json:"traceparent"`
}

// Same reports whether two records are about the same message. The instant is
// part of it because sequences begin anew when a stream is made anew.
func (r Record) Same(o Record) bool {
	return r.Stream == o.Stream && r.Sequence == o.Sequence && r.ReceivedAt.Equal(o.ReceivedAt)
}

// MaxEnded is how many ended messages a record remembers.
const MaxEnded = 16

// End notes that the record's message has died.
func (r *Record) End() {
	r.Ended = append(slices.DeleteFunc(slices.Clone(r.Ended), func(s uint64) bool { return s == r.Sequence }), r.Sequence)
	r.Ended = r.Ended[max(0, len(r.Ended)-MaxEnded):]
}

// HasEnded reports whether the message that o comes from has died before. Where
// sequences and instants of the two messages are not in the same order, the
// stream was made anew in between, and o is another message of an old number.
func (r Record) HasEnded(o Record) bool {
	if r.Stream != o.Stream || !slices.Contains(r.Ended, o.Sequence) {
		return false
	}
	return cmp.Compare(r.Sequence, o.Sequence) == r.ReceivedAt.Compare(o.ReceivedAt)
}

// UnknownFrom is the instant from which on a reset of the device may be this
// request's although no answer said so; zero where each call was answered.
func (r Record) UnknownFrom() time.Time {
	if r.UnknownSince.IsZero() && (r.State == Verifying || r.Reason == "outcome_unknown" || r.Reason == "undeliverable") {
		return r.AttemptedAt // written before records named the first such call
	}
	return r.UnknownSince
}

// MarkUnknown notes that the outcome of the last call was not seen.
func (r *Record) MarkUnknown() {
	if r.UnknownSince.IsZero() {
		r.UnknownSince = r.AttemptedAt
	}
}

// Shifted turns the record's instants into those of another clock, which is ahead by
// that much. ReceivedAt stays as it is: it identifies the message.
func (r Record) Shifted(by time.Duration) Record {
	for _, t := range []*time.Time{&r.AttemptedAt, &r.UnknownSince, &r.AbsentSince, &r.NextAt, &r.FinishedAt} {
		if !t.IsZero() {
			*t = t.Add(by)
		}
	}
	return r
}

// Key is the key of a request's record: the tenant and the escaped id.
func Key(tenant, escapedID string) string { return tenant + "." + escapedID }
