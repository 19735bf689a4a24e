package requesttest

import (
	"strconv"
	"strings"
)

const byteOrderMark = "\ufeff"

// The utf functions write a text of ASCII in other encodings, without a mark.

func utf16LE(s string) string { return spread(s, "", "\x00") }
func utf16BE(s string) string { return spread(s, "\x00", "") }
func utf32LE(s string) string { return spread(s, "", "\x00\x00\x00") }
func utf32BE(s string) string { return spread(s, "\x00\x00\x00", "") }

func spread(s, before, after string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteString(before + s[i:i+1] + after)
	}
	return b.String()
}

// bodies are messages that are not one JSON object.
func bodies() []Payload {
	const good = `{"managedDeviceId":"` + device + `"}`
	var all []Payload
	add := func(name, data string) {
		all = append(all, Payload{Name: "body-" + name, Data: []byte(data), Field: fieldBody})
	}
	add("empty", "")
	add("spaces", " \r\n\t ")
	add("quote", `"`)
	add("apostrophe", `'`)
	add("brace", "{")
	add("closing-brace", "}")
	add("bracket", "[")
	add("comma", ",")
	add("backslash", `\`)
	add("text", "reset my phone please")
	add("nul", "\x00")
	add("null", "null")
	add("true", "true")
	add("number", "42")
	add("string", `"`+device+`"`)
	add("nan", "NaN")
	add("infinity", "-Infinity")
	add("array", "["+good+"]")
	add("empty-array", "[]")
	add("nan-value", `{"managedDeviceId":NaN}`)
	add("hex-number", `{"x":0x10,`+good[1:])
	add("leading-zero", `{"x":01,`+good[1:])
	add("bare-fraction", `{"x":.5,`+good[1:])
	add("no-value", `{"managedDeviceId":}`)
	add("no-colon", `{"managedDeviceId" "`+device+`"}`)
	add("bare-key", `{managedDeviceId:"`+device+`"}`)
	add("apostrophes", `{'managedDeviceId':'`+device+`'}`)
	add("number-key", `{1:2}`)
	add("open-string", `{"managedDeviceId":"`+device)
	add("open-object", good[:len(good)-1])
	add("open-escape", `{"managedDeviceId":"`+device+`\`)
	add("half-escape", `{"id":"\u12",`+good[1:])
	add("unknown-escape", `{"id":"\x41",`+good[1:])
	add("trailing-comma", good[:len(good)-1]+",}")
	add("leading-comma", "{,"+good[1:])
	add("wrong-bracket", good[:len(good)-1]+"]")
	add("comment", "/* x */"+good)
	add("line-comment", "{ // x\n"+good[1:])
	add("trailing-object", good+good)
	add("trailing-line", good+"\n"+good)
	add("trailing-brace", good+"}")
	add("trailing-text", good+" x")
	add("trailing-nul", good+"\x00")
	add("leading-nul", "\x00"+good)
	add("nul-in-string", `{"id":"a`+"\x00"+`b",`+good[1:])
	add("newline-in-string", `{"id":"a`+"\r\n"+`b",`+good[1:])
	add("mark-only", byteOrderMark)
	add("mark-twice", byteOrderMark+byteOrderMark+good)
	add("mark-after-space", " "+byteOrderMark+good)
	add("mark-after-brace", "{"+byteOrderMark+good[1:])
	add("mark-half", byteOrderMark[:2]+good)
	add("mark-array", byteOrderMark+"["+good+"]")
	add("mark-open", byteOrderMark+good[:len(good)-1])
	add("mark-too-long", byteOrderMark+`{"x":"`+repeat("a", maxBytes+1-len(good)-7)+`",`+good[1:])
	add("utf16", "\xff\xfe{\x00}\x00")
	add("utf16-le", "\xff\xfe"+utf16LE(good))
	add("utf16-be", "\xfe\xff"+utf16BE(good))
	add("utf16-le-no-mark", utf16LE(good))
	add("utf16-be-no-mark", utf16BE(good))
	add("utf16-line-feed", utf16LE(good)+"\n")
	add("utf32-le", "\xff\xfe\x00\x00"+utf32LE(good))
	add("utf32-be", "\x00\x00\xfe\xff"+utf32BE(good))
	add("utf32-le-no-mark", utf32LE(good))
	add("utf32-be-no-mark", utf32BE(good))
	add("tab-in-string", `{"id":"a`+"\t"+`b",`+good[1:])
	add("line-feed-in-string", `{"id":"a`+"\n"+`b",`+good[1:])
	add("bell-in-string", `{"id":"a`+"\a"+`b",`+good[1:])
	add("escape-in-escape", `{"id":"a\`+"\n"+`b",`+good[1:])
	add("quote-in-string", `{"id":"say "no" twice",`+good[1:])
	add("quotes-doubled", `{"id":"say ""no"" twice",`+good[1:])
	add("no-comma", `{"id":"INC1" `+good[1:])
	add("two-commas", `{"id":"INC1",,`+good[1:])
	add("typographic-quotes", strings.ReplaceAll(good, `"`, "”"))
	add("no-break-space", "{\u00a0"+good[1:])
	add("double", strconv.Quote(good))
	add("domain-user", `{"requestedBy":"DESK\jo",`+good[1:])
	add("path", `{"reason":"C:\users\jo",`+good[1:])
	add("trailing-sub", good+"\r\n\x1a")
	add("trailing-nuls", good+"\x00\x00")
	add("nul-between", "{\x00"+good[1:])
	add("latin1", `{"reason":"Ger`+"\xe4"+`t",`+good[1:])
	add("overlong-slash", `{"id":"`+"\xc0\xaf"+`",`+good[1:])
	add("surrogate-bytes", `{"id":"`+"\xed\xa0\x80"+`",`+good[1:])
	add("cut-character", `{"id":"`+"\xe2\x82"+`",`+good[1:])
	add("beyond-unicode", `{"id":"`+"\xf4\x90\x80\x80"+`",`+good[1:])
	add("xml", `<?xml version="1.0"?><!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><r>&e;</r>`)
	add("yaml", "managedDeviceId: "+device)
	add("form", "managedDeviceId="+device)
	add("html", "<script>alert(1)</script>")
	add("gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00")
	add("http", "POST / HTTP/1.1\r\nHost: graph.microsoft.com\r\n\r\n"+good)
	add("deep-arrays", `{"x":`+repeat("[", 30000)+repeat("]", 30000)+","+good[1:])
	add("deep-objects", `{"x":`+repeat(`{"a":`, 10500)+"1"+repeat("}", 10500)+"}")
	add("deep-open", repeat("[", maxBytes))
	add("deep-open-objects", repeat(`{"a":`, 12000))
	add("one-too-long", `{"x":"`+repeat("a", maxBytes+1-len(good)-7)+`",`+good[1:])
	add("spaces-too-long", good+repeat(" ", maxBytes+1-len(good)))
	add("huge", `{"reason":"`+repeat("a", 800<<10)+`",`+good[1:])
	return all
}

// structures are objects that a looser reader would take for a request.
func structures() []Payload {
	return []Payload{
		{Name: "object-empty", Data: []byte(`{}`), Field: fieldDevice},
		{Name: "object-upper-case", Data: []byte(`{"MANAGEDDEVICEID":"` + device + `"}`), Field: fieldDevice},
		{Name: "object-pascal-case", Data: []byte(`{"ManagedDeviceId":"` + device + `"}`), Field: fieldDevice},
		{Name: "object-folded", Data: []byte(`{"managedDevıceId":"` + device + `"}`), Field: fieldDevice},
		{Name: "object-space-in-key", Data: []byte(`{"managedDeviceId ":"` + device + `"}`), Field: fieldDevice},
		{Name: "object-nul-in-key", Data: []byte(`{"managedDeviceId\u0000":"` + device + `"}`), Field: fieldDevice},
		{Name: "object-nested", Data: []byte(`{"data":{"managedDeviceId":"` + device + `"}}`), Field: fieldDevice},
		{Name: "object-in-text", Data: []byte(`{"x":"{\"managedDeviceId\":\"` + device + `\"}"}`), Field: fieldDevice},
		{Name: "object-prototype", Data: []byte(`{"__proto__":{"managedDeviceId":"` + device + `"}}`), Field: fieldDevice},
		{Name: "object-many-keys", Data: []byte("{" + repeat(`"a":0,`, 10000) + `"a":0}`), Field: fieldDevice},
		{Name: "object-many-escaped-keys", Data: []byte("{" + repeat(`"\u0061":0,`, 5000) + `"a":0}`), Field: fieldDevice},
		{Name: "object-two-devices", Data: []byte(`{"managedDeviceId":"` + device + `","managedDeviceId":"ffffffff-89ab-cdef-0123-456789abcdef"}`), Field: fieldDevice},
	}
}
