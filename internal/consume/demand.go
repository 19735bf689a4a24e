package consume

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"passcode-worker/internal/topology"
)

// An empty queue rests: no pull of it waits at the server, no pin
// is renewed, and its goroutine waits for a wake-up. Only one of
// several replicas pulls: the one whose share includes the tenant.

// orphanAfter is how long messages may wait with no replica pinned before
// another replica takes them, because the one they belong to does not work.
const orphanAfter = 10 * time.Second

// interest decides whether a queue is pulled. It is pure; its functions get the
// present instant. The zero interest is that of a queue about which nothing is known.
type interest struct {
	disowned bool // the messages are another replica's to take
	// stirred is the last sign that there is, or was, something to do.
	stirred time.Time
	// empty is when the server was asked that said last that nothing is in the queue.
	empty time.Time
	// orphaned is since when messages wait and nobody takes them; zero: it is not so.
	orphaned time.Time
	adopted  bool // they have waited for too long
}

// saw takes what the server said of the consumer when it was asked at an instant.
func (i *interest) saw(info *jetstream.ConsumerInfo, asked time.Time) {
	if info.NumPending == 0 && info.NumAckPending == 0 {
		i.empty, i.orphaned, i.adopted = asked, time.Time{}, false
		return
	}
	if asked.After(i.stirred) {
		i.stirred = asked
	}
	// What was delivered before, and waits for its second try, shows in no other way than
	// that nobody asks for it.
	taken := info.NumPending == 0 && info.NumWaiting > 0
	switch {
	case !i.disowned || taken || info.Paused || topology.Pinned(info) != "":
		i.orphaned = time.Time{}
	case i.orphaned.IsZero():
		i.orphaned = asked
	default:
		i.adopted = i.adopted || asked.Sub(i.orphaned) >= orphanAfter
	}
}

// own says whether the messages are this replica's to take. With its own it goes on as
// usual, and hands them over when they are no longer.
func (i *interest) own(owned bool) {
	if i.disowned = !owned; owned {
		i.orphaned, i.adopted = time.Time{}, false
	}
}

// wish is what to do with a queue.
type wish int

const (
	pulled  wish = iota // it is to be pulled
	doubted             // and the server to be asked whether anything is in it: perhaps not
	rested              // nothing is to do
	left                // it is another replica's
)

// wish says what is to be done with the queue. may allows one to rest in which nothing
// is, linger after the last sign that something was.
func (i *interest) wish(now time.Time, may bool, linger time.Duration) wish {
	switch {
	case i.disowned && !i.adopted:
		return left
	case !may || now.Sub(i.stirred) < linger:
		return pulled
	case !i.empty.After(i.stirred):
		return doubted
	}
	return rested
}

// demand is the interest in a queue, and what is known of its consumer.
type demand struct {
	changed chan struct{} // something may have changed that decides

	mu       sync.Mutex
	interest interest
	resting  time.Time               // since when the queue waits for changed; zero: it does not
	told     view                    // what rest has said last
	info     *jetstream.ConsumerInfo // as it was seen last; nil: it has to be looked up
	asked    time.Time               // when the server was asked for it
}

func newDemand() *demand { return &demand{changed: make(chan struct{}, 1)} }

// update changes what decides, and has it decided anew.
func (d *demand) update(change func(*demand)) {
	d.mu.Lock()
	change(d)
	d.mu.Unlock()
	d.signal()
}

// saw takes what the server said of the consumer when it was asked at an instant. Of a
// queue that rests nothing is decided anew where that changes nothing: thousands of them are
// seen at a time, and what has work would wait behind them all.
func (d *demand) saw(info *jetstream.ConsumerInfo, asked, now time.Time, may bool, linger time.Duration) (missed bool) {
	d.mu.Lock()
	missed = d.missed(info)
	d.info, d.asked = info, asked
	d.interest.saw(info, asked)
	pulls, v := d.decide(now, may, linger)
	decided := !d.resting.IsZero() && !pulls && v == d.told
	d.mu.Unlock()
	if !decided {
		d.signal()
	}
	return missed
}

// stir notes that there is something to do. A queue that is pulled has nothing decided
// anew by it: it is called for each message.
func (d *demand) stir(now time.Time) {
	d.mu.Lock()
	d.interest.stirred = now
	resting := !d.resting.IsZero()
	d.mu.Unlock()
	if resting {
		d.signal()
	}
}

func (d *demand) isResting() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.resting.IsZero()
}

func (d *demand) signal() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// missed reports whether a message waits of which nothing has told the queue while it
// rested. Call with mu held.
func (d *demand) missed(info *jetstream.ConsumerInfo) bool {
	return !d.resting.IsZero() && !d.interest.stirred.After(d.resting) && !d.interest.disowned && info.NumPending > 0
}

func (d *demand) wish(now time.Time, may bool, linger time.Duration) wish {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.interest.wish(now, may, linger)
}

// view is what is known of a queue that is not pulled.
type view struct {
	known     bool // its consumer is there
	elsewhere bool // another replica works on it, or is to
	here      bool // it has had messages, and this replica is to work on the next
}

// rest reports whether the queue is to be pulled. Where it is not, a change of that is
// signalled from now on.
func (d *demand) rest(now time.Time, may bool, linger time.Duration) (pulls bool, v view) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resting.IsZero() {
		d.resting = now
	}
	if pulls, v = d.decide(now, may, linger); pulls {
		d.resting = time.Time{}
	}
	d.told = v
	return pulls, v
}

// decide is what rest says. Call with mu held.
func (d *demand) decide(now time.Time, may bool, linger time.Duration) (pulls bool, v view) {
	wish := d.interest.wish(now, may, linger)
	if wish == pulled || wish == doubted {
		return true, view{}
	}
	// What was seen before may be this replica's own pin.
	others := d.info != nil && d.asked.After(d.resting) && topology.Pinned(d.info) != ""
	here := wish == rested && d.info != nil && d.info.Delivered.Consumer > 0 && topology.Pinned(d.info) == ""
	return false, view{known: d.info != nil, elsewhere: wish == left || others, here: here}
}
