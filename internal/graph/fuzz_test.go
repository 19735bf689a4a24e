package graph

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func FuzzRetryAfter(f *testing.F) {
	forms := []string{"1", "2.128", "0.9", "-1", "1e400", "inf", "nan", "0x1p-2", "Sun, 22 Nov 2026 10:00:30 GMT", "Sun Nov 22 10:00:30 2026", "", "0,120", "soon"}
	for i, s := range forms {
		f.Add(s, forms[len(forms)-1-i], "Sun, 22 Nov 2026 10:00:00 GMT")
		f.Add(s, "", "")
	}
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, one, other, date string) {
		read := func(lines ...string) time.Duration {
			got := retryAfter(http.Header{"Retry-After": lines, "Date": {date}}, now)
			if got < 0 || got > 365*24*time.Hour {
				t.Errorf("%q at %q: %v", lines, date, got)
			}
			if got%time.Millisecond != 0 {
				t.Errorf("%q at %q: %v is not rounded", lines, date, got)
			}
			return got
		}
		// Of several, the longest; in one line, at least that: an end and a
		// beginning may make a date.
		longest := max(read(one), read(other))
		if got := read(one, other); got != longest {
			t.Errorf("%q and %q at %q: %v, want %v", one, other, date, got, longest)
		}
		if got := read(one + "," + other); got < longest {
			t.Errorf("%q and %q at %q: %v in one line, want at least %v", one, other, date, got, longest)
		}
	})
}

// FuzzDevice puts a secret wherever Graph may write one, and other members
// around it, and looks for it in all that comes out.
func FuzzDevice(f *testing.F) {
	const reset = "#microsoft.graph.resetPasscodeActionResult"
	f.Add(reset, "resetPasscode", "done", "2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z", `"errorCode":0`, `[]`, "iOS")
	f.Add(reset, "setDeviceName", "", "0001-01-01T00:00:00Z", "", `"errorCode":-2147023728,"actionName":7`, `null`, "")
	f.Add("", "locateDevice", "pending", "yesterday", "9999-12-31T23:59:59Z", `"deviceName":"SimCanary"`, `7`, "Android\r\n")
	f.Add("#microsoft.graph.remoteLockActionResult", "", "none", "", "", `"startDateTime":null,"ACTIONNAME":"x"`, `{"a":1}`, "windows")
	const canary = "CANARY-PASSCODE-48291357"
	f.Fuzz(func(t *testing.T, kind, name, state, started, updated, member, other, facts string) {
		quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
		entry := `{"@odata.type":` + quote(kind) + `,"passcode":"` + canary + `","unlockPin":"` + canary + `","deviceLocation":{"latitude":"` + canary +
			`","actionName":"` + canary + `"},"deviceName":["` + canary + `"],"actionName":` + quote(name) + `,"actionState":` + quote(state) +
			`,"startDateTime":` + quote(started) + `,"lastUpdatedDateTime":` + quote(updated)
		about := `{"deviceName":"` + canary + `","managedDeviceName":{"operatingSystem":"` + canary + `"},"operatingSystem":` + quote(facts) +
			`,"managedDeviceOwnerType":` + other + `,"deviceEnrollmentType":` + quote(kind) + `,"managementState":` + quote(state) + `,"lastSyncDateTime":` + quote(started)
		for _, body := range []string{
			device(`[` + entry + `},` + other + `]`),
			device(`[` + entry + `,` + member + `}]`),
			device(entry + `}`),
			`{"deviceName":"` + canary + `","deviceActionResults":[` + entry + `}],` + member + `}`,
			device(`[` + entry),
			about + `,"id":"` + testDevice + `","deviceActionResults":[` + entry + `}]}`,
			about + `,"id":"` + testDevice + `",` + member + `}`,
			about + `,"deviceActionResults":` + other + `}`,
		} {
			got, err := readDevice([]byte(body), testDevice, []string{"mine"})
			if text := fmt.Sprintf("%+v %v", got, err); strings.Contains(text, canary) {
				t.Errorf("%s\nfrom %s", text, body)
			}
			checkWords(t, got.OS, got.Owner, got.Enrollment, got.Management)
			for _, a := range got.List {
				checkWords(t, a.Name, a.State, a.Type)
			}
			checkFindings(t, got.List)
		}
	})
}

