package request

import (
	"encoding/json"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"passcode-worker/internal/request/requesttest"
)

func FuzzDecode(f *testing.F) {
	for _, p := range requesttest.Hostile() {
		if len(p.Data) < 1<<10 {
			f.Add(p.Data, "h", trace)
		}
	}
	f.Add([]byte(body(`,"userId":"a@b","detectedAppId":"x","id":"i","notAfter":"2026-01-02T03:04:05Z","requestedBy":"r","reason":"w","x":[{"y":"]"}]`)), "", "")
	f.Fuzz(func(t *testing.T, data []byte, msgID, traceparent string) {
		src := Source{
			Data:   data,
			Header: map[string][]string{"Nats-Msg-Id": {msgID}, "traceparent": {traceparent}},
			Stream: "REQ", Sequence: 42,
		}
		r, err := Decode(src)
		if n := len(r.ID); n < 1 || n > 256 || !r.IDGiven && r.ID != "REQ-42" {
			t.Errorf("id %q, given %t", r.ID, r.IDGiven)
		}
		if len(r.RequestedBy) > 256 || len(r.Reason) > 256 {
			t.Error("text not cut")
		}
		if err != nil {
			_ = checkInvalid(t, err) // it fails the test itself
			return
		}
		checkSafe(t, r)
		if isEvent(t, data) {
			checkSDK(t, data, r)
			r.Traceparent = traceOf(traceparent) // that of the event may have stood in for it
		} else {
			checkPlainly(t, data, r)
		}

		src.Data = marshal(t, r)
		if again, err := Decode(src); err != nil || again != r {
			t.Errorf("decoded %+v\nagain   %+v, %v", r, again, err)
		}
	})
}

// isEvent reports whether a body alone makes an event.
func isEvent(t *testing.T, data []byte) bool {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(SkipMark(data), &all); err != nil {
		t.Fatalf("encoding/json cannot read what was accepted: %v", err)
	}
	given := func(name string) bool { return all[name] != nil && string(all[name]) != "null" }
	return given("specversion") && !given("managedDeviceId")
}

func traceOf(s string) string {
	if isTraceparent(s) {
		return s
	}
	return ""
}

// FuzzBroken breaks a good body at one place, after the id or before it.
func FuzzBroken(f *testing.F) {
	for _, s := range []string{"", "\n", "\t", `"`, `\`, "\x00", "\x1a", byteOrderMark, "\xe4", "'", ",", "}", "[", `","id":"INC2`, `","specversion":"1.0`} {
		f.Add(uint16(90), uint16(0), s, false)
		f.Add(uint16(3), uint16(1), s, true)
		f.Add(uint16(200), uint16(200), s, false)
	}
	f.Fuzz(func(t *testing.T, at, without uint16, with string, event bool) {
		good := `{"id":"INC1","managedDeviceId":"` + device + `","reason":"forgot","x":[{"y":1.5e3},true,null,"\u00e4"]}`
		head := `{"id":"INC1",`
		want := "INC1"
		if event {
			head = `{"specversion":"1.0","source":"/desk","id":"A1",`
			want = "/desk A1"
			good = head + `"data":` + body(`,"reason":"forgot"`) + `}`
		}
		i := min(int(at), len(good))
		data := []byte(good[:i] + with + good[min(i+int(without), len(good)):])
		r, err := Decode(Source{Data: data, Header: map[string][]string{"Nats-Msg-Id": {"H1"}}, Stream: "REQ", Sequence: 42})
		if n := len(r.ID); n < 1 || n > 256 || !r.IDGiven {
			t.Errorf("id %q, given %t", r.ID, r.IDGiven)
		}
		if err == nil {
			return
		}
		bad := checkInvalid(t, err)
		if len(err.Error()) > 200 || strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("error %q", err)
		}
		place := offset.FindString(bad.Problem)
		if place == "" {
			return
		}
		n, err := strconv.Atoi(strings.TrimPrefix(place, problemPlace))
		if err != nil || n > len(data) {
			t.Errorf("%q: place %q", data, place)
		}
		// What follows cannot be known to be no second id, or source, or device.
		if i >= len(head) && !strings.Contains(with, `"`) && utf8.ValidString(with) && r.ID != want {
			t.Errorf("%q: id %q", data, r.ID)
		}
	})
}

// checkSafe checks that the ids can stand in a URL's path.
func checkSafe(t *testing.T, r Request) {
	t.Helper()
	if !isGUID(r.DeviceID) || strings.ToLower(r.DeviceID) != r.DeviceID {
		t.Errorf("device %q", r.DeviceID)
	}
	if url.PathEscape(r.AppID) != r.AppID {
		t.Errorf("app %q", r.AppID)
	}
	if strings.ContainsAny(r.UserID, "/\\?%&:;+ \"<>") || r.UserID == "." || r.UserID == ".." {
		t.Errorf("user %q", r.UserID)
	}
	for _, s := range []string{r.UserID, r.ID, r.Traceparent} {
		for _, c := range s {
			if c < ' ' || c == 0x7f {
				t.Errorf("control character in %q", s)
			}
		}
	}
}

// checkPlainly reads the body in the plainest way and compares.
func checkPlainly(t *testing.T, data []byte, r Request) {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(SkipMark(data), &all); err != nil {
		t.Fatalf("encoding/json cannot read what was accepted: %v", err)
	}
	text := func(name string) (s string) {
		if raw, ok := all[name]; ok {
			if err := json.Unmarshal(raw, &s); err != nil {
				t.Errorf("%s was accepted: %v", name, err)
			}
		}
		return s
	}
	for name, got := range map[string]string{
		"managedDeviceId": r.DeviceID,
		"userId":          r.UserID,
		"detectedAppId":   r.AppID,
	} {
		if want := text(name); !strings.EqualFold(got, want) {
			t.Errorf("%s = %q, encoding/json says %q", name, got, want)
		}
	}
	if want := text("id"); want != "" && r.ID != want {
		t.Errorf("id = %q, encoding/json says %q", r.ID, want)
	}
	if !strings.HasPrefix(text("requestedBy"), r.RequestedBy) || !strings.HasPrefix(text("reason"), r.Reason) {
		t.Errorf("requestedBy %q and reason %q are not the beginning of the texts", r.RequestedBy, r.Reason)
	}
	if (text("notAfter") == "") != r.NotAfter.IsZero() {
		t.Errorf("notAfter = %v, encoding/json says %q", r.NotAfter, text("notAfter"))
	}
}

func marshal(t *testing.T, r Request) []byte {
	t.Helper()
	fields := map[string]string{
		"userId": r.UserID, "detectedAppId": r.AppID, "requestedBy": r.RequestedBy, "reason": r.Reason,
	}
	maps.DeleteFunc(fields, func(_, v string) bool { return v == "" })
	fields["managedDeviceId"] = r.DeviceID
	if r.IDGiven {
		fields["id"] = r.ID
	}
	if !r.NotAfter.IsZero() {
		fields["notAfter"] = r.NotAfter.Format(time.RFC3339Nano)
	}
	data, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
