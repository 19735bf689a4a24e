package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"passcode-worker/internal/outcome"
)

// followSeries are the series of following that have no tenant label.
type followSeries struct {
	durations         map[outcome.Outcome]prometheus.Observer
	looks             map[outcome.Result]prometheus.Counter
	open, oldest, lag prometheus.Gauge
	stray             prometheus.Counter
}

func newFollowSeries(f promauto.Factory) followSeries {
	durations := newHistogramVec(f, "outcome_duration_seconds",
		"Seconds from the acceptance of a reset until its outcome on the device was found.",
		[]float64{15, 30, 60, 120, 300, 900, 3600, 4 * 3600, 8 * 3600, 24 * 3600, 3 * 24 * 3600, 7 * 24 * 3600}, "outcome")
	looks := newCounterVec(f, "follow_looks_total", "Looks at the devices of accepted resets, by result.", "result")
	s := followSeries{
		durations: map[outcome.Outcome]prometheus.Observer{},
		looks:     map[outcome.Result]prometheus.Counter{},
		open: newGauge(f, "follow_open",
			"Accepted resets whose outcome on the device is not final yet; 0: none, or not read yet."),
		oldest: newGauge(f, "follow_oldest_seconds",
			"Age in seconds of the oldest accepted reset among those that are looked at next; 0: none, or not read yet."),
		lag: newGauge(f, "follow_lag_seconds",
			"Seconds by which the most overdue look is late; 0: none is late, or not read yet."),
		stray: f.NewCounter(prometheus.CounterOpts{Namespace: Namespace, Name: "follow_stray_alarms_total",
			Help: "Messages on the follow stream that are not alarms, or belong to a tenant that this worker does not serve."}),
	}
	for _, o := range outcome.Finals() {
		s.durations[o] = durations.WithLabelValues(string(o))
	}
	for _, r := range outcome.Results() {
		s.looks[r] = looks.WithLabelValues(string(r))
	}
	return s
}

func newGauge(f promauto.Factory, name, help string) prometheus.Gauge {
	return f.NewGauge(prometheus.GaugeOpts{Namespace: Namespace, Name: name, Help: help})
}

// FollowDepth is how much is followed.
type FollowDepth struct {
	Open        int           // accepted resets without a final outcome
	Oldest, Lag time.Duration // see the series; a negative one counts as 0
}

// SetFollow sets how much is followed.
func (m *Metrics) SetFollow(d FollowDepth) {
	m.follow.open.Set(float64(d.Open))
	m.follow.oldest.Set(seconds(d.Oldest))
	m.follow.lag.Set(seconds(d.Lag))
	m.followed.set(d)
}

// Look counts a look at the device of an accepted reset.
func (m *Metrics) Look(r outcome.Result) { pick(m.follow.looks, r, "result of a look").Inc() }

// StrayAlarm counts a message on the follow stream that is not an alarm, or whose tenant
// is not served.
func (m *Metrics) StrayAlarm() { m.follow.stray.Inc() }

// DeviceOutcome counts a final outcome, sinceAccepted after the acceptance.
func (m *Metrics) DeviceOutcome(o outcome.Outcome, sinceAccepted time.Duration) {
	pick(m.follow.durations, o, "outcome").Observe(seconds(sinceAccepted))
}

// DeviceOutcome counts a final outcome of a request of the tenant.
func (t *Tenant) DeviceOutcome(o outcome.Outcome) {
	count(t, t.families.outcomes, o, "outcome")
	t.board.count(func(s *slot) {
		switch {
		case o == outcome.Done:
			s.done++
		case o == outcome.Failed:
			s.failed++
		default:
			s.other++
		}
	})
}

// NotFollowed counts an accepted request that is not, or no longer, followed, because its
// alarm could not be stored or its record is gone.
func (t *Tenant) NotFollowed() {
	t.only(t.families.lost).add(1)
	t.begin()
}
