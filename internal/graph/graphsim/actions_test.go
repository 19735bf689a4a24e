package graphsim_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// listed is an entry of a device's list, as a stranger reads it.
type listed struct {
	Type     string  `json:"@odata.type"`
	Name     string  `json:"actionName"`
	Started  *string `json:"startDateTime"`
	Passcode string  `json:"passcode"`
	Pin      string  `json:"unlockPin"`
	Code     *int    `json:"errorCode"`
}

func list(t *testing.T, a answer) (entries []listed, text string) {
	t.Helper()
	var doc map[string]json.RawMessage
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.status != http.StatusOK {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	raw, ok := doc["deviceActionResults"]
	if !ok {
		return nil, "missing"
	}
	if err := json.Unmarshal(raw, &entries); err != nil {
		t.Fatal(err)
	}
	return entries, string(raw)
}

// Every list, by the device's id: after a call that was cut, before and after
// its execution.
func TestActionLists(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		s := start(t, graphsim.Config{})
		c := newClient(t, s, h2)
		for variant := graphsim.ListPlain; variant <= graphsim.ListUnknownName; variant++ {
			for executed, code := range []int{701, 702} {
				d := graphsim.FaultDevice(code, 1, int(variant), 1)
				if a, err := c.send(c.request(context.Background(), http.MethodPost, resetPath(d))); err == nil {
					t.Fatalf("%s was answered: %+v", d, a)
				}
				if s.Resets(d) != executed {
					t.Errorf("%s: %d resets", d, s.Resets(d))
				}
				entries, text := list(t, c.get(d))
				named := map[string]int{}
				for _, e := range entries {
					named[e.Name]++
				}
				resets := executed
				switch variant {
				case graphsim.ListRenamed:
					e := entries[1+executed]
					if e.Name != "setDeviceName" || e.Type != "#microsoft.graph.resetPasscodeActionResult" || e.Passcode == "" || e.Code == nil || *e.Code >= 0 {
						t.Errorf("%s: %s", d, text)
					}
				case graphsim.ListOthers:
					if len(entries) != 9+executed || !strings.Contains(text, `{"actionName":"rebootNow"`) || named["remoteLock"] != 2 || named["locateDevice"] != 2 {
						t.Errorf("%s: %s", d, text)
					}
				case graphsim.ListSeveral:
					resets += 3
				case graphsim.ListStartNull, graphsim.ListStartZero, graphsim.ListStartOdd:
					resets = 1
					want := map[graphsim.ActionList]string{graphsim.ListStartNull: `"startDateTime":null,"lastUpdatedDateTime":null`,
						graphsim.ListStartZero: `"startDateTime":"0001-01-01T00:00:00Z"`, graphsim.ListStartOdd: `"startDateTime":"11/27`}[variant]
					if !strings.Contains(text, want) {
						t.Errorf("%s: %s", d, text)
					}
				case graphsim.ListNull, graphsim.ListMissing:
					resets = 0
					if want := map[graphsim.ActionList]string{graphsim.ListNull: "null", graphsim.ListMissing: "missing"}[variant]; text != want {
						t.Errorf("%s: %s", d, text)
					}
				case graphsim.ListLate:
					resets = 0
				case graphsim.ListUnknownName:
					resets = 0
					if named["renewDevicePin"] != 1 {
						t.Errorf("%s: %s", d, text)
					}
				}
				if named["resetPasscode"] != resets || len(entries) > 0 && named["syncDevice"] != 1 {
					t.Errorf("%s: %v", d, named)
				}
				// What it holds is known as a secret.
				for _, e := range entries {
					for _, v := range []string{e.Passcode, e.Pin} {
						if v != "" && !isSecret(s, v) {
							t.Errorf("%s: %q is no secret", d, v)
						}
					}
				}
				c.wantStatus(d, http.StatusNoContent)
			}
		}
		noViolations(t, s)
		// A variant that is none is no fault.
		c.wantStatus(graphsim.FaultDevice(701, 0, 11, 1), http.StatusNoContent)
	})
}

// older is how many entries each list holds that began before the simulator.
const older = 3

// isSecret reports whether a text holds one of the simulator's secrets.
func isSecret(s *graphsim.Sim, text string) bool {
	return slices.ContainsFunc(s.Secrets(), func(secret string) bool { return strings.Contains(text, secret) })
}

func TestShowActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{})
		d := graphsim.GoodDevice(1)
		s.ShowActions("no GUID", graphsim.ListNull)
		s.ShowActions(d, graphsim.ListLate)
		c.wantStatus(d, http.StatusNoContent)
		shown := func(want int) {
			t.Helper()
			if entries, text := list(t, c.get(d)); len(entries) != want+older {
				t.Errorf("after %v: %s", time.Now(), text)
			}
		}
		shown(1)
		time.Sleep(5*time.Second - time.Millisecond) // fake time
		shown(1)
		time.Sleep(time.Millisecond) // fake time
		shown(2)
		s.ShowActions(d, graphsim.ListNull)
		if _, text := list(t, c.get(d)); text != "null" {
			t.Error(text)
		}
		s.ShowActions(d, graphsim.ListPlain)
		shown(2)
	})
}
