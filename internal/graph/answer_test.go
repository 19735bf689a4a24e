package graph

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// graphError is an error body as Graph writes it.
func graphError(code, message string) string {
	b, err := json.Marshal(map[string]any{"error": map[string]any{"code": code, "message": message,
		"innerError": map[string]any{"date": "2026-01-01T00:00:00", "request-id": "r"}}})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// intune is the JSON document that Intune puts into a message.
func intune(message string) string {
	b, err := json.Marshal(map[string]any{"_version": 3, "Message": message, "CustomApiErrorPhrase": "", "RetryAfter": nil})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// longToken is as long as a real one, and longer than an error's text.
var longToken = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9." + strings.Repeat("cGF5bG9hZA", 150) + ".c2lnbmF0dXJl"

// bodies are what a server may send beside an error's status.
var bodies = map[string]struct{ body, code, message string }{
	"none":                 {"", "", ""},
	"Graph's":              {graphError("BadRequest", "An error has occurred"), "BadRequest", "An error has occurred"},
	"empty message":        {graphError("UnknownError", ""), "UnknownError", ""},
	"Intune's":             {graphError("Forbidden", intune("Not allowed - Activity ID: 1")), "Forbidden", "Not allowed - Activity ID: 1"},
	"Intune's, indented":   {graphError("Forbidden", " \n"+intune("Not allowed")), "Forbidden", "Not allowed"},
	"Intune's, no message": {graphError("Forbidden", `{"_version":3}`), "Forbidden", `{"_version":3}`},
	"Intune's, broken":     {graphError("Forbidden", `{"_version":3,`), "Forbidden", `{"_version":3,`},
	"HTML":                 {"<html><h1>502 Bad Gateway</h1></html>", "", ""},
	"text":                 {"upstream connect error", "", ""},
	"cut JSON":             {`{"error":{"code":"A","message":"`, "", ""},
	"JSON string":          {`"error"`, "", ""},
	"error as a string":    {`{"error":"no"}`, "", ""},
	"null":                 {"null", "", ""},
	"10 MB":                {graphError("TooLong", strings.Repeat("x", 10<<20)), "", ""},
	"long":                 {graphError(strings.Repeat("C", 100), strings.Repeat("m", 1000)), strings.Repeat("C", 64), strings.Repeat("m", 300)},
	"control characters":   {graphError("A\r\nB: c", "one\r\ntwo\x00three\x1b[31m\tfour\u2028five"), "A B: c", "one two three [31m four five"},
	"bidi":                 {graphError("A", "a\u202eb\u2066c\u200bd\ufeffe"), "A", "abcde"},
	"invalid UTF-8":        {"{\"error\":{\"code\":\"A\xff\",\"message\":\"caf\xc3\xa9 \xf0\x28 \xed\xa0\x80!\"}}", "A", "café ( !"},
	"cut rune":             {graphError("A", strings.Repeat("x", 299)+"é"), "A", strings.Repeat("x", 299)},
	"token":                {graphError(testSecret, "Bearer "+testSecret+" is bad: "+testSecret), "[secret]", "Bearer [secret] is bad: [secret]"},
	"token, hidden":        {graphError("A", testSecret[:9]+"\u200b"+testSecret[9:]), "A", "[secret]"},
	"token in Intune's":    {graphError("A", intune("Bearer "+testSecret)), "A", "Bearer [secret]"},
}

func TestErrorBodies(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, bodies[r.Header.Get("Client-Request-Id")].body)
		})
		for name, tc := range bodies {
			call := within(longEnough)
			call.ClientRequestID = name
			_, err := c.Reset(t.Context(), Target{Device: testDevice}, call)
			e := wantKind(t, err, Refused)
			if e.Code != tc.code || e.Message != tc.message {
				t.Errorf("%s: %q, %q; want %q, %q", name, e.Code, e.Message, tc.code, tc.message)
			}
			checkText(t, &e, testSecret)
		}
	})
}

// checkText fails if an error's text is not fit for a log.
func checkText(t testing.TB, e *Error, secret string) {
	t.Helper()
	noTrace(t, e, secret)
	text := e.Error()
	if len(text) > 500 || len(e.Code) > maxCode || len(e.Message) > maxText || !utf8.ValidString(text) {
		t.Errorf("%d bytes: %q", len(text), text)
	}
	for _, r := range text {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			t.Errorf("%U in %q", r, text)
		}
	}
}

