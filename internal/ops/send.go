package ops

import (
	"context"
	"sync"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Sent is a request that is stored on the request stream.
type Sent struct {
	ID       string `json:"id"`
	Key      string `json:"-"`
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
}

// inFlight is how many requests wait for their PubAck at a time.
const inFlight = 64

// Send publishes requests and waits until each is stored. It calls done for each, one
// at a time, in the order in which they are confirmed, but not for those that failed.
// The first failure ends it, once those under way have ended.
//
// If a reply is lost, it publishes again under the same message id. That id is new
// for each request of each call: only the records decide whether an id was sent before.
func (t *Tools) Send(ctx context.Context, requests []Sending, done func(Sent)) error {
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	var mu sync.Mutex
	for _, r := range requests {
		group.Go(func() error {
			if sending.Err() != nil {
				return context.Cause(sending)
			}
			ack, err := t.publish(sending, &nats.Msg{Subject: t.names.Filter(), Data: r.Data, Header: nats.Header{
				jetstream.MsgIDHeader:          {"send-" + uuid.NewString()},
				jetstream.ExpectedStreamHeader: {t.names.Stream},
			}})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			done(Sent{ID: r.ID, Key: r.Key, Stream: ack.Stream, Sequence: ack.Sequence})
			return nil
		})
	}
	return group.Wait()
}
