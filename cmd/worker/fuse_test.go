package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"passcode-worker/internal/graph/graphsim"
	"passcode-worker/internal/record"
)

// held tells whether a worker shows that the fuse has blown.
func (p *process) held() bool {
	code, body := p.get("/readyz")
	return code == http.StatusServiceUnavailable && strings.Contains(body, `"fuse"`) && strings.Contains(body, "worker resume releases it")
}

// TestFuseAndCooldown floods two replicas, ends the one that works, and lets an
// operator release the fuse.
func TestFuseAndCooldown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	env := w.env("WORKER_FUSE", "3/1h", "WORKER_DEVICE_COOLDOWN", "1h")
	expect(t, env, exitDone, "tenant default is resumed\n", "", "resume") // nothing has blown
	first, second := launch(t, env, "run"), launch(t, env, "run")
	first.awaitReady()
	second.awaitReady()

	var flood strings.Builder
	for i := range 6 {
		fmt.Fprintln(&flood, body(fmt.Sprint("F", i), graphsim.GoodDevice(i)))
	}
	if r := pipe(t, env, flood.String(), "send", "--file", "-"); r.code != exitDone {
		t.Fatal(r.err)
	}
	await(t, "the fuse to blow", func() bool { return first.held() || second.held() })
	if second.held() {
		first, second = second, first
	}
	await(t, "three resets", func() bool { return w.sim.Status().Executed == 3 })
	const blown = `.*hold        fuse\nfuse        blown since .*; worker resume releases it\n.*`
	await(t, "worker status to show it", func() bool { return strings.Contains(runFor(t, env, "status").out, "\nfuse  ") })
	expect(t, env, exitDone, blown, "", "status")

	first.stop()
	await(t, "the other replica to hold on to it", second.held)
	again := launch(t, env, "run")
	again.awaitReady() // a standby
	second.stop()
	await(t, "the restarted one to hold on to it", again.held)
	if n := w.sim.Status().Executed; n != 3 {
		t.Errorf("%d resets while the fuse was blown, want 3", n)
	}

	expect(t, env, exitDone, "tenant default is resumed, and its fuse is released\n", "", "resume")
	w.awaitEmpty()
	again.awaitReady()
	// The state that other programs see is written after that.
	await(t, "the hold to be over", func() bool { return strings.Contains(runFor(t, env, "status").out, "\nhold        no\n") })
	r := expect(t, env, exitDone, ".*", "", "status")
	if strings.Contains(r.out, "\nfuse ") {
		t.Errorf("after the release:\n%s", r.out)
	}
	// Counting has begun anew, with the three that waited.
	expect(t, env, exitFailed, "N1\n", "worker: N1 has not ended yet; .*\n", "send", "--id", "N1", "--device", graphsim.GoodDevice(7), "--wait", "--timeout", "3s")
	await(t, "the fuse to blow again", again.held)
	expect(t, env, exitDone, "tenant default is resumed, and its fuse is released\n", "", "resume")
	w.awaitState("N1", record.Accepted)

	r = expect(t, env, exitFailed, ".*AGAIN  dead: cooldown: another request reset the device .* ago, less than 1h0m0s\n", "",
		"send", "--id", "AGAIN", "--device", graphsim.GoodDevice(7), "--wait")
	expect(t, env, exitDone, ".* cooldown .*AGAIN .*", "", "dead", "list", "--reason", "cooldown")
	expect(t, env, exitDone, "F0\nF0  was accepted before, as message \\d+: this one is a duplicate\n", "", "send", "--id", "F0", "--device", graphsim.GoodDevice(0), "--wait")
	if n := w.sim.Status().Executed; n != 7 {
		t.Errorf("%d resets, want 7\n%s", n, r.out)
	}
	again.stop()
	w.checkSim()
}

// TestResumeWithoutState has nowhere to release a fuse.
func TestResumeWithoutState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, graphsim.Config{})
	w.setUp()
	if err := w.js.DeleteKeyValue(w.ctx, names.StateBucket()); err != nil {
		t.Fatal(err)
	}
	expect(t, w.env(), exitDone, "tenant default is paused until resumed\n", "", "pause")
	expect(t, w.env(), exitFailed, "", "worker: tenant default is no longer paused\n"+
		"worker: release the fuse: bucket passcode-resets-state does not exist, .*: run worker setup, then worker resume\n", "resume")
	r := expect(t, w.env(), exitDone, ".*\npaused      no\n.*", "worker: not known: .*", "status")
	if strings.Contains(r.out, "\nhold        no\n") {
		t.Errorf("the hold is not known:\n%s", r.out)
	}
}
