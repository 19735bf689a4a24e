package requesttest

import (
	"encoding/base64"
	"strings"
)

// badEvents are CloudEvents in binary mode that are none, or whose data is no request.
func badEvents() []Payload {
	var all []Payload
	add := func(name, field, data string, change ...string) {
		all = append(all, Payload{Name: "binary-" + name, Data: []byte(data), Header: eventHeader(change...), Field: field})
	}
	good := request("")
	for _, attr := range []string{"ce-specversion", "ce-id", "ce-source", "ce-type"} {
		add(attr+"-missing", attr, good, attr, "")
		add(attr+"-control", attr, good, attr, "1%00")
		add(attr+"-percent", attr, good, attr, "1.0%")
		add(attr+"-spaces", attr, good, attr, "%20")
		missing := "ce-specversion" // the first one
		if attr == missing {
			missing = "ce-id"
		}
		all = append(all,
			Payload{Name: "binary-" + attr + "-alone", Data: []byte(good), Header: map[string][]string{attr: {"1.0"}}, Field: missing},
			Payload{Name: "binary-" + attr + "-twice", Data: []byte(good), Header: with(eventHeader(), attr, "1.0", "2"), Field: attr},
			Payload{Name: "binary-" + attr + "-two-spellings", Data: []byte(good), Field: attr,
				Header: with(eventHeader(), strings.ToUpper(attr), "2.0")},
		)
	}
	add("version-0.3", "ce-specversion", good, "ce-specversion", "0.3")
	add("version-1", "ce-specversion", good, "ce-specversion", "1")
	add("version-1.0.2", "ce-specversion", good, "ce-specversion", "1.0.2")
	add("id-crlf", "ce-id", good, "ce-id", "A1%0D%0ANats-Msg-Id:%20B")
	add("id-overlong-space", "ce-id", good, "ce-id", "A%C0%A0")
	add("id-surrogate", "ce-id", good, "ce-id", "A%ED%A0%80")
	add("id-latin1", "ce-id", good, "ce-id", "Ger\xe4t")
	add("id-replacement", "ce-id", good, "ce-id", "%EF%BF%BD")
	add("id-half-percent", "ce-id", good, "ce-id", "A%4")
	add("id-not-hex", "ce-id", good, "ce-id", "A%+1")
	add("id-open-quote", "ce-id", good, "ce-id", `"A1`)
	add("id-after-quote", "ce-id", good, "ce-id", `"A1"x`)
	add("id-quote-escaped-away", "ce-id", good, "ce-id", `"A1\"`)
	add("id-quoted-empty", "ce-id", good, "ce-id", `""`)
	add("source-space", "ce-source", good, "ce-source", "/desk%20one")
	add("source-no-scheme", "ce-source", good, "ce-source", "://desk")
	add("source-bad-escape", "ce-source", good, "ce-source", "/%25zz")
	add("datacontenttype-xml", "ce-datacontenttype", good, "ce-datacontenttype", "application/xml")
	add("datacontenttype-text", "ce-datacontenttype", good, "ce-datacontenttype", "text/plain; charset=utf-8")
	add("datacontenttype-avro", "ce-datacontenttype", good, "ce-datacontenttype", "application/jsonavro")
	add("datacontenttype-no-type", "ce-datacontenttype", good, "ce-datacontenttype", "json/")
	add("content-type-xml", headerType, good, headerType, "application/xml")
	add("content-type-broken", headerType, good, headerType, ";;")
	add("dataschema-relative", "ce-dataschema", good, "ce-dataschema", "schema.json")
	add("dataschema-broken", "ce-dataschema", good, "ce-dataschema", "http://[::1")
	add("subject-spaces", "ce-subject", good, "ce-subject", "%20%20")
	add("time-word", "ce-time", good, "ce-time", "yesterday")
	add("time-unix", "ce-time", good, "ce-time", "1767323045")
	add("extension-hyphen", "ce-*", good, "ce-trace-parent", "x")
	add("extension-underscore", "ce-*", good, "ce-data_base64", "e30=")
	add("extension-data", "ce-*", good, "ce-data", "{}")
	add("extension-bare", "ce-*", good, "ce-", "x")
	add("extension-control", "ce-*", good, "ce-x", "%00")
	add("extension-percent", "ce-*", good, "ce-x", "100%")
	add("body-empty", fieldBody, "")
	add("body-event", fieldDevice, eventBody("", good))
	add("body-text", fieldBody, "reset it")
	add("device-missing", fieldDevice, `{"id":"A1"}`)
	add("user-bad", fieldUser, request(`,"userId":"x/y"`))
	add("id-in-body-bad", fieldID, request(`,"id":"\u0000"`))
	add("first-in-order", "ce-id", `{`, "ce-id", "", "ce-type", "", "ce-x", "%", headerType, "text/xml")
	all = append(all,
		Payload{Name: "binary-extension-twice", Data: []byte(good), Header: with(eventHeader(), "ce-x", "1", "2"), Field: "ce-*"},
		Payload{Name: "binary-content-type-second", Data: []byte(good), Field: headerType,
			Header: with(eventHeader(), headerType, "application/json", "text/xml")},
	)
	return all
}

