package request

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// The attributes of an event that count here, in the order in which problems are reported. The first
// ones are required. traceparent is defined by the extension for distributed tracing.
//
// No other attribute or extension is looked at: what is not used must not make a request invalid.
const (
	attrSpecVersion = iota
	attrID
	attrSource
	attrType
	attrDataType
	attrTrace
	numAttrs

	numRequired = attrType + 1
)

var attrNames = [numAttrs]string{"specversion", "id", "source", "type", "datacontenttype", "traceparent"}

// attrPrefix is before an attribute's name in a header, and in a refusal in both modes, where it
// tells an event's id from the request's.
const attrPrefix = "ce-"

// The problems with an attribute.
const (
	problemVersion = "not 1.0 or another 1.x"
	problemNotJSON = "not JSON"
)

// attribute is one attribute of an event, in whichever mode that came.
type attribute struct {
	text    string
	given   bool
	problem string // found in reading it
}

type attributes [numAttrs]attribute

// knownAttr returns the attribute of a name, or -1.
func knownAttr(name string) int {
	for i, n := range attrNames {
		if n == name {
			return i
		}
	}
	return -1
}

// problemWith tells what is wrong with one of the attributes; "" means nothing.
func (a *attributes) problemWith(i int) string {
	at := a[i]
	blank := strings.TrimSpace(at.text) == ""
	switch {
	case at.problem != "":
		return at.problem
	case i < numRequired && !at.given:
		return problemMissing
	case i < numRequired && blank:
		return problemEmpty
	}
	switch i {
	case attrSpecVersion:
		if !isVersion(at.text) {
			return problemVersion
		}
	case attrID, attrSource:
		return textProblem(at.text)
	case attrDataType:
		if !blank && !isJSONType(at.text) {
			return problemNotJSON
		}
	}
	return ""
}

// check refuses attributes that make no event, and takes over what a request needs of them. An event
// that is refused for something else still has its id, so that its record and letter are found.
func (d *decoder) check(a *attributes) {
	for i := range attrTrace {
		if problem := a.problemWith(i); problem != "" {
			d.refuse(attrPrefix+attrNames[i], problem)
		}
	}
	d.eventID = a.eventID()
	d.trace = a[attrTrace].text
}

// eventID returns the id that an event gives its request, or "" where the event has none.
func (a *attributes) eventID() string {
	if a.problemWith(attrID) != "" || a.problemWith(attrSource) != "" {
		return ""
	}
	return eventID(a[attrSource].text, a[attrID].text)
}

// isVersion reports whether s is 1.x. Such a version changes nothing that counts here.
func isVersion(s string) bool {
	minor, ok := strings.CutPrefix(s, "1.")
	return ok && minor != "" && minor[0] != '.' && strings.Trim(minor, "0123456789.") == ""
}

// isJSONType reports whether a media type says that the data is JSON. Its parameters say nothing of
// that, so they are not looked at.
func isJSONType(s string) bool {
	mediaType, _, _ := strings.Cut(s, ";")
	kind, subtype, _ := strings.Cut(strings.ToLower(strings.TrimSpace(mediaType)), "/")
	return kind != "" && (subtype == "json" || strings.HasSuffix(subtype, "+json"))
}

// eventID makes one id of the two texts that identify an event. No two events share one: the source
// in it holds no space. (A URI never does. That of a careless publisher gets %20, as URIs write it.)
// A digest stands for what would be too long, and holds no space at all.
func eventID(source, id string) string {
	s := strings.ReplaceAll(source, " ", "%20") + " " + id
	if len(s) <= maxID {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "ce-sha256-" + hex.EncodeToString(sum[:])
}
