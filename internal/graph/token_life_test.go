package graph

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTokenIsHidden prints a token in every way that is at hand.
func TestTokenIsHidden(t *testing.T) {
	t.Parallel()
	token := testToken(testSecret)
	type exported struct{ Token Token }
	type unexported struct{ token Token }
	tokens := NewTokens(nil, nil)
	tokens.current = token
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t"} {
		if got := fmt.Sprintf(verb, token); got != "[token]" {
			t.Errorf("%s: %s", verb, got)
		}
		for _, v := range []any{&token, exported{token}, &exported{token}, unexported{token}, &unexported{token},
			[]Token{token}, map[string]Token{"t": token}, Call{Token: token}, tokens, struct{ t *Tokens }{tokens}} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, testSecret) || strings.Contains(got, fmt.Sprintf("%x", testSecret)) {
				t.Errorf("%s of %T: %s", verb, v, got)
			}
		}
	}
	got, err := json.Marshal(map[string]any{"a": token, "b": &token, "c": exported{token}, "d": Call{Token: token}.Token})
	if want := `{"a":"[token]","b":"[token]","c":{"Token":"[token]"},"d":"[token]"}`; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	if token.String() != "[token]" || fmt.Sprint(Token{}) != "[token]" || (Token{}).text() != "" {
		t.Errorf("%s, %v", token.String(), Token{})
	}
}

// TestWaiterCancelled checks that who goes away takes nothing from those that
// stay, though it was the one that made the request.
func TestWaiterCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: 10 * time.Second}
		tokens := NewTokens(s.acquire, nil)
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		first := make(chan error, 1)
		go func() { _, err := tokens.Get(ctx); first <- err }()
		synctest.Wait()
		second := make(chan error, 1)
		go func() { _, err := tokens.Get(t.Context()); second <- err }()
		wait(time.Second)
		cancel(gone)
		if err := <-first; !errors.Is(err, gone) {
			t.Error(err)
		} else {
			wantKind(t, err, TokenUnavailable)
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		if n := s.requests(); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestAcquireTimeout checks that a request does not last for ever.
func TestAcquireTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: time.Hour}
		start := time.Now()
		_, err := NewTokens(s.acquire, nil).Get(t.Context())
		if wantKind(t, err, TokenUnavailable); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != acquireTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestEndedToken lets the service give tokens that are of no use.
func TestEndedToken(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{0, -time.Second, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s := &source{do: func(int) (string, time.Duration, error) { return "t", life, nil }}
			tokens := NewTokens(s.acquire, nil)
			for range 5 {
				_, err := tokens.Get(t.Context())
				if e := wantKind(t, err, TokenUnavailable); !errors.Is(err, errEnding) || e.RetryAfter <= 0 {
					t.Errorf("%v: %v, %v", life, err, e.RetryAfter)
				}
			}
			if n := s.requests(); n != 1 {
				t.Errorf("%v: %d requests", life, n)
			}
			wait(refreshPause)
			_, _ = tokens.Get(t.Context())
			if n := s.requests(); n != 2 {
				t.Errorf("%v: %d requests", life, n)
			}
		})
	}
}

// TestSameTokenAgain lets a cache beneath give a token that is about to end.
func TestSameTokenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(10 * time.Minute)
		requests := 0
		tokens := NewTokens(func(context.Context, string, bool) (string, time.Time, time.Time, error) {
			requests++
			return "same", end, end.Add(-8 * time.Minute), nil
		}, nil)
		for range 8 * 60 {
			get(t, tokens)
			wait(time.Second)
		}
		if most := 1 + 6*60/int(refreshPause/time.Second); requests > most || requests < 3 {
			t.Errorf("%d requests, want %d at most", requests, most)
		}
	})
}

// TestChallengeDuringRefresh checks that a challenge which comes while a
// request without it is under way is not forgotten.
func TestChallengeDuringRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: time.Second}
		tokens := NewTokens(s.acquire, nil)
		first := get(t, tokens)
		wait(time.Hour - refreshAhead)
		get(t, tokens) // begins the refresh
		second, err := tokens.Renew(t.Context(), first, "{}")
		if err != nil || second.Generation != 2 {
			t.Fatal(second.Generation, err)
		}
		if _, err := tokens.Renew(t.Context(), second, ""); err != nil {
			t.Error(err)
		}
		if want := []string{"", "", "{}"}; fmt.Sprint(s.claims) != fmt.Sprint(want) {
			t.Errorf("claims %q, want %q", s.claims, want)
		}
	})
}

func TestHas(t *testing.T) {
	t.Parallel()
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for text, want := range map[string]Permission{
		jwt(`{"roles":["Other","` + ResetPermission + `"]}`): PermissionGranted,
		jwt(`{"roles":["Other"]}`):                           PermissionMissing,
		jwt(`{"roles":[]}`):                                  PermissionMissing,
		jwt(`{"aud":"x"}`):                                   PermissionMissing, // with nothing granted the claim is absent
		jwt(`{"roles":"` + ResetPermission + `"}`):           PermissionUnknown,
		jwt(`["` + ResetPermission + `"]`):                   PermissionUnknown,
		jwt(`not JSON`):                                      PermissionUnknown,
		"":                                                   PermissionUnknown,
		"opaque":                                             PermissionUnknown,
		"two.parts":                                          PermissionUnknown,
		"not.b*se64.text":                                    PermissionUnknown,
		"....":                                               PermissionUnknown,
	} {
		if got := testToken(text).Has(ResetPermission); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := (Token{}).Has(ResetPermission); got != PermissionUnknown {
		t.Error(got)
	}
}
