package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"passcode-worker/internal/ops"
	"passcode-worker/internal/request"
	"passcode-worker/internal/verdict"
)

// selectOptions say which letters are meant: those that match all options given.
type selectOptions struct {
	IDs      []string `arg:"" optional:"" name:"id" help:"Ids of requests."`
	Sequence string   `group:"select" placeholder:"N,..." help:"Numbers of letters in the dead-letter stream, separated by commas."`
	Reason   string   `group:"select" placeholder:"REASON" help:"Only letters with this reason."`
	Since    string   `group:"select" placeholder:"WHEN" help:"Only letters written since WHEN: a duration like 24h (ago), or a time like 2026-01-31T15:04:05Z."`
	Device   string   `group:"select" placeholder:"GUID" help:"Those for this device."`
	Limit    string   `group:"select" default:"0" placeholder:"N" help:"At most N. 0: all."`
}

func (o selectOptions) read(r *reader) ops.Selection {
	sel := ops.Selection{IDs: o.IDs, Reason: o.Reason, Since: r.since("--since", o.Since), Device: strings.ToLower(o.Device),
		Limit: r.number("--limit", o.Limit, 0, math.MaxInt)}
	if o.Reason != "" {
		var reasons []string
		for _, known := range verdict.Reasons() {
			reasons = append(reasons, string(known))
		}
		r.oneOf("--reason", o.Reason, reasons...)
	}
	r.device("--device", o.Device)
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

// device refuses what is not the id of a device; empty means that none is given.
func (r *reader) device(name, s string) {
	if s == "" {
		return
	}
	if _, err := request.Decode(request.Source{Data: fmt.Appendf(nil, `{"managedDeviceId":%q}`, strings.ToLower(s))}); err != nil {
		r.fail(name, "%q is not a GUID", s)
	}
}

// missing holds the ids and sequences that were asked for and not found yet.
type missing struct {
	ids       map[string]string // by the form of the id in keys
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

// tell says what was not found, and fails if there is any. With a limit it says
// nothing, since the limit may have been reached before.
func (m *missing) tell(t *tool, sel ops.Selection) error {
	if sel.Limit > 0 {
		return nil
	}
	for _, id := range slices.Sorted(maps.Values(m.ids)) {
		hint := ""
		if _, err := strconv.ParseUint(id, 10, 64); err == nil {
			hint = "; to give the number of a letter, use --sequence"
		}
		t.tell("%s: no such dead letter%s", plain(id), hint)
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
	return "Prints one line per letter. LETTER is its number in the dead-letter stream; worker dead show prints the whole letter. " +
		"Without a selection it lists all letters of the tenant. The exit status is 1 if a letter that you named is missing."
}

func letterColumns() []column {
	return []column{{"LETTER", 7, true}, {"DIED", 20, false}, {"REASON", 18, false}, {"ID", 36, false},
		{"TRIES", 5, true}, {"REDRIVEN", 8, true}, {"DEVICE", 36, false}, {"DETAIL", 40, false}}
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
				t.row(columns, titles(columns)...)
			}
			t.row(columns, fmt.Sprint(l.Sequence), instant(l.Time), l.Reason, l.ID, fmt.Sprint(l.Attempts), fmt.Sprint(l.Redrives), l.Device, l.Detail)
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
	return "Shows each selected letter in full: why the request died, its headers and its body. " +
		"Control characters are written as escapes such as \\u001b. The exit status is 1 if no letter was found, or if one that you named is missing."
}

// shownLetter is a whole letter as JSON. Body is the request as it was published;
// Base64 takes its place if it is not UTF-8.
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
		r.fail("letters", "none is selected: give ids, --sequence, --reason, --since or --device")
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
