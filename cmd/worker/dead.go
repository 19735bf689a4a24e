package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"passcode-worker/internal/metrics"
	"passcode-worker/internal/ops"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/request"
)

type deadCmd struct {
	List    deadListCmd    `cmd:"" help:"List dead letters, the oldest first."`
	Show    deadShowCmd    `cmd:"" help:"Show dead letters with their headers and bodies."`
	Redrive deadRedriveCmd `cmd:"" help:"Put requests back into the queue, and remove their letters."`
	Remove  deadRemoveCmd  `cmd:"" help:"Remove dead letters for good."`
}

// selectOptions say which letters are meant. What is given must all be true of
// a letter.
type selectOptions struct {
	IDs      []string `arg:"" optional:"" name:"id" help:"Ids of requests."`
	Sequence string   `group:"select" placeholder:"N,..." help:"Numbers of letters on the dead-letter stream, separated by commas."`
	Reason   string   `group:"select" placeholder:"REASON" help:"Those that died for this reason."`
	Since    string   `group:"select" placeholder:"WHEN" help:"Those that died since: a time ago like 24h, or an instant like 2026-01-31T15:04:05Z."`
	Device   string   `group:"select" placeholder:"GUID" help:"Those for this device."`
	Limit    string   `group:"select" default:"0" placeholder:"N" help:"At most so many. 0: all."`
}

func (o selectOptions) read(r *reader) ops.Selection {
	sel := ops.Selection{IDs: o.IDs, Reason: o.Reason, Since: r.since("--since", o.Since), Device: strings.ToLower(o.Device),
		Limit: r.number("--limit", o.Limit, 0, math.MaxInt)}
	if o.Reason != "" {
		var reasons []string
		for _, known := range metrics.Reasons() {
			reasons = append(reasons, string(known))
		}
		r.oneOf("--reason", o.Reason, reasons...)
	}
	if o.Device != "" {
		if _, err := request.Decode(request.Source{Data: fmt.Appendf(nil, `{"managedDeviceId":%q}`, sel.Device)}); err != nil {
			r.fail("--device", "%q is not a GUID", o.Device)
		}
	}
	for s := range strings.SplitSeq(o.Sequence, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n == 0 {
			r.fail("--sequence", "%q is not the number of a letter", s)
		}
		sel.Sequences = append(sel.Sequences, n)
	}
	return sel
}

// missing names what was asked for by name and not found.
type missing struct {
	ids       map[string]string // by their form in keys
	sequences map[uint64]bool
}

func missingFrom(sel ops.Selection) *missing {
	m := &missing{ids: map[string]string{}, sequences: map[uint64]bool{}}
	for _, id := range sel.IDs {
		m.ids[request.EscapeID(id)] = id
	}
	for _, n := range sel.Sequences {
		m.sequences[n] = true
	}
	return m
}

func (m *missing) seen(l ops.DeadLetter) {
	delete(m.ids, l.RequestID)
	delete(m.sequences, l.Sequence)
}

// tell says what was not found, and fails if there is any. A limit may have been
// reached before.
func (m *missing) tell(t *tool, sel ops.Selection) error {
	if sel.Limit > 0 {
		return nil
	}
	for _, id := range slices.Sorted(maps.Values(m.ids)) {
		t.tell("%s: no such dead letter", plain(id))
	}
	for _, n := range slices.Sorted(maps.Keys(m.sequences)) {
		t.tell("letter %d: no such dead letter", n)
	}
	if len(m.ids)+len(m.sequences) > 0 {
		return errFailed
	}
	return nil
}

type deadListCmd struct {
	selectOptions `embed:""`

	toolOptions `embed:""`
}

// Help is shown by worker dead list --help.
func (deadListCmd) Help() string {
	return "One line per letter. LETTER is its number on the dead-letter stream; worker dead show tells all of it. " +
		"Without any selection: all of the tenant's."
}

func letterColumns() []column {
	return []column{{"LETTER", 7, true}, {"DIED", 20, false}, {"REASON", 18, false}, {"TRIES", 5, true}, {"REDRIVEN", 8, true},
		{"ID", 36, false}, {"DEVICE", 36, false}, {"DETAIL", 40, false}}
}

