package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"passcode-worker/internal/topology"
)

var update = flag.Bool("update", false, "write the files that are made from others")

// Modules of which only the schemas in them are read.
const (
	kubernetesSchemas = "sigs.k8s.io/kubectl-validate@v0.0.4"
	kubernetesVersion = "1.30"
	nackSchemas       = "github.com/nats-io/nack@v0.22.4"
	operatorSchemas   = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
)

var overlays = []string{"secret", "certificate", "workload-identity", "tenants", "tenants-workload-identity", "openshift"}

// tenantsDir is the overlay that serves many tenants.
const tenantsDir = "kubernetes/overlays/tenants/"

// resource is one Kubernetes resource, decoded.
type resource map[string]any

// at reads a field by its path; nil where it is not there. A number chooses
// from a list.
func (r resource) at(path ...any) any {
	var v any = map[string]any(r)
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

func (r resource) is() string { return fmt.Sprintf("%v %v", r.at("kind"), r.at("metadata", "name")) }

// render is what kustomize makes of an overlay.
func render(t *testing.T, overlay string) []resource {
	t.Helper()
	return kustomize(t, "kubernetes/overlays/"+overlay)
}

func kustomize(t *testing.T, dir string) []resource {
	t.Helper()
	var out string
	if path, err := exec.LookPath("../bin/kustomize"); err == nil {
		out = output(t, path, "build", dir)
	} else if path, err := exec.LookPath("kustomize"); err == nil {
		out = output(t, path, "build", dir)
	} else {
		out = output(t, tool(t, "kubectl", "or build kustomize: make bin/kustomize"), "kustomize", dir)
	}
	return documents(t, out)
}

func documents(t *testing.T, text string) []resource {
	t.Helper()
	var all []resource
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var r map[string]any // else the maps in it would be of the type resource too
		err := d.Decode(&r)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
}

// find returns the one resource of a kind.
func find(t *testing.T, all []resource, kind string) resource {
	t.Helper()
	for _, r := range all {
		if r.at("kind") == kind {
			return r
		}
	}
	t.Fatalf("no %s", kind)
	return nil
}

// Each overlay renders, and what it makes is what Kubernetes, NACK and the
// Prometheus operator understand, without a field that they do not know.
func TestOverlaysAreValid(t *testing.T) {
	t.Parallel()
	schemas := newSchemas(t)
	for _, overlay := range overlays {
		kinds := map[string]int{}
		for _, r := range render(t, overlay) {
			kinds[fmt.Sprint(r.at("kind"))]++
			if err := schemas.validate(r); err != nil {
				t.Errorf("%s: %s: %v", overlay, r.is(), err)
			}
		}
		want := map[string]int{"Namespace": 1, "ServiceAccount": 1, "ConfigMap": 1, "Deployment": 1, "PodDisruptionBudget": 1,
			"NetworkPolicy": 1, "PodMonitor": 1, "PrometheusRule": 1, "Stream": 3, "KeyValue": 4, "Consumer": 1 + topology.FollowSteps}
		if strings.HasPrefix(overlay, "tenants") {
			want["Consumer"]++
		}
		if !reflect.DeepEqual(kinds, want) {
			t.Errorf("%s makes %v, not %v", overlay, kinds, want)
		}
	}
	// The check itself can fail.
	broken := find(t, render(t, "secret"), "Deployment")
	broken["spec"].(map[string]any)["replica"] = 2
	if schemas.validate(broken) == nil {
		t.Error("a misspelt field is taken for valid")
	}
}

// schemas are the schemas of all kinds that the overlays make.
type schemas struct {
	t        *testing.T
	compiler *jsonschema.Compiler
	openAPI  string            // folder
	crds     map[string]string // by apiVersion and kind: where the compiler has it
	loaded   map[string]bool
}

func newSchemas(t *testing.T) *schemas {
	t.Helper()
	s := &schemas{t: t, compiler: jsonschema.NewCompiler(), crds: map[string]string{}, loaded: map[string]bool{},
		openAPI: filepath.Join(module(t, kubernetesSchemas), "pkg/openapiclient/builtins", kubernetesVersion)}
	s.addCRDs(filepath.Join(module(t, nackSchemas), "deploy/crds.yml"))
	operator := filepath.Join(module(t, operatorSchemas), "example/prometheus-operator-crd")
	s.addCRDs(filepath.Join(operator, "monitoring.coreos.com_podmonitors.yaml"))
	s.addCRDs(filepath.Join(operator, "monitoring.coreos.com_prometheusrules.yaml"))
	return s
}

func (s *schemas) addCRDs(path string) {
	s.t.Helper()
	for _, crd := range documents(s.t, read(s.t, path)) {
		versions, _ := crd.at("spec", "versions").([]any)
		for _, v := range versions {
			v := resource(v.(map[string]any))
			of := fmt.Sprintf("%v/%v %v", crd.at("spec", "group"), v.at("name"), crd.at("spec", "names", "kind"))
			url := "crd:///" + strings.ReplaceAll(of, " ", "/")
			schema, _ := v.at("schema", "openAPIV3Schema").(map[string]any)
			fields, _ := schema["properties"].(map[string]any)
			for _, everywhere := range []string{"apiVersion", "kind", "metadata"} { // a definition need not name these
				if fields[everywhere] == nil {
					fields[everywhere] = map[string]any{}
				}
			}
			s.add(url, schema)
			s.crds[of] = url
		}
	}
}

func (s *schemas) add(url string, doc any) {
	s.t.Helper()
	b, err := json.Marshal(doc)
	if err != nil {
		s.t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	closeObjects(parsed)
	if err := s.compiler.AddResource(url, parsed); err != nil {
		s.t.Fatal(err)
	}
}

// closeObjects forbids fields that a schema does not name, as the API server
// does with strict field validation.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		_, fields := v["properties"].(map[string]any)
		_, more := v["additionalProperties"]
		if fields && !more && v["x-kubernetes-preserve-unknown-fields"] != true {
			v["additionalProperties"] = false
		}
		for _, below := range v {
			closeObjects(below)
		}
	case []any:
		for _, below := range v {
			closeObjects(below)
		}
	}
}

