package pace

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// A few devices that answer 429 for their own sake cost a pause of a second each, but
// not the tenant's rate: also where they are among the first calls of all, and hardly any
// were let in before. Three of 32 there took the seeds 99 and 375 to a minute once.
func TestFewOwnRefusals(t *testing.T) {
	t.Parallel()
	const calls, own = 700, 14
	for seed := uint64(80); seed <= 375; seed++ {
		if seed == 120 || testing.Short() && seed == 82 {
			seed = 375
		}
		for _, h := range []header{none, seconds} {
			synctest.Test(t, func(t *testing.T) {
				s := &server{kind: sliding, n: 300, w: 5 * time.Second, header: h, own: map[int]bool{}}
				for _, i := range rand.New(rand.NewPCG(seed, 99)).Perm(calls)[:own] {
					s.own[i] = true
				}
				d := drain{callers: 32, jitter: true, seed: seed, calls: calls, server: s}
				if d.run(t, New(Rate{s.n, s.w}, time.Hour)); d.took > 30*time.Second {
					t.Errorf("%s, seed %d: %s", h, seed, d.took)
				}
			})
		}
	}
}