// badEventBodies are the same in structured mode.
func badEventBodies() []Payload {
	var all []Payload
	add := func(name, field, data string, change ...string) {
		h := changed(map[string][]string{headerType: {jsonEvent}}, change)
		all = append(all, Payload{Name: "structured-" + name, Data: []byte(data), Header: h, Field: field})
	}
	good := eventBody("", request(""))
	replaced := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, a := range []named{{"specversion", "1.0"}, {"id", "A1"}, {"source", "/desk"}, {"type", "reset"}} {
		name, member := a.name, `"`+a.name+`":"`+a.value+`",`
		attr := "ce-" + name
		add(name+"-missing", attr, replaced(member, ""))
		add(name+"-null", attr, replaced(member, `"`+name+`":null,`))
		add(name+"-empty", attr, replaced(member, `"`+name+`":"",`))
		add(name+"-spaces", attr, replaced(member, `"`+name+`":" ",`))
		add(name+"-number", attr, replaced(member, `"`+name+`":1.0,`))
		add(name+"-object", attr, replaced(member, `"`+name+`":{},`))
		add(name+"-upper-case", attr, replaced(`"`+name, `"`+strings.ToUpper(name)))
		add(name+"-twice", attr, replaced(member, member+member))
		add(name+"-twice-escaped", attr, replaced(member, member+`"`+escaped(name)+`":"x",`))
		add(name+"-control", attr, replaced(member, `"`+name+`":"\u0000",`))
		add(name+"-surrogate", attr, replaced(member, `"`+name+`":"\ud800",`))
	}
	add("version-0.3", "ce-specversion", replaced("1.0", "0.3"))
	add("version-0.3-encoding", "ce-specversion", replaced(`"1.0"`, `"0.3","datacontentencoding":""`))
	add("source-space", "ce-source", replaced("/desk", "/desk one"))
	add("source-no-scheme", "ce-source", replaced("/desk", "://desk"))
	add("time-word", "ce-time", eventBody(`"time":"yesterday",`, request("")))
	add("time-number", "ce-time", eventBody(`"time":1767323045,`, request("")))
	add("subject-empty", "ce-subject", eventBody(`"subject":"",`, request("")))
	add("dataschema-relative", "ce-dataschema", eventBody(`"dataschema":"schema.json",`, request("")))
	add("datacontenttype-xml", "ce-datacontenttype", eventBody(`"datacontenttype":"application/xml",`, `"<x/>"`))
	add("datacontenttype-no-subtype", "ce-datacontenttype", eventBody(`"datacontenttype":"desk+json",`, request("")))
	add("datacontenttype-broken", "ce-datacontenttype", eventBody(`"datacontenttype":"json",`, request("")))
	add("extension-object", "ce-*", eventBody(`"x":{},`, request("")))
	add("extension-array", "ce-*", eventBody(`"x":[1],`, request("")))
	add("extension-big", "ce-*", eventBody(`"x":2147483648,`, request("")))
	add("extension-fraction", "ce-*", eventBody(`"x":1.5,`, request("")))
	add("extension-too-big", "ce-*", eventBody(`"x":1e999999,`, request("")))
	add("extension-control", "ce-*", eventBody(`"x":"\u0007",`, request("")))
	add("extension-twice", "ce-*", eventBody(`"x":1,"x":1,`, request("")))
	add("extension-no-name", "ce-*", eventBody(`"":1,`, request("")))
	add("extension-upper-case", "ce-*", eventBody(`"traceParent":"x",`, request("")))
	add("extension-hyphen", "ce-*", eventBody(`"trace-parent":"x",`, request("")))
	add("extension-deep", "ce-*", eventBody(`"x":`+repeat("[", 9000)+repeat("]", 9000)+",", request("")))
	add("extensions-many", "ce-*", eventBody(repeat(`"x":0,`, 10000), request("")))
	add("data-missing", "data", replaced(`,"data":`+request(""), ""))
	add("data-null", "data", eventBody("", "null"))
	add("data-text", "data", eventBody("", `"{\"managedDeviceId\":\"`+device+`\"}"`))
	add("data-array", "data", eventBody("", "["+request("")+"]"))
	add("data-number", "data", eventBody("", "1"))
	add("data-twice", "data", eventBody(`"data":{},`, request("")))
	in := func(data string) string { return eventBase64("", base64.StdEncoding.EncodeToString([]byte(data))) }
	add("base64-number", fieldBase64, eventBody("", `null,"data_base64":1`))
	add("base64-object", fieldBase64, eventBody("", `null,"data_base64":{}`))
	add("base64-and-data", fieldBase64, eventBody(`"data_base64":"e30=",`, request("")))
	add("base64-empty-and-data", fieldBase64, eventBody(`"data_base64":"",`, request("")))
	add("base64-and-text", fieldBase64, eventBody(`"data_base64":"e30=",`, `"x"`))
	add("base64-twice", fieldBase64, eventBase64(`"data_base64":null,`, base64.StdEncoding.EncodeToString([]byte(request("")))))
	add("base64-and-data-twice", "data", eventBase64(`"data":null,"data":null,`, base64.StdEncoding.EncodeToString([]byte(request("")))))
	add("base64-empty", fieldBase64, in(""))
	add("base64-words", fieldBase64, eventBase64("", "reset it"))
	add("base64-unpadded", fieldBase64, eventBase64("", base64.RawStdEncoding.EncodeToString([]byte(request("")+" "))))
	add("base64-url", fieldBase64, eventBase64("", base64.URLEncoding.EncodeToString([]byte(request(`,"x":"\u00ff???"`+"\u00ff")))))
	add("base64-lines", fieldBase64, strings.Replace(in(request("")), `"eyJ`, `"eyJ\r\n`, 1))
	add("base64-loose-bits", fieldBase64, eventBase64("", "e31="))
	add("base64-latin1", fieldBase64, in(request(`,"reason":"Ger`+"\xe4"+`t"`)))
	add("base64-array", fieldBase64, in("["+request("")+"]"))
	add("base64-null", fieldBase64, in("null"))
	add("base64-open", fieldBase64, in(request("")[1:]))
	add("base64-trailing", fieldBase64, in(request("")+request("")))
	add("base64-base64", fieldBase64, in(`"`+base64.StdEncoding.EncodeToString([]byte(request("")))+`"`))
	add("base64-nothing", fieldDevice, in("{}"))
	add("base64-user-bad", fieldUser, in(request(`,"userId":"x/y"`)))
	add("base64-device-twice", fieldDevice, in(request(`,"managedDeviceId":"`+device+`"`)))
	add("base64-xml", "ce-datacontenttype", eventBase64(`"datacontenttype":"application/xml",`, base64.StdEncoding.EncodeToString([]byte("<x/>"))))
	add("device-missing", fieldDevice, eventBody("", "{}"))
	add("device-outside", fieldDevice, eventBody(`"manageddeviceid":"`+device+`",`, "{}"))
	add("device-twice", fieldDevice, eventBody("", request(`,"managedDeviceId":"`+device+`"`)))
	add("user-bad", fieldUser, eventBody("", request(`,"userId":"x/y"`)))
	add("user-number", fieldUser, eventBody("", request(`,"userId":1`)))
	add("empty", fieldBody, "")
	add("array", fieldBody, "["+good+"]")
	add("trailing", fieldBody, good+good)
	add("open", fieldBody, good[:len(good)-1])
	add("latin1", fieldBody, replaced("/desk", "/Ger\xe4t"))
	add("one-too-long", fieldBody, eventBody(`"x":"`+repeat("a", maxBytes+1-len(good)-7)+`",`, request("")))
	add("request", "ce-specversion", request(`,"x":"structured"`))
	add("batch", headerType, "["+good+"]", headerType, "application/cloudevents-batch+json")
	add("batch-of-none", headerType, "[]", headerType, "application/cloudevents-batch+json; charset=utf-8")
	add("avro", headerType, good, headerType, "application/cloudevents+avro")
	add("protobuf", headerType, "\x0a\x02A1", headerType, "application/cloudevents+protobuf")
	add("both-modes", headerType, good, "ce-id", "A1")
	add("both-modes-whole", headerType, good, "ce-id", "A1", "CE-Source", "/desk", "ce-type", "reset", "ce-specversion", "1.0")
	all = append(all, Payload{Name: "structured-two-types", Data: []byte(good), Field: headerType,
		Header: map[string][]string{headerType: {"application/json"}, "content-type": {jsonEvent}}})
	return all
}

// with sets one header.
func with(h map[string][]string, name string, values ...string) map[string][]string {
	h[name] = values
	return h
}
