package graphsim

import (
	"math"
	"slices"
	"time"
)

// Platform is a device's operatingSystem as Graph spells it.
type Platform string

// The platforms that a device id can name; any other text will do as well.
const (
	Android  Platform = "Android"
	IOS      Platform = "iOS"
	IPadOS   Platform = "iPadOS"
	VisionOS Platform = "visionOS"
	Windows  Platform = "Windows"
	MacOS    Platform = "macOS"
	Linux    Platform = "Linux"
	ChromeOS Platform = "ChromeOS"
	TvOS     Platform = "tvOS"
)

// Owner is a device's managedDeviceOwnerType.
type Owner string

// The owners.
const (
	Company  Owner = "company"
	Personal Owner = "personal"
	Unowned  Owner = "unknown"
)

// The enrolments of Apple that allow no reset.
const (
	AppleUser        = "appleUserEnrollment"
	AppleUserService = "appleUserEnrollmentWithServiceAccount"
)

// Forever is an instant of a [Story] that never comes.
const Forever time.Duration = math.MaxInt64

const (
	defaultCheckIns = 8 * time.Hour // as Intune documents them
	defaultWork     = time.Second
)

// Story is what a device does with the resets that are ordered for it. The zero
// value is the default: an Android device of the company's, online, which takes
// each order at once and has done it 1 s later. The methods give a changed copy,
// so that they can be chained:
//
//	graphsim.Story{}.On(graphsim.IOS, graphsim.Personal).Offline(0, 45*time.Hour).Fails(-2016345060)
//
// Its instants count from the first reset that is executed, by the devices'
// clock: ours, shifted by [Sim.Advance]. What a reset takes counts from its own
// order.
type Story struct {
	platform   Platform
	owner      Owner
	enrollment string
	offline    span
	every      time.Duration // between check-ins
	waits      time.Duration // between the check-in and the taking
	work       moment        // between the taking and the end
	stuck      bool
	end        string // actionState at the end
	code       int
	word       string        // in place of pending
	leaving    string        // managementState while it is being wiped or retired
	left       moment        // when that begins
	gone       moment        // from when on it is not found
	absent     int           // the read that does not find it; 0: none
	movedTo    string        // its id after it was enrolled anew
	hidden     bool          // no entry of ours ever
	dropped    moment        // no entry of ours any more
	again      moment        // a reset by somebody else
	dated      time.Duration // how much later that says it began
	renamed    bool
	list       ActionList
}

// moment is an instant of a story. The zero value never comes.
type moment struct {
	at  time.Duration
	set bool
}

func at(d time.Duration) moment              { return moment{d, d < Forever} }
func (m moment) passed(t time.Duration) bool { return m.set && t >= m.at }

// span is a time of a story. The zero value has no length.
type span struct{ from, to time.Duration }

func (s span) holds(t time.Duration) bool { return t >= s.from && t < s.to }

// On gives the platform and the owner.
func (s Story) On(p Platform, o Owner) Story { s.platform, s.owner = p, o; return s }

// Enrolled gives the deviceEnrollmentType; empty is the platform's usual one.
func (s Story) Enrolled(how string) Story { s.enrollment = how; return s }

// Offline keeps the device from checking in. An order that came in that time is
// heard at the next check-in; an order that comes while it is online is heard at
// once. A negative from says that it was off before.
func (s Story) Offline(from, to time.Duration) Story { s.offline = span{from, to}; return s }

// CheckIns is how often the device checks in; zero is every 8 hours, the first
// with the beginning of the story.
func (s Story) CheckIns(every time.Duration) Story { s.every = every; return s }

// Waits lets the device take a reset only so long after it has heard of it.
func (s Story) Waits(d time.Duration) Story { s.waits = d; return s }

// Works is how long a reset takes once it is taken, in place of 1 s; the word for
// the time until then is pending. [Forever] never ends.
func (s Story) Works(d time.Duration) Story { s.work, s.stuck = at(d), d == Forever; return s }

// Ends gives the actionState at the end, in place of done, and the errorCode.
func (s Story) Ends(state string, code int) Story { s.end, s.code = state, code; return s }

// Fails is Ends with failed.
func (s Story) Fails(code int) Story { return s.Ends("failed", code) }

// Says gives the actionState until the end, in place of pending.
func (s Story) Says(word string) Story { s.word = word; return s }

// Wiped lets a wipe begin: what has not ended by then never does, and later the
// device is gone.
func (s Story) Wiped(begins, gone time.Duration) Story {
	s.leaving, s.left, s.gone = "wipePending", at(begins), at(gone)
	return s
}

// Retired is Wiped with a retirement.
func (s Story) Retired(begins, gone time.Duration) Story {
	s.leaving, s.left, s.gone = "retirePending", at(begins), at(gone)
	return s
}

// Removed takes the device out of Intune.
func (s Story) Removed(from time.Duration) Story { s.gone = at(from); return s }

// Absent answers one read with 404: the nth after the first reset.
func (s Story) Absent(nth int) Story { s.absent = nth; return s }

