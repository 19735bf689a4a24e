package graph

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"passcode-worker/internal/graph/graphsim"
)

// BenchmarkReset is one call after another over one HTTP/2 connection.
func BenchmarkReset(b *testing.B) {
	s := simulate(b, graphsim.Config{NoCallLog: true})
	c, token := simClient(b, s)
	target := Target{Device: graphsim.GoodDevice(1)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Reset(b.Context(), target, Call{Token: token, ClientRequestID: uuid.NewString(), Deadline: time.Now().Add(time.Minute)}); err != nil {
			b.Fatal(err)
		}
	}
	if v := s.Violations(); len(v) > 0 {
		b.Error(v)
	}
}

// BenchmarkResetParallel is 32 calls at a time.
func BenchmarkResetParallel(b *testing.B) {
	s := simulate(b, graphsim.Config{NoCallLog: true})
	c, token := simClient(b, s)
	target := Target{Device: graphsim.GoodDevice(1)}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := c.Reset(b.Context(), target, Call{Token: token, ClientRequestID: uuid.NewString(), Deadline: time.Now().Add(time.Minute)}); err != nil {
				b.Error(err)
			}
		}
	})
}
