package request

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"unicode/utf8"
)

// byteOrderMark is what some programs of Windows write before a text in UTF-8. RFC 8259, section 8.1,
// lets a reader pass over it.
const byteOrderMark = "\ufeff"

// SkipMark returns a body without the byte order mark that it may begin with.
func SkipMark(data []byte) []byte { return bytes.TrimPrefix(data, []byte(byteOrderMark)) }

// The problems with a body as a whole. Those with a place end in problemPlace and its number.
const (
	problemEmpty     = "empty"
	problemTooLong   = "longer than 65536 bytes"
	problemNotObject = "not a JSON object"
	problemArray     = "a JSON array; publish each request by itself, as an object"
	problemText      = "a JSON string; give the request as an object, not as a string that holds one"

	problemUTF16LE = "text in UTF-16, little-endian; publish it in UTF-8"
	problemUTF16BE = "text in UTF-16, big-endian; publish it in UTF-8"
	problemUTF32LE = "text in UTF-32, little-endian; publish it in UTF-8"
	problemUTF32BE = "text in UTF-32, big-endian; publish it in UTF-8"

	problemUTF8 = "not valid UTF-8"

	problemJSON       = "not valid JSON"
	problemCutText    = "not valid JSON: cut off inside a string"
	problemCut        = "not valid JSON: cut off"
	problemLineFeed   = `not valid JSON: a line feed in a string, to be written \n`
	problemReturn     = `not valid JSON: a carriage return in a string, to be written \r`
	problemTab        = `not valid JSON: a tab in a string, to be written \t`
	problemNULText    = "not valid JSON: a NUL byte in a string"
	problemOther      = `not valid JSON: a control character in a string, to be written \u and four hex digits`
	problemBackslash  = `not valid JSON: a backslash in a string, to be written \\`
	problemQuote      = `not valid JSON: a quote inside a string, to be written \", or no comma or colon after a string`
	problemApostrophe = "not valid JSON: an apostrophe or a typographic quote in place of a plain one"
	problemSpace      = "not valid JSON: a no-break space outside a string"
	problemComma      = "not valid JSON: a comma with nothing after it"
	problemMark       = "not valid JSON: a byte order mark that is not at the beginning"
	problemNUL        = "not valid JSON: a NUL byte"
	problemDeep       = "not valid JSON: nested too deeply"
	problemTrailing   = "not valid JSON: more after the end of the JSON"
	problemTrailNUL   = "not valid JSON: a NUL byte after the end of the JSON"
	problemTrailSub   = "not valid JSON: a byte 0x1A, the end-of-file mark of DOS, after the end of the JSON"

	problemPlace = ", at byte offset "
)

// maxDepth is how deep encoding/json lets values be nested.
const maxDepth = 10000

// open returns the JSON object in data without what may stand before it, or what is wrong.
//
// encoding/json checks the syntax; the rest of this package only walks over what it has passed.
func open(data []byte) (object []byte, problem string) {
	object = SkipMark(data)
	mark := len(data) - len(object)
	if len(object) == 0 {
		return nil, problemEmpty
	}
	if problem := encodingProblem(object); problem != "" {
		return nil, problem
	}
	switch {
	case len(object) > MaxBytes:
		return nil, problemTooLong
	case !utf8.Valid(object):
		// encoding/json would replace the bad bytes, and so make two different ids one.
		return nil, placed(problemUTF8, mark+validLength(object))
	case !json.Valid(object):
		problem, at := syntaxProblem(object)
		return nil, placed(problem, mark+at)
	}
	if problem := valueProblem(object[skipSpace(object, 0)]); problem != "" {
		return nil, problem
	}
	return object, ""
}

// valueProblem tells by the first byte of a JSON value that it is no object; "" means that it is one.
func valueProblem(first byte) string {
	switch first {
	case '{':
		return ""
	case '[':
		return problemArray
	case '"':
		return problemText
	}
	return problemNotObject
}

// placed adds the place of a problem, counted from 0 at the first byte of what was published.
func placed(problem string, at int) string { return problem + problemPlace + strconv.Itoa(at) }

// encodingProblem tells by the first bytes of a text, as RFC 4627, section 3, does, that it is in an
// encoding of Unicode other than UTF-8: JSON begins with two characters of ASCII.
func encodingProblem(data []byte) string {
	begins := func(mark string) bool { return bytes.HasPrefix(data, []byte(mark)) }
	var zero [4]bool
	if len(data) >= len(zero) {
		for i := range zero {
			zero[i] = data[i] == 0
		}
	}
	switch {
	case begins("\xff\xfe\x00\x00") || zero == [4]bool{false, true, true, true}:
		return problemUTF32LE
	case begins("\x00\x00\xfe\xff") || zero == [4]bool{true, true, true, false}:
		return problemUTF32BE
	case begins("\xff\xfe") || zero == [4]bool{false, true, false, true}:
		return problemUTF16LE
	case begins("\xfe\xff") || zero == [4]bool{true, false, true, false}:
		return problemUTF16BE
	}
	return ""
}

// validLength returns how many bytes of data come before the first that is no UTF-8.
func validLength(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data)
}

