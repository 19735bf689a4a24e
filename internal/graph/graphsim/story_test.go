package graphsim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// viewed is a device as a stranger reads it.
type viewed struct {
	status     int
	text       string
	OS         *string  `json:"operatingSystem"`
	Owner      string   `json:"managedDeviceOwnerType"`
	Enrollment string   `json:"deviceEnrollmentType"`
	Management string   `json:"managementState"`
	Sync       string   `json:"lastSyncDateTime"`
	Name       *string  `json:"deviceName"`
	List       []action `json:"deviceActionResults"`
}

type action struct {
	Name    string    `json:"actionName"`
	State   string    `json:"actionState"`
	Started time.Time `json:"startDateTime"`
	Updated time.Time `json:"lastUpdatedDateTime"`
	Code    int       `json:"errorCode"`
}

const allMembers = "id,operatingSystem,managedDeviceOwnerType,deviceEnrollmentType,managementState,lastSyncDateTime,deviceActionResults"

func (c *client) view(device, members string) viewed {
	c.t.Helper()
	a, err := c.send(c.request(context.Background(), http.MethodGet, "/deviceManagement/managedDevices/"+device+"?$select="+members))
	if err != nil {
		c.t.Fatal(err)
	}
	v := viewed{status: a.status, text: a.body}
	if a.status == http.StatusOK {
		if err := json.Unmarshal([]byte(a.body), &v); err != nil {
			c.t.Fatalf("%s: %v", a.body, err)
		}
	}
	return v
}

// states are the words of the resets in a list, in the order of their start.
func (v viewed) states() string {
	if v.status != http.StatusOK {
		return fmt.Sprint(v.status)
	}
	var resets []action
	for _, a := range v.List {
		if a.Name == "resetPasscode" {
			resets = append(resets, a)
		}
	}
	slices.SortStableFunc(resets, func(a, b action) int { return a.Started.Compare(b.Started) })
	var out []string
	for _, a := range resets {
		out = append(out, a.State)
	}
	return strings.Join(out, " ")
}

// seen is what a look shows, so long after the reset.
type seen struct {
	after  time.Duration
	states string
}

func (c *client) wantSeen(device string, want ...seen) {
	c.t.Helper()
	age := time.Duration(0)
	for _, w := range want {
		c.sim.Advance(w.after - age)
		age = w.after
		if v := c.view(device, allMembers); v.states() != w.states {
			c.t.Errorf("%s: %q after %v, want %q: %s", device, v.states(), w.after, w.states, v.text)
		}
	}
}

// TestDefaultStory: a device without a story takes each order at once.
func TestDefaultStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond) // fake time
		s, c := newDirect(t, graphsim.Config{ClockOffset: time.Hour})
		d := graphsim.GoodDevice(1)
		before := c.view(d, allMembers)
		if before.OS == nil || *before.OS != "Android" || before.Owner != "company" || before.Enrollment != "userEnrollment" || before.Management != "managed" || before.states() != "" {
			t.Errorf("%s", before.text)
		}
		began := time.Now().Add(time.Hour)
		c.wantStatus(d, http.StatusNoContent)
		time.Sleep(time.Second - 1) // fake time
		v := c.view(d, allMembers)
		if r := v.List[1]; r.State != "pending" || !r.Started.Equal(began) || !r.Updated.Equal(began.Truncate(time.Second)) || r.Code != 0 {
			t.Errorf("%s", v.text)
		}
		if state := s.Device(d); len(state.Resets) != 1 || !state.Resets[0].Ended.IsZero() || state.Resets[0].Valid || !state.Resets[0].Taken.Equal(began) {
			t.Errorf("%+v", state)
		}
		time.Sleep(time.Nanosecond) // fake time
		v = c.view(d, allMembers)
		if r := v.List[1]; r.State != "done" || !r.Started.Equal(began) || !r.Updated.Equal(began.Add(time.Second).Truncate(time.Second)) {
			t.Errorf("%s", v.text)
		}
		if v.Sync != began.UTC().Format(time.RFC3339) || v.Name != nil {
			t.Errorf("%s", v.text)
		}
		want := graphsim.Reset{Ordered: began, Taken: began, Ended: began.Add(time.Second), State: "done", Valid: true}
		if state := s.Device(d); state.Gets != 3 || len(state.Resets) != 1 || !sameReset(state.Resets[0], want) {
			t.Errorf("%+v", state)
		}
		if state := s.Device("no GUID"); state.Gets != 0 || state.Resets != nil {
			t.Errorf("%+v", state)
		}
		noViolations(t, s)
	})
}

