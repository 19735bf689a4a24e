package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/worker"
)

// groups are the sections of the help.
var groups = []kong.Group{
	{Key: "nats", Title: "NATS"},
	{Key: "azure", Title: "Microsoft Entra and Graph"},
	{Key: "names", Title: "Names on NATS"},
	{Key: "policy", Title: "Pace and verdicts"},
	{Key: "service", Title: "Service"},
}

// Every option is a string, whatever it means: so that all that is wrong with
// a configuration can be told at once, instead of the first thing only.

type natsOptions struct {
	NatsURL      string `group:"nats" env:"NATS_URL" default:"nats://127.0.0.1:4222" placeholder:"URL" help:"Servers, separated by commas."`
	NatsCreds    string `group:"nats" env:"NATS_CREDS" placeholder:"FILE" help:"Credentials file."`
	NatsNkey     string `group:"nats" env:"NATS_NKEY" placeholder:"FILE" help:"File with an nkey seed."`
	NatsUser     string `group:"nats" env:"NATS_USER" placeholder:"NAME" help:"User."`
	NatsPassword string `group:"nats" env:"NATS_PASSWORD" placeholder:"SECRET" help:"Password of the user. Better given by the environment: others can see a flag."`
	NatsToken    string `group:"nats" env:"NATS_TOKEN" placeholder:"SECRET" help:"Token. Better given by the environment."`
	NatsCA       string `name:"nats-ca" group:"nats" env:"NATS_CA" placeholder:"FILE" help:"PEM file of the authorities to trust."`
	NatsCert     string `group:"nats" env:"NATS_CERT" placeholder:"FILE" help:"PEM file of the client certificate."`
	NatsKey      string `group:"nats" env:"NATS_KEY" placeholder:"FILE" help:"PEM file of the client certificate's key."`
}

type nameOptions struct {
	Tenant      string `group:"names" env:"WORKER_TENANT" default:"default" placeholder:"NAME" help:"Tenant: the last token of the subjects. Default: default."`
	Stream      string `group:"names" env:"WORKER_STREAM" default:"PASSCODE_RESETS" placeholder:"NAME" help:"Request stream. Default: PASSCODE_RESETS."`
	Subject     string `group:"names" env:"WORKER_SUBJECT" default:"passcode.reset.requests" placeholder:"SUBJECT" help:"Subject of requests, without the tenant. Default: passcode.reset.requests."`
	DeadStream  string `group:"names" env:"WORKER_DEAD_STREAM" default:"PASSCODE_RESETS_DEAD" placeholder:"NAME" help:"Dead-letter stream. Default: PASSCODE_RESETS_DEAD."`
	DeadSubject string `group:"names" env:"WORKER_DEAD_SUBJECT" default:"passcode.reset.dead" placeholder:"SUBJECT" help:"Subject of dead letters, without the tenant. Default: passcode.reset.dead."`
	Bucket      string `group:"names" env:"WORKER_BUCKET" default:"passcode-resets" placeholder:"NAME" help:"Key-value bucket of the records. Default: passcode-resets."`
}

type azureOptions struct {
	AzureTenantID              string `group:"azure" env:"AZURE_TENANT_ID" placeholder:"GUID" help:"Directory (tenant) id, or a verified domain of it."`
	AzureClientID              string `group:"azure" env:"AZURE_CLIENT_ID" placeholder:"GUID" help:"Application (client) id."`
	AzureClientSecret          string `group:"azure" env:"AZURE_CLIENT_SECRET" placeholder:"SECRET" help:"Client secret. Better given by the environment, best in a file."`
	AzureClientSecretFile      string `group:"azure" env:"AZURE_CLIENT_SECRET_FILE" placeholder:"FILE" help:"File with the client secret, read again for each token."`
	AzureClientCertificatePath string `group:"azure" env:"AZURE_CLIENT_CERTIFICATE_PATH" placeholder:"FILE" help:"PEM file with certificate and RSA key, read again for each token."`
	AzureFederatedTokenFile    string `group:"azure" env:"AZURE_FEDERATED_TOKEN_FILE" placeholder:"FILE" help:"File with a token of a federated identity provider, read again for each token."`
	ManagedIdentity            string `group:"azure" env:"WORKER_MANAGED_IDENTITY" default:"false" placeholder:"BOOL" help:"true: use the machine's managed identity."`
	AzureAuthorityHost         string `group:"azure" env:"AZURE_AUTHORITY_HOST" placeholder:"URL" help:"Token service, in place of the cloud's."`
	GraphCloud                 string `group:"azure" env:"GRAPH_CLOUD" default:"global" placeholder:"CLOUD" help:"global, usgov, dod or china: endpoint, token service and scope. Default: global."`
	GraphEndpoint              string `group:"azure" env:"GRAPH_ENDPOINT" placeholder:"URL" help:"Root of Graph without a version, in place of the cloud's."`
}

