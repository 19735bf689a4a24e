package pace

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// ideal is how long 1,000 calls take within 200 per 20 s, at best: four windows
// and one burst of 200 by 32 callers.
const ideal = 4*20*time.Second + 7*latency

func TestThousandCalls(t *testing.T) {
	t.Parallel()
	granted := Rate{200, 20 * time.Second}
	for _, tc := range []struct {
		name    string
		rate    Rate
		header  header
		ratio   float64
		refused float64
	}{
		{"exact", granted, none, .97, .5},
		{"exact", granted, seconds, .97, .5},
		{"ten times", Rate{2000, 20 * time.Second}, seconds, .95, 5},
		{"ten times", Rate{2000, 20 * time.Second}, decimal, .95, 5},
		{"ten times", Rate{2000, 20 * time.Second}, short, .93, 8},
		{"ten times", Rate{2000, 20 * time.Second}, none, .93, 8},
		{"no rate", Rate{}, seconds, .95, 5},
		{"no rate", Rate{}, none, .93, 8},
	} {
		for _, k := range []kind{sliding, fixed, bucket} {
			for _, countRefused := range []bool{false, true} {
				if k == fixed && countRefused {
					continue // it makes no difference
				}
				t.Run(fmt.Sprintf("%s/%s/%s/%t", tc.name, tc.header, k, countRefused), func(t *testing.T) {
					const seeds = 20
					least, most := math.Inf(1), 0.
					var ratios, shares float64
					for seed := range uint64(seeds) {
						synctest.Test(t, func(t *testing.T) {
							rnd := rand.New(rand.NewPCG(seed, 7))
							d := drain{rate: tc.rate, callers: 32, jitter: seed%2 == 1, seed: seed, calls: 1000,
								server: &server{kind: k, n: granted.N, w: granted.W, countRefused: countRefused, header: tc.header,
									phase: time.Duration(rnd.Int64N(int64(granted.W)))}}
							d.run(t, New(tc.rate, time.Hour))
							ratio := ideal.Seconds() / d.took.Seconds()
							ratios += ratio / seeds
							shares += d.share() / seeds
							least, most = min(least, ratio), max(most, d.share())
							if d.inPause > 0 {
								t.Errorf("seed %d: %d calls in a pause", seed, d.inPause)
							}
						})
					}
					t.Logf("ratio %.3f, least %.3f; refused %.2f %%, most %.2f %%", ratios, least, shares, most)
					if least < tc.ratio || most > tc.refused {
						t.Errorf("least ratio %.3f, want %.3f; most refused %.2f %%, want %.2f %%", least, tc.ratio, most, tc.refused)
					}
				})
			}
		}
	}
}
