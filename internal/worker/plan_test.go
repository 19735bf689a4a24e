package worker

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
)

// Every state of the record, for the message that the record is about or for
// another one, whose id the publisher gave or not, expired or not, before or
// after the record's next instant, with or without a call of unknown outcome,
// for a message that has ended before or not. A field left out means any.
const planTable = `
garbled                                           expired  -> give up
garbled                                           fresh    -> wait for repair

none                                     expired  -> expire
none                                     fresh    -> attempt
attempting same        alive                               -> orphan
burying    same        alive                               -> bury
retrying   same        alive answered         expired  -> expire
retrying   same        alive answered  later  fresh    -> wait
retrying   same        alive answered  due    fresh    -> attempt
retrying   same        alive lost      later           -> wait
retrying   same        alive lost      due             -> verify
verifying  same        alive           later           -> wait
verifying  same        alive           due             -> verify
accepted   same        alive                               -> ack
dead       same        alive                               -> ack

attempting other       alive                               -> wait for it
retrying   other       alive                               -> wait for it
verifying  other       alive                               -> wait for it
burying    other       alive                               -> wait for it
accepted   other given alive                               -> duplicate
dead       other given alive answered         expired  -> expire
dead       other given alive answered         fresh    -> attempt
dead       other given alive lost                      -> verify

accepted   other made                    expired  -> expire
accepted   other made                    fresh    -> attempt
dead       other made                    expired  -> expire
dead       other made                    fresh    -> attempt

attempting ended -> ack
retrying   ended -> ack
verifying  ended -> ack
burying    ended -> ack
accepted   ended same -> ack
dead       ended same -> ack
accepted   ended other given -> ack
dead       ended other given -> ack
`

var planSteps = map[string]step{
	"attempt": stepAttempt, "verify": stepVerify, "orphan": stepOrphan, "wait": stepWait, "wait for it": stepWait,
	"ack": stepAck, "duplicate": stepDuplicate, "expire": stepExpire, "bury": stepBury,
	"give up": stepGiveUp, "wait for repair": stepGarbled,
}

