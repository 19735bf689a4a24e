package graphsim_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/graph/graphsim"
)

func TestDeviceIDs(t *testing.T) {
	if got, want := graphsim.FaultDevice(429, 2, 1, 7), "dead0429-0002-0001-0000-000000000007"; got != want {
		t.Errorf("FaultDevice: %s, want %s", got, want)
	}
	for _, id := range []string{graphsim.FaultDevice(605, 9999, 9, 1<<40), graphsim.GoodDevice(12345)} {
		if _, err := uuid.Parse(id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if strings.HasPrefix(graphsim.GoodDevice(0), "dead") || graphsim.GoodDevice(1) == graphsim.GoodDevice(2) {
		t.Error("GoodDevice is not good")
	}
}

// Every status of the scheme, for both protocols: what is answered, whether
// the reset was executed, and that the device behaves well afterwards.
func TestStatusFaults(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		s := start(t, graphsim.Config{})
		c := newClient(t, s, h2)
		n := 0
		for _, code := range []int{200, 202, 302, 307, 400, 401, 403, 404, 405, 408, 409, 410, 415, 422, 423, 429, 500, 501, 502, 503, 504, 507, 509, 599} {
			for _, variant := range []int{0, 1, 8, 9} {
				n++
				d := graphsim.FaultDevice(code, 2, variant, n)
				doing := variant == 1 && (code == 408 || code < 400 || code >= 500 && code != 503)
				for range 2 {
					a := c.wantStatus(d, code)
					switch {
					case variant == 8 && a.body != "":
						t.Errorf("%s: body %q", d, a.body)
					case variant == 9 && !strings.HasPrefix(a.body, "<html>"):
						t.Errorf("%s: body %q", d, a.body)
					case variant < 8 && code >= 400:
						if e := graphError(t, a); e.Code == "" {
							t.Errorf("%s: %s", d, a.body)
						}
					}
					if a.header.Get("request-id") == "" || a.header.Get("client-request-id") == "" {
						t.Errorf("%s: headers %v", d, a.header)
					}
					if (code/100 == 3) != (a.header.Get("Location") != "") {
						t.Errorf("%s: Location %q", d, a.header.Get("Location"))
					}
					if last := lastCall(t, s); last.Executed != doing || last.Status != code {
						t.Errorf("%s: logged %+v", d, last)
					}
				}
				c.wantStatus(d, http.StatusNoContent)
				want := 1
				if doing {
					want = 3
				}
				if s.Resets(d) != want {
					t.Errorf("%s: %d resets, want %d", d, s.Resets(d), want)
				}
			}
		}
		// Without a number of times the fault stays.
		d := graphsim.FaultDevice(500, 0, 0, 1)
		for range 5 {
			c.wantStatus(d, 500)
		}
		// Codes outside of the scheme, and digits that are none, are no fault.
		for _, id := range []string{graphsim.FaultDevice(600, 0, 0, 1), graphsim.FaultDevice(606, 0, 0, 1), graphsim.FaultDevice(100, 0, 0, 1),
			"dead0a00-0000-0000-0000-000000000000"} {
			c.wantStatus(id, http.StatusNoContent)
		}
		noViolations(t, s)
	})
}

func TestErrorBodies(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	for code, want := range map[int]string{400: "BadRequest", 401: "UnknownError", 403: "Forbidden", 404: "ResourceNotFound", 409: "Conflict", 500: "InternalServerError"} {
		d := graphsim.FaultDevice(code, 0, 0, 1)
		e := graphError(t, c.post(d))
		var inner struct {
			Version   int `json:"_version"`
			Message   string
			ErrorCode string
		}
		if err := json.Unmarshal([]byte(e.Message), &inner); err != nil {
			t.Fatalf("%d: %v in %q", code, err, e.Message)
		}
		if e.Code != want || inner.Version != 3 || !strings.Contains(inner.Message, "managedDevices('"+d+"')") {
			t.Errorf("%d: %+v", code, e)
		}
		if (code == 401) != (inner.ErrorCode == "Forbidden") {
			t.Errorf("%d: ErrorCode %q", code, inner.ErrorCode)
		}
	}
	if e := graphError(t, c.post(graphsim.FaultDevice(429, 0, 0, 1))); e.Code != "TooManyRequests" || e.Message != "An error has occurred." || e.Details == nil {
		t.Errorf("429: %+v", e)
	}
}

