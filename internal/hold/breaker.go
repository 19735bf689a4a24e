package hold

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Times of the probes.
const (
	probeMin = time.Second
	probeMax = time.Minute
	// outageProbeMax is probeMax of an outage, of Graph or of the token endpoint: it ends
	// by itself, and its end is to
	// be noticed soon.
	outageProbeMax = 5 * time.Second
	// Requests that have not failed come within jitter after the next
	// probe is due, in any order. After them come the last failedMost
	// that have failed, the earliest failure first, a turn apart.
	jitter     = 200 * time.Millisecond
	turn       = 50 * time.Millisecond
	failedMost = 20
	// A request that comes while another one is the probe stays away for
	// as long as that probe has been under way, within these bounds: most
	// probes are answered soon, and then the other requests should be back.
	whileProbingMin = 100 * time.Millisecond
	whileProbingMax = 2 * time.Second
)

// breaker knows what holds the tenant, and which
// request probes next whether it still has to. While cause is empty nothing is held.
type breaker struct {
	cause  Cause
	detail string
	since  time.Time
	step   time.Duration
	// probeAt is when the next probe may start; probing is the message that
	// is the probe now (0: none), and probingSince is when it was let through.
	probeAt      time.Time
	probing      uint64
	probingSince time.Time
	// failed are the messages that failed most recently under this hold, the newest last.
	failed []uint64
}

// probes reports whether a message is the probe of a hold.
func (b *breaker) probes(sequence uint64) bool { return b.cause != "" && b.probing == sequence }

func (b *breaker) admit(sequence uint64, now time.Time) (Pass, time.Time) {
	switch {
	case b.cause == "":
		return Pass{}, time.Time{}
	case b.probing != 0:
		return Pass{}, now.Add(min(max(now.Sub(b.probingSince), whileProbingMin), whileProbingMax))
	case now.Before(b.probeAt):
		return Pass{}, b.back(sequence)
	}
	b.probing, b.probingSince = sequence, now
	return Pass{Probe: true, Cause: b.cause}, time.Time{}
}

// trip begins a hold, or, after a failed probe, makes it wait longer.
func (b *breaker) trip(st *Standing, sequence uint64, cause Cause, s Signal, now time.Time) {
	most := probeMax
	if cause == GraphUnavailable || s.Kind == TokenAway {
		most = outageProbeMax
	}
	switch {
	case b.cause == "":
		b.since, b.step = now, probeMin
	case b.probing == sequence:
		b.probing, b.step = 0, min(2*b.step, most)
	default: // it was under way when the hold began
		b.fails(sequence)
		st.Everybody, st.Back = true, b.back(sequence)
		return
	}
	b.fails(sequence)
	st.Tripped, st.Before = true, b.cause
	b.cause, b.detail = cause, s.Detail
	b.probeAt = now.Add(max(b.step, s.Wait))
	st.Everybody, st.Back = true, b.back(sequence)
}

// release ends the hold, and returns its cause; empty: nothing was held.
func (b *breaker) release() Cause {
	ended := b.cause
	*b = breaker{}
	return ended
}

// fails notes that a message has failed.
func (b *breaker) fails(sequence uint64) {
	b.failed = slices.DeleteFunc(b.failed, func(other uint64) bool { return other == sequence })
	if len(b.failed) == failedMost {
		b.failed = slices.Delete(b.failed, 0, 1)
	}
	b.failed = append(b.failed, sequence)
}

// back is when a message should come again. If there are waiting
// messages that have not failed recently, the next probe is
// one of them; otherwise it is the one that failed longest ago.
// So a good request is soon tried among a few that always fail.
func (b *breaker) back(sequence uint64) time.Time {
	if i := slices.Index(b.failed, sequence); i >= 0 {
		return b.probeAt.Add(jitter + time.Duration(i+1)*turn)
	}
	return b.probeAt.Add(rand.N(jitter))
}
