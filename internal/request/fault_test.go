package request

import (
	"strconv"
	"strings"
	"testing"
)

// TestFaults breaks a body in the ways that people meet. The mark ¦ is where the fault is, and not in
// the body.
func TestFaults(t *testing.T) {
	t.Parallel()
	head, tail := `{"id":"INC0012345","managedDeviceId":"`+device+`","reason":"forgot it`, `called twice"}`
	for _, tt := range []struct{ body, kind string }{
		{head + "¦\n" + tail, problemLineFeed},
		{head + "¦\r\n" + tail, problemReturn},
		{head + "¦\t" + tail, problemTab},
		{head + "¦\x00" + tail, problemNULText},
		{head + "¦\x1b[31m" + tail, problemOther},
		{head + `¦"` + tail, problemQuote},
		{head + ` ¦" ` + tail, problemQuote},
		{head + `¦""` + tail, problemQuote},
		{head + `¦":` + tail, problemQuote},
		{head + `","say¦", ` + tail, problemQuote},
		{head + `¦\Domain` + tail, problemBackslash},
		{head + `¦\users` + tail, problemBackslash},
		{head + `\u12¦`, problemCutText},
		{head + `¦`, problemCutText},
		{head + `"¦`, problemCut},
		{head + `","x":tru¦`, problemCut},
		{head + `","x":1¦`, problemCut},
		{head + `","x":tru¦"}`, problemJSON},
		{head + `","x":1.¦}`, problemJSON},
		{head + `","x":[1¦}`, problemJSON},
		{head + `","x":¦'y'}`, problemApostrophe},
		{head + `","x":¦“y”}`, problemApostrophe},
		{`{¦“id”:"a"}`, problemApostrophe},
		{"{\n¦\u00a0" + head[1:] + tail, problemSpace},
		{head + "\",¦\u00a0" + `"x":1}`, problemSpace},
		{head + `"¦,}`, problemComma},
		{head + `","x":[1¦,]}`, problemComma},
		{head + `"¦]`, problemJSON},
		{head + tail + `¦}`, problemTrailing},
		{head + tail + " \r\n¦x", problemTrailing},
		{head + tail + "\n¦" + head + tail, problemTrailing},
		{head + tail + "¦\x00\x00", problemTrailNUL},
		{head + tail + "\r\n¦\x1a", problemTrailSub},
		{head + "¦\xe4" + tail, problemUTF8},
		{byteOrderMark + head + "¦\n" + tail, problemLineFeed},
		{byteOrderMark + head + "¦\xe4" + tail, problemUTF8},
		{"¦" + byteOrderMark + byteOrderMark + head + tail, problemMark},
		{"¦\x00" + head + tail, problemNUL},
		{"¦managedDeviceId=" + device, problemJSON},
		{"¦<request/>", problemJSON},
		{" \n¦", problemCut},
		{`{"x":` + strings.Repeat("[", 9999) + "¦" + strings.Repeat("[", 9999), problemDeep},
		{strings.Repeat(`{"a":`, 10000) + "¦" + `{"a":1` + strings.Repeat("}", 10000), problemDeep},
	} {
		before, after, _ := strings.Cut(tt.body, "¦")
		at := len(before)
		if tt.kind == problemMark {
			at += len(byteOrderMark) // the first one is good
		}
		_, err := Decode(Source{Data: []byte(before + after), Stream: "REQ", Sequence: 42})
		if want := "body: " + tt.kind + ", at byte offset " + strconv.Itoa(at); err == nil || err.Error() != want {
			t.Errorf("%.200q: %v, want %s", tt.body, err, want)
		}
	}
}

