package consume

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

var (
	// errSilent means that pulls are not answered, though the server is there.
	errSilent  = errors.New("the server does not answer a pull: the right to pull may be missing, or the consumer have no leader")
	errDeleted = errors.New("the consumer was deleted")
)

// answered takes a word of the server's about a pull. Call with mu held.
func (p *puller) answered(l *lane, m *nats.Msg) {
	renewal := p.term != nil && m.Subject == p.renewal(p.term.pin)
	if m.Subject != l.reply && !renewal {
		return // about an earlier pull
	}
	status, description := m.Header.Get("Status"), m.Header.Get("Description")
	if status != "100" && !renewal {
		l.left = 0
	}
	switch {
	case status == "100": // heartbeat
		p.lives(l)
	case status == "404", status == "408": // the pull has expired
		p.lives(l)
	case status == "423":
		p.lives(l)
		p.endTerm(nil)
	case renewal && status == "409" && strings.HasPrefix(description, "Message Size Exceeds"):
		p.lives(l)
	default:
		p.fault = answerError(status, description)
	}
}

func answerError(status, description string) error {
	switch {
	case status == "503":
		return nats.ErrNoResponders
	case status == "409" && description == "Consumer Deleted":
		return errDeleted
	}
	return fmt.Errorf("the server answered %.3s %.200q", status, description)
}
