package graph

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestProbe(t *testing.T) {
	for status, c := range map[int]struct {
		retryAfter string
		calls      int
		refused    bool
		clock      bool
	}{
		http.StatusOK:                 {"", 1, false, true},
		http.StatusNotFound:           {"", 2, false, true},
		http.StatusForbidden:          {"", 2, true, true},
		http.StatusUnauthorized:       {"", 2, true, true},
		http.StatusServiceUnavailable: {"1", 1, true, false}, // it is left alone as it asks
	} {
		calls := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			if r.Method != http.MethodGet || r.URL.Path != "/v1.0/deviceManagement/managedDevices/00000000-0000-0000-0000-000000000000" {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
			if c.retryAfter != "" {
				w.Header().Set("Retry-After", c.retryAfter)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"id":"x","error":{"code":"c","message":"the passcode is 1234"}}`)) // the client sees less
		}))
		client, err := New(Config{Endpoint: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		p, err := client.Probe(t.Context(), Call{Deadline: time.Now().Add(10 * time.Second)})
		if err != nil || p.Status != status || (p.Err != nil) != c.refused || p.Clock != c.clock || calls != c.calls {
			t.Errorf("%d: %+v, %v after %d calls", status, p, err, calls)
		}
		if c.clock && (p.Ahead < 59*time.Minute || p.Ahead > time.Hour) {
			t.Errorf("%d: the clock is ahead by %s", status, p.Ahead)
		}
		if refused := status >= 400; refused != (p.Said == "c: the passcode is 1234") {
			t.Errorf("%d: said %q", status, p.Said)
		}
		if p.Err != nil && (p.Err.Error() == "" || len(p.Err.Error()) > 60) {
			t.Errorf("%d: %v", status, p.Err)
		}
		client.Close()
		s.Close()
	}
	client, err := New(Config{Endpoint: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if p, err := client.Probe(t.Context(), Call{Deadline: time.Now().Add(10 * time.Second)}); err == nil {
		t.Errorf("nobody there: %+v", p)
	}
}
