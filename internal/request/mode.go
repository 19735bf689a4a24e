package request

import (
	"encoding/base64"
	"maps"
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
	problemDiffering = "given more than once, with different values"
	problemBatch     = "a batch of events; publish each one by itself"
	problemFormat    = "an event format other than JSON"
	problemTwoModes  = "says that the event is in the body, and headers ce-* hold one as well"
	problemBase64    = "not base64 of the standard alphabet, padded"
	problemBothData  = "given together with data"
)

// mode tells what the headers of a message say of an event. It is all that CloudEvents cost a plain
// request.
type mode struct {
	// binary: the headers hold an event. The binding calls binary whatever is not structured, and
	// leaves open which of it is an event at all. One of the required attributes makes it one, so that
	// an event that lacks another is refused, and not taken for a request with a different id.
	binary bool
	// stray: there is a header ce-*, which alone makes no event.
	stray bool
	// structured: Content-Type says that the body is an event, of whichever format.
	structured bool
}

func modeOf(h map[string][]string) (m mode) {
	for name, values := range h {
		if len(name) <= len(attrPrefix) || name[0]|0x20 != 'c' || len(values) == 0 {
			continue
		}
		if attr, ok := cutAttrPrefix(name); ok {
			m.stray = true
			for _, required := range attrNames[:numRequired] {
				m.binary = m.binary || isName(attr, required)
			}
		} else if isName(name, headerType) {
			m.structured = m.structured || slices.ContainsFunc(values, isEventType)
		}
	}
	return m
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

// attributesOf reads those of an event in the headers.
func attributesOf(h map[string][]string) *attributes {
	a := new(attributes)
	// In order, so that every delivery of a message is refused alike.
	for _, header := range slices.Sorted(maps.Keys(h)) {
		name, ok := cutAttrPrefix(header)
		i := -1
		if ok {
			i = slices.IndexFunc(attrNames[:], func(attr string) bool { return isName(name, attr) })
		}
		if i < 0 {
			continue
		}
		for _, value := range h[header] {
			a[i].add(headerText(value))
		}
	}
	return a
}

func (at *attribute) add(text string) {
	if at.given && at.text != text {
		at.problem = problemDiffering
	}
	at.text, at.given = text, true
}

// headerText undoes what the binding does to an attribute's text: a quoted string of older versions,
// then one round of percent-encoding. Many publishers do neither, so what is not written in that way
// stands for itself.
func headerText(s string) string {
	if strings.HasPrefix(s, `"`) {
		if inner, ok := unquoteHeader(s[1:]); ok {
			s = inner
		}
	}
	if decoded, ok := percentDecoded(s); ok {
		return decoded
	}
	return s
}

func percentDecoded(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", false
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c = byte(n)
			i += 2
		}
		b = append(b, c)
	}
	return string(b), utf8.Valid(b)
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

// structured reads an event that is the body, a valid JSON object.
func (d *decoder) structured(object []byte) {
	a, data, encoded := attributesIn(object)
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
	case valueProblem(data.raw[0]) != "":
		d.refuse(memberData, valueProblem(data.raw[0]))
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
		d.refuse(memberBase64, problem)
	case err != nil || strings.ContainsAny(s, "\r\n"): // the library passes over these
		d.refuse(memberBase64, problemBase64)
	default:
		object, problem := open(data)
		if problem != "" {
			d.refuse(memberBase64, problem)
			d.fields[fieldID] = salvage(data).members[fieldNames[fieldID]]
			return
		}
		d.members(object)
	}
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
	var known [numAttrs]field
	for w := walk(object); ; {
		key, raw, ok := w.next()
		if !ok {
			break
		}
		switch name := unquote(key); name {
		case memberData:
			data.add(raw)
		case memberBase64:
			encoded.add(raw)
		default:
			if i := knownAttr(name); i >= 0 {
				known[i].add(raw)
			}
		}
	}
	a = new(attributes)
	for i, f := range known {
		a[i].text, a[i].given, a[i].problem = f.text()
	}
	return a, data, encoded
}
