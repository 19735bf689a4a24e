package scenario

import (
	"slices"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/verdict"
)

// stories are requests that Graph accepts, whose devices then do one thing or
// another. CODE is the story's, and TIMES its time in seconds: as short as it can be,
// so that it is over while somebody looks.
func stories() []Kind {
	iPhone := graphsim.StoryVariant(graphsim.IOS, graphsim.Personal, "")
	iPad := graphsim.StoryVariant(graphsim.IPadOS, graphsim.Company, "")
	all := []Kind{
		{Name: "an iPhone, done", Code: graphsim.StoryDone, Times: 1, Variant: iPhone},
		{Name: "done after a while", Code: graphsim.StoryActive, Times: 6},
		{Name: "failed", Code: graphsim.StoryFailed, Times: 1},
		{Name: "an iPad, failed", Code: graphsim.StoryFailed, Times: 2, Variant: iPad},
		{Name: "not supported", Code: graphsim.StoryUnsupported, Times: 1},
		{Name: "canceled", Code: graphsim.StoryCanceled, Times: 3},
		{Name: "pending for ever", Code: graphsim.StoryStuck},
		{Name: "off, then done", Code: graphsim.StoryAway, Times: 5},
		{Name: "an iPhone, off, then done", Code: graphsim.StoryAway, Times: 3, Variant: iPhone},
		{Name: "off for ever", Code: graphsim.StoryLost},
		{Name: "wiped", Code: graphsim.StoryWiped, Times: 1},
		{Name: "retired", Code: graphsim.StoryRetired, Times: 1},
		{Name: "removed", Code: graphsim.StoryRemoved, Times: 2},
		{Name: "not found once", Code: graphsim.StoryAbsentOnce, Times: 1},
		{Name: "enrolled anew", Code: graphsim.StoryMoved, Times: 1},
		{Name: "never shown", Code: graphsim.StoryHidden, Times: 1},
		{Name: "reset by somebody else, too", Code: graphsim.StoryTwice, Times: 2},
		{Name: "superseded", Code: graphsim.StorySuperseded, Times: 1},
		{Name: "gone from the list", Code: graphsim.StoryDropped, Times: 2},
		{Name: "an unknown word, then done", Code: graphsim.StoryNewWord, Times: 3},
		{Name: "an unknown word for ever", Code: graphsim.StoryNewEnd, Times: 1},
		{Name: "none, then done", Code: graphsim.StoryNone, Times: 3},
		{Name: "a rename beside it", Code: graphsim.StoryRenamed, Times: 1},
		{Name: "a rename later", Code: graphsim.StoryList + int(graphsim.ListRenamed), Times: 1},
		{Name: "other actions beside it", Code: graphsim.StoryList + int(graphsim.ListOthers), Times: 1},
		{Name: "older resets beside it", Code: graphsim.StoryList + int(graphsim.ListSeveral), Times: 1},
		{Name: "shown late", Code: graphsim.StoryList + int(graphsim.ListLate), Times: 1},
		{Name: "without a date", Code: graphsim.StoryList + int(graphsim.ListStartNull), Times: 1},
		{Name: "no list", Code: graphsim.StoryList + int(graphsim.ListMissing), Times: 1},
		{Name: "under an unknown name", Code: graphsim.StoryList + int(graphsim.ListUnknownName), Times: 1},
	}
	for i := range all {
		k := &all[i]
		// A lost call for one of these cannot be told from one that had no effect, or it
		// stays in doubt.
		hides := slices.Contains([]int{
			graphsim.StoryHidden, graphsim.StoryDropped, graphsim.StoryList + int(graphsim.ListLate), graphsim.StoryList + int(graphsim.ListStartNull),
			graphsim.StoryList + int(graphsim.ListMissing), graphsim.StoryList + int(graphsim.ListUnknownName),
		}, k.Code)
		k.Name, k.Code = "device: "+k.Name, graphsim.StoryCode+k.Code
		k.Want, k.Resets, k.Day, k.Chaos = Accepted(), 1, 2, 5
		if hides {
			k.Chaos = 0
		}
	}
	return append(all, Kind{
		Name: "400, a Windows computer", Code: graphsim.StoryCode, Day: 2, Chaos: 4, Want: Dead(verdict.ReasonRejected),
		Variant: graphsim.StoryVariant(graphsim.Windows, graphsim.Company, ""),
	})
}

// told is what a device is told to come to, once its reset is accepted.
func told(device string) outcome.Outcome { return outcome.Outcome(graphsim.Told(device)) }

// turn is when a request comes in a day: first, somewhere, or last.
func (r *Request) turn() int {
	switch {
	case r.Told == outcome.TimedOut:
		return -1
	case r.Told == outcome.Removed:
		return 1
	}
	return 0
}
