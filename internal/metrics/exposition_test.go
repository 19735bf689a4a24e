package metrics

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"passcode-worker/internal/hold"
	"passcode-worker/internal/verdict"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

var update = flag.Bool("update", false, "write testdata/metrics.golden anew")

func newTest() *Metrics {
	return New(Build{Version: "v1.2.3", Revision: "abcdef0", GoVersion: "go1.26"})
}

// exposition returns this package's lines of /metrics in the text format.
func exposition(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(m, nil).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	var own strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		if strings.HasPrefix(name, Namespace+"_") {
			own.WriteString(line)
		}
	}
	return own.String()
}

// wantLines fails unless each line, written without the prefix, is exposed.
func wantLines(t *testing.T, m *Metrics, lines ...string) {
	t.Helper()
	have := exposition(t, m)
	for _, line := range lines {
		if !strings.Contains(have, "\n"+Namespace+"_"+line+"\n") {
			t.Errorf("not exposed: %s", line)
		}
	}
}

func TestGolden(t *testing.T) {
	m := newTest()
	m.Tenant("default")
	got := exposition(t, m)
	golden := filepath.Join("testdata", "metrics.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	for line := range strings.Lines(got) {
		if !strings.Contains(string(want), line) {
			t.Errorf("new:  %s", line)
		}
	}
	for line := range strings.Lines(string(want)) {
		if !strings.Contains(got, line) {
			t.Errorf("gone: %s", line)
		}
	}
	t.Error("series changed; if that is wanted: go test ./internal/metrics -update")
}

func TestLint(t *testing.T) {
	m := newTest()
	m.Tenant("default")
	problems, err := testutil.GatherAndLint(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestClosedListsArePresentFromTheStart(t *testing.T) {
	m := newTest()
	m.Tenant("a")
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, v := range Outcomes() {
		add(`requests_total{outcome="%s",tenant="a"} 0`, v)
	}
	for _, v := range verdict.Reasons() {
		add(`dead_letters_total{reason="%s",tenant="a"} 0`, v)
	}
	for _, v := range verdict.Results() {
		add(`attempts_total{result="%s",tenant="a"} 0`, v)
	}
	for _, v := range verdict.Verifications() {
		add(`verifications_total{result="%s",tenant="a"} 0`, v)
	}
	for _, v := range TokenResults() {
		add(`token_requests_total{result="%s",tenant="a"} 0`, v)
	}
	for _, v := range hold.Causes() {
		add(`hold{cause="%s",tenant="a"} 0`, v)
	}
	for _, v := range []Outcome{OutcomeAccepted, OutcomeDead} {
		add(`request_duration_seconds_count{outcome="%s",tenant="a"} 0`, v)
	}
	for _, method := range methods() {
		add(`graph_request_duration_seconds_count{method="%s"} 0`, method)
		add(`graph_requests_total{code="none",method="%s"} 0`, method)
		for _, code := range codes() {
			add(`graph_requests_total{code="%d",method="%s"} 0`, code, method)
		}
	}
	wantLines(t, m, lines...)
}

func TestNativeHistograms(t *testing.T) {
	m := newTest()
	m.Tenant("a").Request(OutcomeDead, 3*time.Second)
	m.GraphRequest("POST", 204, 200*time.Millisecond)

	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim)))
	w := httptest.NewRecorder()
	Handler(m, nil).ServeHTTP(w, r)

	families, err := decode(w)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"graph_request_duration_seconds", "request_duration_seconds"} {
		i := slices.IndexFunc(families, func(f family) bool { return f.GetName() == Namespace+"_"+name })
		if i < 0 {
			t.Errorf("%s is missing", name)
			continue
		}
		native := 0
		for _, metric := range families[i].GetMetric() {
			h := metric.GetHistogram()
			if len(h.GetBucket()) == 0 {
				t.Errorf("%s has no classic buckets", name)
			}
			if factor := math.Pow(2, math.Pow(2, -float64(h.GetSchema()))); factor > 1.1 {
				t.Errorf("%s: not native, or too coarse: factor %f", name, factor)
			}
			if len(h.GetPositiveDelta()) > 0 {
				native++
			}
		}
		if native != 1 {
			t.Errorf("%s: %d series with native buckets, want 1", name, native)
		}
	}
}

type family = *dto.MetricFamily

func decode(w *httptest.ResponseRecorder) ([]family, error) {
	d := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
	var families []family
	for {
		f := new(dto.MetricFamily)
		if err := d.Decode(f); errors.Is(err, io.EOF) {
			return families, nil
		} else if err != nil {
			return nil, err
		}
		families = append(families, f)
	}
}

// TestPromtool lets Prometheus' own linter read the exposition.
func TestPromtool(t *testing.T) {
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool is installed (Debian: apt-get install prometheus): the exposition is not checked with it")
	}
	m := newTest()
	m.Tenant("a").Request(OutcomeDead, time.Second)
	cmd := exec.Command(path, "check", "metrics")
	cmd.Stdin = strings.NewReader(exposition(t, m))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
