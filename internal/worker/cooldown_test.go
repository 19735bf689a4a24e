package worker

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"passcode-worker/internal/backlog"
	"passcode-worker/internal/deadletter"
	"passcode-worker/internal/devices"
	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/pace"
	"passcode-worker/internal/record"
	"passcode-worker/internal/topology"
	"passcode-worker/internal/verdict"
)

// TestDeviceCools: a second, different request for a device, before, while and after
// it is reset.
func TestDeviceCools(t *testing.T) {
	t.Parallel()
	base := newRig(t, graphsim.Config{}, func(c *Config) { c.Cooldown = time.Hour })
	tests := map[string]func(*testing.T){}
	add := func(name string, test func(*rig)) {
		n := len(tests)
		tests[name] = func(t *testing.T) { test(base.branch(t, 200+n)) }
	}
	add("after an acceptance", testCools)
	add("while an outcome is unknown", testCoolsWhileUnknown)
	add("after a refusal", testFreeAfterRefusal)
	add("after an unknown end, until it lapses", testKeptAfterUnknown)
	add("after another worker was killed in its call", testCoolsAfterKill)
	add("without the bucket nothing is called", testNoDevices)
	add("while a dead request is taken up anew", testCoolsTakenUp)
	add("a duplicate that names another device", testOtherDevice)
	add("the reading of a claim is lost", testClaimLost)
	together(t, tests)
}

func testCools(r *rig) {
	r.start()
	dev := graphsim.GoodDevice(0x4000)
	r.publish(reset("INC1", dev), nil)
	r.awaitState("INC1", record.Accepted)
	r.publish(reset("INC2", dev), nil)
	r.publish(reset("INC1", dev), nil) // the same request is a duplicate as ever
	r.settled()
	r.died("INC2", verdict.ReasonCooldown, 0)
	r.accepted("INC1", dev, 1, false)
}

// testCoolsWhileUnknown: the reset was done and its answer lost. A request that
// comes before that is known waits, and is refused then.
func testCoolsWhileUnknown(r *rig) {
	r.cfg.Policy.VerifyAfter = 2 * time.Second
	r.start()
	dev := graphsim.FaultDevice(500, 1, 1, 0x4001) // executed
	r.publish(reset("INC1", dev), nil)
	r.awaitState("INC1", record.Verifying)
	r.publish(reset("INC2", dev), nil)
	r.settled()
	r.accepted("INC1", dev, 1, true)
	r.died("INC2", verdict.ReasonCooldown, 0)
	if n := r.calls(http.MethodPost, dev); n != 1 {
		r.t.Errorf("%d calls", n)
	}
}

func testFreeAfterRefusal(r *rig) {
	r.start()
	r.publish(reset("first", graphsim.GoodDevice(0x4002)), nil)
	r.awaitState("first", record.Accepted)
	dev := graphsim.FaultDevice(409, 1, 0, 0x4002)
	r.publish(reset("INC1", dev), nil)
	r.awaitState("INC1", record.Dead)
	r.publish(reset("INC2", dev), nil)
	r.settled()
	r.accepted("INC2", dev, 1, false)
}

// testKeptAfterUnknown: nobody knows whether the device was reset, so it is kept
// for as long as it would cool down.
func testKeptAfterUnknown(r *rig) {
	r.own(graphsim.Config{Roles: []string{graphsim.RoleReset}})
	r.cfg.Cooldown = 2 * time.Second
	r.start()
	dev := graphsim.FaultDevice(500, 1, 1, 0x4003) // executed
	r.publish(reset("INC1", dev), nil)
	first := r.awaitState("INC1", record.Dead)
	if first.Reason != string(verdict.ReasonOutcomeUnknown) {
		r.t.Fatalf("%+v", first)
	}
	r.publish(reset("INC2", dev), nil)
	r.settled()
	second := r.record("INC2")
	if after := second.AttemptedAt.Sub(first.AttemptedAt); second.State != record.Accepted || after < r.cfg.Cooldown+r.cfg.Policy.RequestTimeout {
		r.t.Errorf("the second call %s after the first: %+v", after, second)
	}
}

