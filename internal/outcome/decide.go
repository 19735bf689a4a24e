package outcome

import (
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/record"
)

// Policy is what the decisions depend on besides the facts.
type Policy struct {
	Plan
	// VerifyAfter is how long the worker waits before it looks up an unknown outcome;
	// see [Policy.window].
	VerifyAfter time.Duration
}

const (
	// grace is how long before its call a reset may seem to have begun: the Date
	// header, which shows the clocks' difference, is cut to whole seconds.
	grace = 2 * time.Second
	// showsWithin is the least time after the end of its call in which a reset may begin.
	showsWithin = 2 * time.Minute
	// missingFor is how long a device must be missing to count as removed: a single 404
	// may come from a replica of Graph's that lags behind.
	missingFor = 10 * time.Minute
	// lookedWithin is how old the last look may be when the time is over: then the device
	// did nothing. If the last look is older, the worker could not look.
	lookedWithin = 24 * time.Hour
	// syncAfter and awayAfter are the ages at which switching the device on is no longer
	// enough.
	syncAfter = 15 * time.Minute
	awayAfter = 8 * time.Hour
	// passcodeShown is how long Intune shows the temporary passcode.
	// Source: Microsoft Intune, "Reset or remove a device passcode".
	passcodeShown = 7 * 24 * time.Hour
)

// Case is what is known about a request when its alarm is due.
type Case struct {
	Alarm Alarm
	// Record is the request's record; its state is None if there is none.
	Record record.Record
	// Document is the stored outcome; its Outcome is empty if there is none.
	Document Document
	// Now is by the clock of the NATS server, like all instants of a case.
	Now time.Time
}

// Do is what is to be done about an alarm.
type Do int

const (
	// DoLook looks at the device.
	DoLook Do = iota + 1
	// DoDrop acknowledges the alarm: its request has an end, or a later call.
	DoDrop
	// DoLose does the same for a request without a record whose time is over.
	DoLose
	// DoPutBack publishes the alarm again for later, since no look is possible now.
	DoPutBack
)

// Settled returns the case with the alarm's instants taken from the record of its call:
// those in the alarm are a copy, which anybody may have written.
func (c Case) Settled() Case {
	if c.Record.State == record.Accepted && c.Record.ClientRequestID == c.Alarm.ClientRequestID {
		c.Alarm.AttemptedAt, c.Alarm.AcceptedAt = c.Record.AttemptedAt, c.Record.FinishedAt
	}
	return c
}

// OfAlarm decides what is to be done about an alarm that is due.
func (p Policy) OfAlarm(c Case) Do {
	d, r := c.standing(), c.Record
	over := !c.Now.Before(p.End(c.Alarm))
	switch {
	case c.Document.Outcome != "" && d.Outcome == "" && c.Document.AcceptedAt.After(c.Alarm.AcceptedAt):
		return DoDrop // it is of a later call
	case d.Outcome.Final() && !d.Outcome.ByTime():
		return DoDrop
	case d.Outcome.Final() && (c.Alarm.Until.IsZero() || over):
		return DoDrop
	case r.State == record.Accepted && r.FinishedAt.After(c.Alarm.AcceptedAt) && r.ClientRequestID != c.Alarm.ClientRequestID:
		return DoDrop
	case r.State == record.Accepted && r.ClientRequestID == c.Alarm.ClientRequestID:
		return DoLook
	case over:
		return DoLose // nothing proves any more that there was such a request
	}
	return DoPutBack
}

// standing is the stored document if it is about the alarm's call, else an empty one.
func (c Case) standing() Document {
	if c.Document.ClientRequestID != c.Alarm.ClientRequestID {
		return Document{}
	}
	return c.Document
}

// Look is the result of a look at the device.
type Look struct {
	// Device is Graph's answer; zero if the look failed or the device is missing.
	Device graph.Device
	// Missing: Graph serves the tenant, but does not know the device.
	Missing bool
	// Failed: the look could not be made, for a reason that is not the device's.
	Failed bool
	// Ahead is how far Graph's clock is ahead of the NATS server's.
	Ahead time.Duration
}

// Decision is what follows from a look.
type Decision struct {
	// Document is the outcome after the look. It is to be written if Write is set.
	Document Document
	Write    bool
	// Alarm is to be published after that; nil: following has ended.
	Alarm *Alarm
	// Doubt says why the device's list is not clear; empty if it is.
	Doubt string
}

