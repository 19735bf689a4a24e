package guard

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"passcode-worker/internal/pace"
)

var fuseStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestFuseIsOff where nothing is configured: it keeps nothing.
func TestFuseIsOff(t *testing.T) {
	f := NewFuse(pace.Rate{})
	for i := range 1000 {
		device := fmt.Sprint(i)
		if ok, _ := f.Admit(device, fuseStart); !ok {
			t.Fatal("refused")
		}
		f.Began(device, fuseStart, fuseStart)
	}
	if len(f.begun) != 0 || f.Horizon() != 0 || f.On() || !f.Blown().IsZero() {
		t.Errorf("%d devices are kept", len(f.begun))
	}
}

func TestFuseWindowMoves(t *testing.T) {
	f := NewFuse(pace.Rate{N: 2, W: time.Minute})
	at := func(d time.Duration) time.Time { return fuseStart.Add(d) }
	for i, c := range []struct {
		device string
		after  time.Duration
		ok     bool
	}{
		{"a", 0, true}, {"b", 30 * time.Second, true}, {"a", 31 * time.Second, true}, {"b", 40 * time.Second, true},
		// a was begun again at 31 s, so it is still within the window.
		{"c", 100 * time.Second, true}, {"d", 101 * time.Second, true}, {"e", 102 * time.Second, false}, {"c", 103 * time.Second, false},
	} {
		if ok, _ := f.Admit(c.device, at(c.after)); ok != c.ok {
			t.Errorf("%d: %s at %s: %t", i, c.device, c.after, ok)
		}
	}
	if !f.Blown().Equal(at(102 * time.Second)) {
		t.Errorf("blown at %s", f.Blown())
	}
	if f.Settle(time.Time{}, at(50*time.Second)) {
		t.Error("released by an earlier release")
	}
	if !f.Settle(time.Time{}, at(200*time.Second)) || !f.Blown().IsZero() {
		t.Error("not released")
	}
	// It counts anew.
	for _, device := range []string{"x", "y"} {
		if ok, _ := f.Admit(device, at(201*time.Second)); !ok {
			t.Errorf("%s refused", device)
		}
	}
	if ok, news := f.Admit("z", at(202*time.Second)); ok || !news {
		t.Errorf("the third after the release: %t, %t", ok, news)
	}
}

// TestFuseNeverLetsMoreThrough compares the fuse with a plain count.
func TestFuseNeverLetsMoreThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := pace.Rate{N: rapid.IntRange(1, 4).Draw(t, "limit"), W: time.Minute}
		f := NewFuse(limit)
		now, released := fuseStart, time.Time{}
		last := map[string]time.Time{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 9).Draw(t, "release") == 0 {
				released = now
				f.Settle(time.Time{}, now)
				continue
			}
			device := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "device")
			ok, _ := f.Admit(device, now)
			if ok != f.Blown().IsZero() {
				t.Fatalf("admitted %t, blown %s", ok, f.Blown())
			}
			if ok {
				last[device] = now
			}
			n := 0
			for _, at := range last {
				if now.Sub(at) < limit.W && at.After(released) {
					n++
				}
			}
			if n > limit.N {
				t.Fatalf("%d devices within the window, %d allowed", n, limit.N)
			}
			if len(f.begun) > limit.N {
				t.Fatalf("%d devices are kept", len(f.begun))
			}
		}
	})
}
