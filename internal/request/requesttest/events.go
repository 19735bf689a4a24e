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
	add("version-not-percent", "ce-specversion", good, "ce-specversion", "1.0%")
	add("version-control", "ce-specversion", good, "ce-specversion", "1.0%00")
	add("version-no-minor", "ce-specversion", good, "ce-specversion", "1.")
	add("version-letters", "ce-specversion", good, "ce-specversion", "1.x")
	add("version-10", "ce-specversion", good, "ce-specversion", "10.1")
	add("id-control", "ce-id", good, "ce-id", "1%00")
	add("source-control", "ce-source", good, "ce-source", "1%00")
	add("id-raw-latin1-percent", "ce-id", good, "ce-id", "50% Ger\xe4t")
	add("version-0.3", "ce-specversion", good, "ce-specversion", "0.3")
	add("version-1", "ce-specversion", good, "ce-specversion", "1")
	add("id-crlf", "ce-id", good, "ce-id", "A1%0D%0ANats-Msg-Id:%20B")
	add("id-latin1", "ce-id", good, "ce-id", "Ger\xe4t")
	add("id-replacement", "ce-id", good, "ce-id", "%EF%BF%BD")
	add("id-quoted-empty", "ce-id", good, "ce-id", `""`)
	add("datacontenttype-xml", "ce-datacontenttype", good, "ce-datacontenttype", "application/xml")
	add("datacontenttype-text", "ce-datacontenttype", good, "ce-datacontenttype", "text/plain; charset=utf-8")
	add("datacontenttype-avro", "ce-datacontenttype", good, "ce-datacontenttype", "application/jsonavro")
	add("datacontenttype-no-type", "ce-datacontenttype", good, "ce-datacontenttype", "json/")
	add("body-empty", fieldBody, "")
	add("body-event", fieldDevice, eventBody("", good))
	add("body-text", fieldBody, "reset it")
	add("device-missing", fieldDevice, `{"id":"A1"}`)
	add("user-bad", fieldUser, request(`,"userId":"x/y"`))
	add("id-in-body-bad", fieldID, request(`,"id":"\u0000"`))
	add("first-in-order", "ce-id", `{`, "ce-id", "", "ce-type", "", "ce-x", "%", headerType, "text/xml")
	add("utf16", fieldBody, "\xfe\xff"+utf16BE(good))
	add("data-broken", fieldBody, good[:len(good)-1])
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
		if name != "type" { // which nothing depends on
			add(name+"-control", attr, replaced(member, `"`+name+`":"\u0000",`))
			add(name+"-surrogate", attr, replaced(member, `"`+name+`":"\ud800",`))
		}
	}
	add("version-0.3", "ce-specversion", replaced("1.0", "0.3"))
	add("version-0.3-encoding", "ce-specversion", replaced(`"1.0"`, `"0.3","datacontentencoding":""`))
	add("datacontenttype-xml", "ce-datacontenttype", eventBody(`"datacontenttype":"application/xml",`, `"<x/>"`))
	add("datacontenttype-no-subtype", "ce-datacontenttype", eventBody(`"datacontenttype":"desk+json",`, request("")))
	add("datacontenttype-number", "ce-datacontenttype", eventBody(`"datacontenttype":1,`, request("")))
	add("datacontenttype-twice", "ce-datacontenttype", eventBody(`"datacontenttype":"application/json","datacontenttype":"application/json",`, request("")))
	add("datacontenttype-broken", "ce-datacontenttype", eventBody(`"datacontenttype":"json",`, request("")))
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
	add("protobuf", headerType, "\x0a\x02A1", headerType, "application/cloudevents+protobuf")
	add("both-modes", headerType, good, "ce-id", "A1")
	add("both-modes-whole", headerType, good, "ce-id", "A1", "CE-Source", "/desk", "ce-type", "reset", "ce-specversion", "1.0")
	add("avro", headerType, "\x0a\x02A1", headerType, "application/cloudevents+avro")
	add("avro-request", headerType, request(`,"x":"avro"`), headerType, "application/cloudevents+avro")
	all = append(all, Payload{Name: "structured-two-types", Data: []byte(request(`,"x":"types"`)), Field: headerType,
		Header: map[string][]string{headerType: {"application/json"}, "content-type": {jsonEvent}}})
	none := func(name, field, data string) { add("no-type-"+name, field, data, headerType, "") }
	none("specversion-2", "ce-specversion", replaced("1.0", "2.0"))
	none("source-missing", "ce-source", replaced(`"source":"/desk",`, ""))
	none("data-missing", "data", replaced(`,"data":`+request(""), ""))
	none("data-text", "data", eventBody("", `"{\"managedDeviceId\":\"`+device+`\"}"`))
	none("array", fieldBody, "["+good+"]")
	none("open", fieldBody, good[:len(good)-1])
	// These are requests, and bad ones.
	plain := func(name, data string, header map[string][]string) {
		all = append(all, Payload{Name: "plain-" + name, Data: []byte(data), Header: header, Field: fieldDevice})
	}
	plain("device-number", eventBody(`"managedDeviceId":1,`, request("")), nil)
	plain("device-twice", eventBody(`"managedDeviceId":"`+device+`","managedDeviceId":null,`, request("")), nil)
	plain("version-null", replaced(`"1.0"`, "null"), nil)
	plain("version-upper-case", replaced("specversion", "SpecVersion"), nil)
	plain("event-and-stray-attribute", good, map[string][]string{"ce-time": {"2026-01-02T03:04:05Z"}})
	add("mark-twice", fieldBody, byteOrderMark+byteOrderMark+good)
	add("utf16", fieldBody, "\xff\xfe"+utf16LE(good))
	add("base64-utf16", fieldBase64, in(utf16LE(request(""))))
	add("base64-mark-twice", fieldBase64, in(byteOrderMark+byteOrderMark+request("")))
	return all
}

// with sets one header.
func with(h map[string][]string, name string, values ...string) map[string][]string {
	h[name] = values
	return h
}
