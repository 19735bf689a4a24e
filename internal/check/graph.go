package check

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/graph"
)

// callWait bounds one call to Graph or the token service.
const callWait = 15 * time.Second

func (c *checker) graph(ctx context.Context) {
	client, err := graph.New(graph.Config{Endpoint: c.cfg.Endpoint, UserAgent: c.cfg.UserAgent})
	if err != nil {
		c.say(Failed, "Graph", err.Error(), "correct GRAPH_ENDPOINT")
		return
	}
	defer client.Close()
	for _, t := range c.cfg.Tenants {
		c.of(t.Names.Tenant)
		token, ok := c.token(ctx, t.Credential)
		if ok {
			c.permissions(token)
		}
		c.reach(ctx, client, token, ok)
	}
}

func (c *checker) token(ctx context.Context, credential graph.Credential) (graph.Token, bool) {
	const what = "token"
	acquire, err := credential.Acquire()
	if err != nil {
		c.say(Failed, what, err.Error(), "correct AZURE_AUTHORITY_HOST")
		return graph.Token{}, false
	}
	var expires time.Time
	tokens := graph.NewTokens(func(ctx context.Context, claims string, fresh bool) (value string, end, refresh time.Time, err error) {
		value, end, refresh, err = acquire(ctx, claims, fresh)
		expires = end
		return value, end, refresh, err
	}, nil)
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	token, err := tokens.Get(ctx)
	if err != nil {
		do := "check that this machine can reach the token service, through HTTPS_PROXY if it is set"
		means := ""
		if e := (*graph.Error)(nil); errors.As(err, &e) {
			if e.Kind == graph.TokenRefused {
				do = "compare AZURE_TENANT_ID, AZURE_CLIENT_ID and the credential with the application's registration; check that the credential has not expired"
			}
			if h, ok := explain(e.Code + ": " + e.Message); ok {
				means, do = ": "+h.Means, h.Do
			}
		}
		c.say(Failed, what, fmt.Sprintf("by %s: %v%s", credential.Kind(), err, means), do)
		return token, false
	}
	c.ok(what, fmt.Sprintf("by %s, valid for %s", credential.Kind(), time.Until(expires).Round(time.Second)))
	return token, true
}

func (c *checker) permissions(token graph.Token) {
	what := "permission " + graph.ResetPermission
	switch token.Has(graph.ResetPermission) {
	case graph.PermissionGranted:
		c.ok(what, "granted")
	case graph.PermissionMissing:
		c.say(Failed, what, "missing in the token: every reset would be refused", "grant it to the application as an application permission, and give admin consent")
	default:
		c.say(Warning, what, "the token cannot be decoded, so the check cannot tell", "look in the Entra admin center whether it is granted")
	}
	permissions := graph.ReadPermissions()
	what = "permission " + permissions[0]
	if p := token.MayRead(); p != "" {
		c.ok(what, p+" is granted")
		return
	}
	if token.Has(permissions[0]) == graph.PermissionUnknown {
		c.say(Warning, what, "the token cannot be decoded, so the check cannot tell", "look in the Entra admin center whether it is granted")
		return
	}
	means := "a request whose answer is lost becomes a dead letter with reason outcome_unknown, and a person must look at the device"
	if c.cfg.RetryUnknown {
		means = "a call whose answer is lost is repeated (WORKER_ON_UNKNOWN=retry), so a device may be reset twice"
	}
	followed := ""
	switch {
	case c.cfg.Follows && c.cfg.Auto:
		followed = ". Accepted requests are not followed, so what their devices did stays unknown"
	case c.cfg.Follows:
		followed = ". Accepted requests are not followed: WORKER_FOLLOW is on, but the application may not look at devices"
	}
	c.say(Warning, what, "missing: the worker cannot look up the outcome of a call. So "+means+followed, "grant it, too, with admin consent")
}

// reach asks Graph for the list of devices, as the worker does before it takes a
// refusal for the request's own.
func (c *checker) reach(ctx context.Context, client *graph.Client, token graph.Token, haveToken bool) {
	const what = "Graph"
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	p, err := client.Probe(ctx, graph.Call{Token: token, ClientRequestID: uuid.NewString(), Deadline: time.Now().Add(callWait)})
	if err != nil {
		c.say(Failed, what, fmt.Sprintf("%s: %v", c.cfg.Endpoint, err), "check that this machine can reach Graph over HTTPS, through HTTPS_PROXY if it is set")
		return
	}
	reached := fmt.Sprintf("%s answers", c.cfg.Endpoint)
	switch e := p.Err; {
	case !haveToken:
		c.say(Warning, what, reached+"; without a token nothing more can be checked", "see the token above")
	case e == nil:
		c.ok(what, reached+", and devices can be read")
	case e.Kind == graph.Forbidden && token.MayRead() == "":
		c.say(Warning, what, reached+", but the application may not read devices. So the worker cannot recognize a refusal that affects every request, such as that of a tenant "+
			"without Intune: a refusal is taken for the request's own", "grant "+graph.ReadPermissions()[0]+", with admin consent")
	case e.Kind == graph.Unauthorized, e.Kind == graph.Refused, e.Kind == graph.Forbidden:
		says, do := fmt.Sprintf("%s refuses to list devices, so it would refuse every reset, too: %v", c.cfg.Endpoint, e),
			"check that GRAPH_CLOUD is right and that the tenant has an Intune licence"
		if h, ok := explain(p.Said); ok && h.Everybody {
			says, do = fmt.Sprintf("%s answers every call with HTTP %d, %q: %s", c.cfg.Endpoint, e.Status, h.Says, h.Means), h.Do
		} else if e.Kind == graph.Unauthorized {
			says = fmt.Sprintf("%s does not accept the token: %v", c.cfg.Endpoint, e)
		}
		c.say(Failed, what, says, do)
	default:
		c.say(Warning, what, fmt.Sprintf("%s: %v", reached, e), "try again later")
	}
	if p.Clock {
		c.clock("clock of Graph", p.Ahead)
	}
}
