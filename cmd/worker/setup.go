package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/natsconn"
	"passcode-worker/internal/topology"
)

type setupCmd struct {
	natsOptions   `embed:""`
	nameOptions   `embed:""`
	tenantsOption `embed:""`
	keepOptions   `embed:""`

	Replicas         string `default:"0" placeholder:"N" help:"Replicas of each stream and bucket: 1, 3 or 5. 0: three in a cluster, otherwise one."`
	Storage          string `default:"file" placeholder:"KIND" help:"file or memory. Use memory for trials only: a restart of the server loses everything."`
	Retention        string `default:"${retention}" placeholder:"TIME" help:"How long dead letters and records are kept."`
	MaxBytes         string `default:"0" placeholder:"N" help:"Size limit of each stream and each bucket in bytes. A full one drops nothing and takes nothing more. 0: no limit."`
	MaxBytesRequests string `placeholder:"N" help:"Size limit of the request stream only. Publishers get an error when it is full."`
	MaxBytesDead     string `placeholder:"N" help:"Size limit of the dead-letter stream only."`
	MaxBytesRecords  string `placeholder:"N" help:"Size limit of the bucket of records only."`
	MaxBytesState    string `placeholder:"N" help:"Size limit only of the bucket in which replicas hand on their state."`
	MaxBytesDevices  string `placeholder:"N" help:"Size limit only of the bucket of devices that cool down."`
	MaxBytesOutcomes string `placeholder:"N" help:"Size limit only of the bucket of outcomes."`
	MaxBytesFollow   string `placeholder:"N" help:"Size limit only of the stream of alarms for accepted requests."`
	MaxAckPending    string `default:"1000" placeholder:"N" help:"How many requests of a tenant may be delivered and not settled at a time. If more requests than that wait for a retry, they hold up the requests behind them."`
	Update           bool   `help:"Also change existing streams, buckets and consumers to these settings."`
}

const setupTimeout = 30 * time.Second

// Run creates what is missing.
func (c setupCmd) Run(ctx context.Context, s streams) error {
	r := &reader{}
	natsCfg, names := c.natsOptions.read(r), c.nameOptions.read(r)
	replicas, _ := strconv.Atoi(r.oneOf("--replicas", c.Replicas, "0", "1", "3", "5")) // oneOf has reported anything else
	layout := topology.Layout{
		Replicas:  replicas,
		Memory:    r.oneOf("--storage", c.Storage, "file", "memory") == "memory",
		Retention: c.retention(r),
		MaxBytes: topology.Sizes{
			Requests: c.size(r, "--max-bytes-requests", c.MaxBytesRequests),
			Dead:     c.size(r, "--max-bytes-dead", c.MaxBytesDead),
			Records:  c.size(r, "--max-bytes-records", c.MaxBytesRecords),
			State:    c.size(r, "--max-bytes-state", c.MaxBytesState),
			Devices:  c.size(r, "--max-bytes-devices", c.MaxBytesDevices),
			Outcomes: c.size(r, "--max-bytes-outcomes", c.MaxBytesOutcomes),
			Follow:   c.size(r, "--max-bytes-follow", c.MaxBytesFollow),
		},
		MaxAckPending: r.number("--max-ack-pending", c.MaxAckPending, 1, math.MaxInt32),
		Cooldown:      c.keepOptions.deviceTTL(r),
		Update:        c.Update,
	}
	r.number("--max-bytes", c.MaxBytes, 0, math.MaxInt) // here, so that it is reported once
	tenants := []string{names.Tenant}
	if c.TenantsFile != "" {
		tenants = c.tenantsOption.names(r)
	}
	layout.Tenants = len(tenants)
	if err := r.err(); err != nil {
		return err
	}
	for _, name := range unknownVariables(variables(reflect.TypeFor[cli]()), os.Environ()) {
		fmt.Fprintf(s.err, "worker: %s\n", unknownVariable(name))
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	nc, err := natsconn.Connect(natsCfg, nats.RetryOnFailedConnect(false),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			// To the caller, a request that is not allowed looks like one that nobody
			// answers. The rights to publish on the worker's own subjects are not needed:
			// they only help to find streams of other domains.
			if errors.Is(err, nats.ErrPermissionViolation) && !about(err, names.Filter(), names.Dead(), names.FollowSubject+".0."+names.Tenant) {
				stop(fmt.Errorf("a right is missing: %w", err))
			}
		}))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", hosts(natsCfg.URL), err)
	}
	defer nc.Close()
	js, err := natsCfg.JetStream(nc)
	if err != nil {
		return err
	}
	done, err := topology.SetupShared(ctx, js, names, layout)
	for _, t := range tenants {
		if err == nil {
			names.Tenant = t
			var own topology.Done
			if own, err = topology.SetupConsumer(ctx, js, names, layout); err == nil {
				done = append(done, own)
			}
		}
	}
	if err == nil {
		var following []topology.Done
		following, err = topology.SetupFollow(ctx, js, names, layout)
		done = append(done, following...)
	}
	for _, d := range done {
		fmt.Fprintf(s.out, "%-8s %s\n", d.Action, d.What)
		if d.Note != "" {
			fmt.Fprintf(s.err, "worker: %s: %s\n", d.What, d.Note)
		}
	}
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, nats.ErrPermissionViolation) {
		return cause
	}
	return topology.Unheard(js.Options(), err)
}

// retention refuses a value that removes a record while it is still needed to keep its
// request from being done again.
func (c setupCmd) retention(r *reader) time.Duration {
	r.tidy(&c.keepOptions)
	maxAge, cooldown, fuse := c.keepOptions.read(r)
	given := r.duration("--retention", c.Retention, 0)
	least := topology.Keep(maxAge, cooldown, fuse.W)
	if len(r.problems) == 0 && given < least {
		r.fail("--retention", "%q is too short: a request can be done again once its record is gone. Records must be kept a day longer than "+
			"WORKER_MAX_AGE, WORKER_DEVICE_COOLDOWN, the time of WORKER_FUSE, and the 10m in which NATS recognizes copies: give at least %s", c.Retention, least)
	}
	return given
}

// size is the size limit of one stream or bucket: its own, or the one for all.
func (c setupCmd) size(r *reader, flag, own string) int64 {
	if own != "" {
		return int64(r.number(flag, own, 0, math.MaxInt))
	}
	all, _ := strconv.ParseInt(c.MaxBytes, 10, 64) // Run reports what is not a number
	return all
}

// about reports whether an error of the connection names one of the subjects.
func about(err error, subjects ...string) bool {
	return slices.ContainsFunc(subjects, func(s string) bool { return strings.Contains(err.Error(), strconv.Quote(s)) })
}

// hosts names the servers of a list without the passwords that it may hold.
func hosts(list string) string {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimSpace(s)
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		if u, err := url.Parse(s); err == nil {
			out = append(out, u.Host)
		}
	}
	return strings.Join(out, ", ")
}
