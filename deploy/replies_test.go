package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/graph/graphsim"
)

// The check tells the ways of dividing the accounts apart.
func TestCheckSeesWherePublishersAre(t *testing.T) {
	for _, c := range []struct {
		name         string
		edit         func(accounts string) string
		status, says string
	}{
		{shipped, strings.Clone, "ok", "account PASSCODE exports passcode.reset.requests.default as a service"},
		{imported, stream, "warning", "account PASSCODE imports passcode.reset.requests.default as a stream"},
		{mixed, mix, "warning", "account PASSCODE does not export passcode.reset.requests.default as a service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := startLocked(t, audited, c.edit)
			// Nothing but NATS is there.
			lines, _ := l.check([]string{
				"NATS_URL=" + l.url, "NATS_USER=worker-default", "NATS_PASSWORD=" + password("WORKER"), "AZURE_AUTHORITY_HOST=https://127.0.0.1:1",
				"GRAPH_ENDPOINT=https://127.0.0.1:1", "AZURE_CLIENT_SECRET=s", "AZURE_TENANT_ID=" + graphsim.DefaultTenantID,
				"AZURE_CLIENT_ID=" + graphsim.DefaultClientID,
			})
			if !slices.ContainsFunc(lines, func(line checkLine) bool {
				return line.What == "publishers" && line.Status == c.status && strings.HasPrefix(line.Detail, c.says)
			}) {
				t.Errorf("it says %v", lines)
			}
		})
	}
}

// auditor is a user of the worker's account whom nothing is forbidden: it sees
// what an attack has done.
const auditor = "{ user: auditor, password: not-secret-auditor }"

func audited(accounts string) string {
	return strings.Replace(accounts, "    users: [", "    users: [\n"+auditor, 1)
}

// forgedReplies are reply subjects that a publisher may name, so that NATS sends
// the PubAck of its request there. harms tells in which accounts something that
// is stored changes by it.
var forgedReplies = []struct {
	reply string
	harms func(layout) bool
}{
	// A record is overwritten, a record is made up: of one's own and of another tenant.
	{"$KV.passcode-resets.default.INC1", layout.shared},
	{"$KV.passcode-resets.default.INC2", layout.shared},
	{"$KV.passcode-resets.other.INC1", layout.shared},
	// What replicas hand on, and what operators have ordered.
	{"$KV.passcode-resets-state.default.worker", layout.shared},
	{"$KV.passcode-resets-state.default.operator", layout.shared},
	{"$KV.passcode-resets-state.other.operator", layout.shared},
	// A dead letter, and a request of another tenant.
	{"passcode.reset.dead.default", layout.shared},
	{"passcode.reset.dead.other", layout.shared},
	{"passcode.reset.requests.other", layout.reachesOthers},
	// What a device did, of one's own and of another tenant, and an alarm.
	{"$KV.passcode-resets-outcomes.default.INC1", layout.shared},
	{"$KV.passcode-resets-outcomes.other.INC1", layout.shared},
	{"passcode.reset.follow.0.other", layout.shared},
	// A wake-up, which the worker takes for a hint, and which is stored nowhere.
	{"passcode.reset.wake.PASSCODE_RESETS.other", never},
	// JetStream's own requests. {"stream":"PASSCODE_RESETS","seq":3} is one to
	// purge for a server that is not strict.
	{"$JS.API.STREAM.PURGE.KV_passcode-resets", layout.purges},
	{"$JS.API.STREAM.PURGE.KV_passcode-resets-state", layout.purges},
	{"$JS.API.STREAM.DELETE.KV_passcode-resets", never},
	{"$JS.API.STREAM.MSG.DELETE.KV_passcode-resets", never},
	{"$JS.API.CONSUMER.DELETE.PASSCODE_RESETS.worker-default", never},
	{"$JS.API.CONSUMER.PAUSE.PASSCODE_RESETS.worker-default", never},
	{"$JS.ACK.PASSCODE_RESETS.worker-other.1.1.1.1.0", never},
	{"$JS.ACK._.hash.PASSCODE_RESETS.worker-other.1.1.1.1.0.x", never},
}

// layout is how a server's accounts divide publishers from the rest.
type layout struct {
	name string
	edit func(accounts string) string
	// lenient tells that JetStream of the server is not strict.
	lenient bool
	// user is as whom the publisher connects.
	user string
}

const (
	shipped  = "as shipped"
	free     = "as shipped, a publisher without any permissions"
	together = "publishers of all tenants in one account of their own"
	imported = "as shipped, but requests imported as a stream"
	mixed    = "publishers in the worker's account"
)

func (l layout) shared() bool        { return l.name == mixed || l.name == imported }
func (l layout) reachesOthers() bool { return l.shared() || l.name == together }
func (l layout) purges() bool        { return l.name == mixed && l.lenient }
func never(layout) bool              { return false }

