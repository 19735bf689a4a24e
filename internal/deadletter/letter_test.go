package deadletter

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

var (
	death   = time.Date(2026, 11, 22, 8, 0, 0, 5, time.FixedZone("", 3600))
	request = Original{
		Subject: "passcode.reset.requests.default", Stream: "PASSCODE_RESETS", Sequence: 42,
		Data: []byte(`{"managedDeviceId":"x"}`), Published: time.Unix(0, 7),
	}
	letter = Letter{
		Reason: "not_found", Detail: "the device is gone", Attempts: 2, Status: 404,
		RequestID: "INC=2F1", GraphRequestID: "g-1", ClientRequestID: "c-1", Redrives: 2,
	}
)

const maxPayload = 1 << 20

func TestLetter(t *testing.T) {
	t.Parallel()
	m := request
	m.Header = nats.Header{
		"ce-id": {"1"}, "Ce-Source": {"a", "b"}, "traceparent": {"00-1"}, "X-Empty": {""}, "Natsy": {"kept"},
		"Nats-Msg-Id": {"x"}, "nats-expected-stream": {"X"}, "NATS-TTL": {"1s"}, "Nats-Rollup": {"all"},
		"Dead-Letter-Reason": {"made up"}, "dead-letter-subject": {"x"}, "DEAD-LETTER-anything": {"x"},
		"dead-letter-Redrives": {"7"},
	}
	before := len(m.Header)
	got := letter.compose(spec, m, death, maxPayload)
	want := nats.Header{
		"ce-id": {"1"}, "Ce-Source": {"a", "b"}, "traceparent": {"00-1"}, "X-Empty": {""}, "Natsy": {"kept"},
		"Dead-Letter-Reason":            {"not_found"},
		"Dead-Letter-Detail":            {"the device is gone"},
		"Dead-Letter-Attempts":          {"2"},
		"Dead-Letter-Status":            {"404"},
		"Dead-Letter-Request-Id":        {"INC=2F1"},
		"Dead-Letter-Graph-Request-Id":  {"g-1"},
		"Dead-Letter-Client-Request-Id": {"c-1"},
		"Dead-Letter-Subject":           {"passcode.reset.requests.default"},
		"Dead-Letter-Stream":            {"PASSCODE_RESETS"},
		"Dead-Letter-Sequence":          {"42"},
		"Dead-Letter-Time":              {"2026-11-22T07:00:00.000000005Z"},
		"Dead-Letter-Redrives":          {"2"},
		"Nats-Msg-Id":                   {"PASSCODE_RESETS-42-7"},
		"Nats-Expected-Stream":          {"PASSCODE_RESETS_DEAD"},
	}
	if !maps.EqualFunc(got.Header, want, slices.Equal) {
		t.Errorf("got  %v\nwant %v", got.Header, want)
	}
	if got.Subject != "passcode.reset.dead.default" || !bytes.Equal(got.Data, m.Data) {
		t.Errorf("%s: %s", got.Subject, got.Data)
	}
	if len(m.Header) != before {
		t.Error("the message's own headers were changed")
	}
}

// TestLetterRedrives: what a publisher writes into the header counts for nothing.
func TestLetterRedrives(t *testing.T) {
	t.Parallel()
	for _, header := range []nats.Header{
		{}, {"Dead-Letter-Redrives": {"1"}}, {"dead-letter-redrives": {"12"}},
		{"Dead-Letter-Redrives": {"3", "1"}, "dead-letter-redrives": {"2"}, "DEAD-LETTER-REDRIVES": {"x", "-9"}},
	} {
		got := letter.compose(spec, Original{Header: header}, death, maxPayload).Header
		n := 0
		for name, values := range got {
			if strings.EqualFold(name, HeaderRedrives) {
				n += len(values)
			}
		}
		if n != 1 || got.Get(HeaderRedrives) != "2" {
			t.Errorf("%v: %v", header, got)
		}
	}
}

func TestHeaderText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"as it is – ü", "as it is – ü"},
		{"a\r\nNats-TTL: 1s\n\tb\x00\x7f", "a  Nats-TTL: 1s "},
		{"a\n\tb\x00\x7fc", "a  b  c"},
		{"a\u0085b\u2028c\u2029d", "a b c d"},
		{strings.Repeat("x", 20), strings.Repeat("x", 16)},
		{strings.Repeat("x", 15) + "ü", strings.Repeat("x", 15)},
		{strings.Repeat("x", 14) + "ü", strings.Repeat("x", 14) + "ü"},
		{strings.Repeat("x", 13) + "😀", strings.Repeat("x", 13)},
		{"a\xffb", "a\uFFFDb"},
	} {
		if got := headerText(c.in, 16); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
	long := Letter{Detail: strings.Repeat("ü", 2000), GraphRequestID: strings.Repeat("g", 5000)}
	h := long.compose(spec, request, death, maxPayload).Header
	if d := h.Get(HeaderDetail); len(d) != 1024 || !utf8.ValidString(d) {
		t.Errorf("a detail of %d bytes", len(d))
	}
	if g := h.Get(HeaderGraphRequestID); len(g) > maxName {
		t.Errorf("a request id of %d bytes", len(g))
	}
}

