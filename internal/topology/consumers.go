package topology

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// listWait bounds one page of the list: a cluster gives its servers four seconds to
	// answer for their consumers. Source: nats-server, server/jetstream_cluster.go
	// (jsClusteredConsumerListRequest).
	listWait = 6 * time.Second
	// mostPages ends a list that goes on for ever: a page holds 256.
	mostPages = 400
)

// Consumers are the consumers of a stream by name, read page by page, which is many times
// faster than asking for each. It needs the right to publish to CONSUMER.LIST.STREAM, and
// fails, after some seconds, without it.
//
// What is listed was there when its page was made. What is not listed may be there all the
// same, so that nothing may be concluded from that but that it has to be asked for by
// itself: the pages are cut by number from a list that changes meanwhile, and in a cluster
// those are left out whose servers have not answered in time.
//
// rest is how long it pauses between two pages, each of which takes the server and this
// process some milliseconds of a processor; 0: not at all.
func Consumers(ctx context.Context, js jetstream.JetStream, stream string, rest time.Duration) (map[string]*jetstream.ConsumerInfo, error) {
	found := map[string]*jetstream.ConsumerInfo{}
	for offset, pages := 0, 0; pages < mostPages; pages++ {
		page, err := consumerPage(ctx, js, stream, offset)
		if err != nil {
			return nil, fmt.Errorf("consumers of stream %s: %w", stream, err)
		}
		for _, info := range page.Consumers {
			if info != nil && info.Stream == stream && info.Name != "" {
				found[info.Name] = info
			}
		}
		// In a cluster those that did not answer take their place on the page, and are not
		// on it; where the library counts them, it reads some twice, and may never end.
		if page.Limit <= 0 {
			break
		}
		if offset += page.Limit; offset >= page.Total {
			break
		}
		select {
		case <-ctx.Done(): // the next page fails with it
		case <-time.After(rest):
		}
	}
	return found, nil
}

// Pinned is the pin that the server has given to a replica; empty: none. It lapses
// after the consumer's PinnedTTL without a pull that names it.
func Pinned(info *jetstream.ConsumerInfo) string {
	for _, g := range info.PriorityGroups {
		if g.PinnedClientID != "" {
			return g.PinnedClientID
		}
	}
	return ""
}

// page is an answer to CONSUMER.LIST. Source: nats-server, server/jetstream_api.go
// (JSApiConsumerListResponse).
type page struct {
	Error     *jetstream.APIError       `json:"error"`
	Total     int                       `json:"total"`
	Limit     int                       `json:"limit"`
	Consumers []*jetstream.ConsumerInfo `json:"consumers"`
}

func consumerPage(ctx context.Context, js jetstream.JetStream, stream string, offset int) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	reply, err := js.Conn().RequestWithContext(ctx, API(js.Options(), "CONSUMER.LIST."+stream), fmt.Appendf(nil, `{"offset":%d}`, offset))
	if err != nil {
		return page{}, err
	}
	var p page
	if err := json.Unmarshal(reply.Data, &p); err != nil {
		return page{}, jetstream.ErrInvalidJetStreamResponse
	}
	if p.Error != nil {
		return page{}, fmt.Errorf("nats: %w", p.Error)
	}
	return p, nil
}
