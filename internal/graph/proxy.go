package graph

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"passcode-worker/internal/setting"
)

// proxyOf returns the proxy for an address; nil: none.
type proxyOf func(*url.URL) (*url.URL, error)

// CheckProxies says what is wrong with the variables that name a proxy, without
// quoting them: they may hold passwords.
func CheckProxies() []error {
	_, problems := proxies()
	return problems
}

// proxyFromEnvironment is [http.ProxyFromEnvironment], but for three things: an
// address that cannot be read is an error, where net/http goes out directly;
// ALL_PROXY counts where the variable of the scheme is missing, as for curl; and
// white space around a value is dropped.
func proxyFromEnvironment() proxyOf {
	cfg, problems := proxies()
	if len(problems) > 0 {
		err := errors.Join(problems...)
		return func(*url.URL) (*url.URL, error) { return nil, err }
	}
	return cfg.ProxyFunc()
}

func proxies() (*httpproxy.Config, []error) {
	var problems []error
	read := func(name string) string {
		for _, n := range []string{strings.ToLower(name), name} { // in this order, as httpproxy
			if os.Getenv(n) == "" {
				continue
			}
			address, err := proxyAddress(os.Getenv(n))
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", n, err))
			}
			return address
		}
		return ""
	}
	cfg := httpproxy.FromEnvironment()
	cfg.HTTPSProxy, cfg.HTTPProxy = read("HTTPS_PROXY"), read("HTTP_PROXY")
	all := read("ALL_PROXY")
	if cfg.HTTPSProxy == "" {
		cfg.HTTPSProxy = all
	}
	if cfg.HTTPProxy == "" {
		cfg.HTTPProxy = all
	}
	return cfg, problems
}

var errProxyAddress = errors.New("it is not the address of a proxy: write it like http://proxy.example:3128 or http://user:password@proxy.example:3128; in the user and the " +
	"password write % as %25, # as %23, / as %2F, ? as %3F and @ as %40")

// proxyAddress reads an address of a proxy. It is stricter than net/http, which
// takes what follows the first / or # of a password for a path, and a part of
// the password for the host.
func proxyAddress(value string) (string, error) {
	s, err := setting.Text(value)
	if err != nil || s == "" {
		return "", err
	}
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#") {
		return "", errProxyAddress
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil && u.Port() != "" {
		return "", errProxyAddress
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return s, nil
	}
	return "", errors.New("its scheme is none of: http, https, socks5, socks5h")
}

// proxyRefusal is a proxy's answer to CONNECT that is not 200.
type proxyRefusal struct{ status int }

func (e *proxyRefusal) Error() string {
	s := fmt.Sprintf("the proxy answers HTTP %d %s", e.status, http.StatusText(e.status))
	if e.status == http.StatusProxyAuthRequired {
		s += ": HTTPS_PROXY needs a user and a password that the proxy accepts"
	}
	return s
}

// throughProxy makes a refusal of a proxy's known by its number: net/http keeps
// only the words that come after it.
func throughProxy(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return &proxyRefusal{answer.StatusCode}
	}
	return nil
}
