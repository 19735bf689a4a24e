// Package requesttest holds requests that a worker must take, and such as it must refuse, for tests
// of every layer that a request passes through.
package requesttest

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Payload is a message of a publisher.
type Payload struct {
	// Name is unique and fits a test's name.
	Name string
	// Data is the body; it may be empty.
	Data []byte
	// Header may be nil. Its values pass a NATS connection unchanged: they hold no CR or LF and do
	// not begin or end with white space.
	Header map[string][]string
	// Field is what the refusal must name; empty where the message must be taken.
	Field string
	// ID is the id of a request that must be taken; empty means that its place in the stream is.
	ID string
}

// The names that a refusal can give.
const (
	fieldBody        = "body"
	fieldDevice      = "managedDeviceId"
	fieldUser        = "userId"
	fieldApp         = "detectedAppId"
	fieldID          = "id"
	fieldNotAfter    = "notAfter"
	fieldRequestedBy = "requestedBy"
	fieldReason      = "reason"
	fieldBase64      = "data_base64"
	headerMsgID      = "Nats-Msg-Id"
	headerType       = "Content-Type"
)

const (
	device   = "01234567-89ab-cdef-0123-456789abcdef"
	maxBytes = 64 << 10
)

// Hostile returns what must be refused: broken bodies, bad values of each field, bad headers and bad
// events. No two are alike, and each is below 900 KiB, its header below 60 KiB, so a JetStream server with its
// usual limits stores them all. The caller may change what it gets.
func Hostile() []Payload {
	var all []Payload
	for _, more := range [][]Payload{bodies(), structures(), devices(), users(), apps(), ids(), times(), notes(), headers(), badEvents(), badEventBodies()} {
		all = append(all, more...)
	}
	return all
}

// text returns one payload per value, each of them as the string in field.
func text(field string, values []named) []Payload {
	var all []Payload
	for _, v := range values {
		quoted, err := json.Marshal(v.value)
		if err != nil {
			panic(err) // cannot be: a string always has a JSON form
		}
		all = append(all, raw(field, v.name, string(quoted)))
	}
	return all
}

type named struct{ name, value string }

// raw returns a payload that is right but for one field, given as JSON.
func raw(field, name, value string) Payload {
	b := new(bytes.Buffer)
	b.WriteByte('{')
	if field != fieldDevice {
		b.WriteString(`"` + fieldDevice + `":"` + device + `",`)
	}
	b.WriteString(`"` + field + `":` + value + `}`)
	return Payload{Name: field + "-" + name, Data: b.Bytes(), Field: field}
}

// types returns payloads in which field has a JSON type that it must not have.
func types(field string) []Payload {
	return []Payload{
		raw(field, "number", "1"),
		raw(field, "bool", "true"),
		raw(field, "false", "false"),
		raw(field, "object", `{"value":"`+device+`"}`),
		raw(field, "array", `["`+device+`"]`),
		raw(field, "empty-array", "[]"),
		raw(field, "big-number", "1e999999"),
		raw(field, "twice", `"a","`+field+`":"a"`),
		raw(field, "twice-escaped", `"a","`+escaped(field)+`":"a"`),
		raw(field, "twice-null", `null,"`+field+`":null`),
	}
}

// escaped writes the first letter of a name as a JSON escape.
func escaped(name string) string {
	const hex = "0123456789abcdef"
	return `\u00` + string([]byte{hex[name[0]>>4], hex[name[0]&15]}) + name[1:]
}

func repeat(s string, n int) string { return strings.Repeat(s, n) }
