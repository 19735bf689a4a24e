package worker

import (
	"runtime/debug"
	"testing"
)

// TestHeap: garbage may be as much as what is in use, up to 16 MiB, and 40 % of more.
func TestHeap(t *testing.T) {
	for tenants, want := range map[int]int{1: 100, 100: 100, 409: 100, 500: 81, 800: 51, 1100: 40, 2000: 40, 50_000: 40} {
		if got := gcPercent(tenants); got != want {
			t.Errorf("%d tenants: %d %%, want %d", tenants, got, want)
		}
	}
	for _, c := range []struct{ before, during int }{{100, 40}, {75, 75}, {-1, -1}} {
		old := debug.SetGCPercent(c.before)
		undo := tuneHeap(2000)
		during := debug.SetGCPercent(c.during)
		undo()
		if after := debug.SetGCPercent(old); during != c.during || after != c.before {
			t.Errorf("%d %%: %d with 2,000 tenants, %d afterwards", c.before, during, after)
		}
	}
}