// mix puts the users of the publishers' accounts into the worker's. Help desks, which
// import what is exported no more, are left out.
func mix(accounts string) string {
	for _, tenant := range []string{"default", "other"} {
		accounts = strings.Replace(accounts, block(accounts, "HELPDESK-"+tenant), "", 1)
		account := block(accounts, "PUBLISHER-"+tenant)
		_, users, _ := strings.Cut(account, "users: [")
		users = users[:strings.LastIndex(users, "]")]
		accounts = strings.Replace(accounts, account, "", 1)
		accounts = strings.Replace(accounts, auditor, auditor+users, 1)
	}
	start, end := strings.Index(accounts, "    exports: ["), strings.Index(accounts, "    users: [")
	return accounts[:start] + accounts[end:]
}

// block is the text of an account.
func block(accounts, name string) string {
	text := accounts[strings.Index(accounts, "  "+name+": {"):]
	return text[:strings.Index(text, "\n  }\n")+len("\n  }\n")]
}

// join lets the publishers of the tenant default into the account of those of
// the tenant other.
func join(accounts string) string {
	accounts = strings.ReplaceAll(accounts, "accounts: [PUBLISHER-other", "accounts: [PUBLISHER-default")
	start := strings.Index(accounts, "  PUBLISHER-other: {")
	_, imports, _ := strings.Cut(accounts[start:], "imports: [")
	imports, _, _ = strings.Cut(imports, "    ]\n")
	_, after, _ := strings.Cut(accounts[start:], "\n  }\n")
	accounts = accounts[:start] + after
	at := strings.Index(accounts, "  PUBLISHER-default: {")
	return accounts[:at] + strings.Replace(accounts[at:], "imports: [", "imports: ["+imports, 1)
}

// stream has the requests of the tenant default imported as a stream.
func stream(accounts string) string {
	for _, r := range [][2]string{
		{`{ service: "passcode.reset.requests.default", accounts: [PUBLISHER-default] }`, ""},
		{"    exports: [", "    imports: [{ stream: { account: PUBLISHER-default, subject: \"passcode.reset.requests.default\" } }]\n    exports: ["},
		{`{ service: { account: PASSCODE, subject: "passcode.reset.requests.default" } }`, ""},
		{"  PUBLISHER-default: {", "  PUBLISHER-default: {\nexports: [{ stream: \"passcode.reset.requests.default\", accounts: [PASSCODE] }]"},
	} {
		accounts = strings.Replace(accounts, r[0], r[1], 1)
	}
	return accounts
}

// A publisher can name any reply subject. With the accounts of deploy/nats nothing
// comes of it, whatever its permissions; in one account with the worker the very
// same requests overwrite records, orders and dead letters.
func TestForgedReplySubjects(t *testing.T) {
	t.Parallel()
	for _, l := range []layout{
		{name: shipped, edit: strings.Clone, user: "publisher-default"},
		{name: shipped, edit: strings.Clone, user: "publisher-default", lenient: true},
		{name: free, user: "free", edit: func(accounts string) string {
			at := strings.Index(accounts, "  PUBLISHER-default: {")
			return accounts[:at] + strings.Replace(accounts[at:], "users: [", "users: [\n{ user: free, password: not-secret-publisher }", 1)
		}},
		{name: together, edit: join, user: "publisher-default"},
		{name: imported, edit: stream, user: "publisher-default"},
		{name: mixed, edit: mix, user: "publisher-default"},
		{name: mixed, edit: mix, user: "publisher-default", lenient: true},
	} {
		t.Run(fmt.Sprintf("%s, lenient %t", l.name, l.lenient), func(t *testing.T) { forge(t, l) })
	}
}

