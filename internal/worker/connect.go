package worker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/coalesce"
	"passcode-worker/internal/metrics"
)

// Times of the connection to NATS. It is tried for ever.
const (
	reconnectWait = 200 * time.Millisecond
	reconnectMost = 2 * time.Second
	pingInterval  = 10 * time.Second
	// connectTimeout is as long as the nats tool waits. The library's two seconds
	// are too short behind some load balancers and meshes.
	connectTimeout = 5 * time.Second
	// repeatError is how often the same error of the server is logged again.
	repeatError = time.Minute
	// errorStands is how long an error of the server is shown in /readyz.
	errorStands = 10 * time.Minute
)

// Connect connects to NATS, or goes on trying in the background: a worker that
// starts before its server waits for it.
func Connect(cfg NATS, extra ...nats.Option) (*nats.Conn, error) {
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
		opt, err := NATSKey(cfg.NKey)
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
		opts = append(opts, NATSAuthorities(cfg.CA))
	}
	if cfg.Cert != "" {
		opts = append(opts, NATSCertificate(cfg.Cert, cfg.Key))
	}
	url := cfg.URL
	if url == "" {
		url = nats.DefaultURL
	}
	nc, err := nats.Connect(url, append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("NATS_URL: %w", cfg.explain(err))
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
func (n NATS) JetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(nc)
	switch {
	case n.JSDomain != "":
		js, err = jetstream.NewWithDomain(nc, n.JSDomain)
	case n.JSAPIPrefix != "":
		js, err = jetstream.NewWithAPIPrefix(nc, n.JSAPIPrefix)
	}
	if err != nil {
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return js, nil
}

// explain adds to a failure to connect what it is likely due to, and which
// variable cures it, where that can be told.
func (n NATS) explain(err error) error {
	var network net.Error
	var op *net.OpError
	var header tls.RecordHeaderError
	var untrusted *tls.CertificateVerificationError
	timeout := errors.Is(err, nats.ErrTimeout) || errors.As(err, &network) && network.Timeout()
	hint := ""
	switch {
	case errors.As(err, &untrusted):
		hint = "NATS_CA names the authorities to trust"
	case errors.Is(err, nats.ErrSecureConnWanted):
		hint = "the server has no TLS: write nats:// in NATS_URL, and leave NATS_CA and NATS_CERT out"
	case errors.As(err, &header) && n.TLSFirst:
		hint = "the server speaks before TLS: leave NATS_TLS_FIRST out"
	case timeout && errors.As(err, &op) && op.Op == "dial":
		hint = "nothing answers there; NATS_TIMEOUT gives a slow link more time"
	case timeout && n.TLSFirst:
		hint = "NATS_TIMEOUT gives a slow link more time; or the server does not begin with TLS: leave NATS_TLS_FIRST out"
	case (timeout || errors.Is(err, io.EOF)) && !n.TLSFirst:
		hint = "something took the connection and did not greet as a NATS server does: one that wants TLS first needs NATS_TLS_FIRST=true, and a slow link more NATS_TIMEOUT"
	}
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, hint)
}

// health watches the connection to NATS.
type health struct {
	nats    NATS
	log     *zap.Logger
	metrics *metrics.Metrics

	mu        sync.Mutex
	connected bool
	since     time.Time
	err       string
	errAt     time.Time
}

func newHealth(cfg NATS, log *zap.Logger, m *metrics.Metrics) *health {
	return &health{nats: cfg, log: log, metrics: m, since: time.Now()}
}

// options make the connection report here.
func (h *health) options() []nats.Option {
	return []nats.Option{
		nats.ConnectHandler(func(nc *nats.Conn) {
			h.change(true)
			h.log.Info("connected to NATS", zap.String("server", nc.ConnectedAddr()), zap.String("version", nc.ConnectedServerVersion()))
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			h.change(true)
			h.metrics.Reconnected()
			h.log.Info("connected to NATS again", zap.String("server", nc.ConnectedAddr()), zap.String("version", nc.ConnectedServerVersion()))
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			h.change(false)
			if err != nil { // nil: we have closed it
				h.log.Warn("NATS is away; trying again for ever", zap.Error(err))
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { h.report(h.nats.explain(err)) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { h.report(err) }),
	}
}

func (h *health) change(connected bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.connected, h.since = connected, time.Now()
	if connected {
		h.err = ""
	}
	h.metrics.SetConnected(connected)
}

// report keeps an error that NATS sent out of turn. A refused publish is only
// ever told this way: to its caller it looks like a time-out.
func (h *health) report(err error) {
	if err == nil || errors.Is(err, nats.ErrConnectionClosed) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err.Error() == h.err && time.Since(h.errAt) < repeatError {
		return
	}
	h.err, h.errAt = err.Error(), time.Now()
	h.log.Error("NATS reports an error", zap.Error(err))
}

func (h *health) state(nc *nats.Conn) metrics.NATSState {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := metrics.NATSState{Connected: nc.IsConnected(), Server: nc.ConnectedAddr(), Since: h.since}
	if h.err != "" && time.Since(h.errAt) < errorStands {
		s.Error = h.err
	}
	return s
}
