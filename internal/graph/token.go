package graph

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Token is an access token for Graph. It has no exported content and prints as
// nothing, so that it cannot end in a log.
type Token struct {
	// value is a pointer because fmt does not call the methods of an unexported
	// field: within another value, only the address is printed.
	value     *string
	got       time.Time
	expires   time.Time
	refreshOn time.Time // zero: shortly before it expires
	// Generation numbers the tokens of one [Tokens], from 1.
	Generation int
}

const hidden = "[token]"

// After reports whether the token was got after an instant of this machine's clock.
func (t Token) After(instant time.Time) bool { return t.got.After(instant) }

// text is the token itself, for a header.
func (t Token) text() string {
	if t.value == nil {
		return ""
	}
	return *t.value
}

// String hides the token.
func (t Token) String() string { return hidden }

// Format hides the token, whatever the verb.
func (t Token) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) } // as fmt does, a failed write is let be

// MarshalText hides the token, in JSON too.
func (t Token) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Permission is what a token says of a permission.
type Permission int

const (
	// PermissionUnknown means that the token could not be read; tokens are
	// opaque to clients and may be encrypted one day.
	PermissionUnknown Permission = iota
	// PermissionMissing means that the roles claim lacks it.
	PermissionMissing
	// PermissionGranted means that the roles claim names it.
	PermissionGranted
)

// ResetPermission is the application permission that resetPasscode needs.
const ResetPermission = "DeviceManagementManagedDevices.PrivilegedOperations.All"

// ReadPermissions are the application permissions of which one is needed to list devices
// and to look at one, the least first.
// Source: Microsoft Graph reference, "List managedDevices".
func ReadPermissions() []string {
	return []string{"DeviceManagementManagedDevices.Read.All", "DeviceManagementManagedDevices.ReadWrite.All"}
}

// MayRead is the one of [ReadPermissions] that the token names; empty: none that can be
// seen.
func (t Token) MayRead() string {
	for _, p := range ReadPermissions() {
		if t.Has(p) == PermissionGranted {
			return p
		}
	}
	return ""
}

// LacksRead reports whether the token can be read and names none of [ReadPermissions].
func (t Token) LacksRead() bool {
	for _, p := range ReadPermissions() {
		if t.Has(p) != PermissionMissing {
			return false
		}
	}
	return true
}

