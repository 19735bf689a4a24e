package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// end is how a request should end: accepted, or dead for a reason.
type end struct {
	state  record.State
	reason verdict.Reason
}

func (e end) String() string {
	if e.state == record.Dead {
		return "dead: " + string(e.reason)
	}
	return string(e.state)
}

func ends(r record.Record) end {
	return end{r.State, verdict.Reason(r.Reason)}
}

var accepted = end{state: record.Accepted}

func dead(r verdict.Reason) end { return end{record.Dead, r} }

// event is one request of the day: what is published for it, and how it
// should end.
type event struct {
	kind   string
	id     string // of the record; empty: <stream>-<sequence> of the first copy
	device string // empty: none is meant
	data   string
	header nats.Header
	copies int // how often it is published
	want   end
	resets int // how often the device should have been reset

	sequences []uint64 // filled in when it is published
}

// kind makes n events alike.
type kind struct {
	name   string
	n      int
	want   end
	resets int
	make   func(i int, e *event)
}

const (
	aUser = "6f1d2c3b-0000-4000-8000-0000000000aa"
	anApp = "app_0123456789"
)

// body writes a plain request.
func body(device, more string) string { return fmt.Sprintf(`{"managedDeviceId":%q%s}`, device, more) }

// fault makes requests for devices with a fault of the simulator.
func fault(name string, n, code, times, variant int, want end, resets int) kind {
	return kind{name, n, want, resets, func(i int, e *event) {
		e.device = graphsim.FaultDevice(code, times, variant, i)
		e.data = body(e.device, fmt.Sprintf(`,"id":%q`, e.id))
	}}
}

func good(name string, n int, more func(i int, e *event)) kind {
	return kind{name, n, accepted, 1, func(i int, e *event) {
		e.data = body(e.device, fmt.Sprintf(`,"id":%q`, e.id))
		if more != nil {
			more(i, e)
		}
	}}
}

// kinds are the requests of a mixed day.
func kinds() []kind {
	none := dead(verdict.ReasonInvalidRequest)
	return []kind{
		good("good", 300, nil),
		good("good, for a user", 20, func(_ int, e *event) {
			e.data = body(e.device, fmt.Sprintf(`,"id":%q,"userId":%q`, e.id, aUser))
		}),
		good("good, for an app", 20, func(_ int, e *event) {
			e.data = body(e.device, fmt.Sprintf(`,"id":%q,"detectedAppId":%q`, e.id, anApp))
		}),
		good("good, for an app and a user", 20, func(_ int, e *event) {
			e.data = body(e.device, fmt.Sprintf(`,"id":%q,"detectedAppId":%q,"userId":"jo.o'neil#x@example.com"`, e.id, anApp))
		}),
		good("good, id from a header", 10, func(_ int, e *event) {
			e.data, e.header = body(e.device, ""), nats.Header{"Nats-Msg-Id": {e.id}}
		}),
		good("good, without an id", 10, func(_ int, e *event) { e.data, e.id = body(e.device, ""), "" }),
		good("good, published twice", 20, func(_ int, e *event) { e.copies = 2 }),
		good("good, published twenty times", 3, func(_ int, e *event) { e.copies = 20 }),
		fault("400", 6, 400, 0, 0, dead(verdict.ReasonRejected), 0),
		fault("401 for one device", 4, 401, 0, 0, dead(verdict.ReasonUnauthorized), 0),
		fault("403 for one device", 6, 403, 0, 0, dead(verdict.ReasonForbidden), 0),
		fault("404", 10, 404, 0, 0, dead(verdict.ReasonNotFound), 0),
		fault("405", 3, 405, 0, 0, dead(verdict.ReasonRejected), 0),
		fault("409", 4, 409, 0, 0, dead(verdict.ReasonConflict), 0),
		fault("410, a page instead of JSON", 3, 410, 0, 9, dead(verdict.ReasonRejected), 0),
		fault("422", 3, 422, 0, 8, dead(verdict.ReasonRejected), 0),
		fault("429, Retry-After in seconds", 4, 429, 1, 1, accepted, 1),
		fault("429, in decimals", 4, 429, 1, 2, accepted, 1),
		fault("429, as a date", 2, 429, 1, 3, accepted, 1),
		fault("429, without Retry-After", 4, 429, 1, 0, accepted, 1),
		fault("503 twice", 3, 503, 2, 1, accepted, 1),
		fault("500 once, not executed", 6, 500, 1, 0, accepted, 1),
		fault("500 once, but executed", 6, 500, 1, 1, accepted, 1),
		fault("502 once, not executed", 4, 502, 1, 0, accepted, 1),
		fault("504 once, but executed", 4, 504, 1, 1, accepted, 1),
		fault("408 once, not executed", 3, 408, 1, 0, accepted, 1),
		fault("500 for ever", 2, 500, 0, 0, dead(verdict.ReasonAttemptsExhausted), 0),
		fault("connection cut, not executed", 3, 601, 1, 0, accepted, 1),
		fault("reply lost after execution", 8, 602, 1, 0, accepted, 1),
		fault("silence after execution", 4, 603, 1, 0, accepted, 1),
		fault("silence, not executed", 3, 604, 1, 0, accepted, 1),
		fault("slow answer", 4, 605, 1, 0, accepted, 1),
		{"expired", 10, dead(verdict.ReasonExpired), 0, func(_ int, e *event) {
			e.data = body(e.device, fmt.Sprintf(`,"id":%q,"notAfter":%q`, e.id, time.Now().Add(-time.Minute).Format(time.RFC3339)))
		}},
		{"garbage", 12, none, 0, func(i int, e *event) {
			e.device, e.id = "", ""
			e.data = []string{"", "hello", "{", "[]", "null", `{"managedDeviceId":7}`, "\xff\xfe", `{"managedDeviceId":""}`,
				`{"managedDeviceId":"../../users"}`, `{}`, `"x"`, `{"managedDeviceId":"{guid}"}`}[i%12]
		}},
		{"wrong user", 4, none, 0, func(_ int, e *event) {
			e.data = body(e.device, fmt.Sprintf(`,"id":%q,"userId":"a@b/../c"`, e.id))
		}},
	}
}

// events are the day's requests in a mixed order that the seed decides.
func events(seed uint64) []*event {
	var out []*event
	for _, k := range kinds() {
		for i := range k.n {
			n := len(out) + 1
			e := &event{kind: k.name, id: fmt.Sprintf("INC%05d", n), device: graphsim.GoodDevice(n), copies: 1, want: k.want, resets: k.resets}
			k.make(n, e)
			if k.name == "garbage" {
				k.make(i, e)
			}
			out = append(out, e)
		}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
