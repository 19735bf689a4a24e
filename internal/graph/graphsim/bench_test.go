package graphsim_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"

	"passcode-worker/internal/graph/graphsim"
)

// writer is a ResponseWriter that costs nothing.
type writer struct{ header http.Header }

func (w writer) Header() http.Header         { return w.header }
func (w writer) Write(b []byte) (int, error) { return len(b), nil }
func (w writer) WriteHeader(int)             {}

// BenchmarkHandler is the plain reset without the network.
func BenchmarkHandler(b *testing.B) {
	s := start(b, graphsim.Config{NoCallLog: true, Quota: 1 << 30})
	c := newClient(b, s, true)
	req := httptest.NewRequest(http.MethodPost, "/v1.0"+resetPath(graphsim.GoodDevice(1)), nil)
	req.Header = c.request(b.Context(), http.MethodPost, resetPath(graphsim.GoodDevice(1))).Header
	w := writer{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		req.Header["Client-Request-Id"][0] = uuid.NewString()
		s.ServeHTTP(w, req)
	}
	if n := s.Resets(graphsim.GoodDevice(1)); n < b.N {
		b.Fatalf("%d resets of %d; %v", n, b.N, s.Violations())
	}
}

// BenchmarkHTTP2 is the same over one connection, 32 calls at a time.
func BenchmarkHTTP2(b *testing.B) {
	s := start(b, graphsim.Config{NoCallLog: true})
	c := newClient(b, s, true)
	d := graphsim.GoodDevice(1)
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if a := c.post(d); a.status != http.StatusNoContent {
				b.Errorf("%d", a.status)
			}
		}
	})
}
