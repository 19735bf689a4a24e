// Package natsconn connects to NATS as the worker and its tools do.
package natsconn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/coalesce"
)

// Times of the connection to NATS. It is tried for ever.
const (
	reconnectWait = 200 * time.Millisecond
	reconnectMost = 2 * time.Second
	pingInterval  = 10 * time.Second
	// connectTimeout is as long as the nats tool waits. The library's two seconds
	// are too short behind some load balancers and meshes.
	connectTimeout = 5 * time.Second
)

// Config says how to reach the server and as whom. Everything
// is optional.
type Config struct {
	URL            string // comma-separated addresses; empty: nats://127.0.0.1:4222
	Creds          string // file
	NKey           string // file with the seed
	User, Password string
	Token          string
	JWT, Seed      string // of the user, themselves; an account may trust a JWT without a seed
	CA, Cert, Key  string // PEM files
	// TLSFirst begins with TLS, before the server has said anything.
	TLSFirst bool
	// Timeout is for connecting to one server, until it has accepted the user; 0
	// means 5 s.
	Timeout time.Duration
	// InboxPrefix begins the subjects on which answers arrive; empty: _INBOX.
	InboxPrefix string
	// JSDomain and JSAPIPrefix name the JetStream that is meant, where it is not
	// the one of the server that answers; at most one of them.
	JSDomain, JSAPIPrefix string
}

// Connect connects to NATS, or goes on trying in the background: a worker that
// starts before its server waits for it.
func Connect(cfg Config, extra ...nats.Option) (*nats.Conn, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = connectTimeout
	}
	opts := []nats.Option{
		nats.Name("passcode-worker"),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			return min(reconnectWait*time.Duration(max(attempts, 1)), reconnectMost)
		}),
		// Two refusals in a row would else end the connection for good.
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		// Nothing is kept to be sent later: a write that failed must have
		// failed, not happen when somebody else has gone on.
		nats.ReconnectBufSize(-1),
		// A request is at least three small messages, and many are worked on at a
		// time: a system call for each would be most of what they cost. What is not
		// sent yet is lost with its connection, as what is on its way.
		nats.SetCustomDialer(coalesce.Dialer{Timeout: cfg.Timeout}),
		nats.Timeout(cfg.Timeout),
	}
	if cfg.Creds != "" {
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	if cfg.NKey != "" {
		opt, err := Key(cfg.NKey)
		if err != nil {
			return nil, fmt.Errorf("NATS_NKEY: %s is not a file with an nkey seed", cfg.NKey)
		}
		opts = append(opts, opt)
	}
	if cfg.User != "" {
		opts = append(opts, nats.UserInfo(cfg.User, cfg.Password))
	}
	if cfg.Token != "" {
		opts = append(opts, nats.Token(cfg.Token))
	}
	if cfg.JWT != "" {
		opts = append(opts, jwtOption(cfg.JWT, cfg.Seed))
	}
	if cfg.TLSFirst {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	if cfg.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(cfg.InboxPrefix))
	}
	if cfg.CA != "" {
		opts = append(opts, Authorities(cfg.CA))
	}
	if cfg.Cert != "" {
		opts = append(opts, Certificate(cfg.Cert, cfg.Key))
	}
	url := cfg.URL
	if url == "" {
		url = nats.DefaultURL
	}
	nc, err := nats.Connect(url, append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("NATS_URL: %w", cfg.Explain(err))
	}
	return nc, nil
}

// jwtOption makes the connection authenticate by the JWT of a user. One without a
// seed is a bearer's: nothing is signed.
func jwtOption(jwt, seed string) nats.Option {
	if seed != "" {
		return nats.UserJWTAndSeed(jwt, seed)
	}
	return nats.UserJWT(func() (string, error) { return jwt, nil }, func([]byte) ([]byte, error) { return nil, nil })
}

// JetStream is the one that is meant: of the server that answers, of a domain, or
// of whoever has the prefix.
func (c Config) JetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(nc)
	switch {
	case c.JSDomain != "":
		js, err = jetstream.NewWithDomain(nc, c.JSDomain)
	case c.JSAPIPrefix != "":
		js, err = jetstream.NewWithAPIPrefix(nc, c.JSAPIPrefix)
	}
	if err != nil {
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return js, nil
}

// Explain adds to a failure to connect what it is likely due to, and which
// variable cures it, where that can be told.
func (c Config) Explain(err error) error {
	var network net.Error
	var op *net.OpError
	var header tls.RecordHeaderError
	var untrusted *tls.CertificateVerificationError
	timeout := errors.Is(err, nats.ErrTimeout) || errors.As(err, &network) && network.Timeout()
	hint := ""
	switch {
	case errors.As(err, &untrusted):
		hint = "NATS_CA sets the certificate authorities to trust"
	case errors.Is(err, nats.ErrSecureConnWanted):
		hint = "the server does not use TLS: write nats:// in NATS_URL, and remove NATS_CA and NATS_CERT"
	case errors.As(err, &header) && c.TLSFirst:
		hint = "the server does not start with TLS: remove NATS_TLS_FIRST"
	case timeout && errors.As(err, &op) && op.Op == "dial":
		hint = "nothing answers there; if the link is slow, give it more time with NATS_TIMEOUT"
	case timeout && c.TLSFirst:
		hint = "the link may be slow: give it more time with NATS_TIMEOUT; or the server does not start with TLS: remove NATS_TLS_FIRST"
	case (timeout || errors.Is(err, io.EOF)) && !c.TLSFirst:
		hint = "something accepted the connection but did not greet like a NATS server: if the server starts with TLS, set NATS_TLS_FIRST=true; if the link is slow, give it more time with NATS_TIMEOUT"
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, hint)
}
