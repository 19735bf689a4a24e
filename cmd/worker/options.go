package main

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/natsconn"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
	"passcode-worker/internal/worker"
)

// groups are the sections of the help.
var groups = []kong.Group{
	{Key: "nats", Title: "NATS"},
	{Key: "azure", Title: "Microsoft Entra and Graph"},
	{Key: "names", Title: "Names on NATS"},
	{Key: "policy", Title: "Pace and verdicts"},
	{Key: "service", Title: "Service"},
	{Key: "request", Title: "Request"},
	{Key: "select", Title: "Which ones"},
}

// defaults returns the default values that other packages or several commands share,
// by the names that the tags use.
func defaults() kong.Vars {
	n, p, layout := topology.DefaultNames(), verdict.DefaultPolicy(), topology.Layout{}
	return kong.Vars{
		"tenant": n.Tenant, "stream": n.Stream, "subject": n.Subject,
		"dead_stream": n.DeadStream, "dead_subject": n.DeadSubject, "bucket": n.Bucket,
		"follow_stream": n.FollowStream, "follow_subject": n.FollowSubject,

		"request_timeout": brief(p.RequestTimeout),
		"max_attempts":    strconv.Itoa(p.MaxAttempts),
		"backoff_min":     brief(p.BackoffMin),
		"backoff_max":     brief(p.BackoffMax),
		"max_age":         brief(p.MaxAge),
		"verify_after":    brief(p.VerifyAfter),
		"on_unknown":      string(p.OnUnknown),
		"rate":            "200/20s",
		"follow_for":      brief(outcome.DefaultFor),

		"retention":       brief(layout.Letters(n).MaxAge),
		"max_ack_pending": strconv.Itoa(layout.Worker(n).MaxAckPending),
	}
}

// brief formats a duration as people write it: 24h, not 24h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// describe returns an option's help with its default, which only its tag holds.
func describe(v *kong.Value) string {
	shown := *v
	if v.HasDefault {
		shown.Help += " Default: " + v.Default + "."
	}
	return kong.DefaultHelpValueFormatter(&shown)
}

// Every option is a string, whatever it means, so that all problems of a
// configuration can be reported at once, and not only the first.

type natsOptions struct {
	NatsContext     string `group:"nats" env:"NATS_CONTEXT" placeholder:"NAME" help:"Saved context of the nats tool. Other NATS options override it. If not set, no context is used."`
	NatsURL         string `group:"nats" env:"NATS_URL" filled:"" placeholder:"URL" help:"Servers, separated by commas. If neither this nor a context is set: nats://127.0.0.1:4222."`
	NatsCreds       string `group:"nats" env:"NATS_CREDS" placeholder:"FILE" help:"Credentials file."`
	NatsNkey        string `group:"nats" env:"NATS_NKEY" placeholder:"FILE" help:"File with an nkey seed."`
	NatsUser        string `group:"nats" env:"NATS_USER" placeholder:"NAME" help:"User."`
	NatsPassword    string `group:"nats" env:"NATS_PASSWORD" placeholder:"SECRET" help:"Password of the user. Use the environment variable: other users of the machine can see a flag."`
	NatsToken       string `group:"nats" env:"NATS_TOKEN" placeholder:"SECRET" help:"Token. Use the environment variable, not the flag."`
	NatsJWT         string `name:"nats-jwt" group:"nats" env:"NATS_JWT" placeholder:"SECRET" help:"The JWT of a user (the text itself, not a file). Use the environment variable, not the flag."`
	NatsSeed        string `group:"nats" env:"NATS_SEED" placeholder:"SECRET" help:"The seed of the JWT's user (the text itself, not a file). Use the environment variable, not the flag."`
	NatsCA          string `name:"nats-ca" group:"nats" env:"NATS_CA" placeholder:"FILE" help:"PEM file with the certificate authorities to trust."`
	NatsCert        string `group:"nats" env:"NATS_CERT" placeholder:"FILE" help:"PEM file with the client certificate."`
	NatsKey         string `group:"nats" env:"NATS_KEY" placeholder:"FILE" help:"PEM file with the key of the client certificate."`
	NatsTLSFirst    string `name:"nats-tls-first" group:"nats" env:"NATS_TLS_FIRST" filled:"" placeholder:"BOOL" help:"true: start TLS at once, before the server sends anything."`
	NatsTimeout     string `group:"nats" env:"NATS_TIMEOUT" default:"5s" placeholder:"TIME" help:"Time limit for connecting to one server."`
	NatsInboxPrefix string `group:"nats" env:"NATS_INBOX_PREFIX" placeholder:"SUBJECT" help:"Prefix of the subjects for replies, instead of _INBOX."`
	NatsJSDomain    string `name:"nats-js-domain" group:"nats" env:"NATS_JS_DOMAIN" placeholder:"NAME" help:"JetStream domain to use, of a hub or a leaf node."`
	NatsJSAPIPrefix string `name:"nats-js-api-prefix" group:"nats" env:"NATS_JS_API_PREFIX" placeholder:"SUBJECT" help:"Prefix of the JetStream API, if it is imported from another account."`
}

