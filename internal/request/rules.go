package request

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxID   = 256
	maxUser = 256
	maxApp  = 128
	maxNote = 256
)

// The problems with a field's text.
const (
	problemGUID    = "not a GUID of 8-4-4-4-12 hex digits"
	problemUser    = "neither a GUID nor a UPN of letters, digits and '.-_!#^~ around one @, at most 256 bytes"
	problemApp     = "not 1 to 128 of A-Z, a-z, 0-9, _ and -"
	problemIDLong  = "longer than 256 bytes"
	problemControl = "holds a control character"
	problemUnicode = "holds broken Unicode or U+FFFD"
	problemTime    = "not an RFC 3339 time between the years 1 and 9999"
)

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if c := s[i]; !isDigit(c) && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

func isUPN(s string) bool {
	name, domain, _ := strings.Cut(s, "@")
	if name == "" || domain == "" || len(s) > maxUser {
		return false
	}
	part := func(s string) bool {
		for i := range len(s) {
			if !isAlnum(s[i]) && strings.IndexByte("'.-_!#^~", s[i]) < 0 {
				return false
			}
		}
		return true
	}
	return part(name) && part(domain)
}

func isAppID(s string) bool {
	if s == "" || len(s) > maxApp {
		return false
	}
	for i := range len(s) {
		if !isPlain(s[i]) {
			return false
		}
	}
	return true
}

// idProblem tells what is wrong with the id of a publisher; "" means nothing.
func idProblem(s string) string {
	if len(s) > maxID {
		return problemIDLong
	}
	return textProblem(s)
}

// textProblem tells what is wrong with a text that identifies something; "" means nothing.
func textProblem(s string) string {
	for _, r := range s {
		switch {
		case unicode.IsControl(r):
			return problemControl
		case r == utf8.RuneError:
			// Every broken escape or byte turns into U+FFFD, so two different ids could become one,
			// and the second request would pass for a duplicate.
			return problemUnicode
		}
	}
	return ""
}

// parseTime reads a time of RFC 3339. package time alone also takes other forms, such as "1:02:03" or
// a comma before the fraction.
func parseTime(s string) (time.Time, bool) {
	s = strings.ToUpper(s) // RFC 3339 allows "t" and "z"
	if !isTimeForm(s) {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, false
	}
	t = t.UTC()
	// The zero time would read as "no limit", and a year of five digits cannot be written again.
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, false
	}
	return t, true
}

func isTimeForm(s string) bool {
	const date, zone = "0000-00-00T00:00:00", "+00:00"
	if len(s) <= len(date) || !isForm(s[:len(date)], date) {
		return false
	}
	s = s[len(date):]
	if s[0] == '.' {
		n := 1
		for n < len(s) && isDigit(s[n]) {
			n++
		}
		if n == 1 {
			return false
		}
		s = s[n:]
	}
	if s == "Z" {
		return true
	}
	if len(s) != len(zone) || s[0] != '+' && s[0] != '-' {
		return false
	}
	return isForm(s[1:], zone[1:]) && s[1:3] <= "23" && s[4:] <= "59"
}

// isForm reports whether s has digits where form has 0, and is like form elsewhere.
func isForm(s, form string) bool {
	for i := range len(form) {
		if form[i] == '0' && !isDigit(s[i]) || form[i] != '0' && s[i] != form[i] {
			return false
		}
	}
	return true
}

// isTraceparent reports whether s is version-traceid-parentid-flags. The longer forms that versions
// after 00 may bring are left out: nothing here could read them.
func isTraceparent(s string) bool {
	const form = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(s) != len(form) {
		return false
	}
	for i := range len(form) {
		if form[i] == '-' && s[i] != '-' || form[i] == '0' && !isDigit(s[i]) && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return s[:2] != "ff" && s[3:35] != form[3:35] && s[36:52] != form[36:52]
}

// cut shortens valid UTF-8 to at most n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:n]) // a record must not keep a whole body in memory
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isAlnum(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func isPlain(c byte) bool { return isAlnum(c) || c == '_' || c == '-' }
