package worker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/guard"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/state"
	"passcode-worker/internal/trace"
	"passcode-worker/internal/verdict"
)

// tenant is what the requests of one tenant share.
type tenant struct {
	name    string
	host    string // this worker's name in the records
	policy  verdict.Policy
	clock   *clock
	log     *zap.Logger
	metrics *metrics.Tenant
	tracer  *trace.Tracer // nil: no traces

	letters *deadletter.Publisher
	graph   *graph.Client
	tokens  *graph.Tokens
	pacer   *pace.Pacer
	// maxPause caps what a service asks for; 0 means no cap.
	maxPause time.Duration
	hold     *hold.Hold
	lists    lister
	fuse     *guard.Fuse
	// following says which accepted requests are followed.
	following following
	// queued is how many requests wait, as far as the server told last; below 0: it has not.
	queued atomic.Int64
	// cooldown is how long after a device was reset another request for it is
	// refused; 0: off.
	cooldown time.Duration
	// stores are the buckets as they were found last.
	stores func() stores
	// active is set while this replica is the one that works on the tenant.
	active atomic.Bool
	// term is closed when the term ends in which this replica learned what was
	// before it: only while it is open has it something to hand on. nil: it has
	// learned nothing yet.
	term atomic.Pointer[<-chan struct{}]
	// elsewhere is set while another one is, as far as the server told last.
	elsewhere atomic.Bool
	// news makes handOn look.
	news chan struct{}
	// exists reports whether a message is still on its stream.
	exists func(ctx context.Context, stream string, sequence uint64, published time.Time) (bool, error)

	handing  sync.Mutex
	handedOn state.Worker // what is written down; guarded by handing
	// handedOnAt is the revision at which this replica wrote it in this term; 0: it
	// has not. Guarded by handing.
	handedOnAt uint64
	// unsettled tells that the last write of it failed; guarded by handing.
	unsettled bool

	mu sync.Mutex
	// operator tells that an operator has paused the queue, and operatorUntil
	// until when; zero: until it is resumed.
	operator      bool
	operatorUntil time.Time
	// busy are the keys that are worked on in this process.
	busy map[string]struct{}
	// underWay are the calls of this process that are not answered yet, by
	// client-request-id.
	underWay map[string]struct{}
	// waiting are the messages that will be tried again, and when.
	waiting map[uint64]time.Time
	// parked are those of them that wait for what may never come: the repair of a
	// garbled record, or a device that another request may be resetting.
	parked map[uint64]time.Time
}

// claim reserves a request for one message at a time, so that a process is not
// a competitor to itself.
func (t *tenant) claim(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.busy[key]; taken {
		return false
	}
	t.busy[key] = struct{}{}
	return true
}

func (t *tenant) unclaim(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, key)
}

// called notes a call that is under way, until done is called.
func (t *tenant) called(clientRequestID string) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.underWay[clientRequestID] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.underWay, clientRequestID)
	}
}

// setActive is told whether this replica is the one that works.
func (t *tenant) setActive(active bool) {
	t.active.Store(active)
	if active {
		t.elsewhere.Store(false)
	}
	t.metrics.SetActive(active)
	if !active {
		t.hold.Reset()
		t.showHold()
		t.log.Info("standing by: another replica works on the tenant, or may")
		return
	}
	t.log.Info("working on the tenant")
}

// probed reports whether somebody probes a hold: requests wait, or may, and no operator
// has paused them.
func (t *tenant) probed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.operator && t.queued.Load() != 0
}

// setPaused is told whether an operator has paused the queue, and until when;
// zero: until it is resumed.
func (t *tenant) setPaused(paused bool, until time.Time) {
	t.mu.Lock()
	before := t.operator
	t.operator, t.operatorUntil = paused, until
	t.mu.Unlock()
	if before == paused {
		return
	}
	if !paused {
		t.log.Info("hold: over", zap.String("cause", string(hold.Paused)))
	} else {
		t.log.Warn("hold: an operator has paused the queue", zap.String("cause", string(hold.Paused)), zap.String("until", pauseEnd(until)))
	}
	t.showHold()
}

