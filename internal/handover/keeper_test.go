package handover

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
)

// keeper makes a keeper of tenant a that hands on what now says.
func keeper(store func() *Store, now func() Snapshot) *Keeper {
	return NewKeeper("a", store, now, zap.NewNop())
}

// TestTerm: a replica hands on in its own term alone, once for each change.
func TestTerm(t *testing.T) {
	s, _, _ := open(t)
	now := Snapshot{Worker: "one"}
	k := keeper(func() *Store { return s }, func() Snapshot { return now })
	revision := uint64(0)
	step := func(what string, writes bool) {
		t.Helper()
		if !k.write(t.Context()) {
			t.Errorf("%s: it failed", what)
		}
		got, last, err := s.Snapshot(t.Context(), "a")
		if err != nil || (last != revision) != writes || writes && got.Granted != now.Granted {
			t.Errorf("%s: %+v at %d, before at %d; %v", what, got, last, revision, err)
		}
		revision = last
	}
	now.Granted = 1
	step("before a term", false)
	over, end := context.WithCancel(t.Context())
	end()
	k.Begin(over)
	step("a term that has ended at once", false)
	term, end := context.WithCancel(t.Context())
	k.Begin(term)
	step("something new", true)
	step("nothing new", false)
	now.PausedUntil = time.Now().UTC().Add(time.Minute)
	step("a pause", true)
	k.Lost()
	step("what was written is lost", true)
	now.Granted = 2
	end()
	step("after the term", false)

	next := keeper(func() *Store { return s }, nil)
	got, err := next.Recall(t.Context())
	if err != nil || got == nil || got.Granted != 1 || !got.PausedUntil.Equal(now.PausedUntil) {
		t.Errorf("the next one reads %+v, %v", got, err)
	}
	if released, err := next.Released(t.Context()); err != nil || !released.IsZero() {
		t.Errorf("released at %s, %v", released, err)
	}
	if next.Check(t.Context(), func(Snapshot) { t.Error("not yet its own business") }); !next.written.PausedUntil.Equal(now.PausedUntil) {
		t.Errorf("%+v", next.written)
	}
}

// TestForeignValue: what lies over a replica's own value is read, and written over.
func TestForeignValue(t *testing.T) {
	s, kv, nc := open(t)
	own := Snapshot{Worker: "one", FuseBlownAt: time.Now().UTC().Add(-time.Minute)}
	k := keeper(func() *Store { return s }, func() Snapshot { return own })
	k.Begin(t.Context())
	late := []Snapshot{}
	check := func(want int) {
		t.Helper()
		if k.Check(t.Context(), func(s Snapshot) { late = append(late, s) }); len(late) != want {
			t.Fatalf("%d foreign values, want %d", len(late), want)
		}
		if !k.write(t.Context()) || k.written == nil {
			t.Error("it failed")
		}
	}
	check(0) // nothing is written yet
	check(0)
	until := time.Now().UTC().Add(time.Hour)
	if err := s.Pause(t.Context(), "a", until); err != nil {
		t.Fatal(err)
	}
	if check(1); !late[0].PausedUntil.Equal(until) {
		t.Errorf("late: %+v", late[0])
	}
	pubAck(t, s, kv, nc, "a.worker")
	check(2)
	check(2)
	if got, _, err := s.Snapshot(t.Context(), "a"); err != nil || !got.FuseBlownAt.Equal(own.FuseBlownAt) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if at, err := k.Released(t.Context()); err != nil || at.IsZero() {
		t.Errorf("released at %s, %v", at, err)
	}
}

// TestFailedWrite: a write that failed may have been stored, so it is made again even
// when there is nothing new any more.
func TestFailedWrite(t *testing.T) {
	s, _, nc := open(t)
	now := Snapshot{Worker: "one"}
	k := keeper(func() *Store { return s }, func() Snapshot { return now })
	k.Begin(t.Context())
	now.Granted = 1
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if k.write(ctx) {
		t.Error("it did not fail")
	}
	now.Granted = 0
	if !k.write(t.Context()) || k.revision == 0 {
		t.Error("it was not written again")
	}
	k.revision = 0
	if !k.write(t.Context()) || k.revision != 0 {
		t.Error("it was written although it is written down")
	}
	nc.Close()
	if _, err := k.Recall(t.Context()); err == nil {
		t.Error("nothing can be read")
	}
	if _, err := k.Released(t.Context()); err == nil {
		t.Error("no release can be read")
	}
}

// TestNoBucket: without a bucket nothing is handed on, and nobody is held up.
func TestNoBucket(t *testing.T) {
	k := keeper(func() *Store { return nil }, func() Snapshot { return Snapshot{Granted: 1} })
	k.Begin(t.Context())
	if s, err := k.Recall(t.Context()); s != nil || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	if at, err := k.Released(t.Context()); err != nil || !at.IsZero() {
		t.Errorf("released at %s, %v", at, err)
	}
	if k.Check(t.Context(), func(Snapshot) { t.Error("there is nothing") }); !k.write(t.Context()) {
		t.Error("there is something to write")
	}
	k.Leave(t.Context(), time.Now().Add(time.Hour))
}

// TestSame: what is no news is not written again.
func TestSame(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	base := Snapshot{PausedUntil: at, Granted: 7, FuseBlownAt: at, ServedAt: at, Worker: "one", Hold: &Hold{Cause: "refused", Since: at, Detail: "x"}}
	for name, c := range map[string]struct {
		change func(*Snapshot)
		want   bool
	}{
		"nothing":              {func(*Snapshot) {}, true},
		"the worker":           {func(s *Snapshot) { s.Worker = "two" }, true},
		"the hold's detail":    {func(s *Snapshot) { s.Hold = &Hold{Cause: "refused", Since: at.Add(time.Hour), Detail: "y"} }, true},
		"the hold's cause":     {func(s *Snapshot) { s.Hold = &Hold{Cause: "permission", Since: at, Detail: "x"} }, false},
		"no hold":              {func(s *Snapshot) { s.Hold = nil }, false},
		"another rate":         {func(s *Snapshot) { s.Granted = 8 }, false},
		"the clocks' pause":    {func(s *Snapshot) { s.PausedUntil = at.Add(999 * time.Millisecond) }, true},
		"a longer pause":       {func(s *Snapshot) { s.PausedUntil = at.Add(time.Second) }, false},
		"no pause":             {func(s *Snapshot) { s.PausedUntil = time.Time{} }, false},
		"the fuse":             {func(s *Snapshot) { s.FuseBlownAt = time.Time{} }, false},
		"served soon after":    {func(s *Snapshot) { s.ServedAt = at.Add(servedNews - 1) }, true},
		"served a while after": {func(s *Snapshot) { s.ServedAt = at.Add(servedNews) }, false},
	} {
		b := base
		c.change(&b)
		if got := same(base, b); got != c.want || same(b, base) != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
