// Package devices keeps, for each device that cools down, the request that may be
// resetting it, or has reset it lately. A key is written by compare-and-set
// before the record of its request says that a call is made, so that of two
// requests for one device only one ever believes that it may call, whatever is
// killed, frozen or taken over meanwhile.
package devices

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

// ErrTaken means that another request was faster: the claim has to be read again.
var ErrTaken = errors.New("another request was faster")

// Claim says whose a device is. The zero Claim is nobody's.
type Claim struct {
	// Request is the key of the request's record. It is empty where what is stored
	// is no claim: then nobody can tell whose the device is.
	Request string
	// Message is the sequence of the request's message that claims the device.
	Message uint64
	// Until is when the claim lapses, by the clock of the NATS server.
	Until time.Time
	// Revision is that of the last value under the key; 0 where there is none.
	Revision uint64
}

// Store is the bucket.
type Store struct {
	bucket *bucket.Bucket
	ttl    time.Duration
}

// Open binds to an existing bucket, which must keep a key for at least so long.
func Open(ctx context.Context, js jetstream.JetStream, name string, least time.Duration) (*Store, error) {
	b, err := bucket.Open(ctx, js, name)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, b.Stream)
	if err != nil {
		return nil, fmt.Errorf("key-value bucket %s: %w", name, err)
	}
	if ttl := stream.CachedInfo().Config.MaxAge; ttl > 0 && ttl < least {
		return nil, fmt.Errorf("key-value bucket %s keeps a key for %s, but WORKER_DEVICE_COOLDOWN and WORKER_REQUEST_TIMEOUT together need %s: "+
			"run worker setup --update with the same settings", name, ttl, least)
	}
	return &Store{b, least}, nil
}

func key(tenant, device string) string { return tenant + "." + device }

// Get reads whose a device is. What others have stored over a claim hides it no
// further than the history reaches; where they have filled that, the device counts
// as claimed by somebody since the last of it.
func (s *Store) Get(ctx context.Context, tenant, device string) (Claim, error) {
	newest, last, err := s.bucket.Newest(ctx, key(tenant, device), formed)
	switch {
	case err != nil:
		return Claim{}, fmt.Errorf("claim of a device: %w", err)
	case newest.Sequence != 0 && newest.Deleted():
		// After a removal a write expects nothing that the bucket does not have.
		return Claim{Revision: last.Sequence}, nil
	case newest.Sequence == 0 && last.Sequence != 0:
		return Claim{Until: last.Time.Add(s.ttl), Revision: last.Sequence}, nil
	}
	c, _ := decode(newest)
	c.Revision = last.Sequence
	return c, nil
}

// Take claims a device for a request until an instant of the server's, over the
// claim that was read before. It fails with [ErrTaken] where somebody has written
// since.
func (s *Store) Take(ctx context.Context, tenant, device string, c, over Claim) (Claim, error) {
	value, err := json.Marshal(form{&c.Request, &c.Message, &c.Until})
	if err != nil {
		return Claim{}, fmt.Errorf("claim a device: %w", err)
	}
	c.Revision, err = s.bucket.Set(ctx, key(tenant, device), value, over.Revision, formed)
	if errors.Is(err, bucket.ErrConflict) {
		return Claim{}, ErrTaken
	}
	if err != nil {
		return Claim{}, fmt.Errorf("claim a device: %w", err)
	}
	return c, nil
}

// Drop removes a claim if nobody has written since. Where it fails, the claim
// lapses by itself.
func (s *Store) Drop(ctx context.Context, tenant, device string, c Claim) error {
	if err := s.bucket.Delete(ctx, key(tenant, device), c.Revision); err != nil {
		return fmt.Errorf("give a device back: %w", err)
	}
	return nil
}

// form is the value of a key.
type form struct {
	Request *string    `json:"request"`
	Message *uint64    `json:"message"`
	Until   *time.Time `json:"until"`
}

// formed reports of a revision whether it counts: as a claim, or as the word that
// there is none.
func formed(v bucket.Revision) bool {
	if v.Deleted() {
		return true
	}
	_, ok := decode(v)
	return ok
}

// decode reads a claim. The form is strict, since a PubAck is JSON, too.
func decode(v bucket.Revision) (Claim, bool) {
	for name := range v.Header {
		if name != jetstream.ExpectedLastSubjSeqHeader {
			return Claim{}, false
		}
	}
	var f form
	d := json.NewDecoder(bytes.NewReader(v.Value))
	d.DisallowUnknownFields()
	if d.Decode(&f) != nil || f.Request == nil || *f.Request == "" || f.Message == nil || f.Until == nil || d.Decode(&struct{}{}) != io.EOF {
		return Claim{}, false
	}
	return Claim{Request: *f.Request, Message: *f.Message, Until: *f.Until}, true
}
