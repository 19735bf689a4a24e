package main

import (
	"cmp"
	"encoding/json"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nkeys"

	"passcode-worker/internal/setting"
)

// savedContext holds the fields of a saved context of the nats tool that say how to
// connect. The tool's own library is not used: it links a whole NATS server.
// Source: github.com/nats-io/jsm.go, natscontext/context.go.
type savedContext struct {
	URL         string `json:"url"`
	Token       string `json:"token"`
	User        string `json:"user"`
	Password    string `json:"password"`
	Creds       string `json:"creds"`
	NKey        string `json:"nkey"`
	Cert        string `json:"cert"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
	JSDomain    string `json:"jetstream_domain"`
	JSAPIPrefix string `json:"jetstream_api_prefix"`
	InboxPrefix string `json:"inbox_prefix"`
	JWT         string `json:"user_jwt"`
	Seed        string `json:"user_seed"`
	TLSFirst    bool   `json:"tls_first"`

	// Only the tool supports these. They are refused, since a connection without them
	// would not be the one that is meant.
	SocksProxy string `json:"socks_proxy"`
	NSC        string `json:"nsc"`
	WinStore   string `json:"windows_cert_store"`
}

// way is one way to authenticate.
type way struct {
	name  string
	value *string
}

// ways lists them. The password belongs to the user, and the seed to the JWT.
func (o *natsOptions) ways() []way {
	return []way{
		{"NATS_CREDS", &o.NatsCreds}, {"NATS_NKEY", &o.NatsNkey}, {"NATS_USER", &o.NatsUser}, {"NATS_TOKEN", &o.NatsToken}, {"NATS_JWT", &o.NatsJWT},
	}
}

// withContext fills options that are not given from the saved context, and the URL
// from its default if it is in neither. Authentication comes as a whole from one of
// the two: if the options give any, the context's is ignored.
func (o natsOptions) withContext(r *reader) natsOptions {
	if o.NatsContext != "" && !r.illegible["NATS_CONTEXT"] {
		c := r.savedContext(o.NatsContext)
		own := false
		for _, w := range o.ways() {
			own = own || *w.value != ""
		}
		if !own {
			o.NatsCreds, o.NatsNkey, o.NatsUser, o.NatsToken, o.NatsJWT = c.Creds, c.NKey, c.User, c.Token, c.JWT
			if c.User != "" {
				o.NatsPassword = cmp.Or(o.NatsPassword, c.Password)
			}
			if c.JWT != "" {
				o.NatsSeed = cmp.Or(o.NatsSeed, c.Seed)
			}
		}
		if o.NatsCert == "" && o.NatsKey == "" {
			o.NatsCert, o.NatsKey = c.Cert, c.Key
		}
		if o.NatsJSDomain == "" && o.NatsJSAPIPrefix == "" {
			o.NatsJSDomain, o.NatsJSAPIPrefix = c.JSDomain, c.JSAPIPrefix
		}
		o.NatsURL, o.NatsCA = cmp.Or(o.NatsURL, c.URL), cmp.Or(o.NatsCA, c.CA)
		o.NatsInboxPrefix = cmp.Or(o.NatsInboxPrefix, c.InboxPrefix)
		o.NatsTLSFirst = cmp.Or(o.NatsTLSFirst, strconv.FormatBool(c.TLSFirst))
	}
	o.NatsURL = cmp.Or(o.NatsURL, "nats://127.0.0.1:4222")
	return o
}

// savedContext reads a context from where the nats tool keeps it. Its problems quote
// no value, since a context holds secrets.
func (r *reader) savedContext(name string) savedContext {
	const variable = "NATS_CONTEXT"
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		r.fail(variable, "%q is not the name of a context", name)
		return savedContext{}
	}
	// Like the tool, take the home directory from the system's list of users; HOME may
	// name another.
	home, homeErr := user.Current()
	root := os.Getenv("XDG_CONFIG_HOME")
	if root == "" {
		if homeErr != nil {
			r.fail(variable, "neither XDG_CONFIG_HOME nor the system's list of users tells where contexts are kept")
			return savedContext{}
		}
		root = filepath.Join(home.HomeDir, ".config")
	}
	path := filepath.Join(root, "nats", "context", name+".json")
	data, err := os.ReadFile(path)
	if err != nil {
		r.fail(variable, "it cannot be read: %v", err)
		return savedContext{}
	}
	if data, err = setting.Lines(data); err != nil {
		r.fail(variable, "%s: %v", path, err)
		return savedContext{}
	}
	var c savedContext
	if json.Unmarshal(data, &c) != nil {
		r.fail(variable, "%s is not a context as the nats tool saves it", path)
		return savedContext{}
	}
	for _, other := range []struct{ key, value string }{{"socks_proxy", c.SocksProxy}, {"nsc", c.NSC}, {"windows_cert_store", c.WinStore}} {
		if other.value != "" {
			r.fail(variable, "%s sets %s, which only the nats tool can use: make a context without it", path, other.key)
		}
	}
	for _, file := range []struct {
		key   string
		value *string
	}{{"creds", &c.Creds}, {"nkey", &c.NKey}, {"cert", &c.Cert}, {"key", &c.Key}, {"ca", &c.CA}} {
		*file.value = strings.TrimPrefix(*file.value, "file://")
		if isReference(*file.value) {
			r.fail(variable, "%s gives %s as a reference that only the nats tool can resolve: write the path of a file", path, file.key)
			*file.value = ""
		}
		if rest, ok := strings.CutPrefix(*file.value, "~"); ok && homeErr == nil {
			*file.value = home.HomeDir + rest
		}
		*file.value = os.ExpandEnv(*file.value)
	}
	for _, secret := range []struct {
		key   string
		value *string
	}{{"password", &c.Password}, {"token", &c.Token}, {"user_jwt", &c.JWT}, {"user_seed", &c.Seed}} {
		if isReference(*secret.value) {
			r.fail(variable, "%s gives %s as a reference that only the nats tool can resolve: give it in its own environment variable", path, secret.key)
			*secret.value = ""
		}
	}
	return c
}

// isReference reports whether a value is an address at which the nats tool looks up
// a secret.
func isReference(s string) bool {
	for _, scheme := range []string{"env://", "op://", "nsc://", "data:", "file://"} {
		if len(s) >= len(scheme) && strings.EqualFold(s[:len(scheme)], scheme) {
			return true
		}
	}
	return false
}

func isUserSeed(s string) bool {
	prefix, _, err := nkeys.DecodeSeed([]byte(s))
	return err == nil && prefix == nkeys.PrefixByteUser
}
