package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/request/requesttest"
	"passcode-worker/internal/verdict"
)

// event is one request of the mix.
type event struct {
	kind   string
	id     string // of the record; empty: <stream>-<sequence>
	device string // empty: none is meant
	data   string
	header nats.Header
	copies int            // how often it is published
	dead   verdict.Reason // why each copy ends dead; empty: the first is accepted, the others are duplicates
	resets int            // how often the device is to be reset

	sequences []uint64 // filled in when it is published
}

// mix builds the events, each with an id and a device of its own.
type mix struct {
	n      int
	events []*event
}

func (m *mix) add(kind string, times int, change func(i int, e *event)) {
	for i := range times {
		m.n++
		e := &event{kind: kind, id: fmt.Sprintf("INC%05d", m.n), device: graphsim.GoodDevice(m.n), copies: 1, resets: 1}
		change(i, e)
		if e.data == "" {
			e.data = body(e.id, e.device)
		}
		m.events = append(m.events, e)
	}
}

// fault adds requests for devices that misbehave, and are reset at last.
func (m *mix) fault(kind string, times, code, faults, variant int) {
	m.add(kind, times, func(_ int, e *event) { e.device = graphsim.FaultDevice(code, faults, variant, m.n) })
}

// refused adds requests for devices that are never reset.
func (m *mix) refused(kind string, times, code, variant int, reason verdict.Reason) {
	m.add(kind, times, func(_ int, e *event) {
		e.device, e.dead, e.resets = graphsim.FaultDevice(code, 0, variant, m.n), reason, 0
	})
}

const (
	aUser = "6f1d2c3b-0000-4000-8000-0000000000aa"
	anApp = "app_0123456789"
)

func (m *mix) good() {
	m.add("good, for a user", 40, func(_ int, e *event) { e.data = body(e.id, e.device, fmt.Sprintf(`"userId":%q`, aUser)) })
	m.add("good, for an app", 40, func(_ int, e *event) { e.data = body(e.id, e.device, fmt.Sprintf(`"detectedAppId":%q`, anApp)) })
	m.add("good, for an app and a user", 40, func(_ int, e *event) {
		e.data = body(e.id, e.device, fmt.Sprintf(`"detectedAppId":%q,"userId":"jo.o'neil#x@example.com"`, anApp))
	})
	m.add("good, id from a header", 30, func(_ int, e *event) {
		e.data, e.header = body("", e.device), nats.Header{"Nats-Msg-Id": {e.id}, "X-Other": {"kept"}}
	})
	m.add("good, without an id", 30, func(_ int, e *event) { e.id, e.data = "", body("", e.device) })
	m.add("good, device in upper case", 10, func(_ int, e *event) { e.data = body(e.id, strings.ToUpper(e.device)) })
	m.add("good, published twice", 20, func(_ int, e *event) { e.copies = 2 })
	m.add("good, published twenty times", 2, func(_ int, e *event) { e.copies = 20 })
	m.add("good, before its end", 10, func(_ int, e *event) {
		e.data = body(e.id, e.device, fmt.Sprintf(`"notAfter":%q`, time.Now().Add(time.Hour).Format(time.RFC3339)))
	})
}

func (m *mix) unknown() {
	for _, code := range []int{500, 502, 504, 408, 302, 200, 599} {
		m.fault(fmt.Sprintf("%d once, not executed", code), 4, code, 1, 0)
		m.fault(fmt.Sprintf("%d once, but executed", code), 4, code, 1, 1)
	}
	m.fault("500 for ever, but executed", 3, 500, 0, 1)
	m.refused("500 for ever", 2, 500, 0, verdict.ReasonAttemptsExhausted)
	// Only the stream is cut: what else is on the connection stays countable.
	m.fault("stream cut, not executed", 5, 601, 1, 1)
	m.fault("stream cut, reply lost", 10, 602, 1, 1)
	m.fault("silence after execution", 6, 603, 1, 0)
	m.fault("silence, not executed", 4, 604, 1, 0)
	m.fault("silence twice, not executed", 2, 604, 2, 0)
}

func (m *mix) permanent() {
	for code, reason := range map[int]verdict.Reason{
		400: verdict.ReasonRejected, 404: verdict.ReasonNotFound, 405: verdict.ReasonRejected, 409: verdict.ReasonConflict,
		410: verdict.ReasonRejected, 418: verdict.ReasonRejected, 422: verdict.ReasonRejected, 403: verdict.ReasonForbidden,
	} {
		m.refused(fmt.Sprint(code), 6, code, 0, reason)
	}
	m.refused("400, a page instead of JSON", 2, 400, 9, verdict.ReasonRejected)
	m.refused("409 without a body", 2, 409, 8, verdict.ReasonConflict)
	m.refused("401 for ever", 3, 401, 0, verdict.ReasonUnauthorized)
	m.fault("401 once, with a challenge", 3, 401, 1, 1)
	m.add("404, published twice", 4, func(_ int, e *event) {
		e.device, e.dead, e.resets, e.copies = graphsim.FaultDevice(404, 0, 0, m.n), verdict.ReasonNotFound, 0, 2
	})
	m.add("expired", 15, func(_ int, e *event) {
		e.data = body(e.id, e.device, fmt.Sprintf(`"notAfter":%q`, time.Now().Add(-time.Minute).Format(time.RFC3339)))
		e.header = nats.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "X-A": {"1", "2"}}
		e.dead, e.resets = verdict.ReasonExpired, 0
	})
	for i, p := range requesttest.Hostile() {
		if i%4 != 0 {
			continue // all of them are what internal/worker is tested with
		}
		m.add("hostile: "+p.Name, 1, func(_ int, e *event) {
			e.id, e.device, e.data, e.header = "", "", string(p.Data), p.Header
			e.dead, e.resets = verdict.ReasonInvalidRequest, 0
		})
	}
}

// throttled are requests that make Graph ask for a pause: few, because the
// worker lets no call go in a pause, and so meets them one by one.
func throttled(m *mix) [][]*event {
	var rounds [][]*event
	before := len(m.events)
	end := func() {
		rounds = append(rounds, m.events[before:])
		m.events = m.events[:before:before]
	}
	m.fault("429 without Retry-After", 1, 429, 1, 0)
	m.fault("429, Retry-After in seconds", 2, 429, 1, 1)
	m.fault("429, Retry-After in decimals", 2, 429, 1, 2)
	end()
	m.fault("429, Retry-After as a date", 1, 429, 1, 3)
	m.fault("429 twice", 1, 429, 2, 1)
	end()
	m.fault("503 without Retry-After", 1, 503, 1, 0)
	m.fault("503, Retry-After in seconds", 2, 503, 1, 1)
	m.fault("503 twice, Retry-After in decimals", 1, 503, 2, 2)
	end()
	return rounds
}

// requests are a mix of as many messages, in an order that is always the same.
func requests(t *testing.T, messages int) []*event {
	t.Helper()
	m := &mix{}
	m.good()
	m.unknown()
	m.permanent()
	rounds := throttled(m)
	total := 0
	for _, e := range m.events {
		total += e.copies
	}
	for _, r := range rounds {
		total += len(r)
	}
	if total > messages {
		t.Fatalf("the mix has %d messages without a single plain one", total)
	}
	m.add("good", messages-total, func(int, *event) {})
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(m.events), func(i, j int) { m.events[i], m.events[j] = m.events[j], m.events[i] })
	out, rest := m.events[:0:0], m.events
	for i, r := range rounds {
		part := len(rest) / (len(rounds) - i + 1)
		out = append(append(out, rest[:part]...), r...)
		rest = rest[part:]
	}
	return append(out, rest...)
}
