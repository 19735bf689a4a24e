// Package request says what a request is: it decodes and checks a publisher's message and gives
// the request its id and key. It does no I/O and keeps no state.
package request

import (
	"strconv"
	"strings"
	"time"
)

// MaxBytes is the longest body that Decode reads.
const MaxBytes = 64 << 10

// Source is a message as it came from the stream. Decode neither changes nor keeps any of it.
type Source struct {
	// Data is the body. Nil or empty is an invalid request.
	Data []byte
	// Header holds the headers; nats.Header converts to it. Names are matched without regard to
	// case. Nil means none.
	Header map[string][]string
	// Stream and Sequence say where the message lies in JetStream. They are trusted, and make the
	// id of a request that has no other.
	Stream   string
	Sequence uint64
}

// Request is one request to reset the passcode of one device.
//
// Every text but DeviceID, AppID and Traceparent may hold bytes that are special in a URL, a header
// or a log line, and is to be escaped there.
type Request struct {
	// ID is the publisher's id, else that of the CloudEvent, else the header Nats-Msg-Id, else
	// "<stream>-<sequence>"; it is never empty. The first three have 1 to 256 bytes and no control
	// characters. That of a CloudEvent is "<source> <id>", or where this is longer, "ce-sha256-" and
	// its SHA-256 in hex.
	ID string
	// IDGiven is false when ID is the fallback "<stream>-<sequence>", which a later message can bear
	// again once the stream was created anew.
	IDGiven bool
	// DeviceID is the Intune device id, a GUID in lower case.
	DeviceID string
	// UserID is a GUID in lower case or a UPN as it was written; empty means absent.
	UserID string
	// AppID is the id of the detected app, of [A-Za-z0-9_-]; empty means absent.
	AppID string
	// NotAfter is the moment, in UTC, after which a reset is unwanted; zero means none.
	NotAfter time.Time
	// RequestedBy and Reason are free text of at most 256 bytes of valid UTF-8; what was longer has
	// been cut. Empty means absent or empty.
	RequestedBy, Reason string
	// Traceparent is the header of that name, else the attribute of the CloudEvent, of the form that
	// W3C Trace Context gives it; empty where it is absent or of another form.
	Traceparent string
}

// Key returns the id as one token of a subject or of a key-value key.
func (r Request) Key() string { return EscapeID(r.ID) }

// Invalid is the error of Decode. Field comes from a closed list, Problem too but for the number that
// it may end with. They hold no byte of what the publisher sent, so they are safe in a header and in
// a log line.
type Invalid struct {
	// Field is a field's name, "Nats-Msg-Id", or "body" when the body as a whole cannot be read. For
	// a CloudEvent it may also be "Content-Type", "data", "data_base64", or an attribute as "ce-id".
	Field string
	// Problem says what is wrong with it. Where that is at one place in the body, it ends in
	// ", at byte offset " and the place, counted from 0: in data_base64, of what that holds.
	Problem string
}

// Error returns the field and its problem, as in "managedDeviceId: missing".
func (e *Invalid) Error() string { return e.Field + ": " + e.Problem }

// Decode reads and checks the request in a message, which is the body, or the data of a CloudEvent 1.0
// in the binary or the structured mode of the NATS binding.
//
// The error is always an *Invalid. Where several things are wrong it names what is wrong with the
// event in the order Content-Type, specversion, id, source, type, datacontenttype, else the body, else the first
// field in the order managedDeviceId, userId, detectedAppId, id (or Nats-Msg-Id), notAfter,
// requestedBy, reason. The Request returned with an error serves to report it: ID and IDGiven are
// set as far as a valid id was found, RequestedBy, Reason and Traceparent as far as they could be
// read, DeviceID if it was valid, and nothing else. Of a body that is broken, only the id is read, where
// it stands whole before the fault.
func Decode(src Source) (Request, error) {
	var d decoder
	d.read(src)

	var r Request
	r.DeviceID = d.device()
	r.UserID = d.user()
	r.AppID = d.app()
	r.ID, r.IDGiven = d.identify(src)
	r.NotAfter = d.deadline()
	r.RequestedBy = d.note(fieldRequestedBy)
	r.Reason = d.note(fieldReason)
	r.Traceparent = d.traceparent(src)
	if d.bad != nil {
		// Half of a request must not look like a whole one with fewer fields: that is another route,
		// or a reset without its deadline.
		r.UserID, r.AppID, r.NotAfter = "", "", time.Time{}
		return r, d.bad
	}
	return r, nil
}

// decoder holds one message taken apart, and the first thing found wrong with it.
type decoder struct {
	fields [numFields + 1]field
	// eventID and trace are what a CloudEvent adds; empty without one.
	eventID, trace string
	bad            *Invalid
}

func (d *decoder) refuse(name, problem string) {
	if d.bad == nil {
		d.bad = &Invalid{Field: name, Problem: problem}
	}
}

func (d *decoder) device() string {
	s, ok := d.text(fieldDevice)
	switch {
	case !ok:
		// Keeps a problem that text has reported.
		d.refuse(fieldNames[fieldDevice], problemMissing)
		return ""
	case !isGUID(s):
		d.refuse(fieldNames[fieldDevice], problemGUID)
		return ""
	}
	return strings.ToLower(s)
}

func (d *decoder) user() string {
	s, ok := d.text(fieldUser)
	switch {
	case !ok:
		return ""
	case isGUID(s):
		return strings.ToLower(s)
	case !isUPN(s):
		d.refuse(fieldNames[fieldUser], problemUser)
		return ""
	}
	return s
}

func (d *decoder) app() string {
	s, ok := d.text(fieldApp)
	if ok && !isAppID(s) {
		d.refuse(fieldNames[fieldApp], problemApp)
		return ""
	}
	return s
}

// identify always returns an id, for a refused request needs one as well: its record and its dead
// letter are found by it.
func (d *decoder) identify(src Source) (id string, given bool) {
	if s, _ := d.text(fieldID); s != "" {
		problem := idProblem(s)
		if problem == "" {
			return s, true
		}
		d.refuse(fieldNames[fieldID], problem)
	}
	if d.eventID != "" {
		return d.eventID, true
	}
	if s := header(src.Header, headerMsgID); s != "" {
		problem := idProblem(s)
		if problem == "" {
			return s, true
		}
		d.refuse(headerMsgID, problem)
	}
	return src.Stream + "-" + strconv.FormatUint(src.Sequence, 10), false
}

func (d *decoder) deadline() time.Time {
	s, ok := d.text(fieldNotAfter)
	if !ok {
		return time.Time{}
	}
	t, ok := parseTime(s)
	if !ok {
		d.refuse(fieldNames[fieldNotAfter], problemTime)
	}
	return t
}

func (d *decoder) note(i int) string {
	s, _ := d.text(i)
	return cut(s, maxNote)
}

func (d *decoder) traceparent(src Source) string {
	s := header(src.Header, attrNames[attrTrace])
	if s == "" {
		s = d.trace
	}
	if !isTraceparent(s) {
		return ""
	}
	return s
}

const headerMsgID = "Nats-Msg-Id"

// header returns the first value of a header, or "". A message may bear the name in several
// spellings: the usual one comes first, then the others in the order of their bytes, so that every
// delivery of the message is read alike.
func header(h map[string][]string, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	best, value := "", ""
	for k, v := range h {
		if len(v) == 0 || !isName(k, name) {
			continue
		}
		if best == "" || k < best {
			best, value = k, v[0]
		}
	}
	return value
}
