package graph

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"passcode-worker/internal/graph/graphsim"
)

// source is a token endpoint by hand. Each request is answered by what do
// returns, after it took its time.
type source struct {
	mu     sync.Mutex
	claims []string // of each request
	fresh  []bool
	times  []time.Time
	do     func(n int) (value string, life time.Duration, err error) // n counts from 1
	takes  time.Duration
}

func (s *source) acquire(ctx context.Context, claims string, fresh bool) (string, time.Time, time.Time, error) {
	s.mu.Lock()
	s.claims, s.fresh, s.times = append(s.claims, claims), append(s.fresh, fresh), append(s.times, time.Now())
	n := len(s.claims)
	s.mu.Unlock()
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return "", time.Time{}, time.Time{}, &Error{Kind: TokenUnavailable, Err: ctx.Err()}
		}
	}
	if s.do == nil {
		return fmt.Sprint("token ", n), time.Now().Add(time.Hour), time.Time{}, nil
	}
	value, life, err := s.do(n)
	return value, time.Now().Add(life), time.Time{}, err
}

func (s *source) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.claims)
}

// wait lets fake time pass.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func get(t testing.TB, tokens *Tokens) Token {
	t.Helper()
	token, err := tokens.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestOneRequest lets a crowd ask at once, with real concurrency.
func TestOneRequest(t *testing.T) {
	t.Parallel()
	crowd := make(chan struct{})
	s := &source{do: func(n int) (string, time.Duration, error) {
		<-crowd
		if n == 1 {
			return "", 0, &Error{Kind: TokenUnavailable, Status: 503}
		}
		return "good", time.Hour, nil
	}}
	tokens := NewTokens(s.acquire, nil)
	ask := func(one func() error) {
		var asking, done sync.WaitGroup
		for range 200 {
			asking.Add(1)
			done.Go(func() { asking.Done(); _ = one() })
		}
		asking.Wait()
		crowd <- struct{}{}
		done.Wait()
	}
	ask(func() error {
		_, err := tokens.Get(t.Context())
		if e := asError(t, err); e.Kind != TokenUnavailable || e.Status != 503 {
			t.Error(err)
		}
		return err
	})
	if n := s.requests(); n != 1 {
		t.Fatalf("%d requests", n)
	}
	eventually(t, "the pause after a failure", func() bool {
		tokens.mu.Lock()
		defer tokens.mu.Unlock()
		return time.Now().After(tokens.notUntil)
	})
	ask(func() error {
		token, err := tokens.Get(t.Context())
		if err != nil || token.text() != "good" || token.Generation != 1 {
			t.Error(token.Generation, err)
		}
		return err
	})
	first := get(t, tokens)
	ask(func() error {
		token, err := tokens.Renew(t.Context(), first, "")
		if err != nil || token.Generation != 2 {
			t.Error(token.Generation, err)
		}
		return err
	})
	if n := s.requests(); n != 3 {
		t.Errorf("%d requests", n)
	}
}

func TestCacheAndRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: time.Second}
		tokens := NewTokens(s.acquire, nil)
		start := time.Now()
		first := get(t, tokens)
		if time.Since(start) != time.Second || first.text() != "token 1" {
			t.Errorf("%q after %v", first.text(), time.Since(start))
		}
		wait(time.Hour - refreshAhead - time.Minute)
		if get(t, tokens).Generation != 1 || s.requests() != 1 {
			t.Error("refreshed too early")
		}
		// Close to its end the old one is given at once, and replaced behind.
		wait(time.Minute)
		before := time.Now()
		if token := get(t, tokens); token.Generation != 1 || !time.Now().Equal(before) {
			t.Errorf("generation %d after %v", token.Generation, time.Since(before))
		}
		get(t, tokens)
		wait(2 * time.Second)
		if token := get(t, tokens); token.Generation != 2 || s.requests() != 2 {
			t.Errorf("generation %d, %d requests", token.Generation, s.requests())
		}
		if s.fresh[0] || !s.fresh[1] {
			t.Errorf("fresh: %v", s.fresh)
		}
		// One that nobody asked for while it ended is not given.
		wait(2 * time.Hour)
		before = time.Now()
		if token := get(t, tokens); token.Generation != 3 || time.Since(before) != time.Second {
			t.Errorf("generation %d after %v", token.Generation, time.Since(before))
		}
	})
}

// TestRefreshOn checks the instants at which a token is replaced.
func TestRefreshOn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ life, refresh, want time.Duration }{
		{time.Hour, 0, 55 * time.Minute},
		{24 * time.Hour, 12 * time.Hour, 12 * time.Hour},
		{time.Hour, 2 * time.Hour, 55 * time.Minute}, // after its end: no use
		{5 * time.Minute, 0, 4 * time.Minute},
		{10 * time.Second, 0, 8 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var requests []time.Time
			start := time.Now()
			tokens := NewTokens(func(context.Context, string, bool) (string, time.Time, time.Time, error) {
				now := time.Now()
				requests = append(requests, now)
				var refresh time.Time
				if tc.refresh > 0 {
					refresh = now.Add(tc.refresh)
				}
				return "t", now.Add(tc.life), refresh, nil
			}, nil)
			get(t, tokens)
			wait(tc.want - time.Second)
			get(t, tokens)
			wait(time.Second)
			get(t, tokens)
			synctest.Wait()
			if len(requests) != 2 || requests[1].Sub(start) != tc.want {
				t.Errorf("%v: %v", tc, requests)
			}
		})
	}
}

