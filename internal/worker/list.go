package worker

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

// A tenant without a licence, or a wrong address, is refused everything, and each
// refusal looks like one of a device that is gone. Whether it is, the list of the
// tenant's devices tells, which Graph refuses likewise.

// lister asks for the list of a tenant's devices, once for all that wait for it.
type lister struct {
	mu    sync.Mutex
	under *listing // the one under way; nil: none
}

// listing is one request for the list.
type listing struct {
	done   chan struct{}
	serves hold.Serves // read after done
}

// turned tells the hold that a call or a look was turned down with another 4xx than
// 401, 403 and 429, once it is known what to make of it.
func (d *delivery) turned(soft, hard context.Context, a *verdict.Answer, l leave, kind hold.Kind) {
	serves := d.serves(soft, hard, l.token)
	d.signal(a, hold.Signal{Kind: kind, Serves: serves, Detail: a.Detail})
	if a.NotKnown = serves == hold.NotKnown; a.NotKnown {
		a.Paused = later(a.Paused, later(d.t.pacer.Paused(), d.t.following.looks.Reads.Paused()))
	}
}

// serves reports whether Graph serves the tenant, and asks for the list where that is
// not known.
func (d *delivery) serves(soft, hard context.Context, token graph.Token) hold.Serves {
	lists := &d.t.lists
	lists.mu.Lock()
	// Asked under the lock: what a list tells is known before the next begins.
	serves := d.t.hold.Serves(d.m.Sequence, time.Now())
	mine := lists.under
	if serves != hold.NotKnown || mine != nil {
		lists.mu.Unlock()
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
	lists.under = mine
	lists.mu.Unlock()
	defer func() { // also when it panics
		lists.mu.Lock()
		lists.under = nil
		lists.mu.Unlock()
		close(mine.done)
	}()
	mine.serves = d.list(soft, hard, token)
	return mine.serves
}

// list asks for the list, and tells the hold what it tells.
func (d *delivery) list(soft, hard context.Context, token graph.Token) hold.Serves {
	sent := time.Now()
	_, err := d.t.graph.List(hard, graph.Call{
		Token:           token,
		ClientRequestID: uuid.NewString(),
		Deadline:        sent.Add(d.t.policy.RequestTimeout),
		May: func() bool {
			return soft.Err() == nil && d.t.pacer.Paused().IsZero() && d.t.following.looks.Reads.Paused().IsZero()
		},
	})
	if errors.Is(err, graph.ErrHeldBack) {
		return hold.NotKnown
	}
	e := graph.FailureOf(err)
	s := hold.Signal{Kind: hold.Listed, Serves: verdict.OfList(kindOf(e), token.MayRead() != "")}
	if e != nil {
		s.Detail = e.Error()
		d.t.pause(nil, sent, e)
	}
	switch kindOf(e) {
	case 0, graph.Refused, graph.Forbidden, graph.Throttled, graph.TokenRefused, graph.TokenUnavailable:
	case graph.Unauthorized:
		// The list may be all that is asked for, so nobody else would notice.
		if _, err := d.t.tokens.Renew(hard, token, e.Claims); err != nil {
			d.noToken(err)
		}
	case graph.Unavailable, graph.NotSent, graph.Unknown:
		if !e.Benign {
			d.t.observe(d.m.Sequence, hold.Signal{Kind: hold.Failing, Detail: s.Detail, Wait: e.RetryAfter})
		}
	}
	d.t.observe(d.m.Sequence, s)
	switch s.Serves {
	case hold.NotKnown:
		d.t.log.Info("a request was refused, and the list of devices does not tell whether everything is; trying again", zap.String("error", s.Detail))
	case hold.Unreadable:
		d.t.log.Warn("a request was refused, and devices may not be listed, so it is not known whether everything is refused; "+
			"a refusal is taken for the request's own: grant "+graph.ReadPermissions()[0], zap.String("error", s.Detail))
	case hold.Served, hold.Unserved: // the hold tells
	}
	return s.Serves
}
