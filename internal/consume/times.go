package consume

import "time"

// times are those of binding and pulling; tests shorten them.
type times struct {
	// heartbeat is how often the server tells that a pull still waits, so that
	// one that it has forgotten is noticed within twice the time.
	heartbeat time.Duration
	// expiry of a pull: a host that is lost without a word is sent messages until then.
	expiry time.Duration
	// patience is how long a connected server may give no sign of life before
	// the queue counts as lost: an election takes some seconds.
	patience time.Duration
	// linger is how long a queue is pulled after the last sign that there is
	// something to do. It is much more than the server's consumer takes to count a message
	// after the wake-up was sent.
	linger time.Duration
	// giveBack bounds the wait for what was on its way when a puller ends, and
	// for handing over to another replica.
	giveBack time.Duration
	// pauseMin and pauseMax bound the pauses between two tries to bind.
	pauseMin time.Duration
	pauseMax time.Duration
	api      time.Duration // of one call to the server
	// ack bounds the wait for one confirmation. A server that is busy is slow to give it,
	// and each ack costs it a look at all consumers of the stream.
	ack time.Duration
}

// usual are the times of the service.
var usual = times{
	heartbeat: 3 * time.Second,
	expiry:    6 * time.Second,
	patience:  10 * time.Second,
	linger:    5 * time.Second,
	giveBack:  time.Second,
	pauseMin:  250 * time.Millisecond,
	pauseMax:  5 * time.Second,
	api:       apiWait,
	ack:       4 * time.Second,
}
