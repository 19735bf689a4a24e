package graph

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

const testPasscode = "48291357"

// device is the answer to the reading of testDevice.
func device(results string) string {
	return `{"@odata.context":"c","id":"` + testDevice + `","deviceActionResults":` + results + `}`
}

// TestAction reads entries as they were seen in the wild, and odd ones.
func TestAction(t *testing.T) {
	t.Parallel()
	const reset = `"@odata.type":"#microsoft.graph.resetPasscodeActionResult",`
	const dates = `"startDateTime":"2026-11-22T10:00:00.6222751Z","lastUpdatedDateTime":"2026-11-22T10:00:00Z"`
	start := time.Date(2026, 11, 22, 10, 0, 0, 622275100, time.UTC)
	second := start.Truncate(time.Second)
	like := func(what What, name string) Action {
		return Action{What: what, Name: name, Started: start, Updated: second}
	}
	for _, tc := range []struct {
		entry string
		want  Action
	}{
		// As documented, or seen.
		{`{` + reset + `"actionName":"resetPasscode","actionState":"pending",` + dates + `,"passcode":"` + testPasscode + `","errorCode":0}`,
			Action{What: ActionReset, Name: "resetPasscode", State: "pending", Started: start, Updated: second, ErrorCode: 0}},
		{`{` + reset + `"actionName":"resetPasscode","actionState":"failed",` + dates + `,"passcode":null,"errorCode":-2147023728}`,
			Action{What: ActionReset, Name: "resetPasscode", State: "failed", Started: start, Updated: second, ErrorCode: -2147023728}},
		{`{` + reset + `"actionName":"setDeviceName","actionState":"done",` + dates + `,"passcode":"` + testPasscode + `","errorCode":-2147023728}`,
			Action{What: ActionOther, Name: "setDeviceName", State: "done", Started: start, Updated: second, ErrorCode: -2147023728}},
		{`{"actionName":"windowsDefenderUpdateSignatures","actionState":"done",` + dates + `}`,
			Action{What: ActionOther, Name: "windowsDefenderUpdateSignatures", State: "done", Started: start, Updated: second, ErrorCode: 0}},
		{`{"@odata.type":"#microsoft.graph.windowsDefenderScanActionResult","actionName":"windowsDefenderScan",` + dates + `,"scanType":"quick"}`,
			like(ActionOther, "windowsDefenderScan")},
		{`{"@odata.type":"#microsoft.graph.locateDeviceActionResult","actionName":"locateDevice",` + dates + `,"deviceLocation":{"latitude":1}}`,
			like(ActionOther, "locateDevice")},
		{`{"@odata.type":"#microsoft.graph.remoteLockActionResult","actionName":"remoteLock",` + dates + `,"unlockPin":"` + testPasscode + `"}`,
			like(ActionOther, "remoteLock")},
		{`{` + reset + `"actionName":"remoteLock",` + dates + `}`, like(ActionOther, "remoteLock")},
		{`{` + reset + `"actionName":"WIPE",` + dates + `}`, like(ActionOther, "WIPE")},
		{`{` + reset + `"actionName":"recoverPasscode",` + dates + `}`, like(ActionOther, "recoverPasscode")},
		{`{` + reset + `"actionName":"collectlogs",` + dates + `}`, like(ActionOther, "collectlogs")},
		{`{` + reset + `"actionName":"rotateBitLockerKeys",` + dates + `}`, like(ActionOther, "rotateBitLockerKeys")},

		// By its name, whatever the type.
		{`{"actionName":"ResetPasscode",` + dates + `}`, like(ActionReset, "ResetPasscode")},
		{`{"actionName":"resetDevicePasscode",` + dates + `}`, like(ActionReset, "resetDevicePasscode")},
		{`{"actionName":"RemovePasscode",` + dates + `}`, like(ActionReset, "RemovePasscode")},
		{`{"actionName":"removedevicepasscode",` + dates + `}`, like(ActionReset, "removedevicepasscode")},
		{`{"@odata.type":"#microsoft.graph.deviceActionResult","actionName":"ClearPasscode",` + dates + `}`, like(ActionReset, "ClearPasscode")},
		{`{` + reset + `"actionName":" reset\u200bPasscode\n",` + dates + `}`, like(ActionReset, "resetPasscode")},
		{`{"actionName":"NewPIN",` + dates + `}`, like(ActionReset, "NewPIN")}, // configured
		{`{"@odata.type":7,"actionName":"resetPasscode",` + dates + `}`, like(ActionReset, "resetPasscode")},

		// By its type.
		{`{` + reset + dates + `}`, like(ActionReset, "")},
		{`{` + reset + `"actionName":null,` + dates + `}`, like(ActionReset, "")},
		{`{` + reset + `"actionName":"  ",` + dates + `}`, like(ActionReset, "")},
		{`{"@odata.type":"#Microsoft.Graph.ResetPasscodeActionResult","actionName":"",` + dates + `}`, like(ActionReset, "")},
		{`{"@odata.type":"https://graph.microsoft.com/v1.0/$metadata#microsoft.graph.resetPasscodeActionResult",` + dates + `}`, like(ActionReset, "")},
		{`{"@odata.type":"#microsoft.graph.locateDeviceActionResult",` + dates + `}`, like(ActionOther, "")},
		{`{"@odata.type":"#microsoft.graph.locateDeviceActionResult","actionName":7,` + dates + `}`, like(ActionOther, "")},

		// What may be a reset.
		{`{` + reset + `"actionName":"resetPasscode2",` + dates + `}`, like(ActionUnclear, "resetPasscode2")},
		{`{` + reset + `"actionName":"` + strings.Repeat("é", 100) + `",` + dates + `}`, like(ActionUnclear, strings.Repeat("é", 32))},
		{`{` + reset + `"actionName":{"passcode":"` + testPasscode + `"},` + dates + `}`, like(ActionUnclear, "")},
		{`{"@odata.type":["resetPasscodeActionResult"],"actionName":"odd",` + dates + `}`, like(ActionUnclear, "odd")},
		{`{"@odata.type":7,` + dates + `}`, like(ActionUnclear, "")},
		{`{"actionName":` + testPasscode + `,` + dates + `}`, like(ActionUnclear, "")},
		{`{"@odata.type":"#microsoft.graph.deviceActionResult",` + dates + `}`, like(ActionUnclear, "")},
		{`{` + dates + `}`, like(ActionUnclear, "")},
		{`{}`, Action{}}, {`null`, Action{}}, {`7`, Action{}}, {`"` + testPasscode + `"`, Action{}}, {`[]`, Action{}},

		// What is not a reset, although nobody knows what it is.
		{`{"actionName":"somethingNew",` + dates + `}`, like(ActionOther, "somethingNew")},
		{`{"@odata.type":7,"actionName":"rebootNow",` + dates + `}`, like(ActionOther, "rebootNow")},

		// Members that are missing or odd.
		{`{"actionName":"resetPasscode"}`, Action{What: ActionReset, Name: "resetPasscode"}},
		{`{"actionName":"resetPasscode","actionState":4,"startDateTime":null,"lastUpdatedDateTime":null,"errorCode":null}`,
			Action{What: ActionReset, Name: "resetPasscode"}},
		{`{"actionName":"resetPasscode","startDateTime":"0001-01-01T00:00:00Z","lastUpdatedDateTime":"0001-01-01T00:00:00+01:00"}`,
			Action{What: ActionReset, Name: "resetPasscode"}},
		{`{"actionName":"resetPasscode","startDateTime":"9999-12-31T23:59:59.9999999Z","lastUpdatedDateTime":"yesterday"}`,
			Action{What: ActionReset, Name: "resetPasscode"}},
		{`{"actionName":"resetPasscode","startDateTime":` + testPasscode + `,"lastUpdatedDateTime":{"passcode":"` + testPasscode + `"},"errorCode":"0"}`,
			Action{What: ActionReset, Name: "resetPasscode"}},
		{`{"actionName":"resetPasscode","actionState":"a\r\nb","errorCode":2147483648}`, Action{What: ActionReset, Name: "resetPasscode", State: "a b"}},
		{`{"actionName":"resetPasscode","errorCode":1.5}`, Action{What: ActionReset, Name: "resetPasscode"}},
	} {
		got := action([]byte(tc.entry), []string{"newpin"})
		if said := strings.ToLower(tc.entry); got.Type != "" && !strings.Contains(said, strings.ToLower(got.Type)+`"`) ||
			got.Type == "" && strings.Contains(said, `"@odata.type":"`) {
			t.Errorf("%s: type %q", tc.entry, got.Type)
		}
		got.Type = ""
		if got != tc.want {
			t.Errorf("%s:\n%+v, want\n%+v", tc.entry, got, tc.want)
		}
		if strings.Contains(fmt.Sprintf("%+v", got), testPasscode) {
			t.Errorf("%s: %+v", tc.entry, got)
		}
	}
}

