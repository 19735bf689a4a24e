package topology

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// API is the subject of a call such as STREAM.INFO.NAME to the JetStream that is
// meant.
func API(o jetstream.JetStreamOptions, call string) string {
	prefix := jetstream.DefaultAPIPrefix
	switch {
	case o.Domain != "":
		prefix = "$JS." + o.Domain + ".API"
	case o.APIPrefix != "":
		prefix = o.APIPrefix
	}
	return strings.TrimSuffix(prefix, ".") + "." + call
}

// KV is the subject on which a key of a bucket is written, or a wildcard of keys.
// In a domain, or behind a prefix, it begins with that: there the plain subject is
// the own server's.
func KV(o jetstream.JetStreamOptions, bucket, key string) string {
	subject := "$KV." + bucket + "." + key
	if API(o, "") == jetstream.DefaultAPIPrefix {
		return subject
	}
	return API(o, subject)
}

// Unheard adds to the answer that nobody hears a call which JetStream was asked:
// the server says no more of a domain or prefix that does not exist.
func Unheard(o jetstream.JetStreamOptions, err error) error {
	if !errors.Is(err, nats.ErrNoResponders) {
		return err
	}
	switch {
	case o.Domain != "":
		return fmt.Errorf("%w: no JetStream of the domain %q answers: check NATS_JS_DOMAIN, and whether this machine can reach its servers", err, o.Domain)
	case o.APIPrefix != "" && o.APIPrefix != jetstream.DefaultAPIPrefix:
		return fmt.Errorf("%w: no JetStream answers at %q: check NATS_JS_API_PREFIX and the imports of the account", err, o.APIPrefix)
	}
	return err
}

// ErrOtherDomain means that a message was stored by JetStream of another domain
// than the one that is meant.
var ErrOtherDomain = errors.New("it was stored in another JetStream domain")

// OfDomain refuses the acknowledgement of another domain than the one that is
// meant: a subject that streams of two domains take is stored by both, and the
// first answer counts for neither.
func OfDomain(js jetstream.JetStream, ack *jetstream.PubAck) error {
	if meant := js.Options().Domain; meant != "" && ack.Domain != meant {
		return fmt.Errorf("%w: stream %s of the domain %q also takes the subject, but NATS_JS_DOMAIN is %q; remove the subject from one of the two",
			ErrOtherDomain, ack.Stream, ack.Domain, meant)
	}
	return nil
}

// errNotMatched is how a stream refuses a message that expects another one.
// Source: nats-server, server/errors.json (JSStreamNotMatchErr).
const errNotMatched jetstream.ErrorCode = 10060

// ErrNotAllowed means that the account may not publish on a subject, so that it
// cannot be told who stores what comes there.
var ErrNotAllowed = errors.New("the account may not publish there")

// Takers names the streams that store what is published on a subject, one for
// each answer: those of this JetStream, and those of other domains and accounts
// that the subject reaches. It publishes a message that every stream refuses, and
// listens for as long as wait, or until so many have answered as are asked for; 0
// means all.
func Takers(ctx context.Context, nc *nats.Conn, subject string, wait time.Duration, most int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	before := nc.LastError()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	probe := &nats.Msg{Subject: subject, Reply: inbox, Header: nats.Header{jetstream.ExpectedStreamHeader: {"-"}}}
	if err := nc.PublishMsg(probe); err != nil {
		return nil, err
	}
	// A server answers in order, so a refusal comes before the answer to a ping.
	if err := nc.FlushWithContext(ctx); err != nil {
		return nil, err
	}
	if after := nc.LastError(); after != before && errors.Is(after, nats.ErrPermissionViolation) { //nolint:errorlint // the occurrence is meant
		return nil, fmt.Errorf("%w: %s", ErrNotAllowed, subject)
	}
	var found []string
	for most == 0 || len(found) < most {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break // nobody has heard the message, or the time is over
		}
		var answer struct {
			Error  *jetstream.APIError `json:"error"`
			Stream string              `json:"stream"`
		}
		if json.Unmarshal(m.Data, &answer) == nil && answer.Error != nil && answer.Error.ErrorCode == errNotMatched && answer.Stream != "" {
			found = append(found, answer.Stream)
		}
	}
	return found, nil
}

// Others is what is left of takers without the own stream, of which one answer is
// expected.
func Others(takers []string, own string) []string {
	if i := slices.Index(takers, own); i >= 0 {
		return slices.Delete(slices.Clone(takers), i, i+1)
	}
	return takers
}

const (
	// takersWait is how long streams of other domains may take to answer.
	takersWait = time.Second
	// lookUpWait bounds the reading of one stream.
	lookUpWait = time.Second
)

// ErrTaken means that a stream of another domain or account takes a subject.
var ErrTaken = errors.New("a stream of another JetStream domain, or of another account, already takes the subject")

// alone refuses a subject that a stream which is not of this JetStream takes. That
// of this one is left to the server, which refuses a second one itself.
func alone(ctx context.Context, js jetstream.JetStream, subject string) error {
	found, err := Takers(ctx, js.Conn(), subject, takersWait, 1)
	if errors.Is(err, ErrNotAllowed) {
		return nil // not to be found out
	}
	if err != nil || len(found) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpWait)
	defer cancel()
	if _, err := js.Stream(ctx, found[0]); !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return fmt.Errorf("%w: stream %s takes %s, and with a second stream each request could be done twice; "+
		"set NATS_JS_DOMAIN to the right domain, or remove the subject from that stream", ErrTaken, found[0], subject)
}

// Rivals names streams of other domains or accounts that take the tenant's dead
// letters, too, where servers with domains make that possible: a second
// installation with records of its own.
func Rivals(ctx context.Context, js jetstream.JetStream, n Names) []string {
	nc := js.Conn()
	if nc.ConnectedDomain() == "" && js.Options().Domain == "" {
		return nil
	}
	// The worker need not have the right to publish requests.
	found, err := Takers(ctx, nc, n.Dead(), takersWait, 0)
	if err != nil {
		return nil // it is looked at by worker check, too
	}
	return Others(found, n.DeadStream)
}
