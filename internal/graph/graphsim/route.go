package graphsim

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// guid is a GUID's bytes in the order of its text.
type guid [16]byte

// parseGUID reads the form 8-4-4-4-12 in either case.
func parseGUID(s string) (g guid, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return guid{}, false
	}
	at := 0
	for i := range g {
		if at == 8 || at == 13 || at == 18 || at == 23 {
			at++
		}
		hi, lo := unhex(s[at]), unhex(s[at+1])
		if hi > 15 || lo > 15 {
			return guid{}, false
		}
		g[i] = hi<<4 | lo
		at += 2
	}
	return g, true
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// String is the GUID in lower case.
func (g guid) String() string {
	var b [36]byte
	hex.Encode(b[0:8], g[0:4])
	hex.Encode(b[9:13], g[4:6])
	hex.Encode(b[14:18], g[6:8])
	hex.Encode(b[19:23], g[8:10])
	hex.Encode(b[24:36], g[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// route is what a Graph request asks for.
type route struct {
	reset  bool // the POST, else a GET
	list   bool // the GET of all devices, else of one
	named  bool // the path names a device
	device guid
	// members are those of the device that are read.
	members members
	// status is that of the refusal where the request is none of the six
	// routes, and problem says why; else 0.
	status  int
	problem string
}

// The routes' fixed segments.
const (
	segAction  = "resetPasscode"
	segDevices = "managedDevices"
	segIntune  = "deviceManagement"
	segApps    = "detectedApps"
	segUsers   = "users"
)

func parseRoute(r *http.Request) route {
	var room [12]string // more segments than any route has
	seg, ok := segments(r.URL, room[:0])
	if !ok {
		return route{status: http.StatusBadRequest, problem: "path: no route of Graph v1.0"}
	}
	if len(seg) > 0 && seg[len(seg)-1] == segAction {
		return parseReset(r, seg[:len(seg)-1])
	}
	if len(seg) == 2 && seg[0] == segIntune && seg[1] == segDevices {
		return parseList(r)
	}
	if len(seg) != 3 || seg[0] != segIntune || seg[1] != segDevices {
		return route{status: http.StatusBadRequest, problem: "path: none of the routes of this program"}
	}
	d, ok := parseGUID(seg[2])
	switch {
	case !ok:
		return route{status: http.StatusBadRequest, problem: "path: the device id is not a GUID"}
	case r.Method != http.MethodGet:
		return route{named: true, device: d, status: http.StatusMethodNotAllowed, problem: "method: " + r.Method + " where GET belongs"}
	}
	return parseSelect(r, route{named: true, device: d})
}

// members is a set of members of a device.
type members uint

// The members that can be read. Nobody needs the name, and no other is known.
const (
	memberID members = 1 << iota
	memberOS
	memberOwner
	memberEnrollment
	memberManagement
	memberLastSync
	memberResults
	memberName
)

// memberNames are the names in the order of their bits.
func memberNames() []string {
	return []string{"id", "operatingSystem", "managedDeviceOwnerType", "deviceEnrollmentType", "managementState", "lastSyncDateTime", "deviceActionResults", "deviceName"}
}

// parseSelect reads which members of the device are asked for. Its id and its
// list of actions are always among them; its name is given, but is a violation.
func parseSelect(r *http.Request, out route) route {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(q) != 1 || len(q["$select"]) != 1 {
		out.status, out.problem = http.StatusBadRequest, "path: the query is not a single $select"
		return out
	}
	for name := range strings.SplitSeq(q["$select"][0], ",") {
		i := slices.Index(memberNames(), name)
		if i < 0 {
			out.status, out.problem = http.StatusBadRequest, "path: a member that is not known is selected"
			return out
		}
		out.members |= 1 << i
	}
	switch {
	case out.members&memberID == 0 || out.members&memberResults == 0:
		out.status, out.problem = http.StatusBadRequest, "path: the query does not select id and deviceActionResults"
	case out.members&memberName != 0:
		out.problem = "path: the device's name is selected"
	}
	return out
}

// parseList reads the request for all devices, of which one is enough.
func parseList(r *http.Request) route {
	q, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case r.Method != http.MethodGet:
		return route{list: true, status: http.StatusMethodNotAllowed, problem: "method: " + r.Method + " where GET belongs"}
	case err != nil || len(q) != 2 || !slices.Equal(q["$top"], []string{"1"}) || !slices.Equal(q["$select"], []string{"id"}):
		return route{list: true, status: http.StatusBadRequest, problem: "path: the query is not $top=1&$select=id"}
	}
	return route{list: true}
}

// parseReset reads the segments before the action's name.
func parseReset(r *http.Request, seg []string) route {
	out := route{reset: true, status: http.StatusBadRequest}
	app, user, device, again := "", "", "", ""
	switch {
	case len(seg) == 3 && seg[0] == segIntune && seg[1] == segDevices:
		device = seg[2]
	case len(seg) == 4 && seg[0] == segUsers && seg[2] == segDevices:
		user, device = seg[1], seg[3]
	case len(seg) == 5 && seg[0] == segIntune && seg[1] == segApps && seg[3] == segDevices:
		app, device = seg[2], seg[4]
	case len(seg) == 9 && seg[0] == segIntune && seg[1] == segApps && seg[3] == segDevices &&
		seg[5] == segUsers && seg[7] == segDevices:
		app, device, user, again = seg[2], seg[4], seg[6], seg[8]
	default:
		out.problem = "path: none of the four routes of resetPasscode"
		return out
	}
	var ok bool
	out.device, ok = parseGUID(device)
	out.named = ok
	switch {
	case !ok:
		out.problem = "path: the device id is not a GUID"
	case len(seg) == 9 && again != device:
		out.problem = "path: two different devices"
	case (len(seg) == 4 || len(seg) == 9) && !validUser(user):
		out.problem = "path: the user is neither a GUID nor a UPN"
	case len(seg) >= 5 && !validApp(app):
		out.problem = "path: the app id has other characters than [A-Za-z0-9_-]"
	case r.URL.RawQuery != "":
		out.problem = "path: a query on the POST"
	case r.Method != http.MethodPost:
		out.status = http.StatusMethodNotAllowed
		out.problem = "method: " + r.Method + " where POST belongs"
	default:
		out.status = 0
	}
	return out
}

// segments splits the path below /v1.0/ into decoded segments, without
// allocating for a path that needed no escapes.
func segments(u *url.URL, seg []string) ([]string, bool) {
	path, raw := u.Path, u.RawPath != ""
	if raw {
		path = u.RawPath
	}
	path, ok := strings.CutPrefix(path, "/v1.0/")
	for more := true; ok && more; {
		if len(seg) == cap(seg) {
			return nil, false
		}
		var s string
		s, path, more = strings.Cut(path, "/")
		if raw {
			var err error
			if s, err = url.PathUnescape(s); err != nil {
				return nil, false
			}
		}
		seg = append(seg, s)
	}
	return seg, ok
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// validUser accepts an object id or a user principal name.
func validUser(s string) bool {
	if _, ok := parseGUID(s); ok {
		return true
	}
	at := strings.IndexByte(s, '@')
	if at <= 0 || at == len(s)-1 || strings.Count(s, "@") != 1 {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && !strings.ContainsRune(`@'.-_!#^~`, rune(s[i])) {
			return false
		}
	}
	return true
}

func validApp(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '_' && s[i] != '-' {
			return false
		}
	}
	return true
}
