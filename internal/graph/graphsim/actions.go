package graphsim

import (
	"encoding/hex"
	"slices"
	"time"
)

// ActionList is how a device's deviceActionResults looks. Its number is the
// VARIANT of the faults 0701 and 0702.
type ActionList int

const (
	// ListPlain shows every executed reset, and an action of another kind that
	// began just now.
	ListPlain ActionList = iota
	// ListRenamed also has a rename that began just now, with the type of a
	// reset, its error code, and the new name in the member of the passcode.
	ListRenamed
	// ListOthers also has other actions that began just now: some of the base
	// type, which Graph leaves out, one with an unlock PIN, one with a location.
	ListOthers
	// ListSeveral also has resets of an hour, a day and a year ago, in no order.
	ListSeveral
	// ListStartNull gives null for the dates of a reset. Where none was executed,
	// there is one entry of a reset all the same; so it is with the next two.
	ListStartNull
	// ListStartZero gives the year 1.
	ListStartZero
	// ListStartOdd gives what is no date.
	ListStartOdd
	// ListNull gives null in place of the list.
	ListNull
	// ListMissing leaves the list out.
	ListMissing
	// ListLate shows a reset only 5 s after it was executed.
	ListLate
	// ListUnknownName gives a name to resets that nobody knows. Where none was
	// executed, there is one entry all the same.
	ListUnknownName
)

// lateness is that of [ListLate].
const lateness = 5 * time.Second

// ShowActions makes a device's list look otherwise from now on, whatever its
// id asks for. An id that is no GUID is ignored.
func (s *Sim) ShowActions(deviceID string, l ActionList) {
	g, ok := parseGUID(deviceID)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.device(g).list = &l
}

// listOf is how the list of a device looks. Call with mu held.
func (s *Sim) listOf(g guid) ActionList {
	if d := s.devices[g]; d != nil && d.list != nil {
		return *d.list
	}
	if f, ok := parseFault(g); ok && (f.code == faultList || f.code == faultListDone) {
		return ActionList(f.variant)
	}
	return ListPlain
}

// result is an entry of deviceActionResults. A nil date is null.
type result struct {
	Type     string    `json:"@odata.type,omitempty"`
	Name     string    `json:"actionName"`
	State    string    `json:"actionState"`
	Started  *string   `json:"startDateTime"`
	Updated  *string   `json:"lastUpdatedDateTime"`
	Passcode string    `json:"passcode,omitempty"`
	Pin      string    `json:"unlockPin,omitempty"`
	Location *location `json:"deviceLocation,omitempty"`
	Code     *int      `json:"errorCode,omitempty"`
}

type location struct {
	Latitude float64 `json:"latitude"`
	Altitude string  `json:"altitude"` // a number in Graph: here what can be looked for
}

const (
	typeAction = "#microsoft.graph.deviceActionResult"
	typeReset  = "#microsoft.graph.resetPasscodeActionResult"
)

// entry is an entry as Graph writes it: the start with seven decimals, the last
// update cut to seconds.
func entry(kind, name, state string, started time.Time) result {
	from, last := started.UTC().Format(stampForm), started.UTC().Format(time.RFC3339)
	return result{Type: kind, Name: name, State: state, Started: &from, Updated: &last}
}

// deviceBody is the answer to the GET. It always holds an action of another
// kind that began just now, which a client must not take for a reset.
func (s *Sim) deviceBody(host string, g guid, list ActionList, actions []action, now time.Time) []byte {
	doc := map[string]any{
		"@odata.context": "https://" + host + "/v1.0/$metadata#deviceManagement/managedDevices(id,deviceActionResults)/$entity",
		"id":             g.String(),
	}
	switch list {
	case ListMissing:
	case ListNull:
		doc["deviceActionResults"] = nil
	default:
		doc["deviceActionResults"] = s.results(list, actions, now)
	}
	return marshal(doc)
}

// listBody is the answer to the GET of all devices: one of them, and where to find
// more.
func listBody(host string) []byte {
	at := "https://" + host + "/v1.0/"
	return marshal(map[string]any{
		"@odata.context":  at + "$metadata#deviceManagement/managedDevices(id)",
		"@odata.nextLink": at + segIntune + "/" + segDevices + "?$top=1&$select=id&$skiptoken=1",
		"value":           []map[string]string{{"id": GoodDevice(1)}},
	})
}

func (s *Sim) results(list ActionList, actions []action, now time.Time) []result {
	out := []result{entry(typeAction, "syncDevice", "done", now)}
	for _, a := range actions {
		if list == ListLate && now.Sub(a.started) < lateness {
			continue
		}
		r := entry(typeReset, segAction, "pending", a.started)
		r.Passcode, r.Code = s.passcode(a.number), new(int)
		out = append(out, r)
	}
	odd := list == ListUnknownName || list == ListStartNull || list == ListStartZero || list == ListStartOdd
	if odd && len(actions) == 0 {
		r := entry(typeReset, segAction, "pending", now)
		r.Passcode, r.Code = s.canary("Passcode"), new(int)
		out = append(out, r)
	}
	code := -2147023728 // 0x80070490, as it was seen
	switch list {
	case ListRenamed:
		r := entry(typeReset, "setDeviceName", "done", now)
		r.Passcode, r.Code = s.canary("Name"), &code
		out = append(out, r)
	case ListOthers:
		lock := entry("#microsoft.graph.remoteLockActionResult", "remoteLock", "pending", now)
		lock.Pin = s.canary("Pin")
		locate := entry("#microsoft.graph.locateDeviceActionResult", "locateDevice", "done", now)
		locate.Location = &location{Latitude: 52.5, Altitude: s.canary("Place")}
		out = append(out, lock, locate, entry("", "windowsDefenderUpdateSignatures", "done", now), entry("", "rebootNow", "active", now),
			entry("#microsoft.graph.windowsDefenderScanActionResult", "windowsDefenderScan", "failed", now))
	case ListSeveral:
		for i, ago := range []time.Duration{time.Hour, 365 * 24 * time.Hour, 24 * time.Hour} {
			r := entry(typeReset, segAction, []string{"failed", "done", "canceled"}[i], now.Add(-ago))
			r.Updated, r.Passcode, r.Code = out[0].Updated, s.canary("Passcode"), &code
			out = slices.Insert(out, i, r)
		}
	case ListUnknownName:
		spoil(out, func(r *result) { r.Name = "renewDevicePin" })
	case ListStartNull:
		spoil(out, func(r *result) { r.Started, r.Updated = nil, nil })
	case ListStartZero:
		spoil(out, func(r *result) { *r.Started, *r.Updated = "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z" })
	case ListStartOdd:
		spoil(out, func(r *result) { *r.Started, *r.Updated = "11/27/2026 09:00:00", "" })
	}
	return out
}

// spoil changes the resets of a list.
func spoil(list []result, change func(*result)) {
	for i := range list {
		if list[i].Name == segAction {
			change(&list[i])
		}
	}
}

// canary is what must not be found anywhere: what a member of an entry holds
// beside the passcodes of executed resets.
func (s *Sim) canary(what string) string {
	return "Sim" + what + "-" + hex.EncodeToString(s.seed[8:16])
}

// canaries are all of them.
func (s *Sim) canaries() []string {
	return []string{s.canary("Passcode"), s.canary("Name"), s.canary("Pin"), s.canary("Place")}
}
