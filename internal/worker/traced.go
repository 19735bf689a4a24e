package worker

import (
	"time"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/trace"
)

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
