package main

import (
	"fmt"
	"strings"
	"testing"

	"passcode-worker/internal/graph/graphsim"
)

// TestWorkloadIdentityBesideTenants serves many tenants with what the webhook of
// Kubernetes workload identity puts into every pod, the cluster's own directory
// among it.
func TestWorkloadIdentityBesideTenants(t *testing.T) {
	t.Parallel()
	const second, cluster, federated = "7e4a17b0-0000-4000-8000-00000000a002", "7e4a17b0-0000-4000-8000-0000000000c1", "eyJ.federated.token"
	const says = "AZURE_TENANT_ID is ignored: WORKER_TENANTS_FILE names the directory of each tenant"
	w := newWorld(t, graphsim.Config{Tenants: []string{second}, FederatedToken: federated})
	env := w.env("AZURE_CLIENT_SECRET", "", "AZURE_TENANT_ID", cluster, "AZURE_FEDERATED_TOKEN_FILE", write(t, "azure-identity-token", federated),
		"WORKER_TENANTS_FILE", write(t, "tenants.yaml", fmt.Sprintf("- {name: a, tenantId: %s}\n- {name: b, tenantId: %s}\n", graphsim.DefaultTenantID, second)))
	env["AZURE_AUTHORITY_HOST"] += "/" // as it is injected
	if r := runFor(t, env, "setup"); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	if r := runFor(t, env, "check"); r.code != exitDone || strings.Count(r.err, says) != 1 || strings.Contains(r.out, "failed  ") {
		t.Errorf("status %d\n%s%s", r.code, r.out, r.err)
	}
	p := launch(t, env, "run")
	p.awaitReady()
	for i, tenant := range []string{"a", "b"} {
		if _, err := w.js.Publish(w.ctx, names.Subject+"."+tenant, []byte(body("1", graphsim.GoodDevice(i+1)))); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "both to be accepted", func() bool { return p.metrics().sum("requests_total", `outcome="accepted"`) == 2 })
	p.stop()
	if n := strings.Count(p.err.String(), says); n != 1 {
		t.Errorf("told %d times:\n%s", n, p.err.String())
	}
	w.checkSim()
}

// TestInjectedCredential says where a second credential comes from, once however
// many tenants would use it, and not of one that the file itself names.
func TestInjectedCredential(t *testing.T) {
	const source = `the platform did: Kubernetes workload identity injects it into pods with the label azure.workload.identity/use: "true". ` +
		"To use that identity, remove AZURE_CLIENT_SECRET_FILE; otherwise remove the label to use AZURE_CLIENT_SECRET_FILE"
	secret, token := write(t, "secret", "s3cret"), write(t, "token", "a.b.c")
	both := []string{"AZURE_CLIENT_SECRET", "", "AZURE_CLIENT_SECRET_FILE", secret, "AZURE_FEDERATED_TOKEN_FILE", token}
	tenants := write(t, "tenants.yaml", "- {name: a, tenantId: a.example}\n- {name: b, tenantId: b.example}\n- {name: c, tenantId: c.example, clientSecret: own}\n")
	for name, env := range map[string]map[string]string{
		"one tenant":   with(credentials(t), both...),
		"many tenants": with(with(credentials(t), both...), "WORKER_TENANTS_FILE", tenants),
	} {
		r := call(t, env, "run")
		if found := problems(r.err); r.code != exitUsage || len(found) != 1 || !strings.Contains(found[0], source) ||
			!strings.HasPrefix(found[0], "AZURE_CLIENT_SECRET_FILE, AZURE_FEDERATED_TOKEN_FILE: give one credential, not 2") {
			t.Errorf("%s: status %d\n%s", name, r.code, r.err)
		}
	}
	own := write(t, "own.yaml", "- {name: a, tenantId: a.example, clientSecretFile: "+secret+", federatedTokenFile: "+token+"}\n")
	r := call(t, with(credentials(t), "WORKER_TENANTS_FILE", own), "run")
	if found := problems(r.err); len(found) != 1 || !strings.HasSuffix(found[0], `tenant "a": clientSecretFile, federatedTokenFile: give one credential, not 2`) {
		t.Errorf("of its own:\n%s", r.err)
	}
	// All tenants have their own: what the options would give is not looked at.
	only := write(t, "only.yaml", "- {name: a, tenantId: a.example, clientSecretFile: "+secret+"}\n")
	if _, err := configure(t, with(with(credentials(t), both...), "WORKER_TENANTS_FILE", only)); err != nil {
		t.Errorf("each with a credential of its own: %v", err)
	}
}
