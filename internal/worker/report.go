package worker

import (
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
	"passcode-worker/internal/trace"
)

// verdict logs one line about the request as its record now stands, and tells
// the status page and the trace.
func (j *job) verdict(what string, r record.Record) {
	j.metrics.Verdict(metrics.Verdict{
		ID: j.req.ID, Device: j.req.DeviceID, Outcome: what, State: string(r.State),
		Reason: r.Reason, Detail: r.Detail, Attempt: r.Attempts, Status: r.Status,
	})
	j.trace.Verdict(trace.Verdict{
		Outcome: what, Reason: r.Reason, Detail: r.Detail, Attempts: r.Attempts,
		Verified: r.Verified, Dead: r.State == record.Dead,
	})
	level := zap.InfoLevel
	if r.State == record.Dead {
		level = zap.WarnLevel
	}
	line := j.log.Check(level, what)
	if line == nil {
		return
	}
	fields := append(make([]zap.Field, 0, 13),
		zap.String("request_id", j.req.ID),
		zap.String("device", j.req.DeviceID),
		zap.Int("attempt", r.Attempts),
		zap.Int("status", r.Status),
		zap.String("reason", r.Reason),
		zap.String("graph_request_id", r.GraphRequestID),
		zap.String("client_request_id", r.ClientRequestID),
		zap.Duration("duration", time.Since(j.started)),
	)
	if r.Verified {
		fields = append(fields, zap.Bool("verified", true))
	}
	for _, text := range [...]struct{ name, value string }{
		{"detail", r.Detail}, {"requested_by", j.req.RequestedBy}, {"request_reason", j.req.Reason}, {"traceparent", j.req.Traceparent},
	} {
		if text.value != "" {
			fields = append(fields, zap.String(text.name, text.value))
		}
	}
	line.Write(fields...)
}

// message is what a trace says of this delivery.
func (j *job) message() trace.Message {
	return trace.Message{
		Traceparent: j.req.Traceparent, Tenant: j.name, RequestID: j.req.ID, Device: j.req.DeviceID,
		Stream: j.m.Stream, Sequence: j.m.Sequence, Delivery: int(j.m.Delivered), Received: j.started,
	}
}

// traced is what a trace says of a call; e is nil where it succeeded.
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
