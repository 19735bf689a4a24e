package consume

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
)

var (
	death   = time.Date(2026, 11, 22, 8, 0, 0, 5, time.FixedZone("", 3600))
	request = Message{
		Subject: "passcode.reset.requests.default", Stream: "PASSCODE_RESETS", Sequence: 42, Delivered: 3,
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
		got := letter.compose(spec, Message{Header: header}, death, maxPayload).Header
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
	names := Names{Tenant: strings.Repeat("t", 200), DeadStream: strings.Repeat("D", 250), DeadSubject: "d"}
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

// sealed reads the only dead letter, or fails if there is not exactly one.
func (r *rig) sealed() *jetstream.RawStreamMsg {
	r.t.Helper()
	s, err := r.admin.Stream(r.ctx, spec.DeadStream)
	if err != nil {
		r.t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 1 {
		r.t.Fatalf("%d dead letters, want 1", n)
	}
	m, err := s.GetMsg(r.ctx, s.CachedInfo().State.FirstSeq)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func TestPublish(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true})
	letters := NewLetters(r.js, spec)
	m := request
	m.Header = nats.Header{"traceparent": {"00-1"}, "Nats-Msg-Id": {"x"}, "Nats-TTL": {"1s"}}
	for range 2 {
		if err := letters.Publish(r.ctx, m, letter); err != nil {
			t.Fatal(err)
		}
	}
	got := r.sealed()
	if !bytes.Equal(got.Data, m.Data) || got.Subject != "passcode.reset.dead.default" {
		t.Errorf("%s: %s", got.Subject, got.Data)
	}
	died, err := time.Parse(time.RFC3339Nano, got.Header.Get(HeaderTime))
	if err != nil || time.Since(died) > testTime {
		t.Errorf("died at %s, %v", got.Header.Get(HeaderTime), err)
	}
	for name, want := range map[string]string{
		HeaderReason: "not_found", HeaderSequence: "42", HeaderRedrives: "2", "traceparent": "00-1", "Nats-TTL": "",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	// Another message, or the same number in a stream made anew, is another letter.
	m.Published = m.Published.Add(1)
	if err := letters.Publish(r.ctx, m, letter); err != nil {
		t.Fatal(err)
	}
	if n := r.left(spec.DeadStream); n != 2 {
		t.Errorf("%d dead letters, want 2", n)
	}
}

func TestPublishReplyLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true})
	letters := NewLetters(r.js, spec)
	lost := r.proxy.SwallowNext(1, natstest.PubAck(spec.DeadStream))
	short, cancel := context.WithTimeout(r.ctx, 300*time.Millisecond)
	defer cancel()
	if err := letters.Publish(short, request, letter); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish without a reply: %v", err)
	}
	r.receive(lost, "the loss of the reply")
	if err := letters.Publish(r.ctx, request, letter); err != nil {
		t.Error(err)
	}
	r.sealed()
}

