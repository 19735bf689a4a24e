package tenant

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/verdict"
)

// For a tenant without a licence, or with a wrong address, Graph refuses
// everything, and each refusal looks as if the device were gone. The list
// of the tenant's devices tells the difference: Graph then refuses it as well.

// lister asks for the list of a tenant's devices, once for all that wait for it.
type lister struct {
	t *Tenant

	mu    sync.Mutex
	under *listing // the one under way; nil: none
}

// listing is one request for the list.
type listing struct {
	done   chan struct{}
	serves hold.Serves // read after done
}

// serves reports whether Graph serves the tenant, and asks for the list
// if that is not known. sequence is that of the message that needs to know.
func (s *lister) serves(soft, hard context.Context, sequence uint64, token graph.Token) hold.Serves {
	s.mu.Lock()
	// Asked under the lock, so that the result of one list is known before the next begins.
	serves := s.t.gate.Hold.Serves(sequence, time.Now())
	mine := s.under
	if serves != hold.NotKnown || mine != nil {
		s.mu.Unlock()
		if serves != hold.NotKnown {
			return serves
		}
		select {
		case <-mine.done:
			return mine.serves
		case <-hard.Done():
			return hold.NotKnown
		}
	}
	mine = &listing{done: make(chan struct{})}
	s.under = mine
	s.mu.Unlock()
	defer func() { // also when it panics
		s.mu.Lock()
		s.under = nil
		s.mu.Unlock()
		close(mine.done)
	}()
	mine.serves = s.ask(soft, hard, sequence, token)
	return mine.serves
}

// ask asks for the list and tells the hold its result.
func (s *lister) ask(soft, hard context.Context, sequence uint64, token graph.Token) hold.Serves {
	cfg, g := &s.t.cfg, s.t.gate
	sent := time.Now()
	_, err := cfg.Graph.List(hard, graph.Call{
		Token:           token,
		ClientRequestID: uuid.NewString(),
		Deadline:        sent.Add(cfg.Policy.RequestTimeout),
		May: func() bool {
			return soft.Err() == nil && g.Pacer.Paused().IsZero() && s.t.Looks.Reads.Paused().IsZero()
		},
	})
	if errors.Is(err, graph.ErrHeldBack) {
		return hold.NotKnown
	}
	e := graph.FailureOf(err)
	told := hold.Signal{Kind: hold.Listed, Serves: verdict.OfList(kindOf(e), token.MayRead() != "")}
	if e != nil {
		told.Detail = e.Error()
		g.Throttled(nil, sent, e)
	}
	switch kindOf(e) {
	case 0, graph.Refused, graph.Forbidden, graph.Throttled, graph.TokenRefused, graph.TokenUnavailable:
	case graph.Unauthorized:
		// The list may be the only call to Graph, so nothing else would notice.
		if _, err := cfg.Tokens.Renew(hard, token, e.Claims); err != nil {
			noToken(g, sequence, err)
		}
	case graph.Unavailable, graph.NotSent, graph.Unknown:
		if !e.Benign {
			g.Observe(sequence, hold.Signal{Kind: hold.Failing, Detail: told.Detail, Wait: e.RetryAfter})
		}
	}
	g.Observe(sequence, told)
	switch told.Serves {
	case hold.NotKnown:
		cfg.Log.Info("Graph refused a request, and the list of devices did not show whether it refuses every request; trying again", zap.String("error", told.Detail))
	case hold.Unreadable:
		cfg.Log.Warn("Graph refused a request, and the application may not list devices, so the worker cannot tell whether Graph refuses every request; "+
			"a refusal is taken for the request's own: grant "+graph.ReadPermissions()[0], zap.String("error", told.Detail))
	case hold.Served, hold.Unserved: // the hold logs it
	}
	return told.Serves
}
