package main

import (
	"context"
	"time"

	"passcode-worker/internal/topology"
)

type pauseCmd struct {
	For   string `placeholder:"TIME" help:"How long to pause, like 30m or 2h. Without --for and --until the pause lasts until worker resume."`
	Until string `placeholder:"INSTANT" help:"When the pause ends, like 2026-01-31T15:04:05Z."`

	toolOptions `embed:""`
}

// Help is shown by worker pause --help.
func (pauseCmd) Help() string {
	return "Pauses the tenant's consumer in JetStream, so that no replica takes a further request of the tenant. " +
		"Requests that are being worked on are finished. JetStream still accepts new requests, and requests may expire while they wait. worker resume ends the pause."
}

// pauseState is what pause and resume print as JSON.
type pauseState struct {
	Tenant string `json:"tenant"`
	Paused bool   `json:"paused"`
	// PausedUntil is absent if the pause has no end.
	PausedUntil *time.Time `json:"pausedUntil,omitempty"`
	// FuseReleased reports whether the fuse had blown and is now released.
	FuseReleased bool `json:"fuseReleased,omitzero"`
}

// Run pauses the tenant.
func (c pauseCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	var length time.Duration
	if c.For != "" {
		length = r.duration("--for", c.For, time.Second)
	}
	until := topology.Forever()
	if c.Until != "" {
		var err error
		if until, err = time.Parse(time.RFC3339Nano, c.Until); err != nil {
			r.fail("--until", "%q is not a time like 2026-01-31T15:04:05Z", c.Until)
		}
	}
	if c.For != "" && c.Until != "" {
		r.fail("--for, --until", "give one of them")
	}
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		if length > 0 {
			now, err := t.Now(ctx)
			if err != nil {
				return err
			}
			until = now.Add(length).UTC().Truncate(time.Second)
		}
		if err := t.Pause(ctx, until); err != nil {
			return err
		}
		state, text := pauseState{Tenant: t.tenant, Paused: true}, "until resumed"
		if until != topology.Forever() {
			state.PausedUntil, text = &until, "until "+instant(until)
		}
		if t.json {
			t.object(state)
		} else {
			t.line("tenant %s is paused %s", t.tenant, text)
		}
		return nil
	})
}

type resumeCmd struct {
	toolOptions `embed:""`
}

// Help is shown by worker resume --help.
func (resumeCmd) Help() string {
	return "Ends a pause of the tenant for all replicas, and releases a blown fuse. Before you release a fuse, look at which resets were requested."
}

// Run resumes the tenant.
func (c resumeCmd) Run(ctx context.Context, s streams) error {
	return c.run(ctx, s, &reader{}, func(ctx context.Context, t *tool) error {
		if err := t.Resume(ctx); err != nil {
			return err
		}
		blown, err := t.Release(ctx)
		if err != nil {
			t.tell("tenant %s is no longer paused", t.tenant)
			return err
		}
		switch {
		case t.json:
			t.object(pauseState{Tenant: t.tenant, FuseReleased: blown})
		case blown:
			t.line("tenant %s is resumed, and its fuse is released", t.tenant)
		default:
			t.line("tenant %s is resumed", t.tenant)
		}
		return nil
	})
}
