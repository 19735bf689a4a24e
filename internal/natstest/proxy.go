package natstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Proxy stands between clients and one NATS server and makes the faults of a
// network: connections cut or refused, replies lost or late. What a client
// sends always reaches the server, so a lost reply is one whose request had its
// effect. It reads the NATS protocol on its way to the client and takes whole
// messages out of it; TLS is not understood.
//
// Its methods may be used at any time by any goroutine.
type Proxy struct {
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	refusing   bool
	swallowing bool
	delay      time.Duration
	first      time.Duration
	drops      []*drop
	links      map[*link]struct{}
}

// Message is one message on its way from the server to a client.
type Message struct {
	Subject string
	Reply   string
	Header  []byte // with its NATS/1.0 line; nil without headers
	Data    []byte
}

// drop is an order to swallow some messages.
type drop struct {
	left  int
	match func(Message) bool
	done  chan struct{}
}

// link is one connection of a client, and its continuation to the server.
type link struct {
	client, server net.Conn
	end            chan struct{}
	ending         sync.Once
}

// frame is one piece of the protocol, to be written when it is due.
type frame struct {
	bytes []byte
	due   time.Time
}

const (
	dialTimeout = 2 * time.Second
	// framesAhead is how much may wait for its delay to be over.
	framesAhead = 4096
)

// StartProxy puts a proxy before the server at target, an address such as
// nats://127.0.0.1:4222.
func StartProxy(target string) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("NATS proxy: %w", err)
	}
	p := &Proxy{
		target: strings.TrimPrefix(target, "nats://"),
		ln:     ln,
		links:  map[*link]struct{}{},
	}
	p.wg.Go(p.accept)
	return p, nil
}

// URL is the address for clients.
func (p *Proxy) URL() string { return "nats://" + p.ln.Addr().String() }

// Cut ends all present connections. Clients may connect again at once.
func (p *Proxy) Cut() {
	p.mu.Lock()
	links := p.links
	p.links = map[*link]struct{}{}
	p.mu.Unlock()
	for l := range links {
		l.close()
	}
}

// Refuse turns new connections away until [Proxy.Heal]; those that exist stay.
func (p *Proxy) Refuse() { p.set(func() { p.refusing = true }) }

// Away ends all connections and lets none in until [Proxy.Heal], as if the
// server were switched off.
func (p *Proxy) Away() {
	p.Refuse()
	p.Cut()
}

// Swallow loses everything the server sends until [Proxy.Heal]: messages,
// replies, pongs. The connections stay open and what clients send arrives.
func (p *Proxy) Swallow() { p.set(func() { p.swallowing = true }) }

// SwallowNext loses the next n messages that match, or the next n of all where
// match is nil. The channel is closed when the last of them is lost. match must
// not call the proxy.
func (p *Proxy) SwallowNext(n int, match func(Message) bool) <-chan struct{} {
	if match == nil {
		match = func(Message) bool { return true }
	}
	d := &drop{left: n, match: match, done: make(chan struct{})}
	if n <= 0 {
		close(d.done)
		return d.done
	}
	p.set(func() { p.drops = append(p.drops, d) })
	return d.done
}

// Delay makes everything the server sends arrive later by d, in its order; 0
// ends that.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// DelayFirst holds back what the server says first on each connection that is
// made from now on, and with it what follows; 0 ends that.
func (p *Proxy) DelayFirst(d time.Duration) { p.set(func() { p.first = d }) }

// Heal ends all faults. What was lost stays lost.
func (p *Proxy) Heal() {
	p.set(func() { p.refusing, p.swallowing, p.delay, p.first, p.drops = false, false, 0, 0, nil })
}

// Close ends the proxy with its connections, and waits until it is gone.
func (p *Proxy) Close() {
	p.set(func() { p.closed = true })
	_ = p.ln.Close() // a second Close finds it closed
	p.Cut()
	p.wg.Wait()
}

// PubAck matches the confirmation that the named stream stored a message. A
// refusal of the stream is not one.
func PubAck(stream string) func(Message) bool {
	prefix := fmt.Appendf(nil, `{"stream":%q,`, stream)
	return func(m Message) bool { return bytes.HasPrefix(m.Data, prefix) }
}

// AckConfirmation matches the reply to a confirmed ack: an empty message to an inbox.
func AckConfirmation(m Message) bool {
	return len(m.Data) == 0 && m.Header == nil && m.Reply == "" && strings.HasPrefix(m.Subject, "_INBOX")
}

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

