package verdict

import (
	"slices"
	"strings"
	"time"

	"passcode-worker/internal/record"
)

// Device is what is known of the device that a request is for, where devices cool
// down after a reset. All instants are by one clock.
type Device struct {
	ID string
	// Claimed: another request has claimed the device, for its message of the
	// sequence Message, until Until. The sequence is 0 where what counts as a claim
	// is nobody's.
	Claimed bool
	Message uint64
	Until   time.Time
	// Holder is the record of that request; without a state it cannot be told.
	Holder record.Record
	// Cooldown is how long after a reset another request is refused.
	Cooldown time.Duration
	Now      time.Time
}

// DeviceStep is what comes next for a request for a device that may be another's.
type DeviceStep int

const (
	// DeviceFree means that the request may claim the device.
	DeviceFree DeviceStep = iota + 1
	// DeviceWait means that another request is resetting it, or may be.
	DeviceWait
	// DeviceCools means that another request has reset it lately.
	DeviceCools
)

// deviceWait is how long a request waits for another one for its device.
const (
	deviceWaitMin = time.Second
	deviceWaitMax = 30 * time.Second
)

// OfDevice decides whether a request may claim its device. at is until when it
// waits, or when the other one has reset it.
func OfDevice(d Device) (step DeviceStep, at time.Time) {
	h := d.Holder
	switch {
	case !d.Claimed || !d.Now.Before(d.Until):
		return DeviceFree, time.Time{}
	case h.State == record.Accepted && strings.EqualFold(h.ManagedDeviceID, d.ID) && d.Now.Sub(h.FinishedAt) < d.Cooldown:
		return DeviceCools, h.FinishedAt
	case h.State == record.Accepted: // no message of the request calls any more
		return DeviceFree, time.Time{}
	case h.State == record.Dead && h.UnknownFrom().IsZero() && slices.Contains(h.Ended, d.Message):
		return DeviceFree, time.Time{} // else a later message has claimed it, and is about to call
	}
	wait := min(max(h.NextAt.Sub(d.Now), deviceWaitMin), deviceWaitMax)
	if d.Message == 0 {
		wait = deviceWaitMax // nothing but time ends what nobody has claimed
	}
	if until := d.Now.Add(wait); until.Before(d.Until) {
		return DeviceWait, until
	}
	return DeviceWait, d.Until
}
