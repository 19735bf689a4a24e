package request

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"passcode-worker/internal/request/requesttest"
)

const otherTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func binaryHeader(more map[string][]string) map[string][]string {
	h := map[string][]string{"ce-specversion": {"1.0"}, "ce-id": {"A1"}, "ce-source": {"/desk"}, "ce-type": {"reset"}}
	maps.Copy(h, more)
	return h
}

func TestDecodeEvent(t *testing.T) {
	t.Parallel()
	structured := map[string][]string{"Content-Type": {"application/cloudevents+json"}}
	event := func(more, data string) string {
		return `{"specversion":"1.0","id":"A1","source":"/desk","type":"reset",` + more + `"data":` + data + `}`
	}
	tests := []struct {
		name, body string
		header     map[string][]string
		err        string
		want       Request
	}{
		{"trace of the event", body(""), binaryHeader(map[string][]string{"ce-traceparent": {trace}}), "", Request{ID: "/desk A1", Traceparent: trace}},
		{"trace of the message first", body(""), binaryHeader(map[string][]string{"CE-Traceparent": {trace}, "Traceparent": {otherTrace}}), "", Request{ID: "/desk A1", Traceparent: otherTrace}},
		{"bad trace of the message", body(""), binaryHeader(map[string][]string{"ce-traceparent": {trace}, "traceparent": {"x"}}), "", Request{ID: "/desk A1"}},
		{"bad trace of the event", body(""), binaryHeader(map[string][]string{"ce-traceparent": {"x"}}), "", Request{ID: "/desk A1"}},
		{"trace in the body", event(`"traceparent":"`+trace+`",`, body("")), structured, "", Request{ID: "/desk A1", Traceparent: trace}},
		{"trace that is a number", event(`"traceparent":1,`, body("")), structured, "", Request{ID: "/desk A1"}},
		{"stray trace", body(""), map[string][]string{"ce-traceparent": {trace}}, "", Request{ID: "REQ-42"}},
		{"message id after the event's", body(""), binaryHeader(map[string][]string{"Nats-Msg-Id": {"h"}}), "", Request{ID: "/desk A1"}},
		{"the worker's own headers", body(""), binaryHeader(map[string][]string{"Nats-Pin-Id": {"x"}, "Nats-Expected-Stream": {"y"}}), "", Request{ID: "/desk A1"}},
		{"attribute without a value", body(""), binaryHeader(map[string][]string{"ce-subject": nil}), "", Request{ID: "/desk A1"}},
		{"attributes without values", body(""), map[string][]string{"ce-id": nil, "Ce-Source": {}}, "", Request{ID: "REQ-42"}},
		{"data type empty", body(""), binaryHeader(map[string][]string{"ce-datacontenttype": {""}}), "", Request{ID: "/desk A1"}},
		{"wrong type, id known", body(""), binaryHeader(map[string][]string{"ce-datacontenttype": {"text/xml"}, "Nats-Msg-Id": {"h"}}), "ce-datacontenttype: not JSON", Request{ID: "/desk A1", IDGiven: true, DeviceID: device}},
		{"trace twice", event(`"traceparent":"`+trace+`","traceparent":"`+trace+`",`, body("")), structured, "", Request{ID: "/desk A1"}},
		{"event without a type, before the message id", event("", body("")), map[string][]string{"Nats-Msg-Id": {"h"}}, "", Request{ID: "/desk A1"}},
		{"extension empty", body(""), binaryHeader(map[string][]string{"ce-x": {""}}), "", Request{ID: "/desk A1"}},
		{"no source, body read all the same", body(`,"id":"a","userId":"x@y","requestedBy":"me"`), map[string][]string{"ce-id": {"A1"}, "ce-specversion": {"1.0"}, "ce-type": {"t"}, "ce-traceparent": {trace}}, "ce-source: missing", Request{ID: "a", IDGiven: true, DeviceID: device, RequestedBy: "me", Traceparent: trace}},
		{"no source, message id", body(""), map[string][]string{"ce-id": {"A1"}, "Nats-Msg-Id": {"h"}}, "ce-specversion: missing", Request{ID: "h", IDGiven: true, DeviceID: device}},
		{"bad data, good event", body(`,"userId":1`), binaryHeader(nil), "userId: not a string", Request{ID: "/desk A1", IDGiven: true, DeviceID: device}},
		{"bad id in the data", body(`,"id":"\u0000"`), binaryHeader(nil), "id: holds a control character", Request{ID: "/desk A1", IDGiven: true, DeviceID: device}},
		{"data in the body is bad", event("", `{"managedDeviceId":1,"reason":"r"}`), structured, "managedDeviceId: not a string", Request{ID: "/desk A1", IDGiven: true, Reason: "r"}},
		{"event in the body is bad", event(`"datacontenttype":1,`, body(`,"reason":"r"`)), structured, "ce-datacontenttype: not a string", Request{ID: "/desk A1", IDGiven: true, DeviceID: device, Reason: "r"}},
		{"both modes", event("", body("")), binaryHeader(structured), "Content-Type: says that the event is in the body, and headers ce-* hold one as well", Request{ID: "REQ-42"}},
		{"a batch", "[" + event("", body("")) + "]", map[string][]string{"content-type": {"Application/CloudEvents-Batch+json"}, "Nats-Msg-Id": {"h"}}, "Content-Type: a batch of events; publish each one by itself", Request{ID: "h", IDGiven: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.err == "" {
				tt.want.DeviceID, tt.want.IDGiven = device, tt.want.ID != "REQ-42"
			}
			got, err := Decode(Source{Data: []byte(tt.body), Header: tt.header, Stream: "REQ", Sequence: 42})
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("Decode = %+v, %v\nwant %+v, %s", got, err, tt.want, tt.err)
			}
		})
	}
}

