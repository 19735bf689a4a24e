package metrics

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Bounds of the page.
const (
	mostRows  = 50 // tenants
	mostLines = 40 // verdicts
)

// tone is how something looks on the page.
type tone string

const (
	toneBad  tone = "bad"  // somebody has to do something
	toneWarn tone = "warn" // it will pass by itself, or somebody chose it
	toneGood tone = "good"
	toneCalm tone = "calm" // nothing to do here
)

// view is what the template of the page is filled with.
type view struct {
	Tone          tone
	Headline, Why string
	Product       string
	Time, Clock   string // the same instant
	NATS          string
	NATSError     string
	Filter        string // of tenants, as it was asked for
	Search        bool   // there is more than one tenant to choose from
	Found, Served string // tenants that match, and all
	Hidden        string // matching ones that are not shown; empty: none
	One           *row   // the only tenant shown
	Rows          []row  // else these
	Total         row    // the sum of those that match
	Chart         chart
	Lines         []line
}

// row is one tenant.
type row struct {
	Name                   string
	Tone                   tone
	State                  string
	Notes                  []note
	Known                  bool // the queue has been read
	Queue, Waiting         string
	InFlight, Retry        string
	Oldest, Drain          string
	Calls, Limit, Lowered  string  // Limit empty: none; Lowered: what is allowed now, if less
	CallsValue, LimitValue float64 // of the meter

	rank     int
	messages int
}

// note says what keeps a tenant's queue.
type note struct{ Text, Detail, Since, Next string }

// line is one verdict.
type line struct {
	Tenant, Time, Ago, ID, Device, Outcome, Reason, Detail, Attempt, Status string
	Tone                                                                    tone

	at time.Time
}

// newView brings together the state and the boards. With a filter it shows the
// tenant of that name or else those whose names hold it.
func newView(s State, boards map[string]glance, filter string, b Build, at time.Time) view {
	v := view{
		Product: strings.TrimSpace("passcode-worker " + b.Version), Time: at.UTC().Format(time.RFC3339),
		Clock: at.UTC().Format("15:04:05") + " UTC", Filter: visible(filter), Search: len(s.Tenants) > 1, Served: thousands(len(s.Tenants)),
		NATSError: visible(s.NATS.Error),
	}
	v.Tone, v.Headline, v.Why = overall(s, at)
	v.NATS = natsLine(s.NATS, at)

	matching := match(s.Tenants, filter)
	v.Found = thousands(len(matching))
	var sum glance
	one := len(matching) == 1
	for _, t := range matching {
		g := boards[t.Tenant]
		sum.merge(g)
		v.Rows = append(v.Rows, newRow(t, g, at))
		for _, d := range g.verdicts {
			l := newLine(d, at)
			if !one {
				l.Tenant = visible(t.Tenant)
			}
			v.Lines = append(v.Lines, l)
		}
	}
	v.Total = newRow(TenantState{Bound: true, Active: true}, sum, at)
	v.Chart = newChart(sum.slots)
	slices.SortStableFunc(v.Lines, func(a, b line) int { return b.at.Compare(a.at) })
	v.Lines = v.Lines[:min(len(v.Lines), mostLines)]
	if one {
		v.One, v.Rows = &v.Rows[0], nil
		if v.Served == "1" && len(v.One.Notes) == 1 {
			v.One.Notes[0].Text = "" // the headline has it
		}
		return v
	}
	slices.SortFunc(v.Rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.messages, a.messages), strings.Compare(a.Name, b.Name))
	})
	if more := len(v.Rows) - mostRows; more > 0 {
		v.Hidden, v.Rows = thousands(more), v.Rows[:mostRows]
	}
	return v
}

func match(tenants []TenantState, filter string) []TenantState {
	if filter == "" {
		return tenants
	}
	if i := slices.IndexFunc(tenants, func(t TenantState) bool { return t.Tenant == filter }); i >= 0 {
		return tenants[i : i+1]
	}
	var out []TenantState
	for _, t := range tenants {
		if strings.Contains(strings.ToLower(t.Tenant), strings.ToLower(filter)) {
			out = append(out, t)
		}
	}
	return out
}

// merge adds another tenant's numbers. The rate is not one that adds up.
func (g *glance) merge(o glance) {
	g.queueKnown = g.queueKnown || o.queueKnown
	g.queue.Messages += o.queue.Messages
	g.queue.Oldest = max(g.queue.Oldest, o.queue.Oldest)
	if g.queue.Drain >= 0 {
		g.queue.Drain = max(g.queue.Drain, o.queue.Drain)
	}
	if o.queue.Drain < 0 {
		g.queue.Drain = o.queue.Drain
	}
	g.inFlight += o.inFlight
	g.waitingRetry += o.waitingRetry
	for i := range g.slots {
		g.slots[i].add(o.slots[i])
	}
}

// The order of the rows: what needs somebody comes first.
const (
	rankUnbound = iota
	rankHeld
	rankPausedByGraph
	rankPaused
	rankWorking
	rankStandby
)