func sameReset(a, b graphsim.Reset) bool {
	same := a.Ordered.Equal(b.Ordered) && a.Taken.Equal(b.Taken) && a.Ended.Equal(b.Ended)
	a.Ordered, a.Taken, a.Ended = b.Ordered, b.Taken, b.Ended
	return same && a == b
}

// TestStories plays stories that a test makes.
// TestWork: what a reset takes can be changed for all devices whose story does not say
// it.
func TestWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{Work: 300 * time.Millisecond})
		plain, slow, stuck := graphsim.GoodDevice(1), graphsim.StoryDevice(graphsim.StoryDone, 2, 0, 1), graphsim.StoryDevice(graphsim.StoryStuck, 0, 0, 1)
		set := graphsim.GoodDevice(2)
		s.SetStory(set, graphsim.Story{}.Fails(1))
		for _, d := range []string{plain, slow, stuck, set} {
			c.wantStatus(d, http.StatusNoContent)
		}
		s.Advance(300 * time.Millisecond)
		for d, want := range map[string]string{plain: "done", slow: "pending", stuck: "pending", set: "failed"} {
			if v := c.view(d, allMembers); v.states() != want {
				t.Errorf("%s: %s, want %s", d, v.states(), want)
			}
		}
	})
}

func TestStories(t *testing.T) {
	const h = time.Hour
	var s graphsim.Story
	for name, tc := range map[string]struct {
		story graphsim.Story
		told  string
		seen  []seen
	}{
		"pending for 45 h":     {s.Waits(45 * h), "done", []seen{{0, "pending"}, {45 * h, "pending"}, {45*h + time.Second, "done"}}},
		"offline":              {s.Offline(0, 20*h), "done", []seen{{23 * h, "pending"}, {24 * h, "pending"}, {24*h + time.Second, "done"}}},
		"offline, own rhythm":  {s.Offline(-h, 20*h).CheckIns(7 * h), "done", []seen{{21 * h, "pending"}, {21*h + time.Second, "done"}}},
		"offline for ever":     {s.Offline(0, graphsim.Forever), "timed_out", []seen{{1000 * h, "pending"}}},
		"fails":                {s.Works(h).Fails(-7), "failed", []seen{{0, "pending"}, {h, "failed"}}},
		"not supported":        {s.Ends("notSupported", 0), "not_supported", []seen{{h, "notSupported"}}},
		"canceled":             {s.Ends("canceled", 0), "canceled", []seen{{h, "canceled"}}},
		"an unknown word":      {s.Ends("retryPending", 0).Says("none"), "timed_out", []seen{{0, "none"}, {h, "retryPending"}}},
		"wiped while pending":  {s.Waits(3*h).Wiped(h, 2*h), "removed", []seen{{h, "pending"}, {2*h - 1, "pending"}, {2 * h, "404"}, {5 * h, "404"}}},
		"wiped after it":       {s.Wiped(h, 2*h), "done", []seen{{h, "done"}, {2 * h, "404"}}},
		"retired":              {s.Offline(0, graphsim.Forever).Retired(h, 9*h), "removed", []seen{{8 * h, "pending"}, {9 * h, "404"}}},
		"removed":              {s.Works(3 * h).Removed(h), "removed", []seen{{h - 1, "pending"}, {h, "404"}}},
		"absent once":          {s.Absent(2), "done", []seen{{0, "pending"}, {h, "404"}, {h, "done"}, {h, "done"}}},
		"moved":                {s.Works(3*h).Moved(h, graphsim.GoodDevice(9)), "removed", []seen{{0, "pending"}, {h, "404"}}},
		"hidden":               {s.Hidden(), "timed_out", []seen{{0, ""}, {h, ""}}},
		"hidden, and another":  {s.Hidden().Again(h), "superseded", []seen{{0, ""}, {h, "pending"}, {2 * h, "done"}}},
		"dropped":              {s.Works(2 * h).Dropped(h), "timed_out", []seen{{0, "pending"}, {h, ""}, {3 * h, ""}}},
		"dropped when done":    {s.Dropped(h), "done", []seen{{0, "pending"}, {1 * time.Minute, "done"}, {h, ""}}},
		"another in its place": {s.Works(graphsim.Forever).Again(h).Dropped(h), "superseded", []seen{{0, "pending"}, {h, "pending"}}},
		"another after it":     {s.Again(h), "done", []seen{{0, "pending"}, {h, "done pending"}, {2 * h, "done done"}}},
		"renamed":              {s.Renamed(), "done", []seen{{h, "done"}}},
		"an odd list":          {s.Listed(graphsim.ListUnknownName), "timed_out", []seen{{h, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newDirect(t, graphsim.Config{})
				d := graphsim.GoodDevice(1)
				s.SetStory(d, tc.story)
				s.SetStory("no GUID", tc.story)
				c.wantStatus(d, http.StatusNoContent)
				if got := tc.story.Told(); got != tc.told {
					t.Errorf("told %q, want %q", got, tc.told)
				}
				c.wantSeen(d, tc.seen...)
				noViolations(t, s)
			})
		})
	}
}

