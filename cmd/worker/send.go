package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/alecthomas/kong"

	"passcode-worker/internal/ops"
	"passcode-worker/internal/outcome"
	"passcode-worker/internal/record"
	"passcode-worker/internal/request"
)

type sendCmd struct {
	Device      string `group:"request" placeholder:"GUID" help:"Intune device id."`
	User        string `group:"request" placeholder:"ID" help:"Object id or user principal name of the user. It makes the worker call another route of Graph."`
	App         string `group:"request" placeholder:"ID" help:"Id of a detected app. It makes the worker call another route of Graph."`
	ID          string `group:"request" placeholder:"ID" help:"Your own id of the request, such as the ticket number: same id = same request. Without it, the command makes one."`
	NotAfter    string `group:"request" placeholder:"INSTANT" help:"Do not reset after this time, like 2026-01-31T15:04:05Z."`
	RequestedBy string `group:"request" placeholder:"TEXT" help:"Who asked for the reset; shown in the record and the log."`
	Reason      string `group:"request" placeholder:"TEXT" help:"Why the reset is needed; shown in the record and the log."`

	File    string `placeholder:"FILE" help:"File with many requests: one JSON object per line, with the fields of a request. - means standard input."`
	Wait    bool   `help:"Wait until each request is accepted by Graph or dead. The exit status is 1 if one is dead."`
	Follow  bool   `help:"Wait until the devices have carried out the resets, too. The exit status is 0 only if each outcome is done; it is 1 at once if requests are not followed."`
	Timeout string `default:"0s" placeholder:"TIME" help:"With --wait or --follow: how long to wait at most. 0s: no limit."`

	toolOptions `embed:""`
}

// Help is shown by worker send --help.
func (sendCmd) Help() string {
	return "Publishes a request, waits until NATS has stored it, and prints its id. It checks each request as the worker does; " +
		"if one request of a list is invalid, it publishes none of them. " +
		"After a failure it is safe to send a request again with the same id; without an id it would be a new request. " +
		"You can stop waiting at any time: the workers still handle what is published."
}

// fieldFlags are the flags of a request's fields.
func fieldFlags() map[string]string {
	return map[string]string{
		"managedDeviceId": "--device", "userId": "--user", "detectedAppId": "--app", "id": "--id",
		"notAfter": "--not-after", "requestedBy": "--requested-by", "reason": "--reason",
	}
}

// Run publishes.
func (c sendCmd) Run(ctx context.Context, s streams, line *kong.Context) error {
	r := &reader{}
	for _, flag := range []string{"--id", "--not-after", "--user", "--app"} {
		// A script whose variable is empty would not send the request that it means,
		// but one without its id, its end, its user or its app.
		if givenEmpty(line, flag) {
			r.fail(flag, "it is empty: give a value, or leave it out")
		}
	}
	timeout := r.duration("--timeout", c.Timeout, 0)
	if timeout > 0 && !c.Wait && !c.Follow {
		r.fail("--timeout", "it needs --wait or --follow")
	}
	one := c.one()
	var requests []ops.Sending
	switch {
	case c.File != "" && one != nil:
		r.fail("--file", "give it alone, or the fields of one request")
	case c.File == "" && c.Device == "":
		r.fail("--device", "it is missing: give a device, or --file")
	case c.File == "":
		request, err := ops.Prepare(one)
		if invalid := fieldOf(err); err != nil {
			r.fail(invalid, "%v", problemOf(err))
		}
		requests = []ops.Sending{request}
	}
	if c.File != "" && len(r.problems) == 0 {
		var err error
		if requests, err = readRequests(ctx, c.File, s); err != nil {
			return err
		}
	}
	return c.run(ctx, s, r, func(ctx context.Context, t *tool) error {
		return t.send(ctx, requests, waiting{c.Wait || c.Follow, c.Follow, timeout})
	})
}

// givenEmpty reports whether a flag is on the command line with an empty value. An empty
// flag stands for the command's argument.
func givenEmpty(line *kong.Context, flag string) bool {
	return slices.ContainsFunc(line.Path, func(p *kong.Path) bool {
		switch {
		case p.Flag != nil:
			return "--"+p.Flag.Name == flag && line.FlagValue(p.Flag) == ""
		case p.Positional != nil:
			return flag == "" && p.Positional.Target.String() == ""
		}
		return false
	})
}

// given reports whether a flag is on the command line.
func given(line *kong.Context, flag string) bool {
	return slices.ContainsFunc(line.Path, func(p *kong.Path) bool { return p.Flag != nil && "--"+p.Flag.Name == flag })
}

