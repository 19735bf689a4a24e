package graph

import (
	"testing"
	"time"
)

// TestFindings looks for any reset, for that of a request, and for the same
// once its start is known, in the lists that were seen in the wild, and in odd
// ones. The window is two minutes from the instant; the known start is at 30 s.
func TestFindings(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	const tick, year, width = time.Nanosecond, 365 * 24 * time.Hour, 2 * time.Minute
	const key = 30*time.Second + 622275100
	at := func(d time.Duration) time.Time { return since.Add(d) }
	entry := func(what What, name, state string, started, updated time.Duration) Action {
		return Action{What: what, Name: name, State: state, Started: at(started), Updated: at(updated)}
	}
	reset := func(started time.Duration) Action {
		return entry(ActionReset, "resetPasscode", "pending", started, started.Truncate(time.Second))
	}
	odd := func(updated time.Time) Action { return Action{What: ActionReset, Updated: updated} }
	unclear := func(started time.Duration) Action { return Action{Name: "odd", Started: at(started)} }
	never := time.Time{}

	type own struct {
		own   Own
		began time.Duration // of ours, where it was found
		doubt bool
	}
	var (
		pending    = own{}
		doubtful   = own{doubt: true}
		superseded = own{own: OwnSuperseded}
	)
	found := func(began time.Duration) own { return own{OwnFound, began, false} }
	for name, tc := range map[string]struct {
		list  []Action
		sight Sight
		began time.Duration // of the earliest, where one was seen
		first own           // in the window
		again own           // by the known start
	}{
		// The list as such.
		"no list":     {nil, SightDoubt, 0, doubtful, doubtful},
		"empty list":  {[]Action{}, SightNone, 0, pending, pending},
		"others only": {[]Action{entry(ActionOther, "rebootNow", "done", key, key), {What: ActionOther}}, SightNone, 0, pending, pending},

		// As they were seen in the wild.
		"a rename with the type of a reset": {[]Action{entry(ActionOther, "setDeviceName", "done", key, key)}, SightNone, 0, pending, pending},
		"two of one name, one update, over a year old": {[]Action{entry(ActionReset, "resetPasscode", "done", -year, -time.Hour), entry(ActionReset, "resetPasscode", "done", -2*year, -time.Hour)},
			SightNone, 0, pending, pending},
		"an update that lies before the start": {[]Action{entry(ActionReset, "resetPasscode", "pending", key, 30*time.Second)}, SightReset, key, found(key), found(key)},
		"done 45 h later, in place":            {[]Action{entry(ActionReset, "resetPasscode", "done", key, 45*time.Hour)}, SightReset, key, found(key), found(key)},
		"another name of a reset":              {[]Action{entry(ActionReset, "removePasscode", "failed", key, key)}, SightReset, key, found(key), found(key)},
		"a lock and a scan beside it": {[]Action{entry(ActionOther, "windowsDefenderScan", "failed", key, key), reset(key), entry(ActionOther, "remoteLock", "pending", 0, 0)},
			SightReset, key, found(key), found(key)},
		"the year 1":       {[]Action{odd(never)}, SightDoubt, 0, doubtful, doubtful},
		"a name of no one": {[]Action{unclear(key)}, SightDoubt, 0, doubtful, doubtful},

		// Around the window.
		"at its beginning":           {[]Action{reset(0)}, SightReset, 0, found(0), pending},
		"just before it":             {[]Action{reset(-tick)}, SightNone, 0, pending, pending},
		"at its end":                 {[]Action{reset(width)}, SightReset, width, found(width), superseded},
		"just after it":              {[]Action{reset(width + tick)}, SightReset, width + tick, superseded, superseded},
		"several, unsorted":          {[]Action{reset(key + 3), reset(-year), reset(key), reset(-time.Hour), reset(key + 2)}, SightReset, key, found(key), found(key)},
		"one before ours, within it": {[]Action{reset(key), reset(1)}, SightReset, 1, found(1), found(key)},
		"one before the known start": {[]Action{reset(key - tick)}, SightReset, key - tick, found(key - tick), pending},
		"one after the known start":  {[]Action{reset(key + tick)}, SightReset, key + tick, found(key + tick), superseded},
		"ours and a later one":       {[]Action{reset(time.Hour), reset(key)}, SightReset, key, found(key), found(key)},
		"an older and a later one":   {[]Action{reset(time.Hour), reset(-time.Hour)}, SightReset, time.Hour, superseded, superseded},

		// Entries that do not say when they began.
		"a start, updated before it":     {[]Action{entry(ActionReset, "", "", key, -time.Hour)}, SightReset, key, found(key), found(key)},
		"an old start, updated since":    {[]Action{entry(ActionReset, "", "", -time.Hour, time.Hour)}, SightNone, 0, pending, pending},
		"updated before":                 {[]Action{odd(at(-tick))}, SightNone, 0, pending, pending},
		"updated at the beginning":       {[]Action{odd(at(0))}, SightDoubt, 0, doubtful, pending},
		"updated just before our second": {[]Action{odd(at(29 * time.Second))}, SightDoubt, 0, doubtful, pending},
		"updated in our second":          {[]Action{odd(at(30 * time.Second))}, SightDoubt, 0, doubtful, doubtful},
		"updated long after":             {[]Action{odd(at(time.Hour))}, SightDoubt, 0, doubtful, doubtful},

		// Entries that do not say what they are.
		"unclear, no name":          {[]Action{{Started: at(key)}}, SightDoubt, 0, doubtful, doubtful},
		"unclear, no date":          {[]Action{{}}, SightDoubt, 0, doubtful, doubtful},
		"unclear, old":              {[]Action{unclear(-tick), {Updated: at(-tick)}}, SightNone, 0, pending, pending},
		"unclear, before our start": {[]Action{unclear(key - tick)}, SightDoubt, 0, doubtful, pending},
		"unclear, after the window": {[]Action{unclear(time.Hour)}, SightDoubt, 0, doubtful, doubtful},

		// A reset that is certain, and a doubt.
		"ours, then doubts": {[]Action{reset(key), unclear(key), odd(never), {}}, SightReset, key, found(key), found(key)},
		"doubts, then ours": {[]Action{{}, odd(never), unclear(key), reset(key)}, SightReset, key, found(key), found(key)},
		"doubts and others": {[]Action{{}, {What: ActionOther}, reset(-time.Hour)}, SightDoubt, 0, doubtful, doubtful},
		// What may be ours forbids to say that a later one took its place.
		"a later one and a reset without a start": {[]Action{reset(time.Hour), odd(never)}, SightReset, time.Hour, doubtful, doubtful},
		"a later one and what may be ours":        {[]Action{unclear(key), reset(time.Hour)}, SightReset, time.Hour, doubtful, doubtful},
		"a later one and an old one's update":     {[]Action{odd(at(-time.Hour)), reset(time.Hour)}, SightReset, time.Hour, superseded, superseded},
		"a later one and what began after ours":   {[]Action{unclear(2 * time.Hour), reset(time.Hour)}, SightReset, time.Hour, superseded, superseded},
	} {
		got := ResetSince(tc.list, since)
		began := time.Time{}
		if tc.sight == SightReset {
			began = at(tc.began)
		}
		if got.Sight != tc.sight || !got.Reset.Started.Equal(began) || (got.Doubt != "") != (tc.sight == SightDoubt) {
			t.Errorf("%s: %+v", name, got)
		}
		w := Window{From: since, To: at(width)}
		check := func(which string, want own) {
			t.Helper()
			got, began := OwnReset(tc.list, w), time.Time{}
			if want.own == OwnFound {
				began = at(want.began)
			}
			if got.Own != want.own || !got.Reset.Started.Equal(began) || (got.Doubt != "") != want.doubt {
				t.Errorf("%s, by the %s: %+v", name, which, got)
			}
		}
		check("window", tc.first)
		w.Start = at(key).In(time.FixedZone("", 3600))
		check("start", tc.again)
		w.From, w.To = at(year), at(-year) // of no account any more
		check("start alone", tc.again)
		checkFindings(t, tc.list)
	}
}
