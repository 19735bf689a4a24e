package metrics

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"passcode-worker/internal/hold"
)

// Bounds of the page.
const (
	mostRows  = 50 // tenants
	mostLines = 40 // verdicts
	mostDead  = 20 // dead letters
)

// tone is how something looks on the page.
type tone string

const (
	toneBad  tone = "bad"  // somebody has to act
	toneWarn tone = "warn" // it passes by itself, or somebody chose it
	toneGood tone = "good"
	toneCalm tone = "calm" // there is nothing to do here
)

// view is what the template of the page is filled with.
type view struct {
	Tone          tone
	Headline, Why string
	Product       string
	Time, Clock   string // the same instant
	NATS          string
	NATSError     string
	Filter        string // the tenant name that was searched for
	Search        bool   // there is more than one tenant to choose from
	Found, Served string // tenants that match, and all
	Hidden        string // matching ones that are not shown; empty: none
	One           *row   // the only tenant shown
	Rows          []row  // if there are more
	Total         row    // the sum of those that match
	Chart         chart
	Followed      string // how many requests are followed; empty: not known yet
	Ends          string // outcomes in the time of the chart; empty: none
	Verdicts      []line
	Dead          []line
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
}

// note says what holds up a tenant's queue.
type note struct{ Text, Detail, Since, Next string }

// line is one verdict.
type line struct {
	Tenant, Time, Ago, ID, Device, Outcome, Reason, Detail, Attempt, Status string
	Tone                                                                    tone
}

// newView brings together the state and the boards. With a filter it shows the
// tenant of that name or, if there is none, those whose names contain it.
func newView(s State, m *Metrics, filter string, at time.Time) view {
	boards, b := m.glances(at), m.build
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
	var verdicts, dead []said
	for _, t := range matching {
		g := boards[t.Tenant]
		sum.merge(g)
		verdicts, dead = appendSaid(verdicts, t.Tenant, g.verdicts), appendSaid(dead, t.Tenant, g.dead)
	}
	v.Total = newRow(TenantState{Bound: true, Active: true}, sum, at)
	v.Chart = newChart(sum.slots)
	v.Ends = ends(sum.slots)
	v.Followed = followedLine(m.followed.get, at)
	v.Verdicts, v.Dead = newest(verdicts, mostLines, at), newest(dead, mostDead, at)
	if len(matching) == 1 {
		r := newRow(matching[0], boards[matching[0].Tenant], at)
		if len(s.Tenants) == 1 && len(r.Notes) == 1 {
			r.Notes[0].Text = "" // the headline has it
		}
		v.One = &r
		return v
	}
	if more := len(matching) - mostRows; more > 0 {
		v.Hidden = thousands(more)
	}
	for _, t := range worstFirst(matching, boards, at) {
		v.Rows = append(v.Rows, newRow(t, boards[t.Tenant], at))
	}
	return v
}