// Two events are one request only if both source and id are the same.
func TestEventID(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, source := range []string{"/a", "/a b", "/a%20", "ce-sha256-", "/" + strings.Repeat("a", 251), "/" + strings.Repeat("a", 252)} {
		for _, id := range []string{"b", "b c", " b", "/a b", strings.Repeat("b", 251), strings.Repeat("b", 252), strings.Repeat("b", 60000)} {
			got := eventID(source, id)
			if other, ok := seen[got]; ok {
				t.Errorf("%q has both %s and %q, %q", got, other, source, id)
			}
			seen[got] = fmt.Sprintf("%q, %q", source, id)
			if len(got) > maxID || idProblem(got) != "" {
				t.Errorf("id %q", got)
			}
		}
	}
}

// A message is read alike however its headers happen to be ordered.
func TestDecodeEventSteady(t *testing.T) {
	t.Parallel()
	h := binaryHeader(map[string][]string{
		"CE-ID": {"%"}, "Ce-id": {"B"}, "ce-type": {"%"}, "CE-TYPE": {"a", "b"}, "ce-x": {"%"}, "CE-x": {"\x00"}, "ce-y_z": {"1"}, "Ce-X": {"2", "1"},
		"Content-Type": {"text/xml"}, "content-type": {"x"},
	})
	var first string
	for range 50 {
		r, err := Decode(Source{Data: []byte(body("")), Header: h})
		got := fmt.Sprint(r, err)
		if first == "" {
			first = got
		}
		if got != first {
			t.Fatalf("%s, then %s", first, got)
		}
	}
}