// TestOddityIsTrue: an action whose name cannot be read may well have the type of a reset.
func TestOddityIsTrue(t *testing.T) {
	t.Parallel()
	const entry = `{"@odata.type":"#microsoft.graph.resetPasscodeActionResult","actionName":{}}`
	if got := oddity(action([]byte(entry), nil)); got != "an action has no name that tells what it is" {
		t.Error(got)
	}
}

// TestActions reads whole answers: by hand, and through a call.
func TestActions(t *testing.T) {
	t.Parallel()
	const entry = `{"actionName":"resetPasscode","startDateTime":"2026-11-22T10:00:00Z"}`
	for name, tc := range map[string]struct {
		body string
		list int // -1: none
		err  error
	}{
		"none":                 {device(`[]`), 0, nil},
		"some":                 {device(`[` + entry + `,{"actionName":"rebootNow"},null,7]`), 4, nil},
		"no id":                {`{"deviceActionResults":[` + entry + `]}`, 1, nil},
		"other case of the id": {strings.Replace(device(`[`+entry+`]`), testDevice, strings.ToUpper(testDevice), 1), 1, nil},
		"no results":           {`{"id":"` + testDevice + `"}`, -1, nil},
		"null results":         {device("null"), -1, nil},

		"empty":             {"", -1, errNoDevice},
		"null":              {"null", -1, errNoDevice},
		"empty object":      {"{}", -1, errNoDevice},
		"HTML":              {"<html>" + testPasscode + "</html>", -1, errNoDevice},
		"list":              {`{"value":[` + device(`[]`) + `]}`, -1, errNoDevice},
		"other device":      {strings.Replace(device(`[]`), "0a1b", "ffff", 1), -1, errNoDevice},
		"id of a type":      {`{"id":7,"deviceActionResults":[]}`, -1, errNoDevice},
		"results of a type": {device(`"` + testPasscode + `"`), -1, errNoDevice},
		"cut":               {strings.TrimSuffix(device(`[{"actionName":"resetPasscode","passcode":"`+testPasscode), "}"), -1, errNoDevice},
		"broken":            {device(`[{"passcode":"` + testPasscode + `"x}]`), -1, errNoDevice},
		"more after it":     {device(`[]`) + testPasscode, -1, errNoDevice},
	} {
		read, err := readDevice([]byte(tc.body), testDevice, nil)
		list := read.List
		if n := len(list); (list == nil) != (tc.list < 0) || n != max(0, tc.list) || !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, %v; want %d, %v", name, list, err, tc.list, tc.err)
		}
		// The same through a call.
		_, c := serve(t, true, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tc.body) })
		got, err := c.Actions(t.Context(), testDevice, within(longEnough))
		if !slices.Equal(got.List, list) || (got.List == nil) != (list == nil) || (err != nil) != (tc.err != nil) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err != nil {
			if e := wantKind(t, err, Unknown); e.Status != 200 {
				t.Error(e)
			}
			noTrace(t, err, testPasscode)
		}
	}
}

