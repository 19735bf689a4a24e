package request

import (
	"errors"
	"regexp"
	"slices"
	"testing"

	"passcode-worker/internal/request/requesttest"
)

// problems are all texts that a refusal may have. A text from this list cannot repeat anything that
// a publisher sent.
var problems = []string{
	"a batch of events; publish each one by itself",
	"a JSON array; publish each request by itself, as an object",
	"a JSON string; give the request as an object, not as a string that holds one",
	"an event format other than JSON",
	"empty",
	"given more than once",
	"given more than once, with different values",
	"given together with data",
	"holds a control character",
	"holds broken Unicode or U+FFFD",
	"longer than 256 bytes",
	"longer than 65536 bytes",
	"missing",
	"neither a GUID nor a UPN of letters, digits and '.-_!#^~ around one @, at most 256 bytes",
	"not 1 to 128 of A-Z, a-z, 0-9, _ and -",
	"not 1.0 or another 1.x",
	"not JSON",
	"not a GUID of 8-4-4-4-12 hex digits",
	"not a JSON object",
	"not a string",
	"not an RFC 3339 time between the years 1 and 9999",
	"not base64 of the standard alphabet, padded",
	"not valid JSON, at byte offset N",
	"not valid JSON: a NUL byte after the end of the JSON, at byte offset N",
	"not valid JSON: a NUL byte in a string, at byte offset N",
	"not valid JSON: a NUL byte, at byte offset N",
	`not valid JSON: a backslash in a string, to be written \\, at byte offset N`,
	"not valid JSON: a byte 0x1A, the end-of-file mark of DOS, after the end of the JSON, at byte offset N",
	"not valid JSON: a byte order mark that is not at the beginning, at byte offset N",
	`not valid JSON: a carriage return in a string, to be written \r, at byte offset N`,
	"not valid JSON: a comma with nothing after it, at byte offset N",
	`not valid JSON: a control character in a string, to be written \u and four hex digits, at byte offset N`,
	`not valid JSON: a line feed in a string, to be written \n, at byte offset N`,
	`not valid JSON: a quote inside a string, to be written \", or no comma or colon after a string, at byte offset N`,
	`not valid JSON: a tab in a string, to be written \t, at byte offset N`,
	"not valid JSON: a no-break space outside a string, at byte offset N",
	"not valid JSON: an apostrophe or a typographic quote in place of a plain one, at byte offset N",
	"not valid JSON: cut off inside a string, at byte offset N",
	"not valid JSON: cut off, at byte offset N",
	"not valid JSON: more after the end of the JSON, at byte offset N",
	"not valid JSON: nested too deeply, at byte offset N",
	"not valid UTF-8, at byte offset N",
	"says that the event is in the body, and headers ce-* hold one as well",
	"text in UTF-16, big-endian; publish it in UTF-8",
	"text in UTF-16, little-endian; publish it in UTF-8",
	"text in UTF-32, big-endian; publish it in UTF-8",
	"text in UTF-32, little-endian; publish it in UTF-8",
}

var offset = regexp.MustCompile(`, at byte offset [0-9]{1,5}$`)

// kind is a problem without the place where it is.
func kind(problem string) string { return offset.ReplaceAllString(problem, ", at byte offset N") }

func checkInvalid(t *testing.T, err error) *Invalid {
	t.Helper()
	bad, ok := errors.AsType[*Invalid](err)
	if !ok {
		t.Fatalf("error is %T (%v), want *Invalid", err, err)
	}
	fields := append([]string{"body", "Nats-Msg-Id", "Content-Type", "data", "data_base64"}, fieldNames[:numFields]...)
	for _, name := range attrNames[:attrTrace] {
		fields = append(fields, "ce-"+name)
	}
	if !slices.Contains(fields, bad.Field) || !slices.Contains(problems, kind(bad.Problem)) {
		t.Errorf("%q %q is not in the closed list", bad.Field, bad.Problem)
	}
	if bad.Error() != bad.Field+": "+bad.Problem {
		t.Errorf("Error() = %q", bad.Error())
	}
	return bad
}

func TestDecodeAccepts(t *testing.T) {
	t.Parallel()
	for _, p := range requesttest.Accepted() {
		want := p.ID
		if want == "" {
			want = "S-7"
		}
		r, err := Decode(Source{Data: p.Data, Header: p.Header, Stream: "S", Sequence: 7})
		if err != nil || r.ID != want || r.IDGiven != (p.ID != "") || r.DeviceID != device {
			t.Errorf("%s: %+v, %v, want id %q", p.Name, r, err, want)
		}
	}
}

func TestDecodeRefusesHostile(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range requesttest.Hostile() {
		src := Source{Data: p.Data, Header: p.Header, Stream: "S", Sequence: 7}
		r, err := Decode(src)
		if err == nil {
			t.Errorf("%s: accepted as %+v", p.Name, r)
			continue
		}
		bad := checkInvalid(t, err)
		seen[kind(bad.Problem)] = true
		if bad.Field != p.Field {
			t.Errorf("%s: %v, want field %s", p.Name, err, p.Field)
		}
		if r.UserID != "" || r.AppID != "" || !r.NotAfter.IsZero() {
			t.Errorf("%s: half a request: %+v", p.Name, r)
		}
		if r.DeviceID != "" && !isGUID(r.DeviceID) {
			t.Errorf("%s: bad device %q kept", p.Name, r.DeviceID)
		}
		if r.ID == "" || idProblem(r.ID) != "" {
			t.Errorf("%s: bad id %q kept", p.Name, r.ID)
		}
		if r.IDGiven != (r.ID != "S-7") {
			t.Errorf("%s: IDGiven = %t for %q", p.Name, r.IDGiven, r.ID)
		}
	}
	for _, problem := range problems {
		if !seen[problem] {
			t.Errorf("no hostile payload is refused as %q", problem)
		}
	}
}
