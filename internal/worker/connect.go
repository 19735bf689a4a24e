package worker

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"passcode-worker/internal/coalesce"
	"passcode-worker/internal/metrics"
)

// Times of the connection to NATS. It is tried for ever.
const (
	reconnectWait = 200 * time.Millisecond
	reconnectMost = 2 * time.Second
	pingInterval  = 10 * time.Second
	// repeatError is how often the same error of the server is logged again.
	repeatError = time.Minute
	// errorStands is how long an error of the server is shown in /readyz.
	errorStands = 10 * time.Minute
)

// Connect connects to NATS, or goes on trying in the background: a worker that
// starts before its server waits for it.
func Connect(cfg NATS, extra ...nats.Option) (*nats.Conn, error) {
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
		nats.SetCustomDialer(coalesce.Dialer{Timeout: nats.DefaultTimeout}),
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
		return nil, fmt.Errorf("NATS_URL: %w", err)
	}
	return nc, nil
}

// health watches the connection to NATS.
type health struct {
	log     *zap.Logger
	metrics *metrics.Metrics

	mu        sync.Mutex
	connected bool
	since     time.Time
	err       string
	errAt     time.Time
}

func newHealth(log *zap.Logger, m *metrics.Metrics) *health {
	return &health{log: log, metrics: m, since: time.Now()}
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
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { h.report(err) }),
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
