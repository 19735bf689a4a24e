package outcome

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"testing"
	"time"

	"passcode-worker/internal/graph"
)

// TestSchedule follows 10,000 devices that stay offline for three days, accepted within 17
// minutes, on a model of the queues: each is in order, and sends back no more than 256
// alarms that are not due. Looks keep to 400 in 20 s. All is played without waiting.
func TestSchedule(t *testing.T) {
	t.Parallel()
	devices := 10_000
	if testing.Short() {
		devices = 1000
	}
	p := policy()
	p.For = 72 * time.Hour
	m := &model{p: p}
	for i := range devices {
		a := alarm()
		a.ID = fmt.Sprint(i)
		a.AcceptedAt = accepted().Add(time.Duration(i) * 17 * time.Minute / time.Duration(devices))
		m.at(a.AcceptedAt, func(now time.Time) { m.publish(p.First(a), now) })
	}
	m.run()
	if m.ended != devices {
		t.Fatalf("%d of %d came to their end", m.ended, devices)
	}
	planned := devices * 87
	t.Logf("%d looks, planned %d (%.3f); %d put back; late p50 %s, p99 %s, most %s", m.looks, planned, float64(m.looks)/float64(planned), m.putBack,
		m.late(50), m.late(99), m.late(100))
	if m.looks > planned {
		t.Errorf("%d looks, planned are %d", m.looks, planned)
	}
	// Ten requests a second, all of devices that are off, want twice the quota at first.
	if half, most := m.late(50), m.late(99); half > 0 || most > 10*time.Minute {
		t.Errorf("looks are late by %s, one in a hundred by %s", half, most)
	}
	if m.busiest > 400 {
		t.Errorf("%d looks in 20 s", m.busiest)
	}
}

// model is the queues and the looks.
type model struct {
	p      Policy
	events events
	n      int // of events, so that those of one instant stay in order

	queues [Steps]queue

	sent             []time.Time // looks of the last 20 s
	looks, ended     int
	putBack, busiest int
	lateness         []time.Duration
}

// queue is the alarms of a step.
type queue struct {
	waiting []stored
	away    int // delivered and not acknowledged
}

type stored struct {
	alarm Alarm
	at    time.Time
}

func (m *model) publish(a Alarm, now time.Time) {
	q := &m.queues[a.Step]
	q.waiting = append(q.waiting, stored{a, now})
	m.deliver(a.Step, now)
}

// deliver hands out what may be away, and each comes back when it is due.
func (m *model) deliver(step int, now time.Time) {
	q := &m.queues[step]
	for q.away < 256 && len(q.waiting) > 0 {
		s := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.away++
		due := m.p.Due(s.alarm, s.at)
		if due.Before(now) {
			due = now
		}
		m.at(due, func(now time.Time) {
			m.ring(s.alarm, now)
			q.away--
			m.deliver(step, now)
		})
	}
}

// ring looks, where there is a place in the quota.
func (m *model) ring(a Alarm, now time.Time) {
	for len(m.sent) > 0 && now.Sub(m.sent[0]) >= 20*time.Second {
		m.sent = m.sent[1:]
	}
	c := Case{Alarm: a, Record: acceptedRecord(), Now: now}
	c.Record.FinishedAt, c.Record.AttemptedAt = a.AcceptedAt, a.AcceptedAt
	l := Look{Device: graph.Device{OS: "Android", List: []graph.Action{}}}
	if len(m.sent) >= 400 {
		l = Look{Failed: true}
		m.putBack++
	} else {
		m.looks++
		m.sent = append(m.sent, now)
		m.busiest = max(m.busiest, len(m.sent))
		m.lateness = append(m.lateness, now.Sub(a.AcceptedAt.Add(m.p.Age(a.Number))))
	}
	d := m.p.OfLook(c, l)
	if d.Alarm == nil {
		m.ended++
		return
	}
	m.publish(*d.Alarm, now)
}

// late is the percentile of how late the looks were.
func (m *model) late(percent int) time.Duration {
	slices.Sort(m.lateness)
	return m.lateness[(len(m.lateness)-1)*percent/100]
}

type event struct {
	at time.Time
	n  int
	do func(now time.Time)
}

// events is a heap, the earliest first.
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return cmp.Or(e[i].at.Compare(e[j].at), cmp.Compare(e[i].n, e[j].n)) < 0
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (m *model) at(at time.Time, do func(time.Time)) {
	m.n++
	heap.Push(&m.events, event{at, m.n, do})
}

func (m *model) run() {
	for len(m.events) > 0 {
		e := heap.Pop(&m.events).(event)
		e.do(e.at)
	}
}
