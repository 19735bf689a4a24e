package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"passcode-worker/internal/pace"
	"passcode-worker/internal/setting"
	"passcode-worker/internal/worker"
)

// tenantsOption names the file with many tenants.
type tenantsOption struct {
	TenantsFile string `group:"azure" env:"WORKER_TENANTS_FILE" placeholder:"FILE" help:"YAML list of tenants (name, tenantId, rate, credentials), instead of AZURE_TENANT_ID. The worker reads it again when it changes."`
}

// tenantEntry is one tenant in the file. The options apply to what it leaves out.
type tenantEntry struct {
	Name                      string `yaml:"name"`
	TenantID                  string `yaml:"tenantId"`
	Rate                      string `yaml:"rate"`
	ClientID                  string `yaml:"clientId"`
	ClientSecret              string `yaml:"clientSecret"`
	ClientSecretFile          string `yaml:"clientSecretFile"`
	ClientCertificatePath     string `yaml:"clientCertificatePath"`
	ClientCertificatePassword string `yaml:"clientCertificatePassword"`
	FederatedTokenFile        string `yaml:"federatedTokenFile"`
	ManagedIdentity           bool   `yaml:"managedIdentity"`
}

// keyOf replaces the names of options in a problem by the keys of the file.
var keyOf = strings.NewReplacer(
	"AZURE_TENANT_ID", "tenantId", "AZURE_CLIENT_ID", "clientId", "AZURE_CLIENT_SECRET_FILE", "clientSecretFile",
	"AZURE_CLIENT_SECRET", "clientSecret", "AZURE_CLIENT_CERTIFICATE_PATH", "clientCertificatePath",
	"AZURE_CLIENT_CERTIFICATE_PASSWORD", "clientCertificatePassword",
	"AZURE_FEDERATED_TOKEN_FILE", "federatedTokenFile", "WORKER_MANAGED_IDENTITY=true", "managedIdentity: true",
	"WORKER_MANAGED_IDENTITY", "managedIdentity",
)

// maxTenantsFile is far more than thousands of tenants need.
const maxTenantsFile = 16 << 20

// parseTenants reads the list. Its errors quote no value, since the list may hold secrets.
func parseTenants(data []byte) ([]tenantEntry, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	var list []tenantEntry
	if err := d.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlError(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one YAML document: write one list")
	}
	return list, nil
}

// yamlError keeps only the line and the name of an unknown key, since the library's
// error may quote a value.
func yamlError(err error) error {
	text := err.Error()
	line, _, _ := strings.Cut(text[max(0, strings.Index(text, "line ")):], ":")
	if !strings.HasPrefix(line, "line ") {
		line = "somewhere"
	}
	if _, rest, ok := strings.Cut(text, ": field "); ok {
		if key, _, ok := strings.Cut(rest, " not found"); ok && len(key) <= 64 {
			return fmt.Errorf("%s: the key %q is unknown", line, key)
		}
	}
	return fmt.Errorf("%s: it is not a YAML list of tenants, each with name and tenantId", line)
}

// tenants turns the list into tenants. The options apply to what an entry leaves out.
func (c runCmd) tenants(r *reader, list []tenantEntry, rate pace.Rate) []worker.Tenant {
	if len(list) == 0 {
		r.fail("WORKER_TENANTS_FILE", "it lists no tenants")
	}
	shared, proven := c.azureOptions, false
	r.tidy(&shared)
	out := make([]worker.Tenant, 0, len(list))
	names := map[string]bool{}
	for i, e := range list {
		own := &reader{}
		t := worker.Tenant{Name: own.match("name", e.Name, token, "a name of letters, digits, - and _"), Rate: rate}
		if names[e.Name] {
			own.fail("name", "another tenant has the same name")
		}
		names[e.Name] = true
		azure := e.over(shared)
		own.tidy(&azure)
		t.Credential = azure.assemble()
		switch {
		case e.hasProof() || len(proofs(t.Credential)) == 0:
			azure.prove(own, t.Credential, false)
		case !proven: // a problem of the shared options is reported once, not for each tenant
			azure.prove(r, t.Credential, true)
			proven = true
		}
		azure.identify(own, t.Credential)
		if e.Rate != "" {
			var err error
			if t.Rate, err = pace.ParseRate(e.Rate); err != nil {
				own.fail("rate", "%v", err)
			}
		}
		which := fmt.Sprintf("tenant %d", i+1)
		if e.Name != "" {
			which = fmt.Sprintf("tenant %q", e.Name)
		}
		for _, p := range own.problems {
			r.fail("WORKER_TENANTS_FILE", "%s: %s", which, keyOf.Replace(p.Error()))
		}
		for _, d := range own.doubts {
			r.doubt("WORKER_TENANTS_FILE: "+which+": "+keyOf.Replace(d.detail), d.do)
		}
		out = append(out, t)
	}
	return out
}

// graphGrants is what Graph grants an application in a directory, per second: its
// documented limit for Intune, 200 requests in 20 s. The rest is for sums of
// fractions.
const graphGrants = 200.0/20 + 1e-6

// mostNamed is how many tenants a warning names.
const mostNamed = 5

