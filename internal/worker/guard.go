package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/devices"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// errNoDevices means that devices cool down, and nobody can tell which.
var errNoDevices = errors.New("the bucket of devices that cool down cannot be used, so nothing is called")

// guard lets a call through that is about to be made, unless another request has
// the device, or the fuse blows. If ok is false, becomes is what becomes of the
// message, or err says that the delivery has to be looked at again.
func (d *delivery) guard(ctx context.Context, now time.Time) (becomes consume.Disposition, ok bool, err error) {
	if d.t.cooldown > 0 {
		if becomes, ok, err = d.claimDevice(ctx, now); !ok {
			return becomes, false, err
		}
	}
	ok, blew := d.t.fuse.Admit(d.req.DeviceID, now)
	if blew {
		d.t.fuseBlew()
	}
	if !ok {
		if d.base().UnknownFrom().IsZero() { // else an earlier call may have reset it
			d.dropDevice(ctx)
		}
		return d.nak(now.Add(fuseWait), false), false, nil
	}
	return becomes, true, nil
}

// claimDevice claims the device for this request, for as long as the call and the
// cooldown after it may last. A further attempt claims it once more.
func (d *delivery) claimDevice(ctx context.Context, now time.Time) (becomes consume.Disposition, ok bool, err error) {
	store := d.t.stores().devices
	if store == nil {
		return becomes, false, errNoDevices
	}
	there, err := store.Get(ctx, d.t.name, d.req.DeviceID)
	if err != nil {
		return becomes, false, err
	}
	known := verdict.Device{ID: d.req.DeviceID, Claimed: there.Until.After(time.Time{}) && there.Request != d.key,
		Message: there.Message, Until: d.t.clock.local(there.Until), Cooldown: d.t.cooldown, Now: now}
	if known.Claimed && there.Request != "" {
		holder, _, err := d.store.Get(ctx, there.Request)
		if err != nil && !errors.Is(err, record.ErrGarbled) {
			return becomes, false, err
		}
		known.Holder = d.t.clock.read(holder)
	}
	step, at := verdict.OfDevice(known)
	if step != verdict.DeviceWait {
		d.t.unpark(d.m.Sequence)
	}
	switch step {
	case verdict.DeviceCools:
		becomes, err = d.bury(ctx, verdict.ReasonCooldown, fmt.Sprintf("another request has reset the device %s ago, less than %s",
			now.Sub(at).Round(time.Second), d.t.cooldown))
		return becomes, false, err
	case verdict.DeviceWait:
		// Those that wait must not take all the places from others.
		if waits, _ := d.t.park(d.m.Sequence, at, now); !waits {
			becomes, err = d.bury(ctx, verdict.ReasonCooldown, "too many requests wait for devices that another request may be resetting")
			return becomes, false, err
		}
		return d.nak(at, false), false, nil
	case verdict.DeviceFree:
	}
	until := d.t.clock.remote(now.Add(d.t.policy.RequestTimeout + d.t.cooldown))
	d.claim, err = store.Take(ctx, d.t.name, d.req.DeviceID, devices.Claim{Request: d.key, Message: d.m.Sequence, Until: until}, there)
	if errors.Is(err, devices.ErrTaken) {
		return becomes, false, errAgain
	}
	return becomes, err == nil, err
}

// dropDevice gives the device back of a request that has ended without a reset, or
// whose call is not made now. A claim that stays all the same lapses by itself.
func (d *delivery) dropDevice(ctx context.Context) {
	store := d.t.stores().devices
	if d.t.cooldown == 0 || store == nil || d.req.DeviceID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dropWait)
	defer cancel()
	var err error
	if d.claim.Revision == 0 { // it may have been claimed by an earlier delivery
		if d.claim, err = store.Get(ctx, d.t.name, d.req.DeviceID); err == nil && (d.claim.Request != d.key || d.claim.Message != d.m.Sequence) {
			return
		}
	}
	if err == nil {
		err = store.Drop(ctx, d.t.name, d.req.DeviceID, d.claim)
	}
	if err != nil {
		d.t.log.Debug("the claim on the device stays until it lapses", zap.String("device", d.req.DeviceID), zap.Error(err))
	}
}

// dropWait bounds the giving back of a device.
const dropWait = 2 * time.Second
