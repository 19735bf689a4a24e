package worker

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
	"passcode-worker/internal/trace"
	"passcode-worker/internal/trace/tracetest"
)

// TestTraces follows three requests into a receiver of spans: one that Graph
// refuses, one whose outcome has to be looked up, and one that is not sampled.
func TestTraces(t *testing.T) {
	receiver := tracetest.Start(nil)
	defer receiver.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.URL)
	tracer, err := trace.New(context.Background(), trace.Config{Service: "passcode-worker", Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Tracer = tracer })
	stop := r.start()
	const parent = "b7ad6b7169203331"
	traceOf := func(n string) string { return "0af7651916cd43dd8448eb211c80310" + n }
	header := func(n, flags string) nats.Header {
		return nats.Header{"traceparent": {"00-" + traceOf(n) + "-" + parent + "-" + flags}}
	}
	gone := graphsim.FaultDevice(404, 0, 0, 1)
	refused := r.publish(reset("refused", gone), header("1", "01"))
	r.publish(reset("lost", graphsim.FaultDevice(500, 1, 1, 2)), header("2", "01"))
	r.publish(reset("quiet", graphsim.GoodDevice(3)), header("3", "00"))
	r.awaitState("refused", record.Dead)
	lost := r.awaitState("lost", record.Accepted)
	r.awaitState("quiet", record.Accepted)
	r.awaitEmpty()
	stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := tracer.Close(ctx); err != nil {
		t.Fatal(err)
	}

	letter := r.letters()[strconv.FormatUint(refused, 10)]
	if letter == nil || letter.Header.Get("traceparent") != header("1", "01").Get("traceparent") {
		t.Errorf("the dead letter does not carry the traceparent: %v", letter)
	}
	by := map[string][]tracetest.Span{}
	names := map[string][]string{}
	for _, s := range receiver.Spans() {
		by[s.TraceID] = append(by[s.TraceID], s)
		names[s.TraceID] = append(names[s.TraceID], s.Name)
	}
	if got, want := names[traceOf("1")], []string{"attempt", "verdict", "receive"}; !slices.Equal(got, want) {
		t.Errorf("spans of the refused request: %q, want %q", got, want)
	}
	// Two deliveries: the call, and the look-up after the wait.
	if got, want := names[traceOf("2")], []string{"attempt", "verdict", "receive", "verify", "verdict", "receive"}; !slices.Equal(got, want) {
		t.Errorf("spans of the lost reply: %q, want %q", got, want)
	}
	if len(by) != 2 {
		t.Errorf("%d traces, want the two that are sampled: %q", len(by), names)
	}
	for id, spans := range by {
		receive := map[string]bool{}
		for _, s := range spans {
			if s.Name == "receive" {
				receive[s.ID] = true
			}
		}
		for _, s := range spans {
			if s.Name == "receive" && s.Parent != parent || s.Name != "receive" && !receive[s.Parent] {
				t.Errorf("%s: %s hangs below %s", id, s.Name, s.Parent)
			}
		}
	}
	for i, want := range map[int]map[string]any{
		0: {"http.response.status_code": int64(404), "error.type": "refused", "passcode_reset.device": gone, "passcode_reset.tenant": "default", "passcode_reset.attempt": int64(1)},
		1: {"passcode_reset.reason": "not_found", "passcode_reset.outcome": "dead letter", "passcode_reset.request_id": "refused"},
	} {
		s := by[traceOf("1")][i]
		for k, v := range want {
			if s.Attributes[k] != v {
				t.Errorf("%s: %s is %v, want %v", s.Name, k, s.Attributes[k], v)
			}
		}
		if !s.Failed {
			t.Errorf("%s does not look failed", s.Name)
		}
	}
	look := by[traceOf("2")]
	if s := look[0]; !s.Failed || s.Attributes["passcode_reset.client_request_id"] != lost.ClientRequestID || s.Attributes["passcode_reset.graph_request_id"] != lost.GraphRequestID {
		t.Errorf("the attempt with the lost reply: %+v, record %+v", s, lost)
	}
	if s := look[4]; s.Failed || s.Attributes["passcode_reset.verified"] != true || s.Attributes["passcode_reset.outcome"] != "accepted" {
		t.Errorf("the last verdict: %+v", s)
	}
	for _, s := range receiver.Spans() {
		for k, v := range s.Attributes {
			if text, ok := v.(string); ok && strings.Contains(text, graphsim.DefaultClientSecret) {
				t.Errorf("%s holds the secret", k)
			}
		}
	}
}

func TestStatusPageShowsVerdicts(t *testing.T) {
	r := newRig(t, graphsim.Config{}, nil)
	r.start()
	r.publish(reset("INC<b>1", graphsim.GoodDevice(1)), nil)
	r.publish(reset("INC2", graphsim.FaultDevice(404, 0, 0, 2)), nil)
	r.awaitState("INC2", record.Dead)
	r.awaitEmpty()
	_, page := r.get("/")
	for _, want := range []string{"<h1>Working</h1>", "INC&lt;b&gt;1", graphsim.GoodDevice(1), "not_found", "1 accepted", "1 dead letters"} {
		if !strings.Contains(page, want) {
			t.Errorf("not on the page: %s\n%s", want, page)
		}
	}
}
