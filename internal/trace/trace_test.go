package trace

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"passcode-worker/internal/trace/tracetest"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	parent  = "b7ad6b7169203331"
)

func traceparent(flags string) string { return "00-" + traceID + "-" + parent + "-" + flags }

func message(traceparent string) Message {
	return Message{
		Traceparent: traceparent, Tenant: "acme", RequestID: "INC1", Device: "d-1",
		Stream: "S", Sequence: 7, Delivery: 2, Received: time.Now().Add(-time.Second),
	}
}

// newTest makes a tracer that sends to a URL.
func newTest(t *testing.T, url string, env ...string) (*Tracer, *observer.ObservedLogs) {
	t.Helper()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	for i := 0; i < len(env); i += 2 {
		t.Setenv(env[i], env[i+1])
	}
	core, logs := observer.New(zapcore.DebugLevel)
	tracer, err := New(context.Background(), Config{Service: "passcode-worker", Version: "v1", Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	return tracer, logs
}

func closeIn(t *testing.T, tracer *Tracer, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return tracer.Close(ctx)
}

func TestSpans(t *testing.T) {
	goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := tracetest.Start(nil)
	defer r.Close()
	tracer, logs := newTest(t, r.URL, "OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret%20key", "OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
	began := time.Now().Add(-300 * time.Millisecond)
	d := tracer.Receive(message(traceparent("01")))
	d.Attempt(Call{Began: began, Attempt: 3, ClientRequestID: "c-1", GraphRequestID: "g-1", Status: 500, Failure: "outcome unknown", Detail: "outcome unknown: HTTP 500"})
	d.Verify(Call{Began: began, Attempt: 3, ClientRequestID: "c-2", Status: 200})
	d.Verdict(Verdict{Outcome: "dead letter", Reason: "attempts_exhausted", Detail: "was tried", Attempts: 3, Verified: true, Dead: true})
	d.End()
	if err := closeIn(t, tracer, 10*time.Second); err != nil { // the batch would have waited for five seconds
		t.Fatal(err)
	}
	spans := r.Spans()
	if len(spans) != 4 || logs.Len() != 0 {
		t.Fatalf("%d spans, log %v", len(spans), logs.All())
	}
	who := map[string]any{"passcode_reset.tenant": "acme", "passcode_reset.request_id": "INC1", "passcode_reset.device": "d-1"}
	root := spans[3].ID
	for i, want := range []tracetest.Span{
		{Name: "attempt", Parent: root, Kind: "SPAN_KIND_CLIENT", Failed: true, Message: "outcome unknown: HTTP 500", Attributes: map[string]any{
			"http.request.method": "POST", "http.response.status_code": int64(500), "error.type": "outcome unknown", "passcode_reset.attempt": int64(3),
			"passcode_reset.client_request_id": "c-1", "passcode_reset.graph_request_id": "g-1"}},
		{Name: "verify", Parent: root, Kind: "SPAN_KIND_CLIENT", Attributes: map[string]any{
			"http.request.method": "GET", "http.response.status_code": int64(200), "passcode_reset.attempt": int64(3), "passcode_reset.client_request_id": "c-2"}},
		{Name: "verdict", Parent: root, Kind: "SPAN_KIND_INTERNAL", Failed: true, Message: "was tried", Attributes: map[string]any{
			"passcode_reset.outcome": "dead letter", "passcode_reset.reason": "attempts_exhausted", "passcode_reset.attempt": int64(3), "passcode_reset.verified": true}},
		{Name: "receive", Parent: parent, Kind: "SPAN_KIND_CONSUMER", Failed: true, Message: "attempts_exhausted", Attributes: map[string]any{
			"passcode_reset.stream": "S", "passcode_reset.sequence": int64(7), "passcode_reset.delivery": int64(2)}},
	} {
		got := spans[i]
		for k, v := range who {
			want.Attributes[k] = v
		}
		if got.Resource["service.name"] != "passcode-worker" || got.Resource["service.version"] != "v1" || got.Resource["deployment.environment"] != "test" {
			t.Errorf("resource %v", got.Resource)
		}
		if got.EndNano < got.StartNano || got.Name == "attempt" && got.StartNano != uint64(began.UnixNano()) {
			t.Errorf("%s: from %d to %d", got.Name, got.StartNano, got.EndNano)
		}
		want.TraceID, want.ID, want.Resource, want.StartNano, want.EndNano = traceID, got.ID, got.Resource, got.StartNano, got.EndNano
		if !reflect.DeepEqual(got, want) {
			t.Errorf("span %d:\n got %+v\nwant %+v", i, got, want)
		}
	}
	if got := r.Headers()[0].Get("Api-Key"); got != "s3cret key" {
		t.Errorf("header api-key: %q", got)
	}
}

func TestSampling(t *testing.T) {
	for _, c := range []struct {
		name, traceparent, sampler string
		spans                      int
		root                       bool
	}{
		{"sampled", traceparent("01"), "", 2, false},
		{"not sampled", traceparent("00"), "", 0, false},
		{"none", "", "", 2, true},
		{"not valid", "00-zz-yy-01", "", 2, true},
		{"none, none wanted", "", "parentbased_always_off", 0, false},
		{"sampled, others not wanted", traceparent("01"), "parentbased_always_off", 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := tracetest.Start(nil)
			defer r.Close()
			tracer, _ := newTest(t, r.URL, "OTEL_TRACES_SAMPLER", c.sampler)
			d := tracer.Receive(message(c.traceparent))
			d.Verdict(Verdict{Outcome: "accepted"})
			d.End()
			tracer.Receive(message(traceparent("01"))).End() // given back untouched
			if err := closeIn(t, tracer, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			spans := r.Spans()
			if len(spans) != c.spans {
				t.Fatalf("%d spans, want %d: %+v", len(spans), c.spans, spans)
			}
			if c.spans > 0 && (spans[1].Parent == "") != c.root {
				t.Errorf("parent %q", spans[1].Parent)
			}
		})
	}
}

func TestNilDoesNothing(t *testing.T) {
	var tracer *Tracer
	d := tracer.Receive(message(""))
	d.Attempt(Call{})
	d.Verify(Call{})
	d.Verdict(Verdict{})
	d.End()
	if d != nil || tracer.Close(context.Background()) != nil {
		t.Error("nil did something")
	}
	if n := testing.AllocsPerRun(100, func() {
		d := tracer.Receive(Message{})
		d.Verdict(Verdict{})
		d.End()
	}); n != 0 {
		t.Errorf("nothing costs %f allocations", n)
	}
}

func work(tracer *Tracer, n int) {
	for range n {
		d := tracer.Receive(message(""))
		d.Attempt(Call{Began: time.Now()})
		d.Verdict(Verdict{Outcome: "accepted"})
		d.End()
	}
}

// TestReceiverInTrouble shows that nothing waits for a receiver that does not
// do its part, and that the log says so once.
func TestReceiverInTrouble(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	for name, refuse := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"refuses": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "your key s3cret is wrong", http.StatusUnauthorized)
			return true
		},
		"is silent": func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return true
		},
		"is overloaded": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		},
		"is away": nil,
	} {
		t.Run(name, func(t *testing.T) {
			r := tracetest.Start(refuse)
			defer r.Close()
			url := r.URL
			if refuse == nil {
				r.Close()
			}
			tracer, logs := newTest(t, url, "OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer s3cret", "OTEL_BSP_SCHEDULE_DELAY", "5")
			began := time.Now()
			work(tracer, 5000) // more than the queue holds
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the work took %s", took)
			}
			began = time.Now()
			err := closeIn(t, tracer, 500*time.Millisecond)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the end took %s: %v", took, err)
			}
			lines := logs.FilterMessageSnippet("traces cannot be sent").Len()
			if (name == "refuses" || name == "is away") && (lines != 1 || err != nil) {
				t.Errorf("%d lines, error %v: %v", lines, err, logs.All())
			}
			if lines > 1 {
				t.Errorf("%d lines", lines)
			}
			if said := fmt.Sprint(logs.All()); strings.Contains(said, "s3cret") {
				t.Errorf("the log holds the secret: %s", said)
			}
		})
	}
}