// TestLedger: each reset is one entry, and the last that was done is the one
// whose passcode is good.
func TestLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{})
		valid := func(d string) string {
			out := ""
			for _, r := range s.Device(d).Resets {
				out += map[bool]string{true: "x", false: "-"}[r.Valid]
			}
			return out
		}
		d := graphsim.GoodDevice(1)
		s.SetStory(d, graphsim.Story{}.Works(time.Minute).Again(time.Hour).Wiped(2*time.Hour, 3*time.Hour))
		for _, step := range []struct {
			ahead         time.Duration
			post          bool
			states, valid string // the list in the order of starts, the ledger with the other's at the end
		}{
			{0, true, "pending", "-"},
			{30 * time.Second, true, "pending pending", "--"},
			{30 * time.Second, false, "done pending", "x-"},
			{30 * time.Second, false, "done done", "-x"},
			{time.Hour, false, "done done done", "--x"},
			{time.Hour, true, "done done pending done", "---x"}, // Graph's clock has not moved
			{time.Hour, false, "404", "----"},
		} {
			s.Advance(step.ahead)
			time.Sleep(time.Nanosecond) // fake time
			if step.post {
				c.wantStatus(d, http.StatusNoContent)
			}
			if got := c.view(d, allMembers); got.states() != step.states || valid(d) != step.valid {
				t.Errorf("%q, %q, want %+v: %s", got.states(), valid(d), step, got.text)
			}
		}
		if state := s.Device(d); !state.Gone || valid(d) != "----" || len(state.Resets) != 4 || !state.Resets[3].Foreign {
			t.Errorf("%+v", state)
		}
		c.wantStatus(d, http.StatusNotFound) // there is nothing to reset any more
		if n := s.Resets(d); n != 3 {
			t.Errorf("%d resets", n)
		}

		d = graphsim.GoodDevice(2)
		s.SetStory(d, graphsim.Story{}.Again(time.Hour).Moved(2*time.Hour, graphsim.GoodDevice(3)))
		c.wantStatus(d, http.StatusNoContent)
		for _, step := range []struct {
			ahead time.Duration
			valid string
		}{{0, "-"}, {time.Second, "x"}, {-time.Hour, "x"}, {time.Hour, "-x"}, {time.Hour, "-x"}} {
			s.Advance(step.ahead) // never back
			if got := valid(d); got != step.valid {
				t.Errorf("%q, want %q", got, step.valid)
			}
		}
		if state := s.Device(d); !state.Gone || state.MovedTo != graphsim.GoodDevice(3) {
			t.Errorf("%+v", state)
		}
	})
}

