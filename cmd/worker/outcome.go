package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"passcode-worker/internal/ops"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

type outcomeCmd struct {
	List   outcomeListCmd   `cmd:"" help:"List what devices did, in the order in which Graph accepted the requests."`
	Show   outcomeShowCmd   `cmd:"" help:"Show all that is known about the devices of some requests."`
	Follow outcomeFollowCmd `cmd:"" help:"Order another look at the devices of accepted requests whose outcome is not known."`
}

// deviceWords says what a device did. If the document is empty, nothing is known yet.
func deviceWords(r record.Record, d outcome.Document) string {
	if d.Outcome == "" {
		return fmt.Sprintf("pending since %s; the worker first looks at the device %s after that", instant(r.FinishedAt), outcome.AgeOfFirstLook)
	}
	return outcomeWords(d) + ": " + d.Text
}

// outcomeWords says what the outcome is, since when, and when the device last checked in.
func outcomeWords(d outcome.Document) string {
	s := fmt.Sprintf("%s since %s", d.Outcome, instant(d.AcceptedAt))
	if d.Outcome.Final() {
		s = fmt.Sprintf("%s since %s, %s after it was accepted", d.Outcome, instant(d.DecidedAt), span(seconds(d.DurationSeconds)))
	}
	if !d.LastSyncAt.IsZero() {
		s += ", last check-in " + instant(d.LastSyncAt)
	}
	return s
}

// device prints what a device did about an accepted request, or why that is not known.
func (t *tool) device(r record.Record, d outcome.Document, unread error) {
	switch {
	case errors.Is(unread, ops.ErrNoOutcomes):
		t.line("outcome   not followed: %s", plain(unread.Error()))
	case unread != nil:
		t.line("outcome   not known")
	case d.Outcome == "" && !r.Followed:
		t.line("outcome   not followed, so its result on the device is not known; worker outcome follow %s orders a look at the device", plain(r.ID))
	case d.Outcome == "":
		t.line("outcome   %s", plain(deviceWords(r, d)))
	default:
		t.line("outcome   %s", plain(outcomeWords(d)))
		t.line("next step %s: %s", plain(string(d.NextStep)), plain(d.Text))
	}
}

// outcomeSelectOptions say which outcomes are meant: those that match all options given.
type outcomeSelectOptions struct {
	IDs     []string `arg:"" optional:"" name:"id" help:"Ids of requests."`
	Outcome string   `group:"select" placeholder:"OUTCOME" help:"Only requests with this outcome."`
	Since   string   `group:"select" placeholder:"WHEN" help:"Only requests accepted since WHEN: a duration like 24h (ago), or a time like 2026-01-31T15:04:05Z."`
	Device  string   `group:"select" placeholder:"GUID" help:"Those for this device."`
	Open    bool     `group:"select" help:"Only requests whose outcome is not final."`
	Limit   string   `group:"select" default:"0" placeholder:"N" help:"At most N. 0: all."`
}

func (o outcomeSelectOptions) read(r *reader) ops.OutcomeSelection {
	sel := ops.OutcomeSelection{IDs: o.IDs, Outcome: o.Outcome, Since: r.since("--since", o.Since), Device: strings.ToLower(o.Device), Open: o.Open,
		Limit: r.number("--limit", o.Limit, 0, math.MaxInt)}
	if o.Outcome != "" {
		var all []string
		for _, known := range outcome.All() {
			all = append(all, string(known))
		}
		r.oneOf("--outcome", o.Outcome, all...)
	}
	r.device("--device", o.Device)
	return sel
}

type outcomeListCmd struct {
	outcomeSelectOptions `embed:""`

	toolOptions `embed:""`
}

// Help is shown by worker outcome list --help.
func (outcomeListCmd) Help() string {
	return "Prints one line per request that is or was followed after Graph accepted it. worker outcome show prints the whole outcome. " +
		"Without a selection it lists all outcomes of the tenant. The exit status is 1 if a request that you named has none."
}

func outcomeColumns() []column {
	return []column{{"ACCEPTED", 20, false}, {"OUTCOME", 13, false}, {"ID", 36, false}, {"NEXT STEP", 13, false}, {"DECIDED", 20, false},
		{"CHECKED IN", 20, false}, {"PLATFORM", 8, false}, {"DEVICE", 36, false}, {"ERROR", 10, false}}
}

