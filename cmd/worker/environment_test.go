package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"passcode-worker/internal/graph/graphsim"
)

func TestEmptyVariablesAreNotSet(t *testing.T) {
	env := credentials(t)
	empty := map[string]string{}
	for _, name := range variables(reflect.TypeFor[runCmd]()) {
		empty[name] = env[name]
	}
	plain, err := configure(t, env)
	if err != nil {
		t.Fatal(err)
	}
	got, err := configure(t, empty)
	if err != nil {
		t.Fatalf("with every other variable empty: %v", err)
	}
	plain.Log, got.Log = nil, nil
	if !reflect.DeepEqual(got, plain) {
		t.Errorf("with every other variable empty:\n%+v\nwith them not set:\n%+v", got, plain)
	}
	if r := call(t, map[string]string{}, "run"); !slices.Equal(problemNames(r.err), []string{"AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_CLIENT_ID"}) {
		t.Errorf("with everything empty:\n%s", r.err)
	}
}

func problemNames(text string) []string {
	var out []string
	for _, p := range problems(text) {
		name, _, _ := strings.Cut(p, ":")
		out = append(out, name)
	}
	return out
}

func TestUnknownVariables(t *testing.T) {
	known := variables(reflect.TypeFor[cli]())
	for e, unknown := range map[string]bool{
		"WORKER_RTAE=1/1s":          true,
		"WORKER_HTTP_PORT=9090":     true, // somebody's wish
		"WORKER_PORT=9090":          true,
		"WORKER_SERVICE=x":          true,
		"WORKER_RTAE=":              false, // empty is not set
		"WORKER_RATE=1/1s":          false,
		"WORKER_MANAGED_IDENTITY=1": false,
		"WORKERS=3":                 false,
		"MY_WORKER_X=3":             false,
		// What Kubernetes sets for a Service called worker, and for one called worker-metrics.
		"WORKER_SERVICE_HOST=10.0.0.1":                       false,
		"WORKER_SERVICE_PORT=9090":                           false,
		"WORKER_SERVICE_PORT_HTTP=9090":                      false,
		"WORKER_PORT=tcp://10.0.0.1:9090":                    false,
		"WORKER_PORT_9090_TCP=tcp://10.0.0.1:9090":           false,
		"WORKER_PORT_9090_TCP_PROTO=tcp":                     false,
		"WORKER_PORT_9090_TCP_PORT=9090":                     false,
		"WORKER_PORT_9090_TCP_ADDR=10.0.0.1":                 false,
		"WORKER_METRICS_SERVICE_HOST=fd00::1":                false,
		"WORKER_METRICS_SERVICE_PORT_WEB_UI=80":              false,
		"WORKER_METRICS_PORT=udp://[fd00::1]:80":             false,
		"WORKER_METRICS_PORT_80_UDP=udp://[fd00::1]:80":      false,
		"WORKER_METRICS_PORT_80_SCTP_PROTO=sctp":             false,
		"WORKER_PORT_NUMBER_TCP=tcp://10.0.0.1:9090":         true,
		"WORKER_SERVICE_HOSTNAME=x":                          true,
		"WORKER_MAX_AGE_SERVICE_PORTS=1":                     true,
		"WORKER_TENANT=a=b":                                  false,
		"WORKER_UNKNOWN=a=b":                                 true,
		"WORKER_DEAD_SUBJET=passcode.reset.dead":             true,
		"WORKER_PORT_9090_TCP_ADDRESS=10.0.0.1":              true,
		"WORKER_METRICS_PORT_80_TCP_PORT_EXTRA=80":           true,
		"WORKER_SERVICE_PORT_lower=80":                       true,
		"worker_rate=1/1s":                                   false,
		"WORKER_PORT_80_TCP=tcp://10.0.0.1:80 and some more": false,
	} {
		name, _, _ := strings.Cut(e, "=")
		want := []string(nil)
		if unknown {
			want = []string{name}
		}
		if got := unknownVariables(known, []string{"PATH=/bin", e}); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", e, got, want)
		}
	}
}

// TestSecretsAreNotShown puts secrets wherever one can be, beside every wrong
// value there is, and looks for them in what the command says.
func TestSecretsAreNotShown(t *testing.T) {
	const url, password, natsToken, client = "URL-hunter2", "-pw-hunter3", "-tk-hunter4", "-cs~hunter5"
	secrets := []string{"hunter2", "hunter3", "hunter4", "hunter5"}
	env := map[string]string{
		"AZURE_TENANT_ID": graphsim.DefaultTenantID, "AZURE_CLIENT_ID": graphsim.DefaultClientID, "AZURE_CLIENT_SECRET": client,
		"NATS_USER": "jo", "NATS_PASSWORD": password, "NATS_TOKEN": natsToken,
	}
	look := func(how string, r result) {
		t.Helper()
		for _, s := range secrets {
			if strings.Contains(r.out+r.err, s) {
				t.Errorf("%s shows %s:\n%s%s", how, s, r.out, r.err)
			}
		}
	}
	for _, address := range []string{
		"nats://jo:%s@h:99999", "nats://jo:%s@h:x", "http://jo:%s@h", "nats://%s@", "jo:%s@h h", "nats://jo:%s@h,ws://h", "://%s@h", "nats://jo:%s%%zz@h",
	} {
		bad := with(env, "NATS_URL", fmt.Sprintf(address, url))
		for _, args := range [][]string{{"run"}, {"setup"}, {"run", "--help"}, {"setup", "--help"}, {"--help"}, {"run", "--bogus"}, {"bogus"}, nil,
			{"check"}, {"send"}, {"status"}, {"status", "x"}, {"dead", "list"}, {"dead", "redrive", "--all"}, {"pause"}, {"resume"}, {"check", "--help"}, {"send", "--help"}} {
			look(fmt.Sprint(address, args), call(t, bad, args...))
		}
	}
	for _, w := range wrongTable(t) {
		if !strings.Contains(w.name, ",") {
			look(w.name, call(t, with(with(env, w.also...), w.name, w.value), "run"))
		}
	}
	for _, name := range []string{"NATS_URL", "NATS_PASSWORD", "NATS_TOKEN", "AZURE_CLIENT_SECRET"} {
		rest := maps.Clone(env)
		delete(rest, name)
		rest["WORKER_RATE"] = "wrong"
		look(name+" by a flag", call(t, rest, "run", flagOf(name)+"=-cs~hunter5"))
		look(name+" by a flag and its value", call(t, rest, "run", flagOf(name), "-cs~hunter5"))
	}
	// A secret where an id should be.
	for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_AUTHORITY_HOST"} {
		if r := call(t, with(env, name, "http://jo:~hunter5@h"), "run"); r.code != exitUsage {
			t.Errorf("%s: status %d", name, r.code)
		} else {
			look(name, r)
		}
	}
}