// TestPublishFails leaves nothing behind but the error.
func TestPublishFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	letters := NewLetters(r.js, spec)
	if err := letters.Publish(r.ctx, request, letter); err == nil || !strings.Contains(err.Error(), "passcode.reset.dead.default") {
		t.Errorf("Publish without a stream: %v", err)
	}
	cfg := Layout{Memory: true, Replicas: 1}.Letters(spec)
	cfg.Name = "OTHER"
	if _, err := r.admin.CreateStream(r.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if err := letters.Publish(r.ctx, request, letter); err == nil {
		t.Error("the letter went to another stream")
	}
	if n := r.left("OTHER"); n != 0 {
		t.Errorf("%d messages in the other stream", n)
	}
	if err := r.admin.DeleteStream(r.ctx, "OTHER"); err != nil {
		t.Fatal(err)
	}
	cfg.Name, cfg.MaxMsgs = spec.DeadStream, 1
	if _, err := r.admin.CreateStream(r.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if err := letters.Publish(r.ctx, request, letter); err != nil {
		t.Fatal(err)
	}
	second := request
	second.Sequence++
	if err := letters.Publish(r.ctx, second, letter); err == nil {
		t.Error("a full stream took a letter")
	}
	if got := r.sealed().Header.Get(HeaderSequence); got != "42" {
		t.Errorf("the letter of %s is there, want that of 42", got)
	}
	r.proxy.Away()
	r.receive(r.down, "the end of the connection")
	if err := letters.Publish(r.ctx, second, letter); err == nil {
		t.Error("published while NATS is away")
	}
	r.proxy.Heal()
	r.receive(r.up, "a new connection")
	r.sealed()
}

// TestPublishLarge sends what the server only just took as a request.
func TestPublishLarge(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true})
	handled := make(chan Message, 99)
	r.run(Config{Setup: true, Slots: 1, Handle: func(_, ctx context.Context, m Message) Disposition {
		if err := NewLetters(r.js, spec).Publish(ctx, m, letter); err != nil {
			t.Errorf("the letter of %d bytes and %d headers: %v", len(m.Data), len(m.Header), err)
		}
		handled <- m
		return Ack()
	}})
	header := nats.Header{"traceparent": {"00-1"}}
	for i := range 60 {
		header[fmt.Sprint("X-", i)] = []string{strings.Repeat("x", 1000)}
	}
	for _, m := range []*nats.Msg{
		{Data: make([]byte, maxPayload)},
		{Data: make([]byte, maxPayload-headerSize(header)), Header: header},
		{Header: nats.Header{"Huge": {strings.Repeat("h", 65400)}, "traceparent": {"00-1"}}},
		{Header: nats.Header{"Status": {"404"}, "Description": {"gone"}, "traceparent": {"00-1"}}},
	} {
		m.Subject = spec.Filter()
		if _, err := r.admin.PublishMsg(r.ctx, m); err != nil {
			t.Fatal(err)
		}
		take(r, handled, "the message")
		got := r.sealed()
		if len(m.Data) > 0 && got.Header.Get(HeaderTruncated) != strconv.Itoa(len(m.Data)) || !bytes.HasPrefix(m.Data, got.Data) {
			t.Errorf("%d bytes of %d, truncated: %q", len(got.Data), len(m.Data), got.Header.Get(HeaderTruncated))
		}
		if got.Header.Get("traceparent") != m.Header.Get("traceparent") {
			t.Errorf("a small header was left out of %v", slices.Collect(maps.Keys(got.Header)))
		}
		s, err := r.admin.Stream(r.ctx, spec.DeadStream)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Purge(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPublishForeignHeaders takes headers that this library would not send, but
// others do.
func TestPublishForeignHeaders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true})
	handled := make(chan Message, 99)
	r.run(Config{Setup: true, Slots: 1, Handle: func(_, ctx context.Context, m Message) Disposition {
		if err := NewLetters(r.js, spec).Publish(ctx, m, letter); err != nil {
			t.Errorf("the letter with %v: %v", m.Header, err)
		}
		handled <- m
		return Ack()
	}})
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.server.URL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	header := "NATS/1.0\r\na/b: slash\r\nc d: space\r\nü: umlaut\r\nok: yes\r\nblank:  x \r\n\r\n"
	body := "{}"
	if _, err := fmt.Fprintf(conn, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n",
		spec.Filter(), len(header), len(header)+len(body), header, body); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(conn); s.Scan() && s.Text() != "PONG"; {
		if strings.HasPrefix(s.Text(), "-ERR") {
			t.Fatal(s.Text())
		}
	}
	m := take(r, handled, "the message")
	got := r.sealed()
	if got.Header.Get("ok") != "yes" || got.Header.Get(HeaderDropped) != "3" || string(got.Data) != body {
		t.Errorf("letter %v, message %v", got.Header, m.Header)
	}
}

// FuzzHeaders composes letters of messages with any headers: what is sent is
// bounded, and nothing in it can end a line.
func FuzzHeaders(f *testing.F) {
	f.Add("ce-id", "1", "Nats-Msg-Id", "x", "detail", uint32(10), uint32(maxPayload))
	f.Add("a\r\nb", "c\r\nNats-TTL: 1s", "dead-letter-redrives", "7", "a\nb", uint32(0), uint32(8192))
	f.Add("X-Good", "c\r\nNats-TTL: 1s", "Y", "\n\n", "a\nb", uint32(0), uint32(8192))
	f.Add("Status", "503", "", "", strings.Repeat("ü", 1000), uint32(maxPayload), uint32(maxPayload))
	f.Add("X", strings.Repeat("x", 70000), "Y", "y", "", uint32(1), uint32(0))
	room := make([]byte, 3<<20)
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2, detail string, data, limit uint32) {
		// A server that takes less than 8 KiB takes no letter.
		maxPayload := int64(8192 + limit%(2<<20))
		m := request
		m.Data = room[:int(data)%len(room)]
		m.Header = nats.Header{name1: {value1, value2}, name2: {value2}}
		l := letter
		l.Detail, l.RequestID, l.GraphRequestID, l.ClientRequestID = detail, value1, value2, value1
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
		if d := back.Get(HeaderDetail); len(d) > maxDetail || !utf8.ValidString(d) {
			t.Errorf("detail %q", d)
		}
		if n, err := strconv.Atoi(back.Get(HeaderRedrives)); err != nil || n < 0 {
			t.Errorf("redrives %q", back.Get(HeaderRedrives))
		}
	})
}