// Run lists outcomes.
func (c outcomeListCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	sel := c.outcomeSelectOptions.read(r)
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		documents, err := t.Outcomes(ctx, sel)
		if err != nil {
			return err
		}
		columns := outcomeColumns()
		for i, d := range documents {
			if t.json {
				t.object(d)
				continue
			}
			if i == 0 {
				t.row(columns, titles(columns)...)
			}
			t.row(columns, instant(d.AcceptedAt), string(d.Outcome), d.ID, string(d.NextStep), moment(&d.DecidedAt), moment(&d.LastSyncAt),
				string(d.Platform), d.ManagedDeviceID, d.ErrorCodeHex)
		}
		if len(documents) == 0 && !t.json {
			t.tell("no outcome")
		}
		return t.without(sel, documents)
	})
}

// without names the ids that were asked for and not found, and fails if there is any. With
// a limit it says nothing, since the limit may have been reached before.
func (t *tool) without(sel ops.OutcomeSelection, found []outcome.Document) error {
	if sel.Limit > 0 {
		return nil
	}
	var err error
	for _, id := range slices.Compact(slices.Sorted(slices.Values(sel.IDs))) {
		if !slices.ContainsFunc(found, func(d outcome.Document) bool { return d.ID == id }) {
			t.tell("%s: no such outcome", plain(id))
			err = errFailed
		}
	}
	return err
}

type outcomeShowCmd struct {
	IDs []string `arg:"" name:"id" help:"Ids of requests."`

	toolOptions `embed:""`
}

// Help is shown by worker outcome show --help.
func (outcomeShowCmd) Help() string {
	return "Shows what the devices of the requests did, as far as Intune reports it, and what the help desk should do next. " +
		"The exit status is 1 if a request has no outcome: it is not accepted, not followed, or the worker has not looked at its device yet. worker status ID shows which."
}

// Run shows outcomes.
func (c outcomeShowCmd) Run(ctx context.Context, s streams, line *kong.Context) error {
	r := &reader{}
	r.ids(line, c.IDs)
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		var failure error
		shown := 0
		for _, id := range c.IDs {
			d, err := t.Outcome(ctx, id)
			if err != nil {
				return err
			}
			if d.Outcome == "" {
				t.tell("%s has no outcome; worker status %s shows the request", plain(id), plain(id))
				failure = errFailed
				continue
			}
			if shown++; shown > 1 && !t.json {
				t.line("")
			}
			t.outcome(d)
		}
		return failure
	})
}

// ids refuses an empty id: a script gives one if its variable is empty.
func (r *reader) ids(line *kong.Context, ids []string) {
	if givenEmpty(line, "") || slices.Contains(ids, "") {
		r.fail("id", "it is empty")
	}
}

func (p *printer) outcome(d outcome.Document) {
	if p.json {
		p.object(d)
		return
	}
	row := func(name, value string) {
		if value != "" {
			p.line("%-11s%s", name, plain(value))
		}
	}
	row("request", d.ID)
	row("device", strings.Join(slices.DeleteFunc([]string{d.ManagedDeviceID, string(d.Platform), d.OwnerType}, func(s string) bool { return s == "" }), ", "))
	row("outcome", string(d.Outcome))
	row("next step", string(d.NextStep))
	row("text", d.Text)
	row("accepted", instant(d.AcceptedAt))
	row("started", moment(&d.StartedAt))
	if d.Outcome.Final() {
		row("decided", fmt.Sprintf("%s, %s after it was accepted", instant(d.DecidedAt), span(seconds(d.DurationSeconds))))
	}
	row("check-in", moment(&d.LastSyncAt))
	if d.ErrorCode != 0 {
		row("error", fmt.Sprintf("%s (%d)", d.ErrorCodeHex, d.ErrorCode))
	}
	row("reason", string(d.Reason))
	row("wanted by", d.RequestedBy)
	row("call", "client-request-id "+d.ClientRequestID)
}

