package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestClock gives a clock readings of the server's, one after another. The skew
// is of minutes, so that no error hides it.
func TestClock(t *testing.T) {
	type look struct {
		after         time.Duration // since the look before
		ahead, within time.Duration
	}
	const skew = -5 * time.Minute
	for name, c := range map[string]struct {
		looks []look
		want  time.Duration
	}{
		"none":                          {nil, 0},
		"the first, as slow as it may":  {[]look{{0, skew + 4*time.Second, 5 * time.Second}}, skew + 4*time.Second},
		"a quicker one is better":       {[]look{{0, skew + 2*time.Second, 3 * time.Second}, {time.Second, skew, time.Millisecond}}, skew},
		"a slower one is not":           {[]look{{0, skew, time.Millisecond}, {time.Second, skew + 2*time.Second, 3 * time.Second}}, skew},
		"one as quick is newer":         {[]look{{0, skew, time.Millisecond}, {time.Second, skew + time.Millisecond, time.Millisecond}}, skew + time.Millisecond},
		"a slower one, after a day":     {[]look{{0, skew, time.Millisecond}, {24 * time.Hour, skew + 10*time.Second, 20 * time.Second}}, skew + 10*time.Second},
		"a clock was set":               {[]look{{0, skew, time.Millisecond}, {time.Second, 0, 3 * time.Second}}, 0},
		"a clock was set a little":      {[]look{{0, skew, time.Millisecond}, {time.Second, skew + time.Second, 500 * time.Millisecond}}, skew + time.Second},
		"within what either may be off": {[]look{{0, skew, 400 * time.Millisecond}, {time.Second, skew + 900*time.Millisecond, 501 * time.Millisecond}}, skew},
		"a slower one, after a minute":  {[]look{{0, skew, time.Millisecond}, {time.Minute, skew + 60*time.Millisecond, 20 * time.Millisecond}}, skew + 60*time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			clock := &Clock{}
			for _, l := range c.looks {
				time.Sleep(l.after) // fake time
				clock.Set(l.ahead, l.within)
			}
			if got := clock.Ahead(); got != c.want {
				t.Errorf("%s: %s ahead, want %s", name, got, c.want)
			}
			now := time.Now()
			if back := clock.Local(clock.Remote(now)); !back.Equal(now) || !clock.Remote(now).Equal(now.Add(c.want)) {
				t.Errorf("%s: there and back %s, there %s", name, back.Sub(now), clock.Remote(now).Sub(now))
			}
		})
	}
}

// TestWithin: a reading is as wrong as it may have been, and ever more with time.
func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &Clock{}
		if got := clock.Within(); got != 0 {
			t.Errorf("without a reading %s", got)
		}
		clock.Set(-5*time.Minute, 20*time.Millisecond)
		if got := clock.Within(); got != 20*time.Millisecond {
			t.Errorf("at once %s", got)
		}
		time.Sleep(time.Minute) // fake time
		if got := clock.Within(); got != 20*time.Millisecond+60*drift {
			t.Errorf("after a minute %s", got)
		}
	})
}
