package tenant

import (
	"testing"
	"time"

	"passcode-worker/internal/clock"
)

// TestExpires: a request's time is over by the clock of the NATS server, which is
// the one that all workers share.
func TestExpires(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // by this machine's clock
	for _, ahead := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		c := &clock.Clock{}
		c.Set(ahead, 0)
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
			l := lifetime{clock: c, stored: server.Add(tc.published), maxAge: tc.maxAge}
			if tc.notAfter != 0 {
				l.notAfter = server.Add(tc.notAfter)
			}
			want := time.Time{}
			if tc.want != 0 {
				want = now.Add(tc.want)
			}
			if got := l.end(); !got.Equal(want) {
				t.Errorf("server ahead by %s, %+v: %s, want %s", ahead, tc, got, want)
			}
			if got := l.over(now); got != (tc.want < 0) {
				t.Errorf("server ahead by %s, %+v: expired %v", ahead, tc, got)
			}
		}
	}
}
