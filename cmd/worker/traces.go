package main

import (
	"cmp"
	"context"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/trace"
	"passcode-worker/internal/worker"
)

// flushMost is how long the end waits for the last spans, or a tenth of the drain
// timeout if that is shorter: it must not outlast that timeout.
const flushMost = time.Second

// startTracing makes the tracer, if the environment asks for one. A problem is only
// logged, and the worker runs without traces: platforms set these variables for
// everything that they run.
func startTracing(ctx context.Context, cfg *worker.Config) (stop func()) {
	on, problem := tracing(os.Getenv)
	if problem != "" {
		cfg.Log.Warn("no traces are sent: " + problem)
	}
	if !on {
		return func() {}
	}
	tracer, err := trace.New(ctx, trace.Config{Service: "passcode-worker", Version: cfg.Build.Version, Log: cfg.Log.Named("trace")})
	if err != nil {
		cfg.Log.Warn("no traces are sent", zap.Error(err))
		return func() {}
	}
	cfg.Tracer = tracer
	return func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(flushMost, cfg.DrainTimeout/10))
		defer cancel()
		if err := tracer.Close(end); err != nil {
			cfg.Log.Warn("the last traces could not be sent and are lost", zap.Error(err))
		}
	}
}

// tracing reports whether the environment asks for traces that can be sent, or the
// problem with it. The variables are OpenTelemetry's; an empty one counts as not set.
func tracing(getenv func(string) string) (on bool, problem string) {
	get := func(names ...string) (name, value string) {
		for _, name := range names {
			if value := strings.TrimSpace(getenv(name)); value != "" {
				return name, value
			}
		}
		return "", ""
	}
	name, endpoint := get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	_, disabled := get("OTEL_SDK_DISABLED")
	_, exporters := get("OTEL_TRACES_EXPORTER")
	if endpoint == "" || strings.EqualFold(disabled, "true") || exporters == "none" {
		return false, ""
	}
	// The value is not repeated: it may name a user.
	if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false, name + ": it is not an address like http://collector:4318"
	}
	if !slices.Contains(strings.Split(strings.ReplaceAll(cmp.Or(exporters, "otlp"), " ", ""), ","), "otlp") {
		return false, "OTEL_TRACES_EXPORTER: only otlp and none are supported"
	}
	if name, protocol := get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); protocol == "grpc" {
		return false, name + ": grpc is not supported; set it to http/protobuf, and the address to the port for HTTP (4318)"
	}
	return true, ""
}