// TestUnknownActions checks that a name which may be a reset's is told, and no other.
func TestUnknownActions(t *testing.T) {
	t.Parallel()
	const reset = `{"@odata.type":"#microsoft.graph.resetPasscodeActionResult","passcode":"` + testPasscode + `","actionName":`
	s, _ := serve(t, true, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, device(`[`+reset+`"new\r\nName"},`+reset+`"setDeviceName"},`+reset+`"mine"},`+reset+`null},`+reset+`7},{"actionName":"other"}]`))
	})
	var told []string
	c, err := New(Config{Endpoint: s.URL, UserAgent: "test", RootCAs: roots(s), ActionNames: []string{"Mine"},
		UnknownAction: func(name string) { told = append(told, name) }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Actions(t.Context(), testDevice, within(longEnough)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, []string{"new Name"}) {
		t.Errorf("%q", told)
	}
}

func TestActionNames(t *testing.T) {
	t.Parallel()
	for list, want := range map[string][]string{
		"": nil, "  ": nil, "newPIN": {"newPIN"}, " a b , c.d ": {"a b", "c.d"},
	} {
		if got, err := ActionNames(list); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", list, got, err)
		}
	}
	for list, says := range map[string]string{
		"a,,b": "empty name", ",": "empty name", "SetDeviceName": "not a reset", "a\tb": "plain characters",
		strings.Repeat("a", maxCode+1): "plain characters",
	} {
		if got, err := ActionNames(list); err == nil || got != nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %q, %v", list, got, err)
		}
	}
}