type policyOptions struct {
	Concurrency    string `group:"policy" env:"WORKER_CONCURRENCY" default:"32" placeholder:"N" help:"Requests worked on at a time. Default: 32."`
	Rate           string `group:"policy" env:"WORKER_RATE" default:"200/20s" placeholder:"N/TIME" help:"At most N calls in any such time; 0: no limit. Default: 200/20s, Graph's limit for an application in a tenant."`
	RequestTimeout string `group:"policy" env:"WORKER_REQUEST_TIMEOUT" default:"30s" placeholder:"TIME" help:"Time for one call. Default: 30s."`
	MaxAttempts    string `group:"policy" env:"WORKER_MAX_ATTEMPTS" default:"8" placeholder:"N" help:"Calls that may have had an effect, until the request is given up. Default: 8."`
	BackoffMin     string `group:"policy" env:"WORKER_BACKOFF_MIN" default:"2s" placeholder:"TIME" help:"Least wait before a repetition. Default: 2s."`
	BackoffMax     string `group:"policy" env:"WORKER_BACKOFF_MAX" default:"5m" placeholder:"TIME" help:"Greatest wait before a repetition. Default: 5m."`
	MaxPause       string `group:"policy" env:"WORKER_MAX_PAUSE" default:"1h" placeholder:"TIME" help:"Cap on a pause that Graph asks for. Default: 1h."`
	MaxAge         string `group:"policy" env:"WORKER_MAX_AGE" default:"24h" placeholder:"TIME" help:"Older requests are given up. 0: any age. Default: 24h."`
	VerifyAfter    string `group:"policy" env:"WORKER_VERIFY_AFTER" default:"30s" placeholder:"TIME" help:"Wait before an unknown outcome is looked up. Default: 30s."`
	OnUnknown      string `group:"policy" env:"WORKER_ON_UNKNOWN" default:"dead-letter" placeholder:"WHAT" help:"Where the outcome may not be read: dead-letter, or retry (may reset twice). Default: dead-letter."`
}

type serviceOptions struct {
	Setup        string `group:"service" env:"WORKER_SETUP" default:"true" placeholder:"BOOL" help:"Create missing streams, bucket and consumer at the start. Default: true."`
	HTTPAddr     string `name:"http-addr" group:"service" env:"WORKER_HTTP_ADDR" default:":9090" placeholder:"ADDR" help:"Address of /metrics, /livez and /readyz. Default: :9090."`
	LogLevel     string `group:"service" env:"WORKER_LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error. Default: info."`
	LogFormat    string `group:"service" env:"WORKER_LOG_FORMAT" default:"json" placeholder:"FORMAT" help:"json or console. Default: json."`
	DrainTimeout string `group:"service" env:"WORKER_DRAIN_TIMEOUT" default:"25s" placeholder:"TIME" help:"Time to finish in after SIGTERM. Default: 25s."`
}

// usageError holds every problem of a configuration.
type usageError struct{ problems []error }

func (e *usageError) Error() string {
	var b strings.Builder
	for _, p := range e.problems {
		fmt.Fprintf(&b, "  - %v\n", p)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// reader turns options into values and gathers what is wrong with them.
type reader struct{ problems []error }

func (r *reader) fail(name, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
}

func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	return &usageError{r.problems}
}

func (r *reader) duration(name, s string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.fail(name, "%q is not a time: write it like 30s, 5m or 24h", s)
	case d < least:
		r.fail(name, "%q is too short: it must be at least %s", s, least)
	}
	return d
}

func (r *reader) number(name, s string, least, most int) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		r.fail(name, "%q is not a whole number from %d to %d", s, least, most)
	}
	return n
}

func (r *reader) boolean(name, s string) bool {
	b, err := strconv.ParseBool(s)
	if err != nil {
		r.fail(name, "%q is neither true nor false", s)
	}
	return b
}

func (r *reader) oneOf(name, s string, allowed ...string) string {
	if !slices.Contains(allowed, s) {
		r.fail(name, "%q is none of: %s", s, strings.Join(allowed, ", "))
	}
	return s
}

func (r *reader) file(name, path string) string {
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		r.fail(name, "%v", err)
		return path
	}
	_ = f.Close() // it was only opened to see that it can be
	return path
}

var (
	token      = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	subject    = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	entraID    = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	natsScheme = []string{"nats", "tls", "ws", "wss"}
)

func (r *reader) match(name, s string, form *regexp.Regexp, what string) string {
	if !form.MatchString(s) {
		r.fail(name, "%q is not %s", s, what)
	}
	return s
}

