package scenario

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/request/requesttest"
	"passcode-worker/internal/verdict"
)

// Kind is requests that are alike.
type Kind struct {
	Name string
	// Code, Times and Variant are the fault or the story of the device, as the
	// simulator has them; 0: none.
	Code, Times, Variant int
	Want                 End
	Resets               int
	// Copies is how often each is published; 0: once.
	Copies int
	// Pauses: Graph asks for a pause.
	Pauses bool

	// Day is how many of them a day has, Countable how many [Countable] has, and
	// Chaos how many of a thousand requests of the chaos are of this kind. What no
	// kind asks for there is of the first one.
	Day, Countable, Chaos int

	// Doubtful: what the device's list of actions shows leaves a doubt until it is
	// made plain, see [Request].
	Doubtful bool
	// Unknowable is as in [Request].
	Unknowable bool

	// write makes the i-th of them odd; nil: it is a plain request for the device.
	write func(i int, r *Request)
	// raw: an empty body is meant.
	raw bool
}

const (
	aUser = `"userId":"6f1d2c3b-0000-4000-8000-0000000000aa"`
	anApp = `"detectedAppId":"app_0123456789"`
)

func fields(more ...string) func(int, *Request) {
	return func(_ int, r *Request) { r.Data = Body(r.ID, r.Device, more...) }
}

// in is a field that ends a request's time so long from now.
func in(d time.Duration) string {
	return fmt.Sprintf(`"notAfter":%q`, time.Now().Add(d).UTC().Format(time.RFC3339))
}

// Kinds is the list. The first kind is the plain good request.
func Kinds() []Kind {
	var all []Kind
	for _, part := range [][]Kind{good(), refused(), throttled(), unknown(), listed(), stories(), broken(), forged()} {
		all = append(all, part...)
	}
	return all
}

// good requests are accepted, and their devices reset once.
func good() []Kind {
	ok := func(k Kind) Kind {
		k.Want, k.Resets = Accepted(), 1
		return k
	}
	return []Kind{
		ok(Kind{Name: plain, Day: 300}),
		ok(Kind{Name: "good, for a user", Day: 20, Countable: 40, write: fields(aUser)}),
		ok(Kind{Name: "good, for an app", Day: 20, Countable: 40, write: fields(anApp)}),
		ok(Kind{Name: "good, for an app and a user", Day: 20, Countable: 40, write: fields(anApp, `"userId":"jo.o'neil#x@example.com"`)}),
		ok(Kind{Name: "good, id from a header", Day: 10, Countable: 30, write: func(_ int, r *Request) {
			r.Data, r.Header = Body("", r.Device), nats.Header{"Nats-Msg-Id": {r.ID}, "X-Other": {"kept"}}
		}}),
		ok(Kind{Name: "good, without an id", Day: 10, Countable: 30, write: func(_ int, r *Request) { r.Data, r.ID = Body("", r.Device), "" }}),
		ok(Kind{Name: "good, device in upper case", Countable: 10, write: func(_ int, r *Request) { r.Data = Body(r.ID, strings.ToUpper(r.Device)) }}),
		ok(Kind{Name: "good, before its end", Countable: 10, write: func(_ int, r *Request) { r.Data = Body(r.ID, r.Device, in(time.Hour)) }}),
		ok(Kind{Name: "good, published twice", Day: 20, Countable: 20, Copies: 2}),
		ok(Kind{Name: "good, published twenty times", Day: 3, Countable: 2, Copies: 20}),
	}
}