func (s *schemas) validate(r resource) error {
	version, kind := fmt.Sprint(r.at("apiVersion")), fmt.Sprint(r.at("kind"))
	at, ok := s.crds[version+" "+kind]
	if !ok {
		path := filepath.Join(s.openAPI, "apis", version+".json")
		if !strings.Contains(version, "/") {
			path = filepath.Join(s.openAPI, "api", version+".json")
		}
		url := "k8s:///" + version
		var doc map[string]any
		if err := json.Unmarshal([]byte(read(s.t, path)), &doc); err != nil {
			return err
		}
		if !s.loaded[url] {
			s.loaded[url] = true
			s.add(url, doc)
		}
		all, _ := resource(doc).at("components", "schemas").(map[string]any)
		for name := range all {
			of := resource(all[name].(map[string]any))
			if of.at("x-kubernetes-group-version-kind", 0, "kind") == kind {
				at = url + "#/components/schemas/" + name
			}
		}
		if at == "" {
			return fmt.Errorf("%s has no kind %s", version, kind)
		}
	}
	schema, err := s.compiler.Compile(at)
	if err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// The rules for the Prometheus operator are those of the rules file.
func TestPrometheusRuleIsTheRulesFile(t *testing.T) {
	const path = "kubernetes/components/monitoring/prometheusrule.yaml"
	if *update {
		var out bytes.Buffer
		out.WriteString(`# Made from deploy/prometheus/rules.yaml: go test ./deploy -run PrometheusRule -update
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: passcode-worker
  namespace: passcode-worker
  labels:
    app.kubernetes.io/name: passcode-worker
spec:
`)
		for line := range strings.Lines(read(t, rulesFile)[strings.Index(read(t, rulesFile), "groups:"):]) {
			if line != "\n" {
				line = "  " + line
			}
			out.WriteString(line)
		}
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, got := documents(t, read(t, rulesFile))[0], documents(t, read(t, path))[0]
	if !reflect.DeepEqual(want.at("groups"), got.at("spec", "groups")) {
		t.Errorf("%s differs from %s: run go test ./deploy -run PrometheusRule -update", path, rulesFile)
	}
}

// The pods are what the profile "restricted" of Pod Security asks for, and
// have the time to drain.
func TestPodsAreRestricted(t *testing.T) {
	for _, overlay := range overlays {
		d := find(t, render(t, overlay), "Deployment")
		pod := []any{"spec", "template", "spec"}
		container := append(pod[:len(pod):len(pod)], "containers", 0)
		for _, c := range []struct {
			path []any
			want any
		}{
			{append(pod[:3:3], "securityContext", "runAsNonRoot"), true},
			{append(pod[:3:3], "securityContext", "seccompProfile", "type"), "RuntimeDefault"},
			{append(pod[:3:3], "hostNetwork"), nil}, {append(pod[:3:3], "hostPID"), nil}, {append(pod[:3:3], "initContainers"), nil},
			{append(pod[:3:3], "containers", 1), nil},
			{append(pod[:3:3], "automountServiceAccountToken"), false},
			{append(container[:5:5], "securityContext", "allowPrivilegeEscalation"), false},
			{append(container[:5:5], "securityContext", "readOnlyRootFilesystem"), true},
			{append(container[:5:5], "securityContext", "privileged"), nil},
			{append(container[:5:5], "securityContext", "capabilities"), map[string]any{"drop": []any{"ALL"}}},
		} {
			if got := d.at(c.path...); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: %v is %v, not %v", overlay, c.path, got, c.want)
			}
		}
		volumes, _ := d.at(append(pod[:3:3], "volumes")...).([]any)
		for _, v := range volumes {
			if v := v.(map[string]any); v["hostPath"] != nil || v["secret"] == nil {
				t.Errorf("%s: a volume that is no secret: %v", overlay, v)
			}
		}
		drain, err := time.ParseDuration(overlayEnv(t, overlay)["WORKER_DRAIN_TIMEOUT"])
		grace, _ := d.at(append(pod[:3:3], "terminationGracePeriodSeconds")...).(int)
		if err != nil || time.Duration(grace)*time.Second < drain+3*time.Second {
			t.Errorf("%s: %ds of grace for a drain of %s", overlay, grace, drain)
		}
	}
}

// OpenShift chooses the ids of a pod; elsewhere they are fixed, so that no pod
// is root's.
func TestIDsOfThePods(t *testing.T) {
	for _, overlay := range overlays {
		context, _ := find(t, render(t, overlay), "Deployment").at("spec", "template", "spec", "securityContext").(map[string]any)
		for _, name := range []string{"runAsUser", "runAsGroup", "fsGroup"} {
			if id, fixed := context[name]; fixed != (overlay != "openshift") || id == 0 {
				t.Errorf("%s: %s is %v", overlay, name, id)
			}
		}
	}
}

// The chart kube-prometheus-stack takes monitors and rules with its label only.
func TestKubePrometheusStack(t *testing.T) {
	dir := t.TempDir()
	var list strings.Builder
	for _, of := range []struct{ key, path string }{
		{"resources", "overlays/secret"}, {"components", "components/kube-prometheus-stack"},
	} {
		here, err := filepath.Abs("kubernetes")
		if err != nil {
			t.Fatal(err)
		}
		path, err := filepath.Rel(dir, filepath.Join(here, of.path))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&list, "%s: [%s]\n", of.key, path)
	}
	write(t, filepath.Join(dir, "kustomization.yaml"), "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"+list.String())
	all := kustomize(t, dir)
	for _, kind := range []string{"PodMonitor", "PrometheusRule"} {
		labels := find(t, all, kind).at("metadata", "labels")
		if l, _ := labels.(map[string]any); l["release"] != "kube-prometheus-stack" || len(l) < 2 {
			t.Errorf("%s has the labels %v", kind, labels)
		}
	}
}

