package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

func TestTenantsFile(t *testing.T) {
	env := credentials(t)
	delete(env, "AZURE_TENANT_ID")
	secret := write(t, "secret", "own")
	file := write(t, "tenants.yaml", `
- name: contoso
  tenantId: 7e4a17b0-0000-4000-8000-00000000a001
- name: fabrikam
  tenantId: fabrikam.example
  rate: 100/20s
  clientId: c11e4700-0000-4000-8000-00000000b009
  clientSecretFile: `+secret+`
- {name: adatum, tenantId: adatum.example, rate: "0", managedIdentity: true}
`)
	cfg, err := configure(t, with(env, "WORKER_TENANTS_FILE", file))
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Tenants) != 3 {
		t.Fatalf("%d tenants", len(cfg.Tenants))
	}
	shared, own, managed := cfg.Tenants[0], cfg.Tenants[1], cfg.Tenants[2]
	if shared.Name != "contoso" || shared.Credential.TenantID != "7e4a17b0-0000-4000-8000-00000000a001" ||
		shared.Credential.Secret != env["AZURE_CLIENT_SECRET"] || shared.Credential.ClientID != env["AZURE_CLIENT_ID"] ||
		shared.Rate != (pace.Rate{N: 200, W: 20 * time.Second}) {
		t.Errorf("what holds for all: %s, %s, %s", shared.Name, shared.Credential.Kind(), shared.Rate)
	}
	if own.Credential.SecretFile != secret || own.Credential.Secret != "" || own.Credential.TenantID != "fabrikam.example" ||
		own.Credential.ClientID != "c11e4700-0000-4000-8000-00000000b009" || own.Rate != (pace.Rate{N: 100, W: 20 * time.Second}) {
		t.Errorf("its own: %s, %s", own.Credential.Kind(), own.Rate)
	}
	if managed.Credential.Kind() != "managed identity" || managed.Rate.N != 0 {
		t.Errorf("its own: %s, %s", managed.Credential.Kind(), managed.Rate)
	}
}