// TestDeviceFacts: what a device is, while it is off and while it is wiped.
func TestDeviceFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{})
		began := time.Now().UTC()
		d := graphsim.GoodDevice(1)
		s.SetStory(d, graphsim.Story{}.On(graphsim.IOS, graphsim.Personal).Offline(-30*time.Hour, 20*time.Hour).Wiped(50*time.Hour, 60*time.Hour))
		c.wantStatus(d, http.StatusNoContent)
		age := time.Duration(0)
		for _, w := range []struct {
			at, sync   time.Duration
			management string
		}{
			{0, -32 * time.Hour, "managed"},
			{23 * time.Hour, -32 * time.Hour, "managed"},
			{24 * time.Hour, 24 * time.Hour, "managed"},
			{41 * time.Hour, 40 * time.Hour, "managed"},
			{50 * time.Hour, 48 * time.Hour, "wipePending"},
		} {
			s.Advance(w.at - age)
			age = w.at
			v := c.view(d, allMembers)
			if v.OS == nil || *v.OS != "iOS" || v.Owner != "personal" || v.Management != w.management || v.Sync != began.Add(w.sync).Format(time.RFC3339) {
				t.Errorf("after %v: %s", w.at, v.text)
			}
		}
		// Nobody needs the name.
		noViolations(t, s)
		v := c.view(d, "id,deviceActionResults,deviceName")
		if v.Name == nil || !isSecret(s, *v.Name) || v.OS != nil {
			t.Errorf("%s", v.text)
		}
		if got := s.Violations(); len(got) != 1 || !strings.HasPrefix(got[0], "path: the device's name") {
			t.Errorf("%q", got)
		}
	})
}