type nameOptions struct {
	Tenant        string `group:"names" env:"WORKER_TENANT" default:"${tenant}" placeholder:"NAME" help:"Tenant: the last token of the subjects."`
	Stream        string `group:"names" env:"WORKER_STREAM" default:"${stream}" placeholder:"NAME" help:"Request stream."`
	Subject       string `group:"names" env:"WORKER_SUBJECT" default:"${subject}" placeholder:"SUBJECT" help:"Subject of requests, without the tenant."`
	DeadStream    string `group:"names" env:"WORKER_DEAD_STREAM" default:"${dead_stream}" placeholder:"NAME" help:"Dead-letter stream."`
	DeadSubject   string `group:"names" env:"WORKER_DEAD_SUBJECT" default:"${dead_subject}" placeholder:"SUBJECT" help:"Subject of dead letters, without the tenant."`
	Bucket        string `group:"names" env:"WORKER_BUCKET" default:"${bucket}" placeholder:"NAME" help:"Key-value bucket of the records."`
	FollowStream  string `group:"names" env:"WORKER_FOLLOW_STREAM" default:"${follow_stream}" placeholder:"NAME" help:"Stream of the alarms for accepted requests."`
	FollowSubject string `group:"names" env:"WORKER_FOLLOW_SUBJECT" default:"${follow_subject}" placeholder:"SUBJECT" help:"Subject of these alarms, without step and tenant."`
}

type azureOptions struct {
	AzureTenantID                  string `group:"azure" env:"AZURE_TENANT_ID" placeholder:"GUID" help:"Directory (tenant) id, or a verified domain of it."`
	AzureClientID                  string `group:"azure" env:"AZURE_CLIENT_ID" placeholder:"GUID" help:"Application (client) id."`
	AzureClientSecret              string `group:"azure" env:"AZURE_CLIENT_SECRET" placeholder:"SECRET" help:"Client secret. Use a file, or at least the environment variable."`
	AzureClientSecretFile          string `group:"azure" env:"AZURE_CLIENT_SECRET_FILE" placeholder:"FILE" help:"File with the client secret, read again for each token."`
	AzureClientCertificatePath     string `group:"azure" env:"AZURE_CLIENT_CERTIFICATE_PATH" placeholder:"FILE" help:"PEM or PFX file with a certificate and its RSA key, read again for each token."`
	AzureClientCertificatePassword string `group:"azure" env:"AZURE_CLIENT_CERTIFICATE_PASSWORD" placeholder:"SECRET" help:"Password of a PFX file. Use the environment variable, not the flag."`
	AzureFederatedTokenFile        string `group:"azure" env:"AZURE_FEDERATED_TOKEN_FILE" placeholder:"FILE" help:"File with a token from a federated identity provider, read again for each token."`
	ManagedIdentity                string `group:"azure" env:"WORKER_MANAGED_IDENTITY" default:"false" placeholder:"BOOL" help:"true: use the machine's managed identity."`
	AzureAuthorityHost             string `group:"azure" env:"AZURE_AUTHORITY_HOST" placeholder:"URL" help:"Address of the token service, instead of the cloud's."`
	GraphCloud                     string `group:"azure" env:"GRAPH_CLOUD" default:"global" placeholder:"CLOUD" help:"global, usgov, dod or china. Sets the endpoint, the token service and the scope."`
	GraphEndpoint                  string `group:"azure" env:"GRAPH_ENDPOINT" placeholder:"URL" help:"Root address of Graph without a version, instead of the cloud's."`
}