// What chooses pods chooses the worker's.
func TestSelectorsChooseTheWorker(t *testing.T) {
	for _, overlay := range overlays {
		all := render(t, overlay)
		labels, _ := find(t, all, "Deployment").at("spec", "template", "metadata", "labels").(map[string]any)
		for kind, path := range map[string][]any{
			"Deployment": {"spec", "selector", "matchLabels"}, "PodDisruptionBudget": {"spec", "selector", "matchLabels"},
			"NetworkPolicy": {"spec", "podSelector", "matchLabels"}, "PodMonitor": {"spec", "selector", "matchLabels"},
		} {
			chosen, _ := find(t, all, kind).at(path...).(map[string]any)
			if len(chosen) == 0 {
				t.Errorf("%s: %s chooses everything", overlay, kind)
			}
			for name, value := range chosen {
				if labels[name] != value {
					t.Errorf("%s: %s chooses %s=%v, the pods have %v", overlay, kind, name, value, labels)
				}
			}
		}
	}
}

// The pods reach what they have to, and nothing else.
func TestNetworkPolicy(t *testing.T) {
	for _, overlay := range overlays {
		policy := find(t, render(t, overlay), "NetworkPolicy")
		if got := policy.at("spec", "policyTypes"); !reflect.DeepEqual(got, []any{"Ingress", "Egress"}) {
			t.Errorf("%s: it is about %v", overlay, got)
		}
		var ports []int
		egress, _ := policy.at("spec", "egress").([]any)
		for _, rule := range egress {
			rule := resource(rule.(map[string]any))
			if rule.at("to", 0) == nil {
				t.Errorf("%s: a rule for any address", overlay)
			}
			all, _ := rule.at("ports").([]any)
			for _, p := range all {
				port, _ := resource(p.(map[string]any)).at("port").(int)
				ports = append(ports, port)
			}
		}
		want := []int{53, 53, 4222, 443}
		if overlayEnv(t, overlay)["OTEL_EXPORTER_OTLP_ENDPOINT"] != "" {
			want = append(want, 4318)
		}
		if overlay == "openshift" {
			want = append(want, 5353, 5353)
		}
		if !slices.Equal(ports, want) {
			t.Errorf("%s: the ports %v, not %v", overlay, ports, want)
		}
	}
}

