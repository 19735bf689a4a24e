package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// speedUp is how much faster time runs for the rules than in production.
const speedUp = 60

// quickRules are deploy/prometheus/rules.yaml for a trial of two minutes. What
// is changed is the time alone:
//
//   - each range [d] becomes d/60, but no less than 15 s;
//   - each "for: d" becomes d/60, between 1 s and 10 s;
//   - an age of 900 s becomes 10 s, one of 43,200 s becomes 15 s;
//   - a look counts as late after 5 s, not 300 s;
//   - the bound of the service level, five minutes, becomes 5 s.
func quickRules(t *testing.T) string {
	t.Helper()
	rules := read(t, rulesFile)
	replace := func(pattern string, by func(match []string) string) {
		t.Helper()
		re := regexp.MustCompile(pattern)
		if !re.MatchString(rules) {
			t.Fatalf("nothing in the rules is like %s", pattern)
		}
		rules = re.ReplaceAllStringFunc(rules, func(s string) string { return by(re.FindStringSubmatch(s)) })
	}
	replace(`\[(\d+[smhd])\]`, func(m []string) string {
		return fmt.Sprintf("[%ds]", int(max(span(t, m[1])/speedUp, 15*time.Second).Seconds()))
	})
	replace(`for: (\d+[smhd])\n`, func(m []string) string {
		return fmt.Sprintf("for: %ds\n", int(min(max(span(t, m[1])/speedUp, time.Second), 10*time.Second).Seconds()))
	})
	replace(`(queue_oldest_seconds\) > )900\b`, func(m []string) string { return m[1] + "10" })
	replace(`(queue_oldest_seconds\) > )43200\b`, func(m []string) string { return m[1] + "15" })
	replace(`(follow_lag_seconds\) > )300\b`, func(m []string) string { return m[1] + "5" })
	replace(`"300\(`, func([]string) string { return `"5(` })
	replace(`histogram_fraction\(-Inf, 300,`, func([]string) string { return `histogram_fraction(-Inf, 5,` })
	return rules
}

// span reads a duration as Prometheus writes it.
func span(t *testing.T, s string) time.Duration {
	t.Helper()
	n, err := strconv.Atoi(s[:len(s)-1])
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[s[len(s)-1]]
}

// prom is a real Prometheus.
type prom struct {
	t    *testing.T
	addr string

	mu    sync.Mutex
	fired map[string]time.Time
}

// startProm scrapes each job's addresses, separated by commas, once a second.
func startProm(t *testing.T, rules string, jobs map[string]string, flags ...string) *prom {
	t.Helper()
	path := tool(t, "prometheus", debianPrometheus)
	dir := t.TempDir()
	var config strings.Builder
	config.WriteString("global: {scrape_interval: 1s, evaluation_interval: 1s, scrape_timeout: 1s}\nrule_files: [rules.yaml]\nscrape_configs:\n")
	for _, job := range slices.Sorted(maps.Keys(jobs)) {
		fmt.Fprintf(&config, "  - {job_name: %s, static_configs: [{targets: ['%s']}]}\n", job, strings.ReplaceAll(jobs[job], ",", "', '"))
	}
	write(t, filepath.Join(dir, "prometheus.yml"), config.String())
	write(t, filepath.Join(dir, "rules.yaml"), rules)
	p := &prom{t: t, addr: freeAddr(t), fired: map[string]time.Time{}}
	start(t, nil, path, append(flags, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.addr, "--log.level=warn")...)
	await(t, 30*time.Second, "Prometheus", func() bool {
		resp, err := http.Get("http://" + p.addr + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// running is a process that is ended with the test.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func start(t *testing.T, env []string, path string, args ...string) *running {
	t.Helper()
	r := &running{t: t, cmd: exec.Command(path, args...), log: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
	log, err := os.Create(r.log)
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = env, log, log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		_ = r.cmd.Wait() // how it ends is of no interest
		_ = log.Close()
	}()
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			said := read(t, r.log)
			t.Logf("%s said:\n%s", filepath.Base(path), said[max(0, len(said)-3000):])
		}
	})
	return r
}

// kill ends the process as a power failure does.
func (r *running) kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.done
}

// freeAddr is an address that nobody listens on now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// get reads an answer of the API.
func (p *prom) get(path string, query url.Values, into any) error {
	resp, err := http.Get("http://" + p.addr + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", resp.Status, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// watch notes which alerts fire, until the test ends.
func (p *prom) watch() {
	stop, stopped := make(chan struct{}), make(chan struct{})
	p.t.Cleanup(func() { close(stop); <-stopped })
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(300 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
			var data struct {
				Alerts []struct {
					Labels map[string]string
					State  string
				}
			}
			if p.get("alerts", nil, &data) != nil {
				continue // the next look will tell
			}
			p.mu.Lock()
			for _, a := range data.Alerts {
				if _, known := p.fired[a.Labels["alertname"]]; !known && a.State == "firing" {
					p.fired[a.Labels["alertname"]] = time.Now()
				}
			}
			p.mu.Unlock()
		}
	}()
}

// hasFired tells whether all of the alerts have been seen firing.
func (p *prom) hasFired(alerts ...string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range alerts {
		if _, ok := p.fired[a]; !ok {
			return false
		}
	}
	return true
}

// awaitAlerts waits until all of them have been seen firing.
func (p *prom) awaitAlerts(limit time.Duration, alerts ...string) {
	p.t.Helper()
	began := time.Now()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for !p.hasFired(alerts...) {
		<-ticker.C
		if time.Since(began) > limit {
			var missing []string
			for _, a := range alerts {
				if !p.hasFired(a) {
					missing = append(missing, a)
				}
			}
			p.t.Errorf("within %s these did not fire: %v", limit, missing)
			return
		}
	}
	p.t.Logf("%4.0f s: %v", time.Since(began).Seconds(), alerts)
}

// value is the value of a query with one result; 0 without one.
func (p *prom) value(query string) float64 {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if p.get("query", url.Values{"query": {query}}, &data) != nil || len(data.Result) == 0 {
		return 0
	}
	f, _ := strconv.ParseFloat(fmt.Sprint(data.Result[0].Value[1]), 64)
	return f
}

// until waits for a query whose value is not 0.
func (p *prom) until(what, query string) {
	p.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for p.value(query) == 0 {
		if <-ticker.C; time.Now().After(deadline) {
			p.t.Errorf("waited in vain for %s", what)
			return
		}
	}
}

// samples counts the samples of a query over a time that are numbers.
func (p *prom) samples(query string, from, to time.Time) (int, error) {
	var data struct {
		Result []struct{ Values [][2]any }
	}
	err := p.get("query_range", url.Values{"query": {query}, "start": {unix(from)}, "end": {unix(to)}, "step": {"2s"}}, &data)
	n := 0
	for _, series := range data.Result {
		for _, sample := range series.Values {
			if sample[1] != "NaN" {
				n++
			}
		}
	}
	return n, err
}

func unix(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
