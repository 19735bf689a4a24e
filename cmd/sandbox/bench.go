package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
)

type benchCmd struct {
	N       int    `default:"4000" help:"Requests per run."`
	Repeats int    `default:"5" help:"Runs of each; the median counts."`
	Output  string `short:"o" default:"table" enum:"table,json" help:"table or json."`
}

// floorSlots is how many requests a floor works on at a time: as many as the
// worker does.
const floorSlots = 32

// result is one measured row.
type result struct {
	What   string    `json:"what"`
	Rates  []float64 `json:"rates"` // requests per second, each run
	Median float64   `json:"median"`
	// ToFloor is the median of the runs' own ratios of the worker to this floor.
	ToFloor float64 `json:"workerToFloor,omitzero"`
}

// Run measures how fast a backlog drains when Graph is instant and grants
// everything, beside two bare loops in the same process: pull, POST, ack; and
// the same with two record writes and a confirmed ack. Within each repeat the
// three run one after the other, so that a noisy machine disturbs them alike.
func (c benchCmd) Run(ctx context.Context) error {
	w, err := newWorld(0, graphsim.Config{NoCallLog: true})
	if err != nil {
		return err
	}
	defer w.close()
	plain, full, ours := result{What: "floor: pull, POST, ack"}, result{What: "floor: with two record writes, confirmed ack"}, result{What: "worker"}
	var toPlain, toFull []float64
	for i := range c.Repeats {
		for _, run := range []struct {
			into *result
			do   func(context.Context, int) (time.Duration, error)
		}{
			{&plain, func(ctx context.Context, n int) (time.Duration, error) { return w.floor(ctx, n, false) }},
			{&full, func(ctx context.Context, n int) (time.Duration, error) { return w.floor(ctx, n, true) }},
			{&ours, w.drain},
		} {
			took, err := run.do(ctx, c.N)
			if err != nil {
				return fmt.Errorf("run %d, %s: %w", i+1, run.into.What, err)
			}
			run.into.Rates = append(run.into.Rates, float64(c.N)/took.Seconds())
		}
		toPlain = append(toPlain, ours.Rates[i]/plain.Rates[i])
		toFull = append(toFull, ours.Rates[i]/full.Rates[i])
	}
	plain.ToFloor, full.ToFloor = median(toPlain), median(toFull)
	results := []*result{&plain, &full, &ours}
	for _, r := range results {
		r.Median = median(r.Rates)
	}
	if c.Output == "json" {
		return json.NewEncoder(os.Stdout).Encode(results)
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "DRAIN OF %d REQUESTS, GRAPH INSTANT\tMEDIAN PER S\tLEAST\tMOST\tWORKER TO FLOOR\n", c.N)
	for _, r := range results {
		ratio := ""
		if r.ToFloor > 0 {
			ratio = fmt.Sprintf("%.2f", r.ToFloor)
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f\t%s\n", r.What, r.Median, slices.Min(r.Rates), slices.Max(r.Rates), ratio)
	}
	return t.Flush()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// fill makes the streams anew and puts n requests on them.
func (w *world) fill(ctx context.Context, n int) error {
	for _, name := range []string{w.names.Stream, w.names.DeadStream, "KV_" + w.names.Bucket} {
		if err := w.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	if err := w.setup(ctx); err != nil {
		return err
	}
	for i := range n {
		data := fmt.Sprintf(`{"id":"B%d","managedDeviceId":%q}`, i, graphsim.GoodDevice(i))
		if _, err := w.js.PublishAsync(w.names.Filter(), []byte(data)); err != nil {
			return err
		}
	}
	select {
	case <-w.js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drain measures the worker, from the first call on: its start is measured by
// another figure.
func (w *world) drain(ctx context.Context, n int) (time.Duration, error) {
	if err := w.fill(ctx, n); err != nil {
		return 0, err
	}
	w.sim.Forget()
	cfg := w.config(pace.Rate{}, "", zap.NewNop())
	stop := w.run(cfg)
	for w.sim.Status().Posts == 0 {
		if err := pauseFor(ctx, time.Millisecond); err != nil {
			return 0, errors.Join(err, stop())
		}
	}
	began := time.Now()
	for {
		left, err := w.waiting(ctx)
		if err == nil && left == 0 {
			break
		}
		if err := pauseFor(ctx, 2*time.Millisecond); err != nil {
			return 0, errors.Join(err, stop())
		}
	}
	took := time.Since(began)
	if err := stop(); err != nil {
		return 0, err
	}
	if got := w.sim.Status().Executed; got != n {
		return 0, fmt.Errorf("%d resets for %d requests", got, n)
	}
	return took, nil
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// floor is the least that anything like the worker has to do. It decides
// nothing, and survives nothing.
func (w *world) floor(ctx context.Context, n int, records bool) (time.Duration, error) {
	if err := w.fill(ctx, n); err != nil {
		return 0, err
	}
	w.sim.Forget()
	consumer, err := w.js.Consumer(ctx, w.names.Stream, w.names.Consumer())
	if err != nil {
		return 0, err
	}
	kv, err := w.js.KeyValue(ctx, w.names.Bucket)
	if err != nil {
		return 0, err
	}
	token, err := w.token(ctx)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: w.sim.CAs(), MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	it, err := consumer.Messages(jetstream.PullMaxMessages(floorSlots))
	if err != nil {
		return 0, err
	}
	defer it.Stop()
	f := &floorLoop{client: client, url: w.sim.URL(), token: token, kv: kv, records: records}
	msgs := make(chan jetstream.Msg)
	failed := make(chan error, floorSlots)
	var group sync.WaitGroup
	began := time.Now()
	for range floorSlots {
		group.Go(func() {
			for msg := range msgs {
				if err := f.step(ctx, msg); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for range n {
		msg, err := it.Next()
		if err != nil {
			close(msgs)
			return 0, err
		}
		select {
		case msgs <- msg:
		case err := <-failed:
			close(msgs)
			return 0, err
		}
	}
	close(msgs)
	group.Wait()
	return time.Since(began), nil
}

type floorLoop struct {
	client     *http.Client
	url, token string
	kv         jetstream.KeyValue
	records    bool
}

func (f *floorLoop) step(ctx context.Context, msg jetstream.Msg) error {
	var in struct {
		ID     string `json:"id"`
		Device string `json:"managedDeviceId"`
	}
	if err := json.Unmarshal(msg.Data(), &in); err != nil {
		return err
	}
	rec := record.Record{ID: in.ID, Tenant: "default", ManagedDeviceID: in.Device, State: record.Attempting, Attempts: 1, AttemptedAt: time.Now()}
	key := record.Key("default", in.ID)
	var revision uint64
	if f.records {
		value, err := json.Marshal(rec)
		if err != nil {
			return err
		}
		if revision, err = f.kv.Create(ctx, key, value); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v1.0/deviceManagement/managedDevices/"+in.Device+"/resetPasscode", http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "floor")
	req.Header.Set("Client-Request-Id", in.ID)
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body) // a 204 has none
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	if !f.records {
		return msg.Ack()
	}
	rec.State, rec.FinishedAt, rec.Status = record.Accepted, time.Now(), resp.StatusCode
	value, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if _, err := f.kv.Update(ctx, key, value, revision); err != nil {
		return err
	}
	return msg.DoubleAck(ctx)
}