func TestTroublesAreOver(t *testing.T) {
	var refused atomic.Bool
	refused.Store(true)
	r := tracetest.Start(func(w http.ResponseWriter, _ *http.Request) bool {
		if refused.Load() {
			w.WriteHeader(http.StatusBadRequest)
		}
		return refused.Load()
	})
	defer r.Close()
	tracer, logs := newTest(t, r.URL)
	work(tracer, 1)
	if err := tracer.provider.ForceFlush(context.Background()); err != nil {
		t.Fatal(err)
	}
	refused.Store(false)
	work(tracer, 1)
	if err := closeIn(t, tracer, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if len(r.Spans()) != 3 || logs.FilterMessage("traces are sent again").Len() != 1 {
		t.Errorf("%d spans, log %v", len(r.Spans()), logs.All())
	}
}

// TestLibraryTellsNoSecrets gives the library settings that it cannot read: its
// own words would quote them.
func TestLibraryTellsNoSecrets(t *testing.T) {
	r := tracetest.Start(nil)
	defer r.Close()
	tracer, logs := newTest(t, r.URL,
		"OTEL_EXPORTER_OTLP_HEADERS", "s3cret,authorization=s3cret%zz",
		"OTEL_RESOURCE_ATTRIBUTES", "s3cret",
		"OTEL_EXPORTER_OTLP_CERTIFICATE", "/s3cret",
	)
	work(tracer, 1)
	if err := closeIn(t, tracer, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if said := fmt.Sprint(logs.All()); strings.Contains(said, "s3cret") || !strings.Contains(said, "parse headers") || !strings.Contains(said, "OTEL_RESOURCE_ATTRIBUTES") {
		t.Errorf("log: %s", said)
	}
	if len(r.Spans()) != 3 {
		t.Errorf("%d spans", len(r.Spans()))
	}
}

func TestTextsAreBounded(t *testing.T) {
	r := tracetest.Start(nil)
	defer r.Close()
	tracer, _ := newTest(t, r.URL)
	long := strings.Repeat("ä\xff", 1000)
	d := tracer.Receive(Message{Tenant: long, RequestID: long, Device: long, Stream: long, Received: time.Now()})
	d.Attempt(Call{Began: time.Now(), ClientRequestID: long, GraphRequestID: long, Failure: long, Detail: long})
	d.Verdict(Verdict{Outcome: long, Reason: long, Detail: long, Dead: true})
	d.End()
	if err := closeIn(t, tracer, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if len(r.Spans()) != 3 {
		t.Fatalf("%d spans", len(r.Spans()))
	}
	for _, s := range r.Spans() {
		for k, v := range s.Attributes {
			if text, ok := v.(string); ok && len(text) > maxText {
				t.Errorf("%s: %s has %d bytes", s.Name, k, len(text))
			}
		}
		if len(s.Message) > maxText {
			t.Errorf("%s: the status has %d bytes", s.Name, len(s.Message))
		}
	}
}

func BenchmarkDelivery(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	on, err := New(context.Background(), Config{Service: "x"})
	if err != nil {
		b.Fatal(err)
	}
	for name, tracer := range map[string]*Tracer{"off": nil, "on": on} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				work(tracer, 1)
			}
		})
	}
}
