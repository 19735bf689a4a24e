package scenario

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// Neighbour is the tenant that forged replies make requests of. It must be served.
const (
	Neighbour          = "neighbour"
	NeighbourDirectory = "7e4a17b0-0000-4000-8000-00000000b001"
)

// Replies that make the PubAck a message of its own.
const (
	deadReply      = "{dead}"
	ownReply       = "{requests}"
	neighbourReply = "{requests of the neighbour}"
)

// Publisher puts requests on the stream. One that is forged goes over a connection
// of its own, without JetStream: its PubAck goes elsewhere.
type Publisher struct {
	JS     jetstream.JetStream
	Forger *nats.Conn
	Names  topology.Names

	good []*Request // that may have ended, and whose records nobody has overwritten
}

// ConnectForger is a connection for [Publisher]. What the server refuses is no
// news.
func ConnectForger(urls string) (*nats.Conn, error) {
	return nats.Connect(urls, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectWait(50*time.Millisecond),
		nats.IgnoreDiscoveredServers(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

// Publish publishes a request once, and adds its sequence. messageID is for the
// server to find repetitions by; empty: none. Where the request has a forged reply,
// it is published with that first, and once more to make sure that it is stored:
// then messageID must not be empty.
func (p *Publisher) Publish(ctx context.Context, r *Request, messageID string) error {
	m := &nats.Msg{Subject: p.Names.Filter(), Data: []byte(r.Data), Header: nats.Header{}}
	for name, values := range r.Header {
		m.Header[name] = values
	}
	if messageID != "" {
		m.Header.Set(jetstream.MsgIDHeader, messageID)
	}
	if r.Reply != "" {
		forged := *m
		forged.Reply = p.fill(ctx, r)
		if err := p.Forger.PublishMsg(&forged); err == nil {
			_ = p.Forger.FlushWithContext(ctx) // the second publishing makes sure
		}
	}
	ack, err := p.JS.PublishMsg(ctx, m)
	if err != nil {
		return err
	}
	r.Sequences = append(r.Sequences, ack.Sequence)
	if r.Kind == plain {
		p.good = append(p.good, r)
	}
	return nil
}

// fill writes the names into a reply.
func (p *Publisher) fill(ctx context.Context, r *Request) string {
	ended := "nobody"
	if strings.Contains(r.Reply, "{ended}") {
		ended = p.ended(ctx)
	}
	return strings.NewReplacer(
		"{records}", p.Names.Bucket, "{tenant}", p.Names.Tenant, "{id}", escape(r.ID), "{ended}", escape(ended),
		deadReply, p.Names.Dead(), ownReply, p.Names.Filter(), neighbourReply, p.Names.Subject+"."+Neighbour,
		"{alarms}", p.Names.FollowSubject, "{alarm stream}", p.Names.FollowStream, "{stream}", p.Names.Stream, "{consumer}", p.Names.Consumer(),
	).Replace(r.Reply)
}

// ended is the id of a request that was accepted and has not been returned before.
// Where none was found, it is one of nobody's.
func (p *Publisher) ended(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	kv, err := p.JS.KeyValue(ctx, p.Names.Bucket)
	if err != nil || len(p.good) == 0 {
		return "nobody"
	}
	first := p.good[0]
	entry, err := kv.Get(ctx, record.Key(p.Names.Tenant, escape(first.ID)))
	if err != nil || !strings.Contains(string(entry.Value()), `"state":"`+string(record.Accepted)+`"`) {
		return "nobody"
	}
	p.good = p.good[1:]
	return first.ID
}

// ShowPlainly ends every doubt about what was done to the devices of requests.
func ShowPlainly(sim *graphsim.Sim, requests []*Request) {
	for _, r := range requests {
		if r.Doubtful {
			sim.ShowActions(r.Device, graphsim.ListPlain)
		}
	}
}