// TestStoryIDs plays each story that an id can ask for, and compares what is
// told with what shows.
func TestStoryIDs(t *testing.T) {
	for story, tc := range map[int]struct {
		told string
		seen []seen
	}{
		graphsim.StoryDone:        {"done", []seen{{59 * time.Second, "pending"}, {time.Minute, "done"}}},
		graphsim.StoryFailed:      {"failed", []seen{{time.Minute, "failed"}}},
		graphsim.StoryUnsupported: {"not_supported", []seen{{time.Minute, "notSupported"}}},
		graphsim.StoryCanceled:    {"canceled", []seen{{time.Minute, "canceled"}}},
		graphsim.StoryStuck:       {"timed_out", []seen{{1000 * time.Hour, "pending"}}},
		graphsim.StoryAway:        {"done", []seen{{time.Minute, "pending"}, {time.Minute + time.Second, "done"}}},
		graphsim.StoryLost:        {"timed_out", []seen{{1000 * time.Hour, "pending"}}},
		graphsim.StoryWiped:       {"removed", []seen{{119 * time.Second, "pending"}, {2 * time.Minute, "404"}}},
		graphsim.StoryRetired:     {"removed", []seen{{119 * time.Second, "pending"}, {2 * time.Minute, "404"}}},
		graphsim.StoryRemoved:     {"removed", []seen{{59 * time.Second, "pending"}, {time.Minute, "404"}}},
		graphsim.StoryAbsentOnce:  {"done", []seen{{0, "404"}, {0, "pending"}, {time.Minute, "done"}}},
		graphsim.StoryMoved:       {"removed", []seen{{0, "pending"}, {time.Minute, "404"}}},
		graphsim.StoryHidden:      {"timed_out", []seen{{time.Minute, ""}}},
		graphsim.StoryTwice:       {"done", []seen{{time.Minute, "done pending"}, {2 * time.Minute, "done done"}}},
		graphsim.StorySuperseded:  {"superseded", []seen{{59 * time.Second, "pending"}, {time.Minute, "pending"}, {time.Hour, "pending"}}},
		graphsim.StoryDropped:     {"timed_out", []seen{{59 * time.Second, "pending"}, {time.Minute, ""}}},
		graphsim.StoryNewWord:     {"done", []seen{{0, "awaitingAdminAction"}, {time.Minute, "done"}}},
		graphsim.StoryNewEnd:      {"timed_out", []seen{{0, "pending"}, {time.Minute, "retryPending"}}},
		graphsim.StoryNone:        {"done", []seen{{0, "none"}, {time.Minute, "done"}}},
		graphsim.StoryActive:      {"done", []seen{{0, "active"}, {time.Minute, "done"}}},
		graphsim.StoryRenamed:     {"done", []seen{{0, "pending"}, {time.Minute, "done"}}},

		graphsim.StoryList + int(graphsim.ListOthers):      {"done", []seen{{time.Minute, "done"}}},
		graphsim.StoryList + int(graphsim.ListUnknownName): {"timed_out", []seen{{time.Minute, ""}}},
		99: {"done", []seen{{time.Minute, "done"}}}, // none: the default
	} {
		synctest.Test(t, func(t *testing.T) {
			s, c := newDirect(t, graphsim.Config{})
			d := graphsim.StoryDevice(story, 60, graphsim.StoryVariant(graphsim.IOS, graphsim.Personal, ""), 7)
			if got := graphsim.Told(d); got != tc.told {
				t.Errorf("%s: told %q, want %q", d, got, tc.told)
			}
			if v := c.view(d, allMembers); v.OS == nil || *v.OS != "iOS" && story < 99 || v.Owner != "personal" && story < 99 {
				t.Errorf("%s: %s", d, v.text)
			}
			c.wantStatus(d, http.StatusNoContent)
			c.wantSeen(d, tc.seen...)
			if got := s.Device(d).MovedTo; story == graphsim.StoryMoved && got != graphsim.GoodDevice(7) {
				t.Errorf("moved to %q", got)
			}
			noViolations(t, s)
		})
	}
	for d, want := range map[string]string{graphsim.GoodDevice(1): "done", graphsim.FaultDevice(503, 1, 0, 1): "done", "none": ""} {
		if got := graphsim.Told(d); got != want {
			t.Errorf("%s: told %q", d, got)
		}
	}
}

// TestPlatforms: some devices take no reset.
func TestPlatforms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{})
		for i, tc := range []struct {
			platform   graphsim.Platform
			owner      graphsim.Owner
			enrollment string
			want       int
			shows      string
		}{
			{graphsim.Android, graphsim.Company, "", 204, "userEnrollment"},
			{graphsim.Android, graphsim.Unowned, "", 204, "userEnrollment"},
			{graphsim.IOS, graphsim.Company, "", 204, "appleBulkWithUser"},
			{graphsim.IPadOS, graphsim.Personal, "", 204, "userEnrollment"},
			{graphsim.VisionOS, graphsim.Company, "", 204, "appleBulkWithUser"},
			{graphsim.IOS, graphsim.Personal, graphsim.AppleUser, 400, graphsim.AppleUser},
			{graphsim.IOS, graphsim.Personal, graphsim.AppleUserService, 400, graphsim.AppleUserService},
			{graphsim.Windows, graphsim.Company, "", 400, "windowsAzureADJoin"},
			{graphsim.MacOS, graphsim.Company, "", 400, "appleBulkWithUser"},
			{graphsim.Linux, graphsim.Personal, "", 400, "userEnrollment"},
			{graphsim.ChromeOS, graphsim.Personal, "", 400, "userEnrollment"},
			{graphsim.TvOS, graphsim.Company, "", 400, "appleBulkWithUser"},
		} {
			d := graphsim.StoryDevice(graphsim.StoryDone, 1, graphsim.StoryVariant(tc.platform, tc.owner, tc.enrollment), i)
			a := c.wantStatus(d, tc.want)
			if tc.want == 400 && (!strings.Contains(a.body, `"code":"BadRequest"`) || !strings.Contains(a.body, "An error has occurred")) {
				t.Errorf("%s: %s", d, a.body)
			}
			if told := graphsim.Told(d); (told == "") != (tc.want == 400) || s.Resets(d) == 1 != (tc.want == 204) {
				t.Errorf("%s: told %q, %d resets", d, told, s.Resets(d))
			}
			v := c.view(d, allMembers)
			if v.OS == nil || *v.OS != string(tc.platform) || v.Owner != string(tc.owner) || v.Enrollment != tc.shows {
				t.Errorf("%s: %s", d, v.text)
			}
		}
		noViolations(t, s)
	})
}

