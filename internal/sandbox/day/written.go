package day

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/outcome"
	"passcode-worker/internal/sandbox"
	"passcode-worker/internal/sandbox/scenario"
	"passcode-worker/internal/topology"
)

// heard is all that was published on the worker's subjects during the day: requests,
// dead letters, alarms, and each change of a record or an outcome.
type heard struct {
	tenant, outcomes string // outcomes begins the subjects of the changes of outcomes

	mu     sync.Mutex
	all    strings.Builder
	finals map[string]int // how often an end was told, by the escaped id
}

func hearing(names topology.Names) *heard {
	return &heard{tenant: names.Tenant, outcomes: strings.TrimSuffix(names.Outcome(""), names.Tenant+"."), finals: map[string]int{}}
}

func listen(w *sandbox.World) (*heard, error) {
	h := hearing(w.Names)
	_, err := w.NC.Subscribe("passcode.>", h.hear)
	return h, err
}

func (h *heard) hear(m *nats.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fmt.Fprintln(&h.all, m.Subject, m.Header, string(m.Data))
	key, ok := strings.CutPrefix(m.Subject, h.outcomes)
	if !ok {
		return
	}
	if d, _, ok := outcome.Told(key, m); ok && d.Final && d.Tenant == h.tenant {
		h.finals[strings.TrimPrefix(key, h.tenant+".")]++
	}
}

// text is all of it.
func (h *heard) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.String()
}

// compare counts an end that was told twice, although the bucket holds it once, and one
// that was not told.
func (h *heard) compare(l scenario.Ledger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, t := range l.Outcomes {
		if t.Finals == 1 {
			t.Finals = h.finals[id]
			l.Outcomes[id] = t
		}
	}
}

// readPages reads what the worker shows to people and to Prometheus.
func (d *day) readPages(ctx context.Context) error {
	d.pages = map[string]string{}
	for what, path := range map[string]string{"metrics page": "/metrics", "status page": "/", "page of readiness": "/readyz"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.served+path, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // it was read
		if err != nil {
			return err
		}
		d.pages[what] = string(body)
	}
	http.DefaultClient.CloseIdleConnections()
	return nil
}

// written is all that the worker has written, by where it is.
func (d *day) written(ctx context.Context) (map[string]string, error) {
	out := map[string]string{"message": d.heard.text()}
	for what, page := range d.pages {
		out[what] = page
	}
	log, err := os.ReadFile(d.LogFile())
	if err != nil {
		return nil, err
	}
	out["log"] = string(log)
	names := d.JS.StreamNames(ctx)
	for name := range names.Name() {
		var all strings.Builder
		err := scenario.Each(ctx, d.JS, name, func(m jetstream.Msg) {
			fmt.Fprintln(&all, m.Subject(), m.Headers(), string(m.Data()))
		})
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		out["stream "+name] = all.String()
	}
	return out, names.Err()
}
