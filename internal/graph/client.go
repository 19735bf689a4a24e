// Package graph calls Microsoft Graph: the token, the reset, and the reading of
// what became of a reset. One function is one call; each failure is classified
// once, into an [*Error]. Nothing in here repeats a POST.
package graph

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
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
	// ActionNames are names of a reset in a device's list of actions, besides
	// those that are known; see the function of this name.
	ActionNames []string
	// UnknownAction, if not nil, is told the name of each action that is read
	// and may be a reset, because it has the type of one, although its name is
	// not known. The name is in one line and cut.
	UnknownAction func(name string)
}

// Client makes calls to Graph. It is safe for concurrent use.
type Client struct {
	root      string // endpoint and version
	userAgent string
	observe   func(string, int, time.Duration)
	conns     *conns

	actionNames   []string
	unknownAction func(string)
}

// New makes a client; it connects at the first call.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(strings.TrimRight(cfg.Endpoint, "/"))
	if err != nil || u.Hostname() == "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil {
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
	unknownAction := cfg.UnknownAction
	if unknownAction == nil {
		unknownAction = func(string) {}
	}
	return &Client{
		root:      u.String() + "/v1.0",
		userAgent: cfg.UserAgent,
		observe:   observe,
		conns:     newConns(u.Scheme, net.JoinHostPort(u.Hostname(), port), cfg.RootCAs),

		actionNames:   cfg.ActionNames,
		unknownAction: unknownAction,
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
	// May, if not nil, is asked as the last thing before the request is sent,
	// when a connection is there: false sends nothing.
	May func() bool
}

// Reset calls resetPasscode once. A nil error means 204: Graph has taken the
// reset. Every other end is an [*Error].
func (c *Client) Reset(ctx context.Context, target Target, call Call) (Answer, error) {
	r, err := c.do(ctx, http.MethodPost, c.root+target.path()+"/resetPasscode", call, http.StatusNoContent, maxErrorBody)
	return r.Answer, err
}

// Actions is the answer to [Client.Actions].
type Actions struct {
	Answer
	// List is the device's actions in Graph's order; nil where Graph's answer
	// had no list, or null. See [ResetSince].
	List []Action
	// Ahead is how far Graph's clock is ahead of ours, taken from the Date
	// header, which is cut to whole seconds: the least that it can be. 0 where
	// the header is missing.
	Ahead time.Duration
}

// Actions reads the actions of a device, and no more of it: see [Client.Device].
func (c *Client) Actions(ctx context.Context, device string, call Call) (Actions, error) {
	d, err := c.look(ctx, device, "id,deviceActionResults", call)
	return Actions{Answer: d.Answer, List: d.List, Ahead: d.Ahead}, err
}

// List asks for the list of the tenant's devices, no more than one id of it. A nil
// error means 200, with a list: Graph serves the tenant. Without an Intune licence,
// or under a wrong address, it refuses this as it does everything else.
//
// Least permission: DeviceManagementManagedDevices.Read.All. Source: the API's page
// "List managedDevices", and its OData parameters $top and $select.
func (c *Client) List(ctx context.Context, call Call) (Answer, error) {
	r, err := c.list(ctx, call)
	return r.Answer, err
}

func (c *Client) list(ctx context.Context, call Call) (reply, error) {
	r, err := c.do(ctx, http.MethodGet, c.root+listOfOne, call, http.StatusOK, maxErrorBody)
	if err != nil {
		return reply{}, err
	}
	var list struct {
		Value []struct{} `json:"value"` // nothing of a device is read
	}
	if json.Unmarshal(r.body, &list) != nil || list.Value == nil {
		return reply{}, &Error{Kind: Unknown, Status: r.Status, RequestID: r.RequestID, Err: errNoList}
	}
	return r, nil
}

// listOfOne is the route of all devices, below the version.
const listOfOne = "/deviceManagement/managedDevices?$top=1&$select=id"

const (
	maxErrorBody  = 64 << 10
	maxDeviceBody = 1 << 20
)

type reply struct {
	Answer
	ahead time.Duration // of Graph's clock; 0 where it did not say
	body  []byte
}