// Moved enrols the device anew, under another id, which plays a story of its
// own; the old id is gone.
func (s Story) Moved(from time.Duration, id string) Story { s.gone, s.movedTo = at(from), id; return s }

// Hidden shows no entry of the resets that were ordered by POST.
func (s Story) Hidden() Story { s.hidden = true; return s }

// Dropped takes the entries of the resets that were ordered by POST from the list.
func (s Story) Dropped(from time.Duration) Story { s.dropped = at(from); return s }

// Again lets somebody else reset the device. With its end the passcode of an
// earlier reset is void.
func (s Story) Again(when time.Duration) Story { s.again = at(when); return s }

// Dated lets that other reset say that it began later than it did, so that a
// short story can have one that is out of doubt somebody else's.
func (s Story) Dated(later time.Duration) Story { s.dated = later; return s }

// Renamed lets a rename begin with each reset.
func (s Story) Renamed() Story { s.renamed = true; return s }

// Listed gives the list another look; [Sim.ShowActions] counts more.
func (s Story) Listed(l ActionList) Story { s.list = l; return s }

func (s Story) os() Platform {
	if s.platform == "" {
		return Android
	}
	return s.platform
}

func (s Story) ownedBy() Owner {
	if s.owner == "" {
		return Company
	}
	return s.owner
}

func (s Story) enrolled() string {
	switch {
	case s.enrollment != "":
		return s.enrollment
	case s.os() == Windows:
		return "windowsAzureADJoin"
	case s.os() != Android && s.ownedBy() == Company:
		return "appleBulkWithUser"
	}
	return "userEnrollment"
}

// refused reports whether Intune refuses to order a reset for it.
func (s Story) refused() bool {
	return slices.Contains([]Platform{Windows, MacOS, Linux, ChromeOS, TvOS}, s.os()) ||
		s.enrollment == AppleUser || s.enrollment == AppleUserService
}

func (s Story) management(t time.Duration) string {
	if s.left.passed(t) {
		return s.leaving
	}
	return "managed"
}

func (s Story) checkIns() time.Duration {
	if s.every <= 0 {
		return defaultCheckIns
	}
	return s.every
}

// checkedIn is the last scheduled check-in up to an instant.
func (s Story) checkedIn(t time.Duration) time.Duration {
	if last := floor(t, s.checkIns()); !s.offline.holds(last) {
		return last
	}
	return floor(s.offline.from-1, s.checkIns())
}

// floor is the greatest multiple that is not above.
func floor(t, of time.Duration) time.Duration {
	rest := t % of
	if rest < 0 {
		rest += of
	}
	return t - rest
}

// hears tells when the device hears of an order.
func (s Story) hears(ordered time.Duration) moment {
	switch {
	case !s.offline.holds(ordered):
		return at(ordered)
	case s.offline.to == Forever:
		return moment{}
	}
	return at(floor(s.offline.to+s.checkIns()-1, s.checkIns()))
}

// course is what becomes of one reset.
type course struct{ heard, taken, ended moment }

// course tells what becomes of a reset. What takes the device away, or is about
// to, leaves it pending for ever.
func (s Story) course(ordered time.Duration) course {
	var c course
	left := func(t time.Duration) bool { return s.left.passed(t) || s.gone.passed(t) }
	if c.heard = s.hears(ordered); !c.heard.set || left(c.heard.at) {
		return course{}
	}
	if s.waits == Forever || left(c.heard.at+s.waits) {
		return c
	}
	c.taken = at(c.heard.at + s.waits)
	work := defaultWork
	if s.work.set {
		work = s.work.at
	}
	if !s.stuck && !left(c.taken.at+work) {
		c.ended = at(c.taken.at + work)
	}
	return c
}

// state is the actionState of a reset, and its errorCode.
func (s Story) state(c course, t time.Duration) (word string, code int) {
	switch {
	case !c.ended.passed(t) && s.word != "":
		return s.word, 0
	case !c.ended.passed(t):
		return "pending", 0
	case s.end != "":
		return s.end, s.code
	}
	return "done", s.code
}

// Told is the outcome that somebody who follows a single reset for long enough
// has to come to: done, failed, not_supported, canceled, superseded, removed or
// timed_out. It is empty for a device that takes no reset.
func (s Story) Told() string {
	if s.refused() {
		return ""
	}
	ended := s.course(0).ended
	shown := ended.set && !s.hidden && !s.dropped.passed(ended.at) && s.list.tells()
	word, _ := s.state(course{ended: at(0)}, 0)
	switch {
	case shown && (word == "done" || word == "failed" || word == "canceled"):
		return word
	case shown && word == "notSupported":
		return "not_supported"
	case s.gone.set:
		return "removed"
	case s.again.set && (s.hidden || s.dropped.set) && s.list.tells():
		return "superseded"
	}
	return "timed_out"
}

// tells reports whether a list shows beyond doubt which entry is a reset, and
// when it began.
func (l ActionList) tells() bool {
	switch l {
	case ListPlain, ListRenamed, ListOthers, ListSeveral, ListLate:
		return true
	}
	return false
}
