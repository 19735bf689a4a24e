// Package handover keeps what the replicas that work on a tenant hand on to each
// other, and to themselves after a restart: an announced pause, a hold, the rate
// that was learned, a blown fuse. It lies in a key-value bucket of its own, so
// that the bucket of records holds only records. [Store] reads and writes it;
// [Keeper] decides when that is done.
package handover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/bucket"
)

// Snapshot is what the active replica of a tenant hands on. The
// zero Snapshot is that of a tenant about which nothing is known. All instants are by the clock of the
// NATS server.
type Snapshot struct {
	// PausedUntil is the end of the last pause that Graph asked for; absent
	// without one.
	PausedUntil time.Time `json:"pausedUntil,omitzero"`
	// Granted is how many calls per window the server was found to grant; 0
	// means that the configured rate holds.
	Granted int `json:"granted,omitzero"`
	// Hold is absent while nothing is held.
	Hold *Hold `json:"hold,omitzero"`
	// FuseBlownAt is when the fuse last blew; absent if it never did. Only an
	// operator's release after that instant lets the tenant go on.
	FuseBlownAt time.Time `json:"fuseBlownAt,omitzero"`
	// ServedAt is when Graph was last known to serve the tenant: it accepted
	// something, or listed its devices. Absent where that is not known. A replica of an earlier version treats
	// a state that has this field as foreign.
	ServedAt time.Time `json:"servedAt,omitzero"`
	// Worker is the host name of the replica that wrote this.
	Worker string `json:"worker"`
}

// Hold is why a tenant's queue stands still.
type Hold struct {
	Cause  string    `json:"cause"`
	Since  time.Time `json:"since"`
	Detail string    `json:"detail,omitzero"`
}

// Store is the bucket.
type Store struct{ bucket *bucket.Bucket }

// Open binds to an existing bucket.
func Open(ctx context.Context, js jetstream.JetStream, name string) (*Store, error) {
	b, err := bucket.Open(ctx, js, name)
	if err != nil {
		return nil, err
	}
	return &Store{b}, nil
}

func workerKey(tenant string) string   { return tenant + ".worker" }
func operatorKey(tenant string) string { return tenant + ".operator" }

// Snapshot reads what was handed on for a tenant, and the last revision of its key;
// 0 where nothing was ever written.
//
// A value that no worker can have written counts for nothing, and neither
// does a deletion of the key: the newest state in the history holds.
// If others have filled the history, it is unknown whether the fuse
// had blown. Then it counts as blown at the time of the last of these
// values, so that a flood of them cannot release it. Only somebody who
// may remove messages from the bucket's stream can remove that as well.
func (s *Store) Snapshot(ctx context.Context, tenant string) (Snapshot, uint64, error) {
	newest, last, err := s.bucket.Newest(ctx, workerKey(tenant), isSnapshot)
	if err != nil {
		return Snapshot{}, 0, fmt.Errorf("state of tenant %s: %w", tenant, err)
	}
	if newest.Sequence == 0 && last.Sequence != 0 {
		return Snapshot{FuseBlownAt: last.Time}, last.Sequence, nil
	}
	w, _ := decodeSnapshot(newest)
	return w, last.Sequence, nil
}

func isSnapshot(v bucket.Revision) bool {
	_, ok := decodeSnapshot(v)
	return ok
}

// decodeSnapshot reads a snapshot that a worker has written.
func decodeSnapshot(v bucket.Revision) (Snapshot, bool) {
	var form struct {
		Snapshot
		Name *string `json:"worker"` // must be there
	}
	if !decode(v, &form) || form.Name == nil {
		return Snapshot{}, false
	}
	w := form.Snapshot
	w.Worker = *form.Name
	instants := []time.Time{w.PausedUntil, w.FuseBlownAt, w.ServedAt}
	if w.Hold != nil {
		instants = append(instants, w.Hold.Since)
	}
	for _, at := range instants {
		if !at.IsZero() && at.Sub(v.Time).Abs() > sane {
			return Snapshot{}, false
		}
	}
	// The fuse blew before this was written. A fuse
	// that blew in the future could not be released.
	if w.FuseBlownAt.After(v.Time) {
		w.FuseBlownAt = v.Time
	}
	if w.ServedAt.After(v.Time) {
		w.ServedAt = v.Time
	}
	return w, w.Granted >= 0
}

// sane is how far from now an instant of a state can be.
const sane = 10 * 365 * 24 * time.Hour