// checkSDK checks that the SDK's own reader takes an accepted event, and reads the same in it.
func checkSDK(t *testing.T, data []byte, r Request) {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(SkipMark(data), &members); err != nil {
		t.Fatal(err)
	}
	var source string
	if err := json.Unmarshal(members["source"], &source); err != nil {
		t.Fatal(err)
	}
	// The SDK also judges what is not used here, knows few types that are JSON, and no later version.
	used := []string{"id", "source", "type", memberData, memberBase64}
	// To CloudEvents null means absent. The SDK does not always think so.
	maps.DeleteFunc(members, func(name string, v json.RawMessage) bool { return string(v) == "null" || !slices.Contains(used, name) })
	members["specversion"] = json.RawMessage(`"1.0"`)
	isURI := types.ParseURIRef(source) != nil && !strings.Contains(source, " ")
	if !isURI {
		members["source"] = json.RawMessage(`"/desk"`)
	}
	// Nor does it always undo the escapes of JSON.
	if encoded, ok := members[memberBase64]; ok {
		members[memberBase64], _ = json.Marshal(unquote(encoded)) // a string always has a JSON form
	}
	data, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	var ev event.Event
	if err := ev.UnmarshalJSON(data); err != nil {
		t.Fatalf("the SDK cannot read what was accepted: %v", err)
	}
	if err := ev.Validate(); err != nil {
		t.Errorf("the SDK rejects what was accepted: %v", err)
	}
	plain, err := Decode(Source{Data: ev.Data(), Stream: "REQ", Sequence: 42})
	if err != nil || plain.DeviceID != r.DeviceID || plain.UserID != r.UserID || plain.AppID != r.AppID || !plain.NotAfter.Equal(r.NotAfter) {
		t.Errorf("the SDK reads %+v, %v, Decode %+v", plain, err, r)
	}
	if plain.IDGiven || !isURI {
		return
	}
	source, id, _ := strings.Cut(r.ID, " ")
	if strings.HasPrefix(r.ID, "ce-sha256-") {
		return
	}
	if u, err := url.Parse(source); err != nil || u.String() != ev.Source() || id != ev.ID() {
		t.Errorf("id %q, the SDK reads %q and %q", r.ID, ev.Source(), ev.ID())
	}
}

func TestSDKAgrees(t *testing.T) {
	t.Parallel()
	n := 0
	for _, p := range requesttest.Accepted() {
		if !strings.HasPrefix(p.Name, "structured-") {
			continue
		}
		n++
		r, err := Decode(Source{Data: p.Data, Header: p.Header})
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		checkSDK(t, p.Data, r)
	}
	if n == 0 {
		t.Error("no event in structured mode")
	}
}

// An event as the SDK writes it is taken, in whichever way it was given its data.
func TestSDKWrites(t *testing.T) {
	t.Parallel()
	data := struct {
		ManagedDeviceID string `json:"managedDeviceId"`
		Reason          string `json:"reason"`
	}{device, "f\u00fcr >>>???"}
	encoded, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	for name, given := range map[string]any{"struct": data, "bytes": encoded, "text": json.RawMessage(encoded)} {
		ev := event.New()
		ev.SetID("A1")
		ev.SetSource("/desk")
		ev.SetType("reset")
		if err := ev.SetData(event.ApplicationJSON, given); err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		if inBase64 := strings.Contains(string(body), `"`+memberBase64+`"`); inBase64 != (name == "bytes") {
			t.Errorf("%s: the SDK wrote %s", name, body)
		}
		got, err := Decode(Source{Data: body, Header: map[string][]string{"Content-Type": {event.ApplicationCloudEventsJSON}}, Stream: "REQ", Sequence: 42})
		want := Request{ID: "/desk A1", IDGiven: true, DeviceID: device, Reason: data.Reason}
		if got != want || err != nil {
			t.Errorf("%s: Decode(%s) = %+v, %v", name, body, got, err)
		}
	}
}

