package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/outcome"
)

func (c *checker) device(ctx context.Context, device string) {
	client, err := graph.New(graph.Config{Endpoint: c.cfg.Endpoint, UserAgent: c.cfg.UserAgent, ActionNames: c.cfg.ActionNames})
	if err != nil {
		c.say(Failed, "Graph", err.Error(), "correct GRAPH_ENDPOINT")
		return
	}
	defer client.Close()
	for _, t := range c.cfg.Tenants {
		c.of(t.Names.Tenant)
		if token, ok := c.token(ctx, t.Credential); ok {
			c.permissions(token)
			c.shape(ctx, client, token, device)
		}
	}
}

// shape reports how Intune shows a device. The fields that it reads cannot hold a
// passcode, a PIN, a location or a name.
func (c *checker) shape(ctx context.Context, client *graph.Client, token graph.Token, device string) {
	const what = "device"
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	d, err := client.Device(ctx, device, graph.Call{Token: token, ClientRequestID: uuid.NewString(), Deadline: time.Now().Add(callWait)})
	if err != nil {
		c.say(Failed, what, err.Error(), deviceHint(err))
		return
	}
	c.ok(what, fmt.Sprintf("operating system %s, owner %s, enrolment %s, management state %s, last check-in %s",
		word(d.OS), word(d.Owner), word(d.Enrollment), word(d.Management), date(d.LastSync)))
	if why := outcome.Explain(d.OS, d.Enrollment, d.Management); why != "" {
		c.say(Warning, what, why, "do not expect this device to be reset")
	}
	switch {
	case d.List == nil:
		c.say(Warning, "actions", "the list is missing or null: the worker draws no conclusion from it and looks again", "look again later")
	case len(d.List) == 0:
		c.ok("actions", "none")
	}
	for i, a := range d.List {
		c.action(i+1, a)
	}
}

// action reports one entry of the device's list.
func (c *checker) action(number int, a graph.Action) {
	what := fmt.Sprintf("action %d", number)
	detail := fmt.Sprintf("%s, type %s, state %s, started %s, updated %s, error code %s", word(a.Name), word(a.Type), word(a.State), date(a.Started), date(a.Updated), outcome.ErrorCode(a.ErrorCode))
	switch {
	case a.What == graph.ActionOther:
		c.ok(what, detail+": the worker takes it for something other than a reset")
	case a.What == graph.ActionReset && a.Started.IsZero():
		c.say(Warning, what, detail+": the worker takes it for a reset, but it is not clear when it began, so the worker draws no conclusion from it", "look again later")
	case a.What == graph.ActionReset && a.Name == "":
		c.ok(what, detail+": the worker takes it for a reset, because of its type")
	case a.What == graph.ActionReset:
		c.ok(what, detail+": the worker takes it for a reset")
	case a.Name == "":
		c.say(Warning, what, detail+": it has no name that tells what it is, so it may be a reset", "compare it with Intune's portal")
	default:
		c.say(Warning, what, detail+": it has the type of a reset and an unknown name, so it may be one",
			"if Intune's portal shows it as a reset, add the name to WORKER_ACTION_NAMES")
	}
}

func deviceHint(err error) string {
	e := (*graph.Error)(nil)
	switch {
	case errors.As(err, &e) && e.Status == 404:
		return "check that this is the Intune device id (not the Entra one), and that the device is in this tenant"
	case errors.As(err, &e) && e.Kind == graph.Forbidden:
		return "grant " + graph.ReadPermissions()[0] + ", with admin consent"
	}
	return "run worker check without --device"
}

// word quotes a word of Graph's.
func word(s string) string {
	if s == "" {
		return "not said"
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(s, "?"))
}

func date(t time.Time) string {
	if t.IsZero() {
		return "at no readable date"
	}
	return t.UTC().Format(time.RFC3339Nano)
}
