package requesttest

import (
	"encoding/base64"
	"strings"
)

// Accepted returns requests that a worker must take: plain ones and CloudEvents in both modes. ID is
// what each is known by; empty means the place of its message. Field is empty. The caller may change
// what it gets.
func Accepted() []Payload { return append(append(plain(), binaryEvents()...), structuredEvents()...) }

func plain() []Payload {
	var all []Payload
	add := func(name, id, rest string) {
		all = append(all, Payload{Name: "plain-" + name, Data: []byte(request(rest)), ID: id})
	}
	add("device", "", ``)
	add("id", "INC0012345", `,"id":"INC0012345"`)
	add("id-of-any-letters", "desk/12 #7 é", `,"id":"desk/12 #7 é"`)
	add("id-of-256", repeat("é", 128), `,"id":"`+repeat("é", 128)+`"`)
	add("user", "", `,"userId":"ABCDEF01-89ab-cdef-0123-456789abcdef"`)
	add("upn", "", `,"userId":"O'Neil.x-y_z!#^~9@Example.com"`)
	add("app", "", `,"detectedAppId":"aZ09_-"`)
	add("app-of-128", "", `,"detectedAppId":"`+repeat("a", 128)+`"`)
	add("not-after", "", `,"notAfter":"2126-01-02T03:04:05Z"`)
	add("not-after-zone", "", `,"notAfter":"2126-01-02T05:34:05.25+02:30"`)
	add("not-after-lower-case", "", `,"notAfter":"2126-01-02t03:04:05z"`)
	add("texts", "", `,"requestedBy":"jo","reason":"forgot\nit"`)
	add("text-long", "", `,"reason":"`+repeat("é", 300)+`"`)
	add("nulls", "", `,"userId":null,"detectedAppId":null,"id":null,"notAfter":null,"requestedBy":null,"reason":null`)
	add("empty-texts", "", `,"id":"","requestedBy":"","reason":""`)
	add("unknown-fields", "", `,"x":{"id":1},"ID":2,"specversion":"1.0","data":[]`)
	all = append(all,
		Payload{Name: "plain-upper-case", Data: []byte(`{"managedDeviceId":"` + strings.ToUpper(device) + `"}`)},
		Payload{Name: "plain-header", Data: []byte(request("")), ID: "INC7", Header: map[string][]string{headerMsgID: {"INC7"}}},
		Payload{Name: "plain-mark", Data: []byte(byteOrderMark + request(`,"id":"INC11"`)), ID: "INC11"},
		Payload{Name: "plain-mark-and-spaces", Data: []byte(byteOrderMark + "\r\n" + request("") + "\r\n")},
		Payload{Name: "plain-mark-as-long-as-may-be", Data: []byte(byteOrderMark + request(`,"x":"`+repeat("x", maxBytes-len(request(`,"x":""`)))+`"`))},
		Payload{Name: "plain-other-case-too", Data: []byte(request(`,"manageddeviceid":"x","MANAGEDDEVICEID":1,"Id":"x","ſpecversion":"1.0"`))},
		Payload{Name: "plain-content-type", Data: []byte(request("")), Header: map[string][]string{headerType: {"text/plain"}}},
		// None of these alone makes an event.
		Payload{Name: "plain-stray-attributes", Data: []byte(request("")), Header: map[string][]string{
			"ce-time": {"soon"}, "Ce-Trace-Parent": {"x"}, "ce-": {"x"}, "cent": {"1"}, "ce-types": {"x"},
		}},
	)
	return all
}