// TestLongTokenEchoed checks that no piece of a token is left where the text
// is cut.
func TestLongTokenEchoed(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "x", strings.Repeat("x", 290), strings.Repeat("\u200b", 3000), strings.Repeat(" ", 3000)} {
		code, message := errorText([]byte(graphError(before+longToken, before+longToken)), longToken)
		if strings.Contains(code+message, "eyJ") || strings.Contains(code+message, "cGF5") {
			t.Errorf("%q, %q", code, message)
		}
	}
}

func TestNoToken(t *testing.T) {
	t.Parallel()
	if _, message := errorText([]byte(graphError("A", "abc")), ""); message != "abc" {
		t.Errorf("%q", message)
	}
}

// TestSlowBody checks that a status counts whatever becomes of its body.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, http2 bool) {
		_, c := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				return // it only connects
			}
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(http.StatusTooManyRequests)
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, " "); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(time.Millisecond):
				}
			}
		})
		_, err := c.Actions(t.Context(), testDevice, within(longEnough))
		wantKind(t, err, Unknown)
		_, err = c.Reset(t.Context(), Target{Device: testDevice}, within(soon))
		if e := wantKind(t, err, Throttled); e.RetryAfter != 3*time.Second {
			t.Error(e)
		}
	})
}

func TestRequestIDIsCleaned(t *testing.T) {
	t.Parallel()
	_, c := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("request-id", "a\tb\xff "+r.Header.Get("Authorization")+strings.Repeat("x", 100))
		w.WriteHeader(http.StatusNoContent)
	})
	answer, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
	if want := "a b Bearer [secret]" + strings.Repeat("x", 45); err != nil || answer.RequestID != want {
		t.Errorf("%q, %v", answer.RequestID, err)
	}
}

func TestError(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*Error{
		"throttled: HTTP 429: TooManyRequests: slow down": {Kind: Throttled, Status: 429, Code: "TooManyRequests", Message: "slow down"},
		"unavailable: HTTP 503":                           {Kind: Unavailable, Status: 503},
		"not sent: a b":                                   {Kind: NotSent, Err: errors.New("a\r\nb")},
		"token refused: invalid_client":                   {Kind: TokenRefused, Code: "invalid_client"},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (&Error{Kind: NotSent, Err: errors.New(strings.Repeat("é", 1000))}).Error(); len(got) > 320 || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	const year = 365 * 24 * time.Hour
	for _, tc := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"0", "", 0},
		{"-1", "", 0},
		{"1", "", time.Second},
		{" 120 ", "", 2 * time.Minute},
		{"2.128", "", 2128 * time.Millisecond},
		{"0.9", "", 900 * time.Millisecond},
		{"0.0001", "", time.Millisecond},
		{"1e-300", "", time.Millisecond},
		{"86400", "", 24 * time.Hour},
		{"99999999999999999999999", "", year},
		{"1e400", "", 0},
		{"inf", "", 0},
		{"+Infinity", "", 0},
		{"NaN", "", 0},
		{"soon", "", 0},
		{"10 seconds", "", 0},
		{"Sun, 22 Nov 2026 10:00:30 GMT", "", 30 * time.Second},
		{"Sunday, 22-Nov-26 10:00:30 GMT", "", 30 * time.Second}, // RFC 850
		{"Sun Nov 22 10:00:30 2026", "", 30 * time.Second},       // asctime
		{"Sun, 22 Nov 2026 09:59:59 GMT", "", 0},
		{"Sun, 22 Nov 2026 10:00:30 GMT", "Sun, 22 Nov 2026 10:00:10 GMT", 20 * time.Second}, // by the server's clock
		{"Sun, 22 Nov 2026 08:00:30 GMT", "Sun, 22 Nov 2026 08:00:10 GMT", 20 * time.Second},
		{"Sun, 22 Nov 2026 10:00:30 GMT", "yesterday", 30 * time.Second},
		{"Fri, 31 Dec 9999 23:59:59 GMT", "", year},
		{"Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", year},
		// Several.
		{"30,120", "", 2 * time.Minute},
		{"120, 30", "", 2 * time.Minute},
		{"0,120", "", 2 * time.Minute},
		{"120,", "", 2 * time.Minute},
		{",,soon, 1.5 ,NaN,-9", "", 1500 * time.Millisecond},
		{"30\n120", "", 2 * time.Minute},
		{"120\nsoon\n30, 40", "", 2 * time.Minute},
		{"1e400,5", "", 5 * time.Second},
		{"5,Sun, 22 Nov 2026 10:00:30 GMT", "", 30 * time.Second},
		{"Sun, 22 Nov 2026 10:00:30 GMT, 5", "", 30 * time.Second},
		{"Sun, 22 Nov 2026 10:00:30 GMT,40", "", 40 * time.Second},
		{"Sun, 22 Nov 2026 10:00:30 GMT, Sunday, 22-Nov-26 10:01:00 GMT ,Sun Nov 22 10:00:50 2026", "", time.Minute},
		{"1\nSun, 22 Nov 2026 10:00:30 GMT", "Sun, 22 Nov 2026 10:00:10 GMT", 20 * time.Second},
		{"22 Nov 2026 10:00:30 GMT", "", 0},
		{"Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", 0},
	} {
		h := http.Header{}
		if tc.value != "" {
			h["Retry-After"] = strings.Split(tc.value, "\n")
		}
		if tc.date != "" {
			h.Set("Date", tc.date)
		}
		if got := retryAfter(h, now); got != tc.want {
			t.Errorf("%q at %q: %v, want %v", tc.value, tc.date, got, tc.want)
		}
	}
	// Never less than was asked for.
	for f := 0.001; f < 1e6; f *= 1.37 {
		h := http.Header{"Retry-After": {fmt.Sprint(f)}}
		if got := retryAfter(h, now).Seconds(); got < f-1e-9 || got > f+0.0011 {
			t.Errorf("%v: %v", f, got)
		}
	}
	if got := retryAfter(http.Header{"Retry-After": {fmt.Sprint(math.MaxFloat64)}}, now); got != year {
		t.Error(got)
	}
}

