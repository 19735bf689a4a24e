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