// overlayEnv is the environment that an overlay gives the worker.
func overlayEnv(t *testing.T, overlay string) map[string]string {
	t.Helper()
	all := render(t, overlay)
	out := map[string]string{}
	from := find(t, all, "Deployment").at("spec", "template", "spec", "containers", 0, "envFrom", 0, "configMapRef", "name")
	config := find(t, all, "ConfigMap")
	if config.at("metadata", "name") != from {
		t.Fatalf("%s: the pod reads the ConfigMap %v, which is called %v", overlay, from, config.at("metadata", "name"))
	}
	data, _ := config.at("data").(map[string]any)
	for name, value := range data {
		out[name] = fmt.Sprint(value)
	}
	return out
}

// The worker starts with the environment of each overlay.
func TestWorkerTakesTheOverlays(t *testing.T) {
	for _, overlay := range overlays {
		env := overlayEnv(t, overlay)
		all := render(t, overlay)
		if find(t, all, "Deployment").at("spec", "template", "metadata", "labels", "azure.workload.identity/use") == "true" { // what the webhook adds
			account := find(t, all, "ServiceAccount")
			env["AZURE_CLIENT_ID"] = fmt.Sprint(account.at("metadata", "annotations", "azure.workload.identity/client-id"))
			env["AZURE_TENANT_ID"] = "00000000-0000-0000-0000-0000000000c1" // the cluster's own
			if id, ok := account.at("metadata", "annotations", "azure.workload.identity/tenant-id").(string); ok {
				env["AZURE_TENANT_ID"] = id
			}
			env["AZURE_FEDERATED_TOKEN_FILE"] = "/var/run/secrets/azure/tokens/azure-identity-token"
			env["AZURE_AUTHORITY_HOST"] = "https://login.microsoftonline.com/"
		}
		workerTakes(t, env)
	}
}
