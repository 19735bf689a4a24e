package pace

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// A few devices that answer 429 for their own sake cost a pause of a second each, but
// not the tenant's rate: also where they are among the first calls of all, and hardly any
// were let in before, and where few calls are under way, so that two in a row mean little.
// Such devices took some of these seeds to more than a minute once.
func TestFewOwnRefusals(t *testing.T) {
	t.Parallel()
	const calls, own = 700, 14
	seeds := []uint64{99, 375}
	for seed := uint64(80); seed < 98 && !testing.Short(); seed++ {
		seeds = append(seeds, seed)
	}
	for _, seed := range seeds {
		for _, c := range []struct {
			header  header
			callers int
			most    time.Duration
		}{{none, 32, 25 * time.Second}, {seconds, 32, 30 * time.Second}, {none, 4, 50 * time.Second}, {seconds, 4, 50 * time.Second}} {
			synctest.Test(t, func(t *testing.T) {
				s := &server{kind: sliding, n: 300, w: 5 * time.Second, header: c.header, own: map[int]bool{}}
				for _, i := range rand.New(rand.NewPCG(seed, 99)).Perm(calls)[:own] {
					s.own[i] = true
				}
				d := drain{callers: c.callers, jitter: true, seed: seed, calls: calls, server: s}
				if d.run(t, New(Rate{s.n, s.w}, time.Hour)); d.took > c.most {
					t.Errorf("%s, %d callers, seed %d: %s", c.header, c.callers, seed, d.took)
				}
			})
		}
	}
}