// one is the body of the request that the flags describe; nil: there are no such flags.
func (c sendCmd) one() []byte {
	fields := map[string]string{}
	for name, value := range map[string]string{
		"managedDeviceId": c.Device, "userId": c.User, "detectedAppId": c.App, "id": c.ID,
		"notAfter": c.NotAfter, "requestedBy": c.RequestedBy, "reason": c.Reason,
	} {
		if value != "" {
			fields[name] = value
		}
	}
	if len(fields) == 0 {
		return nil
	}
	body, err := json.Marshal(fields) // never fails for strings
	if err != nil {
		return nil
	}
	return body
}

// fieldOf names the flag of the field that makes a request invalid, and problemOf says
// what is wrong with it.
func fieldOf(err error) string {
	if invalid := (*request.Invalid)(nil); errors.As(err, &invalid) && fieldFlags()[invalid.Field] != "" {
		return fieldFlags()[invalid.Field]
	}
	return "request"
}

func problemOf(err error) string {
	if invalid := (*request.Invalid)(nil); errors.As(err, &invalid) {
		return invalid.Problem
	}
	return fmt.Sprint(err)
}

// mostProblems is how many bad lines of a list are reported.
const mostProblems = 20

// readRequests reads a list, one request per line. It fails if any line is invalid, or
// has the id of another one, so that nothing is sent.
func readRequests(ctx context.Context, path string, s streams) ([]ops.Sending, error) {
	data, err := readAll(ctx, path)
	if err != nil {
		return nil, &usageError{problems: []error{fmt.Errorf("--file: it cannot be read: %w", err)}, about: "wrong usage: "}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors begin a file with it
	var out []ops.Sending
	var problems []error
	lines := map[string]int{}
	number, nameless := 0, 0
	for line := range bytes.Lines(data) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		r, err := ops.Prepare(line)
		if err == nil && lines[r.Key] > 0 {
			err = fmt.Errorf("it has the same id as line %d, so it is the same request", lines[r.Key])
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", number, err))
			continue
		}
		lines[r.Key] = number
		if r.Named {
			nameless++
		}
		out = append(out, r)
	}
	if len(problems) == 0 && len(out) == 0 {
		problems = append(problems, errors.New("--file: it holds no requests"))
	}
	if n := len(problems); n > 0 {
		if n > mostProblems {
			problems = append(problems[:mostProblems], fmt.Errorf("and %d lines more", n-mostProblems))
		}
		return nil, &usageError{problems: problems, about: "nothing was published: "}
	}
	if nameless > 0 {
		fmt.Fprintf(s.err, "worker: %d of %d requests have no id and get one: sending this list again would cause %d more resets\n", nameless, len(out), nameless)
	}
	return out, nil
}

// readAll reads a file or, until ctx ends, standard input.
func readAll(ctx context.Context, path string) ([]byte, error) {
	if path != "-" {
		return os.ReadFile(path)
	}
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(os.Stdin)
		read <- result{data, err}
	}()
	select {
	case r := <-read:
		return r.data, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// waiting says what to wait for, and how long; 0 means until the end.
type waiting struct {
	record, device bool
	timeout        time.Duration
}

func (t *tool) send(ctx context.Context, requests []ops.Sending, wait waiting) error {
	key := "*"
	if len(requests) == 1 {
		key = requests[0].Key
	}
	var follower *ops.Follower
	var devices *ops.Devices
	var err error
	if wait.record {
		if follower, err = t.Follow(ctx, key); err != nil {
			return err
		}
		defer follower.Stop()
	}
	if wait.device {
		if devices, err = t.FollowDevices(ctx, key); err != nil {
			return fmt.Errorf("nothing was published: %w; with --wait instead of --follow, the command waits only for Graph", err)
		}
		defer devices.Stop()
	}
	var sent []ops.Sent
	p := t.progress()
	err = t.Send(ctx, requests, func(s ops.Sent) {
		sent = append(sent, s)
		if t.json {
			t.object(s)
		} else {
			t.line("%s", plain(s.ID))
		}
		if len(requests) > 1 {
			p.tell("%s of %s published", count(len(sent)), count(len(requests)))
		}
	})
	if err != nil {
		if len(requests) > 1 {
			t.tell("%s of %s are published for certain; their ids are on standard output. The others may be published: send them again with the same ids",
				count(len(sent)), count(len(requests)))
		} else {
			t.tell("it may be stored nevertheless: send it again with --id %s", plain(requests[0].ID))
		}
		return err
	}
	if len(requests) > 1 {
		t.tell("%s published", count(len(sent)))
	}
	if !wait.record {
		return nil
	}
	if wait.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait.timeout)
		defer cancel()
	}
	if devices == nil {
		return t.follow(ctx, follower, sent, func(record.Record) {})
	}
	return t.followBoth(ctx, follower, devices, sent)
}

