package worker

import (
	"context"
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
)

const (
	// mostGarbage is how much garbage may gather before it is collected, unless fewestPercent
	// of what is in use is more. When thousands of tenants wake at once, Go's default of
	// defaultPercent takes a quarter more memory, and gains nothing.
	mostGarbage    = 80 << 20
	fewestPercent  = 25
	defaultPercent = 100
	// heapLook is the time between two looks at what is in use.
	heapLook = time.Second
)

// limitGarbage keeps to mostGarbage until ctx ends. A percentage that is not Go's default is
// the operator's (GOGC), and stays.
func limitGarbage(ctx context.Context) {
	set := debug.SetGCPercent(defaultPercent)
	defer func() { debug.SetGCPercent(set) }()
	if set != defaultPercent {
		return
	}
	ticker := time.NewTicker(heapLook)
	defer ticker.Stop()
	for now := set; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		inUse := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}}
		metrics.Read(inUse)
		if percent := gcPercent(inUse[0].Value.Uint64() + inUse[1].Value.Uint64()); percent != now {
			now = percent
			debug.SetGCPercent(now)
		}
	}
}

// gcPercent is how much garbage may gather, in percent of what is in use. It has steps, so
// that it is not set for each change.
func gcPercent(inUse uint64) int {
	percent := 100 * mostGarbage / max(1, inUse)
	return int(min(defaultPercent, max(fewestPercent, percent/10*10)))
}
