// Package metrics holds every Prometheus series of the worker and the HTTP
// endpoints that show them.
//
// All names are defined here, and all label values come from closed lists. Every
// series exists from the start, because a rate over a counter that appears with its
// first event misses that event; only with very many tenants a tenant's series come
// later. testdata/metrics.golden shows what a new worker exposes.
package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	dto "github.com/prometheus/client_model/go"
)

// Namespace is the prefix of every series, without the underscore after it.
const Namespace = "passcode_reset"

// Build says which program this is. All fields may be empty.
type Build struct{ Version, Revision, GoVersion string }

// Metrics holds the series of one worker process. Its methods are safe for
// concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	build    Build

	graphRequests  *prometheus.CounterVec
	graphByCode    map[string]map[int]prometheus.Counter // by method; never written after New
	graphNoCode    map[string]prometheus.Counter         // the same
	graphDurations map[string]prometheus.Observer        // the same
	natsConnected  prometheus.Gauge
	natsReconnects prometheus.Counter
	unknownActions prometheus.Counter
	follow         followSeries
	followed       followed
	families       *tenantFamilies

	mu      sync.Mutex // guards tenants, and the creation and removal of their series
	tenants map[string]*Tenant
}

// New makes the series of a worker in a registry of its own, beside those of
// the Go runtime and of the process. Tenants are added with Tenant.
func New(b Build) *Metrics {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	f := promauto.With(reg)

	m := &Metrics{
		registry: reg,
		build:    b,
		graphRequests: newCounterVec(f, "graph_requests_total",
			"HTTP calls to Microsoft Graph, by method and status code; code none: there was no usable answer.",
			"method", "code"),
		graphByCode:    make(map[string]map[int]prometheus.Counter),
		graphNoCode:    make(map[string]prometheus.Counter),
		graphDurations: make(map[string]prometheus.Observer),
		natsConnected: f.NewGauge(prometheus.GaugeOpts{Namespace: Namespace, Name: "nats_connected",
			Help: "1 while connected to NATS, 0 while not."}),
		natsReconnects: f.NewCounter(prometheus.CounterOpts{Namespace: Namespace, Name: "nats_reconnects_total",
			Help: "Times that the connection to NATS was restored after a loss."}),
		unknownActions: f.NewCounter(prometheus.CounterOpts{Namespace: Namespace, Name: "unknown_action_names_total",
			Help: "Actions seen on devices that have the type of a reset but an unknown name; the log shows each name once."}),
		follow:   newFollowSeries(f),
		families: newTenantFamilies(),
		tenants:  make(map[string]*Tenant),
	}

	durations := newHistogramVec(f, "graph_request_duration_seconds",
		"Seconds from sending a call to Microsoft Graph until its answer or its failure.",
		[]float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30}, "method")
	for _, method := range methods() {
		m.graphDurations[method] = durations.WithLabelValues(method)
		m.graphNoCode[method] = m.graphRequests.WithLabelValues(method, noCode)
		m.graphByCode[method] = make(map[int]prometheus.Counter)
		for _, code := range codes() {
			m.graphByCode[method][code] = m.graphRequests.WithLabelValues(method, strconv.Itoa(code))
		}
	}

	newGaugeVec(f, "build_info",
		"Always 1; the labels show which build of the worker runs.",
		"version", "revision", "goversion",
	).WithLabelValues(b.Version, b.Revision, b.GoVersion).Set(1)
	return m
}

// Gather returns every series, as a [prometheus.Gatherer] does. With more than 200 tenants,
// it leaves out those that have had nothing to show.
func (m *Metrics) Gather() ([]*dto.MetricFamily, error) {
	all, err := m.registry.Gather()
	if err != nil {
		return all, err
	}
	of, err := m.families.gather(m.shown())
	all = append(all, of...)
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all, err
}

// shown are the tenants that have series, by name.
func (m *Metrics) shown() []*Tenant {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Tenant
	for _, t := range m.tenants {
		if len(m.tenants) <= fewTenants || t.begun.Load() {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *Tenant) int { return strings.Compare(a.label.GetValue(), b.label.GetValue()) })
	return out
}

// Tenant returns the series of one tenant, and creates all of them the first
// time. The name is the tenant's subject token and must be valid UTF-8.
func (m *Metrics) Tenant(name string) *Tenant {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.tenants[name]
	if !ok {
		t = m.families.tenant(name)
		m.tenants[name] = t
	}
	return t
}

// Remove removes all series of a tenant that is no longer served, and what the
// status page knows about it. A *Tenant that was handed out before can still
// count, but is shown nowhere; Tenant makes new series under the same name.
func (m *Metrics) Remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.tenants, name)
	m.families.remove(name)
}

// glances returns what the status page knows about each tenant.
func (m *Metrics) glances(at time.Time) map[string]glance {
	m.mu.Lock()
	tenants := maps.Clone(m.tenants)
	m.mu.Unlock()
	out := make(map[string]glance, len(tenants))
	for name, t := range tenants {
		out[name] = t.board.glance(at)
	}
	return out
}

// GraphRequest counts one HTTP call to Graph and how long it took. The method
// is POST or GET; status 0 means that there was no usable answer.
func (m *Metrics) GraphRequest(method string, status int, d time.Duration) {
	pick(m.graphDurations, method, "method").Observe(seconds(d))
	if c, ok := m.graphByCode[method][status]; ok {
		c.Inc()
		return
	}
	if status < 100 || status > 599 {
		// A broken proxy must not be able to invent label values.
		m.graphNoCode[method].Inc()
		return
	}
	m.graphRequests.WithLabelValues(method, strconv.Itoa(status)).Inc()
}

// SetConnected sets whether the worker is connected to NATS.
func (m *Metrics) SetConnected(connected bool) { m.natsConnected.Set(oneIf(connected)) }

// Reconnected counts a connection to NATS that was restored after a loss.
func (m *Metrics) Reconnected() { m.natsReconnects.Inc() }

// UnknownActionName counts an action on a device that has the type of a reset but
// an unknown name.
func (m *Metrics) UnknownActionName() { m.unknownActions.Inc() }

func newCounterVec(f promauto.Factory, name, help string, labels ...string) *prometheus.CounterVec {
	return f.NewCounterVec(prometheus.CounterOpts{Namespace: Namespace, Name: name, Help: help}, labels)
}

func newGaugeVec(f promauto.Factory, name, help string, labels ...string) *prometheus.GaugeVec {
	return f.NewGaugeVec(prometheus.GaugeOpts{Namespace: Namespace, Name: name, Help: help}, labels)
}

// newHistogramVec makes a histogram that is native for Prometheus servers that
// scrape native ones, and classic, with the given buckets, for the others.
func newHistogramVec(f promauto.Factory, name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return f.NewHistogramVec(histogramOpts(name, help, buckets), labels)
}

func histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Namespace: Namespace, Name: name, Help: help,
		Buckets:                         buckets,
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}
}

// pick looks up a label value. It panics for one that is not in its closed list:
// that is a bug of this program, which a silently wrong number would hide.
func pick[K ~string, V any](m map[K]V, key K, label string) V {
	v, ok := m[key]
	if !ok {
		panic(fmt.Sprintf("metrics: %q is no known %s", string(key), label))
	}
	return v
}

// seconds converts a measured duration. A negative one, which the clocks of two
// machines can cause, counts as 0, since it would make a sum fall.
func seconds(d time.Duration) float64 { return max(d, 0).Seconds() }

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
