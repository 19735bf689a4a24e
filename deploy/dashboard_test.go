package deploy_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// dashboard is what is read of a Grafana dashboard.
type dashboard struct {
	Panels []struct {
		ID                       int
		Type, Title, Description string
		GridPos                  struct{ X, Y, W, H int }
		FieldConfig              struct{ Defaults struct{ Unit string } }
		Datasource               struct{ UID string }
		Targets                  []struct {
			Expr       string
			Datasource struct{ UID string }
		}
	}
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type string }
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, "grafana/passcode-worker.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// queries are the dashboard's queries, with all tenants chosen.
func (d dashboard) queries() map[string]string {
	all := strings.NewReplacer("$job", ".+", "$tenant", ".+", "$__rate_interval", "15s", "$__range", "120s")
	out := map[string]string{}
	for _, panel := range d.Panels {
		for i, target := range panel.Targets {
			out[fmt.Sprintf("%s %d", panel.Title, i)] = all.Replace(target.Expr)
		}
	}
	return out
}

// Each query of the dashboard found something in the time of the test.
func checkDashboard(t *testing.T, p *prom, from time.Time) {
	for title, query := range readDashboard(t).queries() {
		n, err := p.samples(query, from, time.Now())
		if err != nil || n == 0 {
			t.Errorf("%s: %d samples, %v: %s", title, n, err, query)
		}
	}
}

// The dashboard reads what the worker shows, from a data source and of a
// tenant that its reader chooses.
func TestDashboardIsWellFormed(t *testing.T) {
	d := readDashboard(t)
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Type+" "+v.Name)
	}
	if want := []string{"datasource datasource", "query job", "query tenant"}; !slices.Equal(variables, want) {
		t.Errorf("variables %q, not %q", variables, want)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 { // from there on a data source is {type, uid}
		t.Errorf("uid %q, title %q, schema version %d", d.UID, d.Title, d.SchemaVersion)
	}
	shown := read(t, golden)
	targets := 0
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, panel := range d.Panels {
		if panel.ID == 0 || ids[panel.ID] || panel.Title == "" {
			t.Errorf("panel %d, %q: no title, or no id of its own", panel.ID, panel.Title)
		}
		ids[panel.ID] = true
		at := panel.GridPos
		if at.W < 1 || at.H < 1 || at.X < 0 || at.X+at.W > 24 {
			t.Errorf("%s: it is not within the grid: %+v", panel.Title, at)
		}
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies over %s", panel.Title, other)
				}
				taken[[2]int{x, y}] = panel.Title
			}
		}
		if panel.Type == "row" {
			continue
		}
		if panel.Description == "" || panel.FieldConfig.Defaults.Unit == "" {
			t.Errorf("%s: description %q, unit %q", panel.Title, panel.Description, panel.FieldConfig.Defaults.Unit)
		}
		if panel.Datasource.UID != "${datasource}" || len(panel.Targets) == 0 {
			t.Errorf("%s: data source %q, %d queries", panel.Title, panel.Datasource.UID, len(panel.Targets))
		}
		for _, target := range panel.Targets {
			targets++
			if target.Datasource.UID != "${datasource}" {
				t.Errorf("%s: data source %q", panel.Title, target.Datasource.UID)
			}
			for _, name := range metricNames(target.Expr) {
				if !shows(shown, name) {
					t.Errorf("%s reads %s, which the worker does not show", panel.Title, name)
				}
			}
		}
	}
	if targets < 20 {
		t.Errorf("%d queries", targets)
	}
}