// keepOptions decide how long records are needed.
type keepOptions struct {
	MaxAge         string `group:"policy" env:"WORKER_MAX_AGE" default:"${max_age}" placeholder:"TIME" help:"Requests older than this become dead letters. 0: no limit."`
	Fuse           string `group:"policy" env:"WORKER_FUSE" default:"0" placeholder:"N/TIME" help:"Hold the tenant if more than N different devices would be reset within TIME. worker resume releases it. 0: off."`
	DeviceCooldown string `group:"policy" env:"WORKER_DEVICE_COOLDOWN" default:"0s" placeholder:"TIME" help:"Refuse a further request for a device that was reset less than this long ago. 0: off."`
	RequestTimeout string `group:"policy" env:"WORKER_REQUEST_TIMEOUT" default:"30s" placeholder:"TIME" help:"Time limit for one call."`
}

type policyOptions struct {
	keepOptions `embed:""`

	Concurrency string `group:"policy" env:"WORKER_CONCURRENCY" default:"32" placeholder:"N" help:"Number of requests worked on at a time."`
	Rate        string `group:"policy" env:"WORKER_RATE" default:"200/20s" placeholder:"N/TIME" help:"At most N calls in any period of TIME. 0: no limit. Graph grants an application 200/20s in each tenant."`
	MaxAttempts string `group:"policy" env:"WORKER_MAX_ATTEMPTS" default:"8" placeholder:"N" help:"Number of calls that may have had an effect before the request becomes a dead letter."`
	BackoffMin  string `group:"policy" env:"WORKER_BACKOFF_MIN" default:"2s" placeholder:"TIME" help:"Shortest wait before a retry."`
	BackoffMax  string `group:"policy" env:"WORKER_BACKOFF_MAX" default:"5m" placeholder:"TIME" help:"Longest wait before a retry."`
	MaxPause    string `group:"policy" env:"WORKER_MAX_PAUSE" default:"1h" placeholder:"TIME" help:"Longest pause that Graph or the token service can impose."`
	VerifyAfter string `group:"policy" env:"WORKER_VERIFY_AFTER" default:"30s" placeholder:"TIME" help:"Wait before the worker looks up an unknown outcome; at least 1s."`
	ActionNames string `group:"policy" env:"WORKER_ACTION_NAMES" placeholder:"NAMES" help:"Additional names that a reset may have in a device's list of actions, separated by commas."`
	Follow      string `group:"policy" env:"WORKER_FOLLOW" default:"auto" placeholder:"WHEN" help:"Follow each accepted request until the device has carried it out: on, off, or auto (on unless the token lacks the permission to read devices)."`
	FollowFor   string `group:"policy" env:"WORKER_FOLLOW_FOR" default:"${follow_for}" placeholder:"TIME" help:"How long the worker follows an accepted request."`
	OnUnknown   string `group:"policy" env:"WORKER_ON_UNKNOWN" default:"dead-letter" placeholder:"WHAT" help:"What to do if the worker may not look up an unknown outcome: dead-letter, or retry (may reset a device twice)."`
}