func TestUnknownDevice(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	d := graphsim.FaultDevice(404, 1, 0, 1)
	if a := c.get(d); a.status != 404 {
		t.Errorf("GET: %d", a.status)
	}
	c.wantStatus(d, 404)
	if a := c.get(d); a.status != 200 {
		t.Errorf("GET after the fault: %d", a.status)
	}
	c.wantStatus(d, 204)
}

func TestRetryAfterVariants(t *testing.T) {
	const ahead = -time.Hour
	for _, code := range []int{429, 503} {
		s := start(t, graphsim.Config{ClockOffset: ahead})
		c := newClient(t, s, true)
		for variant, want := range map[int]string{0: "", 1: "1", 2: "0.9", 4: "86400"} {
			if a := c.wantStatus(graphsim.FaultDevice(code, 1, variant, 1), code); a.header.Get("Retry-After") != want {
				t.Errorf("%d variant %d: %q, want %q", code, variant, a.header.Get("Retry-After"), want)
			}
		}
		asked := time.Now().Add(ahead)
		text := c.wantStatus(graphsim.FaultDevice(code, 1, 3, 1), code).header.Get("Retry-After")
		at, err := http.ParseTime(text)
		if wait := at.Sub(asked); err != nil || wait < 2*time.Second || wait > 4*time.Second {
			t.Errorf("%d: %q, %v: %v ahead", code, text, err, wait)
		}
	}
}

func TestSentDuringRetryAfter(t *testing.T) {
	for variant, wait := range map[int]time.Duration{1: time.Second, 2: 900 * time.Millisecond, 3: 2 * time.Second, 4: 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s, c := newDirect(t, graphsim.Config{TokenLifetime: 48 * time.Hour})
			c.wantStatus(graphsim.FaultDevice(503, 1, variant, 1), 503)
			at := func(d time.Duration, want bool) {
				t.Helper()
				c.wantStatus(graphsim.GoodDevice(1), 204)
				if lastCall(t, s).SentDuringRetryAfter != want {
					t.Errorf("variant %d: a call after %v is noted: %v", variant, d, !want)
				}
			}
			at(0, false)
			time.Sleep(50 * time.Millisecond) // fake time
			at(50*time.Millisecond, false)    // it may have been under way
			time.Sleep(time.Millisecond)      // fake time
			at(51*time.Millisecond, true)
			time.Sleep(wait - 52*time.Millisecond) // fake time
			at(wait-time.Millisecond, true)
			time.Sleep(time.Millisecond) // fake time
			at(wait, false)
			if n := s.Status().DuringRetry; n != 2 {
				t.Errorf("variant %d: %d calls", variant, n)
			}
		})
	}
}

// A second announcement makes the time longer, never shorter.
func TestAnnouncementsAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{})
		c.wantStatus(graphsim.FaultDevice(503, 0, 3, 1), 503) // 2 s
		time.Sleep(500 * time.Millisecond)                    // fake time
		c.wantStatus(graphsim.FaultDevice(429, 0, 1, 1), 429) // 1 s: over before
		time.Sleep(1400 * time.Millisecond)                   // fake time
		c.wantStatus(graphsim.FaultDevice(429, 0, 1, 1), 429) // 1 s: to 2.9 s
		time.Sleep(990 * time.Millisecond)                    // fake time
		c.wantStatus(graphsim.GoodDevice(1), 204)
		if !lastCall(t, s).SentDuringRetryAfter {
			t.Error("the longer time is not kept")
		}
		time.Sleep(10 * time.Millisecond) // fake time
		c.wantStatus(graphsim.GoodDevice(1), 204)
		if lastCall(t, s).SentDuringRetryAfter {
			t.Error("the time does not end")
		}
	})
}

func TestChallenge(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	check := func(a answer) {
		t.Helper()
		v := a.header.Get("WWW-Authenticate")
		_, rest, ok := strings.Cut(v, `error="insufficient_claims", claims="`)
		text, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(rest, `"`))
		var claims map[string]map[string]any
		if !ok || err != nil || json.Unmarshal(text, &claims) != nil || claims["access_token"]["nbf"] == nil {
			t.Errorf("WWW-Authenticate: %q", v)
		}
	}
	check(c.wantStatus(graphsim.FaultDevice(401, 1, 1, 1), 401))
	if v := c.wantStatus(graphsim.FaultDevice(401, 1, 0, 1), 401).header.Get("WWW-Authenticate"); !strings.Contains(v, "urn:intune:service") {
		t.Errorf("WWW-Authenticate: %q", v)
	}
	good := graphsim.GoodDevice(1)
	s.RevokeTokens()
	if a := c.wantStatus(good, 401); strings.Contains(a.header.Get("WWW-Authenticate"), "claims=") {
		t.Errorf("a challenge that was not asked for: %v", a.header)
	}
	c.login(graphsim.DefaultTenantID)
	c.wantStatus(good, 204)
	s.RevokeTokensWithChallenge()
	check(c.wantStatus(good, 401))
	if a := c.get(good); a.status != 401 {
		t.Errorf("GET with a revoked token: %d", a.status)
	}
	c.login(graphsim.DefaultTenantID)
	c.wantStatus(good, 204)
	if s.Resets(good) != 2 {
		t.Errorf("%d resets", s.Resets(good))
	}
}

