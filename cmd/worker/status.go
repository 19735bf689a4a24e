package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"passcode-worker/internal/ops"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

type statusCmd struct {
	Rate      string `group:"policy" env:"WORKER_RATE" default:"${rate}" placeholder:"N/TIME" help:"The workers' rate, on which the estimates are based. 0: no limit. A rate of the tenant's own in WORKER_TENANTS_FILE overrides the variable, but not the flag."`
	FollowFor string `group:"policy" env:"WORKER_FOLLOW_FOR" default:"${follow_for}" placeholder:"TIME" help:"How long the workers follow a request; requests accepted earlier than that are not counted as open."`
	ID        string `arg:"" optional:"" help:"Id of the request to show."`

	toolOptions `embed:""`
}

// Help is shown by worker status --help.
func (statusCmd) Help() string {
	return "Without an id, shows the tenant's queue. With an id, shows the states of that request, as far as they are kept, and what its device did. " +
		"The exit status is 1 if the id is unknown. All times are UTC, by the clock of the NATS server; only the last check-in of a device is by Graph's clock."
}

// Run shows the queue, or one request.
func (c statusCmd) Run(ctx context.Context, s streams, line *kong.Context) error {
	r := &reader{}
	if givenEmpty(line, "") {
		r.fail("id", "it is empty: give one, or leave it out")
	}
	rate, err := pace.ParseRate(c.Rate)
	if err != nil {
		r.fail("WORKER_RATE", "%v", err)
	}
	followFor := r.duration("WORKER_FOLLOW_FOR", c.FollowFor, 0)
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		if c.ID != "" {
			return t.history(ctx, c.ID)
		}
		if own, ok := ownRate(t.tenant); ok && !given(line, "--rate") {
			rate = own
		}
		q, err := t.Queue(ctx, rate, followFor)
		if err != nil {
			return err
		}
		for _, u := range q.Unread {
			t.tell("not known: %s", plain(u))
		}
		if t.json {
			t.object(q)
			return nil
		}
		t.queue(q)
		return nil
	})
}

// some returns the first names of a list that may have thousands, and how many more there
// are.
func some(names []string) []string {
	const most = 20
	if more := len(names) - most; more > 0 {
		return append(slices.Clone(names[:most]), fmt.Sprintf("and %s more", count(more)))
	}
	return names
}

func (p *printer) queue(q ops.Queue) {
	row := func(name, format string, args ...any) { p.line("%-12s"+format, append([]any{name}, args...)...) }
	row("tenant", "%s", q.Tenant)
	row("waiting", "%s", count(q.Waiting))
	inFlight := count(q.InFlight)
	if q.Redelivered > 0 {
		inFlight += fmt.Sprintf(", %s of them redelivered", count(q.Redelivered))
	}
	row("in flight", "%s", inFlight)
	if q.Waiting+q.InFlight > 0 && q.Knows(ops.PartOldest) {
		row("oldest", "%s", span(seconds(q.Oldest)))
	}
	rate := q.Rate
	switch {
	case rate == "0":
		rate = "no limit"
	case rate != q.Configured:
		rate += " (learned; configured: " + q.Configured + ")"
	}
	row("rate", "%s", rate)
	switch {
	case q.Drain < 0:
		row("empty in", "no estimate")
	default:
		row("empty in", "about %s", span(seconds(q.Drain)))
	}
	paused := "no"
	switch {
	case q.Paused && q.PausedUntil == nil:
		paused = p.coloured(yellow, "until resumed")
	case q.Paused:
		paused = p.coloured(yellow, "until "+instant(*q.PausedUntil))
	}
	row("paused", "%s", paused)
	if q.ThrottledUntil != nil {
		row("throttled", "until %s, as Graph asked", instant(*q.ThrottledUntil))
	}
	hold := "no"
	switch {
	case !q.Knows(ops.PartState):
		hold = "not known"
	case q.Hold == nil && q.FuseBlownAt != nil:
		hold = p.coloured(red, "fuse") // more about it below
	case q.Hold != nil:
		hold = p.coloured(red, plain(q.Hold.Cause)) + " since " + instant(q.Hold.Since)
		if q.Hold.Detail != "" {
			hold += ": " + plain(q.Hold.Detail)
		}
	}
	row("hold", "%s", hold)
	if q.FuseBlownAt != nil {
		row("fuse", "%s since %s; worker resume releases it", p.coloured(red, "blown"), instant(*q.FuseBlownAt))
	}
	if q.Pullers == 0 && !q.Paused {
		row("workers", "%s", p.coloured(yellow, "none is waiting for a request: all are busy, held or not running"))
	}
	dead := "not known"
	if q.Knows(ops.PartDead) {
		dead = count(q.Dead)
	}
	row("dead", "%s", dead)
	if len(q.Unserved) > 0 {
		row("unserved", "%s: requests wait for these tenants, and no worker serves them", p.coloured(yellow, plain(strings.Join(some(q.Unserved), ", "))))
	}
	switch f := q.Following; {
	case !q.Knows(ops.PartOutcomes):
		row("followed", "not known")
	case f == nil:
		row("followed", "nothing: the bucket of outcomes is missing; worker setup creates it")
	case f.Open == 0:
		row("followed", "0")
	default:
		row("followed", "%s: %s under 2m, %s under 15m, %s under 8h, %s older", count(f.Open), count(f.Under2m), count(f.Under15m), count(f.Under8h), count(f.Older))
		p.line("")
		columns := openColumns()
		p.row(columns, titles(columns)...)
		for _, o := range f.Oldest {
			p.row(columns, span(seconds(o.Age).Round(time.Second)), o.ID, string(o.Outcome), string(o.NextStep), moment(o.LastSyncAt))
		}
	}
}

