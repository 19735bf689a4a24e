package request

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The members of an event in JSON that are no attributes.
const (
	memberData   = "data"
	memberBase64 = "data_base64"
)

const (
	headerType = "Content-Type"
	eventType  = "application/cloudevents"
)

// The problems with the way in which an event is written.
const (
	problemEncoding  = "not percent-encoded UTF-8"
	problemQuotes    = "a quoted string that does not end"
	problemDiffering = "given more than once, with different values"
	problemBatch     = "a batch of events; publish each one by itself"
	problemFormat    = "an event format other than JSON"
	problemTwoModes  = "says that the event is in the body, and headers ce-* hold one as well"
	problemBase64    = "not base64 of the standard alphabet, padded"
	problemBothData  = "given together with data"
)

// modes tells how a message bears an event: in its headers, in its body, or, with both false, not at
// all. It is all that CloudEvents cost a plain request.
//
// The binding calls binary whatever is not structured, and leaves open which of it is an event at
// all. One of the required attributes makes it one, so that an event that lacks another is refused,
// and not taken for a request with a different id. Other headers ce-* alone do not.
func modes(h map[string][]string) (binary, structured bool) {
	for name, values := range h {
		if len(name) <= len(attrPrefix) || name[0]|0x20 != 'c' || len(values) == 0 {
			continue
		}
		if attr, ok := cutAttrPrefix(name); ok {
			for _, required := range attrNames[:numRequired] {
				binary = binary || isName(attr, required)
			}
		} else if isName(name, headerType) {
			structured = structured || slices.ContainsFunc(values, isEventType)
		}
	}
	return binary, structured
}

// isName compares names of headers. With the lengths equal, EqualFold can only fold ASCII.
func isName(s, name string) bool { return len(s) == len(name) && strings.EqualFold(s, name) }

func cutAttrPrefix(name string) (string, bool) {
	if len(name) < len(attrPrefix) || !isName(name[:len(attrPrefix)], attrPrefix) {
		return "", false
	}
	return name[len(attrPrefix):], true
}

// isEventType reports whether a value of Content-Type names an event format of any kind.
func isEventType(s string) bool {
	s = strings.TrimSpace(s)
	if len(s) < len(eventType) || !isName(s[:len(eventType)], eventType) {
		return false
	}
	rest := s[len(eventType):]
	return rest == "" || strings.IndexByte("+-; \t", rest[0]) >= 0
}

// binary reads an event whose attributes are in the headers, and whose data is the body.
func (d *decoder) binary(src Source) {
	d.check(attributesOf(src.Header))
	// Here the binding gives the header no meaning, but the bindings of other protocols do: many
	// publishers say in it of what type the data is.
	for name, values := range src.Header {
		if isName(name, headerType) && slices.ContainsFunc(values, func(s string) bool { return !isJSONType(s) }) {
			d.refuse(headerType, problemNotJSON)
		}
	}
	d.split(src.Data)
}

func attributesOf(h map[string][]string) *attributes {
	a := new(attributes)
	// In order, so that every delivery of a message is refused alike.
	for _, header := range slices.Sorted(maps.Keys(h)) {
		name, ok := cutAttrPrefix(header)
		if !ok {
			continue
		}
		for _, value := range h[header] {
			a.addHeader(name, value)
		}
	}
	return a
}

func (a *attributes) addHeader(name, value string) {
	for i := range len(name) {
		if !isAlnum(name[i]) { // before ToLower, which makes ASCII of some other letters
			a.fault(problemAttrName)
			return
		}
	}
	name = strings.ToLower(name)
	text, problem := headerText(value)
	if i := knownAttr(name); i >= 0 {
		at := &a.known[i]
		if at.given && at.text != text {
			problem = problemDiffering
		}
		if at.problem == "" {
			at.problem = problem
		}
		at.text, at.given = text, true
		return
	}
	before, given := a.other[name]
	switch {
	case !isAttrName(name):
		a.fault(problemAttrName)
	case problem != "":
		a.fault(problem)
	case given && before != text:
		a.fault(problemDiffering)
	default:
		a.fault(textProblem(text))
		a.extend(name, text)
	}
}

