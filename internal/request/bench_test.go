package request

import (
	"fmt"
	"strings"
	"testing"
)

func BenchmarkDecode(b *testing.B) {
	full := `,"userId":"` + user + `","detectedAppId":"app_1","id":"INC0012345","notAfter":"2026-01-02T03:04:05Z",` +
		`"requestedBy":"help desk","reason":"forgotten"`
	for _, bb := range []struct{ name, body string }{
		{"plain", body(`,"id":"INC0012345"`)},
		{"full", body(full)},
		{"escapes", body(`,"id":"INC\u002f12345","reason":"a\nb"`)},
		{"unknown", body(`,"x":"` + strings.Repeat("x", 60000) + `"`)},
		{"deep", body(`,"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000))},
		{"escaped keys", body(strings.Repeat(`,"\u0061":0`, 5000))},
		{"refused", `{"managedDeviceId":"x"}`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			src := Source{
				Data:   []byte(bb.body),
				Header: map[string][]string{"Nats-Msg-Id": {"INC0012345"}, "traceparent": {trace}},
				Stream: "REQ", Sequence: 42,
			}
			b.SetBytes(int64(len(src.Data)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Decode(src)
			}
		})
	}
}

func BenchmarkDecodeEvent(b *testing.B) {
	data := body(`,"requestedBy":"help desk"`)
	event := `{"specversion":"1.0","id":"A1","source":"/desk","type":"reset","traceparent":"` + trace + `","data":` + data + `}`
	var many strings.Builder
	for i := range 6000 {
		fmt.Fprintf(&many, `"x%d":0,`, i)
	}
	inBody := map[string][]string{"Content-Type": {"application/cloudevents+json"}}
	for _, bb := range []struct {
		name, body string
		header     map[string][]string
	}{
		{"binary", data, binaryHeader(map[string][]string{"ce-traceparent": {trace}})},
		{"structured", event, inBody},
		{"many", "{" + many.String() + event[1:], inBody},
	} {
		b.Run(bb.name, func(b *testing.B) {
			src := Source{Data: []byte(bb.body), Header: bb.header, Stream: "REQ", Sequence: 42}
			b.SetBytes(int64(len(src.Data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEscapeID(b *testing.B) {
	for _, id := range []string{"INC0012345", "INC.0012345/a"} {
		b.Run(id, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = EscapeID(id)
			}
		})
	}
}