// TestFailedRefresh checks that a token which is still good is given while its
// replacement fails, and that the endpoint is not pressed.
func TestFailedRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{do: func(n int) (string, time.Duration, error) {
			if n > 1 {
				return "", 0, &Error{Kind: TokenUnavailable, Status: 500, Code: "oops"}
			}
			return "t", time.Hour, nil
		}}
		var ends []error
		tokens := NewTokens(s.acquire, func(err error) { ends = append(ends, err) })
		get(t, tokens)
		start := time.Now()
		for time.Since(start) < time.Hour {
			if token := get(t, tokens); token.Generation != 1 {
				t.Fatalf("generation %d after %v", token.Generation, time.Since(start))
			}
			wait(time.Second)
		}
		if n := s.requests(); n != 1+int(refreshAhead/refreshPause) {
			t.Errorf("%d requests", n)
		}
		_, err := tokens.Get(t.Context())
		if e := wantKind(t, err, TokenUnavailable); e.Code != "oops" {
			t.Error(e)
		}
		if len(ends) != s.requests() || ends[0] != nil || ends[1] == nil {
			t.Errorf("observed %v", ends)
		}
	})
}

func TestRetryAfterOfTokenEndpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{do: func(n int) (string, time.Duration, error) {
			if n == 1 {
				return "", 0, &Error{Kind: TokenUnavailable, Status: 429, RetryAfter: time.Minute}
			}
			return "t", time.Hour, nil
		}}
		tokens := NewTokens(s.acquire, nil)
		start := time.Now()
		for {
			wait(7 * time.Second)
			token, err := tokens.Get(t.Context())
			if err == nil {
				if token.Generation != 1 || s.requests() != 2 {
					t.Errorf("generation %d, %d requests", token.Generation, s.requests())
				}
				break
			}
			// What is left of the time is told each time.
			if e := wantKind(t, err, TokenUnavailable); e.Status != 429 || e.RetryAfter != time.Until(start.Add(67*time.Second)) {
				t.Errorf("%v, %v after %v", e, e.RetryAfter, time.Since(start))
			}
		}
		if pause := s.times[1].Sub(s.times[0]); pause < time.Minute || pause > 67*time.Second {
			t.Errorf("asked again after %v", pause)
		}
	})
}

// TestPauseAfterFailure checks that a failure is told again for a moment
// without a request of its own.
func TestPauseAfterFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("not of the usual type")
		s := &source{do: func(int) (string, time.Duration, error) { return "", 0, failure }}
		tokens := NewTokens(s.acquire, nil)
		_, err := tokens.Get(t.Context())
		if !errors.Is(err, failure) {
			t.Error(err)
		}
		wait(refusalPause - time.Millisecond)
		_, err = tokens.Get(t.Context())
		if e := wantKind(t, err, TokenUnavailable); !errors.Is(err, failure) || e.RetryAfter != time.Millisecond || s.requests() != 1 {
			t.Errorf("%v, %v, %d requests", e, e.RetryAfter, s.requests())
		}
		wait(time.Millisecond)
		_, _ = tokens.Get(t.Context())
		if n := s.requests(); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestRenew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: time.Second}
		tokens := NewTokens(s.acquire, nil)
		first := get(t, tokens)
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				token, err := tokens.Renew(t.Context(), first, `{"nbf":1}`)
				if err != nil || token.Generation != 2 || token.text() != "token 2" {
					t.Error(token.Generation, err)
				}
			})
		}
		// Who does not know of the rejection is not kept waiting.
		if token := get(t, tokens); token.Generation != 1 {
			t.Errorf("generation %d", token.Generation)
		}
		group.Wait()
		// A late rejection of the old one is answered from the cache.
		if token, err := tokens.Renew(t.Context(), first, `{"nbf":1}`); err != nil || token.Generation != 2 {
			t.Error(token.Generation, err)
		}
		if _, err := tokens.Renew(t.Context(), get(t, tokens), ""); err != nil {
			t.Error(err)
		}
		if want := []string{"", `{"nbf":1}`, ""}; fmt.Sprint(s.claims) != fmt.Sprint(want) {
			t.Errorf("claims %q, want %q", s.claims, want)
		}
		if want := []bool{false, true, true}; fmt.Sprint(s.fresh) != fmt.Sprint(want) {
			t.Errorf("fresh %v, want %v", s.fresh, want)
		}
	})
}

