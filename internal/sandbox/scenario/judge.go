package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/verdict"
)

// Letter is one dead letter.
type Letter struct {
	// Sequence is that of the message it is of; ID is that request's.
	Sequence uint64
	ID       string
	Reason   verdict.Reason
	Data     []byte
}

// Ledger is what is found when all is over.
type Ledger struct {
	// Stream is the name of the requests' stream.
	Stream string
	// Records are the records by the escaped id.
	Records map[string]record.Record
	Letters []Letter
	// Resets are how often a device was reset, by its id in lower case.
	Resets map[string]int
	// Strays are messages among the dead letters that are none.
	Strays int

	// Outcomes is what was told of the devices, by the escaped id of the request; nil:
	// nobody follows, and nothing is expected.
	Outcomes map[string]Telling
	// Devices is what the devices really did, by their id in lower case.
	Devices map[string]graphsim.DeviceState
}

// Fate is what became of one request.
type Fate struct {
	*Request
	Got   End
	Reset int // how often the device was
	// Outcome is what was told of the device; empty: nothing.
	Outcome outcome.Outcome
}

// Verdict is what is wrong with a ledger: nothing, where all lists are empty.
type Verdict struct {
	Lost    []string // requests that did not end, or died without a letter
	Doubled []string // devices that were reset twice
	Twice   []string // requests that ended twice
	Wrong   []string // requests that did not end as they must, and what nobody asked for
	Untold  []string // accepted requests of which no end is told
	Mistold []string // those of which an end is told that is not what the device did
	Retold  []string // those of which an end was told twice, or taken back
	Fates   []Fate
	// Echoes are dead letters of PubAcks that were sent to be requests, and Forged
	// how many of these there can be.
	Echoes, Forged int
}

// Judge compares what was found with what was published. A request without a PubAck
// may have been done, once, or not.
func Judge(requests []*Request, l Ledger) Verdict {
	j := &judge{Ledger: l, letters: map[*Request][]Letter{}, left: maps.Clone(l.Resets)}
	strays := j.assign(requests)
	for _, r := range requests {
		switch {
		case len(r.Sequences) > 0:
			j.request(r)
		case j.left[r.Device] == 1:
			delete(j.left, r.Device)
		}
	}
	j.rest(requests, strays)
	return j.Verdict
}

type judge struct {
	Ledger
	Verdict
	letters map[*Request][]Letter
	left    map[string]int // resets that no request has accounted for yet
}

// assign gives each letter to its request, and returns those of nobody's.
func (j *judge) assign(requests []*Request) (strays []Letter) {
	bySequence, byID := map[uint64]*Request{}, map[string]*Request{}
	for _, r := range requests {
		for _, s := range r.Sequences {
			bySequence[s] = r
		}
		if id := r.id(j.Stream); id != "" {
			byID[id] = r
		}
	}
	for _, l := range j.Ledger.Letters {
		r := bySequence[l.Sequence]
		if r == nil { // a copy whose PubAck was lost
			r = byID[l.ID]
		}
		if r == nil {
			strays = append(strays, l)
			continue
		}
		j.letters[r] = append(j.letters[r], l)
	}
	return strays
}

func (j *judge) request(r *Request) {
	id := r.id(j.Stream)
	name := fmt.Sprintf("%s (%s)", id, r.Kind)
	rec, found := j.Records[escape(id)]
	got := EndOf(rec)
	letters := j.letters[r]
	if r.Kind == Hostile && !found && len(letters) > 0 { // its record is under an id that is not told
		got = End{record.Dead, letters[0].Reason}
	}
	resets := 0
	if r.Device != "" {
		resets = j.Ledger.Resets[r.Device]
		delete(j.left, r.Device)
	}
	j.Fates = append(j.Fates, Fate{r, got, resets, j.Outcomes[escape(id)].Last.Outcome})
	j.followed(r, rec, name)

	if resets > 1 {
		j.Doubled = append(j.Doubled, fmt.Sprintf("%s: %d resets", name, resets))
	}
	switch {
	case got.State != record.Accepted && got.State != record.Dead:
		j.Lost = append(j.Lost, fmt.Sprintf("%s: %s", name, got))
		return
	case got.State == record.Dead && len(letters) == 0:
		j.Lost = append(j.Lost, name+": no dead letter")
	case got.State == record.Accepted && len(letters) > 0 || len(letters) > r.Copies:
		j.Twice = append(j.Twice, fmt.Sprintf("%s: %s with %d dead letters", name, got, len(letters)))
	}
	for _, l := range letters {
		if !bytes.Equal(l.Data, []byte(r.Data)) {
			j.Wrong = append(j.Wrong, name+": the dead letter is not what was published")
		}
		if got.State == record.Dead && l.Reason != got.Reason {
			j.Wrong = append(j.Wrong, fmt.Sprintf("%s: %s, but the dead letter says %s", name, got, l.Reason))
		}
	}
	if resets <= 1 && !r.fits(got, resets) {
		j.Wrong = append(j.Wrong, fmt.Sprintf("%s: %s with %d resets, expected %s with %d", name, got, resets, r.Want, r.Resets))
	}
}

// fits reports whether a request may end so.
func (r *Request) fits(got End, resets int) bool {
	switch {
	case got == r.Want && resets == r.Resets:
		return true
	case !r.Unknowable:
		return false
	}
	return got == Accepted() && resets == 1 || got == Dead(verdict.ReasonOutcomeUnknown) || got == Dead(verdict.ReasonExpired) && resets == 0
}

// rest looks at what belongs to no request.
func (j *judge) rest(requests []*Request, letters []Letter) {
	replies := map[string]int{}
	for _, r := range requests {
		replies[r.Reply] += r.Copies
	}
	for _, l := range letters {
		if l.Reason == verdict.ReasonInvalidRequest && isPubAck(l.Data) {
			j.Echoes++
			continue
		}
		j.Wrong = append(j.Wrong, fmt.Sprintf("message %d, which nobody published: a dead letter (%s)", l.Sequence, l.Reason))
	}
	if j.Forged = replies[ownReply] + replies[neighbourReply]; j.Echoes > j.Forged {
		j.Wrong = append(j.Wrong, fmt.Sprintf("%d dead letters of PubAcks, but only %d were sent to be requests", j.Echoes, j.Forged))
	}
	if most := replies[deadReply]; j.Strays > most {
		j.Wrong = append(j.Wrong, fmt.Sprintf("%d messages that are no dead letters are among these, but only %d were sent there", j.Strays, most))
	}
	for _, device := range slices.Sorted(maps.Keys(j.left)) {
		j.Doubled = append(j.Doubled, fmt.Sprintf("device %s, which nobody asked for: %d resets", device, j.left[device]))
	}
}

// isPubAck reports whether a message is the server's answer to a publisher.
func isPubAck(data []byte) bool {
	var ack struct {
		Stream   string `json:"stream"`
		Sequence uint64 `json:"seq"`
	}
	return json.Unmarshal(data, &ack) == nil && ack.Stream != "" && ack.Sequence > 0 && !strings.Contains(string(data), "managedDeviceId")
}