// TestNoPasscode sends a passcode in every sort of answer.
func TestNoPasscode(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		full := device(`[{"actionName":"resetPasscode","startDateTime":"2026-11-22T10:00:00Z","passcode":"` + testPasscode + `"}]`)
		for name, tc := range map[string]struct {
			status int
			body   string
			want   Kind // 0: success
		}{
			"success":                {200, full, 0},
			"203":                    {203, full, Unknown},
			"206":                    {206, full, Unknown},
			"500":                    {500, full, Unknown},
			"500, in the message":    {500, graphError("InternalServerError", "cannot write "+full), Unknown},
			"500, in Intune's":       {500, graphError("InternalServerError", intune(full)), Unknown},
			"503":                    {503, graphError("ServiceUnavailable", full), Unavailable},
			"403":                    {403, graphError("Forbidden", full), Forbidden},
			"404":                    {404, graphError("NotFound", testPasscode), Refused},
			"too large":              {200, full + strings.Repeat(" ", maxDeviceBody), Unknown},
			"too large, of passcode": {200, strings.Repeat(testPasscode, maxDeviceBody/8+1), Unknown},
		} {
			_, c := serve(t, http2, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			actions, err := c.Actions(t.Context(), testDevice, within(longEnough))
			if tc.want == 0 {
				if err != nil || strings.Contains(fmt.Sprintf("%+v", actions), testPasscode) {
					t.Errorf("%s: %+v, %v", name, actions, err)
				}
				continue
			}
			e := wantKind(t, err, tc.want)
			if e.Status != tc.status {
				t.Errorf("%s: %v", name, e)
			}
			noTrace(t, err, testPasscode)
			if fmt.Sprintf("%+v", actions) != fmt.Sprintf("%+v", Actions{}) {
				t.Errorf("%s: %+v beside an error", name, actions)
			}
		}
	})
}

// resetsOf are the resets in a list.
func resetsOf(a Actions) []Action {
	return slices.DeleteFunc(slices.Clone(a.List), func(a Action) bool { return a.What != ActionReset })
}

// TestActionsOfSimulator reads what became of a reset, with Graph's clock ahead
// and behind.
func TestActionsOfSimulator(t *testing.T) {
	t.Parallel()
	for _, offset := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		s := simulate(t, graphsim.Config{ClockOffset: offset})
		c, token := simClient(t, s)
		call := func() Call {
			call := within(longEnough)
			call.Token = token
			return call
		}
		id := graphsim.GoodDevice(1)
		before := time.Now()
		for n := range 3 {
			actions, err := c.Actions(t.Context(), id, call())
			if err != nil {
				t.Fatal(err)
			}
			began := resetsOf(actions)
			if len(began) != n || actions.Status != 200 || actions.RequestID == "" {
				t.Errorf("%+v after %d resets", actions, n)
			}
			// The Date header is cut to whole seconds.
			if late := offset - actions.Ahead; late < -100*time.Millisecond || late > 1100*time.Millisecond {
				t.Errorf("ahead by %v, want %v", actions.Ahead, offset)
			}
			for _, r := range began {
				if ours := r.Started.Add(-offset); ours.Before(before.Add(-time.Second)) || ours.After(time.Now().Add(time.Second)) {
					t.Errorf("began at %v", ours)
				}
			}
			for _, secret := range s.Secrets() {
				if strings.Contains(fmt.Sprintf("%+v %#v", actions, actions), secret) {
					t.Errorf("%+v holds %q", actions, secret)
				}
			}
			if _, err := c.Reset(t.Context(), Target{Device: id}, call()); err != nil {
				t.Fatal(err)
			}
		}
		_, err := c.Actions(t.Context(), graphsim.FaultDevice(404, 0, 0, 1), call())
		if e := wantKind(t, err, Refused); e.Status != 404 {
			t.Error(e)
		}
		if v := s.Violations(); len(v) > 0 {
			t.Error(v)
		}
	}

	s := simulate(t, graphsim.Config{Roles: []string{graphsim.RoleReset}})
	c, token := simClient(t, s)
	call := within(longEnough)
	call.Token = token
	_, err := c.Actions(t.Context(), testDevice, call)
	if e := wantKind(t, err, Forbidden); e.Code != "Forbidden" || e.Message != "" {
		t.Errorf("%#v", e)
	}
}

// TestAhead checks that the clocks' difference is the least that it can be:
// neither the time that connecting took nor that of the answer adds to it. It
// is 0 without a date.
func TestAhead(t *testing.T) {
	t.Parallel()
	most := make(chan time.Duration, 1)
	_, c := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		if r.Header.Get("Client-Request-Id") == "dated" {
			date := time.Now().Add(time.Hour).Truncate(time.Second)
			w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
			<-time.After(soon)
			most <- time.Until(date)
		}
		_, _ = io.WriteString(w, device(`[]`))
	})
	c.conns.transport.DialContext = slowly(c.conns.transport.DialContext, soon)
	call := within(longEnough)
	call.ClientRequestID = "dated"
	before := time.Now()
	actions, err := c.Actions(t.Context(), testDevice, call)
	if took := time.Since(before); err != nil || actions.Ahead > <-most || actions.Ahead < time.Hour-time.Second-took {
		t.Errorf("%v after %v, %v", actions.Ahead, took, err)
	}
	actions, err = c.Actions(t.Context(), testDevice, within(longEnough))
	if err != nil || actions.Ahead != 0 {
		t.Errorf("%v, %v", actions.Ahead, err)
	}
}
