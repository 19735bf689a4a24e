package main

import (
	"crypto/fips140"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/setting"
)

// usageError holds every problem of a configuration, or of a command's arguments.
// about introduces the problems; empty: they are the configuration's.
type usageError struct {
	problems []error
	about    string
}

func (e *usageError) Error() string {
	var b strings.Builder
	if e.about == "" {
		b.WriteString("the configuration is not usable:\n")
	} else if len(e.problems) == 1 {
		return e.about + e.problems[0].Error()
	} else {
		b.WriteString(e.about + "\n")
	}
	for _, p := range e.problems {
		fmt.Fprintf(&b, "  - %v\n", p)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// reader turns options into values and collects their problems.
type reader struct {
	problems []error
	// doubts are oddities that do not prevent the start.
	doubts []doubt
	// notes are not odd, but worth a line in the log.
	notes []string
	// illegible are the options whose value cannot be meant, which is reported already.
	illegible map[string]bool
}

// fail notes a problem with the options that name lists, separated by commas.
func (r *reader) fail(name, format string, args ...any) {
	for n := range strings.SplitSeq(name, ", ") {
		if r.illegible[n] {
			return // nothing more can be said about a value that is not known
		}
	}
	r.problems = append(r.problems, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
}

func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return &usageError{problems: r.problems}
}

// doubt is an oddity that does not prevent the start, and what to do about it.
type doubt struct{ detail, do string }

// doubt notes an oddity, but each only once.
func (r *reader) doubt(detail, do string) {
	if d := (doubt{detail, do}); detail != "" && !slices.Contains(r.doubts, d) {
		r.doubts = append(r.doubts, d)
	}
}

// tell logs the notes and doubts.
func (r *reader) tell(log *zap.Logger) {
	for _, n := range r.notes {
		log.Info(n)
	}
	for _, d := range r.doubts {
		log.Warn(d.detail + ": " + d.do)
	}
}

// tidy removes white space and byte order marks around the values of options that
// have a variable: nobody means to give them. A value that cannot be meant stays as
// it is and is a problem.
func (r *reader) tidy(options any) {
	v := reflect.ValueOf(options).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := tag.Get("env")
		_, filled := tag.Lookup("filled")
		if name == "" || filled && v.Field(i).String() == leftEmpty {
			continue
		}
		value, err := setting.Text(v.Field(i).String())
		switch {
		case err == nil:
			v.Field(i).SetString(value)
		case !r.illegible[name]:
			r.fail(name, "%v", err)
			if r.illegible == nil {
				r.illegible = map[string]bool{}
			}
			r.illegible[name] = true
		}
	}
}

func (r *reader) duration(name, s string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.fail(name, "%q is not a duration: write it like 30s, 5m or 24h", s)
	case d < least:
		r.fail(name, "%q is too short: it must be at least %s", s, least)
	}
	return d
}

// verifyAfter reads the wait before a look-up. After too short a wait, the look-up
// does not see a reset that was done, and a second one follows.
func (r *reader) verifyAfter(s string) time.Duration {
	const least = time.Second
	d, err := time.ParseDuration(s)
	if err == nil && d < least {
		r.fail("WORKER_VERIFY_AFTER", "%q is too short: it must be at least %s. Graph does not show a reset at once, "+
			"and a look-up that comes too early could lead to a second reset", s, least)
		return d
	}
	return r.duration("WORKER_VERIFY_AFTER", s, least)
}

func (r *reader) number(name, s string, least, most int) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		r.fail(name, "%q is not a whole number from %d to %d", s, least, most)
	}
	return n
}

func (r *reader) boolean(name, s string) bool {
	b, err := strconv.ParseBool(s)
	if err != nil {
		r.fail(name, "%q is neither true nor false", s)
	}
	return b
}

func (r *reader) oneOf(name, s string, allowed ...string) string {
	if !slices.Contains(allowed, s) {
		r.fail(name, "%q is none of: %s", s, strings.Join(allowed, ", "))
	}
	return s
}

// file reports whether a file can be read and is what it should be, which check
// decides unless it is nil. The error of check may quote the file, so it is not shown.
func (r *reader) file(name, path, what string, check func(path string) error) bool {
	if path == "" {
		return true
	}
	data, err := os.ReadFile(path)
	if err != nil {
		r.fail(name, "it cannot be read: %v", err)
		return false
	}
	if _, err := setting.Lines(data); err != nil {
		r.fail(name, "%s: %v", path, err)
		return false
	}
	if check != nil && check(path) != nil {
		r.fail(name, "%s is not %s", path, what)
		return false
	}
	return true
}

var (
	token   = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	subject = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	// The server accepts more in a domain and in a subject than people usually write.
	// Source: nats-server, server/jetstream.go, isValidName.
	jsDomain    = regexp.MustCompile(`^[^\s.*>]+$`)
	inboxPrefix = regexp.MustCompile(`^[^\s.*>]+(\.[^\s.*>]+)*$`)
	apiPrefix   = inboxPrefix
	entraID     = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

func (r *reader) match(name, s string, form *regexp.Regexp, what string) string {
	if !form.MatchString(s) {
		r.fail(name, "%q is not %s", s, what)
	}
	return s
}

// entra checks an id of Entra's. It does not show the value: it may be a secret in the
// wrong place.
func (r *reader) entra(name, s, what string) {
	switch {
	case s == "":
		r.fail(name, "it is missing: give %s", what)
	case !entraID.MatchString(s):
		r.fail(name, "it does not have the right form: give %s", what)
	}
}

// servers checks a list of NATS servers. It shows no part of the list, which may hold
// passwords.
func (r *reader) servers(name, list string) {
	plain, websocket := false, false
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimSpace(s)
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" || u.Port() != "" && !isPort(u.Port()) {
			r.fail(name, "it is not an address like nats://host:4222, or a list of them separated by commas")
			return
		}
		switch u.Scheme {
		case "nats", "tls":
			plain = true
		case "ws", "wss":
			websocket = true
		default:
			r.fail(name, "its scheme is none of: nats, tls, ws, wss")
			return
		}
	}
	if websocket && fips140.Enforced() {
		r.fail(name, "ws and wss do not work with GODEBUG=fips140=only, because the WebSocket handshake uses SHA-1: use nats or tls")
		return
	}
	if plain && websocket {
		r.fail(name, "give either nats and tls addresses, or ws and wss addresses: they cannot be mixed")
	}
}

func (r *reader) https(name, s, example string) {
	u, err := url.Parse(s)
	switch {
	case holdsUser(s):
		r.fail(name, "it holds a user: write it like %s", example)
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() != "" && !isPort(u.Port()):
		r.fail(name, "%q is not an https address: write it like %s", s, example)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		r.fail(name, "%q is more than an address: write it like %s; AZURE_TENANT_ID names the directory", s, example)
	}
}

// holdsUser reports whether an address may hold a password, and so must not be shown.
func holdsUser(s string) bool { return strings.Contains(s, "@") }

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// named is the value of an option.
type named struct{ option, value string }

// differ fails for each pair of options that have the same value.
func (r *reader) differ(values ...named) {
	for i, a := range values {
		for _, b := range values[i+1:] {
			if a.value == b.value {
				r.fail(a.option+", "+b.option, "they must differ")
			}
		}
	}
}