// refused devices are never reset.
func refused() []Kind {
	no := func(k Kind, reason verdict.Reason) Kind {
		k.Want = Dead(reason)
		return k
	}
	return []Kind{
		no(Kind{Name: "400", Code: 400, Day: 6, Countable: 6}, verdict.ReasonRejected),
		no(Kind{Name: "400, a page instead of JSON", Code: 400, Variant: 9, Countable: 2}, verdict.ReasonRejected),
		no(Kind{Name: "401 for one device", Code: 401, Day: 4, Countable: 3}, verdict.ReasonUnauthorized),
		no(Kind{Name: "403 for one device", Code: 403, Day: 6, Countable: 6}, verdict.ReasonForbidden),
		no(Kind{Name: "404", Code: 404, Day: 10, Countable: 6, Chaos: 40}, verdict.ReasonNotFound),
		no(Kind{Name: "404, published twice", Code: 404, Countable: 4, Copies: 2}, verdict.ReasonNotFound),
		no(Kind{Name: "405", Code: 405, Day: 3, Countable: 6}, verdict.ReasonRejected),
		no(Kind{Name: "409", Code: 409, Day: 4, Countable: 6}, verdict.ReasonConflict),
		no(Kind{Name: "409 without a body", Code: 409, Variant: 8, Countable: 2}, verdict.ReasonConflict),
		no(Kind{Name: "410", Code: 410, Countable: 6}, verdict.ReasonRejected),
		no(Kind{Name: "410, a page instead of JSON", Code: 410, Variant: 9, Day: 3}, verdict.ReasonRejected),
		no(Kind{Name: "418", Code: 418, Countable: 6}, verdict.ReasonRejected),
		no(Kind{Name: "422", Code: 422, Countable: 6}, verdict.ReasonRejected),
		no(Kind{Name: "422 without a body", Code: 422, Variant: 8, Day: 3}, verdict.ReasonRejected),
		no(Kind{Name: "500 for ever", Code: 500, Day: 2, Countable: 2}, verdict.ReasonAttemptsExhausted),
	}
}

// throttled requests are accepted after a pause.
func throttled() []Kind {
	later := func(k Kind) Kind {
		k.Want, k.Resets, k.Pauses = Accepted(), 1, true
		return k
	}
	return []Kind{
		later(Kind{Name: "429, Retry-After in seconds", Code: 429, Times: 1, Variant: 1, Day: 4, Countable: 2}),
		later(Kind{Name: "429, in decimals", Code: 429, Times: 1, Variant: 2, Day: 4, Countable: 2, Chaos: 20}),
		later(Kind{Name: "429, as a date", Code: 429, Times: 1, Variant: 3, Day: 2, Countable: 1}),
		later(Kind{Name: "429, without Retry-After", Code: 429, Times: 1, Day: 4, Countable: 1}),
		later(Kind{Name: "429 twice", Code: 429, Times: 2, Variant: 1, Countable: 1}),
		later(Kind{Name: "503, without Retry-After", Code: 503, Times: 1, Countable: 1}),
		later(Kind{Name: "503, Retry-After in seconds", Code: 503, Times: 1, Variant: 1, Countable: 2}),
		later(Kind{Name: "503 twice", Code: 503, Times: 2, Variant: 1, Day: 3}),
		later(Kind{Name: "503 twice, in decimals", Code: 503, Times: 2, Variant: 2, Countable: 1}),
	}
}

// unknown requests are of calls whose outcome is not seen at first.
func unknown() []Kind {
	var all []Kind
	add := func(k Kind) {
		k.Want, k.Resets = Accepted(), 1
		all = append(all, k)
	}
	for _, c := range []struct{ code, before, after, chaosBefore, chaosAfter int }{
		{500, 6, 6, 30, 30}, {502, 4, 0, 0, 0}, {504, 0, 4, 0, 0}, {408, 3, 0, 0, 0}, {302, 0, 0, 0, 0}, {200, 0, 0, 0, 0}, {599, 0, 0, 0, 0},
	} {
		add(Kind{Name: fmt.Sprintf("%d once, not executed", c.code), Code: c.code, Times: 1, Day: c.before, Countable: 4, Chaos: c.chaosBefore})
		add(Kind{Name: fmt.Sprintf("%d once, but executed", c.code), Code: c.code, Times: 1, Variant: 1, Day: c.after, Countable: 4, Chaos: c.chaosAfter})
	}
	add(Kind{Name: "500 for ever, but executed", Code: 500, Variant: 1, Countable: 3})
	add(Kind{Name: "401 once, with a challenge", Code: 401, Times: 1, Variant: 1, Countable: 3})
	// These take all other calls of their connection along.
	add(Kind{Name: "connection cut, not executed", Code: 601, Times: 1, Day: 3, Chaos: 20})
	add(Kind{Name: "reply lost after execution", Code: 602, Times: 1, Day: 8})
	add(Kind{Name: "stream cut, not executed", Code: 601, Times: 1, Variant: 1, Countable: 5})
	add(Kind{Name: "stream cut, reply lost", Code: 602, Times: 1, Variant: 1, Countable: 10, Chaos: 40})
	add(Kind{Name: "silence after execution", Code: 603, Times: 1, Day: 4, Countable: 6})
	add(Kind{Name: "silence, not executed", Code: 604, Times: 1, Day: 3, Countable: 4})
	add(Kind{Name: "silence twice, not executed", Code: 604, Times: 2, Countable: 2})
	add(Kind{Name: "slow answer", Code: 605, Times: 1, Day: 4})
	return all
}

