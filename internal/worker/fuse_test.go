package worker

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
	f := newFuse(pace.Rate{}, 0)
	for i := range 1000 {
		device := fmt.Sprint(i)
		if ok, _ := f.admit(device, fuseStart); !ok {
			t.Fatal("refused")
		}
		f.began(device, fuseStart, fuseStart)
		f.accepted(device, "r", fuseStart)
		if !f.cooling(device, "other", fuseStart).IsZero() {
			t.Fatal("cooling")
		}
	}
	if len(f.begun)+len(f.reset) != 0 || f.horizon() != 0 || !f.blown().IsZero() {
		t.Errorf("%d devices are kept", len(f.begun)+len(f.reset))
	}
}

func TestFuseWindowMoves(t *testing.T) {
	f := newFuse(pace.Rate{N: 2, W: time.Minute}, 0)
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
		if ok, _ := f.admit(c.device, at(c.after)); ok != c.ok {
			t.Errorf("%d: %s at %s: %t", i, c.device, c.after, ok)
		}
	}
	if !f.blown().Equal(at(102 * time.Second)) {
		t.Errorf("blown at %s", f.blown())
	}
	if f.settle(time.Time{}, at(50*time.Second)) {
		t.Error("released by an earlier release")
	}
	if !f.settle(time.Time{}, at(200*time.Second)) || !f.blown().IsZero() {
		t.Error("not released")
	}
	// It counts anew.
	for _, device := range []string{"x", "y"} {
		if ok, _ := f.admit(device, at(201*time.Second)); !ok {
			t.Errorf("%s refused", device)
		}
	}
	if ok, news := f.admit("z", at(202*time.Second)); ok || !news {
		t.Errorf("the third after the release: %t, %t", ok, news)
	}
}

func TestCooling(t *testing.T) {
	f := newFuse(pace.Rate{}, time.Minute)
	f.accepted("d", "r1", fuseStart)
	for name, c := range map[string]struct {
		device, request string
		after           time.Duration
		cooling         bool
	}{
		"another request":  {"d", "r2", 59 * time.Second, true},
		"later":            {"d", "r2", time.Minute, false},
		"the same request": {"d", "r1", time.Second, false},
		"another device":   {"e", "r2", time.Second, false},
	} {
		if got := !f.cooling(c.device, c.request, fuseStart.Add(c.after)).IsZero(); got != c.cooling {
			t.Errorf("%s: %t", name, got)
		}
	}
	f.accepted("d", "r0", fuseStart.Add(-time.Second)) // read late
	if f.cooling("d", "r2", fuseStart.Add(59500*time.Millisecond)).IsZero() {
		t.Error("an older reset took the place of a newer one")
	}
	f.accepted("e", "r", fuseStart.Add(time.Hour))
	if len(f.reset) != 1 {
		t.Errorf("%d devices are kept, want 1", len(f.reset))
	}
}

// TestFuseNeverLetsMoreThrough compares the fuse with a plain count.
func TestFuseNeverLetsMoreThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := pace.Rate{N: rapid.IntRange(1, 4).Draw(t, "limit"), W: time.Minute}
		f := newFuse(limit, 0)
		now, released := fuseStart, time.Time{}
		last := map[string]time.Time{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 9).Draw(t, "release") == 0 {
				released = now
				f.settle(time.Time{}, now)
				continue
			}
			device := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "device")
			ok, _ := f.admit(device, now)
			if ok != f.blown().IsZero() {
				t.Fatalf("admitted %t, blown %s", ok, f.blown())
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