// Run lists dead letters.
func (c deadListCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	sel := c.selectOptions.read(r)
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		missing, columns, n := missingFrom(sel), letterColumns(), 0
		err := t.Letters(ctx, sel, func(l ops.DeadLetter) error {
			missing.seen(l)
			if t.json {
				t.object(l)
				return t.failed
			}
			if n++; n == 1 {
				t.line("%s", titles(columns))
			}
			t.line("%s", cells(columns, fmt.Sprint(l.Sequence), instant(l.Time), l.Reason, fmt.Sprint(l.Attempts), fmt.Sprint(l.Redrives),
				l.ID, l.Device, l.Detail))
			return t.failed
		})
		if err != nil {
			return err
		}
		if n == 0 && !t.json {
			t.tell("no dead letter")
		}
		return missing.tell(t, sel)
	})
}

type deadShowCmd struct {
	selectOptions `embed:""`

	toolOptions `embed:""`
}

// Help is shown by worker dead show --help.
func (deadShowCmd) Help() string {
	return "Shows all of the selected letters: why the request died, its headers, its body. " +
		"What a terminal could take for an order is written as \\u001b. Exit status 1 where there is none."
}

// shownLetter is a letter as JSON with all of it. Body is the request as it came;
// Base64 where it is no UTF-8.
type shownLetter struct {
	ops.DeadLetter
	Headers map[string][]string `json:"headers"`
	Body    *string             `json:"body,omitempty"`
	Base64  []byte              `json:"bodyBase64,omitempty"`
}

// Run shows dead letters.
func (c deadShowCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	sel := c.selectOptions.read(r)
	if sel.All() {
		r.fail("letters", "which ones? Give ids, or --sequence, --reason, --since or --device")
	}
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		missing, n := missingFrom(sel), 0
		err := t.Letters(ctx, sel, func(l ops.DeadLetter) error {
			missing.seen(l)
			if n++; n > 1 && !t.json {
				t.line("")
			}
			t.letter(l)
			return t.failed
		})
		if err != nil {
			return err
		}
		if err := missing.tell(t, sel); err != nil {
			return err
		}
		if n == 0 {
			t.tell("no dead letter")
			return errFailed
		}
		return nil
	})
}

func (p *printer) letter(l ops.DeadLetter) {
	l.Header = without(l.Header, "Nats-")
	if p.json {
		shown := shownLetter{DeadLetter: l, Headers: l.Header}
		if body := string(l.Data); utf8.ValidString(body) {
			shown.Body = &body
		} else {
			shown.Base64 = l.Data
		}
		p.object(shown)
		return
	}
	row := func(name, value string) {
		if value != "" {
			p.line("%-12s%s", name, plain(value))
		}
	}
	row("letter", fmt.Sprintf("%d, of %s", l.Sequence, instant(l.Time)))
	row("request", l.ID)
	row("device", l.Device)
	row("reason", l.Reason)
	row("detail", l.Detail)
	row("attempts", fmt.Sprint(l.Attempts))
	if l.Status != 0 {
		row("status", fmt.Sprint(l.Status))
	}
	row("redrives", fmt.Sprint(l.Redrives))
	row("wanted by", l.RequestedBy)
	row("because", l.RequestReason)
	row("was", fmt.Sprintf("message %d of stream %s", l.StreamSequence, l.Stream))
	if l.ClientRequestID != "" || l.GraphRequestID != "" {
		row("call", fmt.Sprintf("client-request-id %s, request-id %s", l.ClientRequestID, l.GraphRequestID))
	}
	for _, name := range slices.Sorted(maps.Keys(without(l.Header, "Dead-Letter-"))) {
		row("header", name+": "+strings.Join(l.Header[name], ", "))
	}
	row("body", string(l.Data))
}

func without(h map[string][]string, prefix string) map[string][]string {
	out := maps.Clone(h)
	maps.DeleteFunc(out, func(name string, _ []string) bool {
		return strings.HasPrefix(strings.ToLower(name), strings.ToLower(prefix))
	})
	return out
}

type deadRedriveCmd struct {
	selectOptions `embed:""`

	All    bool   `group:"select" help:"All of the tenant's letters, or all that the other options leave."`
	DryRun bool   `help:"Only tell what would be done."`
	Force  bool   `help:"Also those that were redriven three times, and those whose device may have been reset (outcome_unknown)."`
	Rate   string `default:"0" placeholder:"N/TIME" help:"At most N letters in any such time, like 10/1m. 0: as fast as it goes; the workers keep to their own rate."`

	toolOptions `embed:""`
}

// Help is shown by worker dead redrive --help.
func (deadRedriveCmd) Help() string {
	return "Publishes each request again under its id, waits until it is stored, and removes the letter then. " +
		"It is worked on like any other. What was interrupted is redriven again: nothing is lost or done twice by it, " +
		"and two operators may do it at a time. Each letter counts its redrives; the fourth is refused, and so is outcome_unknown. " +
		"Exit status 1 where a part was refused."
}