// follow waits until all requests have ended, and calls accepted for each that is accepted.
func (t *tool) follow(ctx context.Context, follower *ops.Follower, sent []ops.Sent, accepted func(record.Record)) error {
	ended, dead, blind := 0, 0, false
	p := t.progress()
	left := follower.Await(ctx, sent, func(c ops.Change) {
		t.writing.Lock()
		defer t.writing.Unlock()
		if c.Final {
			ended++
			if c.Record.State == record.Dead {
				dead++
			} else {
				defer accepted(c.Record)
			}
		}
		switch {
		case c.Garbled != nil:
			t.tell("%s: %v", plain(c.Record.ID), c.Garbled)
		case t.json:
			t.object(c.Record)
		case c.Before:
			t.line("%s  was accepted before, as message %d: this one is a duplicate", plain(c.Record.ID), c.Record.Sequence)
		default:
			t.line("%s  %s", plain(c.Record.ID), plain(words(c.Record)))
		}
		if len(sent) > 1 {
			p.tell("%s of %s have ended, %s of them dead", count(ended), count(len(sent)), count(dead))
		}
	}, func(err error) {
		t.writing.Lock()
		defer t.writing.Unlock()
		blind = true
		t.tell("the command sees only changes from now on, and nothing of requests that were accepted before: %v", err)
	})
	t.writing.Lock()
	defer t.writing.Unlock()
	if len(sent) > 1 {
		t.tell("%s accepted, %s dead, %s still open", count(ended-dead), count(dead), count(len(left)))
	}
	switch {
	case len(left) > 0 && len(sent) == 1 && blind:
		return fmt.Errorf("the command did not see the end of %s, which may have come earlier; worker status %s shows it if the account may read the records",
			plain(left[0].ID), plain(left[0].ID))
	case len(left) > 0 && len(sent) == 1:
		return fmt.Errorf("%s has not ended yet; worker status %s shows its state", plain(left[0].ID), plain(left[0].ID))
	case len(left) > 0 || dead > 0:
		return errFailed
	}
	return nil
}

// followBoth waits until all requests have ended and, if they are accepted, until their
// outcomes are final. It fails unless each is done.
func (t *tool) followBoth(ctx context.Context, follower *ops.Follower, devices *ops.Devices, sent []ops.Sent) error {
	accepted := make(chan record.Record, len(sent))
	ends := make(chan error, 1)
	go func() { ends <- t.followDevices(ctx, devices, accepted, len(sent) == 1) }()
	err := t.follow(ctx, follower, sent, func(r record.Record) { accepted <- r })
	close(accepted)
	return cmp.Or(err, <-ends)
}

func (t *tool) followDevices(ctx context.Context, devices *ops.Devices, accepted <-chan record.Record, alone bool) error {
	done, others := 0, 0
	var failure error
	left := devices.Await(ctx, accepted, func(c ops.DeviceChange) {
		t.writing.Lock()
		defer t.writing.Unlock()
		id := plain(c.Record.ID)
		switch {
		case c.NotFollowed:
			others++
			failure = fmt.Errorf("%s is accepted but not followed, so its result on the device stays unknown: see WORKER_FOLLOW; "+
				"worker outcome follow %s orders a look at the device", id, id)
			if !alone {
				t.tell("%v", failure)
			}
			return
		case c.Document.Outcome == outcome.Done:
			done++
		case c.Ended():
			others++
			failure = errFailed
		}
		if !t.json {
			t.line("%s  %s", id, plain(deviceWords(c.Record, c.Document)))
		} else if c.Document.Outcome != "" {
			t.object(c.Document)
		}
	}, func(err error) {
		t.writing.Lock()
		defer t.writing.Unlock()
		t.tell("the command sees only changes of the devices from now on: %v", err)
	})
	t.writing.Lock()
	defer t.writing.Unlock()
	if !alone && done+others+len(left) > 0 {
		t.tell("%s done, %s not done, %s still followed", count(done), count(others), count(len(left)))
	}
	switch {
	case len(left) > 0 && alone:
		id := plain(left[0].Record.ID)
		return fmt.Errorf("%s is accepted, and %s on its device; the worker goes on following it, and worker status %s shows its state",
			id, cmp.Or(left[0].Document.Outcome, outcome.Pending), id)
	case failure != nil && alone:
		return failure
	case len(left)+others > 0:
		return errFailed
	}
	return nil
}