// FuzzStructured reads any body as an event.
func FuzzStructured(f *testing.F) {
	for _, p := range append(requesttest.Hostile(), requesttest.Accepted()...) {
		if strings.HasPrefix(p.Name, "structured-") && len(p.Data) < 1<<10 {
			f.Add(p.Data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(Source{Data: data, Header: map[string][]string{"content-type": {"application/cloudevents+json"}}, Stream: "REQ", Sequence: 42})
		if n := len(r.ID); n < 1 || n > 256 || !r.IDGiven && r.ID != "REQ-42" {
			t.Errorf("id %q, given %t", r.ID, r.IDGiven)
		}
		if err != nil {
			_ = checkInvalid(t, err) // it fails the test itself
			return
		}
		checkSafe(t, r)
		checkSDK(t, data, r)
	})
}

// FuzzModes writes an event in both modes, which must be read alike.
func FuzzModes(f *testing.F) {
	good := []byte(body(`,"reason":"r"`))
	f.Add("A1", "/desk", "reset", "application/json", "2026-01-02T03:04:05Z", "traceparent", trace, good)
	f.Add("", "", "", "", "", "", "", []byte(body(`,"id":"x"`)))
	f.Add("\u0080", "/a b", "é%20\"", "text/xml", "x", "data", "\x00", []byte(`{}`))
	f.Add("A\ufffd", "://", " ", "a", "2026-01-02t03:04:05z", "x-y", "1", []byte(`{"managedDeviceId":1}`))
	f.Fuzz(func(t *testing.T, id, source, typ, dataType, at, name, value string, data []byte) {
		values := map[string]string{
			"specversion": "1.0", "id": id, "source": source, "type": typ, "datacontenttype": dataType, "time": at,
		}
		if _, ok := values[name]; ok || name == "dataschema" || name == "subject" || name == memberData || name == memberBase64 || name != strings.ToLower(name) {
			return
		}
		values[name] = value
		members, header := map[string]json.RawMessage{}, map[string][]string{}
		for n, v := range values {
			if !utf8.ValidString(n) || !utf8.ValidString(v) {
				return
			}
			header["Ce-"+n] = []string{encodeHeader(v)}
			members[n], _ = json.Marshal(v) // a string always has a JSON form
		}
		if !json.Valid(data) || !utf8.Valid(data) || data[skipSpace(data, 0)] != '{' {
			return
		}
		members[memberData] = data
		whole, err := json.Marshal(members)
		if err != nil || len(whole) > MaxBytes {
			return
		}
		r1, err1 := Decode(Source{Data: data, Header: header, Stream: "REQ", Sequence: 42})
		r2, err2 := Decode(Source{Data: whole, Header: map[string][]string{"Content-Type": {"application/cloudevents+json"}}, Stream: "REQ", Sequence: 42})
		if r1 != r2 || fmt.Sprint(err1) != fmt.Sprint(err2) {
			t.Errorf("in the headers %+v, %v\nin the body %+v, %v", r1, err1, r2, err2)
		}
		delete(members, memberData)
		members[memberBase64], _ = json.Marshal(data) // bytes always have a JSON form, which is this
		whole, err = json.Marshal(members)
		if err != nil || len(whole) > MaxBytes {
			return
		}
		r3, err3 := Decode(Source{Data: whole, Header: map[string][]string{"Content-Type": {"application/cloudevents+json"}}, Stream: "REQ", Sequence: 42})
		if r1 != r3 || fmt.Sprint(err1) != fmt.Sprint(err3) {
			t.Errorf("in the headers %+v, %v\nin base64 %+v, %v", r1, err1, r3, err3)
		}
	})
}

// encodeHeader writes a text as the binding wants it.
func encodeHeader(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '"' || c == '%' || c > '~' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// FuzzHeaderText compares with package url, which knows no quotes.
func FuzzHeaderText(f *testing.F) {
	for _, s := range []string{"", "a", "%41", "%", "%4", "%C0%A0", "%e2%82%ac", `"a\"b"`, `"`, `"a"b`, `a"b"`, "+", "%%", "\xff", "%ff", "50% of %41"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := headerText(s)
		if strings.HasPrefix(s, `"`) {
			return
		}
		want, err := url.PathUnescape(s)
		if err != nil || !utf8.ValidString(want) {
			want = s
		}
		if got != want {
			t.Errorf("%q gives %q, package url says %q, %v", s, got, want, err)
		}
	})
}
