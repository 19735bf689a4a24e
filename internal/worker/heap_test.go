package worker

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

// TestGCPercent: garbage may be as much as what is in use up to 80 MiB, and a quarter of more
// than 320 MiB.
func TestGCPercent(t *testing.T) {
	for mib, want := range map[uint64]int{0: 100, 4: 100, 80: 100, 81: 90, 120: 60, 200: 40, 300: 25, 4000: 25} {
		if got := gcPercent(mib << 20); got != want {
			t.Errorf("%d MiB: %d %%, want %d", mib, got, want)
		}
	}
}

// TestLimitGarbage lowers Go's default where much is in use, leaves a percentage that an
// operator has set, and restores either in the end.
func TestLimitGarbage(t *testing.T) {
	inUse := make([]byte, 2*mostGarbage)
	defer runtime.KeepAlive(inUse)
	runtime.GC()
	for _, before := range []int{defaultPercent, 75, -1} {
		synctest.Test(t, func(t *testing.T) {
			old := debug.SetGCPercent(before)
			ctx, cancel := context.WithCancel(t.Context())
			go limitGarbage(ctx)
			time.Sleep(5 * heapLook) // fake time
			during := debug.SetGCPercent(before)
			cancel()
			synctest.Wait()
			right := during == before
			if before == defaultPercent { // what else is in use depends on the tests before
				right = during >= fewestPercent && during <= defaultPercent/2
			}
			if after := debug.SetGCPercent(old); !right || after != before {
				t.Errorf("%d %%: %d while it runs, %d afterwards", before, during, after)
			}
		})
	}
}

// TestRestingHeap collects once what a large heap still holds that nobody uses any more, and
// leaves a rest after that to Go.
func TestRestingHeap(t *testing.T) {
	inUse := make([]byte, 2*mostGarbage)
	runtime.GC() // from here on it counts as in use
	runtime.KeepAlive(inUse)
	collections := func() uint64 {
		seen := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
		metrics.Read(seen)
		return seen[0].Value.Uint64()
	}
	synctest.Test(t, func(t *testing.T) {
		defer debug.SetGCPercent(debug.SetGCPercent(defaultPercent))
		go limitGarbage(t.Context())
		before := collections()
		time.Sleep(heapRest - heapLook) // fake time
		if n := collections() - before; n != 0 {
			t.Fatalf("%d collections before the rest was over", n)
		}
		time.Sleep(3 * heapLook) // fake time
		if n := collections() - before; n != 1 {
			t.Errorf("%d collections when the rest was over", n)
		}
		time.Sleep(10 * heapRest) // fake time
		if n := collections() - before; n != 1 {
			t.Errorf("%d collections after that: what is in use is small", n)
		}
	})
}

// TestRest: a rest is over once, after so many looks that saw no other collection.
func TestRest(t *testing.T) {
	const looks = int(heapRest / heapLook)
	var r rest
	count := func(n int, cycles uint64) (over int) {
		for range n {
			if r.over(cycles) {
				over++
			}
		}
		return over
	}
	for i, step := range []struct {
		looks  int
		cycles uint64
		over   int
	}{
		{looks, 5, 0},            // the first look saw a collection
		{1, 5, 1},                // and now it has been long enough
		{10 * looks, 6, 0},       // the caller's own collection is no new beginning
		{looks, 7, 0},            // another one is
		{2, 7, 1},                //
		{looks / 2, 9, 0},        // no rest while there are collections
		{looks/2 + looks, 10, 1}, //
	} {
		if over := count(step.looks, step.cycles); over != step.over {
			t.Errorf("step %d: over %d times, want %d", i, over, step.over)
		}
	}
}
