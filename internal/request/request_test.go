package request

import (
	"strings"
	"testing"
	"time"
)

const (
	device = "01234567-89ab-cdef-0123-456789abcdef"
	user   = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	trace  = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
)

// body returns an object with the device and, after it, what is given.
func body(rest string) string { return `{"managedDeviceId":"` + device + `"` + rest + `}` }

func TestDecode(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		name, body string
		header     map[string][]string
		want       Request
	}{
		{name: "device only", body: body("")},
		{name: "upper case", body: `{"managedDeviceId":"` + strings.ToUpper(device) + `"}`},
		{name: "white space", body: " \r\n{ \"managedDeviceId\"\t:\n\"" + device + "\" , \"id\" : \"a\" }\r\n ", want: Request{ID: "a"}},
		{name: "escaped key and value", body: `{"managed\u0044eviceId":"\u0030` + device[1:] + `"}`},
		{name: "user guid", body: body(`,"userId":"` + strings.ToUpper(user) + `"`), want: Request{UserID: user}},
		{name: "user upn", body: body(`,"userId":"O'Neil.x-y_z!#^~9@Example.com"`), want: Request{UserID: "O'Neil.x-y_z!#^~9@Example.com"}},
		{name: "user of 256", body: body(`,"userId":"` + strings.Repeat("u", 254) + `@x"`), want: Request{UserID: strings.Repeat("u", 254) + "@x"}},
		{name: "user null", body: body(`,"userId":null`)},
		{name: "app", body: body(`,"detectedAppId":"aZ09_-"`), want: Request{AppID: "aZ09_-"}},
		{name: "app of 128", body: body(`,"detectedAppId":"` + strings.Repeat("a", 128) + `"`), want: Request{AppID: strings.Repeat("a", 128)}},
		{name: "id", body: body(`,"id":"INC 1/é"`), want: Request{ID: "INC 1/é"}},
		{name: "id of 256", body: body(`,"id":"` + strings.Repeat("é", 128) + `"`), want: Request{ID: strings.Repeat("é", 128)}},
		{name: "id with surrogate pair", body: body(`,"id":"\ud83d\ude00"`), want: Request{ID: "😀"}},
		{name: "id null, all null", body: body(`,"id":null,"userId":null,"detectedAppId":null,"notAfter":null,"requestedBy":null,"reason":null`)},
		{name: "id empty", body: body(`,"id":""`)},
		{name: "id before header", body: body(`,"id":"b"`), header: map[string][]string{"Nats-Msg-Id": {"h\x00"}}, want: Request{ID: "b"}},
		{name: "id from header", body: body(``), header: map[string][]string{"Nats-Msg-Id": {"h", "i"}}, want: Request{ID: "h"}},
		{name: "id null, from header", body: body(`,"id":null`), header: map[string][]string{"nats-msg-ID": {"h"}}, want: Request{ID: "h"}},
		{name: "header empty", body: body(``), header: map[string][]string{"Nats-Msg-Id": {""}}},
		{name: "header without values", body: body(``), header: map[string][]string{"Nats-Msg-Id": {}, "nats-msg-id": nil}},
		{name: "header in two cases", body: body(``), header: map[string][]string{"nats-msg-id": {"c"}, "NATS-MSG-ID": {"a"}, "NATS-msg-id": {"b"}}, want: Request{ID: "a"}},
		{name: "header of like length", body: body(``), header: map[string][]string{"Nats-Msg-Ix": {"x"}}},
		{name: "time", body: body(`,"notAfter":"2026-01-02T03:04:05Z"`), want: Request{NotAfter: at}},
		{name: "time lower case", body: body(`,"notAfter":"2026-01-02t03:04:05z"`), want: Request{NotAfter: at}},
		{name: "time with zone", body: body(`,"notAfter":"2026-01-02T05:34:05.250+02:30"`), want: Request{NotAfter: at.Add(250 * time.Millisecond)}},
		{name: "time west", body: body(`,"notAfter":"2026-01-01T03:05:05-23:59"`), want: Request{NotAfter: at}},
		{name: "time of many digits", body: body(`,"notAfter":"2026-01-02T03:04:05.` + strings.Repeat("0", 999) + `Z"`), want: Request{NotAfter: at}},
		{name: "leap day", body: body(`,"notAfter":"2028-02-29T00:00:00Z"`), want: Request{NotAfter: time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC)}},
		{name: "texts", body: body(`,"requestedBy":"a\nb","reason":"\ud800<"`), want: Request{RequestedBy: "a\nb", Reason: "\ufffd<"}},
		{name: "texts empty", body: body(`,"requestedBy":"","reason":""`)},
		{name: "texts of 256", body: body(`,"reason":"` + strings.Repeat("é", 128) + `"`), want: Request{Reason: strings.Repeat("é", 128)}},
		{name: "texts cut", body: body(`,"requestedBy":"` + strings.Repeat("a", 257) + `","reason":"a` + strings.Repeat("é", 128) + `"`), want: Request{RequestedBy: strings.Repeat("a", 256), Reason: "a" + strings.Repeat("é", 127)}},
		{name: "text cut in four bytes", body: body(`,"reason":"abc` + strings.Repeat("😀", 64) + `"`), want: Request{Reason: "abc" + strings.Repeat("😀", 63)}},
		{name: "trace", body: body(``), header: map[string][]string{"Traceparent": {trace}}, want: Request{Traceparent: trace}},
		{name: "unknown fields", body: body(`,"x":{"id":"n","managedDeviceId":[1]},"x":[null,true,-1.5e999999,"]}\"\\"],"ID":"y","Id":1,"":0,"\u0069":1,"i\u0064\u0064":1,"\u0069\n":1,"\n":2,"\u0169d":3`)},
		{name: "deep", body: body(`,"x":` + strings.Repeat(`[{"a":`, 4900) + "0" + strings.Repeat("}]", 4900))},
		{name: "as long as may be", body: body(`,"x":"` + strings.Repeat("x", MaxBytes-len(body(`,"x":""`))) + `"`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.want.DeviceID = device
			tt.want.IDGiven = tt.want.ID != ""
			if !tt.want.IDGiven {
				tt.want.ID = "REQ-42"
			}
			got, err := Decode(Source{Data: []byte(tt.body), Header: tt.header, Stream: "REQ", Sequence: 42})
			if err != nil || got != tt.want {
				t.Errorf("Decode = %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := map[string][]string{"Nats-Msg-Id": {"h"}, "traceparent": {trace}}
	tests := []struct {
		name, body string
		header     map[string][]string
		err        string
		want       Request
	}{
		{"not json", `{"id":"a","managedDeviceId":"` + device + `"`, good, "body: not valid JSON: cut off, at byte offset 66", Request{ID: "a", IDGiven: true, Traceparent: trace}},
		{"two", body("") + body(""), nil, "body: not valid JSON: more after the end of the JSON, at byte offset 58", Request{ID: "REQ-42"}},
		{"too long", body("") + strings.Repeat(" ", MaxBytes), good, "body: longer than 65536 bytes", Request{ID: "h", IDGiven: true, Traceparent: trace}},
		{"no device", `{"id":"a","requestedBy":"me","reason":"why","userId":"` + user + `"}`, good, "managedDeviceId: missing", Request{ID: "a", IDGiven: true, RequestedBy: "me", Reason: "why", Traceparent: trace}},
		{"device null", `{"managedDeviceId":null}`, nil, "managedDeviceId: missing", Request{ID: "REQ-42"}},
		{"device number", `{"managedDeviceId":12}`, nil, "managedDeviceId: not a string", Request{ID: "REQ-42"}},
		{"device twice", body(`,"managed\u0044eviceId":"` + user + `","id":"a"`), nil, "managedDeviceId: given more than once", Request{ID: "a", IDGiven: true}},
		{"bad user", body(`,"userId":"x","detectedAppId":"a","notAfter":"2026-01-02T03:04:05Z","id":"a"`), nil, "userId: " + problemUser, Request{ID: "a", IDGiven: true, DeviceID: device}},
		{"empty user", body(`,"userId":""`), nil, "userId: " + problemUser, Request{ID: "REQ-42", DeviceID: device}},
		{"empty app", body(`,"detectedAppId":""`), nil, "detectedAppId: not 1 to 128 of A-Z, a-z, 0-9, _ and -", Request{ID: "REQ-42", DeviceID: device}},
		{"bad id, good header", body(`,"id":"a\u0000","reason":"r"`), good, "id: holds a control character", Request{ID: "h", IDGiven: true, DeviceID: device, Reason: "r", Traceparent: trace}},
		{"id number", body(`,"id":1`), nil, "id: not a string", Request{ID: "REQ-42", DeviceID: device}},
		{"id twice", body(`,"id":"a","id":"b"`), good, "id: given more than once", Request{ID: "h", IDGiven: true, DeviceID: device, Traceparent: trace}},
		{"bad header", body(`,"notAfter":"x"`), map[string][]string{"nats-msg-id": {"\xff"}}, "Nats-Msg-Id: holds broken Unicode or U+FFFD", Request{ID: "REQ-42", DeviceID: device}},
		{"empty time", body(`,"notAfter":""`), nil, "notAfter: not an RFC 3339 time between the years 1 and 9999", Request{ID: "REQ-42", DeviceID: device}},
		{"reason twice", body(`,"requestedBy":"r","reason":null,"reason":"x"`), nil, "reason: given more than once", Request{ID: "REQ-42", DeviceID: device, RequestedBy: "r"}},
		{"first in the order of the fields", body(`,"reason":1,"notAfter":1,"userId":1`), nil, "userId: not a string", Request{ID: "REQ-42", DeviceID: device}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Decode(Source{Data: []byte(tt.body), Header: tt.header, Stream: "REQ", Sequence: 42})
			if err == nil || err.Error() != tt.err || got != tt.want {
				t.Errorf("Decode = %+v, %v\nwant %+v, %s", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		trace:                       true,
		"cc" + trace[2:]:            true,
		"ff" + trace[2:]:            false,
		"":                          false,
		trace + "-x":                false,
		trace[:54]:                  false,
		trace[:54] + "\n":           false,
		" " + trace[1:]:             false,
		trace[:2] + "_" + trace[3:]: false,
		strings.ToUpper(trace):      false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": false,
	} {
		r, err := Decode(Source{Data: []byte(body("")), Header: map[string][]string{"traceparent": {s}}})
		if err != nil || (r.Traceparent != "") != want || want && r.Traceparent != s {
			t.Errorf("traceparent %q gives %q, %v", s, r.Traceparent, err)
		}
	}
}

// A caller may reuse the buffer of a message.
func TestDecodeKeepsNothing(t *testing.T) {
	t.Parallel()
	data := []byte(body(`,"id":"INC1","requestedBy":"me"`))
	r, err := Decode(Source{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	if want := (Request{ID: "INC1", IDGiven: true, DeviceID: device, RequestedBy: "me"}); r != want {
		t.Errorf("after the buffer was cleared: %+v", r)
	}
}