func (o natsOptions) read(r *reader) worker.NATS {
	for _, s := range strings.Split(o.NatsURL, ",") {
		s = strings.TrimSpace(s)
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		if u, err := url.Parse(s); err != nil || u.Host == "" || !slices.Contains(natsScheme, u.Scheme) {
			r.fail("NATS_URL", "it is not an address like nats://host:4222") // it may hold a password: not shown
		}
	}
	var ways []string
	for _, w := range []struct{ name, value string }{
		{"NATS_CREDS", o.NatsCreds}, {"NATS_NKEY", o.NatsNkey}, {"NATS_USER", o.NatsUser}, {"NATS_TOKEN", o.NatsToken},
	} {
		if w.value != "" {
			ways = append(ways, w.name)
		}
	}
	if len(ways) > 1 {
		r.fail(strings.Join(ways, ", "), "give one of them")
	}
	if o.NatsPassword != "" && o.NatsUser == "" {
		r.fail("NATS_PASSWORD", "NATS_USER is missing")
	}
	if (o.NatsCert == "") != (o.NatsKey == "") {
		r.fail("NATS_CERT, NATS_KEY", "give both or neither")
	}
	return worker.NATS{
		URL: o.NatsURL, Creds: r.file("NATS_CREDS", o.NatsCreds), NKey: r.file("NATS_NKEY", o.NatsNkey),
		User: o.NatsUser, Password: o.NatsPassword, Token: o.NatsToken,
		CA: r.file("NATS_CA", o.NatsCA), Cert: r.file("NATS_CERT", o.NatsCert), Key: r.file("NATS_KEY", o.NatsKey),
	}
}

func (o nameOptions) read(r *reader) consume.Names {
	const what = "a name of letters, digits, - and _"
	n := consume.Names{
		Tenant:      r.match("WORKER_TENANT", o.Tenant, token, what),
		Stream:      r.match("WORKER_STREAM", o.Stream, token, what),
		Subject:     r.match("WORKER_SUBJECT", o.Subject, subject, "a subject without wildcards"),
		DeadStream:  r.match("WORKER_DEAD_STREAM", o.DeadStream, token, what),
		DeadSubject: r.match("WORKER_DEAD_SUBJECT", o.DeadSubject, subject, "a subject without wildcards"),
		Bucket:      r.match("WORKER_BUCKET", o.Bucket, token, what),
	}
	if n.Stream == n.DeadStream {
		r.fail("WORKER_STREAM, WORKER_DEAD_STREAM", "they must differ")
	}
	if n.Subject == n.DeadSubject {
		r.fail("WORKER_SUBJECT, WORKER_DEAD_SUBJECT", "they must differ")
	}
	return n
}

func (o azureOptions) read(r *reader) (graph.Credential, string) {
	clouds := graph.Clouds()
	cloud, ok := clouds[o.GraphCloud]
	if !ok {
		r.fail("GRAPH_CLOUD", "%q is none of: global, usgov, dod, china", o.GraphCloud)
	}
	c := graph.Credential{
		Authority: cloud.Authority, TenantID: o.AzureTenantID, ClientID: o.AzureClientID, Scope: cloud.Scope,
		Secret:             o.AzureClientSecret,
		SecretFile:         o.AzureClientSecretFile,
		CertificatePath:    o.AzureClientCertificatePath,
		FederatedTokenFile: o.AzureFederatedTokenFile,
		ManagedIdentity:    r.boolean("WORKER_MANAGED_IDENTITY", o.ManagedIdentity),
	}
	if o.AzureAuthorityHost != "" {
		c.Authority = o.AzureAuthorityHost
	}
	var given []string
	for _, w := range []struct {
		name string
		set  bool
	}{
		{"AZURE_CLIENT_SECRET", c.Secret != ""}, {"AZURE_CLIENT_SECRET_FILE", c.SecretFile != ""},
		{"AZURE_CLIENT_CERTIFICATE_PATH", c.CertificatePath != ""}, {"AZURE_FEDERATED_TOKEN_FILE", c.FederatedTokenFile != ""},
		{"WORKER_MANAGED_IDENTITY", c.ManagedIdentity},
	} {
		if w.set {
			given = append(given, w.name)
		}
	}
	switch {
	case len(given) == 0:
		r.fail("AZURE_CLIENT_SECRET", "no credential: give AZURE_CLIENT_SECRET, AZURE_CLIENT_SECRET_FILE, "+
			"AZURE_CLIENT_CERTIFICATE_PATH, AZURE_FEDERATED_TOKEN_FILE or WORKER_MANAGED_IDENTITY=true")
	case len(given) > 1:
		r.fail(strings.Join(given, ", "), "give one credential, not %d", len(given))
	default:
		if err := c.Check(); err != nil {
			r.problems = append(r.problems, err)
		}
	}
	if !c.ManagedIdentity {
		if o.AzureTenantID == "" {
			r.fail("AZURE_TENANT_ID", "it is missing")
		} else {
			r.match("AZURE_TENANT_ID", o.AzureTenantID, entraID, "a GUID or a domain")
		}
		if o.AzureClientID == "" {
			r.fail("AZURE_CLIENT_ID", "it is missing")
		}
		if u, err := url.Parse(c.Authority); ok && (err != nil || u.Scheme != "https" || u.Host == "") {
			r.fail("AZURE_AUTHORITY_HOST", "%q is not an https address", c.Authority)
		}
	}
	if o.AzureClientID != "" {
		r.match("AZURE_CLIENT_ID", o.AzureClientID, entraID, "a GUID")
	}
	endpoint := cloud.Endpoint
	if o.GraphEndpoint != "" {
		endpoint = o.GraphEndpoint
	}
	if ok || o.GraphEndpoint != "" {
		if _, err := graph.New(graph.Config{Endpoint: endpoint}); err != nil {
			r.fail("GRAPH_ENDPOINT", "%v", err)
		}
	}
	return c, endpoint
}

