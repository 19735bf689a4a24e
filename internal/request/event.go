package request

import (
	"crypto/sha256"
	"encoding/hex"
	"mime"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// The attributes that CloudEvents itself defines, in the order in which problems are reported. The
// first ones are required.
const (
	attrSpecVersion = iota
	attrID
	attrSource
	attrType
	attrDataType
	attrSchema
	attrSubject
	attrTime
	numAttrs

	numRequired = attrType + 1
)

var attrNames = [numAttrs]string{
	"specversion", "id", "source", "type", "datacontenttype", "dataschema", "subject", "time",
}

const (
	// attrPrefix is before an attribute's name in a header, and in a refusal in both modes, where it
	// tells an event's id from the request's.
	attrPrefix = "ce-"
	// attrOther stands in a refusal for every other attribute: its name is the publisher's.
	attrOther = "ce-*"
	// attrTrace is the attribute that the extension for distributed tracing defines.
	attrTrace = "traceparent"
)

// The problems with an attribute.
const (
	problemVersion   = "not 1.0"
	problemSource    = "not a URI-reference"
	problemMediaType = "not a media type"
	problemNotJSON   = "not JSON"
	problemSchema    = "not an absolute URI"
	problemMoment    = "not an RFC 3339 time"
	problemAttrName  = "a name that is not of lower-case letters and digits"
	problemAttrValue = "neither a string, a boolean nor a whole number of 32 bits"
)

// problemForm is what is wrong with an attribute that the SDK rejects.
var problemForm = [numAttrs]string{
	problemVersion, problemEmpty, problemSource, problemEmpty, problemMediaType, problemSchema, problemEmpty, problemMoment,
}

// attribute is one of those that CloudEvents defines.
type attribute struct {
	text    string
	given   bool
	problem string // found in reading it
}

// attributes are those of one event, in whichever mode it came.
type attributes struct {
	known [numAttrs]attribute
	// other are the extensions, as a string, bool or float64. Nil means none.
	other map[string]any
	// problem is the first one found in reading them.
	problem string
}

// knownAttr returns the attribute of a name, or -1.
func knownAttr(name string) int {
	for i, n := range attrNames {
		if n == name {
			return i
		}
	}
	return -1
}

// isAttrName reports whether CloudEvents allows an attribute to be called so.
func isAttrName(name string) bool {
	for i := range len(name) {
		if c := name[i]; !isDigit(c) && (c < 'a' || c > 'z') {
			return false
		}
	}
	return name != "" && name != memberData
}

// extend keeps the value of an extension.
func (a *attributes) extend(name string, value any) {
	if a.other == nil {
		a.other = map[string]any{}
	}
	a.other[name] = value
}

// fault keeps the first problem with the extensions.
func (a *attributes) fault(problem string) {
	if a.problem == "" {
		a.problem = problem
	}
}

// check refuses attributes that make no event, and takes over what a request needs of those that do.
func (d *decoder) check(a *attributes) {
	d.trace, _ = a.other[attrTrace].(string)

	rejected := a.judge()
	good := true
	for i := range a.known {
		if problem := a.problemWith(i, rejected); problem != "" {
			d.refuse(attrPrefix+attrNames[i], problem)
			good = false
		}
	}
	if a.problem != "" {
		d.refuse(attrOther, a.problem)
		good = false
	}
	if good {
		d.eventID = eventID(a.known[attrSource].text, a.known[attrID].text)
	}
}

func (a *attributes) problemWith(i int, rejected [numAttrs]bool) string {
	at := a.known[i]
	switch {
	case at.problem != "":
		return at.problem
	case !at.given && i < numRequired:
		return problemMissing
	case !at.given:
		return ""
	case at.text == "":
		return problemEmpty
	}
	if problem := textProblem(at.text); problem != "" {
		return problem
	}
	switch {
	case rejected[i]:
		return problemForm[i]
	case i == attrDataType && !isJSONType(at.text):
		return problemNotJSON
	}
	return ""
}

// judge has the CloudEvents SDK say which attributes it rejects.
//
// Its reader of whole events is not used: it panics on a data_base64 that is no string, stops at an
// empty name, takes the last of two ids for the only one, and writes a source in another form than
// its publisher. This package reads the attributes, and the SDK judges them.
func (a *attributes) judge() (rejected [numAttrs]bool) {
	c := event.EventContextV1{ID: a.known[attrID].text, Type: a.known[attrType].text}
	optional := func(i int) *string {
		if !a.known[i].given {
			return nil
		}
		return &a.known[i].text
	}
	c.DataContentType, c.Subject = optional(attrDataType), optional(attrSubject)

	// A URI holds no space, and an event's id is told from its source by one.
	if u := types.ParseURIRef(a.known[attrSource].text); u != nil && !strings.Contains(a.known[attrSource].text, " ") {
		c.Source = *u
	}
	if a.known[attrSchema].given {
		c.DataSchema = types.ParseURI(a.known[attrSchema].text)
		rejected[attrSchema] = c.DataSchema == nil
	}
	var err error
	c.Time, err = types.ParseTimestamp(a.known[attrTime].text)
	rejected[attrTime] = err != nil
	rejected[attrSpecVersion] = a.known[attrSpecVersion].text != c.GetSpecVersion()

	errs := c.Validate()
	for i, name := range attrNames {
		rejected[i] = rejected[i] || errs[name] != nil
	}
	for name, value := range a.other {
		if c.SetExtension(name, value) != nil {
			a.fault(problemAttrValue) // the names have been looked at
		}
	}
	return rejected
}

// isJSONType reports whether a media type says that the data is JSON.
func isJSONType(s string) bool {
	mediaType, _, err := mime.ParseMediaType(s)
	// The library also takes a type without a subtype.
	return err == nil && (strings.HasSuffix(mediaType, "/json") || strings.Contains(mediaType, "/") && strings.HasSuffix(mediaType, "+json"))
}

// eventID makes one id of the two texts that identify an event. A source holds no space, so two
// events never share one; a digest stands for what would be too long, and holds none either.
func eventID(source, id string) string {
	s := source + " " + id
	if len(s) <= maxID {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "ce-sha256-" + hex.EncodeToString(sum[:])
}