func TestClaimsChallenge(t *testing.T) {
	t.Parallel()
	const claims = `{"access_token":{"nbf":{"essential":true,"value":"1700000000>>>???~~~"}}}`
	std, url := base64.StdEncoding.EncodeToString([]byte(claims)), base64.RawURLEncoding.EncodeToString([]byte(claims))
	if std == url || !strings.Contains(std, "+") && !strings.Contains(std, "/") {
		t.Fatalf("the two encodings of %s do not differ", claims)
	}
	bearer := `Bearer realm="", authorization_uri="https://login.microsoftonline.com/common", error="insufficient_claims", claims="`
	for name, tc := range map[string]struct {
		headers []string
		want    string
	}{
		"none":            {nil, ""},
		"no claims":       {[]string{`Bearer realm="", error="invalid_token"`}, ""},
		"standard base64": {[]string{bearer + std + `"`}, claims},
		"unpadded":        {[]string{bearer + strings.TrimRight(std, "=") + `"`}, claims},
		"URL base64":      {[]string{bearer + url + `"`}, claims},
		"more after it":   {[]string{bearer + std + `", cc="K"`}, claims},
		"second header":   {[]string{"Negotiate", `Bearer claims="!"`, bearer + std + `"`}, claims},
		"no end quote":    {[]string{bearer + std}, ""},
		"not base64":      {[]string{bearer + `{"a":1}"`}, ""},
		"not JSON":        {[]string{bearer + base64.StdEncoding.EncodeToString([]byte("hello")) + `"`}, ""},
		"not an object":   {[]string{bearer + base64.StdEncoding.EncodeToString([]byte(`["a"]`)) + `"`}, ""},
		"empty":           {[]string{bearer + `"`}, ""},
		"too long":        {[]string{bearer + base64.StdEncoding.EncodeToString([]byte(`{"a":"`+strings.Repeat("x", 8<<10)+`"}`)) + `"`}, ""},
	} {
		if got := claimsChallenge(tc.headers); got != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}

	_, c := serve(t, true, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", bearer+std+`"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	_, err := c.Reset(t.Context(), Target{Device: testDevice}, within(longEnough))
	if e := wantKind(t, err, Unauthorized); e.Claims != claims {
		t.Errorf("%q", e.Claims)
	}
}
