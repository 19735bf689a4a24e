package ops

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// MissingRight means that the account lacks the permission for what was tried.
type MissingRight struct {
	Verb    string // "publish" or "subscribe"
	Subject string
}

// Error names the right.
func (e *MissingRight) Error() string {
	return "a right is missing: this account may not " + e.Verb + " to " + e.Subject
}

// Rights hears of missing permissions. The server reports them to the connection and
// not to the caller, for whom a request that is not allowed looks like one that nobody
// answers. The zero Rights is ready for use.
type Rights struct {
	// Inbox is the prefix of the subjects on which answers arrive; empty: _INBOX.
	Inbox string

	mu       sync.Mutex
	lasting  *MissingRight // the right to receive replies is missing, so none will ever come
	next     int
	attempts map[int]context.CancelCauseFunc
}

// Option makes a connection report its errors to r.
func (r *Rights) Option() nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { r.heard(err) })
}

// inbox is the prefix of the subjects on which answers arrive, with the dot after it.
func (r *Rights) inbox() string {
	return cmp.Or(r.Inbox, strings.TrimSuffix(nats.InboxPrefix, ".")) + "."
}

var refused = regexp.MustCompile(`Permissions Violation for (Publish|Subscription) to "([^"]+)"`)

func (r *Rights) heard(err error) {
	missing, inbox := missingRight(err, r.inbox())
	if missing == nil {
		return
	}
	r.mu.Lock()
	if inbox {
		r.lasting = missing
	}
	cancels := slices.Collect(maps.Values(r.attempts))
	r.mu.Unlock()
	for _, cancel := range cancels {
		cancel(missing)
	}
}

// missingRight reads an error of the connection; nil: it is about something else.
// inbox reports whether the right to receive replies is missing.
func missingRight(err error, prefix string) (missing *MissingRight, inbox bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil, false
	}
	m := refused.FindStringSubmatch(err.Error())
	if m == nil {
		return nil, false
	}
	if m[1] == "Publish" {
		return &MissingRight{Verb: "publish", Subject: m[2]}, false
	}
	if strings.HasPrefix(m[2], prefix) {
		return &MissingRight{Verb: "subscribe", Subject: prefix + ">"}, true // what follows is random
	}
	return &MissingRight{Verb: "subscribe", Subject: m[2]}, false
}

// do runs f, and ends its context as soon as a right turns out to be missing. The
// error is then a [*MissingRight].
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