func TestTransportFaults(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		for _, tc := range []struct {
			code, variant int
			executed      int
			cut           bool
		}{{601, 0, 0, true}, {602, 0, 1, true}, {601, 1, 0, false}, {602, 1, 1, false}} {
			t.Run(fmt.Sprint(tc.code, "-", tc.variant), func(t *testing.T) {
				s := start(t, graphsim.Config{})
				c := newClient(t, s, h2)
				c.wantStatus(graphsim.GoodDevice(1), 204)
				remote := lastCall(t, s).Remote
				d := graphsim.FaultDevice(tc.code, 1, tc.variant, 1)
				a, err := c.send(c.request(context.Background(), http.MethodPost, resetPath(d)))
				if err == nil {
					t.Fatalf("answered: %+v", a)
				}
				if last := lastCall(t, s); last.Status != 0 || last.Device != d || last.Executed != (tc.executed == 1) {
					t.Errorf("logged %+v", last)
				}
				if s.Resets(d) != tc.executed {
					t.Errorf("%d resets", s.Resets(d))
				}
				c.wantStatus(d, 204)
				same := lastCall(t, s).Remote == remote
				if wantSame := h2 && !tc.cut; same != wantSame {
					t.Errorf("same connection: %v, want %v", same, wantSame)
				}
			})
		}
		t.Run("silence", func(t *testing.T) {
			s := start(t, graphsim.Config{})
			c := newClient(t, s, h2)
			for executed, code := range []int{604, 603} {
				d := graphsim.FaultDevice(code, 1, 0, 1)
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				_, err := c.send(c.request(ctx, http.MethodPost, resetPath(d)))
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d: %v", code, err)
				}
				if s.Resets(d) != executed {
					t.Errorf("%d: %d resets", code, s.Resets(d))
				}
				c.wantStatus(d, 204)
			}
		})
	})
}

func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newDirect(t, graphsim.Config{Latency: time.Second})
		began := time.Now()
		c.wantStatus(graphsim.FaultDevice(605, 1, 0, 1), 204)
		if took := time.Since(began); took != 3*time.Second || s.Status().Executed != 1 {
			t.Errorf("took %v, %+v", took, s.Status())
		}
		c.wantStatus(graphsim.FaultDevice(605, 1, 0, 1), 204)
		if took := time.Since(began); took != 4*time.Second || s.Status().Executed != 2 {
			t.Errorf("took %v, %+v", took, s.Status())
		}
	})
}

// A cut is a reset of the TCP connection, and takes other calls with it.
func TestCutTakesOthersWithIt(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	other := make(chan error, 1)
	silent := graphsim.FaultDevice(603, 0, 0, 1)
	go func() {
		_, err := c.send(c.request(context.Background(), http.MethodPost, resetPath(silent)))
		other <- err
	}()
	eventually(t, "the silent call", func() bool { return s.Resets(silent) == 1 })
	if _, err := c.send(c.request(context.Background(), http.MethodPost, resetPath(graphsim.FaultDevice(601, 1, 0, 1)))); err == nil {
		t.Error("the cut call was answered")
	}
	select {
	case err := <-other:
		if err == nil {
			t.Errorf("the other call: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the other call goes on")
	}
}

func TestRedirectThatIsFollowed(t *testing.T) {
	s := start(t, graphsim.Config{})
	c := newClient(t, s, true)
	c.http.CheckRedirect = nil
	d := graphsim.FaultDevice(307, 1, 0, 1)
	if a := c.post(d); a.status != http.StatusBadRequest || s.Resets(d) != 0 {
		t.Errorf("followed: %d", a.status)
	}
	if !contains(s.Violations(), "path: a query") {
		t.Errorf("violations: %v", s.Violations())
	}
}
