package tenant

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/devices"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

const (
	// fuseWait is how long a request stays away after a blown fuse has sent it back.
	fuseWait = 10 * time.Second
	// dropWait bounds the removal of a claim.
	dropWait = 2 * time.Second
)

// errNoDevices means that devices cool down, but it is not known which.
var errNoDevices = errors.New("the bucket of devices that cool down cannot be used, so nothing is called")

// deviceClaim is the claim of a request on its device, where devices cool down.
type deviceClaim struct {
	cfg   *Config
	entry *entry
	// written is the claim as this delivery has written it; zero: it has not.
	written devices.Claim
}

// take claims the device for the request, for as long as the call and the cooldown
// after it may last. A further attempt claims it again. If the step is not [verdict.DeviceFree],
// another request has the device; see [verdict.OfDevice].
func (c *deviceClaim) take(ctx context.Context, now time.Time) (step verdict.DeviceStep, at time.Time, err error) {
	if c.cfg.Cooldown == 0 {
		return verdict.DeviceFree, at, nil
	}
	store, id, own, e := c.cfg.Stores().Devices, c.entry.own.ManagedDeviceID, c.entry.own.Sequence, c.entry
	if store == nil {
		return 0, at, errNoDevices
	}
	there, err := store.Get(ctx, c.cfg.Name, id)
	if err != nil {
		return 0, at, err
	}
	known := verdict.Device{ID: id, Claimed: there.Until.After(time.Time{}) && there.Request != e.key,
		Message: there.Message, Until: e.clock.Local(there.Until), Cooldown: c.cfg.Cooldown, Now: now}
	if known.Claimed && there.Request != "" {
		holder, _, err := e.store.Get(ctx, there.Request)
		if err != nil && !errors.Is(err, record.ErrGarbled) {
			return 0, at, err
		}
		known.Holder = holder.Shifted(-e.clock.Ahead())
	}
	if step, at = verdict.OfDevice(known); step != verdict.DeviceFree {
		return step, at, nil
	}
	until := e.clock.Remote(now.Add(c.cfg.Policy.RequestTimeout + c.cfg.Cooldown))
	c.written, err = store.Take(ctx, c.cfg.Name, id, devices.Claim{Request: e.key, Message: own, Until: until}, there)
	if errors.Is(err, devices.ErrTaken) {
		err = errAgain
	}
	return step, at, err
}

// drop removes the claim of a request that has ended without a reset, or
// whose call is not made now. A claim that cannot be removed lapses by itself.
func (c *deviceClaim) drop(ctx context.Context) {
	store, id := c.cfg.Stores().Devices, c.entry.own.ManagedDeviceID
	if c.cfg.Cooldown == 0 || store == nil || id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dropWait)
	defer cancel()
	var err error
	if c.written.Revision == 0 { // it may have been claimed by an earlier delivery
		if c.written, err = store.Get(ctx, c.cfg.Name, id); err == nil && (c.written.Request != c.entry.key || c.written.Message != c.entry.own.Sequence) {
			return
		}
	}
	if err == nil {
		err = store.Drop(ctx, c.cfg.Name, id, c.written)
	}
	if err != nil {
		c.cfg.Log.Debug("the claim on the device could not be removed; it stays until it lapses", zap.String("device", id), zap.Error(err))
	}
}
