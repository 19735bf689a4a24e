// Package ops is what the commands of operators and integrators do on NATS: send
// a request and follow it, look at the queue, read, redrive and remove dead
// letters, read outcomes, order looks at devices, pause a tenant. It calls neither
// Graph nor the worker.
package ops

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// Tools works on one tenant. It is safe for concurrent use.
type Tools struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	names  topology.Names
	rights *Rights

	mu       sync.Mutex
	records  *record.Store  // nil until it is first used
	outcomes *outcome.Store // likewise
}

// New makes the tools of a tenant. rights must receive the connection's errors; see
// [Rights.Option].
func New(js jetstream.JetStream, names topology.Names, rights *Rights) *Tools {
	return &Tools{nc: js.Conn(), js: js, names: names, rights: rights}
}

// api is the subject of a call to JetStream.
func (t *Tools) api(call string) string { return topology.API(t.js.Options(), call) }

// Times of calls to the server.
const (
	// apiWait bounds one call.
	apiWait = 5 * time.Second
	// patience is how long a call is repeated whose outcome is not known. The
	// election of a new leader, or the restart of a server, takes less.
	patience = 30 * time.Second
	// absence is how long a stream may give no answer before it counts as missing.
	absence  = 6 * time.Second
	pauseMin = 100 * time.Millisecond
	pauseMax = 2 * time.Second
)

// call runs one call to the server within the usual time.
func (t *Tools) call(ctx context.Context, f func(context.Context) error) error {
	return t.rights.do(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, apiWait)
		defer cancel()
		return f(ctx)
	})
}

// insist repeats a call until it succeeds, fails in a way that no repetition
// helps, or patience is over. It is for calls that may safely be repeated.
func (t *Tools) insist(ctx context.Context, f func(context.Context) error) error {
	began, pause := time.Now(), pauseMin
	for {
		err := t.call(ctx, f)
		if err == nil || isFinal(err) {
			return err
		}
		limit := patience
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
			limit = absence
		}
		if time.Since(began) > limit {
			return err
		}
		if t.pause(ctx, pause) != nil {
			return err
		}
		pause = min(2*pause, pauseMax)
	}
}

func (t *Tools) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// isFinal reports whether a call would fail however often it is repeated.
func isFinal(err error) bool {
	var missing *MissingRight
	var api *jetstream.APIError
	var final finalError
	switch {
	case errors.As(err, &missing), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrMaxPayload), errors.As(err, &final),
		errors.Is(err, topology.ErrOtherDomain), errors.Is(err, record.ErrGarbled),
		errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound):
		return true
	case errors.As(err, &api):
		// 503 means that the server cannot do it now. A full stream gives it too,
		// with the code 10077, but only an operator can make room there.
		return api.Code != 503 || api.ErrorCode == errStreamFull
	}
	return false
}

// finalError is a failure that no repetition helps.
type finalError string

func (e finalError) Error() string { return string(e) }

// errStreamFull is the code of a full stream.
// Source: nats-server, server/errors.json (JSStreamStoreFailedF, "maximum ... exceeded").
const errStreamFull jetstream.ErrorCode = 10077

// publish stores a message on a stream and waits for the PubAck. If the reply is
// lost, it publishes again under the same message id.
func (t *Tools) publish(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	var ack *jetstream.PubAck
	err := t.insist(ctx, func(ctx context.Context) (err error) {
		if ack, err = t.js.PublishMsg(ctx, msg); err == nil {
			err = topology.OfDomain(t.js, ack)
		}
		return err
	})
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		return nil, fmt.Errorf("no stream takes %s: check the name, and run worker setup if it has not been run (%w)", msg.Subject, err)
	}
	if err != nil {
		return nil, fmt.Errorf("publish to %s: %w", msg.Subject, err)
	}
	return ack, nil
}
