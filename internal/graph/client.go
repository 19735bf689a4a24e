// Package graph calls Microsoft Graph: the token, the reset, and the reading of
// what became of a reset. One function is one call; each failure is classified
// once, into an [*Error]. Nothing in here repeats a POST.
package graph

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Config of a [Client].
type Config struct {
	// Endpoint is the root of Graph, for example https://graph.microsoft.com,
	// without a version.
	Endpoint string
	// UserAgent names the product and its version.
	UserAgent string
	// RootCAs are trusted for TLS; nil means the system's.
	RootCAs *x509.CertPool
	// Observe, if not nil, is told of every call that was tried: its method,
	// the status (0 without an answer) and how long it took.
	Observe func(method string, status int, took time.Duration)
}

// Client makes calls to Graph. It is safe for concurrent use.
type Client struct {
	root      string // endpoint and version
	userAgent string
	observe   func(string, int, time.Duration)
	conns     *conns
}

// New makes a client; it connects at the first call.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(strings.TrimRight(cfg.Endpoint, "/"))
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not the address of Graph: write it like https://graph.microsoft.com", cfg.Endpoint)
	}
	if strings.HasSuffix(u.Path, "/v1.0") || strings.HasSuffix(u.Path, "/beta") {
		return nil, fmt.Errorf("%q names a version: write the address of Graph without it", cfg.Endpoint)
	}
	port := u.Port()
	switch u.Scheme {
	case "https":
		if port == "" {
			port = "443"
		}
	case "http":
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("%q would send tokens unencrypted: use https", cfg.Endpoint)
		}
		if port == "" {
			port = "80"
		}
	default:
		return nil, fmt.Errorf("%q is not the address of Graph: its scheme must be https", cfg.Endpoint)
	}
	observe := cfg.Observe
	if observe == nil {
		observe = func(string, int, time.Duration) {}
	}
	return &Client{
		root:      u.String() + "/v1.0",
		userAgent: cfg.UserAgent,
		observe:   observe,
		conns:     newConns(u.Scheme, net.JoinHostPort(u.Hostname(), port), cfg.RootCAs),
	}, nil
}

// Close closes the connections. Calls under way fail.
func (c *Client) Close() { c.conns.close() }

// Target is what a reset is for. App and User are optional and choose the
// route; Device and a User of GUID form are in lower case.
type Target struct{ Device, User, App string }

// path is the route of resetPasscode for the target, below the version.
// Source: the API's page and its metadata; the plain form is the one that
// Microsoft's portal uses.
func (t Target) path() string {
	device := "/managedDevices/" + url.PathEscape(t.Device)
	user := "/users/" + url.PathEscape(t.User)
	app := "/deviceManagement/detectedApps/" + url.PathEscape(t.App)
	switch {
	case t.App != "" && t.User != "":
		return app + device + user + device
	case t.App != "":
		return app + device
	case t.User != "":
		return user + device
	}
	return "/deviceManagement" + device
}

// Answer is what Graph said to a call that succeeded.
type Answer struct {
	Status    int
	RequestID string // Graph's request-id
}

// Call is what one call needs besides its target.
type Call struct {
	Token Token
	// ClientRequestID is a new GUID for each call.
	ClientRequestID string
	// Deadline ends the call; nothing is sent after it.
	Deadline time.Time
}

// Reset calls resetPasscode once. A nil error means 204: Graph has taken the
// reset. Every other end is an [*Error].
func (c *Client) Reset(ctx context.Context, target Target, call Call) (Answer, error) {
	r, err := c.do(ctx, http.MethodPost, c.root+target.path()+"/resetPasscode", call, http.StatusNoContent, maxErrorBody)
	return r.Answer, err
}

// Action is a resetPasscode action of a device, without what it holds.
type Action struct {
	// Started is when Graph says the action began, by Graph's clock.
	Started time.Time
}

// Actions is the answer to [Client.Actions].
type Actions struct {
	Answer
	Resets []Action
	// Ahead is how far Graph's clock is ahead of ours, taken from the Date
	// header, which is cut to whole seconds; 0 where the header is missing.
	Ahead time.Duration
}

// Actions reads the resetPasscode actions of a device. Graph's answer may hold
// the new passcode: no part of it but the instants leaves this function.
//
// Only the read of a single device fills deviceActionResults; a list does not.
// Least permission: DeviceManagementManagedDevices.Read.All.
func (c *Client) Actions(ctx context.Context, device string, call Call) (Actions, error) {
	u := c.root + "/deviceManagement/managedDevices/" + url.PathEscape(device) + "?$select=id,deviceActionResults"
	sent := time.Now()
	r, err := c.do(ctx, http.MethodGet, u, call, http.StatusOK, maxDeviceBody)
	if err != nil {
		return Actions{}, err
	}
	out := Actions{Answer: r.Answer}
	if !r.date.IsZero() {
		out.Ahead = r.date.Sub(sent.Add(time.Since(sent) / 2))
	}
	var device1 struct {
		Results []struct {
			Type    string    `json:"@odata.type"`
			Name    string    `json:"actionName"`
			Started time.Time `json:"startDateTime"`
		} `json:"deviceActionResults"`
	}
	// The decoder's error may quote the answer: it is not passed on.
	if json.Unmarshal(r.body, &device1) != nil {
		return Actions{}, &Error{Kind: Unknown, Status: r.Status, RequestID: r.RequestID,
			Message: "the answer is not the device that was asked for"}
	}
	for _, a := range device1.Results {
		if strings.EqualFold(a.Name, "resetPasscode") || strings.EqualFold(a.Type, "#microsoft.graph.resetPasscodeActionResult") {
			out.Resets = append(out.Resets, Action{Started: a.Started})
		}
	}
	return out, nil
}

