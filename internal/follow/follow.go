// Package follow looks at the devices of accepted requests until each has a final
// outcome, and stores the outcomes. It shares nothing with the resets: no slot, no
// consumer, no quota. If it cannot work, resets go on.
//
// Alarms tell it when to look: messages in a few shared queues, one queue for each
// length of wait. Nothing about a request is kept in memory. Package outcome makes the
// decisions.
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
	Names topology.Names // Tenant is ignored
	// Setup lets the follower create what is missing, as Layout says.
	Setup  bool
	Layout topology.Layout
	Policy outcome.Policy
	// Auto makes no look while the token can be decoded and lacks the right.
	Auto bool

	// Records and State return the buckets; nil if they were not found.
	Records func() *record.Store
	State   func() *handover.Store
	// Tenant returns a tenant that this process serves; nil if it does not serve it.
	Tenant func(name string) *Tenant

	// Observe is told what happens, from many goroutines.
	Observe Observer
	// Warn logs a warning, each only once in the life of the process.
	Warn func(warning string, fields ...zap.Field)
	Log  *zap.Logger
}

// Observer is told what happens. Each function is set.
type Observer struct {
	// Look is told the result of a look.
	Look func(result outcome.Result)
	// Outcome is told of a final outcome.
	Outcome func(d outcome.Document)
	// Lost is told of a request that is not, or no longer, followed.
	Lost func(tenant string)
	// Stray is told of a message that is not an alarm, or of an alarm whose tenant is not served.
	Stray func()
	// Depth is told every few seconds how much is open.
	Depth func(d Depth)
}

// Depth is how much is open.
type Depth struct {
	Open int // alarms that are stored, one for each open request
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
	// reports whether that is known yet: until then, nothing is due.
	Ahead func() time.Duration
	Known func() bool
	// Paused is until when Graph has asked this replica's resets to wait; zero if it has not.
	Paused func() time.Time
	// Probed reports whether requests can probe a hold of the tenant: some wait, and no
	// operator has paused them.
	Probed func() bool
	// Reads paces the looks; see [NewReads].
	Reads *pace.Pacer

	lane     lane
	standing standing
}

// Quota of looks: a fifth of the calls that Graph grants an application in a tenant.
// Source: Microsoft Graph throttling limits, Intune service limits.
const (
	looks       = 400
	looksWindow = 20 * time.Second
)

// NewReads makes the pacer of a tenant's looks.
func NewReads(maxPause time.Duration) *pace.Pacer {
	return pace.New(pace.Rate{N: looks, W: looksWindow}, maxPause)
}

// now is the time by the NATS server's clock.
func (t *Tenant) now() time.Time { return time.Now().Add(t.Ahead()) }

// Times of the work with NATS.
const (
	// writeWait bounds one write. A failed write loses nothing: the alarm comes again,
	// and with it another look.
	writeWait = 10 * time.Second
	// againWait is how long an alarm that could not be handled stays away.
	againWait = 15 * time.Second
	// bindWait is the wait between two tries to bind to the stream.
	bindWait = 5 * time.Second
	// stepWait is the wait between two tries to take the alarms of a step.
	stepWait = time.Second
	// depthEach is how often the depth is read.
	depthEach = 10 * time.Second
	// lookTime bounds one look. Graph answers within a second, and a tenant whose looks
	// hang must not fill the queues that all share.
	lookTime = 10 * time.Second
)

// Follower looks at devices.
type Follower struct{ cfg Config }

// New makes a follower.
func New(cfg Config) *Follower { return &Follower{cfg: cfg} }

// Run works until ctx ends. It then cuts short the looks under way, whose alarms come
// again. What was seen is still stored, until hard ends.
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

// bind looks up what following needs, and creates it if it is missing and Setup is set.
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

// open looks up the bucket of outcomes and the stream of alarms, and fails if one is
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
