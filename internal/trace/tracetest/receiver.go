// Package tracetest is a receiver of spans over OTLP/HTTP, for tests.
package tracetest

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span that was received.
type Span struct {
	Name               string
	TraceID, ID        string // hex
	Parent             string // hex; empty: a root
	Kind               string // such as SPAN_KIND_CLIENT
	Failed             bool
	Message            string // of the status
	Attributes         map[string]any
	Resource           map[string]any
	StartNano, EndNano uint64
}

// Receiver takes spans.
type Receiver struct {
	*httptest.Server

	mu      sync.Mutex
	spans   []Span
	headers []http.Header
	refuse  func(http.ResponseWriter, *http.Request) bool
}

// Start starts a receiver. refuse, if not nil, sees each request first, and
// reports whether it has answered it, so that nothing is received.
func Start(refuse func(http.ResponseWriter, *http.Request) bool) *Receiver {
	r := &Receiver{refuse: refuse}
	r.Server = httptest.NewServer(r)
	return r
}

// Spans returns what was received so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.spans...)
}

// Headers returns those of each request that was received.
func (r *Receiver) Headers() []http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]http.Header(nil), r.headers...)
}

// ServeHTTP takes a batch.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	// Until it has been read the server does not notice that the client left.
	sent, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	if r.refuse != nil && r.refuse(w, req) {
		return
	}
	if req.Method != http.MethodPost || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not a batch of spans", http.StatusBadRequest)
		return
	}
	var body io.Reader = bytes.NewReader(sent)
	if req.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	data, err := io.ReadAll(body)
	var batch collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(data, &batch) != nil {
		http.Error(w, "cannot be read", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers = append(r.headers, req.Header)
	for _, resource := range batch.GetResourceSpans() {
		of := attributes(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r.spans = append(r.spans, span(s, of))
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func span(s *otlp.Span, resource map[string]any) Span {
	return Span{
		Name: s.GetName(), TraceID: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()),
		Parent: hex.EncodeToString(s.GetParentSpanId()), Kind: s.GetKind().String(),
		Failed: s.GetStatus().GetCode() == otlp.Status_STATUS_CODE_ERROR, Message: s.GetStatus().GetMessage(),
		Attributes: attributes(s.GetAttributes()), Resource: resource,
		StartNano: s.GetStartTimeUnixNano(), EndNano: s.GetEndTimeUnixNano(),
	}
}

func attributes(list []*common.KeyValue) map[string]any {
	out := make(map[string]any, len(list))
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			out[kv.GetKey()] = v.IntValue
		case *common.AnyValue_BoolValue:
			out[kv.GetKey()] = v.BoolValue
		default:
			out[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return out
}
