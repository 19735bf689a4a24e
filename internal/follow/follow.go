// Package follow looks at the devices of accepted requests
// until each has a final outcome, and writes the outcomes down. It shares nothing with the requests: no
// slot, no consumer, no quota. If it cannot work, resets go on.
//
// Its clock are alarms, messages of a few shared queues, one for each wait. Nothing
// about a request is kept in memory. What it decides is in package outcome.
package follow

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/handover"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// Config is what a [Follower] works with.
type Config struct {
	JS    jetstream.JetStream
	Names topology.Names // their Tenant is not looked at
	// Setup makes what is missing, as Layout says.
	Setup  bool
	Layout topology.Layout
	Policy outcome.Policy
	// Auto makes no look while the token can be decoded and lacks the right.
	Auto bool

	// Records and State are the buckets as they were found last; nil: not found.
	Records func() *record.Store
	State   func() *handover.Store
	// Tenant returns a tenant that this process serves; nil if it does not serve it.
	Tenant func(name string) *Tenant

	// Observe is told what happens; all of it is called from many goroutines.
	Observe Observer
	// Warn gives a warning, each once in the life of the process.
	Warn func(warning string, fields ...zap.Field)
	Log  *zap.Logger
}

// Observer is told what happens. Each function is set.
type Observer struct {
	// Look is told the result of a look.
	Look func(result outcome.Result)
	// Outcome is told of a final outcome, and how long after the acceptance it was found.
	Outcome func(d outcome.Document)
	// Lost is told of a request that is not, or no longer, followed.
	Lost func(tenant string)
	// Stray is told of a message that is not an alarm, or of an alarm whose tenant is not served.
	Stray func()
	// Depth is told from time to time how much is open.
	Depth func(d Depth)
}

// Depth is how much is open.
type Depth struct {
	Open int
	// Oldest is the age of the oldest request among those that are next in their queues.
	Oldest time.Duration
	// Lag is how late the most overdue look is.
	Lag time.Duration
}

// Tenant is what a look needs of a tenant. Its functions are safe for concurrent use.
type Tenant struct {
	Name   string
	Graph  *graph.Client
	Tokens *graph.Tokens
	// Ahead is how far the NATS server's clock is ahead of this machine's, and Known
	// reports whether that was found out yet: before, nothing is due.
	Ahead func() time.Duration
	Known func() bool
	// Paused is until when Graph has asked this replica's resets to wait; zero if it has not.
	Paused func() time.Time
	// Probed reports whether there are requests that probe a hold
	// of the tenant: some wait, and no operator has paused them.
	Probed func() bool
	// Reads paces the looks; see [NewReads].
	Reads *pace.Pacer

	lane     lane
	standing standing
}

// Quota of looks: a fifth of what Graph grants an application to read in a tenant.
// Source: Microsoft Graph throttling limits, Intune service limits.
const (
	looks       = 400
	looksWindow = 20 * time.Second
)

// NewReads makes the pacer of a tenant's looks.
func NewReads(maxPause time.Duration) *pace.Pacer {
	return pace.New(pace.Rate{N: looks, W: looksWindow}, maxPause)
}

// now is the present instant by the NATS server's clock.
func (t *Tenant) now() time.Time { return time.Now().Add(t.Ahead()) }

// Times of the work with NATS.
const (
	// writeWait bounds one write. A write that fails loses
	// nothing that a look has seen: the alarm comes again.
	writeWait = 10 * time.Second
	// againWait is how long an alarm that could not be handled stays away.
	againWait = 15 * time.Second
	// bindWait is the wait between two tries to bind to the stream.
	bindWait = 5 * time.Second
	// stepWait is the wait between two tries to take the alarms of a step.
	stepWait = time.Second
	// depthEach is how often the depth is read.
	depthEach = 10 * time.Second
	// lookTime bounds one look. Graph answers within a second; a tenant whose looks hang
	// must not fill the queue of others.
	lookTime = 10 * time.Second
)

// Follower looks at devices.
type Follower struct{ cfg Config }

// New makes a follower.
func New(cfg Config) *Follower { return &Follower{cfg: cfg} }

// Run works until ctx ends. A look under way is cut short then: its alarm comes again.
// What was seen is still written down, until hard ends.
func (f *Follower) Run(ctx, hard context.Context) {
	for ctx.Err() == nil {
		if store, err := f.bind(ctx); err == nil {
			f.work(ctx, hard, store)
		} else if ctx.Err() == nil {
			f.cannot(err)
		}
		pause(ctx, bindWait)
	}
}

// cannot logs once why accepted requests are not followed.
func (f *Follower) cannot(err error) {
	f.cfg.Warn(fmt.Sprintf("accepted requests are not followed at present, so it stays unknown what their devices did; resets "+
		"go on; worker setup creates what is missing, and worker outcome follow --since closes the gap: %v", err))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// bind looks up what following needs, and makes it where that is allowed.
func (f *Follower) bind(ctx context.Context) (*outcome.Store, error) {
	c := f.cfg
	store, _, err := f.open(ctx)
	if err == nil || !c.Setup || ctx.Err() != nil {
		return store, err
	}
	if _, err := topology.SetupFollow(ctx, c.JS, c.Names, c.Layout); err != nil {
		return nil, err
	}
	store, _, err = f.open(ctx)
	return store, err
}

// open looks up the bucket of outcomes and the stream of alarms, and fails where one is
// missing.
func (f *Follower) open(ctx context.Context) (*outcome.Store, jetstream.Stream, error) {
	store, err := outcome.Open(ctx, f.cfg.JS, f.cfg.Names.OutcomeBucket())
	if err != nil {
		return nil, nil, err
	}
	alarms, err := f.cfg.JS.Stream(ctx, f.cfg.Names.FollowStream)
	if err != nil {
		return nil, nil, fmt.Errorf("stream %s: %w", f.cfg.Names.FollowStream, err)
	}
	return store, alarms, nil
}
