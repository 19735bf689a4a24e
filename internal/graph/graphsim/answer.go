package graphsim

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// bodyForm is how an error's body looks.
type bodyForm int

const (
	formJSON bodyForm = iota
	formNone
	formHTML
)

// authHeader is the WWW-Authenticate of a 401.
type authHeader int

const (
	authNone authHeader = iota
	authPlain
	authIntune // refused by Intune itself; no new token cures it
	authChallenge
)

// meta is what an answer tells about itself.
type meta struct {
	date, request, client string
	device                guid
}

// graphAppID is Microsoft Graph's application id, in every cloud.
const graphAppID = "00000003-0000-0000-c000-000000000000"

// diagnostic is the text of x-ms-ags-diagnostic.
var diagnostic = []string{`{"ServerInfo":{"DataCenter":"Simulated","Slice":"E","Ring":"0","ScaleUnit":"000","RoleInstance":"GRAPHSIM0001"}}`}

// Timestamps as Graph writes them.
const (
	stampForm = "2006-01-02T15:04:05.0000000Z"
	innerForm = "2006-01-02T15:04:05"
)

// answer writes the headers and the body. now is Graph's.
func (s *Sim) answer(w http.ResponseWriter, r *http.Request, rt route, a reply, m meta, now time.Time) {
	h := w.Header()
	values := [3]string{m.date, m.request, m.client} // one allocation for all three headers
	h["Date"] = values[0:1:1]
	h["Request-Id"] = values[1:2:2]
	if m.client != "" {
		h["Client-Request-Id"] = values[2:3:3]
	}
	h["X-Ms-Ags-Diagnostic"] = diagnostic
	if a.status == http.StatusNoContent {
		w.WriteHeader(a.status)
		return
	}
	if v := authenticate(a.auth, r.Host, now); v != "" {
		h["Www-Authenticate"] = []string{v}
	}
	if a.redirect {
		h["Location"] = []string{"https://" + r.Host + "/v1.0/" + segIntune + "/" + segDevices + "/" + m.device.String() + "/" + segAction + "?redirected=1"}
	}
	var body []byte
	switch {
	case a.status == http.StatusOK && !rt.reset:
		h["Content-Type"] = []string{"application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"}
		if body = listBody(r.Host); !rt.list {
			body = s.deviceBody(r.Host, *a.look, rt.members, now)
		}
	case a.form == formHTML:
		h["Content-Type"] = []string{"text/html"}
		body = fmt.Appendf(nil, "<html><head><title>%d %s</title></head>\r\n<body><h1>%[2]s</h1><hr>gateway</body></html>\r\n", a.status, http.StatusText(a.status))
	case a.form == formJSON && a.status >= 400:
		h["Content-Type"] = []string{"application/json"}
		body = errorBody(a, m, now)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // a client that has gone does not read it
}

func authenticate(a authHeader, host string, now time.Time) string {
	if a == authNone {
		return ""
	}
	if a == authIntune {
		return `Bearer realm="urn:intune:service,c3998d6e-2e37-4c56-87b5-7b444ee1cb26,f0f3c450-59bf-4f0d-b1b2-0ef84ddfe3c7"`
	}
	v := `Bearer realm="", authorization_uri="https://` + host + `/common/oauth2/authorize", client_id="` + graphAppID + `"`
	if a == authChallenge {
		claims := fmt.Sprintf(`{"access_token":{"nbf":{"essential":true, "value":"%d"}}}`, now.Unix())
		v += `, error="insufficient_claims", claims="` + base64.StdEncoding.EncodeToString([]byte(claims)) + `"`
	}
	return v
}

// passcode is the one that a reset generated.
func (s *Sim) passcode(number uint64) string {
	h := sha256.Sum256(binary.BigEndian.AppendUint64(s.seed[8:16:16], number))
	return "SimPass-" + base32.StdEncoding.EncodeToString(h[:10])
}

// requestID is a GUID (version 4 by its looks) that is not given twice.
func (s *Sim) requestID(number uint64) string {
	var g guid
	copy(g[:8], s.seed[:8])
	binary.BigEndian.PutUint64(g[8:], number)
	g[6] = g[6]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g.String()
}

// Usual code and message of an error of Intune's.
func errorText(status int) (code, message string) {
	switch status {
	case http.StatusBadRequest:
		return "BadRequest", "An error has occurred"
	case http.StatusUnauthorized:
		return "UnknownError", "An error has occurred"
	case http.StatusForbidden:
		return "Forbidden", "Application is not authorized to perform this operation on this device."
	case http.StatusNotFound:
		return "ResourceNotFound", "The device was not found."
	case http.StatusMethodNotAllowed:
		return "MethodNotAllowed", "The method is not allowed."
	case http.StatusConflict:
		return "Conflict", "The device is in a state that does not allow this action."
	case http.StatusTooManyRequests:
		return "TooManyRequests", "An error has occurred."
	case http.StatusInternalServerError:
		return "InternalServerError", "An internal server error has occurred"
	case http.StatusServiceUnavailable:
		return "ServiceUnavailable", "The service is temporarily unavailable. Please try again later."
	}
	return "UnknownError", http.StatusText(status)
}

// errorBody is Graph's error document, with Intune's own inside the message
// where it is nested.
func errorBody(a reply, m meta, now time.Time) []byte {
	code, message := errorText(a.status)
	if a.code != "" {
		code = a.code
	}
	if a.message != "" {
		message = a.message
	}
	if a.nested {
		message = nestedMessage(a, m, message)
	}
	client := m.client
	if client == "" {
		client = m.request
	}
	type inner struct {
		Date    string `json:"date"`
		Request string `json:"request-id"`
		Client  string `json:"client-request-id"`
	}
	type document struct {
		Code    string   `json:"code"`
		Message string   `json:"message"`
		Details []string `json:"details,omitzero"`
		Inner   inner    `json:"innerError"`
	}
	e := document{Code: code, Message: message, Inner: inner{now.UTC().Format(innerForm), m.request, client}}
	if a.status == http.StatusTooManyRequests {
		e.Details = []string{}
	}
	return marshal(map[string]document{"error": e})
}

// nestedMessage is the document that Intune puts into the message. It names
// the device and an internal address.
func nestedMessage(a reply, m meta, message string) string {
	type document struct {
		Version int     `json:"_version"`
		Code    string  `json:"ErrorCode,omitempty"`
		Message string  `json:"Message"`
		Phrase  string  `json:"CustomApiErrorPhrase"`
		Retry   *string `json:"RetryAfter"`
		Source  string  `json:"ErrorSourceService"`
		Headers string  `json:"HttpHeaders"`
	}
	d := document{
		Version: 3,
		Message: message + " - Operation ID (for customer support): 00000000-0000-0000-0000-000000000000 - Activity ID: " + m.request +
			" - Url: https://fef.simulated.manage.microsoft.com/DeviceFE/StatelessDeviceFEService/deviceManagement/managedDevices('" +
			m.device.String() + "')/microsoft.management.services.api.resetPasscode?api-version=5024-10-01",
		Headers: "{}",
	}
	if a.auth == authIntune {
		d.Code = "Forbidden"
		d.Headers = string(marshal(map[string]string{"WWW-Authenticate": authenticate(authIntune, "", time.Time{})}))
	}
	out, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(out)
}

// marshal encodes what cannot fail: structs of strings and numbers.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
