package trace

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// repeat is how often it is logged that spans cannot be sent.
const repeat = time.Minute

// Config of a [Tracer]. Where the spans go is in the variables OTEL_EXPORTER_OTLP_*,
// which the library reads itself, like OTEL_TRACES_SAMPLER, OTEL_BSP_*,
// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
type Config struct {
	Service, Version string      // unless the environment names another service
	Log              *zap.Logger // nil: none
}

// Tracer makes spans and sends them in the background. Nil makes none.
type Tracer struct {
	tracer   oteltrace.Tracer
	provider *sdk.TracerProvider
	exporter sdk.SpanExporter
}

// New makes a tracer that sends to where the environment says. It connects
// later: that nobody is there is no error, and is logged.
//
// The library has one error handler and one logger for the whole process; New
// sets both, because its own write header values to standard error.
func New(ctx context.Context, cfg Config) (*Tracer, error) {
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	troubles := &troubles{log: log}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(troubles.report))
	otel.SetLogger(funcr.New(func(_, said string) { log.Warn("OpenTelemetry: " + said) }, funcr.Options{
		Verbosity: 1, // warnings
		// Values may be secrets, and errors may quote them.
		RenderBuiltinsHook: onlyMessage,
		RenderArgsHook:     func([]any) []any { return nil },
	}))
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", cfg.Service), attribute.String("service.version", cfg.Version)),
		resource.WithFromEnv(), // wins over the above
	)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: they cannot be read")
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_…: %w", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithResource(res), sdk.WithBatcher(watched{exporter, troubles}))
	return &Tracer{
		tracer:   provider.Tracer("passcode-worker", oteltrace.WithInstrumentationVersion(cfg.Version)),
		provider: provider,
		exporter: exporter,
	}, nil
}

// onlyMessage leaves of what the library adds to a line of its log the message.
func onlyMessage(pairs []any) []any {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] == "msg" {
			return pairs[i : i+2]
		}
	}
	return nil
}

// Close sends what has not been sent yet and ends the sending. An error means
// that ctx ended before that, and that spans were lost.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	err := t.provider.Shutdown(ctx)
	if err != nil {
		// It may still be waiting for an answer, or to try again.
		_ = t.exporter.Shutdown(ctx)
	}
	return err
}

// watched is an exporter whose failures are logged here: the library would
// write them to standard error, each of them.
type watched struct {
	sdk.SpanExporter
	troubles *troubles
}

// ExportSpans sends a batch. It never fails: what was not sent is lost.
func (w watched) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := w.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		w.troubles.over()
		return nil
	}
	w.troubles.lost(len(spans), err)
	return nil
}

// troubles logs that spans are lost, once in a while.
type troubles struct {
	log *zap.Logger

	mu   sync.Mutex
	at   time.Time // of the last line; zero while all is well
	more int       // spans lost since
}

func (t *troubles) lost(spans int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.more += spans
	if !t.at.IsZero() && time.Since(t.at) < repeat {
		return
	}
	t.log.Warn("traces cannot be sent; the work goes on without them", zap.Int("spans", t.more), zap.String("error", reason(err)))
	t.at, t.more = time.Now(), 0
}

func (t *troubles) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.at.IsZero() {
		t.log.Info("traces are sent again", zap.Int("spans_lost", t.more))
	}
	t.at, t.more = time.Time{}, 0
}

// report takes what the library says out of turn. Its text may quote settings.
func (t *troubles) report(err error) {
	if errors.Is(err, resource.ErrPartialResource) {
		t.log.Warn("OTEL_RESOURCE_ATTRIBUTES: a part of it is invalid and is ignored")
		return
	}
	t.lost(0, fmt.Errorf("OpenTelemetry reports a %T", err))
}

// reason is the text of an error without what the other side wrote.
func reason(err error) string {
	s, _, _ := strings.Cut(err.Error(), "body: ")
	return clip(strings.Join(strings.Fields(s), " "))
}
