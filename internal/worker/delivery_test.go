package worker

import (
	"testing"
	"time"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/verdict"
)

// TestExpires: a request's time is over by the clock of the NATS server, which is
// the one that all workers share.
func TestExpires(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // by this machine's clock
	for _, ahead := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		c := &clock{}
		c.set(ahead, 0)
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
			d := &delivery{t: &tenant{clock: c, policy: verdict.Policy{MaxAge: tc.maxAge}}, m: consume.Message{Published: server.Add(tc.published)}}
			if tc.notAfter != 0 {
				d.req.NotAfter = server.Add(tc.notAfter)
			}
			want := time.Time{}
			if tc.want != 0 {
				want = now.Add(tc.want)
			}
			if got := d.expires(); !got.Equal(want) {
				t.Errorf("server ahead by %s, %+v: %s, want %s", ahead, tc, got, want)
			}
			if got := d.expired(now); got != (tc.want < 0) {
				t.Errorf("server ahead by %s, %+v: expired %v", ahead, tc, got)
			}
		}
	}
}
