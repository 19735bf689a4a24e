package main

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/trace/tracetest"
)

func TestTracing(t *testing.T) {
	const endpoint, traces = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	for _, c := range []struct {
		env     map[string]string
		on      bool
		problem string // its beginning
	}{
		{env: nil},
		{env: map[string]string{endpoint: " "}},
		{env: map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h:4318"}},
		{env: map[string]string{endpoint: "http://h:4318"}, on: true},
		{env: map[string]string{traces: "https://h/v1/traces"}, on: true},
		{env: map[string]string{endpoint: "http://h", "OTEL_SDK_DISABLED": "TRUE"}},
		{env: map[string]string{endpoint: "http://h", "OTEL_SDK_DISABLED": "false"}, on: true},
		{env: map[string]string{endpoint: "http://h", "OTEL_TRACES_EXPORTER": "none"}},
		{env: map[string]string{endpoint: "http://h", "OTEL_TRACES_EXPORTER": "console, otlp"}, on: true},
		{env: map[string]string{endpoint: "http://h", "OTEL_TRACES_EXPORTER": "zipkin"}, problem: "OTEL_TRACES_EXPORTER: "},
		{env: map[string]string{endpoint: "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, on: true},
		{env: map[string]string{endpoint: "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, problem: "OTEL_EXPORTER_OTLP_PROTOCOL: "},
		{env: map[string]string{endpoint: "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, on: true},
		{env: map[string]string{endpoint: "h:4318"}, problem: endpoint + ": "},
		{env: map[string]string{endpoint: "unix:///s3cret"}, problem: endpoint + ": "},
		{env: map[string]string{endpoint: "http://jo:s3cret@h:port"}, problem: endpoint + ": "},
		{env: map[string]string{endpoint: "http://h", traces: "s3cret"}, problem: traces + ": "},
	} {
		on, problem := tracing(func(name string) string { return c.env[name] })
		if on != c.on || !strings.HasPrefix(problem, c.problem) || (c.problem == "") != (problem == "") || strings.Contains(problem, "s3cret") {
			t.Errorf("%v: %t %q", c.env, on, problem)
		}
	}
}

// TestTracesOfAProcess stops a worker before its spans are due: they are sent
// all the same, and a receiver that says nothing does not hold up the end.
func TestTracesOfAProcess(t *testing.T) {
	t.Parallel()
	for name, silent := range map[string]bool{"a receiver": false, "a silent receiver": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tracetest.Start(func(_ http.ResponseWriter, req *http.Request) bool {
				if silent {
					<-req.Context().Done()
				}
				return silent
			})
			t.Cleanup(r.Close)
			w := newWorld(t, graphsim.Config{})
			w.setUp()
			p := launch(t, w.env("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL, "OTEL_BSP_SCHEDULE_DELAY", "3600000"), "run")
			w.publish(body("INC1", graphsim.GoodDevice(1)), nats.Header{"traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}})
			await(t, "the request", func() bool { return w.records()["INC1"].State == record.Accepted })
			if n := len(r.Spans()); n != 0 {
				t.Fatalf("%d spans came before they were due", n)
			}
			began := time.Now()
			p.signal(syscall.SIGTERM)
			if code := p.wait(); code != exitDone {
				t.Errorf("status %d", code)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the end took %s", took)
			}
			want := 3
			if silent {
				want = 0
				if p.line("the last traces could not be sent and are lost") == nil {
					t.Error("the log does not say that spans were lost")
				}
			}
			if n := len(r.Spans()); n != want {
				t.Errorf("%d spans, want %d", n, want)
			}
		})
	}
}