// listed requests are of lost calls to devices whose list of actions is odd. One
// that was executed is found in it; one that was not is called again.
func listed() []Kind {
	var all []Kind
	for _, l := range []struct {
		name     string
		list     graphsim.ActionList
		doubtful bool
		// How many the mix that can be counted has, and the chaos: there two looks
		// are over before a late action shows.
		count, chaos int
	}{
		{"nothing odd", graphsim.ListPlain, false, 2, 1},
		{"a rename", graphsim.ListRenamed, false, 2, 1},
		{"other actions", graphsim.ListOthers, false, 2, 1},
		{"older resets", graphsim.ListSeveral, false, 2, 1},
		{"null for dates", graphsim.ListStartNull, true, 0, 1},
		{"dates of the year 1", graphsim.ListStartZero, true, 0, 1},
		{"odd dates", graphsim.ListStartOdd, true, 0, 1},
		{"null for a list", graphsim.ListNull, true, 0, 1},
		{"no list", graphsim.ListMissing, true, 0, 1},
		{"shown late", graphsim.ListLate, false, 0, 0},
		{"an unknown name", graphsim.ListUnknownName, true, 0, 1},
	} {
		k := Kind{Name: "lost call, " + l.name, Code: 701, Times: 1, Variant: int(l.list), Doubtful: l.doubtful,
			Want: Accepted(), Resets: 1, Day: 2, Countable: l.count, Chaos: l.chaos}
		all = append(all, k)
		k.Name, k.Code = "lost reply, "+l.name, 702
		all = append(all, k)
	}
	return all
}

// broken requests are none, or come too late.
func broken() []Kind {
	none := Dead(verdict.ReasonInvalidRequest)
	garbage := []string{"", "hello", "{", "[]", "null", `{"managedDeviceId":7}`, "\xff\xfe", `{"managedDeviceId":""}`,
		`{"managedDeviceId":"../../users"}`, `{}`, `"x"`, `{"managedDeviceId":"{guid}"}`}
	var hostile []requesttest.Payload
	for i, p := range requesttest.Hostile() {
		if i%4 == 0 { // all of them are what internal/worker is tested with
			hostile = append(hostile, p)
		}
	}
	return []Kind{
		{Name: "expired", Want: Dead(verdict.ReasonExpired), Day: 10, Countable: 15, write: func(_ int, r *Request) {
			r.Data = Body(r.ID, r.Device, in(-time.Minute))
			r.Header = nats.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "X-A": {"1", "2"}}
		}},
		{Name: "garbage", Want: none, Day: len(garbage), raw: true, write: func(i int, r *Request) {
			r.Device, r.ID, r.Data = "", "", garbage[i%len(garbage)]
		}},
		{Name: "wrong user", Want: none, Day: 4, write: fields(`"userId":"a@b/../c"`)},
		{Name: "no device", Want: none, Chaos: 20, write: func(_ int, r *Request) { r.Device, r.Data = "", Body(r.ID, "") }},
		{Name: Hostile, Want: none, Countable: len(hostile), raw: true, write: func(i int, r *Request) {
			p := hostile[i%len(hostile)]
			r.Device, r.ID, r.Data, r.Header = "", "", string(p.Data), p.Header
		}},
	}
}

// plain is the name of the first kind.
const plain = "good"

// Hostile is the name of the kind whose requests may have an id that is not told
// here.
const Hostile = "hostile"

