package worker

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// heapReserve is memory that is never written to, so that it takes none of the machine's.
// The garbage collector counts it, and so runs less often in a process whose own heap has
// few megabytes. heapEach is about what a tenant adds to that: with many, none is needed.
const (
	heapReserve = 8 << 20
	heapEach    = 40 << 10
	// heapPiece is the size of a piece of it. Of one that begins where the heap has been
	// before, Go clears the whole, and so takes it from the machine.
	heapPiece = 256 << 10
)

// newReserve is the reserve of a process with so many tenants.
func newReserve(tenants int) [][]byte {
	reserve := make([][]byte, max(0, heapReserve-tenants*heapEach)/heapPiece)
	for i := range reserve {
		reserve[i] = make([]byte, heapPiece)
	}
	return reserve
}

const (
	// mostGarbage is how much garbage may gather before it is collected, unless fewestPercent
	// of what is in use is more. When thousands of tenants wake at once, Go's default of
	// defaultPercent takes a quarter more memory, and gains nothing.
	mostGarbage    = 80 << 20
	fewestPercent  = 25
	defaultPercent = 100
	// heapLook is the time between two looks at what is in use.
	heapLook = time.Second
	// heapRest is how long a heap above mostGarbage may go without a collection. What a burst
	// has used would otherwise stay until the collection that Go makes after two minutes.
	heapRest = 15 * time.Second
)

// limitGarbage keeps to mostGarbage until ctx ends, and collects once in each rest what a
// large heap still holds. A percentage that is not Go's default is the operator's (GOGC):
// then it does nothing.
func limitGarbage(ctx context.Context) {
	set := debug.SetGCPercent(defaultPercent)
	defer func() { debug.SetGCPercent(set) }()
	if set != defaultPercent {
		return
	}
	ticker := time.NewTicker(heapLook)
	defer ticker.Stop()
	var last rest
	for now := set; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		seen := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
		metrics.Read(seen)
		inUse := seen[0].Value.Uint64() + seen[1].Value.Uint64()
		if percent := gcPercent(inUse); percent != now {
			now = percent
			debug.SetGCPercent(now)
		}
		if inUse > mostGarbage && last.over(seen[2].Value.Uint64()) {
			runtime.GC()
		}
	}
}

// rest is how long there has been no collection.
type rest struct {
	cycles uint64 // collections so far
	looks  int    // since the last of them was seen
}

// over reports, once in each rest, that there has been no collection for heapRest. The one that
// its caller makes then begins no other rest.
func (r *rest) over(cycles uint64) bool {
	if cycles != r.cycles {
		*r = rest{cycles: cycles}
		return false
	}
	r.looks++
	if r.looks != int(heapRest/heapLook) {
		return false
	}
	r.cycles++
	return true
}

// gcPercent is how much garbage may gather, in percent of what is in use. It has steps, so
// that it is not set for each change.
func gcPercent(inUse uint64) int {
	percent := 100 * mostGarbage / max(1, inUse)
	return int(min(defaultPercent, max(fewestPercent, percent/10*10)))
}
