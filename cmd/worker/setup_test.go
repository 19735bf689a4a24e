package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"

	"passcode-worker/internal/natstest"
)

func startNATS(t *testing.T, opts server.Options) *natstest.Server {
	t.Helper()
	opts.ServerName, opts.StoreDir = "test", t.TempDir()
	s, err := natstest.StartWith(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// made is what setup says of each thing that it makes.
func made(action string) string {
	return action + " stream PASSCODE_RESETS\n" + action + " stream PASSCODE_RESETS_DEAD\n" +
		action + " key-value bucket passcode-resets\n" + action + " key-value bucket passcode-resets-state\n" + action + " key-value bucket passcode-resets-devices\n" + action + " consumer worker-default\n" +
		madeToFollow(action, "passcode-resets", "PASSCODE_RESETS_FOLLOW")
}

// madeToFollow is what it says of what following needs.
func madeToFollow(action, bucket, stream string) string {
	out := action + " stream " + stream + "\n" + action + " key-value bucket " + bucket + "-outcomes\n"
	for step := range topology.FollowSteps {
		out += action + " consumer " + topology.FollowConsumer(step) + "\n"
	}
	return out
}

func TestSetup(t *testing.T) {
	t.Parallel()
	s := startNATS(t, server.Options{})
	env := map[string]string{"NATS_URL": s.URL()}
	check := func(want string, args ...string) {
		t.Helper()
		r := runFor(t, env, append([]string{"setup"}, args...)...)
		if r.code != exitDone || r.out != want || r.err != "" {
			t.Errorf("%q: status %d, standard output:\n%s\nstandard error:\n%s", args, r.code, r.out, r.err)
		}
	}
	js := connect(t, s.URL())
	config := func(name string) jetstream.StreamConfig {
		t.Helper()
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().Config
	}
	check(made("created "))
	if c := config("PASSCODE_RESETS"); c.Retention != jetstream.WorkQueuePolicy || c.Discard != jetstream.DiscardNew || c.MaxBytes != -1 ||
		c.Storage != jetstream.FileStorage || c.Subjects[0] != "passcode.reset.requests.*" || c.MaxAge != 0 {
		t.Errorf("request stream: %+v", c)
	}
	before := config("PASSCODE_RESETS_DEAD")
	if before.MaxAge != 90*24*time.Hour || config("KV_passcode-resets").MaxAge != 90*24*time.Hour {
		t.Errorf("dead letters are kept for %s", before.MaxAge)
	}
	check(made("exists  "))
	check(made("exists  "), "--retention=48h", "--max-bytes=1000000")
	if c := config("PASSCODE_RESETS_DEAD"); c.MaxAge != before.MaxAge || config("PASSCODE_RESETS").MaxBytes != -1 {
		t.Error("what exists was changed")
	}
	check(made("updated "), "--retention=2160h", "--max-age=0", "--update") // of any age: the usual time has to do
	check(made("updated "), "--retention=48h", "--max-bytes=1000000", "--update")
	if c := config("PASSCODE_RESETS_DEAD"); c.MaxAge != 48*time.Hour || config("PASSCODE_RESETS").MaxBytes != 1000000 {
		t.Errorf("nothing was changed: %+v", c)
	}

	env = with(env, "WORKER_STREAM", "S", "WORKER_SUBJECT", "s.s", "WORKER_DEAD_STREAM", "D", "WORKER_DEAD_SUBJECT", "s.d", "WORKER_FOLLOW_STREAM", "F", "WORKER_FOLLOW_SUBJECT", "s.f",
		"WORKER_TENANT", "contoso")
	check("created  stream S\ncreated  stream D\ncreated  key-value bucket b\ncreated  key-value bucket b-state\ncreated  key-value bucket b-devices\ncreated  consumer worker-contoso\n"+madeToFollow("created ", "b", "F"),
		"--bucket=b", "--storage=memory", "--replicas=1")
	if c := config("S"); c.Storage != jetstream.MemoryStorage || c.Subjects[0] != "s.s.*" || config("D").Subjects[0] != "s.d.*" {
		t.Errorf("request stream: %+v", c)
	}
}

func TestSetupWrongUsage(t *testing.T) {
	for _, c := range []struct{ flag, says string }{
		{"--replicas=2", `--replicas: "2" is none of: 0, 1, 3, 5`},
		{"--replicas=many", `--replicas: "many" is none of: 0, 1, 3, 5`},
		{"--storage=tape", `--storage: "tape" is none of: file, memory`},
		{"--retention=90d", `--retention: "90d" is not a duration: write it like 30s, 5m or 24h`},
		{"--retention=-1h", `--retention: "-1h" is too short: it must be at least 0s`},
		{"--retention=0", `--retention: "0" is too short: a request can be done again once its record is gone`},
		{"--retention=47h", `--retention: "47h" is too short: a request can be done again once its record is gone`},
		{"--device-cooldown=2160h", `--retention: "2160h" is too short: a request`},
		{"--fuse=5/2160h", `--retention: "2160h" is too short: a request`},
		{"--max-age=2137h", `--retention: "2160h" is too short: a request`},
		{"--max-bytes=1GB", `--max-bytes: "1GB" is not a whole number from 0 to`},
		{"--max-bytes=-1", `--max-bytes: "-1" is not a whole number from 0 to`},
		{"--tenant=a.b", `WORKER_TENANT: "a.b" is not a name of letters, digits, - and _`},
		{"--nats-url=http://h", `NATS_URL: its scheme is none of: nats, tls, ws, wss`},
	} {
		r := call(t, map[string]string{"NATS_URL": "nats://127.0.0.1:1"}, "setup", c.flag)
		if p := problems(r.err); r.code != exitUsage || r.out != "" || len(p) != 1 || !strings.HasPrefix(p[0], c.says) ||
			!strings.HasSuffix(r.err, "\nTry: worker setup --help\n") {
			t.Errorf("%s: status %d\n%s", c.flag, r.code, r.err)
		}
	}
}

func TestSetupWithoutNATS(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes a connection and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for list, hosts := range map[string]string{
		"nats://jo:hunter2@127.0.0.1:1":                    "127.0.0.1:1",
		"hunter2@127.0.0.1:1, tls://127.0.0.1:2":           "127.0.0.1:1, 127.0.0.1:2",
		"nats://jo:hunter2@" + silent.Addr().String() + "": silent.Addr().String(),
	} {
		began := time.Now()
		r := runFor(t, map[string]string{"NATS_URL": list, "WORKER_BUKET": "b", "WORKER_PORT": "tcp://10.0.0.1:1"}, "setup")
		warning, failure, _ := strings.Cut(r.err, "\n")
		if r.code != exitFailed || r.out != "" || !strings.HasPrefix(failure, "worker: connect to "+hosts+": NATS_URL: ") || strings.Contains(r.err, "hunter2") {
			t.Errorf("%s: status %d, standard error:\n%s", list, r.code, r.err)
		}
		if warning != "worker: the environment variable WORKER_BUKET is unknown and has no effect; see worker run --help" || strings.Count(failure, "\n") != 1 {
			t.Errorf("standard error:\n%s", r.err)
		}
		if took := time.Since(began); took > 25*time.Second {
			t.Errorf("%s took %s", list, took)
		}
	}
}

// TestSetupRights takes one right after the other away from the account.
func TestSetupRights(t *testing.T) {
	t.Parallel()
	var users []*server.User
	rights := map[string]string{
		"info":     "$JS.API.STREAM.INFO.PASSCODE_RESETS",
		"stream":   "$JS.API.STREAM.CREATE.PASSCODE_RESETS_DEAD",
		"bucket":   "$JS.API.STREAM.CREATE.KV_passcode-resets",
		"consumer": "$JS.API.CONSUMER.CREATE.PASSCODE_RESETS.worker-default.passcode.reset.requests.default",
	}
	for name, subject := range rights {
		users = append(users, &server.User{Username: name, Password: "hunter2", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{subject}},
		}})
	}
	users = append(users, &server.User{Username: "inbox", Password: "hunter2", Permissions: &server.Permissions{
		Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}},
	}})
	rights["inbox"] = "_INBOX."
	for name, subject := range rights {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startNATS(t, server.Options{Users: users})
			env := map[string]string{"NATS_URL": s.URL(), "NATS_USER": name, "NATS_PASSWORD": "hunter2"}
			began := time.Now()
			r := runFor(t, env, "setup")
			if r.code != exitFailed || !strings.HasPrefix(r.err, "worker: a right is missing: ") || !strings.Contains(r.err, `"`+subject) ||
				strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, "hunter2") {
				t.Errorf("status %d, standard error:\n%s", r.code, r.err)
			}
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	t.Run("password", func(t *testing.T) {
		t.Parallel()
		s := startNATS(t, server.Options{Users: users})
		r := runFor(t, map[string]string{"NATS_URL": s.URL(), "NATS_USER": "info", "NATS_PASSWORD": "hunter3"}, "setup")
		if r.code != exitFailed || !strings.Contains(r.err, "Authorization Violation") || strings.Contains(r.err, "hunter") {
			t.Errorf("status %d, standard error:\n%s", r.code, r.err)
		}
	})
}

