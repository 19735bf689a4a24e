package request

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strconv"
)

// nameBody stands in a refusal for the body as a whole.
const nameBody = "body"

// The known fields, in the order in which problems are reported.
const (
	fieldDevice = iota
	fieldUser
	fieldApp
	fieldID
	fieldNotAfter
	fieldRequestedBy
	fieldReason
	numFields

	// fieldVersion is no field of a request: it makes an event of the body where there is no device.
	fieldVersion = numFields
)

var fieldNames = [numFields + 1]string{
	"managedDeviceId", "userId", "detectedAppId", "id", "notAfter", "requestedBy", "reason", "specversion",
}

// The problems with a field that are found before its value is looked at.
const (
	problemMissing = "missing"
	problemTwice   = "given more than once"
	problemString  = "not a string"
)

// field is one member of the object as it stands in the body.
type field struct {
	raw   []byte // nil means absent
	twice bool
}

// read takes the message apart, or refuses it.
func (d *decoder) read(src Source) {
	m := modeOf(src.Header)
	format := ""
	if m.structured {
		format = formatProblem(src.Header)
	}
	if m.binary {
		if m.structured {
			d.refuse(headerType, cmp.Or(format, problemTwoModes))
			return
		}
		d.check(attributesOf(src.Header))
	}
	object, problem := open(src.Data)
	switch {
	case problem != "" && format != "":
		d.refuse(headerType, format)
	case problem != "":
		d.refuse(nameBody, problem)
		d.salvage(src.Data, m)
	case m.structured && format == "":
		d.structured(object)
	default:
		d.members(object)
		device := d.fields[fieldDevice]
		event := d.fields[fieldVersion].given() && !device.given() && !device.twice
		if event && !m.stray || format != "" {
			d.fields = [numFields + 1]field{} // they are an event's
		}
		switch {
		case event && !m.stray:
			d.structured(object)
		case format != "":
			d.refuse(headerType, format)
		}
	}
}

// members finds the known fields of a valid JSON object.
//
// Decoding into a struct would take "ID" for "id" and the last of two values for the only one; a
// publisher and the worker could then each read another device in the same body.
func (d *decoder) members(object []byte) {
	for w := walk(object); ; {
		key, raw, ok := w.next()
		if !ok {
			return
		}
		if n := known(key); n >= 0 {
			d.fields[n].add(raw)
		}
	}
}

func (f *field) add(raw []byte) {
	f.twice = f.twice || f.raw != nil
	f.raw = raw
}

// given reports whether there is a value: null means that there is none.
func (f field) given() bool { return f.raw != nil && f.raw[0] != 'n' }

// walker goes over the members of a valid JSON object.
type walker struct {
	data []byte
	i    int
}

func walk(object []byte) walker { return walker{object, skipSpace(object, 0) + 1} }

// next returns a name, still in its quotes, and its value, and false after the last one.
func (w *walker) next() (key, raw []byte, ok bool) {
	data, i := w.data, skipSpace(w.data, w.i)
	switch data[i] {
	case '}':
		return nil, nil, false
	case ',':
		i = skipSpace(data, i+1)
	}
	keyEnd := skipString(data, i)
	start := skipSpace(data, skipSpace(data, keyEnd)+1) // past the colon
	w.i = skipValue(data, start)
	return data[i:keyEnd], data[start:w.i], true
}

// text returns the string in a field, and false where it is absent or refused.
func (d *decoder) text(i int) (string, bool) {
	s, ok, problem := d.fields[i].text()
	if problem != "" {
		d.refuse(fieldNames[i], problem)
	}
	return s, ok
}

// text returns the string in a field, false where there is none, and what is wrong with it.
func (f field) text() (s string, ok bool, problem string) {
	switch {
	case f.raw == nil:
		return "", false, ""
	case f.twice:
		return "", false, problemTwice
	case f.raw[0] == 'n': // null
		return "", false, ""
	case f.raw[0] != '"':
		return "", false, problemString
	}
	return unquote(f.raw), true, ""
}

// known returns the field that a key, still in its quotes, names, or -1.
func known(key []byte) int {
	key = key[1 : len(key)-1]
	escaped := bytes.IndexByte(key, '\\') >= 0
	for i, name := range fieldNames {
		if string(key) == name || escaped && unescapesTo(key, name) {
			return i
		}
	}
	return -1
}

// unescapesTo reports whether a key with escapes stands for name, which has letters only. A body can
// hold thousands of such keys, and decoding each of them would take milliseconds.
func unescapesTo(key []byte, name string) bool {
	for len(key) > 0 && name != "" {
		c, n := uint64(key[0]), 1
		if c == '\\' {
			if key[1] != 'u' {
				return false // the short escapes are no letters
			}
			c, _ = strconv.ParseUint(string(key[2:6]), 16, 16)
			n = 6
		}
		if c != uint64(name[0]) {
			return false
		}
		key, name = key[n:], name[1:]
	}
	return len(key) == 0 && name == ""
}

// unquote returns the text of a valid JSON string.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "" // cannot be: the body was valid
	}
	return s
}

// The skip functions take valid JSON and return the index after what they skip.

func skipSpace(data []byte, i int) int {
	for data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r' {
		i++
	}
	return i
}

func skipString(data []byte, i int) int {
	for i++; data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue does not recurse, so that depth costs nothing.
func skipValue(data []byte, i int) int {
	for depth := 0; ; {
		switch data[i] {
		case '"':
			i = skipString(data, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\n', '\t', '\r':
			i++
			continue
		default:
			i = skipWord(data, i)
		}
		if depth == 0 {
			return i
		}
	}
}

// skipWord skips a number, true, false or null inside an object, where one of these always follows.
func skipWord(data []byte, i int) int {
	for {
		switch data[i] {
		case ',', '}', ']', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
}
