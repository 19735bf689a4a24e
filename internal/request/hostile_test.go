package request

import (
	"errors"
	"slices"
	"testing"

	"passcode-worker/internal/request/requesttest"
)

// problems are all texts that a refusal may have. A text from this list cannot repeat anything that
// a publisher sent.
var problems = []string{
	"a batch of events; publish each one by itself",
	"a name that is not of lower-case letters and digits",
	"a quoted string that does not end",
	"an event format other than JSON",
	"empty",
	"given more than once",
	"given more than once, with different values",
	"holds a control character",
	"holds broken Unicode or U+FFFD",
	"longer than 256 bytes",
	"longer than 65536 bytes",
	"missing",
	"more after the JSON value",
	"neither a string, a boolean nor a whole number of 32 bits",
	"neither a GUID nor a UPN of letters, digits and '.-_!#^~ around one @, at most 256 bytes",
	"not 1 to 128 of A-Z, a-z, 0-9, _ and -",
	"not 1.0",
	"not JSON",
	"not a GUID of 8-4-4-4-12 hex digits",
	"not a JSON object",
	"not a URI-reference",
	"not a media type",
	"not a string",
	"not an RFC 3339 time",
	"not an absolute URI",
	"not base64 of the standard alphabet, padded",
	"given together with data",
	"not percent-encoded UTF-8",
	"not an RFC 3339 time between the years 1 and 9999",
	"not valid JSON, or nested too deeply",
	"not valid UTF-8",
	"says that the event is in the body, and headers ce-* hold one as well",
}

func checkInvalid(t *testing.T, err error) *Invalid {
	t.Helper()
	bad, ok := errors.AsType[*Invalid](err)
	if !ok {
		t.Fatalf("error is %T (%v), want *Invalid", err, err)
	}
	fields := append([]string{"body", "Nats-Msg-Id", "Content-Type", "data", "data_base64", "ce-*"}, fieldNames[:]...)
	for _, name := range attrNames {
		fields = append(fields, "ce-"+name)
	}
	if !slices.Contains(fields, bad.Field) || !slices.Contains(problems, bad.Problem) {
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
		seen[bad.Problem] = true
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