type outcomeFollowCmd struct {
	IDs    []string `arg:"" optional:"" name:"id" help:"Ids of requests."`
	Since  string   `group:"select" placeholder:"WHEN" help:"Only requests accepted since WHEN: a duration like 24h (ago), or a time like 2026-01-31T15:04:05Z."`
	Limit  string   `group:"select" default:"0" placeholder:"N" help:"At most N. 0: all."`
	For    string   `default:"24h" placeholder:"TIME" help:"How long to follow each request from now on, at most 2160h (outcomes are kept for that long). Each request is followed for at least a week after its acceptance."`
	DryRun bool     `help:"Show what would be done, and do nothing."`
	Rate   string   `default:"0" placeholder:"N/TIME" help:"At most N requests in any period of TIME, like 10/1m. 0: as fast as possible. The looks keep to Graph's quota in any case."`

	toolOptions `embed:""`
}

// Help is shown by worker outcome follow --help.
func (outcomeFollowCmd) Help() string {
	return "Orders a look at the device of each selected request that is accepted and whose result on the device is not known: " +
		"it was not followed, or is pending, timed_out or undetermined. The workers look at once and then follow the request as usual; WORKER_FOLLOW must not be off there. " +
		"Use it after a gap, after an upgrade, or after turning following on. Running it again does no harm. " +
		"The exit status is 1 if a request that you named is not accepted, or if an order could not be stored."
}

// Run orders looks.
func (c outcomeFollowCmd) Run(ctx context.Context, s streams, line *kong.Context) error {
	r := &reader{}
	o := ops.Order{IDs: c.IDs, Since: r.since("--since", c.Since), Limit: r.number("--limit", c.Limit, 0, math.MaxInt),
		For: r.duration("--for", c.For, outcome.AgeOfFirstLook), Dry: c.DryRun}
	if o.For > ops.LongestOrder {
		r.fail("--for", "%q is too long: outcomes are kept for %s", c.For, brief(ops.LongestOrder))
	}
	r.ids(line, c.IDs)
	if len(c.IDs) == 0 && c.Since == "" {
		r.fail("requests", "none is selected: give ids, or --since")
	}
	rate, err := pace.ParseRate(c.Rate)
	if err != nil {
		r.fail("--rate", "%v", err)
	}
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error { return t.order(ctx, o, rate) })
}

func (t *tool) order(ctx context.Context, o ops.Order, rate pace.Rate) error {
	pacer := pace.New(rate, 0)
	leave := func(ctx context.Context) error {
		slot, err := reserve(ctx, pacer)
		if err == nil {
			slot.Done()
		}
		return err
	}
	done := map[ops.Action]int{}
	p := t.progress()
	err := t.FollowOutcomes(ctx, o, leave, func(r ops.OrderResult) {
		done[r.Action]++
		// Most accepted requests have ended. Unless they are named, they are only counted.
		if len(o.IDs) > 0 || r.Action != ops.Decided {
			t.ordered(r)
		}
		p.tell("so far: %s", orders(done))
	})
	if err != nil {
		if len(done) > 0 {
			t.tell("before that: %s", orders(done))
		}
		return err
	}
	t.tell("%s", orders(done))
	if done[ops.Refused] > 0 {
		return errFailed
	}
	return nil
}

func (p *printer) ordered(r ops.OrderResult) {
	if p.json {
		p.object(r)
		return
	}
	text := fmt.Sprintf("%-12s  %s", r.Action, plain(r.ID))
	switch {
	case r.Detail != "":
		text += ": " + plain(r.Detail)
	case r.Action == ops.Decided:
		text += ": " + plain(string(r.Outcome))
	case r.Outcome == "":
		text += ", until " + instant(r.Until)
	default:
		text += fmt.Sprintf(", until %s; so far it is %s", instant(r.Until), plain(string(r.Outcome)))
	}
	p.line("%s", text)
}

func orders(done map[ops.Action]int) string {
	var parts []string
	for _, a := range slices.Sorted(maps.Keys(done)) {
		parts = append(parts, fmt.Sprintf("%s %s", count(done[a]), a))
	}
	if len(parts) == 0 {
		return "no accepted request"
	}
	return strings.Join(parts, ", ")
}
