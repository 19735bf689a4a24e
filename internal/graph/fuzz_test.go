package graph

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"1", "2.128", "0.9", "-1", "1e400", "inf", "nan", "0x1p-2", "Sun, 22 Nov 2026 10:00:30 GMT", "Sun Nov 22 10:00:30 2026", ""} {
		f.Add(s, "Sun, 22 Nov 2026 10:00:00 GMT")
		f.Add(s, "")
	}
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value, date string) {
		h := http.Header{"Retry-After": {value}, "Date": {date}}
		got := retryAfter(h, now)
		if got < 0 || got > 365*24*time.Hour {
			t.Errorf("%q at %q: %v", value, date, got)
		}
		if got%time.Millisecond != 0 {
			t.Errorf("%q at %q: %v is not rounded", value, date, got)
		}
	})
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
	f.Fuzz(func(t *testing.T, s, secret string, limit int) {
		limit = max(0, limit)
		if got, want := clean(s, limit, secret, "another"), cleaned(s, limit, []string{secret, "another"}); got != want {
			t.Errorf("%q without %q: %q instead of %q", s, secret, got, want)
		}
	})
}
