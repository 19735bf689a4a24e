package metrics

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"passcode-worker/internal/hold"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/verdict"
)

// Tenant is the series of one tenant. Its methods are safe for concurrent use
// and cheap: every series is looked up once, when the tenant is made. A label
// value from outside its closed list panics.
type Tenant struct {
	requests      map[Outcome]prometheus.Counter
	durations     map[Outcome]prometheus.Observer
	deadLetters   map[verdict.Reason]prometheus.Counter
	attempts      map[verdict.Result]prometheus.Counter
	verifications map[verdict.Verification]prometheus.Counter
	tokens        map[TokenResult]prometheus.Counter
	holds         map[hold.Cause]prometheus.Gauge
	outcomes      map[outcome.Outcome]prometheus.Counter
	lost          prometheus.Counter

	rate, rateConfigured, pausedUntil prometheus.Gauge
	pause                             prometheus.Counter
	inFlight, waitingRetry            prometheus.Gauge
	messages, ackPending, redelivered prometheus.Gauge
	oldest, drain                     prometheus.Gauge
	active                            prometheus.Gauge

	board board
}

// Queue is what the server tells about a tenant's queue.
type Queue struct {
	Messages    int           // all that wait, also those delivered and not acknowledged
	AckPending  int           // delivered and not acknowledged yet
	Redelivered int           // of those, delivered more than once
	Oldest      time.Duration // age of the oldest; 0 = none waits
	Drain       time.Duration // estimate until empty; 0 = empty, negative = no end in sight
}

// Request counts a message that came to its end, sincePublished after it was
// published. A duplicate has no duration: its work was done by another message.
func (t *Tenant) Request(o Outcome, sincePublished time.Duration) {
	pick(t.requests, o, "outcome").Inc()
	if d, ok := t.durations[o]; ok {
		d.Observe(seconds(sincePublished))
	}
	switch o {
	case OutcomeAccepted:
		t.board.count(func(s *slot) { s.accepted++ })
	case OutcomeDead:
		t.board.count(func(s *slot) { s.dead++ })
	}
}

// DeadLetter counts a request put on the dead-letter stream.
func (t *Tenant) DeadLetter(r verdict.Reason) { pick(t.deadLetters, r, "reason").Inc() }

// Attempt counts the end of one reset call.
func (t *Tenant) Attempt(r verdict.Result) {
	pick(t.attempts, r, "result of an attempt").Inc()
	t.board.count(func(s *slot) {
		s.calls++
		if r == verdict.ResultThrottled {
			s.throttled++
		}
	})
}

// Verification counts the end of one look at whether a reset took effect.
func (t *Tenant) Verification(v verdict.Verification) {
	pick(t.verifications, v, "result of a verification").Inc()
	t.board.count(func(s *slot) { s.calls++ })
}

// TokenRequest counts the end of one request to the token endpoint.
func (t *Tenant) TokenRequest(r TokenResult) { pick(t.tokens, r, "result of a token request").Inc() }

// SetRate sets the calls per second allowed now and those configured; 0 means
// no limit.
func (t *Tenant) SetRate(perSecond, configured float64) {
	t.rate.Set(perSecond)
	t.rateConfigured.Set(configured)
	t.board.set(func(n *now) { n.rate, n.configured = perSecond, configured })
}

// SetPausedUntil sets the moment until which no call is sent; the zero time
// means that there is no pause.
func (t *Tenant) SetPausedUntil(until time.Time) {
	if until.IsZero() {
		t.pausedUntil.Set(0)
		return
	}
	t.pausedUntil.Set(float64(until.UnixMilli()) / 1000)
}

// AddPause adds time during which Graph made the tenant wait.
func (t *Tenant) AddPause(d time.Duration) { t.pause.Add(seconds(d)) }

// SetHold says whether the queue stands still for this cause.
func (t *Tenant) SetHold(c hold.Cause, held bool) {
	pick(t.holds, c, "cause of a hold").Set(oneIf(held))
}