// TestCanaries: each answer holds a passcode, a PIN, a place and a name, each of
// this device and of no other, and all of them are known as secrets.
func TestCanaries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{})
		seen := map[string]bool{}
		for i := range 3 {
			d := graphsim.GoodDevice(i)
			text := c.view(d, allMembers).text
			for _, secret := range s.Secrets() {
				if at := strings.Index(text, secret); at >= 0 {
					full, _, _ := strings.Cut(text[at:], `"`)
					seen[full] = true
				}
			}
			c.wantStatus(d, http.StatusNoContent)
			passcode := ""
			for _, e := range first(list(t, c.get(d))) {
				if e.Name == "resetPasscode" {
					passcode = e.Passcode
				}
			}
			if !slices.Contains(s.Secrets(), passcode) {
				t.Errorf("%q is no secret", passcode)
			}
		}
		if len(seen) != 9 {
			t.Errorf("%v", seen)
		}
	})
}

func first[A, B any](a A, _ B) A { return a }

// TestReadQuota: reads have a quota of their own, and what is announced to a
// read forbids reads alone.
func TestReadQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{ReadQuota: 2, RetryAfter: graphsim.Seconds})
		d := graphsim.GoodDevice(1)
		for i, want := range []int{200, 200, 429} {
			if a := c.get(d); a.status != want || want == 429 && a.header.Get("Retry-After") != "20" {
				t.Errorf("read %d: %d %v", i, a.status, a.header)
			}
		}
		time.Sleep(time.Second) // fake time
		c.wantStatus(d, http.StatusNoContent)
		if lastCall(t, s).SentDuringRetryAfter {
			t.Error("a POST is early after what was announced to a GET")
		}
		if a := c.list(listQuery); a.status != 429 || !lastCall(t, s).SentDuringRetryAfter {
			t.Errorf("%d %+v", a.status, lastCall(t, s))
		}
		time.Sleep(19 * time.Second) // fake time
		if a := c.get(d); a.status != 200 || lastCall(t, s).SentDuringRetryAfter {
			t.Errorf("%d %+v", a.status, lastCall(t, s))
		}
		// What is announced to a POST forbids both.
		c.wantStatus(graphsim.FaultDevice(429, 0, 1, 1), 429)
		time.Sleep(100 * time.Millisecond) // fake time
		c.get(d)
		if !lastCall(t, s).SentDuringRetryAfter {
			t.Error("a GET is not early after what was announced to a POST")
		}
		if st, state := s.Status(), s.Device(d); st.DuringRetry != 2 || st.Throttled != 3 || state.Gets != 5 {
			t.Errorf("%+v, %+v", st, state)
		}
		s.Forget()
		if a := c.get(d); a.status != 200 {
			t.Errorf("%d after it was forgotten", a.status)
		}
	})
}
