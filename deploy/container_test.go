package deploy_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// composeSchema is the module that holds the schema of compose files.
const composeSchema = "github.com/compose-spec/compose-go/v2@v2.16.2"

func TestComposeFileIsValid(t *testing.T) {
	t.Parallel()
	parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(read(t, filepath.Join(module(t, composeSchema), "schema/compose-spec.json"))))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("compose:///spec", parsed); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("compose:///spec")
	if err != nil {
		t.Fatal(err)
	}
	validate := func(file resource) error {
		b, err := json.Marshal(file)
		if err != nil {
			return err
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			return err
		}
		return schema.Validate(value)
	}
	file := documents(t, read(t, "compose.yaml"))[0]
	if err := validate(file); err != nil {
		t.Error(err)
	}
	services, _ := file.at("services").(map[string]any)
	for name, s := range services {
		checkService(t, name, resource(s.(map[string]any)), services)
	}
	// The check itself can fail.
	services["worker"].(map[string]any)["comand"] = []any{"run"}
	if validate(file) == nil {
		t.Error("a misspelt field is taken for valid")
	}
}

// checkService checks what a schema cannot: that what is named is there.
func checkService(t *testing.T, name string, s resource, services map[string]any) {
	volumes, _ := s.at("volumes").([]any)
	for _, v := range volumes {
		source, _, _ := strings.Cut(v.(string), ":")
		if _, err := os.Stat(source); strings.HasPrefix(source, ".") && err != nil {
			t.Errorf("%s: volume %s: %v", name, source, err)
		}
	}
	if of, ok := s.at("depends_on").(map[string]any); ok {
		for other := range of {
			if services[other] == nil {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
	}
	if target := s.at("build", "target"); target != nil && !strings.Contains(read(t, "Dockerfile"), fmt.Sprintf(" AS %v\n", target)) {
		t.Errorf("%s: the Dockerfile has no target %v", name, target)
	}
}

// The worker of the compose file starts with the environment there, and
// Prometheus reads its configuration.
func TestComposeIsConsistent(t *testing.T) {
	file := documents(t, read(t, "compose.yaml"))[0]
	env := map[string]string{}
	values, _ := file.at("services", "worker", "environment").(map[string]any)
	for name, value := range values {
		env[name] = fmt.Sprint(value)
	}
	delete(env, "SSL_CERT_FILE") // it is made by the service graph
	workerTakes(t, env)

	// The passwords of the accounts are those of the users.
	for service, role := range map[string]string{"setup": "SETUP", "worker": "WORKER"} {
		if got, want := file.at("services", service, "environment", "NATS_PASSWORD"), file.at("services", "nats", "environment", role+"_PASSWORD"); got != want {
			t.Errorf("%s has the password %v, not %v", service, got, want)
		}
	}
	t.Run("prometheus", func(t *testing.T) {
		output(t, tool(t, "promtool", debianPrometheus), "check", "config", "prometheus/prometheus.yaml")
	})
}

// No container engine is needed for this: the commands of the Dockerfile are
// run by hand, in their order, and what ends up in the image is run alone in
// an empty root, as its user.
func TestDockerfileStepsWork(t *testing.T) {
	slow(t)
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the image is for linux")
	}
	file := read(t, "Dockerfile")
	last := file[strings.LastIndex(file, "\nFROM "):]
	for _, want := range []string{"\nFROM scratch AS worker\n", "\nUSER 65532:65532\n", "COPY --from=build /out/worker /worker\n", "\nENTRYPOINT [\"/worker\"]\n"} {
		if !strings.Contains(last, want) {
			t.Errorf("the last stage has no %q", want)
		}
	}
	root := t.TempDir()
	out := filepath.Join(t.TempDir(), "out")
	for _, run := range regexp.MustCompile(`(?m)^RUN (.+)$`).FindAllStringSubmatch(file, -1) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(run[1], "/out/", out+"/"))
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH, "VERSION=v9.9.9-image")
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", run[1], err, said)
		}
	}
	worker := filepath.Join(root, "worker")
	if err := os.Rename(filepath.Join(out, "worker"), worker); err != nil {
		b := read(t, filepath.Join(out, "worker")) // another file system
		if err := os.WriteFile(worker, []byte(b), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := elf.Open(worker)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program is not static")
		}
	}
	if os.Getuid() != 0 {
		t.Skip("only root can change the root folder")
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/worker", "version")
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	said, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(said), "worker v9.9.9-image, revision ") {
		t.Errorf("in an empty root: %v\n%s", err, said)
	}
}

// The environment example of the systemd unit is one with which the worker
// starts, each variable in it exists, and what stands there as a default is one.
func TestSystemdEnvironment(t *testing.T) {
	assignment := regexp.MustCompile(`^#?([A-Z][A-Z0-9_]+)=(.*)$`)
	env, defaults := map[string]string{}, map[string]string{}
	for line := range strings.Lines(read(t, "systemd/passcode-worker.env.example")) {
		m := assignment.FindStringSubmatch(strings.TrimSpace(line))
		switch {
		case m == nil:
		case strings.HasPrefix(line, "#"):
			defaults[m[1]] = m[2]
		default:
			env[m[1]] = m[2]
		}
	}
	help := strings.Join(strings.Fields(output(t, program(t, "worker"), "run", "--help")), " ")
	for _, name := range slices.Concat(slices.Collect(maps.Keys(env)), slices.Collect(maps.Keys(defaults))) {
		if traces := "`" + name + "`"; strings.HasPrefix(name, "OTEL_") && strings.Contains(read(t, "../docs/configuration.md"), traces) {
			continue // of a library, which has no flags
		}
		if !strings.Contains(help, "($"+name+")") {
			t.Errorf("worker run knows no %s", name)
		}
	}
	for name, value := range defaults {
		if strings.Contains(value, "/etc/") || strings.Contains(value, "/run/") || strings.HasPrefix(name, "OTEL_") {
			continue // another choice, not a default
		}
		if !strings.Contains(help, "Default: "+value+" ($"+name+").") {
			t.Errorf("%s is not the default of %s", value, name)
		}
	}
	workerTakes(t, env)
	maps.Copy(env, defaults)
	delete(env, "NATS_CA")
	delete(env, "AZURE_CLIENT_CERTIFICATE_PATH")
	tenants := maps.Clone(env)
	delete(env, "WORKER_TENANTS_FILE")
	workerTakes(t, env)
	delete(tenants, "AZURE_TENANT_ID")
	workerTakes(t, tenants)
}

func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	analyze := tool(t, "systemd-analyze", "it comes with systemd")
	said := output(t, analyze, "security", "--offline=true", "--threshold=20", "systemd/passcode-worker.service") // 2.0 of 10
	t.Log(said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:])
}
