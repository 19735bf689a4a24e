package deploy_test

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
)

// workerTakes starts a real worker with an environment from deploy/ and sees
// it begin without a word against its configuration. Files that the
// environment names are made for it.
func workerTakes(t *testing.T, env map[string]string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "worker"), "run")
	dir := t.TempDir()
	for name, value := range env {
		if text := contents(t, name); value != "" && text != "" {
			value = filepath.Join(dir, name)
			write(t, value, text)
		}
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Env = append(cmd.Env, "WORKER_HTTP_ADDR=127.0.0.1:0", "NATS_URL=nats://127.0.0.1:1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(testTime, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var said []string
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), "serving metrics and health") {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
			for _, line := range said {
				if strings.Contains(line, "is not known") {
					t.Error(line)
				}
			}
			return
		}
	}
	t.Errorf("the worker does not start with %v: %v\n%s", env, cmd.Wait(), strings.Join(said, "\n"))
}

// contents is what the file holds that a variable names; empty where it names none.
func contents(t *testing.T, variable string) string {
	t.Helper()
	switch variable {
	case "AZURE_CLIENT_SECRET_FILE", "AZURE_FEDERATED_TOKEN_FILE":
		return "not-a-secret\n"
	case "WORKER_TENANTS_FILE":
		own := filepath.Join(t.TempDir(), "fabrikam")
		write(t, own, "not-a-secret\n")
		example := read(t, tenantsDir+"tenants.example.yaml")
		list := strings.ReplaceAll(example, "/etc/passcode-worker/azure/fabrikam", own)
		if list == example {
			t.Error("no tenant of the example has a credential of its own")
		}
		return list
	case "AZURE_CLIENT_CERTIFICATE_PATH":
		return certificate(t)
	case "NATS_CREDS":
		user, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		seed, err := user.Seed()
		if err != nil {
			t.Fatal(err)
		}
		return "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJKV1QifQ.e30.x\n------END NATS USER JWT------\n\n" +
			"-----BEGIN USER NKEY SEED-----\n" + string(seed) + "\n------END USER NKEY SEED------\n"
	}
	return ""
}

// certificate is a PEM file with a certificate and its key.
func certificate(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "passcode-worker"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}