func (o policyOptions) read(r *reader, c *worker.Config) {
	c.Concurrency = r.number("WORKER_CONCURRENCY", o.Concurrency, 1, 1000)
	rate, err := pace.ParseRate(o.Rate)
	if err != nil {
		r.fail("WORKER_RATE", "%v", err)
	}
	c.Rate = rate
	c.MaxPause = r.duration("WORKER_MAX_PAUSE", o.MaxPause, time.Second)
	c.Policy = worker.Policy{
		RequestTimeout: r.duration("WORKER_REQUEST_TIMEOUT", o.RequestTimeout, 100*time.Millisecond),
		MaxAttempts:    r.number("WORKER_MAX_ATTEMPTS", o.MaxAttempts, 1, 1000),
		BackoffMin:     r.duration("WORKER_BACKOFF_MIN", o.BackoffMin, time.Millisecond),
		BackoffMax:     r.duration("WORKER_BACKOFF_MAX", o.BackoffMax, time.Millisecond),
		MaxAge:         r.duration("WORKER_MAX_AGE", o.MaxAge, 0),
		VerifyAfter:    r.duration("WORKER_VERIFY_AFTER", o.VerifyAfter, 0),
		OnUnknown:      worker.OnUnknown(r.oneOf("WORKER_ON_UNKNOWN", o.OnUnknown, string(worker.UnknownDeadLetter), string(worker.UnknownRetry))),
	}
	if c.Policy.BackoffMax < c.Policy.BackoffMin {
		r.fail("WORKER_BACKOFF_MAX", "it is shorter than WORKER_BACKOFF_MIN")
	}
}

func (o serviceOptions) read(r *reader, c *worker.Config) {
	c.Setup = r.boolean("WORKER_SETUP", o.Setup)
	c.HTTPAddr = o.HTTPAddr
	if _, _, err := net.SplitHostPort(o.HTTPAddr); err != nil {
		r.fail("WORKER_HTTP_ADDR", "%q is not an address like :9090 or 127.0.0.1:9090", o.HTTPAddr)
	}
	c.DrainTimeout = r.duration("WORKER_DRAIN_TIMEOUT", o.DrainTimeout, time.Second)
}

// logger makes the log; it is usable even if its options are not.
func (o serviceOptions) logger(r *reader) *zap.Logger {
	level, err := zapcore.ParseLevel(o.LogLevel)
	if err != nil {
		r.fail("WORKER_LOG_LEVEL", "%q is none of: debug, info, warn, error", o.LogLevel)
	}
	cfg := zap.NewProductionConfig()
	cfg.Sampling = nil // one line per verdict, always
	cfg.DisableStacktrace = true
	cfg.Level = zap.NewAtomicLevelAt(level)
	cfg.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncoderConfig.TimeKey = "time"
	cfg.EncoderConfig.EncodeDuration = zapcore.SecondsDurationEncoder
	cfg.Encoding = r.oneOf("WORKER_LOG_FORMAT", o.LogFormat, "json", "console")
	log, err := cfg.Build()
	if err != nil {
		return zap.NewNop() // the encoding is wrong, which is told already
	}
	return log
}

// unknownVariables finds environment variables that look like ours and are
// not: a mistyped name would else be passed over in silence.
func unknownVariables(known []string, environ []string) []string {
	var out []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "WORKER_") && !slices.Contains(known, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
