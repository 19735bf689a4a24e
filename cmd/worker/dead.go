package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"passcode-worker/internal/ops"
	"passcode-worker/internal/pace"
)

type deadCmd struct {
	List    deadListCmd    `cmd:"" help:"List dead letters, the oldest first."`
	Show    deadShowCmd    `cmd:"" help:"Show dead letters with their headers and bodies."`
	Redrive deadRedriveCmd `cmd:"" help:"Put requests back into the queue and remove their letters."`
	Remove  deadRemoveCmd  `cmd:"" help:"Remove dead letters for good."`
}

type deadRedriveCmd struct {
	selectOptions `embed:""`

	All    bool   `group:"select" help:"All letters of the tenant, or all that match the other options."`
	DryRun bool   `help:"Show what would be done, and do nothing."`
	Force  bool   `help:"Include requests that were redriven three times already, and those whose device may have been reset (outcome_unknown)."`
	Rate   string `default:"0" placeholder:"N/TIME" help:"At most N letters in any period of TIME, like 10/1m. 0: as fast as possible. The workers keep to their own rate in any case."`

	toolOptions `embed:""`
}

// Help is shown by worker dead redrive --help.
func (deadRedriveCmd) Help() string {
	return "Publishes each request again under its id, waits until it is stored, and then removes the letter. " +
		"The workers treat the request like any other. If the command is interrupted, run it again: this loses nothing and resets nothing twice. " +
		"Two operators may run it at the same time. Each letter counts its redrives. The fourth redrive is refused, and so is any of outcome_unknown. " +
		"The exit status is 1 if any letter was refused, or if one that you named is missing."
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

// reserve waits for a slot, without the time limit of [pace.Patience].
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

	All    bool `group:"select" help:"All letters of the tenant, or all that match the other options."`
	DryRun bool `help:"Show what would be done, and do nothing."`

	toolOptions `embed:""`
}

// Help is shown by worker dead remove --help.
func (deadRemoveCmd) Help() string {
	return "Removes the selected letters and the requests in them from the dead-letter stream. The records stay. This cannot be undone. " +
		"The exit status is 1 if a letter that you named is missing."
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
		r.fail("letters", "none is selected: give ids, --sequence, --reason, --since, --device or --all")
	}
}

// each calls do for each selected letter, and fails if any letter was refused.
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