// serve carries one connection until one of its ends is gone.
func (p *Proxy) serve(client net.Conn) {
	l, err := p.link(client)
	if err != nil {
		_ = client.Close() // the client sees the end of the connection
		return
	}
	defer p.unlink(l)
	frames := make(chan frame, framesAhead)
	var both sync.WaitGroup
	both.Go(func() {
		defer l.close()
		_, _ = io.Copy(l.server, l.client) // ends with the connection, however
	})
	both.Go(func() { l.write(frames) })
	p.read(l, frames)
	close(frames)
	both.Wait()
}

var errRefused = errors.New("refused")

func (p *Proxy) link(client net.Conn) (*link, error) {
	p.mu.Lock()
	refuse := p.refusing || p.closed
	p.mu.Unlock()
	if refuse {
		return nil, errRefused
	}
	conn, err := net.DialTimeout("tcp", p.target, dialTimeout)
	if err != nil {
		return nil, err
	}
	l := &link{client: client, server: conn, end: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusing || p.closed {
		_ = conn.Close() // it was not used
		return nil, errRefused
	}
	p.links[l] = struct{}{}
	return l, nil
}

func (p *Proxy) unlink(l *link) {
	l.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

func (l *link) close() {
	l.ending.Do(func() {
		close(l.end)
		_ = l.client.Close() // whoever reads or writes there learns of it
		_ = l.server.Close()
	})
}

// read takes the server's stream apart until it ends.
func (p *Proxy) read(l *link, frames chan<- frame) {
	r := bufio.NewReaderSize(l.server, 64<<10)
	var first time.Duration
	p.set(func() { first = p.first })
	for {
		raw, m, err := readFrame(r)
		if err != nil {
			return
		}
		delay, lost := p.fate(m)
		if lost {
			continue
		}
		delay, first = delay+first, 0
		select {
		case frames <- frame{raw, time.Now().Add(delay)}:
		case <-l.end:
			return
		}
	}
}

// fate decides about one piece of the protocol; m is nil if it is no message.
func (p *Proxy) fate(m *Message) (delay time.Duration, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.swallowing {
		return 0, true
	}
	for i, d := range p.drops {
		if m == nil || !d.match(*m) {
			continue
		}
		if d.left--; d.left == 0 {
			p.drops = append(p.drops[:i:i], p.drops[i+1:]...)
			close(d.done)
		}
		return 0, true
	}
	return p.delay, false
}

// write sends what is due to the client, until there is no more.
func (l *link) write(frames <-chan frame) {
	defer l.close()
	for f := range frames {
		if wait := time.Until(f.due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-l.end:
			}
		}
		if _, err := l.client.Write(f.bytes); err != nil {
			return
		}
	}
}

// readFrame reads one piece of the server's protocol: a line, and the payload
// that belongs to it. m is nil if it is no message.
func readFrame(r *bufio.Reader) (raw []byte, m *Message, err error) {
	raw, err = r.ReadBytes('\n')
	if err != nil {
		return nil, nil, err
	}
	fields := strings.Fields(string(raw))
	switch {
	case len(fields) == 0:
		return raw, nil, nil
	case fields[0] == "INFO":
		return ownAddressOnly(raw), nil, nil
	case fields[0] == "MSG" && (len(fields) == 4 || len(fields) == 5):
	case fields[0] == "HMSG" && (len(fields) == 5 || len(fields) == 6):
	default:
		return raw, nil, nil
	}
	total, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return nil, nil, fmt.Errorf("NATS proxy: %q: %w", raw, err)
	}
	header := 0
	numbers := 1
	if fields[0] == "HMSG" {
		numbers = 2
		if header, err = strconv.Atoi(fields[len(fields)-2]); err != nil || header > total {
			return nil, nil, fmt.Errorf("NATS proxy: %q is no message", raw)
		}
	}
	line := len(raw)
	raw = append(raw, make([]byte, total+len("\r\n"))...)
	if _, err := io.ReadFull(r, raw[line:]); err != nil {
		return nil, nil, err
	}
	m = &Message{Subject: fields[1], Data: raw[line+header : line+total]}
	if header > 0 {
		m.Header = raw[line : line+header]
	}
	if len(fields) == numbers+4 {
		m.Reply = fields[3]
	}
	return raw, m, nil
}

// ownAddressOnly takes the addresses of a cluster's servers out of the server's
// greeting: a client that knew them would go round the proxy.
func ownAddressOnly(info []byte) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(bytes.TrimPrefix(info, []byte("INFO ")), &fields) != nil {
		return info
	}
	delete(fields, "connect_urls")
	delete(fields, "ws_connect_urls")
	out, err := json.Marshal(fields)
	if err != nil {
		return info
	}
	return append(append([]byte("INFO "), out...), "\r\n"...)
}