// InFlight changes the number of requests being worked on: +1 at the start of
// one, -1 at its end.
func (t *Tenant) InFlight(delta int) {
	t.inFlight.Add(float64(delta))
	t.board.set(func(n *now) { n.inFlight += delta })
}

// SetWaitingRetry sets the number of requests that wait for their next attempt
// or verification.
func (t *Tenant) SetWaitingRetry(n int) {
	t.waitingRetry.Set(float64(n))
	t.board.set(func(b *now) { b.waitingRetry = n })
}

// SetQueue sets what the server tells about the queue.
func (t *Tenant) SetQueue(q Queue) {
	t.board.set(func(n *now) { n.queue, n.queueKnown = q, true })
	t.messages.Set(float64(q.Messages))
	t.ackPending.Set(float64(q.AckPending))
	t.redelivered.Set(float64(q.Redelivered))
	t.oldest.Set(seconds(q.Oldest))
	if q.Drain < 0 {
		t.drain.Set(math.Inf(1)) // so that an alert on a long drain fires
		return
	}
	t.drain.Set(q.Drain.Seconds())
}

// SetActive says whether this replica is the one that works on the tenant.
func (t *Tenant) SetActive(active bool) { t.active.Set(oneIf(active)) }

// tenantCollectors holds the families that have a tenant label; it is always
// their first.
type tenantCollectors struct {
	requests, deadLetters, attempts, verifications, tokens, pause *prometheus.CounterVec
	outcomes, lost                                                *prometheus.CounterVec
	durations                                                     *prometheus.HistogramVec
	rate, rateConfigured, pausedUntil                             *prometheus.GaugeVec
	hold, inFlight, waitingRetry, active                          *prometheus.GaugeVec
	messages, ackPending, redelivered, oldest, drain              *prometheus.GaugeVec
}

func newTenantCollectors(f promauto.Factory) tenantCollectors {
	return tenantCollectors{
		requests: newCounterVec(f, "requests_total",
			"Requests that came to their end; duplicate: acknowledged without a call, since the same id had ended already.",
			"tenant", "outcome"),
		durations: newHistogramVec(f, "request_duration_seconds",
			"Seconds from the publishing of a request to its end, accepted or dead.",
			[]float64{.1, .5, 1, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600},
			"tenant", "outcome"),
		deadLetters: newCounterVec(f, "dead_letters_total",
			"Requests put on the dead-letter stream, by reason.", "tenant", "reason"),
		attempts: newCounterVec(f, "attempts_total",
			"Reset calls, by what came of them; unknown: sent, but nobody knows what it did.", "tenant", "result"),
		verifications: newCounterVec(f, "verifications_total",
			"Looks at a device to settle an unknown outcome; executed: the reset had taken effect.", "tenant", "result"),
		tokens: newCounterVec(f, "token_requests_total",
			"Requests to the token endpoint, by what came of them.", "tenant", "result"),
		outcomes: newCounterVec(f, "outcomes_total",
			"Accepted resets whose end on the device is known, or whose time is over, by that outcome.", "tenant", "outcome"),
		lost: newCounterVec(f, "follow_lost_total",
			"Accepted resets that are not followed, or no more: the alarm could not be stored, or the record is gone.", "tenant"),
		rate: newGaugeVec(f, "rate_limit",
			"Calls per second that the pacer allows now; 0: no limit.", "tenant"),
		rateConfigured: newGaugeVec(f, "rate_limit_configured",
			"Calls per second that the configuration allows; 0: no limit.", "tenant"),
		pausedUntil: newGaugeVec(f, "paused_until_timestamp_seconds",
			"Unix time until which no call is sent, because Graph asked for it; 0 or past: no pause.", "tenant"),
		pause: newCounterVec(f, "pause_seconds_total",
			"Seconds of pause that throttling has imposed.", "tenant"),
		hold: newGaugeVec(f, "hold",
			"1 while the queue stands still for this cause, 0 while not.", "tenant", "cause"),
		inFlight: newGaugeVec(f, "in_flight",
			"Requests being worked on by this replica; 0: none.", "tenant"),
		waitingRetry: newGaugeVec(f, "waiting_retry",
			"Requests that wait for their next attempt or verification, without a worker slot; 0: none.", "tenant"),
		messages: newGaugeVec(f, "queue_messages",
			"Requests in the queue, also those being worked on; 0: none, or not read yet.", "tenant"),
		ackPending: newGaugeVec(f, "queue_ack_pending",
			"Requests delivered and not acknowledged yet; 0: none, or not read yet.", "tenant"),
		redelivered: newGaugeVec(f, "queue_redelivered",
			"Requests delivered more than once and not acknowledged yet; 0: none, or not read yet.", "tenant"),
		oldest: newGaugeVec(f, "queue_oldest_seconds",
			"Seconds since the oldest request in the queue was published; 0: none waits, or not read yet.", "tenant"),
		drain: newGaugeVec(f, "queue_drain_seconds",
			"Estimated seconds until the queue is empty; 0: empty, or not read yet; +Inf: no end in sight.", "tenant"),
		active: newGaugeVec(f, "active",
			"1 on the replica that works on this tenant, 0 on a standby.", "tenant"),
	}
}

