package outcome

import (
	"testing"
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/record"
)

func policy() Policy { return Policy{Plan: Plan{For: DefaultFor}, VerifyAfter: 30 * time.Second} }

// acceptedRecord is the record of the alarm's request.
func acceptedRecord() record.Record {
	a := alarm()
	return record.Record{
		ID: a.ID, Tenant: a.Tenant, ManagedDeviceID: a.Device, State: record.Accepted, ClientRequestID: a.ClientRequestID,
		AttemptedAt: a.AttemptedAt, FinishedAt: a.AcceptedAt, RequestedBy: "anna", Traceparent: "00-1", Followed: true,
	}
}

// device is a device with a reset that began while the call was made.
func device(os, state string, code int32) graph.Device {
	return graph.Device{OS: os, Owner: "company", LastSync: accepted().Add(-time.Hour), List: []graph.Action{
		{What: graph.ActionReset, Name: "resetPasscode", State: state, Started: accepted().Add(-500 * time.Millisecond), ErrorCode: code},
	}}
}

func TestOfAlarm(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	later := func(d Document) Document { d.AcceptedAt, d.ClientRequestID = accepted().Add(hour), "another"; return d }
	doc := func(o Outcome) Document {
		d := begun(acceptedRecord())
		d.Outcome, d.Final = o, o.Final()
		return d
	}
	for name, test := range map[string]struct {
		change func(c *Case)
		want   Do
	}{
		"accepted":                 {func(*Case) {}, DoLook},
		"pending":                  {func(c *Case) { c.Document = doc(Pending) }, DoLook},
		"done":                     {func(c *Case) { c.Document = doc(Done) }, DoDrop},
		"timed out":                {func(c *Case) { c.Document = doc(TimedOut) }, DoDrop},
		"timed out, ordered again": {func(c *Case) { c.Document = doc(TimedOut); c.Alarm.Until = c.Now.Add(hour) }, DoLook},
		"timed out, the order over too": {func(c *Case) {
			c.Now = accepted().Add(2 * DefaultFor)
			c.Document, c.Alarm.Until = doc(TimedOut), c.Now
		}, DoDrop},
		"done, ordered again":        {func(c *Case) { c.Document = doc(Done); c.Alarm.Until = c.Now.Add(hour) }, DoDrop},
		"a document of a later call": {func(c *Case) { c.Document = later(doc(Pending)) }, DoDrop},
		"a document of an earlier call": {func(c *Case) {
			c.Document = doc(Done)
			c.Document.AcceptedAt, c.Document.ClientRequestID = accepted().Add(-hour), "another"
		}, DoLook},
		"a record of a later call": {func(c *Case) {
			c.Record.FinishedAt, c.Record.ClientRequestID = accepted().Add(hour), "another"
		}, DoDrop},
		"a record of an earlier call": {func(c *Case) {
			c.Record.FinishedAt, c.Record.ClientRequestID = accepted().Add(-hour), "another"
		}, DoPutBack},
		"not accepted yet":          {func(c *Case) { c.Record.State = record.Attempting }, DoPutBack},
		"no record":                 {func(c *Case) { c.Record = record.Record{} }, DoPutBack},
		"no record, its time over":  {func(c *Case) { c.Record, c.Now = record.Record{}, accepted().Add(DefaultFor) }, DoLose},
		"its time over":             {func(c *Case) { c.Now = accepted().Add(DefaultFor) }, DoLook},
		"a dead record, time to go": {func(c *Case) { c.Record.State = record.Dead }, DoPutBack},
		"a dead record, time is over": {func(c *Case) {
			c.Record.State, c.Now = record.Dead, accepted().Add(2*DefaultFor)
		}, DoLose},
	} {
		c := Case{Alarm: alarm(), Record: acceptedRecord(), Now: accepted().Add(15 * time.Second)}
		test.change(&c)
		if got := policy().OfAlarm(c); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestOfLook(t *testing.T) {
	t.Parallel()
	const (
		second = time.Second
		minute = time.Minute
		hour   = time.Hour
	)
	missing, failed := Look{Missing: true}, Look{Failed: true}
	seen := func(d graph.Device) Look { return Look{Device: d} }
	with := func(d graph.Device, change func(*graph.Device)) graph.Device { change(&d); return d }
	for name, test := range map[string]struct {
		age    time.Duration
		change func(c *Case)
		look   Look

		outcome Outcome
		step    NextStep
		write   bool
		more    bool // alarms
	}{
		"done, Android":        {age: 15 * second, look: seen(device("Android", "done", 0)), outcome: Done, step: ReadPasscode, write: true},
		"done, AndroidForWork": {age: 15 * second, look: seen(device("androidForWork", "Done", 0)), outcome: Done, step: ReadPasscode, write: true},
		"done, iOS":            {age: 15 * second, look: seen(device("iOS", "done", 0)), outcome: Done, step: Unlocked, write: true},
		"done, unknown":        {age: 15 * second, look: seen(device("HoloDeck", "done", 0)), outcome: Done, step: LookItUp, write: true},
		"done, found when the passcode is gone": {age: 8 * 24 * hour, change: func(c *Case) { c.Alarm.Until = c.Now.Add(hour) },
			look: seen(with(device("Android", "done", 0), func(d *graph.Device) { d.List[0].Updated = accepted() })), outcome: Done, step: LookItUp, write: true},
		"failed, Android":          {age: 15 * second, look: seen(device("Android", "failed", -2147023728)), outcome: Failed, step: CheckPolicy, write: true},
		"failed, iOS":              {age: 15 * second, look: seen(device("iPadOS", "failed", 1)), outcome: Failed, step: CheckToken, write: true},
		"not supported":            {age: 15 * second, look: seen(device("Android", "notSupported", 0)), outcome: NotSupported, step: StepNotSupported, write: true},
		"canceled":                 {age: 15 * second, look: seen(device("Android", "canceled", 0)), outcome: Canceled, step: StepCanceled, write: true},
		"pending":                  {age: 15 * second, look: seen(device("Android", "pending", 0)), outcome: Pending, step: Wake, write: true, more: true},
		"active":                   {age: 15 * second, look: seen(device("Android", "active", 0)), outcome: Active, step: Wake, write: true, more: true},
		"none":                     {age: 15 * second, look: seen(device("Android", "none", 0)), outcome: Pending, step: Wake, write: true, more: true},
		"a word that nobody knows": {age: 15 * second, look: seen(device("Android", "awaitingAdminAction", 0)), outcome: Pending, step: Wake, write: true, more: true},
		"15 min, Android":          {age: 15 * minute, look: seen(device("Android", "pending", 0)), outcome: Pending, step: Sync, write: true, more: true},
		"15 min, iOS":              {age: 15 * minute, look: seen(device("iOS", "pending", 0)), outcome: Pending, step: Network, write: true, more: true},
		"15 min, unknown":          {age: 15 * minute, look: seen(device("", "pending", 0)), outcome: Pending, step: Wake, write: true, more: true},
		"8 h":                      {age: 8 * hour, look: seen(device("Android", "pending", 0)), outcome: Pending, step: Away, write: true, more: true},
		"nothing new": {age: minute, change: func(c *Case) {
			c.Document = policy().OfLook(*c, seen(device("Android", "pending", 0))).Document
		}, look: seen(device("Android", "pending", 0)), outcome: Pending, step: Wake, more: true},
		"checked in again": {age: minute, change: func(c *Case) {
			c.Document = policy().OfLook(*c, seen(device("Android", "pending", 0))).Document
		}, look: seen(with(device("Android", "pending", 0), func(d *graph.Device) { d.LastSync = accepted() })), outcome: Pending, step: Wake, write: true, more: true},
		"being wiped": {age: minute, look: seen(with(device("Android", "pending", 0), func(d *graph.Device) { d.Management = "wipePending" })),
			outcome: Pending, step: Newer, write: true, more: true},
		"another's reset only": {age: hour, look: seen(graph.Device{OS: "iOS", List: []graph.Action{
			{What: graph.ActionReset, State: "done", Started: accepted().Add(10 * minute)}}}), outcome: Superseded, step: Newer, write: true},
		"an earlier reset only": {age: hour, look: seen(graph.Device{OS: "iOS", List: []graph.Action{
			{What: graph.ActionReset, State: "done", Started: accepted().Add(-10 * minute)}}}), outcome: Pending, step: Network, write: true, more: true},
		"no list":      {age: minute, look: seen(graph.Device{OS: "iOS"}), outcome: Pending, step: Wake, write: true, more: true},
		"missing once": {age: minute, look: missing, outcome: Pending, step: Wake, write: true, more: true},
		"missing for five minutes": {age: 20 * minute, change: func(c *Case) { c.Alarm.MissingSince = c.Now.Add(-5 * minute) }, look: missing,
			outcome: Pending, step: Wake, write: true, more: true},
		"missing for ten minutes": {age: 20 * minute, change: func(c *Case) { c.Alarm.MissingSince = c.Now.Add(-10 * minute) }, look: missing,
			outcome: Removed, step: Gone, write: true},
		"nobody could look":       {age: minute, look: failed, outcome: Pending, step: Wake, more: true},
		"the time is over":        {age: DefaultFor, look: seen(device("Android", "pending", 0)), outcome: TimedOut, step: GaveUp, write: true},
		"done at the last moment": {age: DefaultFor, look: seen(device("Android", "done", 0)), outcome: Done, step: ReadPasscode, write: true},
		"over, looked an hour ago": {age: DefaultFor, change: func(c *Case) { c.Alarm.LookedAt = c.Now.Add(-hour) }, look: failed,
			outcome: TimedOut, step: GaveUp, write: true},
		"over, looked two days ago": {age: DefaultFor, change: func(c *Case) { c.Alarm.LookedAt = c.Now.Add(-48 * hour) }, look: failed,
			outcome: Undetermined, step: LookItUp, write: true},
		"over, never looked":          {age: DefaultFor, look: failed, outcome: Undetermined, step: LookItUp, write: true},
		"over, missing since a while": {age: DefaultFor, look: missing, outcome: TimedOut, step: GaveUp, write: true},
		"timed out, then done": {age: DefaultFor + hour, change: ordered(TimedOut), look: seen(device("Android", "done", 0)),
			outcome: Done, step: ReadPasscode, write: true},
		"undetermined, then failed": {age: DefaultFor + hour, change: ordered(Undetermined), look: seen(device("Android", "failed", 0)),
			outcome: Failed, step: CheckPolicy, write: true},
		"timed out, still pending": {age: DefaultFor + hour, change: ordered(TimedOut), look: seen(device("Android", "pending", 0)),
			outcome: TimedOut, step: GaveUp, more: true},
		"timed out, nobody can look": {age: DefaultFor + hour, change: ordered(TimedOut), look: failed, outcome: TimedOut, step: GaveUp, more: true},
		"timed out, over again": {age: DefaultFor + 2*hour, change: ordered(TimedOut), look: seen(device("Android", "pending", 0)),
			outcome: TimedOut, step: GaveUp},
	} {
		c := Case{Alarm: alarm(), Record: acceptedRecord(), Now: accepted().Add(test.age)}
		if test.change != nil {
			test.change(&c)
		}
		got := policy().OfLook(c, test.look)
		d := got.Document
		if d.Outcome != test.outcome || d.NextStep != test.step || got.Write != test.write || (got.Alarm != nil) != test.more {
			t.Errorf("%s: %s, %s, write %v, more %v; want %s, %s, write %v, more %v", name, d.Outcome, d.NextStep, got.Write, got.Alarm != nil,
				test.outcome, test.step, test.write, test.more)
		}
		if d.Final != d.Outcome.Final() || d.Final == d.DecidedAt.IsZero() || d.Text == "" {
			t.Errorf("%s: %+v", name, d)
		}
		if got.Alarm != nil && got.Alarm.MessageID() == c.Alarm.MessageID() {
			t.Errorf("%s: the next alarm is a copy", name)
		}
		if got.Write && d.Final && !c.Document.Outcome.CanBecome(d.Outcome) && c.Document.Outcome != "" {
			t.Errorf("%s: %s became %s", name, c.Document.Outcome, d.Outcome)
		}
	}
}

// ordered is a request whose time was over, and which an operator has ordered to be
// followed for two hours more.
func ordered(o Outcome) func(*Case) {
	return func(c *Case) {
		c.Document = begun(acceptedRecord())
		c.Document.Outcome, c.Document.Final, c.Document.DecidedAt = o, true, accepted().Add(DefaultFor)
		c.Document.NextStep, c.Document.Text = policy().tell(c.Document, c.Document.DecidedAt, time.Time{})
		c.Alarm.Until = accepted().Add(DefaultFor + 2*time.Hour)
	}
}

// TestRemovedFor tells for what a device is gone.
func TestRemovedFor(t *testing.T) {
	t.Parallel()
	for management, want := range map[string]Reason{"wipePending": Wiped, "retireIssued": Retired, "deletePending": Deleted, "managed": "", "wipeFailed": ""} {
		c := Case{Alarm: alarm(), Record: acceptedRecord(), Now: accepted().Add(time.Minute)}
		d := device("Android", "pending", 0)
		d.Management = management
		c.Document = policy().OfLook(c, Look{Device: d}).Document
		c.Now = accepted().Add(time.Hour)
		c.Alarm.MissingSince = accepted().Add(30 * time.Minute)
		if got := policy().OfLook(c, Look{Missing: true}).Document; got.Outcome != Removed || got.Reason != want || got.Platform != Android {
			t.Errorf("%s: %+v", management, got)
		}
	}
}

// TestVerifiedWindow: the reset of a call whose outcome was not seen began at any time
// since that call; another's that began before is none of ours.
func TestVerifiedWindow(t *testing.T) {
	t.Parallel()
	c := Case{Alarm: alarm(), Record: acceptedRecord(), Now: accepted().Add(time.Minute)}
	c.Record.Verified, c.Record.UnknownSince = true, accepted().Add(-5*time.Minute)
	at := func(ago time.Duration) Look {
		return Look{Device: graph.Device{OS: "iOS", List: []graph.Action{{What: graph.ActionReset, State: "done", Started: accepted().Add(-ago)}}}}
	}
	if got := policy().OfLook(c, at(4*time.Minute)).Document.Outcome; got != Done {
		t.Errorf("since the first call of unknown outcome: %s", got)
	}
	if got := policy().OfLook(c, at(6*time.Minute)).Document.Outcome; got != Pending {
		t.Errorf("before it: %s", got)
	}
	c.Record.Verified = false
	if got := policy().OfLook(c, at(4*time.Minute)).Document.Outcome; got != Pending {
		t.Errorf("a call that was answered: %s", got)
	}
	// Graph's clock is ahead by five minutes.
	l := at(-5 * time.Minute)
	l.Ahead = 5 * time.Minute
	if got := policy().OfLook(c, l).Document.Outcome; got != Done {
		t.Errorf("clocks apart: %s", got)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		os, enrollment, management string
		explained                  bool
	}{
		{"Windows 11", "", "", true}, {"macOS", "", "", true}, {"MACOS", "", "", true}, {"linux", "", "", true}, {"ChromeOS", "", "", true}, {"tvOS", "", "", true},
		{"iOS", "appleUserEnrollment", "", true}, {"iOS", "appleUserEnrollmentWithServiceAccount", "", true}, {"iOS", "", "wipePending", true},
		{"Android", "", "retireIssued", true}, {"Android", "", "deletePending", true},
		{"Android", "androidEnterpriseFullyManaged", "managed", false}, {"iOS", "appleBulkWithUser", "", false}, {"", "", "", false}, {"FuchsiaOS", "", "", false},
	} {
		if got := Explain(test.os, test.enrollment, test.management); (got != "") != test.explained {
			t.Errorf("%+v: %q", test, got)
		}
	}
}
