package metrics

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"passcode-worker/internal/hold"
)

// stopTimeout is how long Serve waits for answers under way once it is told to
// stop. A scrape takes milliseconds, and the worker's stop has a time limit.
const stopTimeout = 2 * time.Second

// State is the worker's state at one moment: the JSON of /readyz.
type State struct {
	Ready   bool          `json:"ready"` // filled in by Handler, with the rule of Ready
	NATS    NATSState     `json:"nats"`
	Tenants []TenantState `json:"tenants"`
	// NotListed is how many tenants Tenants leaves out, none of them held. Filled in by Handler.
	NotListed int `json:"notListed,omitempty"`
}

// NATSState is the state of the connection to NATS.
type NATSState struct {
	Connected bool      `json:"connected"`
	Server    string    `json:"server,omitempty"` // the one connected to, without credentials
	Error     string    `json:"error,omitempty"`  // the last one reported; it may be over
	Since     time.Time `json:"since,omitzero"`   // when Connected last changed
}

// TenantState is the state of one tenant on this replica.
type TenantState struct {
	Tenant string `json:"tenant"`
	Active bool   `json:"active"` // this replica works on it; false on a standby
	// ActiveElsewhere: another replica works on it. Until the first request, none does.
	ActiveElsewhere bool       `json:"activeElsewhere,omitempty"`
	Bound           bool       `json:"bound"` // its stream and consumer were found
	Error           string     `json:"error,omitempty"`
	PausedUntil     *time.Time `json:"pausedUntil,omitempty"` // nil = no pause asked for by Graph
	Holds           []Hold     `json:"holds"`
}

// Hold is one cause that makes a tenant's queue stand still.
type Hold struct {
	Cause     hold.Cause `json:"cause"`
	Since     time.Time  `json:"since,omitzero"`
	Detail    string     `json:"detail,omitempty"`
	NextProbe time.Time  `json:"nextProbe,omitzero"` // zero = it ends without a probe
}

// Ready reports whether the worker can do its job, now or as a standby: NATS is
// connected, and at least one tenant is bound and not held. An operator's pause
// does not count as held. A worker without any tenant is not ready.
func Ready(s State) bool {
	return s.NATS.Connected && slices.ContainsFunc(s.Tenants, usable)
}

func usable(t TenantState) bool {
	return t.Bound && !slices.ContainsFunc(t.Holds, func(h Hold) bool { return h.Cause != hold.Paused })
}

// Handler serves /metrics, /livez, /readyz and, at /, a status page for people.
// It calls state for each request to /readyz and to /, from many goroutines at
// once.
func Handler(m *Metrics, state func() State) http.Handler {
	// A pattern with GET also takes HEAD, and the mux answers any other method
	// on it with 405 and Allow.
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { text(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { readyz(w, state()) })
	mux.Handle("GET /{$}", newStatusPage(m, state))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// mostListed is how many tenants /readyz lists. It lists all that are held, even if they
// are more.
const mostListed = 200

// listed returns the tenants that /readyz shows. If it cannot list all, those that need
// attention come first.
func listed(tenants []TenantState, at time.Time) []TenantState {
	if len(tenants) <= mostListed {
		return tenants
	}
	sorted := slices.Clone(tenants)
	slices.SortFunc(sorted, func(a, b TenantState) int {
		return cmp.Or(cmp.Compare(readyRank(a, at), readyRank(b, at)), strings.Compare(a.Tenant, b.Tenant))
	})
	held := slices.IndexFunc(sorted, func(t TenantState) bool { return len(t.Holds) == 0 })
	if held < 0 {
		held = len(sorted)
	}
	return sorted[:max(held, mostListed)]
}

// readyRank puts every tenant with a hold before those without.
func readyRank(t TenantState, at time.Time) int {
	if len(t.Holds) > 0 {
		return -1
	}
	return rankOf(t, at)
}

// readyz answers with the state as JSON. Lists in it are never null, so that no
// reader needs a case for that.
func readyz(w http.ResponseWriter, s State) {
	s.Ready = Ready(s)
	tenants := make([]TenantState, 0, len(s.Tenants)) // the caller's own slice stays as it is
	for _, t := range listed(s.Tenants, time.Now()) {
		if t.Holds == nil {
			t.Holds = []Hold{}
		}
		tenants = append(tenants, t)
	}
	s.Tenants, s.NotListed = tenants, len(s.Tenants)-len(tenants)

	w.Header().Set("Cache-Control", "no-store")
	body, err := json.MarshalIndent(s, "", "  ")
	if err != nil { // only a time beyond the year 9999 does this
		http.Error(w, "state: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !s.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(body, '\n')) // a client that left is nobody's problem
}

func text(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, body)
}

// Serve serves h on ln until ctx ends, then lets answers under way finish for
// a short time and returns nil. It closes ln, and returns an error only if
// serving ended by itself.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // no request has a body
		WriteTimeout:      30 * time.Second, // the metrics of thousands of tenants over a slow line
		IdleTimeout:       2 * time.Minute,  // longer than the usual time between scrapes
		MaxHeaderBytes:    16 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()

	select {
	case err := <-served:
		_ = srv.Close() // connections accepted before would live on
		return fmt.Errorf("serve http: %w", err)
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if srv.Shutdown(stopCtx) != nil {
		_ = srv.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http: %w", err)
	}
	return nil
}