// pauseEnd says until when an operator has paused the queue.
func pauseEnd(until time.Time) string {
	if until.IsZero() {
		return "resumed"
	}
	return until.UTC().Format(time.RFC3339)
}

// credit tells how many further requests it makes sense to take now.
func (t *tenant) credit() (n int, at time.Time, changed <-chan struct{}) {
	if !t.fuse.Blown().IsZero() {
		return 0, time.Now().Add(pollInterval), nil
	}
	return t.pacer.Available()
}

// wait notes when a message is going to be tried again; a zero instant: not.
func (t *tenant) wait(sequence uint64, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if until.IsZero() {
		delete(t.waiting, sequence)
	} else {
		t.waiting[sequence] = until
	}
	t.metrics.SetWaitingRetry(len(t.waiting))
}

// parkedMost is how many requests wait for what may never come: half of the messages
// that the consumer lets be unacknowledged at a time.
const parkedMost = 500

// park notes that a message waits for what may never come. It reports whether there
// is a place for it, and whether it has come for the first time.
func (t *tenant) park(sequence uint64, until, now time.Time) (waits, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.parked, func(_ uint64, until time.Time) bool { return now.Sub(until) > overdue })
	if _, known := t.parked[sequence]; !known {
		if len(t.parked) >= parkedMost {
			return false, true
		}
		first = true
	}
	t.parked[sequence] = until
	return true, first
}

// unpark gives the place back of a message that need not wait any more.
func (t *tenant) unpark(sequence uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.parked, sequence)
}

// overdue is how long a message is waited for that should be back. Then another
// worker has it, or had it.
const overdue = time.Minute

// forget drops the messages that have not come back. To a standby none comes
// back: when its time is over, the replica that works has it.
func (t *tenant) forget(now time.Time) {
	patience := overdue
	if !t.active.Load() {
		patience = 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.waiting, func(_ uint64, until time.Time) bool { return now.Sub(until) > patience })
	t.metrics.SetWaitingRetry(len(t.waiting))
}

// handle works on one message. soft ends when no further call is to be
// begun, hard when the process must end.
func (t *tenant) handle(soft, hard context.Context, m consume.Message) (becomes consume.Disposition) {
	t.metrics.InFlight(1)
	defer t.metrics.InFlight(-1)
	t.wait(m.Sequence, time.Time{})

	d := &delivery{t: t, m: m, started: time.Now()}
	defer func() {
		if p := recover(); p != nil {
			becomes = d.panicked(hard, p, debug.Stack())
		}
	}()
	req, err := request.Decode(request.Source{Data: m.Data, Header: m.Header, Stream: m.Stream, Sequence: m.Sequence})
	d.req, d.key = req, record.Key(t.name, req.Key())
	if !t.claim(d.key) {
		return consume.Nak(otherBusy())
	}
	defer t.unclaim(d.key)
	d.store = t.stores().records
	return d.run(soft, hard, err)
}

// otherBusy is how long a message stays away whose request is at work under
// another message: about a second. Copies that were published together come
// together; they are spread, or all but one would have to be sent away each time.
func otherBusy() time.Duration { return time.Second/2 + rand.N(time.Second) }

// fuseBlew is told that the fuse has blown.
func (t *tenant) fuseBlew() {
	t.log.Error("hold: the fuse has blown: one more device would be too many; worker resume releases it",
		zap.String("cause", string(hold.Fuse)), zap.Int("devices", t.fuse.Limit().N), zap.Duration("within", t.fuse.Limit().W))
	t.showHold()
}

