// Package worker is the service: it takes requests from the queue,
// keeps their records, calls Graph, and decides how each one goes on.
package worker

import (
	"crypto/x509"
	"time"

	"go.uber.org/zap"

	"passcode-worker/internal/graph"
	"passcode-worker/internal/metrics"
	"passcode-worker/internal/natsconn"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/trace"
	"passcode-worker/internal/verdict"
)

// Config is everything that [Run] needs; it has a field for
// each setting of the operator. Zero durations and counts
// are not replaced by defaults: the command line sets those.
type Config struct {
	NATS natsconn.Config
	// Names are the names on NATS; their Tenant is not looked at.
	Names topology.Names
	// Setup creates missing streams, buckets and consumers, laid out as Layout says.
	Setup  bool
	Layout topology.Layout

	// Tenants are served from the start; at least one. Each new list from Changes replaces the previous
	// one; nil means that there are no changes.
	Tenants []Tenant
	Changes <-chan []Tenant

	// Endpoint is Graph's root without a version.
	Endpoint string
	// RootCAs are trusted for TLS to Graph and the token service; nil means
	// the system's.
	RootCAs *x509.CertPool

	// ActionNames are further names of a reset in a device's list of actions.
	ActionNames []string

	Policy verdict.Policy
	// Follow says whether accepted requests are followed until the device has done it,
	// and FollowPlan when the device is looked at.
	Follow     Follow
	FollowPlan outcome.Plan
	// Fuse holds a tenant when more distinct devices than that would be reset
	// in the window, until an operator releases it; zero: off.
	Fuse pace.Rate
	// Cooldown is how long after a device was reset another request for it is
	// refused; 0: off.
	Cooldown time.Duration
	// Concurrency is how many requests of one tenant are worked on at a time. A
	// tenant whose calls hang takes nothing from another.
	Concurrency int
	// MaxPause caps a pause that Graph asks for; 0 means no cap.
	MaxPause time.Duration

	// HTTPAddr serves metrics and health; empty: none.
	HTTPAddr string
	// DrainTimeout is how long calls in flight may take to finish once the
	// worker is told to stop.
	DrainTimeout time.Duration

	// Tracer sends spans of the work; nil: none.
	Tracer *trace.Tracer

	Build metrics.Build
	Log   *zap.Logger
}

// Follow says whether accepted requests are followed. The zero value is off.
type Follow int

// When accepted requests are followed.
const (
	FollowOff Follow = iota
	FollowOn
	// FollowAuto is on, but off while the token can be read and lacks the right to look
	// at devices.
	FollowAuto
)

// Tenant is whose devices are reset, and as whom. It is comparable: a tenant
// whose value changes is restarted.
type Tenant struct {
	// Name is the last token of the tenant's subjects.
	Name       string
	Credential graph.Credential
	// Rate is the tenant's quota; the zero Rate has no limit.
	Rate pace.Rate
}