func TestTenantsFileIsWrong(t *testing.T) {
	const good = "- {name: a, tenantId: a.example}\n"
	for name, c := range map[string]struct {
		file string
		env  []string
		want []string
	}{
		"empty":         {file: "", want: []string{"it lists no tenants"}},
		"no list":       {file: "name: a\ntenantId: b\n", want: []string{"line 1: it is not a YAML list"}},
		"no YAML":       {file: "- {", want: []string{"it is not a YAML list"}},
		"two documents": {file: good + "---\n" + good, want: []string{"more than one YAML document"}},
		"unknown key":   {file: good + "- {name: b, tenantId: b.example, secret: hush-hush}\n", want: []string{`line 2: the key "secret" is unknown`}},
		"wrong type":    {file: "- {name: a, tenantId: a.example, clientSecret: [hush-hush]}\n", want: []string{"line 1: it is not a YAML list"}},
		"every problem": {
			file: "- {tenantId: a.example}\n- {name: a.b, tenantId: b.example}\n- {name: c, rate: quick}\n- {name: c, tenantId: c.example}\n",
			want: []string{`tenant 1: name: "" is not`, `tenant "a.b": name: "a.b" is not`, `tenant "c": tenantId: it is missing`,
				`tenant "c": rate: "quick" is not a rate`, `tenant "c": name: another tenant has the same name`},
		},
		"two credentials": {
			file: "- {name: a, tenantId: a.example, clientSecret: hush-hush, managedIdentity: true}\n",
			want: []string{`tenant "a": clientSecret, managedIdentity: give one credential, not 2`},
		},
		"no credential": {
			file: good, env: []string{"AZURE_CLIENT_SECRET", ""},
			want: []string{`tenant "a": clientSecret: there is no credential: give clientSecret, clientSecretFile, clientCertificatePath, federatedTokenFile or managedIdentity: true`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := with(credentials(t), "AZURE_TENANT_ID", "", "WORKER_TENANTS_FILE", write(t, "tenants.yaml", c.file))
			_, err := configure(t, with(env, c.env...))
			if err == nil {
				t.Fatal("taken")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("not told: %s\nin %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "hush-hush") {
				t.Errorf("a secret is told: %v", err)
			}
		})
	}
	env := with(credentials(t), "AZURE_TENANT_ID", "", "WORKER_TENANTS_FILE", "/nowhere/tenants.yaml")
	if _, err := configure(t, env); err == nil || !strings.Contains(err.Error(), "WORKER_TENANTS_FILE: it cannot be read") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestManyTenants serves what the file lists, and follows it when it changes.
// Two tenants of one application in one directory share what Graph grants.
func TestTenantsThatAreOne(t *testing.T) {
	env := credentials(t)
	delete(env, "AZURE_TENANT_ID")
	const here = "tenantId: 7e4a17b0-0000-4000-8000-00000000a001"
	for name, c := range map[string]struct {
		file string
		want []string
	}{
		"directories of their own":    {"- {name: a, tenantId: a.example}\n- {name: b, tenantId: b.example}\n", nil},
		"one directory":               {"- {name: a, " + here + "}\n- {name: b, " + here + "}\n", []string{`the tenants ["a" "b"] use the same application`}},
		"in other letters":            {"- {name: a, " + here + "}\n- {name: b, " + strings.ToUpper(here[10:]) + "}\n", []string{`["a" "b"]`}},
		"applications of their own":   {"- {name: a, " + here + "}\n- {name: b, " + here + ", clientId: c11e4700-0000-4000-8000-00000000b009}\n", nil},
		"halves":                      {"- {name: a, " + here + ", rate: 100/20s}\n- {name: b, " + here + ", rate: 100/20s}\n", nil},
		"three thirds":                {"- {name: a, " + here + ", rate: 200/1m}\n- {name: b, " + here + ", rate: 200/1m}\n- {name: c, " + here + ", rate: 200/1m}\n", nil},
		"more than halves":            {"- {name: a, " + here + ", rate: 100/20s}\n- {name: b, " + here + ", rate: 101/20s}\n", []string{`["a" "b"]`}},
		"one without a limit":         {"- {name: a, " + here + ", rate: 1/20s}\n- {name: b, " + here + `, rate: "0"}` + "\n", []string{`["a" "b"]`}},
		"one machine":                 {"- {name: a, tenantId: a.example, managedIdentity: true}\n- {name: b, tenantId: b.example, managedIdentity: true}\n", []string{`["a" "b"]`}},
		"another tenant between them": {"- {name: a, " + here + "}\n- {name: b, tenantId: b.example}\n- {name: c, " + here + "}\n", []string{`["a" "c"]`}},
	} {
		t.Run(name, func(t *testing.T) {
			file := strings.ReplaceAll(c.file, strings.ToUpper(here[10:]), "tenantId: "+strings.ToUpper(here[10:]))
			cfg, err := configure(t, with(env, "WORKER_TENANTS_FILE", write(t, "tenants.yaml", file)))
			if err != nil {
				t.Fatal(err)
			}
			got := sharing(cfg.Tenants)
			if len(got) != len(c.want) {
				t.Fatalf("got %q", got)
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("got %q, want …%s…", got[i], want)
				}
			}
		})
	}
}

// The check names them, and so does the log.
func TestTenantsThatAreOneAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	file := write(t, "tenants.yaml", fmt.Sprintf("- {name: a, tenantId: %[1]s}\n- {name: b, tenantId: %[1]s}\n", graphsim.DefaultTenantID))
	env := w.env("WORKER_TENANTS_FILE", file, "AZURE_TENANT_ID", "")
	runCheck(t, env, exitDone).is(t, "tenants", "warning", `the tenants ["a" "b"] use the same application in the same directory`)
	p := launch(t, env, "run")
	p.awaitReady()
	p.stop()
	if n := strings.Count(p.err.String(), "use the same application in the same directory"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}

// A worker with another bucket knows nothing of what was reset.
func TestAnotherBucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	env := w.env("WORKER_BUCKET", "another")
	w.publish(body("A", graphsim.GoodDevice(1)), nil)
	p := launch(t, env, "run")
	await(t, "the worker to refuse the consumer", func() bool { return strings.Contains(p.err.String(), "set WORKER_BUCKET=passcode-resets") })
	p.stop()
	if n := w.sim.Status(); n.Posts != 0 {
		t.Errorf("Graph was called %d times", n.Posts)
	}
	runCheck(t, env, exitFailed).is(t, "consumer worker-default", "failed", "keeps its records in the bucket passcode-resets, not in another")
	// An operator can move on purpose.
	if r := runFor(t, env, "setup", "--update"); r.code != exitDone {
		t.Fatal(r.err)
	}
	runCheck(t, env, exitDone)
	p = launch(t, env, "run")
	await(t, "the request to be done", func() bool { return w.sim.Status().Executed == 1 })
	p.stop()
}