// openColumns are the columns of the oldest requests that are followed.
func openColumns() []column {
	return []column{{"AGE", 11, true}, {"ID", 36, false}, {"OUTCOME", 8, false}, {"NEXT STEP", 13, false}, {"CHECKED IN", 20, false}}
}

// moment writes an instant that may be missing.
func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return instant(*t)
}

// historyColumns are the columns of the history of one request.
func historyColumns() []column {
	return []column{{"WRITTEN", 24, false}, {"STATE", 10, false}, {"ATTEMPT", 7, true}, {"STATUS", 6, true}, {"WHY", 60, false}, {"WORKER", 20, false}}
}

// historyLine is one state of a request as JSON: its record, and when it was
// written. The last one also has what the device did, if that is known.
type historyLine struct {
	WrittenAt time.Time `json:"writtenAt"`
	record.Record
	Outcome *outcome.Document `json:"outcome,omitempty"`
}

func (t *tool) history(ctx context.Context, id string) error {
	entries, err := t.History(ctx, id)
	if err != nil {
		return fmt.Errorf("%s: %w", plain(id), err)
	}
	last := entries[len(entries)-1].Record
	var device outcome.Document
	var unread error
	if last.State == record.Accepted {
		device, unread = t.OutcomeOf(ctx, last)
	}
	if unread != nil && !errors.Is(unread, ops.ErrNoOutcomes) {
		t.tell("not known: %s: %v", ops.PartOutcomes, unread)
	}
	if t.json {
		for i, e := range entries {
			line := historyLine{WrittenAt: e.Time, Record: e.Record}
			if i == len(entries)-1 && device.Outcome != "" {
				line.Outcome = &device
			}
			t.object(line)
		}
		return nil
	}
	t.line("request   %s", plain(last.ID))
	t.line("device    %s", plain(last.ManagedDeviceID))
	if last.RequestedBy != "" || last.RequestReason != "" {
		t.line("wanted    by %s: %s", plain(last.RequestedBy), plain(last.RequestReason))
	}
	t.line("message   %d of stream %s, of %s", last.Sequence, plain(last.Stream), instant(last.ReceivedAt))
	if last.ClientRequestID != "" {
		t.line("call      client-request-id %s, request-id %s", plain(last.ClientRequestID), plain(last.GraphRequestID))
	}
	t.line("now       %s", plain(words(last)))
	if last.State == record.Accepted {
		t.device(last, device, unread)
	}
	t.line("")
	columns := historyColumns()
	t.row(columns, titles(columns)...)
	for _, e := range entries {
		r := e.Record
		status := ""
		if r.Status != 0 {
			status = fmt.Sprint(r.Status)
		}
		t.row(columns, e.Time.Format("2006-01-02 15:04:05.000Z"), string(r.State), fmt.Sprint(r.Attempts), status, why(r), r.Worker)
	}
	return nil
}

// why is the reason and the detail of a state.
func why(r record.Record) string {
	switch {
	case r.Verified:
		return "found by a look-up"
	case r.Reason == "" || strings.HasPrefix(r.Detail, r.Reason):
		return r.Detail
	case r.Detail == "":
		return r.Reason
	}
	return r.Reason + ": " + r.Detail
}

// words says what a record means.
func words(r record.Record) string {
	because := ""
	if w := why(r); w != "" {
		because = ": " + w
	}
	at := ""
	if !r.NextAt.IsZero() {
		at = ", at " + r.NextAt.UTC().Format(time.TimeOnly) + "Z"
	}
	switch {
	case r.Burying:
		return "it is being moved to the dead-letter stream" + because
	case r.State == record.Attempting:
		return fmt.Sprintf("attempt %d: Graph is called", r.Attempts)
	case r.State == record.Retrying:
		return "it will be tried again" + at + because
	case r.State == record.Verifying:
		return "the outcome of the call is not known; it will be looked up" + at + because
	case r.State == record.Accepted && r.Verified:
		return "accepted: the reset was found by a look-up"
	case r.State == record.Accepted:
		return "accepted: Graph has accepted the reset"
	case r.State == record.Dead:
		return "dead" + because
	}
	return string(r.State) + because
}
