package worker

import (
	"runtime"
	"runtime/debug"
)

const (
	// heapReserve is memory that is never written to, so that it takes none of the machine's.
	// The garbage collector counts it, and so runs less often in a process whose own heap has
	// few megabytes.
	heapReserve = 8 << 20
	// heapEach is about what a tenant has on the heap once it has had work.
	heapEach = 40 << 10
	// heapGarbage is how much garbage may gather, at least, before it is collected.
	heapGarbage = 16 << 20
	// fewestPercent is what garbage may be of a large heap. When all of 2,000 tenants wake
	// at once, less gains nothing, and Go's default of 100 takes a sixth more memory.
	fewestPercent, defaultPercent = 40, 100
)

// tuneHeap sets how much garbage gathers before it is collected, for so many tenants, and
// returns what undoes that. A percentage that is not Go's default is the operator's (GOGC),
// and stays.
func tuneHeap(tenants int) (undo func()) {
	reserve := make([]byte, max(0, heapReserve-tenants*heapEach))
	before := debug.SetGCPercent(gcPercent(tenants))
	if before != defaultPercent {
		debug.SetGCPercent(before)
	}
	return func() {
		debug.SetGCPercent(before)
		runtime.KeepAlive(reserve)
	}
}

// gcPercent is how much garbage there may be in percent of what is in use.
func gcPercent(tenants int) int {
	return min(defaultPercent, max(fewestPercent, 100*heapGarbage/(max(1, tenants)*heapEach)))
}