// TestBrokenID: a broken message is known by its id where that can still be told, and never by what
// may be the id of another request.
func TestBrokenID(t *testing.T) {
	t.Parallel()
	const id, dev, bad = `"id":"INC1"`, `"managedDeviceId":"` + device + `"`, `"reason":"a` + "\n" + `b"`
	version, source := `"specversion":"1.0"`, `"source":"/desk"`
	object := func(members ...string) string { return "{" + strings.Join(members, ",") + "}" }
	typed := []string{"Content-Type", "application/cloudevents+json"}
	inHeaders := []string{"ce-specversion", "1.0", "ce-id", "A1", "ce-source", "/desk", "ce-type", "reset"}
	for _, tt := range []struct {
		name, body string
		header     []string
		want       string // without the message id, which all have
	}{
		{"before the fault", object(id, dev, bad), nil, "INC1"},
		{"device after the fault", object(id, bad, dev), nil, "INC1"},
		{"spaces", " {\n \"id\" :\t\"INC1\" ,\n" + object(dev, bad)[1:], nil, "INC1"},
		{"mark", byteOrderMark + object(id, dev, bad), nil, "INC1"},
		{"escaped", object(`"\u0069d":"INC\u0031"`, dev, bad), nil, "INC1"},
		{"after the fault", object(dev, bad, id), nil, ""},
		{"fault in the id", object("\"id\":\"INC1\n\"", dev), nil, ""},
		{"quote in the id", object(`"id":"INC1" 7"`, dev), nil, ""},
		{"cut off in the id", `{"id":"INC1`, nil, ""},
		{"cut off after the id", object(dev, id)[:len(object(dev, id))-1], nil, "INC1"},
		{"bad byte after the id", `{"id":"INC1"` + "\xff", nil, ""},
		{"bad byte later", object(id, dev, "\"reason\":\"Ger\xe4t\""), nil, "INC1"},
		{"trailing", object(id, dev) + "\x1a", nil, "INC1"},
		{"two requests", object(id, dev) + object(`"id":"INC2"`, dev), nil, "INC1"},
		{"too long", object(id, dev, `"reason":"`+strings.Repeat("x", MaxBytes)+`"`), nil, "INC1"},
		{"too long, id later", object(dev, `"reason":"`+strings.Repeat("x", MaxBytes)+`"`, id), nil, ""},
		{"twice", object(id, `"id":"INC2"`, bad), nil, ""},
		{"twice alike", object(id, id, bad), nil, ""},
		{"number", object(`"id":1`, bad), nil, ""},
		{"null", object(`"id":null`, bad), nil, ""},
		{"empty", object(`"id":""`, bad), nil, ""},
		{"too long an id", object(`"id":"`+strings.Repeat("x", 257)+`"`, bad), nil, ""},
		{"control character", object(`"id":"\u0007"`, bad), nil, ""},
		{"broken Unicode", object(`"id":"\ud800"`, bad), nil, ""},
		{"other case", object(`"ID":"INC1"`, bad), nil, ""},
		{"nested", object(`"x":{`+id+`}`, bad), nil, ""},
		{"in a nested fault", object(`"x":` + object(id, bad)), nil, ""},
		{"array", "[" + object(id, dev, bad), nil, ""},
		{"deep", object(id, `"x":`+strings.Repeat("[", 10001)), nil, "INC1"},

		// In an event, the member id names the event.
		{"event", object(version, id, source, bad), typed, "/desk INC1"},
		{"event without source", object(version, id, bad), typed, ""},
		{"event, source after the fault", object(version, id, bad, source), typed, ""},
		{"event, source twice", object(version, id, source, source, bad), typed, ""},
		{"event, source no string", object(version, id, `"source":1`, bad), typed, ""},
		{"event, fault in data", object(version, id, source, `"data":`+object(dev, bad)), typed, "/desk INC1"},
		{"event, id in data", object(version, id, source, `"data":`+object(`"id":"INC9"`, dev, bad)), typed, "INC9"},
		{"event, id in whole data", object(version, id, source, `"data":`+object(`"id":"INC9"`, dev), bad), typed, "INC9"},
		{"event, id in data alone", object(`"data" : `+object(`"id":"INC9"`, dev, bad), id, source, version), typed, "INC9"},
		{"event, data text", object(version, id, source, `"data":"`+"\n"+`"`), typed, "/desk INC1"},
		{"event by its body", object(version, id, source, bad), nil, "/desk INC1"},
		{"event by its body, version after the fault", object(id, source, bad, version), nil, "/desk INC1"},
		{"event by its body, only version after the fault", object(id, bad, version), nil, ""},
		{"request with a version", object(dev, version, id, bad), nil, "INC1"},
		{"stray attribute", object(version, id, source, bad), []string{"ce-x", "1"}, "INC1"},
		{"in the headers", object(dev, bad), inHeaders, "/desk A1"},
		{"in the headers, id in data", object(id, bad), inHeaders, "INC1"},
		{"in base64", object(version, id, source, `"data_base64":"eyJpZCI6IklOQzkiLCI="`), typed, "INC9"},
	} {
		src := Source{Data: []byte(tt.body), Header: map[string][]string{}, Stream: "REQ", Sequence: 42}
		for i := 0; i < len(tt.header); i += 2 {
			src.Header[tt.header[i]] = []string{tt.header[i+1]}
		}
		r, err := Decode(src)
		want := Request{ID: tt.want, IDGiven: true}
		if tt.want == "" {
			want = Request{ID: "REQ-42"}
		}
		if err == nil || r != want {
			t.Errorf("%s: %+v, %v, want id %q", tt.name, r, err, want.ID)
		}
		src.Header["Nats-Msg-Id"] = []string{"H1"}
		if tt.want == "" {
			want = Request{ID: "H1", IDGiven: true}
		}
		if r, err := Decode(src); err == nil || r != want {
			t.Errorf("%s, with a message id: %+v, %v, want id %q", tt.name, r, err, want.ID)
		}
	}
}
