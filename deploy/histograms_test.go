package deploy_test

import (
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/metrics"
	"passcode-worker/internal/outcome"
)

const nativeHistograms = "--enable-feature=native-histograms"

// The service level and the dashboard say the same, whether a real Prometheus
// takes the classic form of the worker's histograms, the native form alone, or
// the one from one replica and the other from another.
func TestHistogramsOfEitherForm(t *testing.T) {
	t.Parallel()
	began := time.Now()
	native, classic := exposes(t, true), exposes(t, false)
	for name, c := range map[string]struct {
		targets         string
		flags           []string
		buckets, native float64 // series of each form
	}{
		"classic": {targets: classic, buckets: 1},
		"native":  {targets: native, flags: []string{nativeHistograms}, native: 1},
		"both":    {targets: native + "," + classic, flags: []string{nativeHistograms}, buckets: 1, native: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startProm(t, quickRules(t), map[string]string{"w": c.targets}, c.flags...)
			p.watch()
			p.awaitAlerts(60*time.Second, "PasscodeResetBudgetBurnsFast")
			const late = "job_tenant:passcode_reset_requests_late:"
			// A scrape that fails takes all series away until the next.
			becomes := func(what, query string, least, most float64) {
				t.Helper()
				var last float64
				defer func() { t.Logf("%s: %v", what, last) }()
				await(t, testTime, what, func() bool { last = p.value(query); return least <= last && last <= most })
			}
			becomes("a fifth of the requests to be late", late+"ratio_rate1h", 0.19, 0.21)
			becomes("requests to be late", late+"increase1h", 5, math.Inf(1))
			const duration = "passcode_reset_request_duration_seconds"
			becomes("the classic series", `count(`+duration+`_bucket{tenant="default", outcome="accepted", le="60"})`, c.buckets, c.buckets)
			becomes("the native series", `count(`+duration+`{tenant="default", outcome="accepted"})`, c.native, c.native)
			asked := 0
			for title, query := range readDashboard(t).queries() {
				if !strings.Contains(query, "histogram_") {
					continue
				}
				asked++
				if n, err := p.samples(query, began, time.Now()); err != nil || n == 0 {
					t.Errorf("%s: %d samples, %v: %s", title, n, err, query)
				}
			}
			if asked < 5 {
				t.Errorf("%d queries of the dashboard are of histograms", asked)
			}
		})
	}
}

// exposes is the address of a worker's metrics, on which one request in five takes
// a minute. Without native it speaks the text format, as an older one would.
func exposes(t *testing.T, native bool) string {
	t.Helper()
	m := metrics.New(metrics.Build{})
	tenant := m.Tenant("default")
	h := metrics.Handler(m, nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant.Request(metrics.OutcomeAccepted, time.Minute)
		for range 4 {
			tenant.Request(metrics.OutcomeAccepted, time.Second)
		}
		m.DeviceOutcome(outcome.Done, 30*time.Second)
		m.DeviceOutcome(outcome.Failed, time.Minute)
		m.GraphRequest(http.MethodPost, http.StatusNoContent, 300*time.Millisecond)
		m.GraphRequest(http.MethodGet, http.StatusOK, 300*time.Millisecond)
		if !native {
			r.Header.Set("Accept", "text/plain;version=0.0.4")
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