// Run redrives dead letters.
func (c deadRedriveCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	sel := c.selectOptions.read(r)
	rate, err := pace.ParseRate(c.Rate)
	if err != nil {
		r.fail("--rate", "%v", err)
	}
	needSelection(r, sel, c.All)
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		pacer := pace.New(rate, 0)
		return t.each(ctx, sel, func(ctx context.Context, l ops.DeadLetter) (ops.Result, error) {
			if c.DryRun {
				return t.Redrive(ctx, l, c.Force, true)
			}
			slot, err := reserve(ctx, pacer)
			if err != nil {
				return ops.Result{}, err
			}
			out, err := t.Redrive(ctx, l, c.Force, false)
			if out.Action == ops.Redriven || err != nil {
				slot.Done()
			} else {
				slot.Release()
			}
			return out, err
		})
	})
}

// reserve waits for a slot, however long that takes.
func reserve(ctx context.Context, p *pace.Pacer) (*pace.Slot, error) {
	for {
		slot, err := p.Reserve(ctx)
		wait := (*pace.Wait)(nil)
		if !errors.As(err, &wait) {
			return slot, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Until(wait.Until)):
		}
	}
}

type deadRemoveCmd struct {
	selectOptions `embed:""`

	All    bool `group:"select" help:"All of the tenant's letters, or all that the other options leave."`
	DryRun bool `help:"Only tell what would be done."`

	toolOptions `embed:""`
}

// Help is shown by worker dead remove --help.
func (deadRemoveCmd) Help() string {
	return "Removes the selected letters from the dead-letter stream, with the requests in them. The records stay. There is no way back."
}

// Run removes dead letters.
func (c deadRemoveCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	sel := c.selectOptions.read(r)
	needSelection(r, sel, c.All)
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		return t.each(ctx, sel, func(ctx context.Context, l ops.DeadLetter) (ops.Result, error) {
			out := ops.Result{Action: ops.WouldRemove, Sequence: l.Sequence, ID: l.ID, Reason: l.Reason}
			if c.DryRun {
				return out, nil
			}
			there, err := t.Remove(ctx, l)
			if out.Action = ops.Removed; !there {
				out.Action = ops.Gone
			}
			return out, err
		})
	})
}

// needSelection keeps a forgotten option from meaning everything.
func needSelection(r *reader, sel ops.Selection, all bool) {
	if sel.All() && !all {
		r.fail("letters", "which ones? Give ids, --sequence, --reason, --since, --device, or --all")
	}
}

// each does the same to each selected letter, and fails where a part was refused.
func (t *tool) each(ctx context.Context, sel ops.Selection, do func(context.Context, ops.DeadLetter) (ops.Result, error)) error {
	missing := missingFrom(sel)
	done := map[ops.Action]int{}
	p := t.progress()
	err := t.Letters(ctx, sel, func(l ops.DeadLetter) error {
		missing.seen(l)
		out, err := do(ctx, l)
		if err != nil {
			return fmt.Errorf("letter %d: %w", l.Sequence, err)
		}
		done[out.Action]++
		t.result(out)
		p.tell("so far: %s", summary(done))
		return t.failed
	})
	if err != nil {
		if len(done) > 0 {
			t.tell("before that: %s", summary(done))
		}
		return err
	}
	t.tell("%s", summary(done))
	if err := missing.tell(t, sel); err != nil {
		return err
	}
	if done[ops.Refused] > 0 {
		return errFailed
	}
	return nil
}

func (p *printer) result(r ops.Result) {
	if p.json {
		p.object(r)
		return
	}
	text := fmt.Sprintf("%-13s letter %d, %s, %s", r.Action, r.Sequence, plain(r.Reason), plain(r.ID))
	if r.Action == ops.Redriven {
		text += fmt.Sprintf(", is message %d now", r.NewSequence)
	}
	if r.Detail != "" {
		text += ": " + plain(r.Detail)
	}
	p.line("%s", text)
}

func summary(done map[ops.Action]int) string {
	var parts []string
	for _, a := range slices.Sorted(maps.Keys(done)) {
		parts = append(parts, fmt.Sprintf("%s %s", count(done[a]), a))
	}
	if len(parts) == 0 {
		return "no dead letter"
	}
	return strings.Join(parts, ", ")
}
