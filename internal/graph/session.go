package graph

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	msalerrors "github.com/AzureAD/microsoft-authentication-library-for-go/apps/errors"
)

// mostTokenWait is the longest that a token service is left alone, however long
// it asks for: by then an operator may have set things right.
const mostTokenWait = time.Hour

// session is the HTTP client that the library is given for one token.
type session struct {
	http    *http.Client
	secrets []string // what must not be in an error's text
}

// Do sends a request of the library's. It reads the whole answer, because the
// library would read it without a bound.
func (s *session) Do(req *http.Request) (*http.Response, error) {
	s.note(req)
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDeviceBody))
	_ = resp.Body.Close() // all of it that counts has been read
	if err != nil {
		return nil, err
	}
	resp.Body = again{bytes.NewReader(body)}
	return resp, nil
}

// note keeps the proofs that a request holds.
func (s *session) note(req *http.Request) {
	for _, name := range []string{"X-Identity-Header", "Secret"} {
		s.secrets = append(s.secrets, req.Header.Get(name))
	}
	if req.GetBody == nil {
		return
	}
	if body, err := req.GetBody(); err == nil {
		text, _ := io.ReadAll(body)             // from memory
		form, _ := url.ParseQuery(string(text)) // what can be read has to do
		s.secrets = append(s.secrets, form.Get("client_secret"), form.Get("client_assertion"))
	}
}

// CloseIdleConnections is what the library's interface asks for.
func (s *session) CloseIdleConnections() { s.http.CloseIdleConnections() }

// ConfigureClient lets the library pin the certificate of Service Fabric.
func (s *session) ConfigureClient(augment func(*http.Client) (*http.Client, error)) error {
	client, err := augment(s.http)
	if err != nil {
		return err
	}
	s.http = client
	return nil
}

// again is a body that can be read once more after Close: the library for
// managed identities hands a failed answer on after it has read it.
type again struct{ *bytes.Reader }

// Close goes back to the start.
func (a again) Close() error {
	_, err := a.Seek(0, io.SeekStart)
	return err
}

// failure classifies a failure of the token service. The library's error holds
// the request with the secret and the whole answer: only the parts that help
// are taken.
func (s *session) failure(err error) error {
	var call msalerrors.CallErr
	if !errors.As(err, &call) || call.Resp == nil {
		var parse msalerrors.InvalidJsonErr
		if errors.As(err, &parse) {
			return &Error{Kind: TokenUnavailable, Message: "the token service's answer is not JSON, or not a token"}
		}
		return &Error{Kind: TokenUnavailable, Message: clean(transportText(err), maxText, s.secrets...)}
	}
	e := &Error{Kind: TokenRefused, Status: call.Resp.StatusCode,
		RetryAfter: min(retryAfter(call.Resp.Header, time.Now()), mostTokenWait)}
	if e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout || e.Status >= 500 || e.Status < 400 {
		e.Kind = TokenUnavailable
	}
	var doc struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if call.Resp.Body != nil {
		body, _ := io.ReadAll(io.LimitReader(call.Resp.Body, maxErrorBody)) // what could be read has to do
		if json.Unmarshal(body, &doc) == nil {
			// After the first line come trace ids and a time stamp.
			first, _, _ := strings.Cut(doc.Description, "\n")
			first, _, _ = strings.Cut(first, " Trace ID:")
			e.Code, e.Message = clean(doc.Error, maxCode, s.secrets...), clean(first, maxText, s.secrets...)
		}
	}
	return e
}

// transportText is the inner part of a failure to reach the service: the outer
// ones hold whole addresses and nothing else of use.
func transportText(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		return told(u.Err).Error()
	}
	return err.Error()
}
