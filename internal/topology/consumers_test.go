package topology

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/natstest"
)

// tenants makes the consumers of so many tenants.
func (r *rig) tenants(n int) {
	r.t.Helper()
	next := make(chan int)
	var making sync.WaitGroup
	for range 16 {
		making.Go(func() {
			for i := range next {
				names := spec
				names.Tenant = fmt.Sprintf("t%04d", i)
				if err := natstest.UntilAnswered(r.ctx, func(ctx context.Context) error {
					_, err := r.admin.CreateConsumer(ctx, spec.Stream, Layout{}.Worker(names))
					return err
				}); err != nil {
					r.t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	making.Wait()
}

// TestConsumers lists more than go on one page.
func TestConsumers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(Layout{Memory: true})
	const n = 700 // of three pages
	r.tenants(n)
	found, err := Consumers(r.ctx, r.js, spec.Stream, 0)
	if err != nil || len(found) != n+1 {
		t.Fatalf("%d, %v", len(found), err)
	}
	for name, info := range found {
		if info.Name != name || info.Stream != spec.Stream || info.Created.IsZero() || info.TimeStamp.IsZero() || info.Config.FilterSubject == "" {
			t.Fatalf("%s: %+v", name, info)
		}
	}
	if _, err := Consumers(r.ctx, r.js, "NONE", 0); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Error(err)
	}
	if err := r.admin.DeleteStream(r.ctx, spec.Stream); err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.CreateStream(r.ctx, Layout{Replicas: 1}.Requests(spec)); err != nil {
		t.Fatal(err)
	}
	if found, err := Consumers(r.ctx, r.js, spec.Stream, 0); err != nil || len(found) != 0 {
		t.Errorf("of none %d, %v", len(found), err)
	}
}

// TestConsumersOfCluster lists what a cluster has, also where a server is gone.
func TestConsumersOfCluster(t *testing.T) {
	t.Parallel()
	c, err := natstest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	r := newRigAt(t, c.Servers[0].URL(), "", "")
	r.setupInTime(Layout{})
	r.tenants(20)
	r.await("the list", func() bool {
		found, err := Consumers(r.ctx, r.js, spec.Stream, 0)
		return err == nil && len(found) == 21
	})
	c.Servers[2].Stop()
	r.await("the list without a server", func() bool {
		found, err := Consumers(r.ctx, r.js, spec.Stream, 0)
		return err == nil && len(found) == 21
	})
}

// TestRoom raises what a stream allows, and never lowers it.
func TestRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := Layout{}.Requests(spec)
	old.Replicas = 1
	room := func() int { return r.stream(spec.Stream).CachedInfo().Config.MaxConsumers }
	for _, c := range []struct {
		there, tenants     int
		plain              string // what a plain set-up says
		after, afterUpdate int
	}{
		{-1, 1, "", -1, 2500},
		{-1, 1000, "", -1, 2500},
		{-1, 1001, "it sets no max_consumers, so a server allows 1000 ", -1, 2500},
		{5, 5, "", 5, 2500},
		{5, 6, "it has room for 5 consumers: each tenant needs one; run worker setup --update", 5, 2500},
		{2500, 2400, "", 2500, 2900},
		{7000, 1, "", 7000, 7000},
	} {
		old.MaxConsumers = c.there
		if _, err := r.admin.CreateStream(r.ctx, old); err != nil {
			t.Fatal(err)
		}
		done, err := Setup(r.ctx, r.js, spec, Layout{Tenants: c.tenants})
		if err != nil || (done[0].Note == "") != (c.plain == "") || !strings.HasPrefix(done[0].Note, c.plain) || room() != c.after {
			t.Errorf("%+v: plain %d, %+v, %v", c, room(), done, err)
		}
		if done, err = Setup(r.ctx, r.js, spec, Layout{Tenants: c.tenants, Update: true}); err != nil || done[0].Note != "" || room() != c.afterUpdate {
			t.Errorf("%+v: update %d, %+v, %v", c, room(), done, err)
		}
		if err := r.admin.DeleteStream(r.ctx, spec.Stream); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRoomRefused cures the refusal of one consumer too many.
func TestRoomRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := Layout{}.Requests(spec)
	cfg.Replicas, cfg.MaxConsumers = 1, 1
	if _, err := r.admin.CreateStream(r.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	r.setup(Layout{})
	other := spec
	other.Tenant = "other"
	_, err := Setup(r.ctx, r.js, other, Layout{})
	if !NoRoom(err) || !strings.Contains(err.Error(), "worker setup --update") {
		t.Errorf("refused with %v", err)
	}
	if _, err := SetupConsumer(r.ctx, r.js, spec, Layout{}); err != nil || NoRoom(err) {
		t.Error(err)
	}
	r.setup(Layout{Update: true})
	if _, err := Setup(r.ctx, r.js, other, Layout{}); err != nil {
		t.Errorf("after the cure: %v", err)
	}
}

// TestRoomOfAccount makes the stream all the same where an account allows fewer, and says
// what to raise.
func TestRoomOfAccount(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(conf, []byte(`listen: "127.0.0.1:-1", jetstream: {store_dir: "`+t.TempDir()+`"}
accounts: {A: {users: [{user: w, password: w}], jetstream: {max_file: 1GB, max_mem: 1GB, max_consumers: 12}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	s, err := natstest.StartWith(*opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	r := newRigAt(t, s.URL(), "w", "w")
	for _, l := range []Layout{{}, {Update: true}} {
		done, err := Setup(r.ctx, r.js, spec, l)
		if err != nil || !strings.Contains(done[0].Note, "fewer than the requested 2500 consumers") || !strings.Contains(done[0].Note, "account's max_consumers") {
			t.Fatalf("%+v, %v", done, err)
		}
		if got := r.stream(spec.Stream).CachedInfo().Config.MaxConsumers; got != -1 {
			t.Errorf("it has room for %d", got)
		}
	}
}

func TestRoomWeakness(t *testing.T) {
	t.Parallel()
	account := func(limits ...int) *jetstream.AccountInfo {
		a := &jetstream.AccountInfo{}
		for i, l := range limits {
			if i == 0 {
				a.Limits.MaxConsumers = l
				continue
			}
			if a.Tiers == nil {
				a.Tiers = map[string]jetstream.Tier{}
			}
			a.Tiers[fmt.Sprint("R", i)] = jetstream.Tier{Limits: jetstream.AccountLimits{MaxConsumers: l}}
		}
		return a
	}
	for _, c := range []struct {
		room, there, tenants int
		account              *jetstream.AccountInfo
		says                 string
	}{
		{-1, 1, 1, nil, ""},
		{-1, 1000, 1000, nil, ""},
		{-1, 0, 1001, nil, "allows 1000 unless its default_max_consumers says otherwise, but 1001 are needed"},
		{-1, 1200, 3, nil, "but 1200 are needed"},
		{2500, 0, 2000, nil, ""},
		{2500, 0, 2501, nil, "room for 2500 consumers"},
		{2500, 0, 2000, account(-1), ""},
		{2500, 0, 2000, account(1500), "account that allows 1500 consumers for each stream, but 2000 are needed"},
		{-1, 0, 1500, account(1600), ""}, // the account's number holds in place of the default
		{-1, 0, 1500, account(0), "allows 1000"},
		{2500, 0, 100, account(0, 50, 150), ""}, // one of the tiers is enough
		{2500, 0, 200, account(0, 50, 150), "allows 150 consumers"},
		{2500, 0, 200, account(0, 50, -1), ""},
	} {
		got := RoomWeakness(jetstream.StreamConfig{Name: "S", MaxConsumers: c.room}, c.there, c.tenants, c.account)
		if (got == nil) != (c.says == "") || got != nil && !strings.Contains(got.Text, c.says) {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if BeyondRoom(jetstream.StreamConfig{MaxConsumers: 5}, 4, nil) != nil || BeyondRoom(jetstream.StreamConfig{MaxConsumers: 5}, 5, nil) == nil {
		t.Error("room for the fifth, or for the sixth")
	}
}
