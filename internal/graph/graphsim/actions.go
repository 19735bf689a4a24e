package graphsim

import (
	"encoding/hex"
	"slices"
	"strings"
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
	return s.storyOf(g, s.devices[g]).list
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

// deviceBody is the answer to the GET.
func (s *Sim) deviceBody(host string, l look, m members, now time.Time) []byte {
	var selected []string
	doc := map[string]any{}
	for i, name := range memberNames() {
		if m&(1<<i) == 0 {
			continue
		}
		selected = append(selected, name)
		if v, ok := s.member(l, 1<<i, now); ok {
			doc[name] = v
		}
	}
	doc["@odata.context"] = "https://" + host + "/v1.0/$metadata#deviceManagement/managedDevices(" + strings.Join(selected, ",") + ")/$entity"
	return marshal(doc)
}

// member is the value of a member; ok is false where it is left out.
func (s *Sim) member(l look, m members, now time.Time) (v any, ok bool) {
	switch m {
	case memberID:
		return l.device.String(), true
	case memberOS:
		return l.story.os(), true
	case memberOwner:
		return l.story.ownedBy(), true
	case memberEnrollment:
		return l.story.enrolled(), true
	case memberManagement:
		if !l.begun() {
			return "managed", true
		}
		return l.story.management(l.age), true
	case memberLastSync:
		return l.lastSync(s.born).UTC().Format(time.RFC3339), true
	case memberName:
		return s.canary("Name", l.device), true
	}
	switch l.list {
	case ListMissing:
		return nil, false
	case ListNull:
		return nil, true
	}
	return s.results(l, now), true
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

// results is the list. It always holds an action of another kind that began just
// now, which a client must not take for a reset, and at the end a few that began
// before any reset, with what nobody may see.
func (s *Sim) results(l look, now time.Time) []result {
	out := []result{entry(typeAction, "syncDevice", "done", now)}
	for _, p := range l.resets() {
		if l.shows(p, now) {
			out = append(out, s.resetEntry(l, p))
		}
	}
	if l.story.renamed {
		for _, a := range l.actions {
			out = append(out, s.renameEntry(l.device, a.started))
		}
	}
	return append(s.oddities(l, out, now), s.olderEntries(l.device)...)
}

func (s *Sim) resetEntry(l look, p played) result {
	r := entry(typeReset, segAction, p.word, p.started)
	*r.Updated = p.updated.UTC().Format(time.RFC3339)
	r.Code = &p.code
	if r.Passcode = s.canary("Passcode", l.device); !p.foreign {
		r.Passcode = s.passcode(p.number)
	}
	return r
}

// renameEntry is a rename as it was seen: with the type of a reset, and the new
// name where the passcode would be.
func (s *Sim) renameEntry(g guid, started time.Time) result {
	code := FailureCode
	r := entry(typeReset, "setDeviceName", "done", started)
	r.Passcode, r.Code = s.canary("Name", g), &code
	return r
}

func (s *Sim) lockEntry(g guid, state string, started time.Time) result {
	r := entry("#microsoft.graph.remoteLockActionResult", "remoteLock", state, started)
	r.Pin = s.canary("Pin", g)
	return r
}

func (s *Sim) locateEntry(g guid, started time.Time) result {
	r := entry("#microsoft.graph.locateDeviceActionResult", "locateDevice", "done", started)
	r.Location = &location{Latitude: 52.5, Altitude: s.canary("Place", g)}
	return r
}

// olderEntries began before the simulator did, and so before any reset.
func (s *Sim) olderEntries(g guid) []result {
	before := func(d time.Duration) time.Time { return s.born.Add(-d) }
	return []result{s.renameEntry(g, before(72*time.Hour)), s.lockEntry(g, "done", before(48*time.Hour)), s.locateEntry(g, before(24*time.Hour))}
}

// oddities gives a list the look that it shall have.
func (s *Sim) oddities(l look, out []result, now time.Time) []result {
	list, g := l.list, l.device
	odd := list == ListUnknownName || list == ListStartNull || list == ListStartZero || list == ListStartOdd
	if odd && !l.begun() {
		r := entry(typeReset, segAction, "pending", now)
		r.Passcode, r.Code = s.canary("Passcode", g), new(int)
		out = append(out, r)
	}
	switch list {
	case ListRenamed:
		out = append(out, s.renameEntry(g, now))
	case ListOthers:
		out = append(out, s.lockEntry(g, "pending", now), s.locateEntry(g, now),
			entry("", "windowsDefenderUpdateSignatures", "done", now), entry("", "rebootNow", "active", now),
			entry("#microsoft.graph.windowsDefenderScanActionResult", "windowsDefenderScan", "failed", now))
	case ListSeveral:
		code := FailureCode
		for i, ago := range []time.Duration{time.Hour, 365 * 24 * time.Hour, 24 * time.Hour} {
			r := entry(typeReset, segAction, []string{"failed", "done", "canceled"}[i], now.Add(-ago))
			r.Updated, r.Passcode, r.Code = out[0].Updated, s.canary("Passcode", g), &code
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

// canary is what must not be found anywhere: what a device holds beside the
// passcodes of executed resets. It begins alike for all devices.
func (s *Sim) canary(what string, g guid) string {
	return s.canaryStem(what) + "-" + hex.EncodeToString(g[10:])
}

func (s *Sim) canaryStem(what string) string {
	return "Sim" + what + "-" + hex.EncodeToString(s.seed[8:16])
}

// canaries are the beginnings of all of them.
func (s *Sim) canaries() []string {
	return []string{s.canaryStem("Passcode"), s.canaryStem("Name"), s.canaryStem("Pin"), s.canaryStem("Place")}
}
