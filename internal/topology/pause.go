package topology

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Forever is the end of a pause that has none: it lasts until it is resumed.
func Forever() time.Time { return time.Date(endless+999, 1, 1, 0, 0, 0, 0, time.UTC) }

// endless is the year from which on the end of a pause stands for none.
const endless = 9000

// PauseEnd is when a paused consumer goes on, by the clock of the NATS server;
// zero: when it is resumed.
func PauseEnd(info *jetstream.ConsumerInfo) time.Time {
	until := info.Config.PauseUntil
	if until == nil || until.Year() >= endless {
		return time.Time{}
	}
	return *until
}