func TestManyTenants(t *testing.T) {
	t.Parallel()
	const second = "7e4a17b0-0000-4000-8000-00000000a002"
	w := newWorld(t, graphsim.Config{Tenants: []string{second}})
	list := func(names ...string) string {
		out := ""
		for i, name := range names {
			out += fmt.Sprintf("- {name: %s, tenantId: %s}\n", name, []string{graphsim.DefaultTenantID, second}[i%2])
		}
		return out
	}
	file := write(t, "tenants.yaml", list("a", "b"))
	env := w.env("WORKER_TENANTS_FILE", file, "AZURE_TENANT_ID", "")
	if got := runFor(t, env, "setup"); got.code != exitDone || !strings.Contains(got.out, "created  consumer worker-a\ncreated  consumer worker-b\n") {
		t.Fatalf("setup: %+v", got)
	}
	p := launch(t, env, "run")
	p.awaitReady()
	device := 0
	publish := func(tenant, id string) {
		t.Helper()
		device++
		if _, err := w.js.Publish(w.ctx, names.Subject+"."+tenant, []byte(body(id, graphsim.GoodDevice(device)))); err != nil {
			t.Fatal(err)
		}
	}
	state := func(tenant, id string) record.State {
		kv, err := w.js.KeyValue(w.ctx, names.Bucket)
		if err != nil {
			return record.None
		}
		e, err := kv.Get(w.ctx, tenant+"."+id)
		var r record.Record
		if err != nil || json.Unmarshal(e.Value(), &r) != nil {
			return record.None
		}
		return r.State
	}
	accepted := func(tenant, id string) {
		t.Helper()
		await(t, tenant+"'s request to be accepted", func() bool { return state(tenant, id) == record.Accepted })
	}
	publish("a", "1")
	publish("b", "1")
	publish("c", "1")
	accepted("a", "1")
	accepted("b", "1")
	p.awaitLine("requests wait for a tenant that no worker serves")

	replace(t, file, "- {name: a")
	p.awaitLine("WORKER_TENANTS_FILE cannot be used; the tenants stay as they were")
	publish("a", "2")
	accepted("a", "2")

	replace(t, file, list("b", "c"))
	accepted("c", "1")
	p.awaitLine("the tenant is no longer served")
	await(t, "the series of the tenant to go", func() bool { return len(p.metrics().by("active", "tenant")) > 0 && !p.metrics().has(`tenant="a"`) })
	publish("a", "3")
	publish("b", "2")
	accepted("b", "2")
	if s := state("a", "3"); s != record.None {
		t.Errorf("the request of a tenant that is not served is %s", s)
	}
	await(t, "nothing but that to wait", func() bool { return w.stream(names.Stream).State.Msgs == 1 })
	// Back again, and with another quota: it is begun anew and goes on.
	replace(t, file, list("b", "c", "a"))
	accepted("a", "3")
	replace(t, file, strings.ReplaceAll(list("b", "c", "a"), "name: c,", "name: c, rate: 7/1s,"))
	p.awaitLine("the tenant has changed; it is restarted")
	await(t, "the new rate", func() bool { return p.metrics().sum("rate_limit_configured", `tenant="c"`) == 7 })
	publish("c", "2")
	accepted("c", "2")
	p.stop()
	w.checkSim()
}

