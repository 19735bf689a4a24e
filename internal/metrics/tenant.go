package metrics

import (
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"passcode-worker/internal/hold"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/verdict"
)

// fewTenants is up to how many tenants the series of all exist from the start. With more, a
// tenant's series come with its first request, or with something that must be seen before
// that, such as a hold or a message in its queue.
const fewTenants = 200

// Tenant is the series of one tenant. Its methods are safe for concurrent use
// and cheap. A label value from outside its closed list panics.
type Tenant struct {
	families  *tenantFamilies
	values    []value // of all families, one after another
	durations map[Outcome]prometheus.Observer
	label     *dto.LabelPair
	created   *timestamppb.Timestamp
	begun     atomic.Bool // there has been something to show

	board board
}

// value is a number that many goroutines change and read.
type value struct{ bits atomic.Uint64 }

func (v *value) set(f float64) { v.bits.Store(math.Float64bits(f)) }
func (v *value) get() float64  { return math.Float64frombits(v.bits.Load()) }

func (v *value) add(f float64) {
	for {
		old := v.bits.Load()
		if v.bits.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+f)) {
			return
		}
	}
}

// of is the value of a family for a label value; what names the label in the panic of pick.
func of[K ~string](t *Tenant, f *series, key K, what string) *value {
	return &t.values[f.first+pick(f.index, string(key), what)]
}

// count adds one, and shows the tenant.
func count[K ~string](t *Tenant, f *series, key K, what string) {
	of(t, f, key, what).add(1)
	t.begin()
}

// only is the value of a family without a further label.
func (t *Tenant) only(f *series) *value { return &t.values[f.first] }

// begin shows the tenant's series from now on, however many tenants there are.
func (t *Tenant) begin() {
	if !t.begun.Load() {
		t.begun.Store(true)
	}
}

// Queue is the state of a tenant's queue.
type Queue struct {
	Messages    int           // all in the queue, including AckPending
	AckPending  int           // delivered and not acknowledged yet
	Redelivered int           // of AckPending, those delivered more than once
	Oldest      time.Duration // age of the oldest; 0 = none waits
	Drain       time.Duration // estimate until empty; 0 = empty, negative = no estimate
}

