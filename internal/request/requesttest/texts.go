package requesttest

import "strconv"

func ids() []Payload {
	return append(append(types(fieldID), text(fieldID, []named{
		{"crlf", "INC1\r\nNats-Msg-Id: INC2"},
		{"header-injection", "INC1\r\n\r\nNATS/1.0 503\r\n\r\n"},
		{"newline", "INC1\n"},
		{"carriage-return", "INC1\r"},
		{"tab", "INC\t1"},
		{"nul", "INC1\x00"},
		{"nul-only", "\x00"},
		{"escape-code", "\x1b]0;title\x07"},
		{"delete", "INC1\x7f"},
		{"next-line", "INC1\u0085"},
		{"c1-control", "\u009b31m"},
		{"replacement", "INC\ufffd1"},
		{"256-and-one", repeat("a", 257)},
		{"wide-258-bytes", repeat("é", 129)},
		{"long", repeat("x", 60000)},
		{"long-path", repeat("../", 20000)},
	})...),
		raw(fieldID, "high-surrogate", `"\ud800"`),
		raw(fieldID, "other-high-surrogate", `"\ud801"`),
		raw(fieldID, "low-surrogate", `"\udc00"`),
		raw(fieldID, "surrogates-reversed", `"INC\udc00\ud800"`),
		raw(fieldID, "surrogate-before-letter", `"\ud83dA"`),
		raw(fieldID, "escaped-crlf", `"INC1\u000d\u000aX: y"`),
		raw(fieldID, "negative", `-1`),
		raw(fieldID, "fraction", `1.5e300`),
	)
}

func times() []Payload {
	return append(append(types(fieldNotAfter), text(fieldNotAfter, common())...), text(fieldNotAfter, []named{
		{"date-only", "2026-01-02"},
		{"no-zone", "2026-01-02T03:04:05"},
		{"space-between", "2026-01-02 03:04:05Z"},
		{"month-13", "2026-13-01T00:00:00Z"},
		{"month-0", "2026-00-01T00:00:00Z"},
		{"day-0", "2026-01-00T00:00:00Z"},
		{"february-30", "2026-02-30T00:00:00Z"},
		{"no-leap-year", "2025-02-29T00:00:00Z"},
		{"hour-24", "2026-01-02T24:00:00Z"},
		{"one-digit-hour", "2026-01-02T3:04:05Z"},
		{"minute-60", "2026-01-02T03:60:00Z"},
		{"second-61", "2026-01-02T03:04:61Z"},
		{"offset-24", "2026-01-02T03:04:05+24:00"},
		{"offset-minute-60", "2026-01-02T03:04:05+01:60"},
		{"offset-short", "2026-01-02T03:04:05+01"},
		{"offset-no-colon", "2026-01-02T03:04:05+0100"},
		{"zone-name", "2026-01-02T03:04:05 UTC"},
		{"comma-fraction", "2026-01-02T03:04:05,5Z"},
		{"empty-fraction", "2026-01-02T03:04:05.Z"},
		{"five-digit-year", "10000-01-01T00:00:00Z"},
		{"negative-year", "-001-01-01T00:00:00Z"},
		{"plus-year", "+2026-01-02T03:04:05Z"},
		{"year-0", "0000-01-01T00:00:00Z"},
		{"zero-time", "0001-01-01T00:00:00Z"},
		{"zero-time-offset", "0001-01-01T01:00:00+01:00"},
		{"before-year-1", "0001-01-01T00:00:00+01:00"},
		{"after-year-9999", "9999-12-31T23:59:59-01:00"},
		{"space-before", " 2026-01-02T03:04:05Z"},
		{"space-after", "2026-01-02T03:04:05Z "},
		{"full-width", "２026-01-02T03:04:05Z"},
		{"unix", "1767323045"},
		{"word", "tomorrow"},
		{"never", "never"},
		{"duration", "PT1H"},
		{"week", "2026-W01-1T00:00:00Z"},
		{"http-date", "Fri, 02 Jan 2026 03:04:05 GMT"},
	})...)
}

// notes may hold any text, so only their types can be wrong.
func notes() []Payload { return append(types(fieldRequestedBy), types(fieldReason)...) }

// headers are messages whose body is right and has no id of its own.
func headers() []Payload {
	var all []Payload
	add := func(name, header string, values ...string) {
		all = append(all, Payload{
			Name: "header-" + name,
			// The number keeps the bodies distinct.
			Data:   []byte(`{"managedDeviceId":"` + device + `","n":` + strconv.Itoa(len(all)) + `}`),
			Header: map[string][]string{header: values},
			Field:  headerMsgID,
		})
	}
	add("nul", headerMsgID, "INC1\x00x")
	add("tab", headerMsgID, "INC\t1")
	add("escape-code", headerMsgID, "INC\x1b[31m1")
	add("bell", headerMsgID, "INC\a1")
	add("delete", headerMsgID, "INC\x7f1")
	add("vertical-tab", headerMsgID, "INC\v1")
	add("next-line", headerMsgID, "INC\u00851")
	add("replacement", headerMsgID, "INC\ufffd1")
	add("latin1", headerMsgID, "Ger\xe4t")
	add("overlong-slash", headerMsgID, "a\xc0\xafb")
	add("surrogate-bytes", headerMsgID, "a\xed\xa0\x80b")
	add("binary", headerMsgID, "\xff\xfe\xfd")
	add("256-and-one", headerMsgID, repeat("h", 257))
	add("wide-258-bytes", headerMsgID, repeat("é", 129))
	add("long", headerMsgID, repeat("h", 50000))
	add("lower-case", "nats-msg-id", "INC\x012")
	add("upper-case", "NATS-MSG-ID", "INC\x013")
	add("mixed-case", "nAtS-mSg-Id", repeat("m", 300))
	add("first-of-two", headerMsgID, "INC\x014", "INC4")

	// A bad body may not be saved by a header, nor a bad header hide behind another one.
	all = append(all,
		Payload{
			Name:   "header-good-body-broken",
			Data:   []byte(`{"managedDeviceId":`),
			Header: map[string][]string{headerMsgID: {"INC0000005"}},
			Field:  fieldBody,
		},
		Payload{
			Name:   "header-good-id-bad",
			Data:   []byte(`{"managedDeviceId":"` + device + `","id":"INC\u00006"}`),
			Header: map[string][]string{headerMsgID: {"INC0000006"}},
			Field:  fieldID,
		},
		Payload{
			Name:   "header-and-id-bad",
			Data:   []byte(`{"managedDeviceId":"` + device + `","id":"INC\u00007"}`),
			Header: map[string][]string{headerMsgID: {"INC\x017"}},
			Field:  fieldID,
		},
		Payload{
			Name: "header-two-spellings",
			Data: []byte(`{"managedDeviceId":"` + device + `"}`),
			Header: map[string][]string{
				headerMsgID:   {"INC\x018"},
				"nats-msg-id": {"INC0000008"},
			},
			Field: headerMsgID,
		},
		Payload{
			Name: "header-traceparent",
			Data: []byte(`{"managedDeviceId":""}`),
			Header: map[string][]string{
				"traceparent": {"00-<script>"},
				"tracestate":  {repeat("a=b,", 10000)},
			},
			Field: fieldDevice,
		},
	)
	return all
}
