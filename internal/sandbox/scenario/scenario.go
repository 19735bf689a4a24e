// Package scenario is the one list of what is sent to a worker and how each of it
// must end, and decides from what is found afterwards whether it did. The
// sandbox's day, its chaos and the tests of the command draw from the same list.
package scenario

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// End is how a request ends: accepted, or dead for a reason. The zero End is no
// record at all.
type End struct {
	State  record.State
	Reason verdict.Reason
}

func (e End) String() string {
	switch {
	case e == End{}:
		return "no record"
	case e.State == record.Dead:
		return "dead: " + string(e.Reason)
	}
	return string(e.State)
}

// EndOf is the end that a record tells of.
func EndOf(r record.Record) End { return End{r.State, verdict.Reason(r.Reason)} }

// Accepted is the end of a good request.
func Accepted() End { return End{State: record.Accepted} }

// Dead is the end of a request that becomes a dead letter.
func Dead(r verdict.Reason) End { return End{record.Dead, r} }

// Request is one request: what is published for it, and how it must end.
type Request struct {
	Kind string
	// ID is that of the record; empty: <stream>-<sequence> of the first copy.
	ID string
	// Device is whose passcode is to be reset; empty: no device that can be told.
	Device string
	Data   string
	Header nats.Header
	// Reply is a subject that the publisher has the server send the PubAck to, with
	// names in braces that [Publisher] fills in; empty: its own.
	Reply string
	// Copies is how often it is published.
	Copies int
	Want   End
	// Resets is how often the device must have been reset.
	Resets int
	// Told is what the device is told to come to, where the request is accepted.
	Told outcome.Outcome
	// Unknowable: the request's record is overwritten before it begins, so that it
	// ends as outcome_unknown; but chance may let it begin before that.
	Unknowable bool

	// Doubtful: the device has to show its actions plainly before the request can
	// end.
	Doubtful bool

	// Sequences are filled in as it is published.
	Sequences []uint64
}

// id is what the request's record is called.
func (r *Request) id(stream string) string {
	if r.ID == "" && len(r.Sequences) > 0 {
		return fmt.Sprintf("%s-%d", stream, r.Sequences[0])
	}
	return r.ID
}

// Body writes a request; more are further fields.
func Body(id, device string, more ...string) string {
	fields := []string{fmt.Sprintf(`"managedDeviceId":%q`, device)}
	if id != "" {
		fields = append(fields, fmt.Sprintf(`"id":%q`, id))
	}
	return "{" + strings.Join(append(fields, more...), ",") + "}"
}

// maker numbers requests, so that each has an id and a device of its own.
type maker struct {
	prefix string
	made   int
}

func (m *maker) request(k *Kind, i int) *Request {
	m.made++
	r := &Request{Kind: k.Name, ID: fmt.Sprintf("%s%05d", m.prefix, m.made), Copies: max(1, k.Copies), Want: k.Want, Resets: k.Resets,
		Unknowable: k.Unknowable, Doubtful: k.Doubtful}
	r.Device = k.device(m.made)
	if k.write != nil {
		k.write(i, r)
	}
	if r.Data == "" && !k.raw {
		r.Data = Body(r.ID, r.Device)
	}
	r.Told = told(r.Device)
	return r
}

// Day is a mixed day, in an order that the seed decides. Devices that do nothing come
// first, because it takes the whole time of following to be sure of it. Devices that are
// taken away come last: they have to be missed twice, some time apart, and while Graph is
// away or asks for pauses nobody sees whether they are there.
func Day(seed uint64) []*Request {
	var out []*Request
	m := maker{prefix: "INC"}
	for _, k := range Kinds() {
		for i := range k.Day {
			out = append(out, m.request(&k, i))
		}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	slices.SortStableFunc(out, func(a, b *Request) int { return a.turn() - b.turn() })
	return out
}

// Chaos is n requests, mostly good ones, each of a kind that chance decides.
func Chaos(n int, r *rand.Rand) []*Request {
	kinds := Kinds()
	m := maker{prefix: "C"}
	out := make([]*Request, 0, n)
	for i := range n {
		chosen := &kinds[0]
		p := r.IntN(1000)
		for j := range kinds {
			if p -= kinds[j].Chaos; p < 0 {
				chosen = &kinds[j]
				break
			}
		}
		out = append(out, m.request(chosen, i))
	}
	return out
}

// Countable is a mix of as many messages whose every call and metric can be told
// beforehand, in an order that is always the same. Those that have Graph ask for a
// pause are few, and apart from each other: the worker lets no call go in a pause,
// and so meets them one by one.
func Countable(messages int) ([]*Request, error) {
	var all []*Request
	var rounds [][]*Request
	m := maker{prefix: "INC"}
	total := 0
	for _, k := range Kinds() {
		var some []*Request
		for i := range k.Countable {
			r := m.request(&k, i)
			some, total = append(some, r), total+r.Copies
		}
		if k.Pauses && len(some) > 0 {
			rounds = append(rounds, some)
		} else {
			all = append(all, some...)
		}
	}
	if total > messages {
		return nil, fmt.Errorf("the mix has %d messages without a single plain one", total)
	}
	good := Kinds()[0]
	for i := range messages - total {
		all = append(all, m.request(&good, i))
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	out, rest := []*Request{}, all
	for i, r := range rounds {
		part := len(rest) / (len(rounds) - i + 1)
		out = append(append(out, rest[:part]...), r...)
		rest = rest[part:]
	}
	return append(out, rest...), nil
}

func (k *Kind) device(n int) string {
	if k.Code == 0 {
		return graphsim.GoodDevice(n)
	}
	return graphsim.FaultDevice(k.Code, k.Times, k.Variant, n)
}