type serviceOptions struct {
	Setup        string `group:"service" env:"WORKER_SETUP" default:"true" placeholder:"BOOL" help:"Create missing streams, buckets and consumers at startup."`
	HTTPAddr     string `name:"http-addr" group:"service" env:"WORKER_HTTP_ADDR" default:":9090" placeholder:"ADDR" help:"Address of /metrics, /livez, /readyz and the status page."`
	LogLevel     string `group:"service" env:"WORKER_LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat    string `group:"service" env:"WORKER_LOG_FORMAT" default:"json" placeholder:"FORMAT" help:"json or console."`
	DrainTimeout string `group:"service" env:"WORKER_DRAIN_TIMEOUT" default:"25s" placeholder:"TIME" help:"Time limit for finishing after SIGTERM."`
}

func (o natsOptions) read(r *reader) natsconn.Config {
	r.tidy(&o)
	o = o.withContext(r)
	r.tidy(&o) // also what came from the context
	r.servers("NATS_URL", o.NatsURL)
	var ways []string
	for _, w := range o.ways() {
		if *w.value != "" {
			ways = append(ways, w.name)
		}
	}
	if len(ways) > 1 {
		r.fail(strings.Join(ways, ", "), "give one of them, not %d", len(ways))
	}
	if o.NatsPassword != "" && o.NatsUser == "" {
		r.fail("NATS_PASSWORD", "it needs NATS_USER: give both")
	}
	if o.NatsSeed != "" && o.NatsJWT == "" {
		r.fail("NATS_SEED", "it needs NATS_JWT: give both; if you have a seed without a JWT, put it in a file and give that in NATS_NKEY")
	}
	if o.NatsSeed != "" && !isUserSeed(o.NatsSeed) {
		r.fail("NATS_SEED", "it is not the seed of a user")
	}
	if o.NatsJWT != "" && strings.Count(o.NatsJWT, ".") != 2 {
		r.fail("NATS_JWT", "it is not a JWT; if it is a file, give it in NATS_CREDS")
	}
	if o.NatsInboxPrefix != "" {
		r.match("NATS_INBOX_PREFIX", o.NatsInboxPrefix, inboxPrefix, "a subject without wildcards and without a dot at the end")
	}
	if o.NatsJSDomain != "" {
		r.match("NATS_JS_DOMAIN", o.NatsJSDomain, jsDomain, "a name without spaces, dots or wildcards")
	}
	if o.NatsJSAPIPrefix != "" {
		r.match("NATS_JS_API_PREFIX", strings.TrimSuffix(o.NatsJSAPIPrefix, "."), apiPrefix, "a subject without wildcards")
	}
	if o.NatsJSDomain != "" && o.NatsJSAPIPrefix != "" {
		r.fail("NATS_JS_DOMAIN, NATS_JS_API_PREFIX", "give one of them")
	}
	first := o.NatsTLSFirst != "" && r.boolean("NATS_TLS_FIRST", o.NatsTLSFirst)
	r.file("NATS_CREDS", o.NatsCreds, "a NATS credentials file", func(path string) error {
		var opts nats.Options
		if err := nats.UserCredentials(path)(&opts); err != nil {
			return err
		}
		_, err := opts.SignatureCB(nil)
		return err
	})
	r.file("NATS_NKEY", o.NatsNkey, "a file with the nkey seed of a user", func(path string) error {
		_, err := natsconn.Key(path)
		return err
	})
	r.file("NATS_CA", o.NatsCA, "a PEM file with certificates", func(path string) error {
		return natsconn.Authorities(path)(&nats.Options{})
	})
	cert, key := r.file("NATS_CERT", o.NatsCert, "", nil), r.file("NATS_KEY", o.NatsKey, "", nil)
	switch {
	case (o.NatsCert == "") != (o.NatsKey == ""):
		r.fail("NATS_CERT, NATS_KEY", "give both or neither")
	case cert && key && o.NatsCert != "" && natsconn.Certificate(o.NatsCert, o.NatsKey)(&nats.Options{}) != nil:
		r.fail("NATS_CERT, NATS_KEY", "they are not PEM files with a certificate and its unencrypted key")
	}
	return natsconn.Config{
		URL: o.NatsURL, Creds: o.NatsCreds, NKey: o.NatsNkey, User: o.NatsUser, Password: o.NatsPassword, Token: o.NatsToken,
		JWT: o.NatsJWT, Seed: o.NatsSeed, CA: o.NatsCA, Cert: o.NatsCert, Key: o.NatsKey, TLSFirst: first,
		Timeout:     r.duration("NATS_TIMEOUT", o.NatsTimeout, 100*time.Millisecond),
		InboxPrefix: o.NatsInboxPrefix, JSDomain: o.NatsJSDomain, JSAPIPrefix: strings.TrimSuffix(o.NatsJSAPIPrefix, "."),
	}
}

func (o nameOptions) read(r *reader) topology.Names {
	r.tidy(&o)
	const what = "a name of letters, digits, - and _"
	n := topology.Names{
		Tenant:      r.match("WORKER_TENANT", o.Tenant, token, what),
		Stream:      r.match("WORKER_STREAM", o.Stream, token, what),
		Subject:     r.match("WORKER_SUBJECT", o.Subject, subject, "a subject without wildcards"),
		DeadStream:  r.match("WORKER_DEAD_STREAM", o.DeadStream, token, what),
		DeadSubject: r.match("WORKER_DEAD_SUBJECT", o.DeadSubject, subject, "a subject without wildcards"),
		Bucket:      r.match("WORKER_BUCKET", o.Bucket, token, what),

		FollowStream:  r.match("WORKER_FOLLOW_STREAM", o.FollowStream, token, what),
		FollowSubject: r.match("WORKER_FOLLOW_SUBJECT", o.FollowSubject, subject, "a subject without wildcards"),
	}
	r.differ(
		named{"WORKER_STREAM", n.Stream}, named{"WORKER_DEAD_STREAM", n.DeadStream}, named{"WORKER_FOLLOW_STREAM", n.FollowStream})
	r.differ(
		named{"WORKER_SUBJECT", n.Subject}, named{"WORKER_DEAD_SUBJECT", n.DeadSubject}, named{"WORKER_FOLLOW_SUBJECT", n.FollowSubject})
	return n
}

// endpoint returns the root address of Graph, and checks the options that all tenants
// share.
func (o azureOptions) endpoint(r *reader) string {
	r.tidy(&o)
	clouds := graph.Clouds()
	cloud, ok := clouds[o.GraphCloud]
	if !ok {
		r.fail("GRAPH_CLOUD", "%q is none of: %s", o.GraphCloud, strings.Join(slices.Sorted(maps.Keys(clouds)), ", "))
	}
	if o.AzureAuthorityHost != "" {
		r.https("AZURE_AUTHORITY_HOST", o.AzureAuthorityHost, "https://login.microsoftonline.com")
	}
	if o.GraphEndpoint == "" {
		return cloud.Endpoint
	}
	if holdsUser(o.GraphEndpoint) {
		r.fail("GRAPH_ENDPOINT", "it holds a user: write the address of Graph like https://graph.microsoft.com")
	} else if _, err := graph.New(graph.Config{Endpoint: o.GraphEndpoint}); err != nil {
		r.fail("GRAPH_ENDPOINT", "%v", err)
	}
	return o.GraphEndpoint
}

// credential returns the credential of the application that resets devices.
func (o azureOptions) credential(r *reader) graph.Credential {
	r.tidy(&o)
	c := o.assemble()
	o.prove(r, c, true)
	o.identify(r, c)
	return c
}

// assemble makes a credential of the options, without checking them.
func (o azureOptions) assemble() graph.Credential {
	cloud := graph.Clouds()[o.GraphCloud]
	managed, _ := strconv.ParseBool(o.ManagedIdentity)
	c := graph.Credential{
		Authority: cloud.Authority, TenantID: o.AzureTenantID, ClientID: o.AzureClientID, Scope: cloud.Scope,
		Secret:              o.AzureClientSecret,
		SecretFile:          o.AzureClientSecretFile,
		CertificatePath:     o.AzureClientCertificatePath,
		CertificatePassword: o.AzureClientCertificatePassword,
		FederatedTokenFile:  o.AzureFederatedTokenFile,
		ManagedIdentity:     managed,
	}
	if o.AzureAuthorityHost != "" {
		c.Authority = o.AzureAuthorityHost
	}
	return c
}

// prove checks that there is exactly one proof of who the application is, and that it
// can be read. shared reports whether it comes from the options and not from the file
// of tenants.
func (o azureOptions) prove(r *reader, c graph.Credential, shared bool) {
	r.boolean("WORKER_MANAGED_IDENTITY", o.ManagedIdentity)
	given := proofs(c)
	switch {
	case len(given) == 0:
		r.fail("AZURE_CLIENT_SECRET", "there is no credential: give AZURE_CLIENT_SECRET, AZURE_CLIENT_SECRET_FILE, "+
			"AZURE_CLIENT_CERTIFICATE_PATH, AZURE_FEDERATED_TOKEN_FILE or WORKER_MANAGED_IDENTITY=true")
	case len(given) > 1:
		hint := ""
		if i := slices.Index(given, federated); i >= 0 && shared {
			rest := strings.Join(slices.Delete(slices.Clone(given), i, i+1), ", ")
			hint = fmt.Sprintf(". If you did not set %s, the platform did: Kubernetes workload identity injects it into pods with the label "+
				`azure.workload.identity/use: "true". To use that identity, remove %s; otherwise remove the label to use %s`, federated, rest, rest)
		}
		r.fail(strings.Join(given, ", "), "give one credential, not %d%s", len(given), hint)
	case !r.illegible[given[0]]:
		if err := c.Check(); err != nil {
			r.problems = append(r.problems, err)
		}
		r.doubt(c.Doubt())
	}
}

const federated = "AZURE_FEDERATED_TOKEN_FILE"

// proofs names the options of a credential that prove who the application is.
func proofs(c graph.Credential) []string {
	var given []string
	for _, w := range []struct {
		name string
		set  bool
	}{
		{"AZURE_CLIENT_SECRET", c.Secret != ""}, {"AZURE_CLIENT_SECRET_FILE", c.SecretFile != ""},
		{"AZURE_CLIENT_CERTIFICATE_PATH", c.CertificatePath != ""}, {federated, c.FederatedTokenFile != ""},
		{"WORKER_MANAGED_IDENTITY", c.ManagedIdentity},
	} {
		if w.set {
			given = append(given, w.name)
		}
	}
	return given
}

// identify checks the ids of directory and application.
func (o azureOptions) identify(r *reader, c graph.Credential) {
	if !c.ManagedIdentity {
		r.entra("AZURE_TENANT_ID", o.AzureTenantID, "the directory's GUID or one of its verified domains")
	}
	if !c.ManagedIdentity || o.AzureClientID != "" {
		r.entra("AZURE_CLIENT_ID", o.AzureClientID, "the application's GUID")
	}
}

func (o keepOptions) read(r *reader) (maxAge, cooldown time.Duration, fuse pace.Rate) {
	maxAge = r.duration("WORKER_MAX_AGE", o.MaxAge, 0)
	fuse, err := pace.ParseRate(o.Fuse)
	if err != nil {
		r.fail("WORKER_FUSE", "%v", err)
	}
	return maxAge, r.duration("WORKER_DEVICE_COOLDOWN", o.DeviceCooldown, 0), fuse
}

// deviceTTL is how long the key of a device is kept; 0 if no device cools down.
func (o keepOptions) deviceTTL(r *reader) time.Duration {
	cooldown := r.duration("WORKER_DEVICE_COOLDOWN", o.DeviceCooldown, 0)
	if cooldown == 0 {
		return 0
	}
	return cooldown + r.duration("WORKER_REQUEST_TIMEOUT", o.RequestTimeout, 100*time.Millisecond)
}

func (o policyOptions) read(r *reader, c *worker.Config) pace.Rate {
	r.tidy(&o)
	r.tidy(&o.keepOptions)
	c.Concurrency = r.number("WORKER_CONCURRENCY", o.Concurrency, 1, 1000)
	rate, err := pace.ParseRate(o.Rate)
	if err != nil {
		r.fail("WORKER_RATE", "%v", err)
	}
	c.MaxPause = r.duration("WORKER_MAX_PAUSE", o.MaxPause, time.Second)
	c.Policy = verdict.Policy{
		RequestTimeout: r.duration("WORKER_REQUEST_TIMEOUT", o.RequestTimeout, 100*time.Millisecond),
		MaxAttempts:    r.number("WORKER_MAX_ATTEMPTS", o.MaxAttempts, 1, 1000),
		BackoffMin:     r.duration("WORKER_BACKOFF_MIN", o.BackoffMin, time.Millisecond),
		BackoffMax:     r.duration("WORKER_BACKOFF_MAX", o.BackoffMax, time.Millisecond),
		VerifyAfter:    r.verifyAfter(o.VerifyAfter),
		OnUnknown:      verdict.OnUnknown(r.oneOf("WORKER_ON_UNKNOWN", o.OnUnknown, string(verdict.UnknownDeadLetter), string(verdict.UnknownRetry))),
	}
	c.Policy.MaxAge, c.Cooldown, c.Fuse = o.keepOptions.read(r)
	c.Layout.Cooldown = o.keepOptions.deviceTTL(r)
	if c.ActionNames, err = graph.ActionNames(o.ActionNames); err != nil {
		r.fail("WORKER_ACTION_NAMES", "%v", err)
	}
	c.Follow = map[string]worker.Follow{"on": worker.FollowOn, "auto": worker.FollowAuto}[r.oneOf("WORKER_FOLLOW", o.Follow, "auto", "on", "off")]
	c.FollowPlan.For = r.duration("WORKER_FOLLOW_FOR", o.FollowFor, outcome.AgeOfFirstLook)
	if c.FollowPlan.For > outcome.LongestFor {
		r.fail("WORKER_FOLLOW_FOR", "%q is too long: it must be at most %s", o.FollowFor, brief(outcome.LongestFor))
	}
	if most := c.Policy.BackoffMax; most > 0 && most < c.Policy.BackoffMin {
		r.fail("WORKER_BACKOFF_MAX", "%q is shorter than WORKER_BACKOFF_MIN, %q", o.BackoffMax, o.BackoffMin)
	}
	return rate
}

func (o serviceOptions) read(r *reader, c *worker.Config) {
	r.tidy(&o)
	c.Setup = r.boolean("WORKER_SETUP", o.Setup)
	c.HTTPAddr = o.HTTPAddr
	if _, port, err := net.SplitHostPort(o.HTTPAddr); err != nil || !isPort(port) {
		r.fail("WORKER_HTTP_ADDR", "%q is not an address like :9090 or 127.0.0.1:9090", o.HTTPAddr)
	}
	c.DrainTimeout = r.duration("WORKER_DRAIN_TIMEOUT", o.DrainTimeout, time.Second)
}

// logger makes the log, which is usable even if its options are wrong.
func (o serviceOptions) logger(r *reader) *zap.Logger {
	r.tidy(&o)
	// The library also accepts levels that would silence the log.
	level, err := zapcore.ParseLevel(r.oneOf("WORKER_LOG_LEVEL", strings.ToLower(o.LogLevel), "debug", "info", "warn", "error"))
	if err != nil {
		level = zapcore.InfoLevel
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
		return zap.NewNop() // the encoding is wrong, which is reported already
	}
	return log
}