// testCoolsAfterKill: the record and the claim of a worker that was killed in its
// call are all that is left of it.
func testCoolsAfterKill(r *rig) {
	ctx := r.t.Context()
	if _, err := topology.Setup(ctx, r.js, r.names, topology.Layout{Cooldown: 2 * time.Hour}); err != nil {
		r.t.Fatal(err)
	}
	dev := graphsim.GoodDevice(0x4004)
	sequence := r.publish(reset("INC1", dev), nil)
	s, err := r.js.Stream(ctx, r.names.Stream)
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := s.GetMsg(ctx, sequence)
	if err != nil {
		r.t.Fatal(err)
	}
	claims, err := devices.Open(ctx, r.js, r.names.DeviceBucket(), time.Hour)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := claims.Take(ctx, "default", dev, devices.Claim{Request: "default.INC1", Message: sequence, Until: time.Now().Add(time.Hour)}, devices.Claim{}); err != nil {
		r.t.Fatal(err)
	}
	records, err := record.Open(ctx, r.js, r.names.Bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	gone := record.Record{ID: "INC1", Tenant: "default", ManagedDeviceID: dev, State: record.Attempting, Attempts: 1, AttemptedAt: time.Now().UTC(),
		Stream: r.names.Stream, Sequence: sequence, ReceivedAt: m.Time, ClientRequestID: "c", Worker: "killed"}
	if _, err := records.Put(ctx, "default.INC1", gone, 0); err != nil {
		r.t.Fatal(err)
	}
	r.publish(reset("INC2", dev), nil)
	r.start()
	r.settled()
	r.accepted("INC1", dev, 2, false)
	r.died("INC2", verdict.ReasonCooldown, 0)
}

// testNoDevices: without the bucket nobody can tell which devices cool down.
func testNoDevices(r *rig) {
	r.start()
	if err := r.js.DeleteStream(r.t.Context(), "KV_"+r.names.DeviceBucket()); err != nil {
		r.t.Fatal(err)
	}
	dev := graphsim.GoodDevice(0x4005)
	r.publish(reset("INC1", dev), nil)
	r.eventually("the error in the log", func() bool {
		return strings.Contains(r.log.String(), "the request goes back to the queue") || r.sim.Resets(dev) == 1
	})
	r.settled() // the bucket is made anew, as setup may
	r.accepted("INC1", dev, 1, false)
}

// testCoolsTakenUp: a request that has died has claimed its device anew, and its
// record does not say so yet. Another request waits for it all the same.
func testCoolsTakenUp(r *rig) {
	w := newWire(r)
	r.start()
	r.publish(reset("first", graphsim.GoodDevice(0x4006)), nil)
	r.awaitState("first", record.Accepted)
	dev := graphsim.FaultDevice(409, 1, 0, 0x4006)
	r.publish(reset("INC1", dev), nil)
	r.awaitState("INC1", record.Dead)
	r.settled()
	// Lost once, the record is written a second later.
	hit := w.set(before, func(m said) bool {
		return write(`"state":"attempting"`)(r.names, m) && strings.HasSuffix(m.subject, ".INC1") && !bytes.Contains(m.data, []byte("Sequence: 0\r\n"))
	})
	r.publish(reset("INC1", dev), nil)
	<-hit
	r.publish(reset("INC2", dev), nil)
	r.settled()
	r.accepted("INC1", dev, 1, false)
	r.died("INC2", verdict.ReasonCooldown, 0)
}

// testOtherDevice: a message whose request was accepted before, for one device,
// claims no other.
func testOtherDevice(r *rig) {
	r.start()
	dev, other := graphsim.GoodDevice(0x4007), graphsim.GoodDevice(0x4008)
	r.publish(reset("INC1", dev), nil)
	r.settled()
	r.publish(reset("INC1", other), nil)
	r.settled()
	r.publish(reset("INC2", other), nil)
	r.settled()
	r.accepted("INC1", dev, 1, false)
	r.accepted("INC2", other, 1, false)
}

// testClaimLost: the claim is asked for again.
func testClaimLost(r *rig) {
	w := newWire(r)
	r.start()
	hit := w.set(before, func(m said) bool { return m.subject == "$JS.API.STREAM.MSG.GET.KV_"+r.names.DeviceBucket() })
	dev := graphsim.GoodDevice(0x4009)
	r.publish(reset("INC1", dev), nil)
	<-hit
	r.settled()
	r.accepted("INC1", dev, 1, false)
}

// TestDuplicatesBlowNoFuse: messages whose requests were accepted before make no
// call, so that the fuse counts none of their devices.
func TestDuplicatesBlowNoFuse(t *testing.T) {
	t.Parallel()
	const n, window = 3, 2 * time.Second
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Fuse = pace.Rate{N: n - 1, W: window} })
	r.start()
	publish := func(i int) { r.publish(reset("INC"+strconv.Itoa(i), graphsim.GoodDevice(i)), nil) }
	for i := range n {
		publish(i)
		r.awaitEmpty()
		<-time.After(window)
	}
	for i := range n {
		publish(i)
	}
	r.awaitEmpty()
	if strings.Contains(r.log.String(), "the fuse has blown") {
		t.Error("the fuse has blown")
	}
}

