// Package tenant works on the requests of one tenant: it gathers facts, has package
// verdict decide, and carries the verdict out. Begin with [Tenant.Handle].
package tenant

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/backlog"
	"passcode-worker/internal/clock"
	"passcode-worker/internal/consume"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/devices"
	"passcode-worker/internal/follow"
	"passcode-worker/internal/gate"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/handover"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/trace"
	"passcode-worker/internal/verdict"
)

// Config is what a tenant works with: the operator's
// settings, and the services that it talks to.
type Config struct {
	Name   string
	Host   string // this worker's name in the records
	Policy verdict.Policy
	// Rate is the tenant's quota; the zero Rate has no limit.
	Rate pace.Rate
	// Fuse holds the tenant when more distinct devices than that would be reset in
	// the window; zero: off.
	Fuse pace.Rate
	// Cooldown is how long after a device was reset another request for it is
	// refused; 0: off.
	Cooldown time.Duration
	// MaxPause caps what a service asks for; 0 means no cap.
	MaxPause time.Duration

	Graph   *graph.Client
	Tokens  *graph.Tokens
	Letters *deadletter.Publisher
	// Stores are the buckets as they were found last.
	Stores func() Stores
	// Exists reports whether a message is still in its stream.
	Exists func(ctx context.Context, stream string, sequence uint64, published time.Time) (bool, error)
	// Announcer publishes the first alarms of accepted requests; nil: nobody is followed.
	Announcer *follow.Announcer
	// FollowAuto follows nothing while the token can be decoded and lacks the right.
	FollowAuto bool

	Metrics *metrics.Tenant
	Tracer  *trace.Tracer // nil: no traces
	// Warn gives a warning, each once in the life of the process.
	Warn func(warning string, fields ...zap.Field)
	Log  *zap.Logger
}

// Stores are the buckets as they were found last.
type Stores struct {
	Records  *record.Store   // nil until it was found
	Handover *handover.Store // nil while it is not found; the work goes on without it
	Devices  *devices.Store  // nil if devices do not cool down, or if it was not found: then no calls are made
}

// Tenant is what the requests of one tenant share.
type Tenant struct {
	// Clock is the clock of the NATS server, and has to be set.
	Clock *clock.Clock
	// Keeper hands on what this replica knows, and has to run.
	Keeper *handover.Keeper
	// Looks is what looks at devices need of the tenant.
	Looks *follow.Tenant

	cfg       Config
	gate      *gate.Gate
	lists     *lister
	claims    claims
	backlog   *backlog.Backlog
	following *following
	// elsewhere is set while another replica works on the tenant, according to the server's
	// last word. queued is how many requests wait; below 0: the server has not said.
	elsewhere atomic.Bool
	queued    atomic.Int64
	// knows is set while this replica has read which calls were made before its last term,
	// or knew that already.
	knows atomic.Bool
}

// New makes a tenant.
func New(cfg Config) *Tenant {
	t := &Tenant{Clock: &clock.Clock{}, cfg: cfg, claims: newClaims(), backlog: backlog.New(cfg.Metrics.SetWaitingRetry)}
	t.queued.Store(-1)
	t.Keeper = handover.NewKeeper(cfg.Name, func() *handover.Store { return cfg.Stores().Handover },
		func() handover.Snapshot { return snapshot(t.gate, t.Clock, cfg.Host) }, cfg.Log)
	t.gate = gate.New(gate.Config{Rate: cfg.Rate, Fuse: cfg.Fuse, MaxPause: cfg.MaxPause, Changed: t.Keeper.Changed, Metrics: cfg.Metrics, Log: cfg.Log})
	t.Looks = &follow.Tenant{
		Name: cfg.Name, Graph: cfg.Graph, Tokens: cfg.Tokens, Ahead: t.Clock.Ahead, Known: t.Clock.Known,
		Paused: t.gate.Pacer.Paused,
		Probed: func() bool { return !t.gate.IsPaused() && t.queued.Load() != 0 },
		Reads:  follow.NewReads(cfg.MaxPause),
	}
	t.lists = &lister{t: t}
	t.following = &following{announcer: cfg.Announcer, auto: cfg.FollowAuto, clock: t.Clock, warn: cfg.Warn}
	return t
}

// Handle works on one message. soft ends when no further call may
// begin, hard when the process must end.
func (t *Tenant) Handle(soft, hard context.Context, m consume.Message) (becomes consume.Disposition) {
	t.cfg.Metrics.InFlight(1)
	defer t.cfg.Metrics.InFlight(-1)
	t.backlog.Back(m.Sequence)

	d := &delivery{t: t, m: m, started: time.Now()}
	defer func() {
		if p := recover(); p != nil {
			becomes = d.panicked(hard, p, debug.Stack())
		}
	}()
	req, invalid := request.Decode(request.Source{Data: m.Data, Header: m.Header, Stream: m.Stream, Sequence: m.Sequence})
	d.of(req)
	if !t.claims.take(d.entry.key) {
		return consume.Nak(otherBusy())
	}
	defer t.claims.drop(d.entry.key)
	return d.run(soft, hard, invalid)
}