// checkWords checks what comes of a text of Graph's.
func checkWords(t *testing.T, words ...string) {
	t.Helper()
	for _, w := range words {
		if len(w) > maxCode || w != oneLine(w) {
			t.Errorf("%q", w)
		}
	}
}

// checkFindings checks that what is found in a list agrees with itself.
func checkFindings(t *testing.T, list []Action) {
	t.Helper()
	since := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	f := ResetSince(list, since)
	if (f.Sight == SightReset) != !f.Reset.Started.IsZero() || f.Reset.Started.Before(since) && f.Sight == SightReset || (f.Doubt != "") != (f.Sight == SightDoubt) {
		t.Errorf("%+v of %+v", f, list)
	}
	w := Window{From: since, To: since.Add(time.Minute)}
	o := OwnReset(list, w)
	if (o.Own == OwnFound) != !o.Reset.Started.IsZero() || o.Own == OwnFound && !w.holds(o.Reset.Started) || o.Doubt != "" && o.Own != OwnPending {
		t.Errorf("%+v of %+v", o, list)
	}
	if o.Own != OwnPending && f.Sight != SightReset {
		t.Errorf("%+v, but %+v, of %+v", o, f, list)
	}
	if o.Own == OwnFound {
		w.Start = o.Reset.Started
		if again := OwnReset(list, w); again.Own != OwnFound || !again.Reset.Started.Equal(w.Start) {
			t.Errorf("%+v, then %+v, of %+v", o, again, list)
		}
	}
}

func FuzzClaimsChallenge(f *testing.F) {
	f.Add(`Bearer realm="", error="insufficient_claims", claims="eyJhIjoxfQ=="`)
	f.Add(`Bearer claims="eyJhIjoxfQ"`)
	f.Add(`Bearer claims="`)
	f.Add(`claims=""`)
	f.Add(`Bearer claims="W10="`)
	f.Fuzz(func(t *testing.T, header string) {
		got := claimsChallenge([]string{header})
		if got == "" {
			return
		}
		var object map[string]any
		if err := json.Unmarshal([]byte(got), &object); err != nil {
			t.Errorf("%q from %q: %v", got, header, err)
		}
		if len(got) > 8<<10 {
			t.Errorf("%d bytes", len(got))
		}
	})
}

func FuzzErrorText(f *testing.F) {
	for _, b := range bodies {
		if len(b.body) < 10_000 {
			f.Add([]byte(b.body), testSecret)
		}
	}
	f.Add([]byte(graphError("a b", "x")), "a+b/c=")
	f.Fuzz(func(t *testing.T, body []byte, token string) {
		code, message := errorText(body, token)
		e := &Error{Kind: Refused, Status: 400, Code: code, Message: message}
		// A token has no spaces, and is longer than what takes its place.
		if len(token) <= len("[secret]") || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			token = "\x00"
		}
		checkText(t, e, token)
	})
}

func FuzzClean(f *testing.F) {
	f.Add("9cd86503-7798-4f15-8000-000000000006", testSecret, 64)
	f.Add("a"+testSecret+"b", testSecret, 300)
	f.Add("ab", "a\u200b\tb", 300)
	f.Add("a+b", "a b", 300)
	f.Add("x", "", 0)
	f.Add("ab cd", "", 3) // a cut leaves no space at the end
	f.Fuzz(func(t *testing.T, s, secret string, limit int) {
		limit = max(0, limit)
		if got, want := clean(s, limit, secret, "another"), cleaned(s, limit, []string{secret, "another"}); got != want {
			t.Errorf("%q without %q: %q instead of %q", s, secret, got, want)
		} else if strings.HasSuffix(got, " ") {
			t.Errorf("%q cut at %d: %q", s, limit, got)
		}
	})
}
