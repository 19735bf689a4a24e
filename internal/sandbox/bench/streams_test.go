package bench

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
)

// TestSpread: tenants spread over several streams are all served, each by the worker of its
// stream, and the workers share dead letters and buckets, as the manual tells operators to.
func TestSpread(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s := setting{worker: filepath.Join(t.TempDir(), "worker")}
	if err := s.build(ctx, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	const tenants, parts = 7, 3
	w, err := newWorld(ctx, s, place{tenants: tenants, spread: parts})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	streams := map[string]int{}
	for i := range tenants {
		streams[w.tenant(i).Stream]++
		bad := w.tenant(i).Filter()
		if err := w.load(ctx, bad, i, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := w.js.Publish(ctx, bad, []byte(`{"id":"bad"}`)); err != nil {
			t.Fatal(err)
		}
	}
	if len(streams) != parts {
		t.Errorf("the tenants' streams are %v", streams)
	}
	workers, err := w.workAll()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.emptied(ctx, w.requests()...); err != nil {
		t.Fatalf("%v\n%s", err, w.logs())
	}
	if err := w.judge(tenants); err != nil {
		t.Error(err)
	}
	if n, err := w.messages(ctx, w.names.DeadStream); n != tenants || err != nil {
		t.Errorf("%d dead letters of %d tenants, %v", n, tenants, err)
	}
	for i := range tenants {
		n := w.tenant(i)
		if r := w.recordOf(ctx, t, n, "bad"); r.State != record.Dead || r.Stream != n.Stream {
			t.Errorf("%s: the record is %s, of the stream %s", n.Tenant, r.State, r.Stream)
		}
	}
	// Each has set the alarms of its own tenants on a stream that no other takes from.
	for k, stream := range w.alarms() {
		alarms, err := w.state(ctx, stream)
		if own := streams[w.part(k).Stream]; err != nil || alarms.LastSeq < uint64(own) {
			t.Errorf("%s has had %d alarms of %d tenants, %v", stream, alarms.LastSeq, own, err)
		}
	}
	for _, p := range workers {
		if err := p.end(); err != nil {
			t.Error(err)
		}
	}
}

// recordOf reads a record as it is stored.
func (w *world) recordOf(ctx context.Context, t *testing.T, n topology.Names, id string) record.Record {
	t.Helper()
	kv, err := w.js.KeyValue(ctx, n.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	key := record.Key(n.Tenant, id)
	v, err := kv.Get(ctx, key)
	if err != nil {
		t.Fatal(errors.Join(errors.New(key), err))
	}
	r, ok := record.Decode(key, nil, v.Value())
	if !ok {
		t.Fatalf("%s holds no record", key)
	}
	return r
}