func newRow(t TenantState, g glance, at time.Time) row {
	r := row{
		Name: visible(t.Tenant), rank: rankWorking, Tone: toneGood, State: "working", messages: g.queue.Messages,
		Known: g.queueKnown, Queue: thousands(g.queue.Messages),
		Waiting:  thousands(max(0, g.queue.Messages-g.inFlight-g.waitingRetry)),
		InFlight: thousands(g.inFlight), Retry: thousands(g.waitingRetry),
		Oldest: "none", Drain: "now", Calls: decimal(g.perSecond()), CallsValue: g.perSecond(), LimitValue: g.configured,
	}
	if g.queue.Messages > 0 {
		r.Oldest, r.Drain = spell(g.queue.Oldest), spell(g.queue.Drain)
		if g.queue.Drain < 0 {
			r.Drain = "no end in sight"
		}
	}
	if g.configured > 0 {
		r.Limit = decimal(g.configured)
	}
	if g.rate > 0 && (g.configured == 0 || g.rate < g.configured) {
		r.Lowered = decimal(g.rate)
	}
	if !t.Active {
		r.rank, r.Tone, r.State = rankStandby, toneCalm, "standing by"
	}
	if t.PausedUntil != nil && t.PausedUntil.After(at) {
		r.rank, r.Tone, r.State = rankPausedByGraph, toneWarn, "pausing"
		r.Notes = append(r.Notes, note{Text: "Graph asked for a pause", Next: "it ends " + until(*t.PausedUntil, at)})
	}
	for _, h := range t.Holds {
		r.Notes = append(r.Notes, holdNote(h, at))
		switch {
		case h.Cause != CausePaused:
			r.rank, r.Tone, r.State = rankHeld, toneBad, "held: "+string(h.Cause)
		case r.rank > rankHeld:
			r.rank, r.Tone, r.State = rankPaused, toneWarn, "paused"
		}
	}
	if !t.Bound {
		r.rank, r.Tone, r.State = rankUnbound, toneBad, "queue not found"
	}
	if t.Error != "" {
		r.Notes = append(r.Notes, note{Text: "the queue cannot be worked on", Detail: visible(t.Error)})
	}
	return r
}

func holdNote(h Hold, at time.Time) note {
	n := note{Text: inWords(h.Cause), Detail: visible(h.Detail)}
	if !h.Since.IsZero() {
		n.Since = "since " + h.Since.UTC().Format("15:04:05") + " UTC (" + spell(at.Sub(h.Since)) + ")"
	}
	if !h.NextProbe.IsZero() {
		n.Next = "next probe " + until(h.NextProbe, at)
	}
	return n
}

// inWords is a cause for somebody who has not read the manual.
func inWords(c Cause) string {
	switch c {
	case CauseCredentials:
		return "the credentials are not accepted, or no token can be had"
	case CausePermission:
		return "Graph refuses everything: a permission is missing"
	case CauseGraphUnavailable:
		return "Graph is down, or cannot be reached"
	case CausePaused:
		return "an operator paused it"
	case CauseFuse:
		return "the fuse has blown: more devices than allowed; worker resume releases it"
	}
	return string(c)
}

func newLine(d Verdict, at time.Time) line {
	l := line{
		Time: d.Time.UTC().Format(time.RFC3339), Ago: spell(at.Sub(d.Time)) + " ago",
		ID: visible(d.ID), Device: visible(d.Device), Outcome: visible(d.Outcome), Reason: visible(d.Reason), Detail: visible(d.Detail),
		Attempt: thousands(d.Attempt), Tone: toneWarn, at: d.Time,
	}
	if d.Status != 0 {
		l.Status = fmt.Sprint(d.Status)
	}
	switch d.State {
	case "accepted":
		l.Tone = toneGood
	case "dead":
		l.Tone = toneBad
	}
	return l
}

// overall is the state of the worker in one line.
func overall(s State, at time.Time) (t tone, headline, why string) {
	if !s.NATS.Connected {
		return toneBad, "NATS is away", "Nothing is taken from the queue until it is back."
	}
	if len(s.Tenants) == 0 {
		return toneBad, "No tenant is served", ""
	}
	ranks := map[int]int{}
	for _, tenant := range s.Tenants {
		ranks[newRow(tenant, glance{}, at).rank]++
	}
	held, all := ranks[rankUnbound]+ranks[rankHeld], len(s.Tenants)
	switch {
	case held == all && all > 1:
		return toneBad, "Held: every tenant", ""
	case held > 0 && all > 1:
		return toneWarn, fmt.Sprintf("Working, but %s of %s tenants held", thousands(held), thousands(all)), ""
	case ranks[rankUnbound] == all:
		return toneBad, "The queue was not found", "It is looked for until it is there."
	case ranks[rankHeld] == all:
		return toneBad, "Held because " + heldBy(s.Tenants[0].Holds), ""
	case ranks[rankPaused] == all:
		return toneWarn, "Paused by an operator", ""
	case ranks[rankPausedByGraph] == all:
		return toneWarn, "Working, but Graph asked for a pause", ""
	case ranks[rankStandby] == all:
		return toneCalm, "Standing by", "Another replica works; this one takes over when that one ends."
	}
	return toneGood, "Working", ""
}

// heldBy names the first cause that nobody chose.
func heldBy(holds []Hold) string {
	i := slices.IndexFunc(holds, func(h Hold) bool { return h.Cause != CausePaused })
	return inWords(holds[max(i, 0)].Cause)
}

func natsLine(n NATSState, at time.Time) string {
	text := "away"
	if n.Connected {
		text = "connected to " + visible(n.Server)
	}
	if !n.Since.IsZero() {
		text += " for " + spell(at.Sub(n.Since))
	}
	return text
}

func until(t, at time.Time) string {
	if d := t.Sub(at); d >= time.Second {
		return "in " + spell(d)
	}
	return "now"
}

func decimal(f float64) string { return fmt.Sprintf("%.1f", f) }

// visible makes a text of others one line that reads as it is written: what is
// invisible, or turns the direction of writing, becomes a mark.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