// Has reports whether the token's roles claim names a permission. It serves to
// explain a refusal, never to decide anything.
func (t Token) Has(permission string) Permission {
	parts := strings.Split(t.text(), ".")
	if len(parts) != 3 {
		return PermissionUnknown
	}
	payload, err := decodeBase64(parts[1])
	if err != nil {
		return PermissionUnknown
	}
	var claims struct {
		Roles []string `json:"roles"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return PermissionUnknown
	}
	if slices.Contains(claims.Roles, permission) {
		return PermissionGranted
	}
	return PermissionMissing
}

func decodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}

// Times of the token cache.
const (
	// acquireTimeout bounds one request to the token endpoint with all it needs.
	acquireTimeout = 30 * time.Second
	// refreshAhead is how long before its end a token is replaced.
	refreshAhead = 5 * time.Minute
	// refreshPause is the least time between two tries to replace a token that
	// is still good.
	refreshPause = 30 * time.Second
	// refusalPause is the least time between a failure and the next request.
	// The caller's own back-off is longer; this only keeps a crowd that failed
	// together from asking again at once.
	refusalPause = 500 * time.Millisecond
	// renewPause is the least time between a token that took the place of a
	// rejected one and the next, where Graph has accepted tokens within that
	// time: then the rejection is most likely the device's, and none would cure it.
	renewPause = 5 * time.Second
	// rejectedRow is how many rejections in a row, with none accepted meanwhile, are
	// no longer taken for the devices' fault: then the token has become worthless again.
	rejectedRow = 20
)

// Acquire gets one new token. claims is the decoded challenge of a 401, empty
// where there is none. fresh asks for a token that is not from any cache.
// Failures are of type [*Error].
type Acquire func(ctx context.Context, claims string, fresh bool) (value string, expires, refreshOn time.Time, err error)

// Tokens keeps one tenant's token and makes sure that, however many wait, one
// request at a time goes to the token endpoint.
type Tokens struct {
	acquire Acquire
	observe func(error)

	mu       sync.Mutex
	current  Token
	renewed  time.Time // when the current token was got, if it replaced a rejected one; else zero
	accepted time.Time // when Graph last accepted any token
	rejected int       // how often the current token was rejected since, and not replaced
	claims   string    // challenge to be met by the next token
	plain    bool      // the last request's claims were refused: the next one has none
	fetch    *fetch    // under way, or nil
	lastErr  error     // why there is no good token until notUntil
	notUntil time.Time // no request before this
}

type fetch struct {
	done chan struct{}
	err  error // read after done
}

// NewTokens makes an empty cache. observe, if not nil, is told the end of each
// request to the token endpoint.
func NewTokens(acquire Acquire, observe func(err error)) *Tokens {
	if observe == nil {
		observe = func(error) {}
	}
	return &Tokens{acquire: acquire, observe: observe}
}

// Get returns a token that is good for a while yet, asking for one where it
// must. A token that is about to end is replaced in the background.
func (t *Tokens) Get(ctx context.Context) (Token, error) {
	return t.get(ctx, -1, "")
}

// Renew returns a token other than the rejected one. claims is the decoded
// challenge that came with the rejection, or empty.
//
// Where the rejected token itself has only just taken the place of another, and
// Graph accepts tokens, Renew fails and says how long to wait: devices that
// Graph always answers with 401 must not use up what the token endpoint grants.
// That failure is benign. Many rejections in a row, with no acceptance among them, are
// the token's fault all the same.
func (t *Tokens) Renew(ctx context.Context, rejected Token, claims string) (Token, error) {
	if wait := t.pointless(rejected.Generation); wait > 0 {
		return Token{}, &Error{Kind: TokenUnavailable, RetryAfter: wait, Benign: true, Err: errJustRenewed}
	}
	return t.get(ctx, rejected.Generation, claims)
}

// Accepted records that Graph has just accepted a token.
func (t *Tokens) Accepted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.accepted, t.rejected = time.Now(), 0
}

// pointless is how long no token is got in place of a rejected one.
func (t *Tokens) pointless(rejected int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.renewed.IsZero() || t.current.Generation != rejected || t.fetch != nil || time.Since(t.accepted) >= renewPause {
		return 0
	}
	if t.rejected++; t.rejected >= rejectedRow {
		return 0
	}
	return time.Until(t.renewed.Add(renewPause))
}

func (t *Tokens) get(ctx context.Context, rejected int, claims string) (Token, error) {
	for {
		t.mu.Lock()
		now := time.Now()
		usable := t.current.Generation > 0 && t.current.Generation != rejected && now.Before(t.current.expires)
		if usable && now.Before(t.current.refreshOn) {
			defer t.mu.Unlock()
			return t.current, nil
		}
		if claims != "" && t.current.Generation == rejected && !t.plain {
			t.claims = claims
		}
		if t.fetch == nil && !now.Before(t.notUntil) {
			t.fetch = &fetch{done: make(chan struct{})}
			// The request outlives a caller that goes away: others wait for it.
			go t.run(context.WithoutCancel(ctx), t.fetch, t.claims, t.current.Generation > 0, usable, rejected > 0)
		}
		f := t.fetch
		if usable {
			defer t.mu.Unlock()
			return t.current, nil
		}
		if f == nil {
			defer t.mu.Unlock()
			return Token{}, waitFor(t.lastErr, t.notUntil.Sub(now))
		}
		t.mu.Unlock()
		select {
		case <-f.done:
			if f.err != nil {
				return Token{}, f.err
			}
		case <-ctx.Done():
			return Token{}, &Error{Kind: TokenUnavailable, Benign: true, Err: context.Cause(ctx)}
		}
	}
}

var errJustRenewed = errors.New("the token was replaced just now, and Graph accepts the tokens of others")

var errEnding = errors.New("the token service issued a token that has expired or is about to")

// waitFor is the last failure, with how long it still stands.
func waitFor(err error, wait time.Duration) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		again := *e
		again.RetryAfter = wait
		return &again
	}
	return &Error{Kind: TokenUnavailable, RetryAfter: wait, Err: err}
}

// run makes one request. ahead tells that the token which is to be replaced is
// still good, so that a failure is no reason to hurry, and rejected that Graph
// has rejected it.
func (t *Tokens) run(ctx context.Context, f *fetch, claims string, fresh, ahead, rejected bool) {
	ctx, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	value, expires, refreshOn, err := t.acquire(ctx, claims, fresh)
	t.observe(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	e := (*Error)(nil)
	refused := errors.As(err, &e) && e.Kind == TokenRefused
	// It may be the claims that are refused, not the application. Graph goes on
	// to challenge the old token, so that each request would have them.
	t.plain = refused && claims != ""
	if err == nil {
		if refreshOn.IsZero() || refreshOn.After(expires) {
			// A life shorter than the usual hour is used for its larger part.
			refreshOn = expires.Add(-min(refreshAhead, expires.Sub(now)/5))
		}
		t.current = Token{value: &value, got: now, expires: expires, refreshOn: refreshOn, Generation: t.current.Generation + 1}
		t.renewed, t.rejected = time.Time{}, 0
		if rejected {
			t.renewed = now
		}
		if t.claims == claims {
			t.claims = "" // else another challenge has come since
		}
		t.lastErr, t.notUntil = errEnding, time.Time{}
		if !now.Before(refreshOn) {
			t.notUntil = now.Add(refreshPause) // a cache beneath gave the old one again
		}
	} else {
		if t.plain {
			t.claims = ""
		}
		t.lastErr = err
		pause := refusalPause
		if ahead {
			pause = refreshPause
		}
		if e != nil {
			pause = max(pause, e.RetryAfter)
		}
		t.notUntil = now.Add(pause)
	}
	f.err = err
	t.fetch = nil
	close(f.done)
}