// TestClaimsOutliveFailure checks that a challenge which a failed request was
// to meet is met by the next one.
func TestClaimsOutliveFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{do: func(n int) (string, time.Duration, error) {
			if n == 2 {
				return "", 0, &Error{Kind: TokenUnavailable, Status: 503}
			}
			return "t", time.Hour, nil
		}}
		tokens := NewTokens(s.acquire, nil)
		first := get(t, tokens)
		_, err := tokens.Renew(t.Context(), first, "{}")
		wantKind(t, err, TokenUnavailable)
		wait(refusalPause)
		if _, err := tokens.Renew(t.Context(), first, ""); err != nil {
			t.Error(err)
		}
		if want := []string{"", "{}", "{}"}; fmt.Sprint(s.claims) != fmt.Sprint(want) {
			t.Errorf("claims %q, want %q", s.claims, want)
		}
	})
}

// TestRefusedClaims checks that claims which the token service refuses are not
// repeated: else no token would ever be got again.
func TestRefusedClaims(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{do: func(n int) (string, time.Duration, error) {
			if n == 2 {
				return "", 0, &Error{Kind: TokenRefused, Status: 400}
			}
			return "t", time.Hour, nil
		}}
		tokens := NewTokens(s.acquire, nil)
		first := get(t, tokens)
		_, err := tokens.Renew(t.Context(), first, "{}")
		wantKind(t, err, TokenRefused)
		wait(refusalPause)
		second, err := tokens.Renew(t.Context(), first, `{"again":1}`) // Graph challenges the old one again
		if err != nil || second.Generation != 2 {
			t.Error(second.Generation, err)
		}
		// A new challenge is met again.
		if _, err := tokens.Renew(t.Context(), second, `{"a":1}`); err != nil {
			t.Error(err)
		}
		if want := []string{"", "{}", "", `{"a":1}`}; !slices.Equal(s.claims, want) {
			t.Errorf("claims %q, want %q", s.claims, want)
		}
	})
}

// TestRefusedClaimsOfSimulator is the same with the simulated Entra and Graph.
func TestRefusedClaimsOfSimulator(t *testing.T) {
	t.Parallel()
	s := simulate(t, graphsim.Config{RefuseClaims: true})
	acquire, err := simCredential(s).Acquire()
	if err != nil {
		t.Fatal(err)
	}
	tokens := NewTokens(acquire, nil)
	c := newTestClient(t, s.URL(), s.CAs())
	call := within(longEnough)
	call.Token = get(t, tokens)
	_, err = c.Reset(t.Context(), Target{Device: graphsim.FaultDevice(401, 0, 1, 1)}, call)
	e := wantKind(t, err, Unauthorized)
	if e.Claims == "" {
		t.Fatal("no challenge")
	}
	_, err = tokens.Renew(t.Context(), call.Token, e.Claims)
	wantKind(t, err, TokenRefused)
	var next Token
	eventually(t, "a token without the claims", func() bool {
		next, err = tokens.Renew(t.Context(), call.Token, e.Claims)
		return err == nil
	})
	call = within(longEnough)
	call.Token = next
	if _, err := c.Reset(t.Context(), Target{Device: graphsim.GoodDevice(1)}, call); err != nil {
		t.Error(err)
	}
	if n := s.Status().TokenCalls; n != 3 {
		t.Errorf("%d token requests", n)
	}
}

// TestRenewAgain checks that a token which has just replaced a rejected one is
// not replaced again while Graph accepts it, and what that depends on.
func TestRenewAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		tokens := NewTokens(s.acquire, nil)
		renew := func(rejected Token, claims string) Token {
			t.Helper()
			token, err := tokens.Renew(t.Context(), rejected, claims)
			if err != nil || token.Generation != rejected.Generation+1 {
				t.Fatal(token.Generation, err)
			}
			return token
		}
		first := get(t, tokens)
		tokens.Accepted()
		second := renew(first, "") // it had replaced none
		wait(renewPause)
		third := renew(second, "") // that was long ago
		wait(time.Second)
		fourth := renew(third, "{}") // Graph has accepted nothing for a while
		tokens.Accepted()
		before := s.requests()
		wait(time.Second)
		for _, claims := range []string{"", "{}"} {
			_, err := tokens.Renew(t.Context(), fourth, claims)
			if e := wantKind(t, err, TokenUnavailable); !e.Benign || e.RetryAfter != renewPause-time.Second || !errors.Is(err, errJustRenewed) {
				t.Errorf("%#v", e)
			}
		}
		if token, err := tokens.Renew(t.Context(), third, ""); err != nil || token.Generation != 4 {
			t.Error(token.Generation, err) // the newer one is there
		}
		if get(t, tokens).Generation != 4 || s.requests() != before {
			t.Errorf("%d requests", s.requests()-before)
		}
		wait(renewPause - time.Second)
		tokens.Accepted()
		fifth := renew(fourth, "")

		// It is revoked just then: many are rejected, and none accepted.
		again := func(n int) {
			t.Helper()
			for range n {
				if _, err := tokens.Renew(t.Context(), fifth, ""); !errors.Is(err, errJustRenewed) {
					t.Fatal(err)
				}
			}
		}
		again(rejectedRow - 1)
		tokens.Accepted()
		again(rejectedRow - 1)
		sixth := renew(fifth, "")
		if _, err := tokens.Renew(t.Context(), sixth, ""); !errors.Is(err, errJustRenewed) {
			t.Error("the row has not begun anew:", err)
		}
	})
}
