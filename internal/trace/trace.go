// Package trace sends spans about the work on requests over OTLP/HTTP: receive,
// and below it attempt, verify and verdict.
//
// A nil *Tracer and a nil *Delivery are usable and do nothing, so that work
// without traces costs no more than a look at a pointer. Nothing in here waits
// for the receiver of the spans but [Tracer.Close], and that no longer than it
// is told.
package trace

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// maxText bounds each text of a span, in bytes.
const maxText = 256

// The names of the attributes. Those of HTTP and errors are OpenTelemetry's own.
const (
	keyTenant          = attribute.Key("passcode_reset.tenant")
	keyRequestID       = attribute.Key("passcode_reset.request_id")
	keyDevice          = attribute.Key("passcode_reset.device")
	keyStream          = attribute.Key("passcode_reset.stream")
	keySequence        = attribute.Key("passcode_reset.sequence")
	keyDelivery        = attribute.Key("passcode_reset.delivery")
	keyAttempt         = attribute.Key("passcode_reset.attempt")
	keyOutcome         = attribute.Key("passcode_reset.outcome")
	keyReason          = attribute.Key("passcode_reset.reason")
	keyVerified        = attribute.Key("passcode_reset.verified")
	keyClientRequestID = attribute.Key("passcode_reset.client_request_id")
	keyGraphRequestID  = attribute.Key("passcode_reset.graph_request_id")
	keyMethod          = attribute.Key("http.request.method")
	keyStatus          = attribute.Key("http.response.status_code")
	keyErrorType       = attribute.Key("error.type")
)

// Message is what is known of a message when it is received.
type Message struct {
	Traceparent               string // W3C; empty or not valid: the span is a root
	Tenant, RequestID, Device string
	Stream                    string
	Sequence                  uint64
	Delivery                  int       // how often the message was delivered, this time included
	Received                  time.Time // when this delivery began
}

// Call is one call to Graph that has ended.
type Call struct {
	Began           time.Time
	Attempt         int // of the request; 0 = none counts yet
	ClientRequestID string
	GraphRequestID  string
	Status          int    // HTTP; 0 = no answer
	Failure         string // kind of failure, from a closed list; empty = success
	Detail          string // of the failure; never a secret, token or passcode
}

// Verdict is what became of the request in this delivery.
type Verdict struct {
	Outcome  string // what the log says of it
	Reason   string // empty = accepted
	Detail   string // never a secret, token or passcode
	Attempts int
	Verified bool
	Dead     bool
}

// Delivery is the trace of one delivery of a message. It is used by one
// goroutine. Only a delivery in which something happens makes spans: a message
// that is given back untouched leaves none.
type Delivery struct {
	tracer oteltrace.Tracer
	m      Message
	span   oteltrace.Span // nil until something has happened
	last   time.Time      // end of the last call
}

// Receive begins the trace of a delivery. [Delivery.End] must be called.
func (t *Tracer) Receive(m Message) *Delivery {
	if t == nil {
		return nil
	}
	return &Delivery{tracer: t.tracer, m: m, last: m.Received}
}

// Attempt tells of a reset call that has just ended.
func (d *Delivery) Attempt(c Call) { d.call("attempt", "POST", c) }

// Verify tells of a look-up that has just ended.
func (d *Delivery) Verify(c Call) { d.call("verify", "GET", c) }

func (d *Delivery) call(name, method string, c Call) {
	if d == nil {
		return
	}
	attrs := []attribute.KeyValue{
		keyMethod.String(method), keyAttempt.Int(c.Attempt), text(keyClientRequestID, c.ClientRequestID),
	}
	if c.GraphRequestID != "" {
		attrs = append(attrs, text(keyGraphRequestID, c.GraphRequestID))
	}
	if c.Status != 0 {
		attrs = append(attrs, keyStatus.Int(c.Status))
	}
	if c.Failure != "" {
		attrs = append(attrs, text(keyErrorType, c.Failure))
	}
	span := d.child(name, c.Began, oteltrace.SpanKindClient, attrs)
	if c.Failure != "" {
		span.SetStatus(codes.Error, clip(c.Detail))
	}
	span.End()
	d.last = time.Now()
}

// Verdict tells what becomes of the request. Its span is the time since the
// last call, in which record and dead letter were written.
func (d *Delivery) Verdict(v Verdict) {
	if d == nil {
		return
	}
	attrs := []attribute.KeyValue{text(keyOutcome, v.Outcome), keyAttempt.Int(v.Attempts)}
	if v.Reason != "" {
		attrs = append(attrs, text(keyReason, v.Reason))
	}
	if v.Verified {
		attrs = append(attrs, keyVerified.Bool(true))
	}
	span := d.child("verdict", d.last, oteltrace.SpanKindInternal, attrs)
	if v.Dead {
		span.SetStatus(codes.Error, clip(v.Detail))
		d.span.SetStatus(codes.Error, clip(v.Reason))
	}
	span.End()
}

// End ends the delivery.
func (d *Delivery) End() {
	if d != nil && d.span != nil {
		d.span.End()
	}
}

// child makes a span below that of the delivery, which it begins if need be.
// What is passed on in a context here is the parent span and nothing else.
func (d *Delivery) child(name string, began time.Time, kind oteltrace.SpanKind, attrs []attribute.KeyValue) oteltrace.Span {
	ctx := context.Background()
	who := []attribute.KeyValue{
		text(keyTenant, d.m.Tenant), text(keyRequestID, d.m.RequestID), text(keyDevice, d.m.Device),
	}
	if d.span == nil {
		parent := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": d.m.Traceparent})
		_, d.span = d.tracer.Start(parent, "receive", oteltrace.WithTimestamp(d.m.Received), oteltrace.WithSpanKind(oteltrace.SpanKindConsumer),
			oteltrace.WithAttributes(append(who, text(keyStream, d.m.Stream),
				keySequence.Int64(int64(d.m.Sequence)), keyDelivery.Int(d.m.Delivery))...))
	}
	_, span := d.tracer.Start(oteltrace.ContextWithSpan(ctx, d.span), name,
		oteltrace.WithTimestamp(began), oteltrace.WithSpanKind(kind), oteltrace.WithAttributes(append(who, attrs...)...))
	return span
}

func text(key attribute.Key, s string) attribute.KeyValue { return key.String(clip(s)) }

// clip bounds a text. A text that is not UTF-8 would cost the whole batch.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxText {
		n := maxText
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	return s
}