func binaryEvents() []Payload {
	var all []Payload
	add := func(name, id, rest string, change ...string) {
		all = append(all, Payload{Name: "binary-" + name, Data: []byte(request(rest)), ID: id, Header: eventHeader(change...)})
	}
	const id = "/desk A1"
	add("plain", id, ``)
	add("with-message-id", id, ``, headerMsgID, "INC8")
	add("id-in-body", "INC9", `,"id":"INC9"`)
	add("empty-id-in-body", id, `,"id":""`)
	add("all-attributes", id, ``, "ce-time", "2026-01-02T03:04:05Z", "ce-subject", "x", "ce-dataschema", "https://example.com/s",
		"ce-datacontenttype", "application/json; charset=utf-8", "ce-sequence", "7", "ce-partitionkey", "%20")
	add("content-type", id, ``, headerType, "application/json")
	add("other-json", id, ``, "ce-datacontenttype", "application/vnd.desk+json")
	add("text-json", id, ``, "ce-datacontenttype", "Text/JSON ;charset=utf-8;")
	add("version-1.1", id, ``, "ce-specversion", "1.1")
	add("version-1.0.2", id, ``, "ce-specversion", "1.0.2")
	add("content-type-text", id, ``, headerType, "text/plain")
	add("content-type-broken", id, ``, headerType, ";;")
	add("id-slash-encoded", "/desk INC/7", ``, "ce-id", "INC%2F7")
	add("id-slash", "/desk INC/7", ``, "ce-id", "INC/7", "ce-x", "2")
	add("id-half-percent", "/desk A%4", ``, "ce-id", "A%4")
	add("id-not-hex", "/desk A%+1", ``, "ce-id", "A%+1")
	add("id-percent-sign", "/desk 50% of %41", ``, "ce-id", "50% of %41")
	add("id-encoded-not-utf8", "/desk A%C0%A0", ``, "ce-id", "A%C0%A0")
	add("id-encoded-surrogate", "/desk A%ED%A0%80", ``, "ce-id", "A%ED%A0%80")
	add("id-raw-utf8", "/desk Gerät 7", ``, "ce-id", "Gerät 7")
	add("id-open-quote", `/desk "A1`, ``, "ce-id", `"A1`)
	add("id-after-quote", `/desk "A1"x`, ``, "ce-id", `"A1"x`)
	add("id-quote-escaped-away", `/desk "A1\"`, ``, "ce-id", `"A1\"`)
	add("source-space", "/desk%20one A1", ``, "ce-source", "/desk one")
	add("source-space-encoded", "/desk%20one A1", ``, "ce-source", "/desk%20one")
	add("source-no-uri", "://desk A1", ``, "ce-source", "://desk")
	add("source-bad-escape", "/%zz A1", ``, "ce-source", "/%25zz")
	add("type-odd", id, ``, "ce-type", "1%00")
	add("dataschema-hash", id, ``, "ce-dataschema", "#")
	add("dataschema-broken", id, ``, "ce-dataschema", "http://[::1")
	add("subject-percent-sign", id, ``, "ce-subject", "50% of fleet locked")
	add("subject-raw-utf8", id, ``, "ce-subject", "Gerät 7")
	add("subject-latin1", id, ``, "ce-subject", "Ger\xe4t 7")
	add("subject-spaces", id, ``, "ce-subject", "%20%20")
	add("subject-open-quote", id, ``, "ce-subject", `"`)
	add("time-word", id, ``, "ce-time", "yesterday")
	add("time-unix", id, ``, "ce-time", "1767323045")
	add("extension-hyphen", id, ``, "ce-trace-parent", "x")
	add("extension-underscore", id, ``, "ce-data_base64", "e30=")
	add("extension-data", id, ``, "ce-data", "{}")
	add("extension-bare", id, ``, "ce-", "x")
	add("extension-control", id, ``, "ce-x", "%00")
	add("extension-percent", id, ``, "ce-x", "100%")
	add("mark", id, ``)
	all[len(all)-1].Data = []byte(byteOrderMark + request(""))
	add("percent-encoded", "urn:desk:1 Euro € 😀", ``, "ce-source", "%75rn:desk:1", "ce-id", "Euro%20%E2%82%ac%20%F0%9F%98%80")
	add("decoded-once", "/desk a%20b", ``, "ce-id", "a%2520b")
	add("quoted", `/desk a "b\`, ``, "ce-id", `"a \"b\\"`)
	add("twice-alike", id, ``, "CE-ID", "%411")
	add("as-long-as-may-be", "/desk "+repeat("a", 250), ``, "ce-id", repeat("a", 250))
	add("too-long", "ce-sha256-a764ee340a64c81a76b95b24a56e70534e9a6a0ba6195b4c0a3251e5de9ffb4c", ``, "ce-id", repeat("a", 251))
	all = append(all,
		Payload{Name: "binary-upper-case", Data: []byte(request("")), ID: id, Header: map[string][]string{
			"CE-SPECVERSION": {"1.0"}, "Ce-Id": {"A1"}, "cE-sOURCE": {"/desk"}, "Ce-Type": {"reset"},
		}},
		Payload{Name: "binary-extension-twice", Data: []byte(request("")), ID: id, Header: with(eventHeader(), "ce-x", "1", "2")},
		Payload{Name: "binary-content-type-second", Data: []byte(request("")), ID: id,
			Header: with(eventHeader(), headerType, "application/json", "text/xml")},
		Payload{Name: "binary-each-twice", Data: []byte(request("")), ID: id, Header: map[string][]string{
			"ce-specversion": {"1.0", "1.0"}, "ce-id": {"A1", "A1"}, "ce-source": {"/desk"}, "ce-type": {"reset"},
		}},
	)
	return all
}

func structuredEvents() []Payload {
	var all []Payload
	add := func(name, id, data string, header ...string) {
		h := changed(map[string][]string{headerType: {jsonEvent}}, header)
		all = append(all, Payload{Name: "structured-" + name, Data: []byte(data), ID: id, Header: h})
	}
	const id = "/desk A1"
	plain := eventBody("", request(""))
	add("plain", id, plain)
	add("parameters", id, plain, headerType, "Application/CloudEvents+JSON ; charset=UTF-8")
	add("lower-case-header", id, plain, headerType, "", "content-type", jsonEvent)
	add("no-suffix", id, plain, headerType, "application/cloudevents")
	add("stray-attributes", id, plain, "ce-time", "x")
	add("id-in-data", "INC9", eventBody("", request(`,"id":"INC9"`)))
	add("data-first", id, `{"data":`+request("")+`,"type":"reset","source":"/desk","id":"A1","specversion":"1.0"}`)
	add("all-attributes", id, eventBody(`"time":"2026-01-02T03:04:05Z","subject":"x","dataschema":"https://example.com/s",`+
		`"datacontenttype":"application/json","sequence":7,"dry":false,"x":"","y":null,"data_base64":null,`, request("")))
	add("other-json", id, eventBody(`"datacontenttype":"application/vnd.desk+json",`, request("")))
	add("nulls", id, eventBody(`"time":null,"subject":null,"dataschema":null,"datacontenttype":null,`, request("")))
	add("escapes", `/desk A "1\`, strings.Replace(plain, `"A1"`, `"\u0041 \"1\\"`, 1))
	add("escaped-name", id, strings.Replace(plain, `"id"`, `"\u0069d"`, 1))
	add("source-not-normal", "HTTP://Desk/%7e?# A1", strings.Replace(plain, `"/desk"`, `"HTTP://Desk/%7e?#"`, 1))
	encoded := base64.StdEncoding.EncodeToString([]byte(request(`,"reason":"\u00fe???>>>\u00ff"`)))
	add("base64", id, eventBase64(`"datacontenttype":"application/json",`, encoded))
	add("base64-null-data", id, eventBase64(`"data":null,`, encoded))
	add("base64-escapes", id, eventBase64("", strings.ReplaceAll(strings.ReplaceAll(encoded, "/", `\/`), "e", `\u0065`)))
	add("base64-escaped-name", id, strings.Replace(eventBase64("", encoded), "data_b", `data\u005fb`, 1))
	add("base64-id", "INC9", eventBase64("", base64.StdEncoding.EncodeToString([]byte(request(`,"id":"INC9"`)))))
	add("version-1.1", id, strings.Replace(plain, `"1.0"`, `"1.1"`, 1))
	add("text-json", id, eventBody(`"datacontenttype":" TEXT/json; charset",`, request("")))
	add("datacontenttype-empty", id, eventBody(`"datacontenttype":"",`, request("")))
	add("dataschema-hash", id, eventBody(`"dataschema":"#",`, request("")))
	add("dataschema-number", id, eventBody(`"dataschema":7,`, request("")))
	add("subject-empty", id, eventBody(`"subject":"",`, request("")))
	add("subject-object", id, eventBody(`"subject":{"a":[1]},`, request("")))
	add("time-word", id, eventBody(`"time":"yesterday",`, request("")))
	add("time-number", id, eventBody(`"time":1767323045,`, request("")))
	add("time-twice", id, eventBody(`"time":1,"time":2,`, request("")))
	add("type-odd", id, strings.Replace(plain, `"reset"`, `"\u0000\ud800"`, 1))
	add("source-space", "Service%20Desk A1", strings.Replace(plain, "/desk", "Service Desk", 1))
	add("source-no-uri", "://desk A1", strings.Replace(plain, "/desk", "://desk", 1))
	add("extension-object", id, eventBody(`"x":{},`, request("")))
	add("extension-array", id, eventBody(`"x":[1],`, request("")))
	add("extension-big", id, eventBody(`"x":2147483648,`, request("")))
	add("extension-fraction", id, eventBody(`"x":1.5,`, request("")))
	add("extension-too-big", id, eventBody(`"x":1e999999,`, request("")))
	add("extension-control", id, eventBody(`"x":"\u0007",`, request("")))
	add("extension-twice", id, eventBody(`"x":1,"x":1,`, request("")))
	add("extension-no-name", id, eventBody(`"":1,`, request("")))
	add("extension-upper-case", id, eventBody(`"traceParent":"x","ID":1,"Source":2,`, request("")))
	add("extension-hyphen", id, eventBody(`"trace-parent":"x",`, request("")))
	add("extension-deep", id, eventBody(`"x":`+repeat("[", 9000)+repeat("]", 9000)+",", request("")))
	add("extensions-many", id, eventBody(repeat(`"x":0,`, 10000), request("")))
	add("extension-device", id, eventBody(`"managedDeviceId":"x",`, request("")))
	add("mark", id, byteOrderMark+plain)
	add("base64-mark", id, eventBase64("", base64.StdEncoding.EncodeToString([]byte(byteOrderMark+request("")))))
	// SDKs and Dapr leave the type out, and bridges give what they like.
	add("no-type", id, plain, headerType, "")
	add("no-type-mark", id, byteOrderMark+" "+plain, headerType, "")
	add("no-type-base64", id, eventBase64("", encoded), headerType, "")
	add("no-type-escaped", id, strings.Replace(plain, `"specversion"`, `"\u0073pecversion"`, 1), headerType, "")
	add("no-type-device-null", id, eventBody(`"managedDeviceId":null,`, request("")), headerType, "")
	add("no-type-id-in-data", "INC9", eventBody("", request(`,"id":"INC9"`)), headerType, "")
	add("no-type-message-id", id, plain, headerType, "", headerMsgID, "INC12")
	add("type-json", id, plain, headerType, "application/json")
	add("type-text", id, plain, headerType, "text/plain; charset=utf-8")
	add("type-bytes", id, plain, headerType, "application/octet-stream")
	add("type-mark", id, plain, headerType, byteOrderMark+jsonEvent)
	add("type-avro", id, plain, headerType, "application/cloudevents+avro")
	add("type-batch", id, plain, headerType, "application/cloudevents-batch+json")
	add("event-grid", "/subscriptions/0/resourceGroups/rg 9aeb0fdf-0000-4000-8000-000000000001",
		`{"id":"9aeb0fdf-0000-4000-8000-000000000001","source":"/subscriptions/0/resourceGroups/rg","type":"Example.ResetRequested",`+
			`"specversion":"1.0","dataschema":"#","subject":"devices/1","time":"2026-11-22T10:00:00.4589254Z","data":`+request("")+`}`,
		headerType, jsonEvent+"; charset=utf-8")
	add("dapr", "helpdesk 5929aaac-0000-4000-8000-00000000000d",
		`{"data":`+request("")+`,"datacontenttype":"application/json","id":"5929aaac-0000-4000-8000-00000000000d","pubsubname":"resets",`+
			`"source":"helpdesk","specversion":"1.0","time":"2026-11-22T10:00:00Z","topic":"passcode.reset.requests.default",`+
			`"traceid":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",`+
			`"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"","type":"com.dapr.event.sent"}`,
		headerType, "", headerMsgID, "5929aaac-0000-4000-8000-00000000000d")
	all = append(all, Payload{Name: "structured-two-types", Data: []byte(plain), ID: id,
		Header: map[string][]string{headerType: {"application/json"}, "content-type": {jsonEvent}}})
	add("spaces", id, " \r\n"+strings.ReplaceAll(plain, ",", " ,\t")+"\n")
	return all
}

const jsonEvent = "application/cloudevents+json"

// request returns a body with the device and, after it, what is given.
func request(rest string) string { return `{"managedDeviceId":"` + device + `"` + rest + `}` }

// eventHeader returns the headers of an event in binary mode, changed.
func eventHeader(change ...string) map[string][]string {
	return changed(map[string][]string{
		"ce-specversion": {"1.0"}, "ce-id": {"A1"}, "ce-source": {"/desk"}, "ce-type": {"reset"},
	}, change)
}

// changed sets headers, given as names and values; an empty value takes one away.
func changed(h map[string][]string, change []string) map[string][]string {
	for i := 0; i < len(change); i += 2 {
		h[change[i]] = []string{change[i+1]}
		if change[i+1] == "" {
			delete(h, change[i])
		}
	}
	return h
}

// eventBody returns an event with some more members before its data.
func eventBody(more, data string) string {
	return `{"specversion":"1.0","id":"A1","source":"/desk","type":"reset",` + more + `"data":` + data + `}`
}

// eventBase64 is the same with its data in base64.
func eventBase64(more, data string) string {
	return `{"specversion":"1.0","id":"A1","source":"/desk","type":"reset",` + more + `"data_base64":"` + data + `"}`
}
