package consume

import (
	"errors"
	"testing"
	"time"
)

// TestHealth follows a consumer through refusals and silence.
func TestHealth(t *testing.T) {
	t.Parallel()
	const patience = 10 * time.Second
	signs := 0
	begun := time.Unix(1000, 0)
	h := health{alive: func() { signs++ }, seen: begun}
	refused := errors.New("refused")
	lost := func(asked bool, after time.Duration, want error) {
		t.Helper()
		if got := h.lost(asked, begun.Add(after), patience); !errors.Is(got, want) {
			t.Errorf("after %s: %v, want %v", after, got, want)
		}
	}
	lost(true, patience, nil)
	lost(true, patience+1, errSilent)
	lost(false, time.Hour, nil) // nothing was asked for
	var pauses []time.Duration
	for range 80 {
		h.fail(refused, begun)
		pauses = append(pauses, h.next.Sub(begun))
	}
	for i, pause := range pauses {
		if i > 0 && pause < pauses[i-1] || pause < tryPauseMin || pause > tryPauseMax {
			t.Errorf("pause %d is %s", i, pause)
		}
	}
	if pauses[0] != tryPauseMin || pauses[79] != tryPauseMax {
		t.Errorf("the pauses are %v", pauses)
	}
	lost(false, patience, nil)
	lost(false, patience+1, refused)
	now := begun.Add(time.Minute)
	h.lives(now)
	if signs != 1 || !h.next.IsZero() || !h.doubt.IsZero() {
		t.Errorf("%d signs of life, %+v", signs, h)
	}
	lost(true, time.Minute+patience, nil)
	lost(true, time.Minute+patience+1, errSilent)
	h.restart(now)
	h.suspect(now.Add(time.Second))
	if signs != 1 || !h.doubt.Equal(now) {
		t.Errorf("%d signs of life; in doubt since %s", signs, h.doubt)
	}
	h.gone = true
	lost(false, time.Minute, errDeleted)
}

// TestRenewal tells when the pin is to be renewed.
func TestRenewal(t *testing.T) {
	t.Parallel()
	const every = 2 * time.Second
	begun := time.Unix(1000, 0)
	at := func(after time.Duration) time.Time { return begun.Add(after) }
	for what, c := range map[string]struct {
		pin     string
		renewed time.Duration
		left    int
		seen    time.Duration
		want    time.Duration // 0: never
	}{
		"no pin":                 {"", 0, 1, 0, 0},
		"nothing asked for":      {"x", 0, 0, time.Second, every},
		"a pull was seen":        {"x", 0, 1, time.Second, time.Second + quiet},
		"a pull was seen before": {"x", time.Second, 1, time.Second, time.Second + every},
		"a pull was seen later":  {"x", 0, 1, every, every},
	} {
		n := tenure{group: group, ttl: 3 * every, pin: c.pin, renewed: at(c.renewed)}
		want := time.Time{}
		if c.want > 0 {
			want = at(c.want)
		}
		if got := n.due(pull{left: c.left, seen: at(c.seen)}); !got.Equal(want) {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
}
