package outcome

import (
	"testing"
	"time"
)

// accepted is when the requests of these tests were accepted.
func accepted() time.Time { return time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC) }

func alarm() Alarm {
	return Alarm{
		Tenant: "default", ID: "INC1", Device: "8b6a5f1e-0000-4000-8000-000000000001", ClientRequestID: "c11e4700-0000-4000-8000-000000000001",
		AttemptedAt: accepted().Add(-time.Second), AcceptedAt: accepted(),
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	p := Plan{For: DefaultFor}
	var ages []time.Duration
	a := p.First(alarm())
	for !a.DueAt.After(p.End(a)) {
		age := a.DueAt.Sub(accepted())
		ages = append(ages, age)
		if got := p.Age(a.Number); got != age {
			t.Fatalf("look %d is due at the age of %s, its age is %s", a.Number, age, got)
		}
		if age == p.For {
			break
		}
		next := p.Next(a, a.DueAt)
		if next.Number != a.Number+1 {
			t.Fatalf("after look %d comes %d", a.Number, next.Number)
		}
		if wait := next.DueAt.Sub(a.DueAt); wait != p.Wait(next.Step) {
			t.Fatalf("look %d waits %s in the queue of %s", next.Number, wait, p.Wait(next.Step))
		}
		// Two clocks meet there, wherever between the two looks each of them is.
		other := a
		if late := p.Next(other, next.DueAt.Add(-time.Millisecond)); late.DueAt != next.DueAt || late.MessageID() != next.MessageID() {
			t.Fatalf("a late clock goes on at %v, not at %v", late, next)
		}
		a = next
	}
	want := []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 15 * time.Minute,
		30 * time.Minute, time.Hour, 90 * time.Minute}
	for i, age := range want {
		if ages[i] != age {
			t.Errorf("look %d is at the age of %s, want %s", i, ages[i], age)
		}
	}
	looks := map[time.Duration]int{}
	for _, age := range ages {
		for _, within := range []time.Duration{8 * time.Hour, 72 * time.Hour, 168 * time.Hour} {
			if age <= within {
				looks[within]++
			}
		}
	}
	// The figures of a device that is off for so long.
	for within, n := range map[time.Duration]int{8 * time.Hour: 23, 72 * time.Hour: 87, 168 * time.Hour: 183} {
		if looks[within] != n {
			t.Errorf("%d looks within %s, want %d", looks[within], within, n)
		}
	}
}

func TestPlanEnd(t *testing.T) {
	t.Parallel()
	p := Plan{For: 100 * time.Minute}
	now := accepted().Add(95 * time.Minute)
	a := p.Next(alarm(), now)
	if want := accepted().Add(p.For); a.DueAt != want || p.Wait(a.Step) != 7*time.Minute || p.Due(a, now) != want {
		t.Errorf("the last look is at %s in step %d, want %s in the queue of 7m", a.DueAt, a.Step, want)
	}
	b := alarm()
	b.Until = accepted().Add(400 * time.Hour)
	if got := p.Next(b, accepted().Add(300*time.Hour)); got.DueAt != accepted().Add(301*time.Hour) {
		t.Errorf("an operator's order is looked at at %s", got.DueAt)
	}
	if got := (Plan{For: 20 * time.Second}).First(alarm()); got.DueAt != accepted().Add(15*time.Second) {
		t.Errorf("first at %s", got.DueAt)
	}
}

// TestNextIsAnother looks a little too early, as clocks that differ may make it: what
// comes next must not be taken for a copy.
func TestNextIsAnother(t *testing.T) {
	t.Parallel()
	for _, p := range []Plan{{For: DefaultFor}, {For: 100 * time.Minute}} {
		for number := range 30 {
			a := alarm()
			a.Number = number
			early := accepted().Add(p.Age(number) - 50*time.Millisecond)
			if next := p.Next(a, early); next.MessageID() == a.MessageID() || next.Number <= a.Number {
				t.Errorf("after look %d comes %d", number, next.Number)
			}
			if back := p.PutBack(a, early); back.MessageID() == a.MessageID() {
				t.Errorf("look %d is put back as %s", number, back.MessageID())
			}
		}
	}
}

// TestPutBack puts an alarm back again and again: it moves on to the next look when
// that comes, each message id is another, and the waits grow as far as the step's own.
func TestPutBack(t *testing.T) {
	t.Parallel()
	p := Plan{For: DefaultFor}
	for _, start := range []int{0, 3, 8, 40} {
		a := alarm()
		a.Number, a.Step = start, StepOf(start)
		now := accepted().Add(p.Age(start))
		a.DueAt = now
		seen := map[string]bool{}
		for range 60 {
			next := p.PutBack(a, now)
			wait := next.DueAt.Sub(now)
			if wait <= 0 || wait > p.Wait(StepOf(a.Number)) || wait > p.Wait(next.Step) {
				t.Fatalf("look %d/%d is put back by %s into step %d", a.Number, a.Again, wait, next.Step)
			}
			if next.DueAt.After(accepted().Add(p.Age(a.Number + 1))) {
				t.Fatalf("look %d is put back beyond the next one", a.Number)
			}
			if seen[next.MessageID()] {
				t.Fatalf("message id %s comes twice: the second one is dropped", next.MessageID())
			}
			seen[next.MessageID()] = true
			a, now = next, next.DueAt
		}
	}
}

// TestDue: nobody can make an alarm wait longer than its queue.
func TestDue(t *testing.T) {
	t.Parallel()
	p := Plan{For: DefaultFor}
	a := alarm()
	a.Step, a.DueAt = 2, accepted().Add(1000*time.Hour)
	if got := p.Due(a, accepted()); got != accepted().Add(30*time.Second) {
		t.Errorf("due at %s", got)
	}
	a.DueAt = accepted().Add(10 * time.Second)
	if got := p.Due(a, accepted()); got != a.DueAt {
		t.Errorf("due at %s", got)
	}
}

func FuzzParseAlarm(f *testing.F) {
	good, err := MarshalAlarm(alarm())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("0.default", good)
	f.Add("9.default", []byte(`{"tenant":"default","number":-1}`))
	f.Add("10.default", good)
	f.Add("0.default", []byte(`{"dueAt":"9999-12-31T23:59:59Z"}`))
	f.Fuzz(func(t *testing.T, tokens string, value []byte) {
		stored := accepted().Add(time.Minute)
		a, err := ParseAlarm(tokens, value, stored)
		if err != nil {
			return
		}
		p := Plan{For: DefaultFor}
		if a.Tokens() != tokens {
			t.Fatalf("%q became %q", tokens, a.Tokens())
		}
		for _, now := range []time.Time{stored, stored.Add(time.Hour), stored.Add(1000 * time.Hour)} {
			for _, next := range []Alarm{p.Next(a, now), p.PutBack(a, now), p.First(a)} {
				if next.Step < 0 || next.Step >= Steps || next.Number < 0 {
					t.Fatalf("%+v leads to %+v", a, next)
				}
			}
		}
		if due := p.Due(a, stored); due.After(stored.Add(time.Hour)) {
			t.Fatalf("due %s after it was stored", due.Sub(stored))
		}
		again, err := MarshalAlarm(a)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := ParseAlarm(tokens, again, stored); err != nil || b.MessageID() != a.MessageID() {
			t.Fatalf("read again: %+v, %v", b, err)
		}
	})
}
