package verdict

import (
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/record"
)

func TestVerifyAt(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, p := range []Policy{{}, {RequestTimeout: 30 * time.Second}, {VerifyAfter: time.Minute}, {RequestTimeout: 30 * time.Second, VerifyAfter: time.Minute}} {
		if got, want := p.VerifyAt(at).Sub(at), p.RequestTimeout+p.VerifyAfter; got != want {
			t.Errorf("%s after the attempt, want %s", got, want)
		}
	}
}

// policies differ in the bounds of the back-off.
var policies = []Policy{
	{BackoffMin: 2 * time.Second, BackoffMax: 5 * time.Minute},
	{BackoffMin: time.Nanosecond, BackoffMax: 24 * time.Hour},
	{BackoffMin: time.Second, BackoffMax: time.Second},
	{BackoffMin: time.Second, BackoffMax: 1500 * time.Millisecond},
	{BackoffMin: time.Hour, BackoffMax: math.MaxInt64},
	{BackoffMin: math.MaxInt64, BackoffMax: math.MaxInt64},
	{BackoffMin: 0, BackoffMax: time.Minute},
}

func TestBackoffBounds(t *testing.T) {
	for _, p := range policies {
		for _, n := range []int{math.MinInt, -1, 0, 1, 2, 3, 8, 31, 32, 59, 60, 61, 62, 63, 64, 255, 256, 257, 1023, 1024, 65535, 65536, 1_000_000, math.MaxInt} {
			top := p.BackoffMax
			if twice := min(max(1, n), 62); p.BackoffMin <= top>>twice {
				top = p.BackoffMin << twice
			}
			var greatest time.Duration
			for seed := range 200 {
				s := strconv.Itoa(seed)
				d := p.Backoff(n, s)
				if d < p.BackoffMin || d > top {
					t.Fatalf("%s to %s, repetition %d: %s, want at most %s", p.BackoffMin, p.BackoffMax, n, d, top)
				}
				if again := p.Backoff(n, s); again != d {
					t.Fatalf("repetition %d, seed %q: %s, then %s", n, s, d, again)
				}
				greatest = max(greatest, d)
			}
			if greatest < p.BackoffMin+(top-p.BackoffMin)/10*9 {
				t.Errorf("%s to %s, repetition %d: never more than %s of %s", p.BackoffMin, p.BackoffMax, n, greatest, top)
			}
		}
	}
}

func TestBackoffEveryN(t *testing.T) {
	p := policies[0]
	for n := range 1_000_001 {
		if d := p.Backoff(n, "seed"); d < p.BackoffMin || d > p.BackoffMax {
			t.Fatalf("repetition %d: %s", n, d)
		}
	}
}

// The jitter is full: all waits between the least and the greatest are equally
// likely, whatever the seeds look like, and one says nothing about the next.
func TestBackoffSpread(t *testing.T) {
	const seeds, buckets = 20_000, 20
	kinds := map[string]func(i int) string{
		"client-request-id": func(i int) string { return uuid.NewSHA1(uuid.Nil, []byte(strconv.Itoa(i))).String() },
		"number":            strconv.Itoa,
		"key":               func(i int) string { return fmt.Sprintf("default.INC%07d", i) },
		"two bytes":         func(i int) string { return string([]byte{byte(i), byte(i >> 8)}) },
	}
	p := policies[0]
	for kind, seed := range kinds {
		for _, n := range []int{1, 2, 3, 5, 8, 20} {
			top := min(p.BackoffMin<<n, p.BackoffMax)
			share := func(n int, top time.Duration, s string) float64 {
				return float64(p.Backoff(n, s)-p.BackoffMin) / float64(top-p.BackoffMin)
			}
			var count [buckets]int
			var joint [buckets]int // with the next repetition, by quarters
			for i := range seeds {
				x := share(n, top, seed(i))
				y := share(n+1, min(p.BackoffMin<<(n+1), p.BackoffMax), seed(i))
				if x < 0 || x >= 1 {
					t.Fatalf("%s %q, repetition %d: a share of %g", kind, seed(i), n, x)
				}
				count[int(x*buckets)]++
				joint[int(x*4)*5+int(y*5)]++
			}
			// With 19 degrees of freedom chi-square exceeds 50 once in 10,000 times.
			for what, counts := range map[string][buckets]int{"waits": count, "pairs of waits": joint} {
				chi := 0.
				for _, c := range counts {
					d := float64(c) - seeds/buckets
					chi += d * d / (seeds / buckets)
				}
				if chi > 50 {
					t.Errorf("%s, repetition %d: %s are not spread evenly, chi-square %.0f: %v", kind, n, what, chi, counts)
				}
			}
		}
	}
}

func TestExhausted(t *testing.T) {
	for _, tc := range []struct {
		attempts, held, most int
		want                 bool
	}{
		{0, 0, 8, false}, {7, 0, 8, false}, {8, 0, 8, true}, {9, 0, 8, true},
		{8, 1, 8, false}, {9, 1, 8, true}, {100, 93, 8, false}, {100, 92, 8, true},
		{1, 1, 1, false}, {1, 0, 1, true}, {2, 1, 1, true},
	} {
		p := Policy{MaxAttempts: tc.most}
		if got := p.exhausted(record.Record{Attempts: tc.attempts, HeldAttempts: tc.held}); got != tc.want {
			t.Errorf("%d attempts, %d of them while held, of %d: exhausted %t", tc.attempts, tc.held, tc.most, got)
		}
	}
}

// TestEndedOnAnotherStream: where a tenant has moved to another stream, a new message there
// is not taken for one that ended on the old stream under the same number.
func TestEndedOnAnotherStream(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	on := func(stream string, sequence uint64, after time.Duration) record.Record {
		return record.Record{ID: "i", Stream: stream, Sequence: sequence, ReceivedAt: at.Add(after)}
	}
	before := on("OLD", 7, 0)
	before.State, before.Ended = record.Dead, []uint64{7}
	open := before
	open.State = record.Verifying
	for _, c := range []struct {
		stream string
		ended  bool
	}{{"OLD", true}, {"NEW", false}} {
		first, late := on(c.stream, 3, time.Minute), on(c.stream, 7, 2*time.Minute)
		if c.ended {
			first, late = on(c.stream, 9, time.Minute), on(c.stream, 7, 0)
		}
		for what, r := range map[string]record.Record{"taken up": TakenUp(first, before), "adopted": Policy{}.Adopted(open, first)} {
			if got := r.HasEnded(late); got != c.ended || r.Stream != c.stream {
				t.Errorf("%s on %s: message 7 has ended there: %v", what, r.Stream, got)
			}
		}
	}
}
