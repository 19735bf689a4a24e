package consume

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// TestAdoptedUntilItIsOwned: who has taken what waited for another one, and is then its
// owner, gives it up like any owner.
func TestAdoptedUntilItIsOwned(t *testing.T) {
	t.Parallel()
	start := time.Unix(1e9, 0)
	waiting := &jetstream.ConsumerInfo{NumPending: 1}
	var i interest
	see := func() {
		i.saw(waiting, start)
		i.saw(waiting, start.Add(orphanAfter))
	}
	wish := func() wish { return i.wish(start.Add(time.Minute), true, time.Second) }
	i.own(false)
	if see(); wish() == left {
		t.Error("it is not adopted")
	}
	i.own(true)
	i.own(false)
	if wish() != left {
		t.Error("an owner that is none any more goes on, as it had once adopted it")
	}
	i.own(true)
	see() // a held tenant, for example, whose pin was lost
	i.own(false)
	if wish() != left {
		t.Error("an owner that is none any more goes on, as it was slow once")
	}
}

// TestOrphanedSecondTry has a replica take what comes back, and whose owner does not work.
func TestOrphanedSecondTry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(topology.Layout{Memory: true})
	h := newHandler()
	w := r.run(Config{Handle: h.handle, Rests: func() bool { return true }})
	r.publish("1")
	take(r, h.calls, "the message").answer <- Nak(100 * time.Millisecond)
	w.q.Own(false)
	r.await("nobody to ask for it", func() bool {
		info := r.info()
		return info.NumWaiting == 0 && info.NumPending == 0 && info.NumAckPending == 1 && topology.Pinned(info) == ""
	})
	info, now := r.info(), time.Now()
	w.q.Saw(info, now)
	none(r, h.calls, "another's message is taken at once")
	w.q.Saw(info, now.Add(orphanAfter))
	take(r, h.calls, "the second try").answer <- Ack()
	r.awaitEmpty()
}
