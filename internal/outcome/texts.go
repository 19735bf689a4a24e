package outcome

import (
	"strings"
	"time"
)

// NextStep is what the help desk should do next.
type NextStep string

// The next steps; [NextStep.Text] says what each means.
const (
	Wake         NextStep = "wake"
	Sync         NextStep = "sync"
	Network      NextStep = "network"
	Away         NextStep = "away"
	ReadPasscode NextStep = "read_passcode"
	Unlocked     NextStep = "unlocked"
	CheckPolicy  NextStep = "check_policy"
	CheckToken   NextStep = "check_token"
	// StepNotSupported is the step of the outcome [NotSupported].
	StepNotSupported NextStep = "not_supported"
	Gone             NextStep = "gone"
	Newer            NextStep = "newer"
	StepCanceled     NextStep = "canceled"
	GaveUp           NextStep = "gave_up"
	LookItUp         NextStep = "look_it_up"
)

// NextSteps lists them all, in the order in which a request may come to them.
func NextSteps() []NextStep {
	return []NextStep{Wake, Sync, Network, Away, ReadPasscode, Unlocked, CheckPolicy, CheckToken, StepNotSupported, Gone, Newer, StepCanceled, GaveUp, LookItUp}
}

// Text is what the help desk reads at a step. The braces stand for: {date}, the last day
// on which Intune shows the passcode; {sync}, when the device last checked in; {code},
// the error code, and {reason}, why the device is gone, both in brackets; {newer}, why
// the reset no longer counts. A new request needs a new ticket number: under the id of an
// accepted one it counts as a duplicate and does nothing.
func (s NextStep) Text() string {
	switch s {
	case Wake:
		return "Intune has accepted the reset. A device usually carries it out within a minute or two. Is it switched on and connected to a network?"
	case Sync:
		return "The device has not carried out the reset yet. Ask the user to open Company Portal or the Intune app and start a sync, and to switch on the work profile if it is off."
	case Network:
		return "The device has not carried out the reset yet. After a restart, an iPhone or iPad does not join a known Wi-Fi network until it is unlocked: " +
			"it needs cellular data, or a USB cable to a Mac that shares its network."
	case Away:
		return "The device has not carried out the reset yet. It last checked in {sync}. It will carry out the reset when it checks in again. Do not order a second reset."
	case ReadPasscode:
		return "The device has reset its passcode. The Intune admin center shows the temporary passcode until {date}. Read it out only to the user, after you have verified who is calling."
	case Unlocked:
		return "The device has removed its passcode. It opens without one, and asks for a new one if a policy requires it."
	case CheckPolicy:
		return "The device could not reset its passcode{code}. Check that a passcode policy is assigned to it, and that its user has unlocked it once to activate the reset. " +
			"Then send a new request under a new ticket number."
	case CheckToken:
		return "The device could not remove its passcode{code}. Send one new request under a new ticket number. " +
			"If the second one fails too, Intune cannot unlock this device: only erasing it (a wipe) helps."
	case StepNotSupported:
		return "Intune cannot reset the passcode of this kind of device{code}. Another request will not help."
	case Gone:
		return "The device is no longer in Intune{reason}, so it will not be reset. If it has been enrolled again, send a new request with its new device id, under a new ticket number."
	case Newer:
		return "This reset no longer counts: {newer}."
	case StepCanceled:
		return "Someone canceled the reset in Intune. If it is still needed, send a new request under a new ticket number."
	case GaveUp:
		return "The device did not carry out the reset while it was being watched. It last checked in {sync}. When the device is back online, it may still reset itself. " +
			"To prevent that, cancel the reset in the Intune admin center."
	case LookItUp:
		return "Look up the device in the Intune admin center, under device actions status{code}."
	}
	return ""
}