const (
	maxErrorBody  = 64 << 10
	maxDeviceBody = 1 << 20
)

type reply struct {
	Answer
	date time.Time
	body []byte
}

// do sends one request at most once.
func (c *Client) do(ctx context.Context, method, address string, call Call, success, maxBody int) (reply, error) {
	start := time.Now()
	r, err := c.try(ctx, method, address, call, success, maxBody)
	status := r.Status
	if e := (*Error)(nil); errors.As(err, &e) {
		status = e.Status
	}
	c.observe(method, status, time.Since(start))
	return r, err
}

func (c *Client) try(ctx context.Context, method, address string, call Call, success, maxBody int) (reply, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, call.Deadline, errDeadline)
	defer cancel()
	var wrote atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }})
	req, err := http.NewRequestWithContext(traced, method, address, http.NoBody)
	if err != nil {
		return reply{}, &Error{Kind: NotSent, Err: err}
	}
	req.Header["Accept"] = []string{"application/json"}
	req.Header["Authorization"] = []string{"Bearer " + call.Token.value}
	req.Header["User-Agent"] = []string{c.userAgent}
	req.Header["Client-Request-Id"] = []string{call.ClientRequestID}

	conn, err := c.conns.get(ctx)
	if err != nil {
		return reply{}, &Error{Kind: NotSent, Err: err}
	}
	// The process may have been stopped and continued, or the machine put to
	// sleep, since the deadline was set: then timers are late, and a monotonic
	// clock may not have moved. Others count on nothing being sent any more.
	if !time.Now().Round(0).Before(call.Deadline.Round(0)) || ctx.Err() != nil {
		conn.cc.Release()
		return reply{}, &Error{Kind: NotSent, Err: errDeadline}
	}
	before := conn.net.written.Load()
	resp, err := conn.cc.RoundTrip(req)
	if err != nil {
		kind := Unknown
		// A call that was cancelled may be written by net/http just after
		// RoundTrip has returned, so for such a call nothing is certain.
		if ctx.Err() == nil &&
			(!wrote.Load() || conn.net.written.Load() == before || refusedUnprocessed(err)) {
			kind = NotSent
		}
		// A connection that lets a call fail is not trusted with the next one:
		// it may be one whose other end has gone without a word.
		c.conns.retire(conn)
		return reply{}, &Error{Kind: kind, Err: cause(ctx, err)}
	}
	defer func() { _ = resp.Body.Close() }() // nothing is left to learn from it
	if resp.ProtoMajor == 1 {
		c.conns.http1.Store(true)
	}
	r := reply{Answer: Answer{Status: resp.StatusCode, RequestID: clean(resp.Header.Get("request-id"), 64)}}
	if d, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		r.date = d
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(maxBody)+1))
	if resp.StatusCode == success {
		if success == http.StatusNoContent {
			return r, nil // the status says it all, whatever became of the body
		}
		if err != nil || len(body) > maxBody {
			c.conns.retire(conn)
			return reply{}, &Error{Kind: Unknown, Status: r.Status, RequestID: r.RequestID,
				Message: "the answer was cut off or is too large"}
		}
		r.body = body
		return r, nil
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		// "Always make new retry requests over a new HTTP connection":
		// Microsoft Graph best practices.
		c.conns.retire(conn)
	}
	return reply{}, c.refusal(resp, r, body, call)
}

var errDeadline = errors.New("the time allowed for the call is over")

func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// refusedUnprocessed tells whether the server said that it did not process a
// request whose headers were written: RFC 9113 sections 6.8 and 8.7.
func refusedUnprocessed(err error) bool {
	// The shape of golang.org/x/net/http2.StreamError, which net/http's own
	// error can be turned into.
	var stream struct {
		StreamID uint32
		Code     uint32
		Cause    error
	}
	const refusedStream = 0x7
	if as, ok := err.(interface{ As(any) bool }); ok && as.As(&stream) {
		return stream.Code == refusedStream
	}
	// net/http has no exported error for a request above a GOAWAY's last
	// stream. Should its text change, the outcome counts as unknown, which is
	// slower but safe; TestTransportFailures would show it.
	return err.Error() == "http2: Transport received Server's graceful shutdown GOAWAY"
}

// refusal turns an answer that is not the success of its call into an error.
func (c *Client) refusal(resp *http.Response, r reply, body []byte, call Call) error {
	e := &Error{Kind: classify(r.Status), Status: r.Status, RequestID: r.RequestID}
	e.Code, e.Message = errorText(body)
	for _, s := range []*string{&e.Code, &e.Message} {
		*s = strings.ReplaceAll(*s, call.Token.value, "[token]")
	}
	switch e.Kind {
	case Throttled, Unavailable:
		e.RetryAfter = retryAfter(resp.Header, time.Now())
	case Unauthorized:
		e.Claims = claimsChallenge(resp.Header.Values("WWW-Authenticate"))
	}
	return e
}

// errorText reads Graph's error body. Intune puts a JSON document of its own
// into the message; its Message is then the text. A body that is not JSON,
// such as a gateway's page, is left out: it says nothing about the request.
func errorText(body []byte) (code, message string) {
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
			message = inner.Message
		}
	}
	return clean(doc.Error.Code, 64), clean(message, maxText)
}

// retryAfter reads the header in its three forms: seconds, decimals of seconds
// (Graph's documentation showed 2.128), HTTP date. It rounds up to a
// millisecond. 0 means that nothing usable was said.
func retryAfter(h http.Header, now time.Time) time.Duration {
	s := strings.TrimSpace(h.Get("Retry-After"))
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		const most = 365 * 24 * time.Hour
		switch {
		case math.IsNaN(f) || f <= 0:
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
	// Both dates are by the server's clock, so ours does not matter.
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(0, at.Sub(now))
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