// headerText undoes what the binding does to an attribute's text: a quoted string of older versions,
// then one round of percent-encoding.
func headerText(s string) (text, problem string) {
	if strings.HasPrefix(s, `"`) {
		var ok bool
		if s, ok = unquoteHeader(s[1:]); !ok {
			return "", problemQuotes
		}
	}
	if strings.IndexByte(s, '%') >= 0 {
		b := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			c := s[i]
			if c == '%' {
				if i+2 >= len(s) {
					return "", problemEncoding
				}
				n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
				if err != nil {
					return "", problemEncoding
				}
				c = byte(n)
				i += 2
			}
			b = append(b, c)
		}
		s = string(b)
	}
	if !utf8.ValidString(s) {
		return "", problemEncoding
	}
	return s, ""
}

// unquoteHeader returns what is before the closing quote, which must be the last byte.
func unquoteHeader(s string) (string, bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return string(b), i == len(s)-1
		case c == '\\' && i+1 < len(s):
			i++
			b = append(b, s[i])
		default:
			b = append(b, c)
		}
	}
	return "", false
}

// structured reads an event that is the body.
func (d *decoder) structured(src Source, inHeadersToo bool) {
	if problem := formatProblem(src.Header); problem != "" {
		d.refuse(headerType, problem)
		return
	}
	if inHeadersToo {
		d.refuse(headerType, problemTwoModes)
		return
	}
	if problem := bodyProblem(src.Data); problem != "" {
		d.refuse("body", problem)
		return
	}
	a, data, encoded := attributesIn(src.Data)
	d.check(a)
	switch {
	case data.twice:
		d.refuse(memberData, problemTwice)
	case encoded.given() && data.given():
		d.refuse(memberBase64, problemBothData)
	case encoded.given():
		d.encoded(encoded)
	case !data.given():
		d.refuse(memberData, problemMissing)
	case data.raw[0] != '{':
		d.refuse(memberData, problemNotObject)
	default:
		d.members(data.raw)
	}
}

// encoded reads the data of an event that is written in base64, as the CloudEvents SDKs do with data
// that they were given as bytes.
func (d *decoder) encoded(f field) {
	s, _, problem := f.text()
	data, err := base64.StdEncoding.Strict().DecodeString(s)
	switch {
	case problem != "":
	case err != nil || strings.ContainsAny(s, "\r\n"): // the library passes over these
		problem = problemBase64
	default:
		problem = bodyProblem(data)
	}
	if problem != "" {
		d.refuse(memberBase64, problem)
		return
	}
	d.members(data)
}

// formatProblem tells why an event in the body cannot be read; "" means nothing.
func formatProblem(h map[string][]string) string {
	value, given := "", false
	for name, values := range h {
		if !isName(name, headerType) {
			continue
		}
		for _, v := range values {
			if given && v != value {
				return problemDiffering
			}
			value, given = v, true
		}
	}
	mediaType, _, _ := strings.Cut(value, ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	switch {
	case strings.HasPrefix(mediaType, eventType+"-batch"):
		return problemBatch
	case mediaType != eventType && mediaType != eventType+"+json":
		return problemFormat
	}
	return ""
}

// attributesIn takes an event apart that is a valid JSON object.
func attributesIn(object []byte) (a *attributes, data, encoded field) {
	a = new(attributes)
	var known [numAttrs]field
	other := map[string]bool{}
	for w := walk(object); ; {
		key, raw, ok := w.next()
		if !ok {
			break
		}
		name := unquote(key)
		i := knownAttr(name)
		switch {
		case i >= 0:
			known[i].add(raw)
		case name == memberData:
			data.add(raw)
		case name == memberBase64:
			encoded.add(raw)
		case !isAttrName(name):
			a.fault(problemAttrName)
		case other[name]:
			a.fault(problemTwice)
		default:
			other[name] = true
			a.addJSON(name, raw)
		}
	}
	for i, f := range known {
		at := &a.known[i]
		at.text, at.given, at.problem = f.text()
	}
	return a, data, encoded
}

// addJSON keeps the value of an extension.
func (a *attributes) addJSON(name string, raw []byte) {
	var value any
	switch raw[0] {
	case 'n': // null means absent
		return
	case '{', '[':
		a.fault(problemAttrValue)
		return
	}
	if json.Unmarshal(raw, &value) != nil {
		a.fault(problemAttrValue) // a number that no float holds
		return
	}
	switch v := value.(type) {
	case string:
		a.fault(textProblem(v))
	case float64:
		if v != math.Trunc(v) { // the SDK would cut it
			a.fault(problemAttrValue)
		}
	}
	a.extend(name, value)
}