func TestPlan(t *testing.T) {
	type row struct {
		words []string
		want  string
		used  bool
	}
	var rows []*row
	for line := range strings.Lines(planTable) {
		if when, want, ok := strings.Cut(line, "->"); ok {
			rows = append(rows, &row{words: strings.Fields(when), want: strings.TrimSpace(want)})
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	self := record.Record{Stream: "S", Sequence: 7, ReceivedAt: now.Add(-time.Hour)}
	others := map[string]record.Record{
		"a later one":     {Stream: "S", Sequence: 8, ReceivedAt: self.ReceivedAt.Add(time.Second)},
		"an earlier one":  {Stream: "S", Sequence: 6, ReceivedAt: self.ReceivedAt.Add(-time.Second)},
		"another stream":  {Stream: "T", Sequence: 7, ReceivedAt: self.ReceivedAt},
		"another instant": {Stream: "S", Sequence: 7, ReceivedAt: self.ReceivedAt.Add(1)},
		"of the same number as one on a stream before": {Stream: "S", Sequence: 8, ReceivedAt: self.ReceivedAt.Add(-time.Second)},
		"same": {Stream: "S", Sequence: 7, ReceivedAt: self.ReceivedAt.In(time.FixedZone("", 3600))},
	}
	// Only where the numbers and the instants are in one order is it one stream.
	sameStream := []string{"same", "a later one", "an earlier one"}
	type ends struct {
		list  []uint64
		ended bool // by sequence
	}
	endings := []ends{{nil, false}, {[]uint64{1, 99}, false}, {[]uint64{7}, true}, {[]uint64{1, 7, 9}, true}}
	for _, state := range []string{"none", "garbled", "attempting", "retrying", "verifying", "burying", "accepted", "dead"} {
		for origin, r := range others {
			for _, given := range []string{"given", "made"} {
				for _, expired := range []string{"expired", "fresh"} {
					for _, unknown := range []string{"answered", "lost"} {
						for _, ended := range endings {
							for _, next := range []time.Duration{math.MinInt64, -time.Hour, -1, 0, 1, time.Second, 10 * time.Second, time.Hour} {
								r := r
								f := facts{self: self, idGiven: given == "given", expired: expired == "expired", expires: now.Add(time.Hour)}
								switch state {
								case "none":
								case "garbled":
									f.garbled = true
								case "burying":
									r.State, r.Burying = record.Retrying, true
								default:
									r.State = record.State(state)
								}
								if r.State == record.None {
									r = record.Record{}
								} else {
									if unknown == "lost" {
										r.UnknownSince = now.Add(-time.Minute)
									}
									if next > math.MinInt64 {
										r.NextAt = now.Add(next)
									}
									r.Ended = ended.list
								}
								f.rec = r
								words := []string{state, "other", given, expired, "due", unknown, "alive"}
								if origin == "same" {
									words[1] = origin
								}
								if next > 0 {
									words[4] = "later"
								}
								if ended.ended && slices.Contains(sameStream, origin) && r.State != record.None {
									words[6] = "ended"
								}
								what := fmt.Sprintf("%s, %s, next %s, ended %v", strings.Join(words, " "), origin, next, ended.list)
								var match *row
								for _, row := range rows {
									if !slices.ContainsFunc(row.words, func(w string) bool { return !slices.Contains(words, w) }) {
										if match != nil {
											t.Fatalf("%s: two rows: %v and %v", what, match.words, row.words)
										}
										match = row
									}
								}
								if match == nil {
									t.Fatalf("%s: no row", what)
								}
								match.used = true
								want := plan{step: planSteps[match.want]}
								switch match.want {
								case "wait":
									want.until = r.NextAt
								case "wait for it":
									// Half a second after that one's turn, within bounds.
									want.until = now.Add(otherMin)
									if next > otherMin/2 {
										want.until = now.Add(min(next+otherMin/2, otherMax))
									}
								case "wait for repair":
									want.until = now.Add(garbledWait)
								}
								got := planFor(f, Policy{}, now)
								if got.step != want.step || !got.until.Equal(want.until) {
									t.Errorf("%s: step %d, wait of %s; want %s, %s", what, got.step, got.until.Sub(now), match.want, want.until.Sub(now))
								}
							}
						}
					}
				}
			}
		}
	}
	// In whatever state it was begun, a dead letter is gone on with; and one
	// that panicked before any attempt has reset nothing.
	for _, s := range []record.State{record.Attempting, record.Retrying, record.Verifying} {
		r := others["same"]
		r.State, r.Burying, r.NextAt = s, true, now.Add(time.Hour)
		if got := planFor(facts{rec: r, self: self, idGiven: true, expired: true}, Policy{}, now); got != (plan{step: stepBury}) {
			t.Errorf("%s, burying: %+v", s, got)
		}
	}
	// What died before records knew since when a call was unknown, or at what
	// instant, is looked at all the same.
	for reason, want := range map[metrics.Reason]step{
		metrics.ReasonOutcomeUnknown: stepVerify, metrics.ReasonUndeliverable: stepVerify, metrics.ReasonForbidden: stepAttempt,
	} {
		r := others["an earlier one"]
		r.State, r.Reason, r.AttemptedAt = record.Dead, string(reason), now.Add(-time.Minute)
		if got := planFor(facts{rec: r, self: self, idGiven: true}, Policy{}, now); got != (plan{step: want}) {
			t.Errorf("dead of %s: %+v", reason, got)
		}
	}
	r := others["an earlier one"]
	r.State, r.Reason = record.Dead, string(metrics.ReasonUndeliverable)
	if got := planFor(facts{rec: r, self: self, idGiven: true}, Policy{}, now); got != (plan{step: stepAttempt}) {
		t.Errorf("dead, panicked before any attempt: %+v", got)
	}
	// A garbled record is not waited for longer than the request's time lasts.
	at := now.Add(time.Second)
	if got := planFor(facts{self: self, garbled: true, expires: at}, Policy{}, now); got != (plan{stepGarbled, at}) {
		t.Errorf("garbled, with a second left: %+v", got)
	}
	for _, row := range rows {
		if !row.used {
			t.Errorf("no case for: %s", row.words)
		}
	}
}

// TestExpires: a request's time is over by the clock of the NATS server, which is
// the one that all workers share.
func TestExpires(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // by this machine's clock
	for _, ahead := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		c := &clock{}
		c.set(ahead)
		server := now.Add(ahead)
		for _, tc := range []struct {
			notAfter, published time.Duration // from the server's now
			maxAge              time.Duration
			want                time.Duration // from this machine's now; 0: never
		}{
			{0, -time.Minute, 0, 0},
			{time.Minute, -time.Minute, 0, time.Minute},
			{-time.Second, -time.Minute, time.Hour, -time.Second},
			{0, -time.Minute, time.Hour, 59 * time.Minute},
			{2 * time.Hour, -time.Minute, time.Hour, 59 * time.Minute},
			{time.Minute, -time.Hour, time.Minute, -59 * time.Minute},
		} {
			j := &job{tenant: &tenant{clock: c, policy: Policy{MaxAge: tc.maxAge}}, m: consume.Message{Published: server.Add(tc.published)}}
			if tc.notAfter != 0 {
				j.req.NotAfter = server.Add(tc.notAfter)
			}
			want := time.Time{}
			if tc.want != 0 {
				want = now.Add(tc.want)
			}
			if got := j.expires(); !got.Equal(want) {
				t.Errorf("server ahead by %s, %+v: %s, want %s", ahead, tc, got, want)
			}
			if got := j.expired(now); got != (tc.want < 0) {
				t.Errorf("server ahead by %s, %+v: expired %v", ahead, tc, got)
			}
		}
	}
}

func TestVerifyAt(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, p := range []Policy{{}, {RequestTimeout: 30 * time.Second}, {VerifyAfter: time.Minute}, {RequestTimeout: 30 * time.Second, VerifyAfter: time.Minute}} {
		if got, want := p.verifyAt(at).Sub(at), p.RequestTimeout+p.VerifyAfter; got != want {
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
				d := p.backoff(n, s)
				if d < p.BackoffMin || d > top {
					t.Fatalf("%s to %s, repetition %d: %s, want at most %s", p.BackoffMin, p.BackoffMax, n, d, top)
				}
				if again := p.backoff(n, s); again != d {
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
		if d := p.backoff(n, "seed"); d < p.BackoffMin || d > p.BackoffMax {
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
				return float64(p.backoff(n, s)-p.BackoffMin) / float64(top-p.BackoffMin)
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
