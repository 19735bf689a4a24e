package graphsim

import (
	"fmt"
	"slices"
	"time"
)

// The stories that a device id can ask for; see the package documentation.
const (
	StoryDone        = 0
	StoryFailed      = 1
	StoryUnsupported = 2
	StoryCanceled    = 3
	StoryStuck       = 4
	StoryAway        = 5
	StoryLost        = 6
	StoryWiped       = 7
	StoryRetired     = 8
	StoryRemoved     = 9
	StoryAbsentOnce  = 10
	StoryMoved       = 11
	StoryHidden      = 12
	StoryTwice       = 13
	StorySuperseded  = 14
	StoryDropped     = 15
	StoryNewWord     = 16
	StoryNewEnd      = 17
	StoryNone        = 18
	StoryActive      = 19
	StoryRenamed     = 20
	// StoryList and the number of an [ActionList] is a device that has done it
	// and has such a list.
	StoryList = 40
)

// StoryCode and the number of a story are the CODE of a device id.
const StoryCode = 800

// FailureCode is the errorCode of [StoryFailed], as it was seen in the wild.
const FailureCode = -2147023728 // 0x80070490

// otherAfter is how much later than it appears the reset of [StorySuperseded]
// says that it began.
const otherAfter = 10 * time.Minute

// StoryDevice is the id of a device that plays a story, with its one time in
// seconds. variant is 0 for an Android device of the company's, or of
// [StoryVariant]; n makes it unique. Numbers that do not fit, more than two
// digits for the story and four for the others, give an id that is no GUID.
func StoryDevice(story, seconds, variant, n int) string {
	return fmt.Sprintf("dead08%02d-%04d-%04d-0000-%012x", story, seconds, variant, n)
}

// StoryVariant is the number for a platform, an owner and an enrolment; what no
// device id can name counts as Android, company and the usual one.
func StoryVariant(p Platform, o Owner, enrollment string) int {
	return 100*max(0, slices.Index(platforms(), p)) + 10*max(0, slices.Index(owners(), o)) + max(0, slices.Index(enrollments(), enrollment))
}

func platforms() []Platform {
	return []Platform{Android, IOS, IPadOS, VisionOS, Windows, MacOS, Linux, ChromeOS, TvOS}
}

func owners() []Owner { return []Owner{Company, Personal, Unowned} }

func enrollments() []string { return []string{"", AppleUser, AppleUserService} }

// Told is the outcome that the reset of a device must come to, by its id alone:
// see [Story.Told]. A device that asks for no story is told done, a fault once it
// is over. It is empty for what is no device.
func Told(deviceID string) (outcome string) {
	g, ok := parseGUID(deviceID)
	if !ok {
		return ""
	}
	return storyByID(g).Told()
}

// storyByID is the story that a device id asks for.
func storyByID(g guid) Story {
	v, ok := parseNumbers(g)
	if !ok || v[0] < StoryCode || v[0] >= StoryCode+100 {
		return Story{}
	}
	t := time.Duration(v[1]) * time.Second
	s := storyOf(v[0]-StoryCode, t, g)
	s.platform = pick(platforms(), v[2]/100)
	s.owner = pick(owners(), v[2]/10%10)
	s.enrollment = pick(enrollments(), v[2]%10)
	return s
}

// pick is an element of a list; the first where there is no such one.
func pick[T any](list []T, i int) T {
	if i >= len(list) {
		return list[0]
	}
	return list[i]
}

// storyOf is a story by its number. What waits for the story's time is stuck
// until then, so that nothing else ends it before.
func storyOf(number int, t time.Duration, g guid) Story {
	var s Story
	switch done, stuck := s.Works(t), s.Works(Forever); number {
	case StoryDone:
		return done
	case StoryFailed:
		return done.Fails(FailureCode)
	case StoryUnsupported:
		return done.Ends("notSupported", 0)
	case StoryCanceled:
		return done.Ends("canceled", 0)
	case StoryStuck:
		return stuck
	case StoryAway:
		return s.Offline(0, t).CheckIns(t)
	case StoryLost:
		return s.Offline(0, Forever)
	case StoryWiped:
		return stuck.Wiped(t, 2*t)
	case StoryRetired:
		return stuck.Retired(t, 2*t)
	case StoryRemoved:
		return stuck.Removed(t)
	case StoryAbsentOnce:
		return done.Absent(1)
	case StoryMoved:
		return stuck.Moved(t, movedTo(g))
	case StoryHidden:
		return done.Hidden()
	case StoryTwice:
		return s.Again(t)
	case StorySuperseded:
		return stuck.Again(t).Dated(otherAfter).Dropped(t)
	case StoryDropped:
		return stuck.Dropped(t)
	case StoryNewWord:
		return done.Says("awaitingAdminAction")
	case StoryNewEnd:
		return done.Ends("retryPending", 0)
	case StoryNone:
		return done.Says("none")
	case StoryActive:
		return done.Says("active")
	case StoryRenamed:
		return done.Renamed()
	}
	if l := ActionList(number - StoryList); l >= ListPlain && l <= ListUnknownName {
		return s.Works(t).Listed(l)
	}
	return Story{}
}

// movedTo is the id under which a device is enrolled anew: that of a device
// without a fault and with the same end.
func movedTo(g guid) string {
	to, _ := parseGUID(GoodDevice(0))
	copy(to[10:], g[10:])
	return to.String()
}