// OfLook decides what a look means.
func (p Policy) OfLook(c Case, l Look) Decision {
	a, stands := c.Alarm, c.standing()
	d := stands
	if d.Outcome == "" {
		d = begun(c.Record)
	}
	out := Decision{}
	var changed time.Time
	switch {
	case l.Failed:
	case l.Missing:
		a.LookedAt = c.Now
		if a.MissingSince.IsZero() {
			a.MissingSince = c.Now
		}
		if c.Now.Sub(a.MissingSince) >= p.scaled(missingFor) {
			d.Outcome, d.Reason = Removed, d.Reason.over()
		}
	default:
		a.LookedAt, a.MissingSince = c.Now, time.Time{}
		out.Doubt, changed = p.seen(&d, c.Record, l)
	}
	if !d.Outcome.Final() && !c.Now.Before(p.End(a)) {
		if d.Outcome = TimedOut; c.Now.Sub(a.LookedAt) > p.scaled(lookedWithin) {
			d.Outcome = Undetermined
		}
	}
	if stands.Outcome.Final() {
		// Only what the device itself did can still change it.
		out.Write = stands.Outcome.CanBecome(d.Outcome)
		if !out.Write {
			d = stands
		}
	}
	if d.Final = d.Outcome.Final(); d.Final && (out.Write || !stands.Final) {
		d.DecidedAt = c.Now.UTC()
		d.DurationSeconds = max(0, c.Now.Sub(d.AcceptedAt).Seconds())
	}
	if !stands.Final || out.Write {
		d.NextStep, d.Text = p.tell(d, c.Now, changed)
		out.Write = d.Outcome != stands.Outcome || d.NextStep != stands.NextStep ||
			!d.LastSyncAt.Equal(stands.LastSyncAt) || !d.StartedAt.Equal(stands.StartedAt)
	}
	out.Write = out.Write && !(l.Failed && !d.Final) // a failed look has seen nothing
	out.Document = d
	switch over := !c.Now.Before(p.End(a)); {
	case d.Final && !d.Outcome.ByTime(), over:
	case l.Failed:
		next := p.PutBack(a, c.Now)
		out.Alarm = &next
	default:
		next := p.Next(a, c.Now)
		out.Alarm = &next
	}
	return out
}

// begun is the document of a request about which nothing was seen yet.
func begun(r record.Record) Document {
	return Document{
		ID: r.ID, Tenant: r.Tenant, ManagedDeviceID: r.ManagedDeviceID, Outcome: Pending,
		AcceptedAt: r.FinishedAt.UTC(), ClientRequestID: r.ClientRequestID, RequestedBy: r.RequestedBy, Traceparent: r.Traceparent,
	}
}

// window says which reset on the device is the request's: the earliest that began
// between the start of its call and [showsWithin] after the end of it, or longer if the
// worker waits longer before it verifies. If that look-up found the reset, it may have
// begun at any time since the first call of unknown outcome.
func (p Policy) window(d Document, r record.Record, ahead time.Duration) graph.Window {
	from := r.AttemptedAt
	if unknown := r.UnknownFrom(); r.Verified && !unknown.IsZero() {
		from = unknown
	}
	return graph.Window{
		From:  from.Add(ahead - grace),
		To:    r.FinishedAt.Add(ahead + max(showsWithin, 3*p.VerifyAfter)),
		Start: d.StartedAt,
	}
}

// seen puts what a look shows into a document. It returns what is in doubt, and when
// Intune last changed the reset.
func (p Policy) seen(d *Document, r record.Record, l Look) (doubt string, changed time.Time) {
	dev := l.Device
	if platform := PlatformOf(dev.OS); platform != "" {
		d.Platform = platform
	}
	if dev.Owner == "company" || dev.Owner == "personal" {
		d.OwnerType = dev.Owner
	}
	if !dev.LastSync.IsZero() {
		d.LastSyncAt = dev.LastSync.UTC()
	}
	d.Reason = underWay(dev.Management)
	found := graph.OwnReset(dev.List, p.window(*d, r, l.Ahead))
	switch found.Own {
	case graph.OwnSuperseded:
		d.Outcome = Superseded
	case graph.OwnFound:
		d.StartedAt = found.Reset.Started.UTC()
		d.Outcome = ofState(found.Reset.State)
		d.ErrorCode, d.ErrorCodeHex = found.Reset.ErrorCode, hex(found.Reset.ErrorCode)
	case graph.OwnPending:
		d.Outcome = Pending
	}
	return found.Doubt, found.Reset.Updated
}

// ofState is the outcome that a state of Intune's means. An unknown state is not final.
// Source: Graph, actionState.
func ofState(state string) Outcome {
	switch fold(state) {
	case "active":
		return Active
	case "done":
		return Done
	case "failed":
		return Failed
	case "notsupported":
		return NotSupported
	case "canceled":
		return Canceled
	}
	return Pending
}

// underWay is what is being done to a device that makes Intune ignore everything else
// that waits for it; empty: nothing.
// Sources: Graph, managementState; Microsoft Intune, "Remote device actions".
func underWay(management string) Reason {
	switch fold(management) {
	case "wipepending", "wipeissued":
		return WipePending
	case "retirepending", "retireissued":
		return RetirePending
	case "deletepending":
		return DeletePending
	}
	return ""
}