// TestUnpinCostsNoWindow: a replica that loses its pin and gets it back goes on
// with the window that it had, without reading the records; with a fuse it reads them.
func TestUnpinCostsNoWindow(t *testing.T) {
	t.Parallel()
	for name, fuse := range map[string]pace.Rate{"without a fuse": {}, "with a fuse": {N: 1000, W: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testUnpinCostsNoWindow(t, fuse)
		})
	}
}

func testUnpinCostsNoWindow(t *testing.T, fuse pace.Rate) {
	const window = 20 * time.Second
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Tenants[0].Rate, c.Fuse = pace.Rate{N: 10, W: window}, fuse })
	r.start()
	send := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			r.publish(reset("INC"+string(rune('a'+i)), graphsim.GoodDevice(i)), nil)
		}
		r.await("the resets", func() bool { return len(r.sim.Calls()) == to })
	}
	send(0, 5)
	r.awaitEmpty()
	s, err := r.js.Stream(t.Context(), r.names.Stream)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.UnpinConsumer(t.Context(), r.names.Consumer(), "worker"); err != nil {
			t.Fatal(err)
		}
	}
	reads, err := r.nc.SubscribeSync("$JS.API.CONSUMER.CREATE.KV_" + r.names.Bucket + ".>")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	send(5, 10)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the rest of the window was used after %s", took)
	}
	if err := r.nc.Flush(); err != nil { // what was asked for before has come
		t.Fatal(err)
	}
	if n, _, err := reads.Pending(); err != nil || n > 0 != (fuse.N > 0) {
		t.Errorf("the records were read %d times, %v", n, err)
	}
	send(10, 11)
	if calls := r.sim.Calls(); calls[10].Time.Sub(calls[0].Time) < window {
		t.Errorf("the eleventh call came %s after the first", calls[10].Time.Sub(calls[0].Time))
	}
}

// TestThousandWaitForADevice has a publisher store a PubAck over the key of a device,
// and ask for the device a thousand times. A good request is done meanwhile.
func TestThousandWaitForADevice(t *testing.T) {
	t.Parallel()
	const n = 1000
	r := newRig(t, graphsim.Config{}, func(c *Config) { c.Cooldown = time.Hour })
	r.start()
	dev := graphsim.GoodDevice(n)
	key := "$KV." + r.names.DeviceBucket() + ".default." + dev
	if err := r.nc.PublishMsg(&nats.Msg{Subject: r.names.Filter(), Reply: key, Data: []byte("no request")}); err != nil {
		t.Fatal(err)
	}
	r.awaitEmpty()
	for i := range n {
		if _, err := r.js.PublishMsgAsync(&nats.Msg{Subject: r.names.Filter(), Data: []byte(reset("INC"+strconv.Itoa(i), dev))}); err != nil {
			t.Fatal(err)
		}
	}
	<-r.js.PublishAsyncComplete()
	began := time.Now()
	r.publish(reset("GOOD", graphsim.GoodDevice(n+1)), nil)
	r.awaitState("GOOD", record.Accepted)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the good request took %s", took)
	}
	// What there is no place for has ended, and nothing was called for it.
	r.await("half of them to wait", func() bool { return r.waiting() == backlog.Most })
	for _, m := range r.letters() {
		if reason := m.Header.Get(deadletter.HeaderReason); reason != string(verdict.ReasonCooldown) && reason != string(verdict.ReasonInvalidRequest) {
			t.Errorf("a letter says %s", reason)
		}
	}
	if k := r.calls(http.MethodPost, dev); k != 0 {
		t.Errorf("%d calls", k)
	}
}
