package ops

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// MissingRight means that the account may not do what was tried.
type MissingRight struct {
	Verb    string // "publish" or "subscribe"
	Subject string
}

// Error names the right.
func (e *MissingRight) Error() string {
	return "a right is missing: this account may not " + e.Verb + " to " + e.Subject
}

// Rights hears what the server says out of turn. To the one who asked, a
// request that is not allowed looks like one that nobody answers: only here is
// it told, and at once. The zero Rights is ready for use.
type Rights struct {
	mu       sync.Mutex
	lasting  *MissingRight // a subscription that was refused: no reply will ever come
	next     int
	attempts map[int]context.CancelCauseFunc
}

// Option makes a connection report here.
func (r *Rights) Option() nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { r.heard(err) })
}

var refused = regexp.MustCompile(`Permissions Violation for (Publish|Subscription) to "([^"]+)"`)

func (r *Rights) heard(err error) {
	m := refused.FindStringSubmatch(err.Error())
	if !errors.Is(err, nats.ErrPermissionViolation) || m == nil {
		return
	}
	missing := &MissingRight{Verb: "publish", Subject: m[2]}
	if m[1] == "Subscription" {
		missing.Verb = "subscribe"
		if inbox, _, ok := strings.Cut(m[2], "."); ok && inbox == "_INBOX" {
			missing.Subject = inbox + ".>" // what follows is random
		}
	}
	r.mu.Lock()
	if missing.Verb == "subscribe" {
		r.lasting = missing
	}
	cancels := slices.Collect(maps.Values(r.attempts))
	r.mu.Unlock()
	for _, cancel := range cancels {
		cancel(missing)
	}
}

// do runs f, and ends its context as soon as a right turns out to be missing.
// Its error is then a [*MissingRight].
func (r *Rights) do(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	if r.lasting != nil {
		defer r.mu.Unlock()
		return r.lasting
	}
	if r.attempts == nil {
		r.attempts = map[int]context.CancelCauseFunc{}
	}
	id := r.next
	r.next++
	r.attempts[id] = cancel
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.attempts, id)
	}()
	err := f(ctx)
	var missing *MissingRight
	if err != nil && errors.As(context.Cause(ctx), &missing) {
		return missing
	}
	return err
}
