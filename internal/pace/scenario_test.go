package pace

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// change of a server's quota.
type change struct {
	at time.Duration
	n  int
}

// scenario is a backlog that never ends, and a server that does not stay as it is.
type scenario struct {
	name    string
	changes []change
	// other is how many calls per window another client makes, from otherFrom
	// on, evenly spread and whatever the answers.
	other     int
	otherFrom time.Duration
	until     time.Duration
	// The least that is got of what the server would have granted, and the most
	// that is refused, in percent, for a rate configured exactly and for one
	// that is ten times too high, or none.
	ratio, ratioBlind     float64
	refused, refusedBlind float64
}

var scenarios = []scenario{
	{name: "steady", until: 600 * time.Second},
	{name: "halves, doubles", changes: []change{{200 * time.Second, 100}, {400 * time.Second, 200}}, until: 800 * time.Second},
	{name: "halves", changes: []change{{190 * time.Second, 100}}, until: 600 * time.Second},
	{name: "another client", other: 140, until: 600 * time.Second},
	{name: "another comes", other: 140, otherFrom: 210 * time.Second, until: 800 * time.Second},
}

// granted is what the server could have granted until the end.
func (sc scenario) granted(r Rate) float64 {
	sum, from, n := 0., time.Duration(0), r.N
	for _, c := range append(sc.changes, change{at: sc.until}) {
		sum += float64(n) * float64(c.at-from) / float64(r.W)
		from, n = c.at, c.n
	}
	return sum
}

func (sc scenario) run(t *testing.T, d *drain) (others int) {
	d.until = sc.until
	p := New(d.rate, time.Hour)
	stop := make(chan struct{})
	go func() {
		at := newClock()
		for _, c := range sc.changes {
			at.sleepUntil(c.at)
			d.server.set(c.n)
		}
	}()
	if sc.other > 0 {
		go func() {
			c := newClock()
			c.sleepUntil(sc.otherFrom)
			for c.now() < sc.until {
				if ok, _ := d.server.take(c.now()); ok {
					others++
				}
				time.Sleep(d.server.w / time.Duration(sc.other)) // fake time
			}
		}()
	}
	d.run(t, p)
	close(stop)
	time.Sleep(time.Minute) // fake time
	return others
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	granted := Rate{200, 20 * time.Second}
	for _, sc := range scenarios {
		for _, rate := range []Rate{granted, {2000, 20 * time.Second}, {}} {
			for _, k := range []kind{sliding, fixed, bucket} {
				for _, h := range []header{none, seconds, short} {
					for _, countRefused := range []bool{false, true} {
						if k == fixed && countRefused {
							continue // it makes no difference
						}
						name := fmt.Sprintf("%s/%s/%s/%s/%t", sc.name, rate, k, h, countRefused)
						t.Run(name, func(t *testing.T) {
							const seeds = 4
							least, most := math.Inf(1), 0.
							var ratios, shares float64
							for seed := range uint64(seeds) {
								synctest.Test(t, func(t *testing.T) {
									rnd := rand.New(rand.NewPCG(seed, 7))
									d := &drain{rate: rate, callers: 32, jitter: seed%2 == 1, seed: seed,
										server: &server{kind: k, n: granted.N, w: granted.W, countRefused: countRefused, header: h,
											phase: time.Duration(rnd.Int64N(int64(granted.W)))}}
									others := sc.run(t, d)
									ratio := float64(d.letIn) / (sc.granted(granted) - float64(others))
									ratios += ratio / seeds
									shares += d.share() / seeds
									least, most = min(least, ratio), max(most, d.share())
									if d.inPause > 0 {
										t.Errorf("seed %d: %d calls in a pause", seed, d.inPause)
									}
								})
							}
							fmt.Printf("%-50s ratio %.3f, least %.3f; refused %5.2f %%, most %5.2f %%\n", name, ratios, least, shares, most)
						})
					}
				}
			}
		}
	}
}
