package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
	"passcode-worker/internal/topology"
)

// forgery is a worker beside which a publisher, who may publish requests and name
// any subject for the reply, writes what it likes. The tenant other has a worker of
// its own, whose fuse has blown.
type forgery struct {
	*rig
	forger *nats.Conn
	other  *rig
	// stop ends the two workers.
	stop func()
	// held are the devices of the tenant other that wait for a release.
	held []string
	// rounds counts what was played, and ended is the last good request of them.
	rounds int
	ended  string
	// hit are the keys whose records were overwritten.
	hit map[string]bool
}

// Bounds of a round.
const (
	// forgedMost is how many messages are forged in it, copies aside.
	forgedMost = 8
	// forgedGood is how many requests stand between them.
	forgedGood = 3
	// forgedTime is how long these may take: an ack wait, or a replica that is
	// missed, would take longer.
	forgedTime = 15 * time.Second
)

func newForgery(t testing.TB) *forgery {
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Policy.MaxAge = 40 * time.Second })
	forger, err := nats.Connect(r.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // the server refuses, and may cut off
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(forger.Close)
	g := &forgery{rig: r, forger: forger, other: r.successor(), hit: map[string]bool{}}
	g.other.names.Tenant = "other"
	g.other.cfg.Tenants = slices.Clone(r.cfg.Tenants)
	g.other.cfg.Tenants[0].Name = "other"
	// Once the window is over the records say nothing of the fuse any more.
	g.other.cfg.Fuse = pace.Rate{N: 2, W: 2 * time.Second}
	g.other.cfg.Policy.MaxAge = 0
	g.run(t)
	t.Cleanup(func() { g.stop() })
	for i := range 5 {
		var header nats.Header
		switch {
		case i < g.other.cfg.Fuse.N:
		case i == g.other.cfg.Fuse.N:
			// Which devices are reset is not to be left to chance. The first that waits
			// is the oldest request from then on.
			g.other.await("the resets before", func() bool { return g.sim.Status().Executed == i })
			header = nats.Header{"Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}, "Nats-Sequence": {"x"}}
			fallthrough
		default:
			g.held = append(g.held, graphsim.GoodDevice(1<<40+i))
		}
		g.other.publish(reset(fmt.Sprint("OTHER", i), graphsim.GoodDevice(1<<40+i)), header)
	}
	g.other.await("the fuse to blow", func() bool { return g.other.metric(fuseOfOther) == 1 })
	g.await("that to be handed on", func() bool {
		kv, err := g.js.KeyValue(context.Background(), g.names.StateBucket())
		if err != nil {
			return false
		}
		e, err := kv.Get(context.Background(), "other.worker")
		return err == nil && strings.Contains(string(e.Value()), "fuseBlownAt")
	})
	g.good("FIRST", graphsim.GoodDevice(1<<41))
	g.ended = "FIRST"
	g.awaitEmptyBut()
	return g
}

const fuseOfOther = `hold{cause="fuse",tenant="other"}`

// run runs the two workers.
func (g *forgery) run(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	for _, cfg := range []Config{g.cfg, g.other.cfg} {
		go func() { done <- Run(ctx, cfg) }()
	}
	g.stop = func() {
		cancel()
		for range cap(done) {
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		g.stop = func() {}
	}
	for _, r := range []*rig{g.rig, g.other} {
		await(t, "the worker to be bound", func() bool {
			_, body := r.get("/readyz")
			return strings.Contains(strings.ReplaceAll(body, " ", ""), `"bound":true`)
		})
	}
}

// restart stops both workers and starts them again. The other is told of its fuse
// once a request comes, which the ones that were sent away do only after a while.
func (g *forgery) restart() {
	g.t.Helper()
	g.stop()
	g.run(g.t)
	device := graphsim.GoodDevice(1<<40 + len(g.held) + g.other.cfg.Fuse.N)
	g.held = append(g.held, device)
	g.other.publish(reset("OTHER"+device, device), nil)
}

func (g *forgery) good(id, device string) { g.publish(reset(id, device), nil) }

// waitingFor are the requests that a subject holds. Their headers may be forged, so
// that only the leader's answer is clear.
func (g *forgery) waitingFor(subject string) (out []request.Request) {
	g.t.Helper()
	for from := uint64(1); ; {
		m, err := g.nc.Request("$JS.API.STREAM.MSG.GET."+g.names.Stream, fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q}`, from, subject), testTime)
		if err != nil {
			g.t.Fatal(err)
		}
		var answer struct {
			Error   *jetstream.APIError `json:"error"`
			Message struct {
				Sequence uint64 `json:"seq"`
				Header   []byte `json:"hdrs"`
				Data     []byte `json:"data"`
			} `json:"message"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			g.t.Fatal(err)
		}
		if answer.Error != nil {
			return out
		}
		header, _ := nats.DecodeHeadersMsg(answer.Message.Header) // what are none are none to the worker, too
		req, _ := request.Decode(request.Source{Data: answer.Message.Data, Header: header, Stream: g.names.Stream, Sequence: answer.Message.Sequence})
		out = append(out, req)
		from = answer.Message.Sequence + 1
	}
}

// awaitEmptyBut waits until no request waits but those whose records are hit.
func (g *forgery) awaitEmptyBut() {
	g.t.Helper()
	deadline, tick := time.Now().Add(forgedTime), time.Tick(5*time.Millisecond)
	for {
		waits := ""
		for _, req := range g.waitingFor(g.names.Filter()) {
			if !g.hit[req.Key()] {
				waits = req.ID
			}
		}
		switch {
		case waits == "":
			return
		case time.Now().After(deadline):
			g.t.Fatalf("%s waits after %s", waits, forgedTime)
		}
		<-tick
	}
}

// tape gives out a fuzz input; what follows its end is zeros.
type tape struct{ left []byte }

func (p *tape) next() int {
	if len(p.left) == 0 {
		return 0
	}
	b := p.left[0]
	p.left = p.left[1:]
	return int(b)
}

func pick[T any](p *tape, from []T) T { return from[p.next()%len(from)] }

// A round's first byte.
const (
	// forgeRestart restarts both workers before the end is looked at.
	forgeRestart = 1 << iota
	// forgeGauges looks at the depth of the queues, which is read only every 2 s.
	forgeGauges
)

// What a forged message is made of: its body, the subject of the reply, how often
// it is sent, and its headers.
const (
	bodyGood = iota
	bodyBroken
	bodyEmpty
	bodyEnded      // a copy of a request that has ended
	bodyEndedOther // its id, and another device
	bodyEndedBad   // its id, and no device
	bodyNameless
	bodyEvent
	bodyTwin // a copy of a good request of this round
	bodyAck
	bodyRaw
	bodies
)

const (
	replyNone    = iota
	replyOwn     // the record of the message itself
	replyNext    // that of the next forged one
	replyRunning // that of the good request that was just sent
	replyFuture  // that of the last good one
	replyEnded
	replyWorker
	replyOperator
	replyOtherWorker
	replyOtherOperator
	replyDead
	replyOtherDead
	replyRequest
	replyOtherRequest
	replyStatus
	replyPurge
	replyDelete
	replyMsgDelete
	replyUpdate
	replyConsumerDelete
	replyConsumerPause
	replyUnpin
	replyNextMsg
	replyAck
	replies
)

// forgedNames are the headers that the server writes or heeds, or the worker reads.
var forgedNames = []string{
	"X", "Nats-Pin-Id", "Nats-Time-Stamp", "Nats-Sequence", "Nats-Subject", "Nats-Stream", "Nats-Last-Sequence", "Nats-Num-Pending",
	"Nats-UpTo-Sequence", "Nats-Msg-Id", "Nats-TTL", "Nats-Rollup", "Nats-Marker-Reason", "Nats-Expected-Stream", "Nats-Expected-Last-Sequence",
	"Nats-Expected-Last-Subject-Sequence", "Nats-Expected-Last-Subject-Sequence-Subject", "Nats-Expected-Last-Msg-Id", "Nats-Incr",
	"Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit", "Nats-Schedule", "Nats-Schedule-Target", "Nats-Trace-Dest", "Nats-Trace-Only",
	"Nats-Required-Api-Level", "Nats-Pending-Messages", "Nats-Pending-Bytes", "KV-Operation", "Status", "Description",
	"Dead-Letter-Reason", "Dead-Letter-Request-Id", "Dead-Letter-Stream", "Dead-Letter-Sequence", "Dead-Letter-Redrives", "Dead-Letter-Truncated",
	"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-datacontenttype", "ce-time", "Content-Type", "traceparent",
}

var forgedCases = []func(string) string{strings.Clone, strings.ToLower, strings.ToUpper, func(s string) string { return strings.ToLower(s[:1]) + s[1:] }}

// header finds a name of forgedNames, for a seed.
func header(name string) byte { return byte(slices.Index(forgedNames, name)) }

const (
	valueX = iota
	valueEmpty
	valueZero
	valueOne
	valueMinus
	valueHuge
	valueOld
	valueFuture
	valueID    // of a request that has ended
	valueReply // a subject out of the replies; the next byte says which
	valueRaw   // the next byte says how long
	valueWord  // one of the words; the next byte says which
	values
)

var forgedWords = []string{"404", "100", "204", "408", "409", "423", "503", "all", "sub", "DEL", "PURGE", "MaxAge", "No Messages", "Consumer Deleted",
	"Leadership Change", "Nats-Wrong-Pin-Id", "Server Shutdown", "FlowControl Request", "Idle Heartbeat", "1.0", "9.9", "1s", "never", "+5", "accepted", "outcome_unknown",
	"application/json", "application/cloudevents+json", "text/plain", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "%", "%0d%0aX: y",
	`{"release":true}`, "PASSCODE_RESETS", "@at 2001-01-01T00:00:00Z", strings.Repeat("a", 3000), "\xff\xfe"}

func word(s string) byte { return byte(slices.Index(forgedWords, s)) }

// play forges the messages of an input beside a few good requests, and looks at
// what has become of all.
func (g *forgery) play(input []byte) {
	t := g.t
	t.Helper()
	g.rounds++
	p := &tape{input}
	flags := p.next()
	if flags > forgeRestart|forgeGauges {
		flags = 0 // these take time, so that most inputs are without
	}
	id := func(kind string, i int) string { return fmt.Sprintf("R%d-%s%d", g.rounds, kind, i) }
	device := func(i int) string { return graphsim.GoodDevice(g.rounds<<8 + i) }
	records := "$KV." + g.names.Bucket + ".default."
	states := "$KV." + g.names.StateBucket() + "."
	sent := 0 // good ones
	hit := func(id string) string {
		g.hit[request.EscapeID(id)] = true
		return records + request.EscapeID(id)
	}
	reply := func(i, which int) string {
		switch which % replies {
		case replyOwn:
			return hit(id("forged", i))
		case replyNext:
			return hit(id("forged", i+1))
		case replyRunning:
			return hit(id("good", max(0, sent-1)))
		case replyFuture:
			return hit(id("good", forgedGood-1))
		case replyEnded:
			return hit(g.ended)
		case replyWorker:
			return states + "default.worker"
		case replyOperator:
			return states + "default.operator"
		case replyOtherWorker:
			return states + "other.worker"
		case replyOtherOperator:
			return states + "other.operator"
		case replyDead:
			return g.names.Dead()
		case replyOtherDead:
			return g.other.names.Dead()
		case replyRequest:
			return g.names.Filter()
		case replyOtherRequest:
			return g.other.names.Filter()
		case replyStatus:
			return g.names.Status(id("good", 0))
		case replyPurge:
			return "$JS.API.STREAM.PURGE.KV_" + g.names.Bucket
		case replyDelete:
			return "$JS.API.STREAM.DELETE.KV_" + g.names.Bucket
		case replyMsgDelete:
			return "$JS.API.STREAM.MSG.DELETE.KV_" + g.names.StateBucket()
		case replyUpdate:
			return "$JS.API.STREAM.UPDATE." + g.names.Stream
		case replyConsumerDelete:
			return "$JS.API.CONSUMER.DELETE." + g.names.Stream + "." + g.names.Consumer()
		case replyConsumerPause:
			return "$JS.API.CONSUMER.PAUSE." + g.names.Stream + "." + g.names.Consumer()
		case replyUnpin:
			return "$JS.API.CONSUMER.UNPIN." + g.names.Stream + "." + g.names.Consumer()
		case replyNextMsg:
			return "$JS.API.CONSUMER.MSG.NEXT." + g.names.Stream + "." + g.names.Consumer()
		case replyAck:
			return "$JS.ACK." + g.names.Stream + "." + g.names.Consumer() + ".1.1.1.1.0"
		}
		return ""
	}
	raw := func(n int) string {
		n = min(n, len(p.left))
		s := string(p.left[:n])
		p.left = p.left[n:]
		return s
	}
	value := func(i int) string {
		switch p.next() % values {
		case valueEmpty:
			return ""
		case valueZero:
			return "0"
		case valueOne:
			return "1"
		case valueMinus:
			return "-1"
		case valueHuge:
			return "18446744073709551615"
		case valueOld:
			return "2001-01-01T00:00:00Z"
		case valueFuture:
			return "2101-01-01T00:00:00Z"
		case valueID:
			return g.ended
		case valueReply:
			return reply(i, p.next())
		case valueRaw:
			return raw(p.next() % 64)
		case valueWord:
			return pick(p, forgedWords)
		}
		return "x"
	}
	send := func() {
		g.good(id("good", sent), device(sent))
		sent++
	}
	send()
	for i := 0; i < forgedMost && len(p.left) > 0; i++ {
		if i == 1 {
			send()
		}
		m := &nats.Msg{Subject: g.names.Filter(), Header: nats.Header{}}
		body := p.next() % bodies
		m.Reply = reply(i, p.next())
		copies := 1
		if p.next()%8 == 7 {
			copies = 20 // more than the history of a key holds
		}
		if body == bodyNameless {
			copies = 1 // each is a request of its own
		}
		for range p.next() % 4 {
			name := pick(p, forgedNames)
			name = pick(p, forgedCases)(name)
			for range 1 + p.next()%2 {
				m.Header[name] = append(m.Header[name], value(i))
			}
		}
		switch own := device(100 + i); body {
		case bodyGood:
			m.Data = []byte(reset(id("forged", i), own))
		case bodyBroken:
			m.Data = fmt.Appendf(nil, `{"id":%q,"managedDeviceId":`, id("forged", i))
		case bodyEnded:
			m.Data = []byte(reset(g.ended, graphsim.GoodDevice(1<<41)))
			if g.rounds > 1 {
				m.Data = []byte(reset(g.ended, graphsim.GoodDevice((g.rounds-1)<<8)))
			}
		case bodyEndedOther:
			m.Data = []byte(reset(g.ended, own))
		case bodyEndedBad:
			m.Data = []byte(reset(g.ended, "no device"))
		case bodyNameless:
			m.Data = fmt.Appendf(nil, `{"managedDeviceId":%q}`, own)
		case bodyEvent:
			m.Data = fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"/forged","type":"reset","data":{"managedDeviceId":%q}}`, id("event", i), own)
			m.Header["Content-Type"] = []string{"application/cloudevents+json"}
		case bodyTwin:
			m.Data = []byte(reset(id("good", 0), device(0)))
		case bodyAck:
			m.Data = fmt.Appendf(nil, `{"stream":%q,"seq":1}`, g.names.Stream)
		case bodyRaw:
			m.Data = []byte(raw(p.next()))
		}
		for range copies {
			if err := g.forger.PublishMsg(m); err != nil {
				t.Logf("not sent: %v", err) // the client refuses some headers
			}
		}
		if err := g.forger.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for sent < forgedGood {
		send()
	}
	if flags&forgeRestart != 0 {
		g.restart()
	}
	g.awaitEmptyBut()
	if !g.hit[request.EscapeID(g.ended)] {
		if rec := g.stored(g.ended); rec.State != record.Accepted {
			t.Errorf("%s has ended before, and now is %+v", g.ended, rec)
		}
	}
	g.ended = id("good", 0)
	g.check(flags&forgeGauges != 0)
	for i := range forgedGood {
		resets := g.sim.Resets(device(i))
		if key := request.EscapeID(id("good", i)); g.hit[key] && resets <= 1 {
			continue
		}
		if rec := g.stored(id("good", i)); resets != 1 || rec.State != record.Accepted {
			t.Errorf("%s was reset %d times: %+v", id("good", i), resets, rec)
		}
	}
}

// stored is a record as the worker reads it.
func (g *forgery) stored(id string) record.Record {
	g.t.Helper()
	store, err := record.Open(context.Background(), g.js, g.names.Bucket)
	if err != nil {
		g.t.Fatal(err)
	}
	r, _, err := store.Get(context.Background(), record.Key("default", request.EscapeID(id)))
	if err != nil {
		g.t.Error(err)
	}
	return r
}

// check looks at what no publisher may change.
func (g *forgery) check(gauges bool) {
	t := g.t
	t.Helper()
	if twice := g.sim.Status().ResetTwice; len(twice) > 0 {
		t.Errorf("reset twice: %v", twice)
	}
	for _, d := range g.held {
		if n := g.sim.Resets(d); n != 0 {
			t.Errorf("a device behind the blown fuse was reset %d times", n)
		}
	}
	await(t, "the fuse to be blown still", func() bool { return g.other.metric(fuseOfOther) == 1 })
	if code, _ := g.other.get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz of the tenant whose fuse has blown: %d", code)
	}
	for _, c := range hold.Causes() {
		if n := g.metric(fmt.Sprintf(`hold{cause=%q,tenant="default"}`, c)); n != 0 {
			t.Errorf("hold %s: %g", c, n)
		}
	}
	if !gauges {
		return
	}
	for _, r := range []*rig{g.rig, g.other} {
		series, want := fmt.Sprintf(`queue_messages{tenant=%q}`, r.names.Tenant), -1
		deadline := time.Now().Add(forgedTime)
		for tick := time.Tick(50 * time.Millisecond); ; <-tick {
			want = len(g.waitingFor(r.names.Filter()))
			if got := r.metric(series); int(got) == want {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("%s is %g, and %d wait", series, got, want)
			}
		}
		// All of them were published since this test began.
		if age := r.metric(fmt.Sprintf(`queue_oldest_seconds{tenant=%q}`, r.names.Tenant)); want > 0 && (age <= 0 || age > time.Hour.Seconds()) {
			t.Errorf("the oldest request of %s is %g s old", r.names.Tenant, age)
		}
	}
}

// forged is a message for a seed.
func forged(body, reply, copies byte, headers ...[]byte) []byte {
	return slices.Concat([]byte{body, reply, copies, byte(len(headers))}, slices.Concat(headers...))
}

// with is one header with one value for a seed.
func with(name string, value ...byte) []byte {
	return append([]byte{header(name), 0, 0}, value...)
}

const flood = 7

// forgedSeed is an input and what it does.
type forgedSeed struct {
	what  string
	input []byte
}

// forgedSeeds are the attacks that were found to work once, or are near to one.
func forgedSeeds() []forgedSeed {
	round := func(flags byte, messages ...[]byte) []byte {
		return append([]byte{flags}, slices.Concat(messages...)...)
	}
	plain := func(headers ...[]byte) []byte { return forged(bodyGood, replyNone, 0, headers...) }
	out := []forgedSeed{
		// The oldest request that waits blinds the gauges: it waits because its record
		// was overwritten before.
		{"oldest", round(forgeGauges, forged(bodyBroken, replyNext, flood), plain(with("Nats-Time-Stamp", valueX), with("Nats-Sequence", valueX), with("Nats-Subject", valueX)))},
		{"nothing", nil},
		{"restart", round(forgeRestart|forgeGauges, plain())},
		// A term of the pinned group that a publisher begins.
		{"pin", round(0, plain(with("Nats-Pin-Id", valueX)), plain(with("Nats-Pin-Id", valueX)), plain(with("Nats-Pin-Id", valueEmpty)))},
		{"pin, twice", round(0, plain([]byte{header("Nats-Pin-Id"), 0, 1, valueX, valueX}), forged(bodyBroken, replyNone, 0, with("Nats-Pin-Id", valueX)))},
		// The release of a blown fuse, and a state without one.
		{"release", round(0, forged(bodyGood, replyOtherOperator, 0), forged(bodyGood, replyOtherWorker, 0))},
		{"release, restart", round(forgeRestart, forged(bodyBroken, replyOtherOperator, 0), forged(bodyBroken, replyOtherWorker, 0))},
		{"release, and flood", round(forgeRestart, forged(bodyBroken, replyOtherOperator, flood), forged(bodyBroken, replyOtherWorker, flood))},
		{"state of the other", round(forgeRestart, forged(bodyBroken, replyWorker, flood), forged(bodyBroken, replyOperator, flood))},
		{"records", round(0, forged(bodyGood, replyOwn, 0), forged(bodyGood, replyNext, 0), forged(bodyGood, replyRunning, 0), forged(bodyGood, replyFuture, 0))},
		{"records, flooded", round(forgeRestart, forged(bodyBroken, replyRunning, flood), forged(bodyBroken, replyFuture, flood), forged(bodyBroken, replyNext, flood), plain())},
		{"ended", round(forgeRestart, forged(bodyBroken, replyEnded, 0), forged(bodyEnded, replyNone, 0), forged(bodyEndedOther, replyNone, 0), forged(bodyEndedBad, replyNone, 0))},
		{"ended, flooded", round(forgeRestart, forged(bodyBroken, replyEnded, flood), forged(bodyEnded, replyNone, 0), forged(bodyEndedOther, replyNone, 0))},
		{"dead", round(0, forged(bodyGood, replyDead, 0), forged(bodyGood, replyOtherDead, 0), forged(bodyBroken, replyDead, flood))},
		{"requests", round(forgeGauges, forged(bodyGood, replyRequest, 0), forged(bodyGood, replyOtherRequest, 0), forged(bodyEmpty, replyRequest, flood))},
		{"purge", round(forgeRestart, forged(bodyGood, replyPurge, 0), forged(bodyGood, replyDelete, 0), forged(bodyGood, replyMsgDelete, 0), forged(bodyGood, replyUpdate, 0))},
		{"consumer", round(0, forged(bodyGood, replyConsumerDelete, 0), forged(bodyGood, replyConsumerPause, 0), forged(bodyGood, replyUnpin, flood), forged(bodyGood, replyNextMsg, 0))},
		{"ack", round(0, forged(bodyGood, replyAck, 0), forged(bodyAck, replyStatus, 0))},
		{"twins", round(0, forged(bodyTwin, replyNone, flood), forged(bodyTwin, replyRunning, 0), forged(bodyTwin, replyNone, 0, with("Nats-Msg-Id", valueX)))},
		{"message id of ended", round(0, forged(bodyNameless, replyNone, 0, with("Nats-Msg-Id", valueID)), forged(bodyNameless, replyNone, 0, []byte{header("Nats-Msg-Id"), 1, 0, valueID}))},
		{"rollup", round(0, plain(with("Nats-Rollup", valueWord, word("all"))), plain(with("Nats-TTL", valueWord, word("1s"))), plain(with("Nats-Expected-Last-Sequence", valueOne)))},
		{"refused, over a record", round(0, forged(bodyGood, replyRunning, 0, with("Nats-Expected-Last-Sequence", valueOne)),
			forged(bodyGood, replyOtherWorker, 0, with("Nats-Rollup", valueX)))},
		{"traced", round(0, plain(with("Nats-Trace-Dest", valueReply, replyOtherOperator)), plain(with("Nats-Trace-Dest", valueReply, replyRunning)), plain(with("Nats-Trace-Dest", valueReply, replyRequest)))},
		{"redrives", round(0, plain(with("Dead-Letter-Redrives", valueWord, word("+5")), with("Dead-Letter-Request-Id", valueID)), forged(bodyBroken, replyNone, 0, with("Dead-Letter-Reason", valueX)))},
		{"event", round(0, forged(bodyEvent, replyNone, 0), plain(with("ce-id", valueID), with("ce-source", valueX)), plain(with("ce-specversion", valueWord, word("9.9"))))},
		{"no JSON", round(0, forged(bodyAck, replyNone, 0), []byte{bodyRaw, replyNone, 0, 0, 3, 0xff, 0xfe, '{'})},
		{"many headers", round(0, plain(with("KV-Operation", valueWord, word("DEL")), with("Nats-Stream", valueX), with("Nats-Num-Pending", valueZero)))},
	}
	// An empty message with a status is what the server's own words look like.
	for _, status := range []string{"100", "204", "404", "408", "409", "423", "503"} {
		var messages [][]byte
		for _, said := range []string{"No Messages", "Consumer Deleted", "Leadership Change", "Nats-Wrong-Pin-Id", "Server Shutdown"} {
			messages = append(messages, forged(bodyEmpty, replyNone, 0, with("Status", valueWord, word(status)), with("Description", valueWord, word(said))))
		}
		out = append(out, forgedSeed{"status " + status, round(0, messages...)})
	}
	return out
}

// FuzzForged lets a publisher write random headers and bodies, and name random
// subjects for the reply, beside good requests: each of these is reset once, the
// queue does not stand still, and what others rely on stays as it is.
func FuzzForged(f *testing.F) {
	seeds := forgedSeeds()
	for _, s := range seeds {
		f.Add(s.input)
	}
	broken := false
	g := newForgery(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		if broken {
			t.Skip("what an earlier input has left behind is in the way")
		}
		if i := slices.IndexFunc(seeds, func(s forgedSeed) bool { return bytes.Equal(s.input, input) }); i >= 0 {
			t.Log(seeds[i].what)
		}
		defer func() { broken = t.Failed() }()
		g.at(t).play(input)
	})
	if flag.Lookup("test.fuzz").Value.String() == "" && !f.Failed() {
		g.at(f).restart()
		g.check(true)
	}
}

// at makes the failures those of one round.
func (g *forgery) at(t testing.TB) *forgery {
	g.rig.t, g.other.t = t, t
	return g
}

// TestNothingIsRolledUp: on the stream as it is set up no header of one request
// removes another, or itself.
func TestNothingIsRolledUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, graphsim.Config{}, nil)
	if _, err := topology.Setup(t.Context(), r.js, r.names, topology.Layout{}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r.publish(reset(fmt.Sprint("INC", i), graphsim.GoodDevice(i)), nil)
	}
	for _, header := range []nats.Header{{"Nats-Rollup": {"all"}}, {"Nats-Rollup": {"sub"}}, {"Nats-TTL": {"1s"}}, {"Nats-Schedule": {"@at 2001-01-01T00:00:00Z"}, "Nats-Schedule-Target": {r.names.Filter()}}} {
		_, err := r.js.PublishMsg(t.Context(), &nats.Msg{Subject: r.names.Filter(), Data: []byte(reset("FORGED", graphsim.GoodDevice(9))), Header: header})
		if api := (*jetstream.APIError)(nil); !errors.As(err, &api) {
			t.Errorf("%v: %v", header, err)
		}
	}
	if n := r.waiting(); n != 3 {
		t.Errorf("%d requests wait", n)
	}
	r.start()
	r.awaitEmpty()
	for i := range 3 {
		if n := r.sim.Resets(graphsim.GoodDevice(i)); n != 1 {
			t.Errorf("device %d was reset %d times", i, n)
		}
	}
}