// syntaxProblem tells what kind of fault it is that makes data no valid JSON, and where it is. People
// meet a few kinds again and again, mostly by pasting a text into a template.
func syntaxProblem(data []byte) (problem string, at int) {
	// With a space after it, a fault in the last byte is told from an end that comes too early.
	var syntax *json.SyntaxError
	var value json.RawMessage
	if !errors.As(json.Unmarshal(append(bytes.Clone(data), ' '), &value), &syntax) {
		return problemJSON, 0 // cannot be: data is not valid
	}
	at = int(syntax.Offset) - 1
	p := placeIn(data[:min(at, len(data))])
	if at >= len(data) {
		if p.inString {
			return problemCutText, len(data)
		}
		return problemCut, len(data)
	}
	c := data[at]
	if p.inString {
		if p.escape >= 0 {
			return problemBackslash, p.escape
		}
		switch c {
		case '\n':
			return problemLineFeed, at
		case '\r':
			return problemReturn, at
		case '\t':
			return problemTab, at
		case 0:
			return problemNULText, at
		}
		return problemOther, at
	}
	if json.Valid(data[:at]) { // the fault is that something follows
		switch c {
		case 0:
			return problemTrailNUL, at
		case 0x1a:
			return problemTrailSub, at
		}
		return problemTrailing, at
	}
	begins := func(s string) bool { return bytes.HasPrefix(data[at:], []byte(s)) }
	switch {
	case c == 0:
		return problemNUL, at
	case (c == '{' || c == '[') && p.depth >= maxDepth:
		return problemDeep, at
	case begins(byteOrderMark):
		return problemMark, at
	case begins("\u00a0"):
		return problemSpace, at
	case p.last >= 0 && data[p.last] == '"' && c != '}' && c != ']':
		return problemQuote, p.last
	case slices.ContainsFunc([]string{"'", "‘", "’", "“", "”", "„", "«", "»"}, begins):
		return problemApostrophe, at
	case p.last >= 0 && data[p.last] == ',' && (c == '}' || c == ']' || c == ','):
		return problemComma, p.last
	}
	return problemJSON, at
}

// place is where the beginning of a JSON text ends.
type place struct {
	inString bool
	escape   int // the backslash of an escape that has not ended; -1: none
	depth    int
	last     int // the last byte that is no white space; -1: none
}

// placeIn goes over the beginning of a JSON text that has no fault.
func placeIn(data []byte) place {
	p := place{escape: -1, last: -1}
	for i := 0; i < len(data); i++ {
		c := data[i]
		switch {
		case p.inString && c == '\\':
			length := 2
			if i+1 < len(data) && data[i+1] == 'u' {
				length = len(`\u0000`)
			}
			if i+length > len(data) {
				p.escape = i
				return p
			}
			i += length - 1
		case c == '"':
			p.inString = !p.inString
			p.last = i
		case p.inString || c == ' ' || c == '\n' || c == '\t' || c == '\r':
		default:
			p.last = i
			switch c {
			case '{', '[':
				p.depth++
			case '}', ']':
				p.depth--
			}
		}
	}
	return p
}

// remains are the members of a broken JSON object that stand whole before its fault.
type remains struct {
	members map[string]field
	// broken is the name of the member that the fault is in, and rest what is there of its value. ""
	// where the fault is between two members, or after the last.
	broken string
	rest   []byte
}

// salvage takes from a broken object what stands whole before the fault. A string is whole where a
// comma, a bracket or the end of the text follows: what comes after a quote may be more of it.
func salvage(data []byte) remains {
	r := remains{members: map[string]field{}}
	data = SkipMark(data)
	readable := data[:min(len(data), MaxBytes)]
	readable = readable[:validLength(readable)]
	dec := json.NewDecoder(bytes.NewReader(readable))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return r
	}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return r
		}
		start := dec.InputOffset()
		var raw json.RawMessage
		if dec.Decode(&raw) != nil {
			r.broken, r.rest = name, bytes.TrimLeft(data[start:], ": \t\r\n")
			return r
		}
		if next := bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n"); len(next) > 0 && next[0] != ',' && next[0] != '}' {
			return r
		}
		f := r.members[name]
		f.add(raw)
		r.members[name] = f
	}
	return r
}

// salvage looks for the id in a body that is broken, and for nothing else: half of a request must
// not pass for a whole one. Where the body is an event, or may be one, the member id is the event's,
// which only its source makes one of a request.
func (d *decoder) salvage(body []byte, m mode) {
	r := salvage(body)
	const version = `"specversion"`
	device := r.members[fieldNames[fieldDevice]]
	event := m.structured || !m.stray && !device.given() && !device.twice && bytes.Contains(body, []byte(version))
	if m.binary || !event {
		d.fields[fieldID] = r.members[fieldNames[fieldID]]
		return
	}
	var a attributes
	for _, i := range []int{attrID, attrSource} {
		a[i].text, a[i].given, a[i].problem = r.members[attrNames[i]].text()
	}
	d.eventID = a.eventID()
	data := r.members[memberData]
	if r.broken == memberData && data.raw == nil {
		data.raw = r.rest
	}
	if !data.twice {
		d.fields[fieldID] = salvage(data.raw).members[fieldNames[fieldID]]
	}
}
