package deploy_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	debianPrometheus = "it comes with Debian's package prometheus"
	rulesFile        = "prometheus/rules.yaml"
	runbook          = "../docs/runbook.md"
)

// ruleFile is a file of Prometheus rules.
type ruleFile struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

type rule struct {
	Alert       string            `yaml:"alert,omitempty"`
	Record      string            `yaml:"record,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// alerts are the rules that alert.
func (f ruleFile) alerts() []rule {
	var out []rule
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				out = append(out, r)
			}
		}
	}
	return out
}

func readRules(t *testing.T) ruleFile {
	t.Helper()
	var f ruleFile
	decode(t, rulesFile, &f)
	return f
}

func TestRulesPass(t *testing.T) {
	t.Parallel()
	promtool := tool(t, "promtool", debianPrometheus)
	t.Log(output(t, promtool, "check", "rules", "--lint-fatal", rulesFile))
	t.Log(output(t, promtool, "test", "rules", "prometheus/rules_test.yaml", "prometheus/slo_test.yaml"))
}

// Each alert has a severity, a section of the runbook of its own, and a unit
// test that shows it firing and one that shows it silent.
func TestAlertsAreExplainedAndTested(t *testing.T) {
	type unitTests struct {
		Tests []struct {
			Alerts []struct {
				Name     string `yaml:"alertname"`
				Expected []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, path := range []string{"prometheus/rules_test.yaml", "prometheus/slo_test.yaml"} {
		var u unitTests
		loose(t, path, &u)
		for _, test := range u.Tests {
			for _, a := range test.Alerts {
				if len(a.Expected) > 0 {
					fires[a.Name] = true
				} else {
					silent[a.Name] = true
				}
			}
		}
	}
	var headings []string
	for line := range strings.Lines(read(t, runbook)) {
		if h, ok := strings.CutPrefix(line, "## "); ok {
			headings = append(headings, strings.TrimSpace(h))
		}
	}
	var names []string
	for _, a := range readRules(t).alerts() {
		names = append(names, a.Alert)
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s: severity %q", a.Alert, a.Labels["severity"])
		}
		_, anchor, _ := strings.Cut(a.Annotations["runbook_url"], "docs/runbook.md#")
		if !slices.ContainsFunc(headings, func(h string) bool { return strings.ToLower(h) == anchor }) {
			t.Errorf("%s: the runbook has no section %q", a.Alert, anchor)
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s: without summary or description", a.Alert)
		}
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: shown firing: %t, shown silent: %t", a.Alert, fires[a.Alert], silent[a.Alert])
		}
	}
	for _, h := range headings {
		if strings.HasPrefix(h, "PasscodeReset") && !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, h) }) {
			t.Errorf("the runbook explains %s, which is no alert", h)
		}
	}
}

// Every metric that a rule reads is one that the worker shows.
func TestRulesReadWhatTheWorkerShows(t *testing.T) {
	shown := read(t, golden)
	for _, a := range readRules(t).Groups {
		for _, r := range a.Rules {
			for _, name := range metricNames(r.Expr) {
				if !shows(shown, name) {
					t.Errorf("%s%s reads %s, which the worker does not show", r.Alert, r.Record, name)
				}
			}
		}
	}
}

// shows reports whether a metric is among those that a worker shows: a series, or
// a native histogram, which has no series of its name in the text.
func shows(shown, name string) bool {
	return strings.Contains(shown, "\n"+name+"{") || strings.Contains(shown, "\n"+name+" ") || strings.Contains(shown, "\n# TYPE "+name+" histogram\n")
}

// golden is what a new worker exposes.
const golden = "../internal/metrics/testdata/metrics.golden"

func TestMetricsPass(t *testing.T) {
	t.Parallel()
	promtool := tool(t, "promtool", debianPrometheus)
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(read(t, golden))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// metricNames are the worker's metrics in an expression, recorded ones left out.
func metricNames(expr string) []string {
	var out []string
	for _, word := range strings.FieldsFunc(expr, func(r rune) bool {
		return r != '_' && r != ':' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}) {
		if strings.HasPrefix(word, "passcode_reset_") {
			out = append(out, word)
		}
	}
	return out
}
