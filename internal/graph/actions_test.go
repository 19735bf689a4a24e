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

func TestResets(t *testing.T) {
	t.Parallel()
	at := func(s string) Action {
		when, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return Action{Started: when}
	}
	const first, second = "2026-11-22T10:00:00Z", "2026-11-22T10:00:01.5Z"
	for name, tc := range map[string]struct {
		body string
		want []Action
		err  error
	}{
		"none":  {device(`[]`), nil, nil},
		"no id": {`{"deviceActionResults":[{"actionName":"resetPasscode","startDateTime":"` + first + `"}]}`, []Action{at(first)}, nil},
		"by name and type": {device(`[{"@odata.type":"#microsoft.graph.resetPasscodeActionResult","actionName":"resetPasscode",
			"actionState":"pending","startDateTime":"` + first + `","passcode":"` + testPasscode + `","errorCode":0}]`), []Action{at(first)}, nil},
		"by name":  {device(`[{"actionName":"ResetPasscode","startDateTime":"` + first + `"}]`), []Action{at(first)}, nil},
		"by type":  {device(`[{"@odata.type":"#Microsoft.Graph.ResetPasscodeActionResult","actionName":null,"startDateTime":"` + first + `"}]`), []Action{at(first)}, nil},
		"two":      {device(`[{"actionName":"resetPasscode","startDateTime":"` + second + `"},{"actionName":"resetPasscode","startDateTime":"` + first + `"}]`), []Action{at(second), at(first)}, nil},
		"others":   {device(`[{"actionName":"rebootNow","startDateTime":"` + first + `"},{"@odata.type":"#microsoft.graph.locateDeviceActionResult","startDateTime":"` + first + `"}]`), nil, nil},
		"odd ones": {device(`[{"actionName":"rebootNow","startDateTime":"yesterday"},{"actionName":"wipe","startDateTime":7},{"actionName":"lock"}]`), nil, nil},
		"other case of the id": {strings.Replace(device(`[{"actionName":"resetPasscode","startDateTime":"`+first+`"}]`),
			testDevice, strings.ToUpper(testDevice), 1), []Action{at(first)}, nil},

		"empty":              {"", nil, errNoDevice},
		"null":               {"null", nil, errNoDevice},
		"empty object":       {"{}", nil, errNoDevice},
		"HTML":               {"<html>" + testPasscode + "</html>", nil, errNoDevice},
		"list":               {`{"value":[` + device(`[]`) + `]}`, nil, errNoDevice},
		"other device":       {strings.Replace(device(`[]`), "0a1b", "ffff", 1), nil, errNoDevice},
		"no results":         {`{"id":"` + testDevice + `"}`, nil, errNoDevice},
		"null results":       {device("null"), nil, errNoDevice},
		"results of a type":  {device(`"` + testPasscode + `"`), nil, errNoDevice},
		"cut":                {strings.TrimSuffix(device(`[{"actionName":"resetPasscode","passcode":"`+testPasscode), "}"), nil, errNoDevice},
		"broken":             {device(`[{"passcode":"` + testPasscode + `"x}]`), nil, errNoDevice},
		"more after it":      {device(`[]`) + testPasscode, nil, errNoDevice},
		"name is a number":   {device(`[{"actionName":` + testPasscode + `,"startDateTime":"` + first + `"}]`), nil, errNoDevice},
		"no name":            {device(`[{"startDateTime":"` + first + `"}]`), nil, errNoStart},
		"empty result":       {device(`[{}]`), nil, errNoStart},
		"null result":        {device(`[null]`), nil, errNoStart},
		"start missing":      {device(`[{"actionName":"resetPasscode"}]`), nil, errNoStart},
		"start null":         {device(`[{"actionName":"resetPasscode","startDateTime":null}]`), nil, errNoStart},
		"start zero":         {device(`[{"actionName":"resetPasscode","startDateTime":"0001-01-01T00:00:00Z"}]`), nil, errNoStart},
		"start is a number":  {device(`[{"actionName":"resetPasscode","startDateTime":` + testPasscode + `}]`), nil, errNoStart},
		"start is text":      {device(`[{"actionName":"resetPasscode","startDateTime":"` + testPasscode + `"}]`), nil, errNoStart},
		"start is an object": {device(`[{"actionName":"resetPasscode","startDateTime":{"passcode":"` + testPasscode + `"}}]`), nil, errNoStart},
	} {
		got, err := resets([]byte(tc.body), testDevice)
		if !slices.EqualFunc(got, tc.want, func(a, b Action) bool { return a.Started.Equal(b.Started) }) || !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, %v; want %v, %v", name, got, err, tc.want, tc.err)
		}
		if err != nil {
			noTrace(t, err, testPasscode)
		}
		// The same through a call.
		_, c := serve(t, true, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tc.body) })
		actions, err := c.Actions(t.Context(), testDevice, within(longEnough))
		if len(actions.Resets) != len(tc.want) || (err != nil) != (tc.err != nil) {
			t.Errorf("%s: %v, %v", name, actions, err)
		}
		if err != nil {
			wantKind(t, err, Unknown)
			noTrace(t, err, testPasscode)
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
			if len(actions.Resets) != n || actions.Status != 200 || actions.RequestID == "" {
				t.Errorf("%+v after %d resets", actions, n)
			}
			// The Date header is cut to whole seconds.
			if late := offset - actions.Ahead; late < -100*time.Millisecond || late > 1100*time.Millisecond {
				t.Errorf("ahead by %v, want %v", actions.Ahead, offset)
			}
			for _, r := range actions.Resets {
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