// TestNATSLogin logs in in each of the ways that the variables allow.
func TestNATSLogin(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	cert, key := write(t, "cert.pem", p.cert), write(t, "key.pem", p.key)
	both, err := tls.X509KeyPair([]byte(p.cert), []byte(p.key))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(p.leaf)
	for name, c := range map[string]struct {
		opts   server.Options
		user   string // in the address
		env    map[string]string
		refuse string // what is said without env
	}{
		"user":             {server.Options{Username: "jo", Password: "p@ss"}, "", map[string]string{"NATS_USER": "jo", "NATS_PASSWORD": "p@ss"}, "Authorization"},
		"token":            {server.Options{Authorization: "-t"}, "", map[string]string{"NATS_TOKEN": "-t"}, "Authorization"},
		"user in the url":  {server.Options{Username: "jo", Password: "p@ss"}, "jo:p%40ss@", nil, ""},
		"token in the url": {server.Options{Authorization: "t"}, "t@", nil, ""},
		"nkey":             {server.Options{Nkeys: []*server.NkeyUser{{Nkey: nkeyPublic}}}, "", map[string]string{"NATS_NKEY": write(t, "nkey", nkeySeed)}, "Authorization"},
		"client certificate": {server.Options{TLS: true, TLSVerify: true, TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{both}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12,
		}}, "", map[string]string{"NATS_CA": cert, "NATS_CERT": cert, "NATS_KEY": key}, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startNATS(t, c.opts)
			_, host, _ := strings.Cut(s.URL(), "://")
			env := map[string]string{"NATS_URL": "nats://" + c.user + host}
			if c.refuse != "" {
				if r := runFor(t, env, "setup"); r.code != exitFailed || !strings.Contains(r.err, c.refuse) {
					t.Errorf("without a login: status %d, standard error:\n%s", r.code, r.err)
				}
			}
			for name, value := range c.env {
				env[name] = value
			}
			if r := runFor(t, env, "setup"); r.code != exitDone || r.out != made("created ") {
				t.Errorf("status %d, standard error:\n%s", r.code, r.err)
			}
			// The same as editors and shells leave it.
			for name, value := range c.env {
				if data, err := os.ReadFile(value); err == nil {
					value = write(t, "pasted", mark+strings.ReplaceAll(string(data), "\n", "\r\n")+"\r\n")
				}
				env[name] = value + "\n"
			}
			if r := runFor(t, env, "setup"); r.code != exitDone || r.out != made("exists  ") {
				t.Errorf("pasted: status %d, standard output:\n%s\nstandard error:\n%s", r.code, r.out, r.err)
			}
		})
	}
}
