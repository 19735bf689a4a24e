package graph

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestProbe(t *testing.T) {
	const list, refusal = `{"value":[]}`, `{"error":{"code":"c","message":"why"}}`
	for _, c := range []struct {
		status     int
		body       string
		retryAfter string
		calls      int
		words      string
		clock      bool
	}{
		{http.StatusOK, list, "", 1, "", true},
		{http.StatusBadRequest, refusal, "", 2, "refused: HTTP 400: c", true},
		{http.StatusNotFound, refusal, "", 2, "refused: HTTP 404: c", true},
		{http.StatusForbidden, refusal, "", 2, "forbidden: HTTP 403: c", true},
		{http.StatusUnauthorized, refusal, "", 2, "unauthorized: HTTP 401: c", true},
		{http.StatusServiceUnavailable, refusal, "1", 1, "unavailable: HTTP 503: c", false}, // it is left alone as it asks
	} {
		calls := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			if r.Method != http.MethodGet || r.URL.Path != "/v1.0/deviceManagement/managedDevices" || r.URL.RawQuery != "$top=1&$select=id" {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
			if c.retryAfter != "" {
				w.Header().Set("Retry-After", c.retryAfter)
			}
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body)) // the client sees less
		}))
		client, err := New(Config{Endpoint: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		p, err := client.Probe(t.Context(), Call{Deadline: time.Now().Add(10 * time.Second)})
		if err != nil || (p.Err != nil) != (c.words != "") || p.Clock != c.clock || calls != c.calls {
			t.Errorf("%d: %+v, %v after %d calls", c.status, p, err, calls)
		}
		if c.clock && (p.Ahead < 59*time.Minute || p.Ahead > time.Hour) {
			t.Errorf("%d: the clock is ahead by %s", c.status, p.Ahead)
		}
		if p.Err != nil && (p.Err.Error() != c.words || p.Said != "c: why") {
			t.Errorf("%d: %v, said %q", c.status, p.Err, p.Said)
		}
		client.Close()
		s.Close()
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<html>welcome</html>")) // the client sees less
	}))
	defer page.Close()
	for _, endpoint := range []string{page.URL, "http://127.0.0.1:1"} {
		client, err := New(Config{Endpoint: endpoint})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if p, err := client.Probe(t.Context(), Call{Deadline: time.Now().Add(10 * time.Second)}); err == nil {
			t.Errorf("%s is not Graph: %+v", endpoint, p)
		}
	}
}
