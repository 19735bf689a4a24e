package graph

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Device is what a look at a managed device tells. It has no room for what the
// answer may hold besides: a passcode, a PIN, a location, a name.
type Device struct {
	Answer
	// OS, Owner, Enrollment and Management are operatingSystem,
	// managedDeviceOwnerType, deviceEnrollmentType and managementState as Graph
	// spells them, in one line and cut. Empty where they are missing or no text.
	OS, Owner, Enrollment, Management string
	// LastSync is lastSyncDateTime by Graph's clock; zero where it is missing,
	// unreadable, or one of the instants that stand for none.
	LastSync time.Time
	// List and Ahead are as in [Actions].
	List  []Action
	Ahead time.Duration
}

// Device reads what kind of device it is, whether Intune still manages it, and
// its actions. Graph's answer may hold the new passcode: no part of it but what
// [Device] has room for leaves this function.
//
// Only the read of a single device fills deviceActionResults; a list does not.
// Least permission: DeviceManagementManagedDevices.Read.All.
func (c *Client) Device(ctx context.Context, device string, call Call) (Device, error) {
	return c.look(ctx, device, "id,operatingSystem,managedDeviceOwnerType,deviceEnrollmentType,managementState,lastSyncDateTime,deviceActionResults", call)
}

// look reads some members of a device.
func (c *Client) look(ctx context.Context, device, members string, call Call) (Device, error) {
	u := c.root + "/deviceManagement/managedDevices/" + url.PathEscape(device) + "?$select=" + members
	r, err := c.do(ctx, http.MethodGet, u, call, http.StatusOK, maxDeviceBody)
	if err != nil {
		if e := (*Error)(nil); errors.As(err, &e) {
			e.Message = "" // the one part that could repeat what the device holds
		}
		return Device{}, err
	}
	out, err := readDevice(r.body, device, c.actionNames)
	if err != nil {
		return Device{}, &Error{Kind: Unknown, Status: r.Status, RequestID: r.RequestID, Err: err}
	}
	out.Answer, out.Ahead = r.Answer, r.ahead
	for _, a := range out.List {
		if a.What == ActionUnclear && a.Name != "" {
			c.unknownAction(a.Name)
		}
	}
	return out, nil
}

// readDevice reads a device, each of its members by itself. Its list is nil
// where it is missing or null. names are further names of a reset. The decoder's
// errors may quote the answer: they are not passed on.
func readDevice(body []byte, id string, names []string) (Device, error) {
	var raw struct {
		ID         string            `json:"id"`
		OS         json.RawMessage   `json:"operatingSystem"`
		Owner      json.RawMessage   `json:"managedDeviceOwnerType"`
		Enrollment json.RawMessage   `json:"deviceEnrollmentType"`
		Management json.RawMessage   `json:"managementState"`
		LastSync   json.RawMessage   `json:"lastSyncDateTime"`
		Results    []json.RawMessage `json:"deviceActionResults"`
	}
	if json.Unmarshal(body, &raw) != nil || raw.ID != "" && !strings.EqualFold(raw.ID, id) {
		return Device{}, errNoDevice
	}
	if raw.ID == "" && raw.Results == nil {
		return Device{}, errNoDevice // nothing says that it is one
	}
	out := Device{
		OS: word(raw.OS), Owner: word(raw.Owner), Enrollment: word(raw.Enrollment), Management: word(raw.Management),
		LastSync: instant(raw.LastSync),
	}
	if raw.Results == nil {
		return out, nil
	}
	out.List = make([]Action, 0, len(raw.Results))
	for _, entry := range raw.Results {
		out.List = append(out.List, action(entry, names))
	}
	return out, nil
}

// word reads a short text, in one line and cut; what is no text is empty.
func word(raw json.RawMessage) string {
	s, _ := text(raw)
	return clean(s, maxCode)
}
