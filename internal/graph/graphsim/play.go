package graphsim

import (
	"slices"
	"time"
)

// Advance lets the devices' clock go forward, and with it their stories; never
// back. Graph's clock, by which resets begin, stays as it is: what a device does
// later is dated from the beginning of its resets.
func (s *Sim) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shift += max(0, d)
}

// SetStory gives a device a story in place of the one that its id asks for, until
// [Sim.Forget]. It counts from the beginning, also where that has passed. An id
// that is no GUID is ignored.
func (s *Sim) SetStory(deviceID string, story Story) {
	g, ok := parseGUID(deviceID)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.device(g).story = &story
}

// storyOf is the story of a device. Call with mu held.
func (s *Sim) storyOf(g guid, d *device) Story {
	story := storyByID(g)
	if d != nil && d.story != nil {
		story = *d.story
	}
	if s.cfg.Work > 0 && !story.work.set && !story.stuck {
		story = story.Works(s.cfg.Work)
	}
	return story
}

// look is a device at the moment of a read.
type look struct {
	device  guid
	story   Story
	list    ActionList
	actions []action
	age     time.Duration // of the story; of no account without an action
}

// look takes a picture of a device. Call with mu held.
func (s *Sim) look(g guid, d *device, now time.Time) look {
	l := look{device: g, story: s.storyOf(g, d), list: s.listOf(g)}
	if d != nil && len(d.actions) > 0 {
		l.actions = slices.Clone(d.actions)
		l.age = now.Add(s.shift).Sub(d.actions[0].at)
	}
	return l
}

// begun reports whether the story has begun.
func (l look) begun() bool { return len(l.actions) > 0 }

// gone reports whether the device is not found any more.
func (l look) gone() bool { return l.begun() && l.story.gone.passed(l.age) }

// date is an instant of the story by Graph's clock.
func (l look) date(t time.Duration) time.Time { return l.actions[0].started.Add(t) }

// ordered is the instant of the story at which a reset was ordered.
func (l look) ordered(a action) time.Duration { return a.at.Sub(l.actions[0].at) }

// played is one reset, at the moment of the read.
type played struct {
	action
	course
	foreign bool
	word    string
	code    int
	updated time.Time // by Graph's clock
}

// resets are all of them: the executed, then that of somebody else.
func (l look) resets() []played {
	var out []played
	for _, a := range l.actions {
		out = append(out, l.play(a, l.ordered(a)))
	}
	if l.begun() && l.story.again.passed(l.age) {
		when := l.story.again.at
		p := l.play(action{started: l.date(when + l.story.dated)}, when)
		p.foreign = true
		out = append(out, p)
	}
	return out
}

// play plays one reset.
func (l look) play(a action, ordered time.Duration) played {
	p := played{action: a, course: l.story.course(ordered), updated: a.started}
	p.word, p.code = l.story.state(p.course, l.age)
	if p.ended.passed(l.age) {
		p.updated = a.started.Add(p.ended.at - ordered)
	}
	return p
}

// shows reports whether a reset is in the list. now is Graph's.
func (l look) shows(p played, now time.Time) bool {
	switch {
	case p.foreign:
		return true
	case l.story.hidden || l.story.dropped.passed(l.age):
		return false
	}
	return l.list != ListLate || now.Sub(p.started) >= lateness
}

// lastSync is lastSyncDateTime: the last scheduled check-in or, if it is later,
// the one at which the device heard of a reset. Before the story begins, there
// was none since the simulator began.
func (l look) lastSync(born time.Time) time.Time {
	if !l.begun() {
		return born
	}
	last := l.story.checkedIn(l.age)
	for _, p := range l.resets() {
		if p.heard.passed(l.age) {
			last = max(last, p.heard.at)
		}
	}
	return l.date(last)
}

// DeviceState is what a device really did, whatever its list shows.
type DeviceState struct {
	// Resets are those that were executed, in their order, and at the end that
	// of somebody else, where the story has one.
	Resets []Reset
	// Gets counts the reads of the device that authorization let through.
	Gets int
	// Gone reports whether it is not found any more; MovedTo is its new id.
	Gone    bool
	MovedTo string
}

// Reset is what became of one reset.
type Reset struct {
	// Ordered is when it began; Taken when the device took it, and Ended when it
	// had done it or had failed, zero until then. All by Graph's clock.
	Ordered, Taken, Ended time.Time
	State                 string // the actionState, such as pending or done
	ErrorCode             int
	// Valid reports whether its passcode is the one that the device has now.
	Valid bool
	// Foreign reports that somebody else ordered it.
	Foreign bool
}

// Device tells what a device did. It is empty for an id that is no GUID.
func (s *Sim) Device(deviceID string) DeviceState {
	g, ok := parseGUID(deviceID)
	if !ok {
		return DeviceState{}
	}
	s.mu.Lock()
	d := s.devices[g]
	l := s.look(g, d, time.Now())
	out := DeviceState{Gone: l.gone()}
	if d != nil {
		out.Gets = d.gets
	}
	s.mu.Unlock()
	if out.Gone {
		out.MovedTo = l.story.movedTo
	}
	valid, latest := -1, time.Duration(0)
	for i, p := range l.resets() {
		out.Resets = append(out.Resets, l.tell(p))
		if p.word == "done" && p.ended.passed(l.age) && (valid < 0 || p.ended.at >= latest) {
			valid, latest = i, p.ended.at
		}
	}
	if valid >= 0 && !(out.Gone && l.story.leaving == "wipePending") {
		out.Resets[valid].Valid = true
	}
	return out
}

func (l look) tell(p played) Reset {
	r := Reset{Ordered: p.started, State: p.word, ErrorCode: p.code, Foreign: p.foreign}
	if p.taken.passed(l.age) {
		r.Taken = l.date(p.taken.at)
	}
	if p.ended.passed(l.age) {
		r.Ended = l.date(p.ended.at)
	}
	return r
}
