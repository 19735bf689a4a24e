package consume

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

var (
	// errSilent means that pulls are not answered, though the server is there.
	errSilent  = errors.New("the server does not answer pulls: the right to pull may be missing, or the consumer may have no leader")
	errDeleted = errors.New("the consumer was deleted")
)

// answered takes a word of the server's about a pull. Call with mu held.
func (p *puller) answered(m *nats.Msg, now time.Time) {
	renewal := p.tenure.pin != "" && m.Subject == p.inbox.subject(p.tenure.renewal())
	if m.Subject != p.pull.reply && !renewal {
		return // about an earlier pull
	}
	status, description := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case status == "100": // heartbeat
		p.health.lives(now)
		p.pull.seen = now
	case status == "404" || status == "408": // it has expired
		p.health.lives(now)
		if !renewal {
			p.pull.left = 0
		}
	case status == "423": // another replica works, or may
		p.health.lives(now)
		p.pull.left = 0
		p.tenure.end()
	case renewal && status == "409" && strings.HasPrefix(description, "Message Size Exceeds"):
		p.health.lives(now)
		if p.pull.owed.IsZero() {
			p.pull.owed = now // a message waits, and the pull is to bring it
		}
	case status == "409" && description == "Consumer Deleted":
		p.health.gone = true
	case status == "409" && description == "Leadership Change":
		// The new leader knows of no pull, and of no pin.
		p.fail(answerError(status, description), now)
	default:
		p.fail(answerError(status, description), now)
		p.health.suspect(now)
	}
}

func answerError(status, description string) error {
	if status == "503" {
		return nats.ErrNoResponders
	}
	return fmt.Errorf("the server answered %.3s %.200q", status, description)
}