// otherBusy is how long a message stays away while another message of its request
// is being worked on: about a second. Copies that were published together arrive together;
// otherBusy spreads them, or all but one would have to be sent away each time.
func otherBusy() time.Duration { return time.Second/2 + rand.N(time.Second) }

// SetActive is told whether this replica is the active one.
func (t *Tenant) SetActive(active bool) {
	if active {
		t.elsewhere.Store(false)
	}
	t.gate.SetActive(active)
}

// SeeQueue is told what the server says about the queue.
func (t *Tenant) SeeQueue(d consume.Depth) {
	t.queued.Store(int64(d.Messages))
	t.gate.SetPaused(d.Paused, d.PausedUntil)
	t.elsewhere.Store(d.Pinned && !t.gate.Active())
}

// pollFuse is how often to ask whether a blown fuse lets requests pass again.
const pollFuse = 2 * time.Second

// Credit tells how many further requests it makes sense to take now; see
// [consume.Config].
func (t *Tenant) Credit() (n int, at time.Time, changed <-chan struct{}) {
	if !t.gate.Fuse.Blown().IsZero() {
		return 0, time.Now().Add(pollFuse), nil
	}
	return t.gate.Pacer.Available()
}

// refreshWait bounds what Refresh reads.
const refreshWait = 5 * time.Second

// Refresh must be called from time to time. It asks whether
// an operator has released the fuse and whether the handed-on
// state is still there, and hands on what has changed.
func (t *Tenant) Refresh(ctx context.Context) {
	patience := backlog.Overdue
	if !t.gate.Active() {
		patience = 0 // to a standby none comes back: when its time is over, the replica that works has it
	}
	t.backlog.Forget(time.Now(), patience)
	pacer := t.gate.Pacer
	t.cfg.Metrics.SetRate(pacer.Limit(), pacer.Rate().PerSecond())
	if !t.gate.Fuse.On() && !t.Keeper.InTerm() && pacer.Paused().IsZero() {
		return // there is nothing to hand on, and nothing to learn
	}
	t.Keeper.Changed()
	ctx, cancel := context.WithTimeout(ctx, refreshWait)
	defer cancel()
	// A pause may have been announced to a call of the replica before this one. A release
	// counts also while the fuse has not blown, because it begins the count anew.
	t.Keeper.Check(ctx, func(s handover.Snapshot) { t.gate.RestorePause(t.Clock.Local(s.PausedUntil)) })
	released, err := t.released(ctx)
	if err != nil {
		t.cfg.Log.Debug("the release of the fuse could not be read; trying again", zap.Error(err))
		return
	}
	t.gate.Release(t.Clock.Local(released))
}

// Drain estimates how long it takes to empty the queue, which shrinks by the given
// number of messages per second; a result below 0 means that there is no estimate.
func (t *Tenant) Drain(messages int, perSecond float64) time.Duration {
	pacer := t.gate.Pacer
	free, _, _ := pacer.Available()
	q := backlog.Queue{Messages: messages, Flow: perSecond, Held: len(t.gate.Causes()) > 0, Standby: !t.gate.Active(),
		Limit: pacer.Limit(), Free: free}
	if until := pacer.Paused(); !until.IsZero() {
		q.Pause = time.Until(until)
	}
	return q.Drain()
}

// State is the tenant's part of /readyz. bound says why its queue is not worked on;
// nil: it is.
func (t *Tenant) State(bound error) metrics.TenantState {
	s := metrics.TenantState{Tenant: t.cfg.Name, Active: t.gate.Active(), ActiveElsewhere: t.elsewhere.Load(), Bound: bound == nil, Holds: t.gate.Causes()}
	if bound != nil {
		s.Error = fmt.Sprint(bound)
	}
	if until := t.gate.Pacer.Paused(); !until.IsZero() {
		s.PausedUntil = &until
	}
	return s
}

// claims is what this process has under way, so that it does not compete with itself.
type claims struct {
	mu sync.Mutex
	// keys are the keys of the records in progress.
	keys map[string]struct{}
	// calls are the calls that are not answered yet, by client-request-id.
	calls map[string]struct{}
}

func newClaims() claims { return claims{keys: map[string]struct{}{}, calls: map[string]struct{}{}} }

// take reserves a request for one message at a time.
func (c *claims) take(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.keys[key]; taken {
		return false
	}
	c.keys[key] = struct{}{}
	return true
}

func (c *claims) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, key)
}

// call notes a call that is under way, until done is called.
func (c *claims) call(clientRequestID string) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[clientRequestID] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, clientRequestID)
	}
}

// withCalls runs a function while no call begins or ends.
func (c *claims) withCalls(do func(calls map[string]struct{})) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do(c.calls)
}