// TestLetterFits looks at the limits of the server: 64 KiB of headers, and the
// largest message.
func TestLetterFits(t *testing.T) {
	t.Parallel()
	many := nats.Header{}
	for i := range 100 {
		many[fmt.Sprintf("X-%02d", i)] = []string{strings.Repeat("x", 10*i)}
	}
	names := topology.Names{Tenant: strings.Repeat("t", 200), DeadStream: strings.Repeat("D", 250), DeadSubject: "d"}
	for name, c := range map[string]struct {
		data       int
		header     nats.Header
		maxPayload int64
		dropped    int
		truncated  bool
	}{
		"small":                        {100, nil, maxPayload, 0, false},
		"unknown limit":                {2 << 20, nil, 0, 0, false},
		"just fits":                    {maxPayload - 1500, nil, maxPayload, 0, false},
		"almost the largest":           {maxPayload - 10, nil, maxPayload, 0, true},
		"the largest":                  {maxPayload, nil, maxPayload, 0, true},
		"many headers":                 {100, many, maxPayload, 0, false},
		"many headers, largest":        {maxPayload - headerSize(many), many, maxPayload, 0, true},
		"one header near the limit":    {100, nats.Header{"X": {strings.Repeat("x", 65500)}, "Y": {"y"}}, maxPayload, 1, false},
		"one header with many values":  {100, nats.Header{"X": slices.Repeat([]string{"x"}, 11000), "Y": {"y"}}, maxPayload, 1, false},
		"two headers, room for one":    {100, nats.Header{"A": {strings.Repeat("x", 40000)}, "B": {strings.Repeat("x", 39999)}}, maxPayload, 1, false},
		"a small server":               {4000, many, 8192, 64, true},
		"names that cannot be sent":    {100, nats.Header{"a b": {"1"}, "ü": {"1"}, "a/b": {"1"}, "": {"1"}, "ok": {"1"}}, maxPayload, 4, false},
		"no data and a status":         {0, nats.Header{"Status": {"503"}, "status": {"1"}, "X": {"1"}}, maxPayload, 2, false},
		"data and a status":            {1, nats.Header{"Status": {"503"}}, maxPayload, 0, false},
		"two headers of the same size": {100, nats.Header{"A": {strings.Repeat("x", 40000)}, "B": {strings.Repeat("x", 40000)}}, maxPayload, 1, false},
	} {
		m := request
		m.Stream, m.Data, m.Header = strings.Repeat("S", 250), make([]byte, c.data), c.header
		got := letter.compose(names, m, death, c.maxPayload)
		size := headerSize(got.Header)
		if size > maxHeaders || c.maxPayload > 0 && int64(size+len(got.Data)) > c.maxPayload {
			t.Errorf("%s: %d bytes of headers and %d of data", name, size, len(got.Data))
		}
		if d := got.Header.Get(HeaderDropped); d != strconv.Itoa(c.dropped) && (c.dropped != 0 || d != "") {
			t.Errorf("%s: %q headers dropped, want %d", name, d, c.dropped)
		}
		if truncated := got.Header.Get(HeaderTruncated); c.truncated != (truncated == strconv.Itoa(c.data)) || c.truncated != (len(got.Data) < c.data) {
			t.Errorf("%s: truncated %q, %d of %d bytes", name, truncated, len(got.Data), c.data)
		}
		if c.truncated && c.maxPayload-int64(size+len(got.Data)) > 100 {
			t.Errorf("%s: %d bytes of room were left", name, c.maxPayload-int64(size+len(got.Data)))
		}
	}
}

