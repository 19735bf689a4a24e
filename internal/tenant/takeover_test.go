package tenant

import (
	"testing"
	"time"

	"passcode-worker/internal/record"
)

// TestCallsOfRecords: which calls the changes of records tell of, and when they were
// answered.
func TestCallsOfRecords(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Date(2026, 1, 2, 3, 4, s, 0, time.UTC) }
	c := newCalls(at(10))
	change := func(id string, state record.State, attempted, stored, status int) {
		c.saw(record.Record{ClientRequestID: id, State: state, AttemptedAt: at(attempted), Status: status}, at(stored))
	}
	change("", record.Retrying, 0, 30, 0)          // no call yet
	change("old", record.Verifying, 9, 30, 500)    // an old call that is looked at again
	change("before", record.Accepted, 12, 31, 204) // begun before what is read, answered within it
	change("a", record.Attempting, 32, 32, 0)      // under way
	change("b", record.Attempting, 33, 33, 0)      // accepted
	change("b", record.Accepted, 33, 35, 204)      //
	change("c", record.Attempting, 34, 34, 0)      // refused for the quota's sake
	change("c", record.Retrying, 34, 36, 429)      //
	change("c", record.Retrying, 34, 50, 429)      // a later change of the same call
	change("own", record.Attempting, 40, 40, 0)    // this process waits for its answer
	want := map[time.Time]bool{at(31): true, at(32): true, at(35): true, at(36): false}
	got := c.but(map[string]struct{}{"own": {}})
	if len(got) != len(want) {
		t.Errorf("%+v", got)
	}
	for _, call := range got {
		if granted, ok := want[call.At]; !ok || granted != call.Granted {
			t.Errorf("%+v", call)
		}
	}
}