// Request counts a message that has ended, sincePublished after it was published.
// The duration of a duplicate is not counted: another message did its work.
func (t *Tenant) Request(o Outcome, sincePublished time.Duration) {
	count(t, t.families.requests, o, "outcome")
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

// DeadLetter counts a request that was moved to the dead-letter stream.
func (t *Tenant) DeadLetter(r verdict.Reason) {
	count(t, t.families.deadLetters, r, "reason")
}

// Attempt counts the end of one reset call.
func (t *Tenant) Attempt(r verdict.Result) {
	count(t, t.families.attempts, r, "result of an attempt")
	t.board.count(func(s *slot) {
		s.calls++
		if r == verdict.ResultThrottled {
			s.throttled++
		}
	})
}

// Verification counts the end of one look-up of whether a reset took effect.
func (t *Tenant) Verification(v verdict.Verification) {
	count(t, t.families.verifications, v, "result of a verification")
	t.board.count(func(s *slot) { s.calls++ })
}

// TokenRequest counts the end of one request to the token endpoint.
func (t *Tenant) TokenRequest(r TokenResult) {
	of(t, t.families.tokens, r, "result of a token request").add(1)
	if r != TokenOK { // a token is also fetched before there is a request: nothing to show
		t.begin()
	}
}

// SetRate sets the calls per second allowed now and those configured; 0 means
// no limit.
func (t *Tenant) SetRate(perSecond, configured float64) {
	t.only(t.families.rate).set(perSecond)
	t.only(t.families.rateConfigured).set(configured)
	t.board.set(func(n *now) { n.rate, n.configured = perSecond, configured })
}

// SetPausedUntil sets the moment until which no call is sent; the zero time
// means that there is no pause.
func (t *Tenant) SetPausedUntil(until time.Time) {
	if until.IsZero() {
		t.only(t.families.pausedUntil).set(0)
		return
	}
	t.only(t.families.pausedUntil).set(float64(until.UnixMilli()) / 1000)
	t.begin()
}

// AddPause adds time during which Graph made the tenant wait.
func (t *Tenant) AddPause(d time.Duration) {
	t.only(t.families.pause).add(seconds(d))
	t.begin()
}

// SetHold sets whether the queue stands still for this cause.
func (t *Tenant) SetHold(c hold.Cause, held bool) {
	of(t, t.families.hold, c, "cause of a hold").set(oneIf(held))
	if held {
		t.begin()
	}
}

// InFlight changes the number of requests being worked on: +1 at the start of
// one, -1 at its end.
func (t *Tenant) InFlight(delta int) {
	t.only(t.families.inFlight).add(float64(delta))
	t.begin()
	t.board.set(func(n *now) { n.inFlight += delta })
}

// SetWaitingRetry sets the number of requests that wait for their next attempt
// or verification.
func (t *Tenant) SetWaitingRetry(n int) {
	t.only(t.families.waitingRetry).set(float64(n))
	if n > 0 {
		t.begin()
	}
	t.board.set(func(b *now) { b.waitingRetry = n })
}

// SetQueue sets the state of the queue.
func (t *Tenant) SetQueue(q Queue) {
	t.board.set(func(n *now) { n.queue, n.queueKnown = q, true })
	if q.Messages > 0 || q.AckPending > 0 {
		t.begin()
	}
	f := t.families
	t.only(f.messages).set(float64(q.Messages))
	t.only(f.ackPending).set(float64(q.AckPending))
	t.only(f.redelivered).set(float64(q.Redelivered))
	t.only(f.oldest).set(seconds(q.Oldest))
	if q.Drain < 0 {
		t.only(f.drain).set(math.Inf(1)) // so that an alert on a long drain fires
		return
	}
	t.only(f.drain).set(q.Drain.Seconds())
}

// SetActive sets whether this replica is the one that works on the tenant.
func (t *Tenant) SetActive(active bool) {
	t.only(t.families.active).set(oneIf(active))
	if active {
		t.begin()
	}
}

// series are the series of one name. They have the label tenant and at most one more.
type series struct {
	name, help string
	kind       dto.MetricType
	first      int              // index of the first value in a tenant's values
	index      map[string]int   // by value of the further label, counted from first
	pairs      []*dto.LabelPair // the further label, sorted by value; one nil: there is none
}

// tenantFamilies are the families that have a tenant label. They are kept here and not in
// the registry, which at each scrape would make an object of each series, sort them and
// compare them: thousands of tenants have a hundred thousand series.
type tenantFamilies struct {
	all   []*series
	total int // number of values of a tenant

	requests, deadLetters, attempts, verifications, tokens, pause *series
	outcomes, lost                                                *series
	rate, rateConfigured, pausedUntil                             *series
	hold, inFlight, waitingRetry, active                          *series
	messages, ackPending, redelivered, oldest, drain              *series

	durations     *prometheus.HistogramVec
	durationsName string
	durationsHelp string
}

func newFamily[K ~string](s *tenantFamilies, kind dto.MetricType, name, help, label string, keys []K) *series {
	f := &series{name: Namespace + "_" + name, help: help, kind: kind, first: s.total, index: map[string]int{}, pairs: []*dto.LabelPair{nil}}
	if label != "" {
		f.pairs = nil
	}
	for i, key := range slices.Sorted(slices.Values(keys)) {
		f.index[string(key)] = i
		f.pairs = append(f.pairs, pairOf(label, string(key)))
	}
	s.total += len(f.pairs)
	s.all = append(s.all, f)
	return f
}

func pairOf(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

func newTenantFamilies() *tenantFamilies {
	const counter, gauge = dto.MetricType_COUNTER, dto.MetricType_GAUGE
	var none []string
	s := &tenantFamilies{}
	s.requests = newFamily(s, counter, "requests_total",
		"Requests that ended; duplicate: acknowledged without a call, because the same id had ended already.", "outcome", Outcomes())
	s.deadLetters = newFamily(s, counter, "dead_letters_total",
		"Requests moved to the dead-letter stream, by reason.", "reason", verdict.Reasons())
	s.attempts = newFamily(s, counter, "attempts_total",
		"Reset calls, by result; unknown: sent, but its effect is not known.", "result", verdict.Results())
	s.verifications = newFamily(s, counter, "verifications_total",
		"Looks at a device to settle an unknown outcome; executed: the reset had taken effect.", "result", verdict.Verifications())
	s.tokens = newFamily(s, counter, "token_requests_total",
		"Requests to the token endpoint, by result.", "result", TokenResults())
	s.outcomes = newFamily(s, counter, "outcomes_total",
		"Accepted resets that reached a final outcome on the device or ran out of time, by outcome.", "outcome", outcome.Finals())
	s.lost = newFamily(s, counter, "follow_lost_total",
		"Accepted resets that are not or no longer followed: the alarm could not be stored, or the record is gone.", "", none)
	s.rate = newFamily(s, gauge, "rate_limit",
		"Calls per second that the worker currently allows itself; 0: no limit.", "", none)
	s.rateConfigured = newFamily(s, gauge, "rate_limit_configured",
		"Calls per second that the configuration allows; 0: no limit.", "", none)
	s.pausedUntil = newFamily(s, gauge, "paused_until_timestamp_seconds",
		"Unix time until which the worker sends no call, because Graph asked for a pause; 0 or in the past: no pause.", "", none)
	s.pause = newFamily(s, counter, "pause_seconds_total",
		"Total seconds of pauses that throttling has imposed.", "", none)
	s.hold = newFamily(s, gauge, "hold",
		"1 while the queue stands still for this cause, 0 while not.", "cause", hold.Causes())
	s.inFlight = newFamily(s, gauge, "in_flight",
		"Requests being worked on by this replica; 0: none.", "", none)
	s.waitingRetry = newFamily(s, gauge, "waiting_retry",
		"Requests that wait for their next attempt or verification; they occupy no worker slot; 0: none.", "", none)
	s.messages = newFamily(s, gauge, "queue_messages",
		"Requests in the queue, including those being worked on; 0: none, or not read yet.", "", none)
	s.ackPending = newFamily(s, gauge, "queue_ack_pending",
		"Requests delivered but not acknowledged yet; 0: none, or not read yet.", "", none)
	s.redelivered = newFamily(s, gauge, "queue_redelivered",
		"Requests delivered more than once but not acknowledged yet; 0: none, or not read yet.", "", none)
	s.oldest = newFamily(s, gauge, "queue_oldest_seconds",
		"Seconds since the oldest request in the queue was published; 0: none waits, or not read yet.", "", none)
	s.drain = newFamily(s, gauge, "queue_drain_seconds",
		"Estimated seconds until the queue is empty; 0: empty, or not read yet; +Inf: no estimate.", "", none)
	s.active = newFamily(s, gauge, "active",
		"1 on the replica that works on this tenant, 0 on a standby.", "", none)
	s.durationsName, s.durationsHelp = Namespace+"_request_duration_seconds", "Seconds from publishing a request until it is accepted or dead."
	s.durations = prometheus.NewHistogramVec(histogramOpts("request_duration_seconds", s.durationsHelp,
		[]float64{.1, .5, 1, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600}), []string{"tenant", "outcome"})
	return s
}

// tenant makes every series of one tenant.
func (s *tenantFamilies) tenant(name string) *Tenant {
	return &Tenant{
		families:  s,
		values:    make([]value, s.total),
		durations: children(s.durations.WithLabelValues, name, timed()),
		label:     pairOf("tenant", name),
		created:   timestamppb.Now(),
	}
}

// timed are the outcomes that have a duration.
func timed() []Outcome { return []Outcome{OutcomeAccepted, OutcomeDead} }

// remove removes the histograms of a tenant; its other values go with the [Tenant].
func (s *tenantFamilies) remove(name string) {
	s.durations.DeletePartialMatch(prometheus.Labels{"tenant": name})
}

// gather returns the families of these tenants.
func (s *tenantFamilies) gather(tenants []*Tenant) ([]*dto.MetricFamily, error) {
	if len(tenants) == 0 {
		return nil, nil
	}
	var out []*dto.MetricFamily
	for _, f := range s.all {
		mf := &dto.MetricFamily{Name: &f.name, Help: &f.help, Type: &f.kind, Metric: make([]*dto.Metric, 0, len(f.pairs)*len(tenants))}
		for i, pair := range f.pairs {
			for _, t := range tenants {
				m := &dto.Metric{}
				if pair != nil {
					m.Label = []*dto.LabelPair{pair, t.label} // sorted by name
				} else {
					m.Label = []*dto.LabelPair{t.label}
				}
				v := t.values[f.first+i].get()
				if f.kind == dto.MetricType_COUNTER {
					m.Counter = &dto.Counter{Value: &v, CreatedTimestamp: t.created}
				} else {
					m.Gauge = &dto.Gauge{Value: &v}
				}
				mf.Metric = append(mf.Metric, m)
			}
		}
		out = append(out, mf)
	}
	mf := &dto.MetricFamily{Name: &s.durationsName, Help: &s.durationsHelp, Type: dto.MetricType_HISTOGRAM.Enum()}
	for _, o := range timed() {
		for _, t := range tenants {
			m := &dto.Metric{}
			if err := t.durations[o].(prometheus.Metric).Write(m); err != nil {
				return nil, err
			}
			mf.Metric = append(mf.Metric, m)
		}
	}
	return append(out, mf), nil
}

// children creates the series of one family for a tenant and a closed list.
func children[K ~string, V any](with func(...string) V, tenant string, keys []K) map[K]V {
	m := make(map[K]V, len(keys))
	for _, k := range keys {
		m[k] = with(tenant, string(k))
	}
	return m
}
