package worker

import (
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/consume"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/record"
	"passcode-worker/internal/trace"
	"passcode-worker/internal/verdict"
)

// report logs one line about the request as its record now stands, and tells
// the status page and the trace.
func (d *delivery) report(what string, r record.Record) {
	d.t.metrics.Verdict(metrics.Verdict{
		ID: d.req.ID, Device: d.req.DeviceID, Outcome: what, State: string(r.State),
		Reason: r.Reason, Detail: r.Detail, Attempt: r.Attempts, Status: r.Status,
	})
	d.trace.Verdict(trace.Verdict{
		Outcome: what, Reason: r.Reason, Detail: r.Detail, Attempts: r.Attempts,
		Verified: r.Verified, Dead: r.State == record.Dead,
	})
	level := zap.InfoLevel
	if r.State == record.Dead {
		level = zap.WarnLevel
	}
	line := d.t.log.Check(level, what)
	if line == nil {
		return
	}
	fields := append(make([]zap.Field, 0, 13),
		zap.String("request_id", d.req.ID),
		zap.String("device", d.req.DeviceID),
		zap.Int("attempt", r.Attempts),
		zap.Int("status", r.Status),
		zap.String("reason", r.Reason),
		zap.String("graph_request_id", r.GraphRequestID),
		zap.String("client_request_id", r.ClientRequestID),
		zap.Duration("duration", time.Since(d.started)),
	)
	if r.Verified {
		fields = append(fields, zap.Bool("verified", true))
	}
	for _, text := range [...]struct{ name, value string }{
		{"detail", r.Detail}, {"requested_by", d.req.RequestedBy}, {"request_reason", d.req.Reason}, {"traceparent", d.req.Traceparent},
	} {
		if text.value != "" {
			fields = append(fields, zap.String(text.name, text.value))
		}
	}
	line.Write(fields...)
}

// message is what a trace says of this delivery.
func (d *delivery) message() trace.Message {
	return trace.Message{
		Traceparent: d.req.Traceparent, Tenant: d.t.name, RequestID: d.req.ID, Device: d.req.DeviceID,
		Stream: d.m.Stream, Sequence: d.m.Sequence, Delivery: int(d.m.Delivered), Received: d.started,
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

// duplicate acknowledges a message whose request was accepted by another one.
func (d *delivery) duplicate() consume.Disposition {
	d.t.metrics.Request(metrics.OutcomeDuplicate, time.Since(d.published()))
	d.report("duplicate: the request was accepted before", d.rec)
	return consume.Ack()
}

// originalOf is what of a delivery goes with its dead letter.
func originalOf(m consume.Message) deadletter.Original {
	return deadletter.Original{
		Subject: m.Subject, Header: m.Header, Data: m.Data,
		Stream: m.Stream, Sequence: m.Sequence, Published: m.Published,
	}
}

// letterOf is what the dead letter of a request says of it.
func letterOf(r record.Record, requestID string) deadletter.Letter {
	return deadletter.Letter{
		Reason:          r.Reason,
		Detail:          r.Detail,
		Attempts:        r.Attempts,
		Status:          r.Status,
		RequestID:       requestID,
		GraphRequestID:  r.GraphRequestID,
		ClientRequestID: r.ClientRequestID,
		Redrives:        r.Redrives,
	}
}

// buried acknowledges a message whose dead letter is stored.
func (d *delivery) buried(r record.Record) consume.Disposition {
	d.t.metrics.DeadLetter(verdict.Reason(r.Reason))
	d.t.metrics.Request(metrics.OutcomeDead, time.Since(d.published()))
	d.report("dead letter", r)
	return consume.Ack()
}

// unburied gives a message back whose dead letter could not be published.
func (d *delivery) unburied(r record.Record, err error) consume.Disposition {
	d.t.log.Error("the dead letter could not be published; the request stays in the queue",
		zap.String("request_id", d.req.ID), zap.String("reason", r.Reason), zap.Error(err))
	return d.nak(time.Now().Add(d.t.policy.Backoff(int(min(d.m.Delivered, 16)), d.key)), true)
}
