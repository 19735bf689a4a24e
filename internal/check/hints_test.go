package check

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestHintsAreTheRunbooks holds the table of the runbook to that of the code.
func TestHintsAreTheRunbooks(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## What Entra and Graph say\n")
	if !ok {
		t.Fatal("the runbook has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var want, got []string
	for _, h := range Hints() {
		want = append(want, "| `"+h.Says+"` | "+h.Means+" | "+h.Do+" |")
	}
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "| `") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/runbook.md differs; its table should be\n%s", strings.Join(want, "\n"))
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"invalid_client: AADSTS7000215: Invalid client secret provided.":                             "AADSTS7000215",
		"AADSTS70021: No matching federated identity record found":                                   "AADSTS70021",
		"AADSTS700213: No matching federated identity record found for presented assertion subject":  "AADSTS700213",
		"AADSTS700219: something new":                                                                "",
		"AADSTS7000219 and then AADSTS90002":                                                         "AADSTS90002",
		"badrequest: request NOT applicable to target tenant.":                                       "Request not applicable to target tenant",
		"ResourceNotFound: Invalid version: oops":                                                    "Invalid version",
		"Application must have one of the following scopes: DeviceManagementManagedDevices.Read.All": "Application must have one of the following scopes",
		"ResourceNotFound: The device was not found.":                                                "",
		"": "",
	} {
		h, ok := explain(text)
		if h.Says != want || ok != (want != "") {
			t.Errorf("%q: %q, want %q", text, h.Says, want)
		}
	}
	seen := map[string]bool{}
	for _, h := range Hints() {
		if found, _ := explain(h.Says + "."); found != h || seen[h.Says] || h.Means == "" || h.Do == "" || strings.Contains(h.Means+h.Do, "|") {
			t.Errorf("%s is not to be found, there twice, or lacks something", h.Says)
		}
		seen[h.Says] = true
	}
}
