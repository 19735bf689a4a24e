package check

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"passcode-worker/internal/topology"
)

const (
	publishersLine = "publishers"
	publishersHint = "give publishers an account of their own that imports the subject as a service: deploy/nats/accounts.conf shows how"
)

// publishers checks whether requests come from accounts other than the one that holds
// the records. A publisher chooses the subject to which NATS sends the PubAck of its
// request, whatever its permissions; only a service import keeps that answer out of
// this account. address is the monitoring address of the server that the check is
// connected to; empty: it is not known.
//
// A client cannot find this out: a server tells it only names, numbers and
// connections of its own account, and a message that it sends shows only what happens
// to its own messages.
func (c *checker) publishers(ctx context.Context, address string) {
	if c.nc == nil || len(c.cfg.Tenants) == 0 {
		return // there is no connection, which is reported already
	}
	unknown := func(why, do string) {
		c.say(Warning, publishersLine, why+", so the check cannot tell whether publishers share the account of the records, "+
			"where a publisher can have the PubAck of its request overwrite a record", do)
	}
	switch {
	case len(c.cfg.Monitors) == 0:
		unknown("a client cannot see the exports of its account", publishersHint+"; --nats-monitor http://HOST:8222 checks it")
		return
	case address == "":
		unknown(fmt.Sprintf("none of the monitoring addresses belongs to server %s, to which this command is connected", c.nc.ConnectedServerName()),
			"give the monitoring address of each server in NATS_URL to --nats-monitor")
		return
	}
	a, err := c.account(ctx, address)
	if err != nil {
		unknown(fmt.Sprintf("%s could not be asked for the account: %v", address, err), publishersHint)
		return
	}
	subjects := make([]string, 0, len(c.cfg.Tenants))
	for _, t := range c.cfg.Tenants {
		subjects = append(subjects, t.Names.Filter())
	}
	status, detail, do := a.judge(subjects)
	c.say(status, publishersLine, detail, do)
}

// account is what a server's monitoring shows of an account.
type account struct {
	Name    string     `json:"account_name"`
	Exports []crossing `json:"exports"`
	Imports []crossing `json:"imports"`
}

// crossing is one subject of an export or an import.
type crossing struct {
	Subject string `json:"subject"`
	// Local is the subject on which the messages of a stream import arrive, with $1
	// and the like for wildcard tokens; empty: the same subject.
	Local string `json:"local_subject"`
	Type  string `json:"type"` // "service" or "stream"
}

// account reads the account of the check's own connection.
func (c *checker) account(ctx context.Context, address string) (account, error) {
	client, err := c.nc.GetClientID()
	if err != nil {
		return account{}, err
	}
	var conns struct {
		Connections []struct {
			Account string `json:"account"`
		} `json:"connections"`
	}
	if err := get(ctx, address+"/connz?auth=true&cid="+strconv.FormatUint(client, 10), &conns); err != nil {
		return account{}, err
	}
	if len(conns.Connections) != 1 {
		return account{}, fmt.Errorf("the server does not know connection %d", client)
	}
	name := conns.Connections[0].Account
	if name == "" {
		name = "$G" // the account of a server without accounts; nats-server, Connz
	}
	var answer struct {
		Account account `json:"account_detail"`
	}
	err = get(ctx, address+"/accountz?acc="+url.QueryEscape(name), &answer)
	if err == nil && answer.Account.Name == "" {
		err = fmt.Errorf("the server does not describe the account %s", name)
	}
	return answer.Account, err
}

// judge judges how requests on the subjects come into the account.
func (a account) judge(subjects []string) (status Status, detail, do string) {
	var bare, streams []string
	for _, subject := range subjects {
		switch {
		case has(a.Imports, "stream", subject):
			streams = append(streams, subject)
		case !has(a.Exports, "service", subject):
			bare = append(bare, subject)
		}
	}
	switch {
	case len(streams) > 0:
		return Warning, fmt.Sprintf("account %s imports %s as a stream. This keeps the reply subject, so a publisher can have its PubAck overwrite a record, "+
			"and receives no PubAck itself", a.Name, few(streams)), publishersHint
	case len(bare) > 0:
		return Warning, fmt.Sprintf("account %s does not export %s as a service. So publishers of requests are in the account of the records, "+
			"and can have a PubAck overwrite a record", a.Name, few(bare)), publishersHint
	}
	return OK, fmt.Sprintf("account %s exports %s as a service, so reply subjects that publishers in other accounts choose have no effect here. "+
		"The check cannot see whether others publish in this account", a.Name, few(subjects)), ""
}

// has reports whether an export or import of that kind covers a subject.
func has(list []crossing, kind, subject string) bool {
	var subjects []string
	for _, c := range list {
		at := c.Local
		if at == "" {
			at = c.Subject
		}
		if c.Type == kind {
			subjects = append(subjects, placeholder.ReplaceAllString(at, "*"))
		}
	}
	return topology.Covers(subjects, subject)
}

var placeholder = regexp.MustCompile(`\$[0-9]+`)

// few names the first of many.
func few(subjects []string) string {
	const most = 3
	if len(subjects) <= most {
		return strings.Join(subjects, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(subjects[:most], ", "), len(subjects)-most)
}