// worstFirst picks the tenants that are shown: those that need attention first,
// then those with the longest queues.
func worstFirst(tenants []TenantState, boards map[string]glance, at time.Time) []TenantState {
	sorted := slices.Clone(tenants)
	slices.SortFunc(sorted, func(a, b TenantState) int {
		return cmp.Or(cmp.Compare(rankOf(a, at), rankOf(b, at)),
			cmp.Compare(boards[b.Tenant].queue.Messages, boards[a.Tenant].queue.Messages), strings.Compare(a.Tenant, b.Tenant))
	})
	return sorted[:min(len(sorted), mostRows)]
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

// merge adds another tenant's numbers, except the rate: a sum of rates means nothing.
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

// The order of the rows: tenants that need attention come first.
const (
	rankUnbound = iota
	rankHeld
	rankPausedByGraph
	rankPaused
	rankWorking
	rankReady
	rankStandby
)

func rankOf(t TenantState, at time.Time) int {
	paused := slices.ContainsFunc(t.Holds, func(h Hold) bool { return h.Cause == hold.Paused })
	switch {
	case !t.Bound:
		return rankUnbound
	case !usable(t):
		return rankHeld
	case paused:
		return rankPaused
	case !t.Active && t.ActiveElsewhere:
		return rankStandby
	case t.PausedUntil != nil && t.PausedUntil.After(at):
		return rankPausedByGraph
	case !t.Active:
		return rankReady
	}
	return rankWorking
}

func newRow(t TenantState, g glance, at time.Time) row {
	r := row{
		Name: visible(t.Tenant), Known: g.queueKnown, Queue: thousands(g.queue.Messages),
		Waiting:  thousands(max(0, g.queue.Messages-g.inFlight-g.waitingRetry)),
		InFlight: thousands(g.inFlight), Retry: thousands(g.waitingRetry),
		Oldest: "none", Drain: "now", Calls: decimal(g.perSecond()), CallsValue: g.perSecond(), LimitValue: g.configured,
	}
	r.Tone, r.State = stateOf(t, at)
	if g.queue.Messages > 0 {
		r.Oldest, r.Drain = spell(g.queue.Oldest), spell(g.queue.Drain)
		if g.queue.Drain < 0 {
			r.Drain = "no estimate"
		}
	}
	if g.configured > 0 {
		r.Limit = decimal(g.configured)
	}
	if g.rate > 0 && (g.configured == 0 || g.rate < g.configured) {
		r.Lowered = decimal(g.rate)
	}
	if t.PausedUntil != nil && t.PausedUntil.After(at) {
		r.Notes = append(r.Notes, note{Text: "Graph asked for a pause", Next: "it ends " + until(*t.PausedUntil, at)})
	}
	for _, h := range t.Holds {
		r.Notes = append(r.Notes, holdNote(h, at))
	}
	if t.Error != "" {
		r.Notes = append(r.Notes, note{Text: "the queue cannot be worked on", Detail: visible(t.Error)})
	}
	return r
}

func stateOf(t TenantState, at time.Time) (tone, string) {
	switch rankOf(t, at) {
	case rankUnbound:
		return toneBad, "queue not found"
	case rankHeld:
		var causes []string
		for _, h := range t.Holds {
			causes = append(causes, visible(string(h.Cause)))
		}
		return toneBad, "held: " + strings.Join(causes, ", ")
	case rankPausedByGraph:
		return toneWarn, "pausing"
	case rankPaused:
		return toneWarn, "paused"
	case rankStandby:
		return toneCalm, "standing by"
	case rankReady:
		return toneCalm, "ready"
	}
	return toneGood, "working"
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
func inWords(c hold.Cause) string {
	switch c {
	case hold.Credentials:
		return "the credentials are not accepted, or no token is available"
	case hold.Permission:
		return "Graph refuses everything: a permission is missing"
	case hold.Refused:
		return "Graph refuses everything: no Intune licence, or a wrong address"
	case hold.GraphUnavailable:
		return "Graph is down or cannot be reached"
	case hold.Paused:
		return "an operator paused it"
	case hold.Fuse:
		return "the fuse has blown: too many devices"
	}
	return visible(string(c)) // not one of the known causes
}

// said is a verdict and its tenant.
type said struct {
	tenant string
	Verdict
}

func appendSaid(all []said, tenant string, verdicts []Verdict) []said {
	for _, d := range verdicts {
		all = append(all, said{tenant, d})
	}
	return all
}

func newest(all []said, most int, at time.Time) []line {
	slices.SortStableFunc(all, func(a, b said) int { return b.Time.Compare(a.Time) })
	var lines []line
	for _, d := range all[:min(len(all), most)] {
		lines = append(lines, newLine(d, at))
	}
	return lines
}

func newLine(d said, at time.Time) line {
	l := line{
		Tenant: visible(d.tenant),
		Time:   d.Time.UTC().Format(time.RFC3339), Ago: spell(at.Sub(d.Time)) + " ago",
		ID: visible(d.ID), Device: visible(d.Device), Outcome: visible(d.Outcome), Detail: visible(d.Detail),
		Attempt: thousands(d.Attempt), Tone: toneWarn,
	}
	if d.Status != 0 {
		l.Status = fmt.Sprint(d.Status)
	}
	switch d.State {
	case stateAccepted:
		l.Tone = toneGood
	case stateDead:
		l.Tone, l.Reason = toneBad, visible(d.Reason)
	}
	return l
}

// overall is the state of the worker in one line.
func overall(s State, at time.Time) (t tone, headline, why string) {
	if !s.NATS.Connected {
		return toneBad, "NATS is away", "The worker takes no requests from the queue until the connection is back."
	}
	if len(s.Tenants) == 0 {
		return toneBad, "No tenant is served", ""
	}
	ranks := map[int]int{}
	for _, tenant := range s.Tenants {
		ranks[rankOf(tenant, at)]++
	}
	held, all := ranks[rankUnbound]+ranks[rankHeld], len(s.Tenants)
	working := ranks[rankWorking] + ranks[rankPausedByGraph]
	some := fmt.Sprintf("%s of %s tenants held", thousands(held), thousands(all))
	switch {
	case held == all && all > 1:
		return toneBad, "Held: every tenant", ""
	case held > 0 && all > 1 && working > 0:
		return toneWarn, "Working, but " + some, ""
	case held > 0 && all > 1:
		return toneWarn, some, "The others are paused or standing by."
	case ranks[rankUnbound] == all:
		return toneBad, "The queue was not found", "The worker keeps looking for it."
	case ranks[rankHeld] == all:
		return toneBad, "Held because " + heldBy(s.Tenants[0].Holds), ""
	case ranks[rankPaused] == all:
		return toneWarn, "Paused by an operator", ""
	case ranks[rankPausedByGraph] == all:
		return toneWarn, "Working, but Graph asked for a pause", ""
	case working > 0:
		return toneGood, "Working", ""
	case ranks[rankReady] == all:
		return toneCalm, "Ready", "No replica has the queue at the moment; the server chooses one when a request arrives."
	case ranks[rankStandby] == all:
		return toneCalm, "Standing by", "Another replica has the queue; this one takes over when that one stops."
	}
	return toneCalm, "Standing by", standing(ranks)
}

// standing says how many tenants wait for what, if this replica works on none.
func standing(ranks map[int]int) string {
	var parts []string
	for _, of := range []struct {
		rank int
		text string
	}{{rankStandby, "with another replica"}, {rankReady, "without a request so far"}, {rankPaused, "paused by an operator"}} {
		if n := ranks[of.rank]; n > 0 {
			parts = append(parts, thousands(n)+" "+of.text)
		}
	}
	return "Tenants: " + strings.Join(parts, ", ") + "."
}

// heldBy names the first cause that nobody chose.
func heldBy(holds []Hold) string {
	i := slices.IndexFunc(holds, func(h Hold) bool { return h.Cause != hold.Paused })
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

// followedStale is after how long the numbers, which come every ten seconds, are out of
// date. It is also the least lag of looks that the page shows.
const followedStale = time.Minute

// followedLine says how many accepted requests are followed, and how late the looks are.
func followedLine(get func() (FollowDepth, time.Time), at time.Time) string {
	d, told := get()
	switch age := at.Sub(told); {
	case told.IsZero():
		return ""
	case age > followedStale:
		return "not known for the last " + spell(age)
	case d.Open == 0:
		return "none open"
	}
	text := thousands(d.Open) + " open"
	if d.Oldest >= time.Second {
		text += ", oldest " + spell(d.Oldest)
	}
	if d.Lag >= followedStale {
		text += ", looks " + spell(d.Lag) + " late"
	}
	return text
}

// ends counts the outcomes in the slots.
func ends(all [slots]slot) string {
	var sum slot
	for _, s := range all {
		sum.add(s)
	}
	if sum.done+sum.failed+sum.other == 0 {
		return ""
	}
	return thousands(int(sum.done)) + " done, " + thousands(int(sum.failed)) + " failed, " + thousands(int(sum.other)) + " with another outcome"
}

func until(t, at time.Time) string {
	if d := t.Sub(at); d >= time.Second {
		return "in " + spell(d)
	}
	return "any moment now"
}

func decimal(f float64) string { return fmt.Sprintf("%.1f", f) }

// visible replaces the characters that would make a text from outside read otherwise
// than it is written: line breaks, invisible ones, and those that change its direction.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