// has tells whether any series has a label.
func (s series) has(label string) bool {
	for name := range s {
		if strings.Contains(name, label) {
			return true
		}
	}
	return false
}

// FuzzTenantsFile reads anything without a panic, and tells no value of it.
func FuzzTenantsFile(f *testing.F) {
	f.Add([]byte("- {name: a, tenantId: b, rate: 1/1s}\n"))
	f.Add([]byte("- &a {name: x}\n- *a\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("- name: {\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseTenants(data)
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("too long: %v", err)
		}
		if err == nil && len(list) > len(data) {
			t.Errorf("%d tenants of %d bytes", len(list), len(data))
		}
	})
}

// replace replaces a file as a rotation does.
func replace(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestToolsOfManyTenants does not let what is meant for one of many tenants go
// to one that nobody serves.
func TestToolsOfManyTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	list := func(text string) map[string]string {
		env := w.env("WORKER_TENANTS_FILE", write(t, "tenants.yaml", text))
		delete(env, "AZURE_TENANT_ID")
		return env
	}
	id := graphsim.DefaultTenantID
	env := list("- {name: a, tenantId: " + id + "}\n- {name: b, tenantId: " + id + "}\n")
	expect(t, env, exitDone, ".*created  consumer worker-a\ncreated  consumer worker-b\n.*created  consumer follow-9\n", "", "setup")
	for _, args := range [][]string{{"send", "--device", graphsim.GoodDevice(1)}, {"status"}, {"dead", "list"}, {"pause"}, {"resume"}} {
		expect(t, env, exitUsage, "", `worker: wrong usage: --tenant: it is missing: give one of the tenants in .*tenants\.yaml; "default" is not one of them\nTry: worker .*\n`, args...)
	}
	expect(t, env, exitDone, "A1\n", "", "send", "--id", "A1", "--device", graphsim.GoodDevice(1), "--tenant", "a")
	expect(t, env, exitDone, "tenant      a\nwaiting     1\n.*", "", "status", "--tenant", "a")
	expect(t, env, exitDone, "tenant      b\nwaiting     0\n.*", "", "status", "--tenant", "b")
	env["WORKER_TENANTS_FILE"] = "/does/not/exist"
	expect(t, env, exitDone, "tenant      b\n.*", "", "status", "--tenant", "b")

	// The estimate goes by a tenant's own rate, unless one is asked for.
	env = list("- {name: a, tenantId: " + id + ", rate: 7/1m}\n- {name: b, tenantId: " + id + "}\n")
	env["WORKER_RATE"] = "9/1m"
	expect(t, env, exitDone, ".*\nrate        7/1m\n.*", "", "status", "--tenant", "a")
	expect(t, env, exitDone, ".*\nrate        9/1m\n.*", "", "status", "--tenant", "b")
	expect(t, env, exitDone, ".*\nrate        8/1m\n.*", "", "status", "--tenant", "a", "--rate", "8/1m")

	// What the tenants share is said once.
	env = list("- {name: a, tenantId: " + id + "}\n- {name: b, tenantId: " + id + "}\n")
	r := expect(t, env, exitDone, ".*", "worker: nothing failed, .*", "check", "-o", "json")
	said := map[string]int{}
	for _, line := range objects(t, r.out) {
		said[fmt.Sprint(line["what"])]++
		if tenant := fmt.Sprint(line["tenant"]); strings.HasPrefix(fmt.Sprint(line["what"]), "consumer ") && line["what"] != "consumer worker-"+tenant {
			t.Errorf("%v", line)
		}
	}
	for what, times := range map[string]int{"stream PASSCODE_RESETS": 1, "bucket passcode-resets": 1, "consumer worker-a": 1, "consumer worker-b": 1,
		"right to publish to $JS.API.STREAM.INFO.PASSCODE_RESETS": 1, "right to publish to $KV.passcode-resets.b.>": 1, "token": 2} {
		if said[what] != times {
			t.Errorf("%s was said %d times, not %d:\n%s", what, said[what], times, r.out)
		}
	}
}
