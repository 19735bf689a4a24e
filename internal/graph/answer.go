package graph

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// refusal turns an answer that is not the success of its call into an error.
func refusal(header http.Header, r reply, body []byte, token string) error {
	e := &Error{Kind: classify(r.Status), Status: r.Status, RequestID: r.RequestID, RetryAfter: retryAfter(header, time.Now())}
	e.Code, e.Message = errorText(body, token)
	if e.Kind == Unauthorized {
		e.Claims = claimsChallenge(header.Values("WWW-Authenticate"))
	}
	return e
}

// errorText reads Graph's error body. Intune puts a JSON document of its own
// into the message; its Message is then the text. A body that is not JSON,
// such as a gateway's page, is left out: it says nothing about the request.
func errorText(body []byte, token string) (code, message string) {
	var doc struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return "", ""
	}
	message = doc.Error.Message
	if strings.HasPrefix(strings.TrimSpace(message), "{") {
		var inner struct {
			Message string `json:"Message"`
		}
		if json.Unmarshal([]byte(message), &inner) == nil && inner.Message != "" {
			// After the text come ids and an internal address; the request-id
			// that Microsoft's support asks for is kept by itself.
			message, _, _ = strings.Cut(inner.Message, " - Operation ID")
		}
	}
	return clean(doc.Error.Code, maxCode, token), clean(message, maxText, token)
}

// retryAfter is how long the server asks to be left alone, rounded up to a
// millisecond. Of several values, in one line or in more, it is the longest
// that can be read: a proxy may add its own to that of the service behind it.
// 0 means that nothing usable was said.
func retryAfter(h http.Header, now time.Time) time.Duration {
	// Both dates are by the server's clock, so ours does not matter.
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	longest := time.Duration(0)
	for _, line := range h.Values("Retry-After") {
		before := ""
		for value := range strings.SplitSeq(line, ",") {
			// A date may hold a comma itself, after the day of the week.
			longest = max(longest, oneRetryAfter(value, now), oneRetryAfter(before+","+value, now))
			before = value
		}
	}
	return longest
}

// oneRetryAfter reads one value in its three forms: seconds, decimals of
// seconds (Graph's documentation showed 2.128), HTTP date.
func oneRetryAfter(s string, now time.Time) time.Duration {
	const most = 365 * 24 * time.Hour
	s = strings.TrimSpace(s)
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		switch {
		case math.IsNaN(f) || math.IsInf(f, 0) || f <= 0:
			return 0
		case f > most.Seconds():
			return most
		}
		return time.Duration(math.Ceil(f*1000)) * time.Millisecond
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	return min(max(0, at.Sub(now)), most)
}

// claimsChallenge finds the claims of a Continuous Access Evaluation challenge
// and decodes them; empty where there is none.
func claimsChallenge(headers []string) string {
	for _, h := range headers {
		_, after, ok := strings.Cut(h, `claims="`)
		if !ok {
			continue
		}
		value, _, ok := strings.Cut(after, `"`)
		if !ok || len(value) > 8<<10 {
			continue
		}
		decoded, err := decodeBase64(value)
		if err == nil && json.Valid(decoded) && bytes.HasPrefix(bytes.TrimSpace(decoded), []byte("{")) {
			return string(decoded)
		}
	}
	return ""
}

// Texts of net/http that tell that the server did not process a request,
// because its stream is above the last one that a GOAWAY names: RFC 9113
// section 6.8. There is no exported error for it. Should the texts change, the
// outcome counts as unknown, which is slower but safe; TestStreamEnds
// would show it.
const (
	goAwayText      = "http2: Transport received Server's graceful shutdown GOAWAY"
	goAwayErrorText = "http2: Transport received GOAWAY from server ErrCode:" // for the first stream
	// unusableText is for a call that found its connection at its end, mostly
	// because of a GOAWAY, before anything of it was written.
	unusableText = "http2: client conn not usable"
)

// refusedUnprocessed reports whether the server said that it did not process a
// request whose headers were written, or that it takes no more of them.
func refusedUnprocessed(err error) bool {
	if code, ok := streamError(err); ok {
		const refusedStream = 0x7 // RFC 9113 section 8.7
		return code == refusedStream
	}
	return err.Error() == goAwayText || err.Error() == unusableText || strings.HasPrefix(err.Error(), goAwayErrorText)
}

// streamError is the code with which an HTTP/2 stream was ended.
func streamError(err error) (code uint32, ok bool) {
	// The shape of golang.org/x/net/http2.StreamError, which net/http's own
	// error can be turned into.
	var stream struct {
		StreamID uint32
		Code     uint32
		Cause    error
	}
	as, ok := err.(interface{ As(any) bool })
	ok = ok && as.As(&stream)
	return stream.Code, ok
}

var errNoHTTP = errors.New("the connection failed, or the answer is not HTTP")

// told is as much of a failure without an answer as may be told. net/http
// quotes an answer that it cannot read, and that may hold a token or a
// passcode: only errors that are known to be free of it keep their words.
func told(err error) error {
	var network net.Error
	var certificate *tls.CertificateVerificationError
	var proxy *proxyRefusal
	switch {
	case errors.As(err, &proxy):
		return proxy
	case errors.As(err, &network):
		return network
	case errors.As(err, &certificate):
		return certificate
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	if code, ok := streamError(err); ok {
		return fmt.Errorf("the server ended the HTTP/2 stream with error %d", code)
	}
	return errNoHTTP
}