// observe tells the hold what a message has found out, and others what follows.
func (t *tenant) observe(sequence uint64, s hold.Signal) hold.Standing {
	if t.maxPause > 0 && s.Wait > t.maxPause {
		t.log.Warn("a longer wait was asked for than is allowed; it was capped", zap.Duration("asked", s.Wait), zap.Duration("capped", t.maxPause))
		s.Wait = t.maxPause
	}
	st := t.hold.Observe(sequence, s, time.Now())
	if st.Ended != "" {
		t.log.Info("hold: over", zap.String("cause", string(st.Ended)))
	}
	if st.Tripped {
		now := t.hold.State()
		fields := []zap.Field{zap.String("cause", string(now.Cause)), zap.String("error", s.Detail), zap.Time("next_probe", now.NextProbe)}
		switch {
		case st.Before == "":
			t.log.Warn("hold: what is wrong concerns every request, so the queue stands still; one request at a time tries again", fields...)
		case st.Before == now.Cause:
			t.log.Info("hold: still", append(fields, zap.Duration("held", time.Since(now.Since)))...)
		default:
			t.log.Warn("hold: the cause has changed", fields...)
		}
	}
	if st.Ended != "" || st.Tripped {
		t.showHold()
	}
	return st
}

// holds are the causes for which the queue stands still.
func (t *tenant) holds() []metrics.Hold {
	holds := []metrics.Hold{}
	active := t.active.Load() // a standby does not know
	if h := t.hold.State(); active && h.Cause != "" {
		holds = append(holds, metrics.Hold{Cause: h.Cause, Since: h.Since, Detail: h.Detail, NextProbe: h.NextProbe})
	}
	if at := t.fuse.Blown(); active && !at.IsZero() {
		holds = append(holds, metrics.Hold{Cause: hold.Fuse, Since: at, Detail: fmt.Sprintf(
			"WORKER_FUSE allows %s: one more device would have been too many. worker resume releases it", t.fuse.Limit())})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.operator {
		holds = append(holds, metrics.Hold{Cause: hold.Paused, Detail: "paused until " + pauseEnd(t.operatorUntil)})
	}
	return holds
}

// showHold shows what holds the tenant, and lets the next replica know.
func (t *tenant) showHold() {
	held := map[hold.Cause]bool{}
	for _, h := range t.holds() {
		held[h.Cause] = true
	}
	for _, c := range hold.Causes() {
		t.metrics.SetHold(c, held[c])
	}
	t.changed()
}

// pause records a call that was throttled, or whose answer asked for a pause,
// and returns the end of the pause; zero where there is none. slot is that of a
// reset; nil for a reading, whose quota is another.
func (t *tenant) pause(slot *pace.Slot, sent time.Time, e *graph.Error) time.Time {
	if e.RetryAfter == 0 && e.Kind != graph.Throttled && e.Kind != graph.Unavailable {
		return time.Time{}
	}
	throttled := t.pacer.Throttled
	switch {
	case e.Kind == graph.Unavailable:
		throttled = t.pacer.Unavailable
	case slot != nil && e.Kind == graph.Throttled:
		throttled = slot.Throttled
	}
	until, added, capped := throttled(sent, e.RetryAfter)
	t.metrics.SetPausedUntil(until)
	t.metrics.AddPause(added)
	t.changed()
	if capped {
		t.log.Warn("Graph asked for a longer pause than is allowed; it was capped",
			zap.Duration("asked", e.RetryAfter), zap.Time("until", until))
	} else if added > 0 {
		t.log.Info("pause", zap.Int("status", e.Status), zap.Duration("retry_after", e.RetryAfter), zap.Time("until", until))
	}
	return until
}

// state is the tenant's part of /readyz.
func (t *tenant) state(bound error) metrics.TenantState {
	s := metrics.TenantState{Tenant: t.name, Active: t.active.Load(), ActiveElsewhere: t.elsewhere.Load(), Bound: bound == nil, Holds: t.holds()}
	if bound != nil {
		s.Error = fmt.Sprint(bound)
	}
	if until := t.pacer.Paused(); !until.IsZero() {
		s.PausedUntil = &until
	}
	return s
}
