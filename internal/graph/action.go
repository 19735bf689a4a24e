package graph

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Action is an entry of a device's deviceActionResults. It has no room for what
// such an entry may hold besides: a passcode, an unlock PIN, a location, a name.
type Action struct {
	What What
	// Name and State are actionName and actionState as Graph spells them, in
	// one line and cut. Empty where they are missing or no text.
	Name, State string
	// Started and Updated are startDateTime and lastUpdatedDateTime by Graph's
	// clock; zero where they are missing, unreadable, or one of the instants
	// that stand for none (the years 1 and 9999). Graph cuts Updated to whole
	// seconds, so that it may lie before Started.
	Started, Updated time.Time
	// ErrorCode is errorCode, often a negative HRESULT; 0 where it is missing
	// or no 32-bit number.
	ErrorCode int32
	// Type is the last part of @odata.type, in one line and cut; empty where it is missing,
	// as it is for the base type.
	Type string
}

// What reports whether an action is a reset of the passcode.
type What int

const (
	// ActionUnclear may be a reset: it does not say what it is, or it has the
	// type of a reset and a name that nobody knows.
	ActionUnclear What = iota
	// ActionReset is a reset.
	ActionReset
	// ActionOther is something else.
	ActionOther
)

// action reads an entry, each of its members by itself: what is odd about one
// of them says nothing of the others.
func action(entry json.RawMessage, names []string) Action {
	var raw struct {
		Type    json.RawMessage `json:"@odata.type"`
		Name    json.RawMessage `json:"actionName"`
		State   json.RawMessage `json:"actionState"`
		Started json.RawMessage `json:"startDateTime"`
		Updated json.RawMessage `json:"lastUpdatedDateTime"`
		Code    json.RawMessage `json:"errorCode"`
	}
	if json.Unmarshal(entry, &raw) != nil {
		return Action{} // unclear
	}
	var a Action
	kind, kindOK := text(raw.Type)
	name, nameOK := text(raw.Name)
	a.Name = clean(name, maxCode)
	a.Type = clean(kind[strings.LastIndexByte(kind, '.')+1:], maxCode)
	a.What = what(kind, a.Name, names)
	if !nameOK && a.What == ActionReset || !kindOK && a.What == ActionOther && !known(a.Name) {
		a.What = ActionUnclear // what cannot be read might have said otherwise
	}
	a.State = word(raw.State)
	a.Started, a.Updated = instant(raw.Started), instant(raw.Updated)
	if json.Unmarshal(raw.Code, &a.ErrorCode) != nil {
		a.ErrorCode = 0
	}
	return a
}

// resetType is the last part of the @odata.type of a reset. Intune gives it to
// other actions that have an error code, too, such as a rename.
const resetType = "resetPasscodeActionResult"

// what tells an action by its name or, where it has none, by its type. Graph
// leaves the type out where it is the base type of all actions, and the name of
// an entry is not always that of Graph's action: it does not document them.
func what(kind, name string, names []string) What {
	kind = kind[strings.LastIndexByte(kind, '.')+1:]
	isReset := strings.EqualFold(kind, resetType)
	same := func(s string) bool { return strings.EqualFold(s, name) }
	switch {
	case name == "" && isReset:
		return ActionReset
	case name == "" && (kind == "" || strings.EqualFold(kind, "deviceActionResult")):
		return ActionUnclear
	case name == "":
		return ActionOther
	case slices.ContainsFunc(resetNames(), same) || slices.ContainsFunc(names, same):
		return ActionReset
	case isReset && !known(name):
		return ActionUnclear
	}
	return ActionOther
}

// resetNames are the names that a reset has, or may have: that of Graph's
// action, those of Intune's portal, and near ones.
func resetNames() []string {
	return []string{"resetPasscode", "resetDevicePasscode", "removePasscode", "removeDevicePasscode", "clearPasscode"}
}

// known reports whether a name is that of an action that is no reset. Sources:
// the actions of managedDevice in Graph's v1.0 and beta, its enumerations
// remoteAction and managedDeviceRemoteAction, and names seen in lists of devices.
func known(name string) bool {
	switch strings.ToLower(name) {
	case "activatedeviceesim", "automaticredeployment", "bypassactivationlock", "changeassignments", "cleanwindowsdevice",
		"collectdiagnostics", "collectlogs", "createdevicelogcollectionrequest", "createremotehelpsession", "customtextnotification",
		"delete", "deleteuserfromsharedappledevice", "deprovision", "disable", "disablelostmode", "downloadappdiagnostics",
		"enablelostmode", "enrollnowaction", "factoryreset", "fullscan", "initiatedeviceattestation",
		"initiatemobiledevicemanagementkeyrecovery", "initiateondemandproactiveremediation", "locatedevice",
		"logoutsharedappledeviceactiveuser", "movedevicestoou", "movedevicetoorganizationalunit", "overridecompliancestate",
		"pauseconfigurationrefresh", "playlostmodesound", "quickscan", "rebootnow", "recoverpasscode", "reenable", "remotelock",
		"removecompanydata", "removedevicefirmwareconfigurationinterfacemanagement", "requestremoteassistance", "retire",
		"revokeapplevpplicenses", "rotatebitlockerkeys", "rotatefilevaultkey", "rotatelocaladminpassword", "rotaterecoverylockpasscode",
		"sendcustomnotificationtocompanyportal", "setdevicename", "shutdown", "signatureupdate", "syncdevice",
		"triggerconfigurationmanageraction", "updatedeviceaccount", "updatewindowsdeviceaccount", "windowsdefenderscan",
		"windowsdefenderupdatesignatures", "wipe":
		return true
	}
	return false
}

// text reads a text, empty for null or nothing; ok is false where it is something else.
func text(raw json.RawMessage) (s string, ok bool) {
	if raw == nil {
		return "", true
	}
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// instant reads a date; zero where it is none, or stands for none.
func instant(raw json.RawMessage) time.Time {
	var t time.Time
	if json.Unmarshal(raw, &t) != nil {
		return time.Time{}
	}
	if year := t.UTC().Year(); year <= 1 || year >= 9999 {
		return time.Time{}
	}
	return t
}

// ActionNames reads a list of further names of a reset, separated by commas,
// for [Config.ActionNames]. An empty list is none.
func ActionNames(list string) ([]string, error) {
	var out []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "" && strings.TrimSpace(list) == "":
			return nil, nil
		case name == "":
			return nil, fmt.Errorf("%q holds an empty name: separate the names by commas", list)
		case clean(name, maxCode) != name:
			return nil, fmt.Errorf("%q is not the name of an action: it has at most %d plain characters", name, maxCode)
		case known(name):
			return nil, fmt.Errorf("%q is the name of an action that is not a reset", name)
		}
		out = append(out, name)
	}
	return out, nil
}
