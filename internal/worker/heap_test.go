package worker

import (
	"context"
	"runtime"
	"runtime/debug"
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