// sharing names the tenants whose calls Graph counts together, if their rates add up to
// more than it grants. It does not notice a directory that is given once as a domain and
// once as a GUID.
func sharing(tenants []worker.Tenant) []string {
	type application struct {
		authority, directory, client string
		managed                      bool
	}
	var order []application
	same := map[application][]worker.Tenant{}
	for _, t := range tenants {
		c := t.Credential
		a := application{c.Authority, strings.ToLower(c.TenantID), strings.ToLower(c.ClientID), c.ManagedIdentity}
		if c.ManagedIdentity {
			a.authority, a.directory = "", "" // the machine's identity determines them
		}
		if same[a] == nil {
			order = append(order, a)
		}
		same[a] = append(same[a], t)
	}
	var out []string
	for _, a := range order {
		sum, unlimited := 0.0, false
		var names []string
		for _, t := range same[a] {
			sum += t.Rate.PerSecond()
			unlimited = unlimited || t.Rate.N == 0
			names = append(names, t.Name)
		}
		if len(names) > 1 && (unlimited || sum > graphGrants) {
			if n := len(names) - mostNamed; n > 0 {
				names = append(names[:mostNamed], fmt.Sprintf("and %d more", n))
			}
			out = append(out, fmt.Sprintf("the tenants %q use the same application in the same directory, for which Graph grants 200 calls in 20s. "+
				"Their rates add up to more, so Graph will refuse calls of each of them", names))
		}
	}
	return out
}

const sharingHint = "merge them into one tenant, or give each a rate so that the rates add up to no more"

// over returns the options with the entry's own values in their place. A credential of
// its own replaces the options' as a whole.
func (e tenantEntry) over(o azureOptions) azureOptions {
	o.AzureTenantID = e.TenantID
	if e.ClientID != "" {
		o.AzureClientID = e.ClientID
	}
	if !e.hasProof() {
		return o
	}
	o.AzureClientSecret, o.AzureClientSecretFile = e.ClientSecret, e.ClientSecretFile
	o.AzureClientCertificatePath, o.AzureFederatedTokenFile = e.ClientCertificatePath, e.FederatedTokenFile
	o.AzureClientCertificatePassword = e.ClientCertificatePassword
	o.ManagedIdentity = fmt.Sprint(e.ManagedIdentity)
	return o
}

// hasProof reports whether an entry has a credential of its own.
func (e tenantEntry) hasProof() bool {
	return e.ClientSecret != "" || e.ClientSecretFile != "" || e.ClientCertificatePath != "" || e.FederatedTokenFile != "" || e.ManagedIdentity
}

// readTenants reads and checks the file.
func (c runCmd) readTenants(r *reader, rate pace.Rate) ([]worker.Tenant, []byte) {
	data, err := readTenantsFile(c.TenantsFile)
	return c.understand(r, data, err, rate), data
}

// understand turns what was read into tenants; err says why it could not be read.
func (c runCmd) understand(r *reader, data []byte, err error, rate pace.Rate) []worker.Tenant {
	if err != nil {
		r.fail("WORKER_TENANTS_FILE", "it cannot be read: %v", err)
		return nil
	}
	list, err := parseTenants(data)
	if err != nil {
		r.fail("WORKER_TENANTS_FILE", "%v", err)
		return nil
	}
	return c.tenants(r, list, rate)
}

func readTenantsFile(path string) ([]byte, error) {
	path, err := setting.Text(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxTenantsFile+1))
	if err == nil && len(data) > maxTenantsFile {
		err = fmt.Errorf("it is larger than %d bytes", maxTenantsFile)
	}
	return data, err
}

// names reads the tenants' names. It does not check the rest of the file.
func (o tenantsOption) names(r *reader) []string {
	data, err := readTenantsFile(o.TenantsFile)
	if err != nil {
		r.fail("WORKER_TENANTS_FILE", "it cannot be read: %v", err)
		return nil
	}
	list, err := parseTenants(data)
	if err != nil {
		r.fail("WORKER_TENANTS_FILE", "%v", err)
	}
	var names []string
	for _, e := range list {
		names = append(names, r.match("WORKER_TENANTS_FILE: name", e.Name, token, "a name of letters, digits, - and _"))
	}
	return names
}

func warnOfSharing(log *zap.Logger, tenants []worker.Tenant) {
	for _, s := range sharing(tenants) {
		log.Warn(s + ": " + sharingHint)
	}
}

// reloadInterval is how often the file is read. Its content is compared, so that it
// does not matter how it is replaced.
const reloadInterval = 2 * time.Second

// watchTenants sends the list each time the file has changed and is valid. While it is
// invalid, the last valid list stays in force.
func (c runCmd) watchTenants(ctx context.Context, known []byte, rate pace.Rate, log *zap.Logger) <-chan []worker.Tenant {
	changes := make(chan []worker.Tenant)
	go func() {
		ticker := time.NewTicker(reloadInterval)
		defer ticker.Stop()
		told := "" // the problem at the last look; empty: there was none
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			// If nothing has changed, thousands of tenants need not be checked again: what
			// else they depend on, such as files with secrets, is read at every use.
			data, err := readTenantsFile(c.TenantsFile)
			if err == nil && told == "" && bytes.Equal(data, known) {
				continue
			}
			r := &reader{}
			tenants := c.understand(r, data, err, rate)
			if err := r.err(); err != nil {
				if err.Error() != told {
					log.Error("WORKER_TENANTS_FILE cannot be used; the tenants stay as they were", zap.Error(err))
				}
				told = err.Error()
				continue
			}
			told = ""
			if bytes.Equal(data, known) {
				continue // it is as it was before it became invalid
			}
			known = data
			log.Info("WORKER_TENANTS_FILE has changed; its tenants are used from now on", zap.Int("tenants", len(tenants)))
			r.tell(log)
			warnOfSharing(log, tenants)
			select {
			case changes <- tenants:
			case <-ctx.Done():
				return
			}
		}
	}()
	return changes
}