func forge(t *testing.T, l layout) {
	edits := []func(string) string{
		audited,
		l.edit,
	}
	if l.lenient {
		edits = append(edits, func(accounts string) string { return accounts + "\njetstream { strict: false }\n" })
	}
	server := startLocked(t, edits...)
	setUp(t, server)
	sees := server.login("auditor", "not-secret-auditor")
	for _, tenant := range []string{"default", "other"} {
		for subject, value := range map[string]string{
			"$KV.passcode-resets." + tenant + ".INC1":           `{"id":"INC1","state":"accepted"}`,
			"$KV.passcode-resets-state." + tenant + ".worker":   `{"worker":"w","fuse":true}`,
			"$KV.passcode-resets-state." + tenant + ".operator": `{"release":true}`,
			"passcode.reset.dead." + tenant:                     `{"id":"dead"}`,
			"passcode.reset.requests." + tenant:                 `{"id":"waits"}`,
		} {
			sees.stores(subject, value)
		}
	}

	publisher := server.login(l.user, password("PUBLISHER"))
	for _, forged := range forgedReplies {
		before := sees.everything()
		body := fmt.Sprintf(`{"id":"attack","managedDeviceId":%q}`, forged.reply)
		// A server may end the connection of who names the reply subject of an ack.
		if err := errors.Join(publisher.nc.PublishMsg(&nats.Msg{
			Subject: "passcode.reset.requests.default", Reply: forged.reply, Data: []byte(body),
		}), publisher.nc.Flush()); err != nil {
			t.Logf("%s: %v", forged.reply, err)
			publisher = server.login(l.user, password("PUBLISHER"))
		}
		if l.name == free {
			// What its account does not import reaches nobody, or JetStream, which
			// knows no streams of that account.
			m, err := publisher.nc.Request(forged.reply, []byte(body), testTime)
			if !errors.Is(err, nats.ErrNoResponders) && (err != nil || !strings.Contains(string(m.Data), `"error":`)) {
				t.Errorf("a message on %s: %v, %v", forged.reply, m, err)
			}
		}
		if after := `{"id":"after"}`; l.name == imported {
			sees.stores("passcode.reset.requests.default", after) // a publisher there gets no answer
		} else {
			publisher.stores("passcode.reset.requests.default", after)
		}
		sees.settled()

		look := func() []string {
			after := sees.everything()
			maps.DeleteFunc(after, func(at, value string) bool {
				// The requests themselves are stored, as the publisher's tenant's.
				return before[at] == "" && strings.Contains(at, "passcode.reset.requests.default") &&
					(strings.HasSuffix(value, body) || strings.HasSuffix(value, `{"id":"after"}`))
			})
			return difference(before, after)
		}
		changes := look()
		if forged.harms(l) && len(changes) == 0 { // JetStream's own requests wait for a goroutine of their own
			await(t, testTime, "the harm of "+forged.reply, func() bool { changes = look(); return len(changes) > 0 })
		}
		if harmed := len(changes) > 0; harmed != forged.harms(l) {
			t.Errorf("reply %s: changed %t, want %t: %q", forged.reply, harmed, forged.harms(l), changes)
		}
		for _, change := range changes {
			if !l.purges() && !strings.Contains(change, `"stream":"PASSCODE_RESETS"`) && !strings.HasSuffix(change, " is gone") {
				t.Errorf("reply %s: not a PubAck: %s", forged.reply, change)
			}
		}
	}
}

func difference(before, after map[string]string) []string {
	var changes []string
	for at, value := range after {
		if before[at] != value {
			changes = append(changes, at+" is now "+value)
		}
	}
	for at := range before {
		if after[at] == "" {
			changes = append(changes, at+" is gone")
		}
	}
	slices.Sort(changes)
	return changes
}

// stores publishes a message and waits until it is stored.
func (u user) stores(subject, value string) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), testTime)
	defer cancel()
	if _, err := u.js.Publish(ctx, subject, []byte(value)); err != nil {
		u.t.Fatalf("%s: %v", subject, err)
	}
}

// settled waits until what is on its way into any store has arrived: each store
// takes one message after the other, and refuses the one that expects another
// stream once it is its turn. PubAcks were sent before the publisher's next one.
func (u user) settled() {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), testTime)
	defer cancel()
	for _, subject := range []string{
		"passcode.reset.requests.default", "passcode.reset.dead.default", "$KV.passcode-resets.default.x", "$KV.passcode-resets-state.default.x",
		"$KV.passcode-resets-outcomes.default.x", "passcode.reset.follow.0.default",
	} {
		_, err := u.js.Publish(ctx, subject, nil, jetstream.WithExpectStream("-"))
		if api := (*jetstream.APIError)(nil); !errors.As(err, &api) {
			u.t.Fatalf("%s: %v", subject, err)
		}
	}
}

// everything is what is stored in the account: each message by stream, sequence
// and subject, and the state of the consumers.
func (u user) everything() map[string]string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), testTime)
	defer cancel()
	all := map[string]string{}
	must := func(err error) {
		u.t.Helper()
		if err != nil {
			u.t.Fatal(err)
		}
	}
	streams := u.js.ListStreams(ctx)
	for info := range streams.Info() {
		s, err := u.js.Stream(ctx, info.Config.Name)
		must(err)
		for sequence := info.State.FirstSeq; sequence <= info.State.LastSeq && info.State.Msgs > 0; sequence++ {
			m, err := s.GetMsg(ctx, sequence)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			must(err)
			all[fmt.Sprintf("%s %d %s", info.Config.Name, sequence, m.Subject)] = string(m.Data)
		}
		consumers := s.ListConsumers(ctx)
		for c := range consumers.Info() {
			all[info.Config.Name+" "+c.Name] = fmt.Sprint(c.Paused, c.AckFloor, c.NumAckPending)
		}
		must(consumers.Err())
	}
	must(streams.Err())
	if len(all) < 10 {
		u.t.Fatalf("only %d messages were seen", len(all))
	}
	return all
}
