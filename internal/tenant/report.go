package tenant

import (
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
	"passcode-worker/internal/trace"
	"passcode-worker/internal/verdict"
)

// report tells people of one delivery: in the log, the metrics, on the status page
// and in the trace.
type report struct {
	cfg     *Config
	own     *record.Record // the record of the delivered message before its first attempt
	started time.Time
	trace   *trace.Delivery // nil: none
}

// begin begins the trace; end has to be called.
func (p *report) begin(delivery int) {
	p.trace = p.cfg.Tracer.Receive(trace.Message{
		Traceparent: p.own.Traceparent, Tenant: p.cfg.Name, RequestID: p.own.ID, Device: p.own.ManagedDeviceID,
		Stream: p.own.Stream, Sequence: p.own.Sequence, Delivery: delivery, Received: p.started,
	})
}

func (p *report) end() { p.trace.End() }

// attempt reports a call; e is nil if it succeeded.
func (p *report) attempt(began time.Time, attempt int, call graph.Call, answer graph.Answer, e *graph.Error) {
	if p.trace != nil {
		p.trace.Attempt(traced(began, attempt, call, answer, e))
	}
	p.cfg.Metrics.Attempt(verdict.ResultOf(kindOf(e)))
}

// look reports a look; e is nil if it was answered.
func (p *report) look(began time.Time, attempt int, call graph.Call, answer graph.Answer, e *graph.Error) {
	if p.trace != nil {
		p.trace.Verify(traced(began, attempt, call, answer, e))
	}
}

// traced is what a trace says about a call.
func traced(began time.Time, attempt int, call graph.Call, answer graph.Answer, e *graph.Error) trace.Call {
	c := trace.Call{
		Began: began, Attempt: attempt, ClientRequestID: call.ClientRequestID,
		GraphRequestID: answer.RequestID, Status: answer.Status,
	}
	if e != nil {
		c.GraphRequestID, c.Status, c.Failure, c.Detail = e.RequestID, e.Status, e.Kind.String(), e.Error()
	}
	return c
}

// dead reports a request whose dead letter is stored.
func (p *report) dead(r record.Record, published time.Time) {
	p.cfg.Metrics.DeadLetter(verdict.Reason(r.Reason))
	p.done(metrics.OutcomeDead, "dead letter", r, published)
}

// done reports a request that has ended.
func (p *report) done(outcome metrics.Outcome, what string, r record.Record, published time.Time) {
	p.cfg.Metrics.Request(outcome, time.Since(published))
	p.say(what, r)
}

// say reports the request as its record now stands.
func (p *report) say(what string, r record.Record) {
	p.cfg.Metrics.Verdict(metrics.Verdict{
		ID: p.own.ID, Device: p.own.ManagedDeviceID, Outcome: what, State: string(r.State),
		Reason: r.Reason, Detail: r.Detail, Attempt: r.Attempts, Status: r.Status,
	})
	p.trace.Verdict(trace.Verdict{
		Outcome: what, Reason: r.Reason, Detail: r.Detail, Attempts: r.Attempts,
		Verified: r.Verified, Dead: r.State == record.Dead,
	})
	level := zap.InfoLevel
	if r.State == record.Dead {
		level = zap.WarnLevel
	}
	line := p.cfg.Log.Check(level, what)
	if line == nil {
		return
	}
	fields := append(make([]zap.Field, 0, 13),
		zap.String("request_id", p.own.ID),
		zap.String("device", p.own.ManagedDeviceID),
		zap.Int("attempt", r.Attempts),
		zap.Int("status", r.Status),
		zap.String("reason", r.Reason),
		zap.String("graph_request_id", r.GraphRequestID),
		zap.String("client_request_id", r.ClientRequestID),
		zap.Duration("duration", time.Since(p.started)),
	)
	if r.Verified {
		fields = append(fields, zap.Bool("verified", true))
	}
	for _, text := range [...]struct{ name, value string }{
		{"detail", r.Detail}, {"requested_by", p.own.RequestedBy}, {"request_reason", p.own.RequestReason}, {"traceparent", p.own.Traceparent},
	} {
		if text.value != "" {
			fields = append(fields, zap.String(text.name, text.value))
		}
	}
	line.Write(fields...)
}