// decode reads a value that was written the way that [Store] does it: with no headers
// but that of a compare-and-set. What a server stores of its own accord, or as an
// answer to somebody's reading, has others. The form is strict, since a PubAck is
// JSON, too.
func decode(v bucket.Revision, form any) bool {
	for name := range v.Header {
		if name != jetstream.ExpectedLastSubjSeqHeader {
			return false
		}
	}
	d := json.NewDecoder(bytes.NewReader(v.Value))
	d.DisallowUnknownFields()
	return d.Decode(form) == nil && d.Decode(&struct{}{}) == io.EOF
}

// SetSnapshot hands on, and returns the revision. The last one to write wins: only
// the replica that works on the tenant writes, and what it does not know is found
// out again by a call.
func (s *Store) SetSnapshot(ctx context.Context, tenant string, w Snapshot) (uint64, error) {
	value, err := json.Marshal(w)
	if err != nil {
		return 0, fmt.Errorf("state of tenant %s: %w", tenant, err)
	}
	revision, err := s.bucket.Put(ctx, workerKey(tenant), value)
	if err != nil {
		return 0, fmt.Errorf("write the state of tenant %s: %w", tenant, err)
	}
	return revision, nil
}

// Pause hands on a pause that was announced to a replica after its term: what
// others have written meanwhile stays.
func (s *Store) Pause(ctx context.Context, tenant string, until time.Time) error {
	for {
		w, revision, err := s.Snapshot(ctx, tenant)
		if err != nil || !until.After(w.PausedUntil) {
			return err
		}
		w.PausedUntil = until
		value, err := json.Marshal(w)
		if err != nil {
			return fmt.Errorf("state of tenant %s: %w", tenant, err)
		}
		_, err = s.bucket.Set(ctx, workerKey(tenant), value, revision, isSnapshot)
		if err == nil {
			return nil
		}
		if !errors.Is(err, bucket.ErrConflict) {
			return fmt.Errorf("write the state of tenant %s: %w", tenant, err)
		}
		// Another has written it. The context ends this, should it go on for ever.
	}
}

// reads is the pause of looks that Graph has asked a replica for.
type reads struct {
	PausedUntil time.Time `json:"readsPausedUntil"`
}

func readsKey(tenant string) string { return tenant + ".reads" }

// Reads is until when Graph wants no device of the tenant to be looked at, as far as
// any replica was told; zero: it was told nothing. What no worker can have written
// counts for nothing.
func (s *Store) Reads(ctx context.Context, tenant string) (time.Time, error) {
	newest, _, err := s.bucket.Newest(ctx, readsKey(tenant), isReads)
	if err != nil {
		return time.Time{}, fmt.Errorf("pause of the looks of tenant %s: %w", tenant, err)
	}
	r, _ := decodeReads(newest)
	return r.PausedUntil, nil
}

func isReads(v bucket.Revision) bool {
	_, ok := decodeReads(v)
	return ok
}

func decodeReads(v bucket.Revision) (r reads, ok bool) {
	if !decode(v, &r) || r.PausedUntil.Sub(v.Time).Abs() > longestPause {
		return reads{}, false
	}
	return r, true
}

// longestPause bounds what counts as a pause of looks.
const longestPause = 24 * time.Hour

// SetReads hands on until when Graph wants no looks, unless somebody was told to wait
// longer. Of two at once the last one wins: a replica that was told otherwise is told
// again by its next look.
func (s *Store) SetReads(ctx context.Context, tenant string, until time.Time) error {
	if known, err := s.Reads(ctx, tenant); err != nil || known.After(until) {
		return err
	}
	value, err := json.Marshal(reads{until.UTC()})
	if err == nil {
		_, err = s.bucket.Put(ctx, readsKey(tenant), value)
	}
	if err != nil {
		return fmt.Errorf("write the pause of the looks of tenant %s: %w", tenant, err)
	}
	return nil
}

// release is the whole value of an operator's release.
const release = `{"release":true}`

// ReleasedAt is when an operator released a blown fuse last, by the clock of the NATS
// server; zero: never. Nothing but a release, as [Store.Release] writes it, is one:
// whatever else is stored under the key, and whenever, releases nothing.
func (s *Store) ReleasedAt(ctx context.Context, tenant string) (time.Time, error) {
	newest, _, err := s.bucket.Newest(ctx, operatorKey(tenant), func(v bucket.Revision) bool {
		return len(v.Header) == 0 && string(v.Value) == release
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("release of tenant %s: %w", tenant, err)
	}
	return newest.Time, nil
}

// Release lets a tenant go on whose fuse has blown before now.
func (s *Store) Release(ctx context.Context, tenant string) error {
	// The instant that counts is the server's, when it stores this.
	if _, err := s.bucket.Put(ctx, operatorKey(tenant), []byte(release)); err != nil {
		return fmt.Errorf("release tenant %s: %w", tenant, err)
	}
	return nil
}