// tell is the next step for a document, and its text. changed is when Intune last changed
// the reset; zero: now.
func (p Policy) tell(d Document, now, changed time.Time) (NextStep, string) {
	if changed.IsZero() {
		changed = now
	}
	shownUntil := changed.Add(passcodeShown)
	step := p.step(d, now, shownUntil)
	return step, strings.NewReplacer(
		"{date}", shownUntil.UTC().Format("2 January 2006"),
		"{sync}", lastSync(d.LastSyncAt),
		"{code}", errorCode(d.ErrorCodeHex),
		"{reason}", removedBy(d.Reason),
		"{newer}", newer(d.Reason),
	).Replace(step.Text())
}

// step is the next step for a document. Intune shows the passcode until shownUntil.
func (p Policy) step(d Document, now, shownUntil time.Time) NextStep {
	apple, android := d.Platform.apple(), d.Platform == Android
	switch d.Outcome {
	case Done:
		if now.After(shownUntil) {
			return LookItUp // Intune no longer shows the passcode
		}
		return choose(android, ReadPasscode, choose(apple, Unlocked, LookItUp))
	case Failed:
		return choose(android, CheckPolicy, choose(apple, CheckToken, LookItUp))
	case NotSupported:
		return StepNotSupported
	case Canceled:
		return StepCanceled
	case Superseded:
		return Newer
	case Removed:
		return Gone
	case TimedOut:
		return GaveUp
	case Undetermined:
		return LookItUp
	case Pending, Active:
	}
	switch age := now.Sub(d.AcceptedAt); {
	case d.Reason != "":
		return Newer
	case age >= p.scaled(awayAfter):
		return Away
	case age >= p.scaled(syncAfter) && android:
		return Sync
	case age >= p.scaled(syncAfter) && apple:
		return Network
	}
	return Wake
}

func choose(is bool, yes, no NextStep) NextStep {
	if is {
		return yes
	}
	return no
}

func lastSync(at time.Time) string {
	if at.IsZero() {
		return "at a time that Intune does not show"
	}
	return "on " + at.UTC().Format("2 January 2006 at 15:04 UTC")
}

func errorCode(hex string) string {
	if hex == "" {
		return ""
	}
	return " (error " + hex + ")"
}

func removedBy(r Reason) string {
	switch r {
	case Wiped, WipePending:
		return " (it was wiped)"
	case Retired, RetirePending:
		return " (it was retired)"
	case Deleted, DeletePending:
		return " (it was deleted there)"
	}
	return ""
}

func newer(r Reason) string {
	switch r {
	case WipePending, Wiped:
		return "the device is being wiped"
	case RetirePending, Retired:
		return "the device is being retired"
	case DeletePending, Deleted:
		return "the device is being deleted from Intune"
	}
	return "another reset followed it, and only the newest passcode is valid"
}

// Platform is a kind of device, spelled as Graph spells its operating system.
type Platform string

// The platforms.
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

func (p Platform) apple() bool { return p == IOS || p == IPadOS || p == VisionOS }

// PlatformOf is the platform of an operating system, which Graph gives as free text.
// Only its beginning counts, and case does not; empty if the platform is not known.
func PlatformOf(os string) Platform {
	os = fold(os)
	for _, p := range []Platform{Android, IOS, IPadOS, VisionOS, Windows, MacOS, Linux, ChromeOS, TvOS} {
		if strings.HasPrefix(os, strings.ToLower(string(p))) {
			return p
		}
	}
	return ""
}

func fold(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// Explain says why Graph may have refused to reset a device; empty if nothing about the
// device explains it. The worker itself refuses nothing for these reasons.
// Sources: Microsoft Intune, "Reset or remove a device passcode"; Apple, ClearPasscode.
func Explain(os, enrollment, management string) string {
	switch p := PlatformOf(os); p {
	case Windows, MacOS, Linux, ChromeOS, TvOS:
		return "it is a " + string(p) + " device, whose passcode Intune cannot reset"
	}
	switch fold(enrollment) {
	case "appleuserenrollment", "appleuserenrollmentwithserviceaccount":
		return "it is enrolled by Apple User Enrollment, which allows no reset"
	}
	switch underWay(management) {
	case WipePending:
		return "it is being wiped"
	case RetirePending:
		return "it is being retired"
	case DeletePending:
		return "it is being deleted from Intune"
	}
	return ""
}
