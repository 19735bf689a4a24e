package outcome

import "time"

// Steps is how many queues the alarms wait in. All alarms in a queue wait equally
// long, so the one at the head is due first.
const Steps = 10

// waits are how long an alarm waits in each queue. The ages of the looks follow from
// them: 15 s, 30 s, 1, 2, 4, 8, 15 and 30 min, then every 30 min until 8 h, then
// hourly. Intune notifies a device at once, which then answers within a minute or
// two; a device that was off does so at its next check-in, about every 8 h.
// Source: Microsoft Intune, "Policy and profile refresh intervals".
var waits = [Steps]time.Duration{
	15 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute,
	4 * time.Minute, 7 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour,
}

const (
	// halfHours is the step of the half-hourly looks, hours that of the hourly ones.
	halfHours, hours = Steps - 2, Steps - 1
	// firstHour is the number of the first hourly look, at the age of 9 h.
	firstHour = halfHours + 15
	// DefaultFor is how long a request is followed by default: as long as Intune
	// shows the temporary passcode.
	DefaultFor = 168 * time.Hour
	// LongestFor is how long a request can be followed: a day less than outcomes are kept.
	LongestFor = 89 * 24 * time.Hour
	// AgeOfFirstLook is the age of a request at its first look.
	AgeOfFirstLook = 15 * time.Second
	// MaxNumber bounds the number of an alarm: hourly looks for more than a year.
	MaxNumber = 10_000
)

// Plan is when a request's device is looked at.
type Plan struct {
	// For is how long a request is followed.
	For time.Duration
	// Faster divides each wait, for simulations; 0 means 1.
	Faster int
}

func (p Plan) scaled(d time.Duration) time.Duration { return d / time.Duration(max(1, p.Faster)) }

// Wait is how long an alarm waits in the queue of a step.
func (p Plan) Wait(step int) time.Duration { return p.scaled(waits[step]) }

// StepOf is the step in which the alarm of that number waits.
func StepOf(number int) int {
	switch {
	case number < halfHours:
		return max(0, number)
	case number < firstHour:
		return halfHours
	}
	return hours
}

// Age is the age of a request at the look of that number.
func (p Plan) Age(number int) time.Duration {
	var age time.Duration
	for _, wait := range waits[:min(max(0, number)+1, halfHours)] {
		age += wait
	}
	if number >= halfHours {
		age += time.Duration(min(number, firstHour-1)-halfHours+1) * waits[halfHours]
	}
	if number >= firstHour {
		age += time.Duration(number-firstHour+1) * waits[hours]
	}
	return p.scaled(age)
}

// number is the number of the first look that is planned after an age.
func (p Plan) number(age time.Duration) int {
	n := 0
	for ; n < halfHours && p.Age(n) <= age; n++ {
	}
	if n < halfHours {
		return n
	}
	if p.Age(firstHour-1) > age {
		return halfHours + int((age-p.Age(halfHours-1))/p.Wait(halfHours))
	}
	return firstHour + int((age-p.Age(firstHour-1))/p.Wait(hours))
}

// End is when following ends. An order can only make it later.
func (p Plan) End(a Alarm) time.Time {
	if end := a.AcceptedAt.Add(p.For); end.After(a.Until) {
		return end
	}
	return a.Until
}

// First is a request's own first alarm.
func (p Plan) First(a Alarm) Alarm {
	a.Number, a.Again, a.Step, a.DueAt = 0, 0, 0, a.AcceptedAt.Add(min(p.Age(0), p.For))
	return a
}

// Next is the alarm of the next planned look after now, so that if a request has two
// alarms, they become the same one there. Its number always rises, even if clocks differ
// a little: the server would drop an alarm of the same number as a copy.
func (p Plan) Next(a Alarm, now time.Time) Alarm {
	a.Number = max(a.Number+1, p.number(now.Sub(a.AcceptedAt)))
	a.Again, a.Step, a.DueAt = 0, StepOf(a.Number), a.AcceptedAt.Add(p.Age(a.Number))
	if end := p.End(a); a.DueAt.After(end) {
		// The last look is at the end.
		a.DueAt, a.Step = end, p.queueFor(end.Sub(now))
	}
	return a
}

// queueFor is the first step in which alarms wait at least that long.
func (p Plan) queueFor(wait time.Duration) int {
	for s := range waits {
		if p.Wait(s) >= wait {
			return s
		}
	}
	return hours
}

// PutBack is the alarm of a look that cannot be made now, for a reason that will pass.
// It comes again after a wait that grows up to the wait of its own step, but no later
// than the next planned look.
func (p Plan) PutBack(a Alarm, now time.Time) Alarm {
	back := a
	back.Step = min(a.Again, StepOf(a.Number))
	back.Again, back.DueAt = a.Again+1, now.Add(p.Wait(back.Step))
	if next := p.Next(a, now); !back.DueAt.Before(next.DueAt) {
		return next
	}
	return back
}

// Late is by how much the look of an alarm is late, even if it was put back.
func (p Plan) Late(a Alarm, now time.Time) time.Duration {
	if a.Again == 0 {
		return now.Sub(a.DueAt)
	}
	return now.Sub(a.AcceptedAt.Add(p.Age(a.Number)))
}

// Due is when an alarm is due; stored is when the server stored it. No alarm can wait
// longer than its queue does, whatever it says.
func (p Plan) Due(a Alarm, stored time.Time) time.Time {
	if latest := stored.Add(p.Wait(a.Step)); a.DueAt.After(latest) {
		return latest
	}
	return a.DueAt
}
