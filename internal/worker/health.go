package worker

import (
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natsconn"
)

const (
	// repeatError is how often the same error of the server is logged again.
	repeatError = time.Minute
	// errorStands is how long an error of the server is shown in /readyz.
	errorStands = 10 * time.Minute
)

// health watches the connection to NATS.
type health struct {
	nats    natsconn.Config
	log     *zap.Logger
	metrics *metrics.Metrics

	mu        sync.Mutex
	connected bool
	since     time.Time
	err       string
	errAt     time.Time
}

func newHealth(cfg natsconn.Config, log *zap.Logger, m *metrics.Metrics) *health {
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
				h.log.Warn("the connection to NATS is lost; trying again until it is back", zap.Error(err))
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { h.report(h.nats.Explain(err)) }),
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
