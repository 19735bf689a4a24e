package worker

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
)

// tenant is what the requests of one tenant share.
type tenant struct {
	name    string
	host    string // this worker's name in the records
	policy  Policy
	clock   *clock
	log     *zap.Logger
	metrics *metrics.Tenant

	letters *consume.Letters
	graph   *graph.Client
	tokens  *graph.Tokens
	pacer   *pace.Pacer
	// maxPause caps what a service asks for; 0 means no cap.
	maxPause time.Duration
	hold     *hold
	// exists tells whether a message is still on its stream.
	exists func(ctx context.Context, stream string, sequence uint64, published time.Time) (bool, error)

	mu    sync.Mutex
	store *record.Store // nil until the bucket was found
	// busy are the keys that are worked on in this process.
	busy map[string]struct{}
	// waiting are the messages that will be tried again, and when.
	waiting map[uint64]time.Time
}

func (t *tenant) setStore(s *record.Store) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.store = s
}

// claim reserves a request for one message at a time, so that a process is not
// a competitor to itself.
func (t *tenant) claim(key string) (*record.Store, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.busy[key]; taken {
		return nil, false
	}
	t.busy[key] = struct{}{}
	return t.store, true
}

func (t *tenant) unclaim(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, key)
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

// overdue is how long a message is waited for that should be back. Then another
// worker has it, or had it.
const overdue = time.Minute

// forget drops the messages that have not come back.
func (t *tenant) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.waiting, func(_ uint64, until time.Time) bool { return now.Sub(until) > overdue })
	t.metrics.SetWaitingRetry(len(t.waiting))
}

// handle works on one message. intake ends when no further call is to be
// begun, work when the process must end.
func (t *tenant) handle(intake, work context.Context, m consume.Message) (d consume.Disposition) {
	t.metrics.InFlight(1)
	defer t.metrics.InFlight(-1)
	t.wait(m.Sequence, time.Time{})

	j := &job{tenant: t, m: m, started: time.Now()}
	defer func() {
		if p := recover(); p != nil {
			d = j.panicked(work, p, debug.Stack())
		}
	}()
	req, err := request.Decode(request.Source{Data: m.Data, Header: m.Header, Stream: m.Stream, Sequence: m.Sequence})
	j.req, j.key = req, record.Key(t.name, req.Key())
	store, ok := t.claim(j.key)
	if !ok {
		return consume.Back(otherMin)
	}
	defer t.unclaim(j.key)
	j.store = store
	return j.run(intake, work, err)
}

// begin starts a hold, or makes the next probe wait longer, and returns when
// that probe may go.
func (t *tenant) begin(m consume.Message, cause metrics.Cause, err error, wait time.Duration) time.Time {
	before, _, _, _ := t.hold.state()
	if t.maxPause > 0 && wait > t.maxPause {
		t.log.Warn("a longer wait was asked for than is allowed; it was capped", zap.Duration("asked", wait), zap.Duration("capped", t.maxPause))
		wait = t.maxPause
	}
	at, news := t.hold.fail(m.Sequence, cause, err.Error(), wait, time.Now())
	if !news {
		return at
	}
	now, _, since, _ := t.hold.state()
	switch {
	case before == "":
		t.log.Warn("hold: what is wrong concerns every request, so the queue stands still; one request at a time tries again",
			zap.String("cause", string(now)), zap.Error(err), zap.Time("next_probe", at))
	case before != now:
		t.log.Warn("hold: the cause has changed", zap.String("cause", string(now)), zap.Error(err), zap.Time("next_probe", at))
	default:
		t.log.Info("hold: still", zap.String("cause", string(now)), zap.Duration("held", time.Since(since)),
			zap.Error(err), zap.Time("next_probe", at))
	}
	t.showHold()
	return at
}

// ended logs the end of a hold; an empty cause means that none has ended.
func (t *tenant) ended(cause metrics.Cause) {
	if cause == "" {
		return
	}
	t.log.Info("hold: over", zap.String("cause", string(cause)))
	t.showHold()
}

func (t *tenant) showHold() {
	held, _, _, _ := t.hold.state()
	for _, c := range metrics.Causes() {
		t.metrics.SetHold(c, c == held)
	}
}

// pause records a call that was throttled, or whose answer asked for a pause,
// and returns the end of the pause; zero where there is none. slot is that of a
// reset; nil for a reading, whose quota is another.
func (t *tenant) pause(slot *pace.Slot, sent time.Time, e *graph.Error) time.Time {
	if e.RetryAfter == 0 && e.Kind != graph.Throttled && e.Kind != graph.Unavailable {
		return time.Time{}
	}
	throttled := t.pacer.Throttled
	if slot != nil && e.Kind == graph.Throttled {
		throttled = slot.Throttled
	}
	until, added, capped := throttled(sent, e.RetryAfter)
	t.metrics.SetPausedUntil(until)
	t.metrics.AddPause(added)
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
	s := metrics.TenantState{Tenant: t.name, Active: true, Bound: bound == nil, Holds: []metrics.Hold{}}
	if bound != nil {
		s.Error = fmt.Sprint(bound)
	}
	if until := t.pacer.Paused(); !until.IsZero() {
		s.PausedUntil = &until
	}
	if cause, detail, since, probe := t.hold.state(); cause != "" {
		s.Holds = append(s.Holds, metrics.Hold{Cause: cause, Since: since, Detail: detail, NextProbe: probe})
	}
	return s
}