// do sends one request at most once.
func (c *Client) do(ctx context.Context, method, address string, call Call, success, maxBody int) (reply, error) {
	start := time.Now()
	r, err := c.try(ctx, method, address, call, success, maxBody)
	if errors.Is(err, ErrHeldBack) {
		return r, err // nothing was tried
	}
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
	written := func() {}
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { wrote.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { written() },
	})
	req, err := http.NewRequestWithContext(traced, method, address, http.NoBody)
	if err != nil {
		return reply{}, &Error{Kind: NotSent, Err: err}
	}
	// One array for all of them, in their order below.
	values := [...]string{"application/json", "Bearer " + call.Token.text(), c.userAgent, call.ClientRequestID}
	for i, name := range [len(values)]string{"Accept", "Authorization", "User-Agent", "Client-Request-Id"} {
		req.Header[name] = values[i : i+1 : i+1]
	}

	conn, err := c.conns.get(ctx)
	if err != nil {
		return reply{}, &Error{Kind: NotSent, Benign: stopped(ctx), Err: err}
	}
	// The process may have been stopped and continued, or the machine put to
	// sleep, since the deadline was set: then timers are late, and a monotonic
	// clock may not have moved. Others count on nothing being sent any more.
	if !time.Now().Round(0).Before(call.Deadline.Round(0)) || ctx.Err() != nil {
		conn.cc.Release()
		return reply{}, &Error{Kind: NotSent, Err: fmt.Errorf("%w: %w", ErrHeldBack, errDeadline)}
	}
	if call.May != nil && !call.May() {
		conn.cc.Release()
		return reply{}, &Error{Kind: NotSent, Err: ErrHeldBack}
	}
	done := sync.OnceFunc(conn.net.expect(call.Deadline))
	defer func() {
		if wrote.Load() || ctx.Err() == nil {
			done() // else net/http may be about to write what was given up
		}
	}()
	if conn.http2 {
		written = done // over HTTP/1 the request is in a buffer yet when this is called
	}
	before := conn.net.written.Load()
	sent := time.Now()
	resp, err := conn.cc.RoundTrip(req)
	if err != nil {
		// A connection that lets a call fail is not trusted with the next one:
		// it may be one whose other end has gone without a word.
		c.conns.retire(conn)
		// A call that was cancelled may be written by net/http just after
		// RoundTrip has returned, so for such a call nothing is certain.
		if ctx.Err() != nil {
			return reply{}, &Error{Kind: Unknown, Benign: stopped(ctx), Err: context.Cause(ctx)}
		}
		if refusedUnprocessed(err) {
			return reply{}, &Error{Kind: NotSent, Benign: true, Err: err}
		}
		if !wrote.Load() || conn.net.written.Load() == before {
			return reply{}, &Error{Kind: NotSent, Err: err}
		}
		return reply{}, &Error{Kind: Unknown, Err: told(err)}
	}
	defer func() { _ = resp.Body.Close() }() // nothing is left to learn from it
	took := time.Since(sent)
	r := reply{Answer: Answer{Status: resp.StatusCode, RequestID: clean(resp.Header.Get("request-id"), maxCode, call.Token.text())}}
	switch r.Status {
	case http.StatusSwitchingProtocols:
		// The body is the bare connection, which no deadline ends.
		return reply{}, refusal(resp.Header, r, nil, call.Token.text())
	case http.StatusServiceUnavailable, http.StatusMisdirectedRequest:
		// "Always make new retry requests over a new HTTP connection":
		// Microsoft Graph best practices. A 421 says that this one leads to
		// the wrong server.
		c.conns.retire(conn)
	case http.StatusNoContent:
		if success == http.StatusNoContent {
			return r, nil // the status says it all, whatever becomes of the body
		}
	}
	if d, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// Graph says when it began to answer, which was before the answer was
		// here, however long it took. The least that its clock can be ahead
		// counts: by it an action seems later, never earlier than it was.
		r.ahead = d.Sub(sent.Add(took))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(maxBody)+1))
	if err != nil {
		c.conns.retire(conn)
	}
	if r.Status != success {
		return reply{}, refusal(resp.Header, r, body, call.Token.text())
	}
	if err != nil || len(body) > maxBody {
		return reply{}, &Error{Kind: Unknown, Status: r.Status, RequestID: r.RequestID, Benign: stopped(ctx), Err: errCutOff}
	}
	r.body = body
	return r, nil
}

// stopped tells that the caller has ended a call, rather than its deadline.
func stopped(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), errDeadline)
}

var (
	// ErrHeldBack is the failure of a call that was not made, because its
	// deadline had passed or Call.May said no.
	ErrHeldBack = errors.New("the call was not sent: something came up just before it")

	errDeadline = errors.New("the time limit for the call is over")
	errCutOff   = errors.New("the answer was cut off or is too large")
	errNoList   = errors.New("the answer is not a list of devices")
	errNoDevice = errors.New("the answer is not the device that was asked for")
)