// forged requests are good ones with headers that are the server's to write, or
// with a reply subject that is not the publisher's.
func forged() []Kind {
	header := func(k Kind, headers []nats.Header) Kind {
		k.write = func(i int, r *Request) { r.Header = maps.Clone(headers[i%len(headers)]) }
		return k
	}
	pins := []nats.Header{
		{"Nats-Pin-Id": {"x"}},
		{"Nats-Pin-Id": {""}},
		{"nats-pin-id": {"y"}},
		{"NATS-PIN-ID": {"z", "z"}},
		{"Nats-Pin-Id": {"a", "b", "c"}, "nats-Pin-ID": {"d"}},
	}
	others := []nats.Header{
		{"Nats-Time-Stamp": {"x"}},
		{"Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}, "nats-time-stamp": {"2099-01-01T00:00:00Z"}},
		{"Nats-Sequence": {"1"}},
		{"Nats-Sequence": {"x", "18446744073709551615"}},
		{"Nats-Subject": {"$KV.passcode-resets.default.x"}},
		{"Nats-Stream": {"KV_passcode-resets"}},
		{"Status": {"503"}, "Description": {"No Responders"}},
		{"Status": {"409"}, "Description": {"Consumer Deleted"}},
		{"Status": {"423"}, "Description": {"Nats-Wrong-Pin-Id"}},
		{"Nats-Last-Sequence": {"18446744073709551615"}},
		{"Dead-Letter-Redrives": {"1000000"}},
		{"Dead-Letter-Request-Id": {"x"}, "Dead-Letter-Sequence": {"1"}, "Dead-Letter-Reason": {"expired"}},
		{"Nats-Time-Stamp": {"x"}, "Nats-Sequence": {"0"}, "Nats-Subject": {"x"}, "Nats-Stream": {"x"}, "KV-Operation": {"PURGE"}},
	}
	reply := func(name, subject string, day, chaos int) Kind {
		return Kind{Name: "reply to " + name, Want: Accepted(), Resets: 1, Day: day, Chaos: chaos,
			write: func(_ int, r *Request) { r.Reply = subject }}
	}
	own := reply("its own record", "$KV.{records}.{tenant}.{id}", 2, 3)
	own.Unknowable, own.Want, own.Resets = true, Dead(verdict.ReasonOutcomeUnknown), 0
	own.write = func(_ int, r *Request) {
		r.Reply, r.Data = "$KV.{records}.{tenant}.{id}", Body(r.ID, r.Device, in(forgedTime))
	}
	return []Kind{
		header(Kind{Name: "forged pin", Want: Accepted(), Resets: 1, Day: len(pins), Chaos: 10}, pins),
		header(Kind{Name: "forged header", Want: Accepted(), Resets: 1, Day: len(others), Countable: len(others), Chaos: 20}, others),
		header(Kind{Name: "forged header, 404", Code: 404, Want: Dead(verdict.ReasonNotFound), Day: len(others), Chaos: 10}, others),
		reply("a record that has ended", "$KV.{records}.{tenant}.{ended}", 3, 10),
		own,
		reply("an operator's order", "$KV.{records}-state.{tenant}.operator", 2, 5),
		reply("what replicas hand on", "$KV.{records}-state.{tenant}.worker", 2, 5),
		reply("its own outcome", "$KV.{records}-outcomes.{tenant}.{id}", 2, 5),
		reply("the outcome of a record that has ended", "$KV.{records}-outcomes.{tenant}.{ended}", 2, 5),
		reply("the alarms", "{alarms}.0.{tenant}", 2, 5),
		reply("a purge of the alarms", "$JS.API.STREAM.PURGE.{alarm stream}", 2, 5),
		reply("the dead letters", deadReply, 2, 5),
		reply("the requests", ownReply, 2, 5),
		reply("the requests of a neighbour", neighbourReply, 2, 5),
		reply("a purge of the requests", "$JS.API.STREAM.PURGE.{stream}", 2, 5),
		reply("a purge of the records", "$JS.API.STREAM.PURGE.KV_{records}", 2, 5),
		reply("an ack", "$JS.ACK.{stream}.{consumer}.1.1.1.1.0", 2, 5),
	}
}

// forgedTime is how long a request may take whose record is overwritten before it
// begins. Then a person has to decide about it.
const forgedTime = 30 * time.Second