// FuzzHeaders composes letters of messages with any headers: what is sent is
// bounded, nothing in it can end a line, and it is read as it was meant.
func FuzzHeaders(f *testing.F) {
	f.Add("ce-id", "1", "Nats-Msg-Id", "x", "detail", uint32(10), uint32(maxPayload), uint16(2), uint16(404), uint16(1), uint64(42))
	f.Add("a\r\nb", "c\r\nNats-TTL: 1s", "dead-letter-redrives", "7", "a\nb", uint32(0), uint32(8192), uint16(2), uint16(404), uint16(1), uint64(42))
	f.Add("X-Good", "c\r\nNats-TTL: 1s", "Y", "\n\n", "a\nb", uint32(0), uint32(8192), uint16(2), uint16(404), uint16(1), uint64(42))
	f.Add("Status", "503", "", "", strings.Repeat("ü", 1000), uint32(maxPayload), uint32(maxPayload), uint16(2), uint16(404), uint16(1), uint64(42))
	f.Add("X", strings.Repeat("x", 70000), "Y", "y", "", uint32(1), uint32(0), uint16(2), uint16(404), uint16(1), uint64(42))
	room := make([]byte, 3<<20)
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2, detail string, data, limit uint32, attempts, status, redrives uint16, sequence uint64) {
		// A server that takes less than 8 KiB takes no letter.
		maxPayload := int64(8192 + limit%(2<<20))
		m := request
		m.Data = room[:int(data)%len(room)]
		m.Header = nats.Header{name1: {value1, value2}, name2: {value2}}
		l := letter
		l.Detail, l.RequestID, l.GraphRequestID, l.ClientRequestID = detail, value1, value2, value1
		l.Reason, l.Attempts, l.Status, l.Redrives, m.Sequence = name1, int(attempts), int(status), int(redrives), sequence
		got := l.compose(spec, m, death, maxPayload)
		size := headerSize(got.Header)
		if size > maxHeaders || int64(size+len(got.Data)) > maxPayload {
			t.Fatalf("%d bytes of headers, %d of data, limit %d", size, len(got.Data), maxPayload)
		}
		if len(got.Data) < len(m.Data) != (got.Header.Get(HeaderTruncated) != "") {
			t.Errorf("%d of %d bytes, truncated: %q", len(got.Data), len(m.Data), got.Header.Get(HeaderTruncated))
		}
		wire := "NATS/1.0\r\n"
		for name, values := range got.Header {
			for _, v := range values {
				if strings.ContainsAny(name+v, "\r\n") || !validName(name) {
					t.Fatalf("header %q: %q", name, v)
				}
				wire += name + ": " + v + "\r\n"
			}
			if hasPrefixFold(name, "Nats-") && name != jetstream.MsgIDHeader && name != jetstream.ExpectedStreamHeader {
				t.Errorf("the server would act on %q", name)
			}
		}
		back, err := nats.DecodeHeadersMsg([]byte(wire + "\r\n"))
		if err != nil || len(back) != len(got.Header) {
			t.Fatalf("%d headers are read as %d: %v", len(got.Header), len(back), err)
		}
		read := Parse(back)
		if len(read.Detail) > maxDetail || !utf8.ValidString(read.Detail) {
			t.Errorf("detail %q", read.Detail)
		}
		want := Read{Letter: l, Stream: m.Stream, Sequence: m.Sequence, Truncated: len(got.Data) < len(m.Data)}
		for of, limit := range map[*string]int{
			&want.Reason: maxName, &want.Detail: maxDetail, &want.RequestID: maxName, &want.GraphRequestID: maxName, &want.ClientRequestID: maxName,
		} {
			*of = strings.TrimLeft(headerText(*of, limit), " ") // a reader does the same
		}
		if read != want {
			t.Errorf("read as %+v, want %+v", read, want)
		}
		for name, values := range Carried(back) {
			if theirs := m.Header[name]; len(theirs) != len(values) {
				t.Errorf("%s: %q of %q", name, values, theirs)
			}
		}
	})
}

// TestParse reads what anybody may have written.
func TestParse(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("9", 30)
	for _, h := range []nats.Header{
		nil,
		{HeaderAttempts: {"many"}, HeaderStatus: {""}, HeaderSequence: {"-1"}, HeaderRedrives: {"x"}},
		{HeaderAttempts: {huge}, HeaderStatus: {huge}, HeaderSequence: {huge}, HeaderRedrives: {huge}},
		{HeaderRedrives: {"-3"}},
		{strings.ToLower(HeaderRedrives): {"3"}, "Reason": {"x"}},
	} {
		if got := Parse(h); got != (Read{}) {
			t.Errorf("%v: %+v", h, got)
		}
	}
}

// TestCarried tells a letter's own headers from those of its request.
func TestCarried(t *testing.T) {
	t.Parallel()
	got := Carried(nats.Header{
		"ce-id": {"1"}, "Natsy": {"2", "3"}, "Dead-Lette": {"4"}, "": {"5"},
		HeaderReason: {"x"}, "dead-letter-made-up": {"x"}, "NATS-Msg-Id": {"x"}, "nats-ttl": {"x"}, "Nats-": {"x"},
	})
	want := nats.Header{"ce-id": {"1"}, "Natsy": {"2", "3"}, "Dead-Lette": {"4"}, "": {"5"}}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v, want %v", got, want)
	}
}