// tenant creates every series of one tenant.
func (c *tenantCollectors) tenant(name string) *Tenant {
	return &Tenant{
		requests:       children(c.requests.WithLabelValues, name, Outcomes()),
		durations:      children(c.durations.WithLabelValues, name, []Outcome{OutcomeAccepted, OutcomeDead}),
		deadLetters:    children(c.deadLetters.WithLabelValues, name, verdict.Reasons()),
		attempts:       children(c.attempts.WithLabelValues, name, verdict.Results()),
		verifications:  children(c.verifications.WithLabelValues, name, verdict.Verifications()),
		tokens:         children(c.tokens.WithLabelValues, name, TokenResults()),
		holds:          children(c.hold.WithLabelValues, name, hold.Causes()),
		outcomes:       children(c.outcomes.WithLabelValues, name, outcome.Finals()),
		lost:           c.lost.WithLabelValues(name),
		rate:           c.rate.WithLabelValues(name),
		rateConfigured: c.rateConfigured.WithLabelValues(name),
		pausedUntil:    c.pausedUntil.WithLabelValues(name),
		pause:          c.pause.WithLabelValues(name),
		inFlight:       c.inFlight.WithLabelValues(name),
		waitingRetry:   c.waitingRetry.WithLabelValues(name),
		messages:       c.messages.WithLabelValues(name),
		ackPending:     c.ackPending.WithLabelValues(name),
		redelivered:    c.redelivered.WithLabelValues(name),
		oldest:         c.oldest.WithLabelValues(name),
		drain:          c.drain.WithLabelValues(name),
		active:         c.active.WithLabelValues(name),
	}
}

// remove deletes every series of one tenant.
func (c *tenantCollectors) remove(name string) {
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{
		c.requests, c.durations, c.deadLetters, c.attempts, c.verifications, c.tokens, c.pause,
		c.rate, c.rateConfigured, c.pausedUntil, c.hold, c.inFlight, c.waitingRetry, c.active,
		c.messages, c.ackPending, c.redelivered, c.oldest, c.drain, c.outcomes, c.lost,
	} {
		v.DeletePartialMatch(prometheus.Labels{"tenant": name})
	}
}

// children creates the series of one family for a tenant and a closed list.
func children[K ~string, V any](with func(...string) V, tenant string, keys []K) map[K]V {
	m := make(map[K]V, len(keys))
	for _, k := range keys {
		m[k] = with(tenant, string(k))
	}
	return m
}
