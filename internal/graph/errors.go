package graph

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kind says what a failed call means for the request it was made for. Every
// failure has exactly one, given where it was seen; nothing above looks at a
// status or at the text of an error again.
type Kind int

const (
	// Throttled is a 429: refused before execution, come back later.
	Throttled Kind = iota + 1
	// Unavailable is a 503: refused, come back later on a new connection.
	Unavailable
	// NotSent means that no byte of the request reached Graph, or that Graph
	// said of it that it was not processed (HTTP/2 GOAWAY, REFUSED_STREAM; 421,
	// which asks for another connection, RFC 9110 section 15.5.20; 425, RFC 8470
	// section 5.2).
	NotSent
	// Unknown means that the call may have had its effect.
	Unknown
	// Refused is a 4xx about this request; the call had no effect.
	Refused
	// Unauthorized is a 401: the token was not accepted.
	Unauthorized
	// Forbidden is a 403: this request, or every request, is not allowed.
	Forbidden
	// TokenRefused means that the token endpoint, or what the credential is
	// made of, says no. Nothing was sent to Graph.
	TokenRefused
	// TokenUnavailable means that the token endpoint gave no usable answer.
	// Nothing was sent to Graph.
	TokenUnavailable
)

// String is a short lower-case name.
func (k Kind) String() string {
	switch k {
	case Throttled:
		return "throttled"
	case Unavailable:
		return "unavailable"
	case NotSent:
		return "not sent"
	case Unknown:
		return "outcome unknown"
	case Refused:
		return "refused"
	case Unauthorized:
		return "unauthorized"
	case Forbidden:
		return "forbidden"
	case TokenRefused:
		return "token refused"
	case TokenUnavailable:
		return "token unavailable"
	}
	return fmt.Sprintf("graph.Kind(%d)", int(k))
}

// Error is the failure of one call to Graph or to the token endpoint.
type Error struct {
	Kind Kind
	// Status is the HTTP status, 0 where there was no answer.
	Status int
	// Code and Message are the service's own words, cut, without control
	// characters. Empty where it said nothing readable.
	Code, Message string
	// RetryAfter is how long the service asked to be left alone; 0 where it did not.
	RetryAfter time.Duration
	// RequestID is Graph's request-id header, for Microsoft's support.
	RequestID string
	// Claims is the decoded claims challenge of a 401; empty where there is none.
	Claims string
	// Benign tells that the failure is no sign that Graph, or the token service,
	// is down or refuses everybody: the server said over HTTP/2 that it had not
	// begun with this call (a GOAWAY, REFUSED_STREAM), the caller ended it, or
	// there was a good answer that does not help.
	Benign bool
	// Err is the failure beneath, where there was no answer or it was not usable.
	Err error
}

// Error describes the failure in one line. It holds no token, secret or
// passcode, and no more than a few hundred bytes of the service's text.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Kind.String())
	if e.Status != 0 {
		fmt.Fprintf(&b, ": HTTP %d", e.Status)
	}
	for _, s := range []string{e.Code, e.Message} {
		if s != "" {
			b.WriteString(": " + s)
		}
	}
	if e.Err != nil {
		b.WriteString(": " + clean(e.Err.Error(), maxText))
	}
	return b.String()
}

// Unwrap is the failure beneath.
func (e *Error) Unwrap() error { return e.Err }

// How much of a service's text an error carries, in bytes.
const (
	maxText = 300
	maxCode = 64
)

// FailureOf is the failure of a call; nil where there is none. What is no [*Error] was not
// foreseen, so that the outcome of its call is unknown.
func FailureOf(err error) *Error {
	if e := (*Error)(nil); err == nil || errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Unknown, Err: err}
}

// clean makes text of a stranger fit for a log line or a header: one line, no
// control or invisible characters, none of the secrets, at most limit bytes.
func clean(s string, limit int, secrets ...string) string {
	if isWord(s, limit, secrets) {
		return s // as each request-id is
	}
	return cleaned(s, limit, secrets)
}

func cleaned(s string, limit int, secrets []string) string {
	s = oneLine(s)
	// Only now, when nothing is in between that could hide a secret, and not
	// later, when it may have been cut in two.
	for _, secret := range secrets {
		for _, form := range []string{oneLine(secret), url.QueryEscape(secret)} {
			if form != "" {
				s = strings.ReplaceAll(s, form, "[secret]")
			}
		}
	}
	for len(s) > limit {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return strings.TrimRight(s, " ") // which a cut may have left at the end
}

// isWord tells that there is nothing to clean: visible ASCII within the limit,
// and too short to hold a secret.
func isWord(s string, limit int, secrets []string) bool {
	if len(s) > limit || visible(s, len(s)) < len(s) {
		return false
	}
	for _, secret := range secrets {
		// What oneLine leaves of it has all of these, and its escaped form more.
		if secret != "" && visible(secret, len(s)+1) <= len(s) {
			return false
		}
	}
	return true
}

// visible counts the bytes that are visible ASCII, up to enough.
func visible(s string, enough int) (n int) {
	for i := 0; i < len(s) && n < enough; i++ {
		if s[i] > ' ' && s[i] < 0x7f {
			n++
		}
	}
	return n
}

func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.Is(unicode.Cf, r):
			return -1
		case unicode.IsSpace(r), unicode.IsControl(r):
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// classify gives the kind of a status that is not the success of its call.
func classify(status int) Kind {
	switch {
	case status == 429:
		return Throttled
	case status == 503:
		return Unavailable
	case status == 401:
		return Unauthorized
	case status == 403:
		return Forbidden
	case status == 408:
		return Unknown
	case status == 421 || status == 425:
		return NotSent
	case status >= 400 && status < 500:
		return Refused
	}
	// 5xx, a redirect that is not followed, a success of another sort: the
	// documentation promises nothing about them.
	return Unknown
}
